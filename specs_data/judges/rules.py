"""Judging answers by rule: is the final answer of a response the gold answer?

Worked example:

    with RuleJudge() as judge:
        judge.judge("<think>...</think><answer>\\\\boxed{500 cm}</answer>", "5 m", "numeric")
        # Judgement(right=True, rule="unit", answer="500 cm")

What is plain (letters, numbers, units, words, lists of them) is decided here in microseconds; the
rest goes to math-verify, in a process under a time limit. The answer type is a hint: a gold that is
a plain word is compared as a word also where the type says math, and so on. What cannot be judged
(an empty or unreadable gold, an answer that took too long) has `right` None: it is never right.

The rules that decide, as named in a judgement: `exact`, `choice`, `number`, `unit`, `items`, `text`,
`math`, `no answer`; and where nothing can: `empty gold`, `unparseable gold`, `ambiguous gold`, `gold
is not a choice`, `too long`, `too large`,
`out of time`, `math-verify failed`, `needs a judge model`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Self

from msgspec import Struct

from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.judges.answers import boxes, final_answer, plain, said, without_indices
from specs_data.judges.choices import chosen_letters, fold, gold_letters
from specs_data.judges.items import Items, read_items, same_items
from specs_data.judges.numbers import Quantity, conversion, read_quantity, same_number, same_quantity, split_unit
from specs_data.judges.symbolic import Question, Reply, SymbolicJudge
from specs_data.records import AnswerType, Judgement, Problem

__all__ = ["RuleJudge", "final_answer", "gold_fault", "same_answer"]

LONGEST = 5_000
LONGEST_REMEMBERED = 200
LONGEST_TERM = 80  # that is worth computing where the gold is a plain number

_MISSING = frozenset(("nan", "null", "n/a"))
_ANSWER_TAGS = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL | re.IGNORECASE)
_WORDS = re.compile(r"(?=.*[^\W\d_]{3})[^\W\d_]+(?:[\s',.-]+[^\W\d_]+)*")
_SHORT_WORD = re.compile(r"am|an|as|at|be|by|do|go|he|if|in|is|it|me|my|no|of|ok|on|or|so|to|up|us|we", re.IGNORECASE)
_MATH_WORD = re.compile(r"\b(?:pi|sin|cos|tan|cot|sec|csc|log|exp|sqrt|inf|infinity|infty)\b", re.IGNORECASE)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}\s+[A-Za-z]{2,}(?:\s+[A-Za-z]|\s*[.,]|\s*$)")
_YES_NO = re.compile(r"(yes|no|true|false)\s*[,.;:-]", re.IGNORECASE)
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


class RuleJudge:
    """Judges answers by rule. Give it back with `close`, or use it as a context.

    `workers` processes run math-verify; they start when first needed.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._symbolic = SymbolicJudge(workers or min(4, os.cpu_count() or 1))

    def judge(
        self,
        response: str,
        gold: str,
        answer_type: AnswerType,
        choices: Sequence[str] = (),
        fmt: ResponseFormat = THINK_ANSWER,
    ) -> Judgement:
        """Judge one response. `choices` are the contents behind the letters A, B, ..., where known.
        Never raises, whatever the text; blocks for a second at most once a worker is running."""
        answer, found = _decide(response, gold, answer_type, tuple(choices), fmt)
        if isinstance(found, Question):
            found = self._symbolic.ask(found).result()
        return Judgement(found.same, found.rule, answer)

    async def ajudge(
        self,
        response: str,
        gold: str,
        answer_type: AnswerType,
        choices: Sequence[str] = (),
        fmt: ResponseFormat = THINK_ANSWER,
    ) -> Judgement:
        """`judge`, without blocking the event loop."""
        answer, found = _decide(response, gold, answer_type, tuple(choices), fmt)
        if isinstance(found, Question):
            found = await asyncio.wrap_future(self._symbolic.ask(found))
        return Judgement(found.same, found.rule, answer)

    def close(self) -> None:
        """End the processes."""
        self._symbolic.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Gold(Struct, frozen=True):
    """A gold answer, read once. `fault` names why nothing can be judged by it."""

    text: str
    rule: str = "math"
    fault: str = ""
    letters: frozenset[str] = frozenset()
    quantity: Quantity | None = None
    items: Items | None = None


def same_answer(gold: str, answer: str, answer_type: AnswerType, choices: Sequence[str] = ()) -> bool | None:
    """Do two final answers say the same? By plain rules only: None where those cannot tell."""
    found = _compare(gold, answer, answer_type, tuple(choices))
    return None if isinstance(found, Question) else found.same


def gold_fault(problem: Problem) -> str | None:
    """Why no response to `problem` can be judged by rule, whatever it answers; None if it can."""
    return _read_gold(problem.answer, problem.answer_type, problem.choices).fault or None


def _decide(
    response: str, gold: str, answer_type: AnswerType, choices: tuple[str, ...], fmt: ResponseFormat
) -> tuple[str | None, Reply | Question]:
    answer = final_answer(response, fmt)
    if answer is not None and len(answer) > LONGEST:
        return answer[:LONGEST], Reply(None, "too long")
    if len(gold) > LONGEST:
        return answer, Reply(None, "too long")
    if answer is None:
        fault = _read_gold(gold, answer_type, choices).fault
        return None, Reply(None, fault) if fault else Reply(False, "no answer")
    return answer, (_remembered if len(answer) < LONGEST_REMEMBERED else _compare)(gold, answer, answer_type, choices)


@lru_cache(maxsize=4096)
def _read_gold(gold: str, answer_type: AnswerType, choices: tuple[str, ...]) -> _Gold:
    tagged = _ANSWER_TAGS.fullmatch(gold)
    boxed = boxes(tagged[1] if tagged else gold)
    text = plain(boxed[-1][2] if boxed else tagged[1] if tagged else gold)
    if not text or text.lower() in _MISSING:
        return _Gold(text, fault="empty gold")
    if answer_type == "open":
        return _Gold(text, fault="needs a judge model")
    if answer_type == "multiple_choice":
        letters = gold_letters(text, choices)
        if not isinstance(letters, str):
            return _Gold(text, "choice", letters=letters)
        if choices:
            return _Gold(text, fault=letters)
    quantity = read_quantity(text, letters=answer_type == "numeric")
    worded = _is_worded(text) or answer_type in ("text", "multiple_choice")
    if quantity is None and answer_type == "numeric" and worded:
        return _Gold(text, fault="unparseable gold")
    if quantity is None and not worded and not _is_balanced(text):
        return _Gold(text, fault="unparseable gold")
    rule = "text" if quantity is None and worded else "math"
    return _Gold(text, rule, quantity=quantity, items=None if quantity else read_items(text))


def _compare(written: str, answer: str, answer_type: AnswerType, choices: tuple[str, ...]) -> Reply | Question:
    gold = _read_gold(written, answer_type, choices)
    if gold.fault:
        return Reply(None, gold.fault)
    if gold.rule == "choice":
        return Reply(chosen_letters(answer, choices) == gold.letters, "choice")
    if answer == gold.text:
        return Reply(True, "exact")
    answer = plain(answer)
    if answer == gold.text or without_indices(answer) == without_indices(gold.text):
        return Reply(True, "exact")
    if gold.rule == "text":
        return Reply(_same_words(gold, answer), "text")
    return _compare_math(gold, answer, answer_type)


# The responses to one problem mostly end in the same few answers.
_remembered = lru_cache(maxsize=4096)(_compare)


def _compare_math(gold: _Gold, answer: str, answer_type: AnswerType) -> Reply | Question:
    found = _read_number(answer, letters=answer_type == "numeric")
    if found and gold.quantity:
        rule = "unit" if found.unit != gold.quantity.unit else "number"
        return Reply(same_quantity(gold.quantity, found), rule)
    if found and gold.items and "," in answer:
        found = None  # of a list of values, 55,104 is two
    items = None if found else read_items(answer)
    if (items and gold.quantity) or (found and gold.items and len(gold.items.values) > 1):
        return Reply(_is_one_value(items, gold, found), "items")
    if items and gold.items:
        same = same_items(gold.items, items, _same_value)
        if same is not None:
            return Reply(same, "items")
    too_long = gold.quantity is not None and len(answer) > LONGEST_TERM
    if too_long or _PROSE.search(answer) or not _is_balanced(answer):
        return Reply(False, "number" if gold.quantity else "math")
    return _ask(gold.text, answer)


def _ask(gold: str, answer: str) -> Reply | Question:
    """What math-verify is asked: units are settled here, as it would only take them away."""
    (gold, wanted), (answer, unit) = split_unit(gold), split_unit(answer)
    if wanted and unit:
        factors = conversion(unit, wanted)
        if factors is None or factors[1]:
            return Reply(False, "unit")
        if factors[0] != 1:
            answer = f"({answer})*({factors[0]})"
    return Question(gold, answer)


def _is_one_value(items: Items | None, gold: _Gold, found: Quantity | None) -> bool:
    """Several values that are all the same one: `4 or 4`, `{4}`."""
    values = [read_quantity(value) for value in (items or gold.items or Items("", ())).values]
    if items and gold.quantity:
        return items.brackets in ("", "{}") and all(value and same_quantity(gold.quantity, value) for value in values)
    return all(value and found and same_quantity(value, found) for value in values)


def _same_value(gold: str, answer: str) -> bool | None:
    number, other = read_quantity(gold), read_quantity(answer)
    if number and other:
        return same_quantity(number, other)
    if fold(gold) == fold(answer) and fold(gold):
        return True
    return None


def _same_words(gold: _Gold, answer: str) -> bool:
    wanted = fold(gold.text)
    if fold(answer) == wanted and wanted:
        return True
    items = read_items(answer) if gold.items else None
    if gold.items and items:
        return bool(same_items(gold.items, items, _same_value))
    yes_no = _YES_NO.match(answer)
    if yes_no and yes_no[1].lower() == wanted:
        return _OPPOSITES[wanted] not in answer[yes_no.end() :].lower().split()
    stated = said(answer)
    return stated is not None and fold(stated) == wanted


def _read_number(answer: str, letters: bool) -> Quantity | None:
    """The number that an answer is, or that its one sentence says: `There are 5 blocks`, `3 + 9 = 12`."""
    found = read_quantity(answer, letters)
    if found is None:
        stated = said(answer)
        found = read_quantity(stated, letters) if stated else _computed(answer)
    return found


def _computed(answer: str) -> Quantity | None:
    """The result of plain arithmetic that is right: 12 of 3 + 9 = 12, nothing of 3 + 9 = 13."""
    *steps, result = (read_quantity(side) for side in answer.split("=", maxsplit=8))
    if not steps or not result or not all(step and not step.unit and not step.name for step in steps):
        return None
    return result if all(step and (same_number(result, step) or same_number(step, result)) for step in steps) else None


def _is_worded(text: str) -> bool:
    """Is this a word or phrase, and no mathematics?"""
    if _SHORT_WORD.fullmatch(text):
        return True
    return bool(_WORDS.fullmatch(text)) and not _MATH_WORD.search(text)


def _is_balanced(text: str) -> bool:
    depth = 0
    for mark in text.replace("\\{", "").replace("\\}", ""):
        depth += (mark == "{") - (mark == "}")
        if depth < 0:
            return False
    return depth == 0 and any(mark.isalnum() for mark in text)
