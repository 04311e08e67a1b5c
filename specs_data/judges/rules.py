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
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from types import TracebackType
from typing import Self

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.judges.answers import final_answer, plain, said, unboxed, without_indices
from specs_data.judges.choices import contents, gold_letters, read_choice
from specs_data.judges.numbers import Quantity
from specs_data.judges.symbolic import Question, Reply, SymbolicJudge
from specs_data.judges.units import conversion, read_unit
from specs_data.judges.values import (
    Digits,
    Formula,
    Meaning,
    Value,
    Words,
    formula_text,
    is_structured,
    read_plain,
    read_value,
    reasoned,
    same_value,
    shown,
)
from specs_data.records import AnswerType, Judgement, Policy, Problem

__all__ = ["RuleJudge", "final_answer", "gold_fault", "same_answer"]

LONGEST = 5_000
LONGEST_REMEMBERED = 200
LONGEST_TERM = 80  # that is worth computing where the gold is a plain number

_MISSING = frozenset(("nan", "null", "n/a"))
_ANSWER_TAGS = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL | re.IGNORECASE)
_SPELLED_WORD = re.compile(r"(?<![\\A-Za-z])(?!sin|cos|tan|cot|log|exp|sqrt|arc)[A-Za-z]{3,}")
_LETTER = re.compile(r"\b[A-Z]\b")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}\s+[A-Za-z]{2,}(?:\s+[A-Za-z]|\s*[.,]|\s*$)")
_WORD = re.compile(
    r"(?<![\\A-Za-z])(?!sqrt|sinh|cosh|tanh|arc|inf|theta|alpha|beta|gamma|delta|sigma|omega|lambda|frac)[a-z]{4,}"
)


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
        policy: Policy | UnsetType = UNSET,
    ) -> Judgement:
        """Judge one response. `choices` are the contents behind the letters A, B, ..., where known; `policy` is how
        the source wants numbers compared. Never raises, whatever the text; blocks for a second at most once a worker
        is running."""
        verdict = _decide(response, fmt, _Asked(gold, answer_type, tuple(choices), policy))
        found = verdict.found
        return verdict.told(self._symbolic.ask(found).result() if isinstance(found, Question) else found)

    async def ajudge(
        self,
        response: str,
        gold: str,
        answer_type: AnswerType,
        choices: Sequence[str] = (),
        fmt: ResponseFormat = THINK_ANSWER,
        policy: Policy | UnsetType = UNSET,
    ) -> Judgement:
        """`judge`, without blocking the event loop."""
        verdict = _decide(response, fmt, _Asked(gold, answer_type, tuple(choices), policy))
        found = verdict.found
        if isinstance(found, Question):
            found = await asyncio.wrap_future(self._symbolic.ask(found))
        return verdict.told(found)

    def close(self) -> None:
        """End the processes."""
        self._symbolic.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Asked(Struct, frozen=True):
    """What a response is judged by."""

    gold: str
    type: AnswerType
    choices: tuple[str, ...] = ()
    policy: Policy | UnsetType = UNSET


class _Gold(Struct, frozen=True):
    """A gold answer, read once: the letters of a choice, or a value. `fault` names why nothing can be judged by it."""

    text: str
    rule: str = "math"
    fault: str = ""
    letters: frozenset[str] = frozenset()
    value: Value = Words("")


class _Verdict(Struct, frozen=True):
    """What was found, or what to ask of math-verify; and the values that were read in the gold and in the answer."""

    found: Reply | Question
    gold: str = ""
    read: str = ""
    answer: str | None = None

    def told(self, reply: Reply) -> Judgement:
        """The judgement, where `reply` is what was found in the end."""
        return Judgement(reply.same, reply.rule, self.answer, gold=self.gold, read=self.read)


def same_answer(gold: str, answer: str, answer_type: AnswerType, choices: Sequence[str] = ()) -> bool | None:
    """Do two final answers say the same? By plain rules only: None where those cannot tell."""
    found = _compare(answer, _Asked(gold, answer_type, tuple(choices))).found
    return None if isinstance(found, Question) else found.same


def gold_fault(problem: Problem) -> str | None:
    """Why no response to `problem` can be judged by rule, whatever it answers; None if it can."""
    return _read_gold(_Asked(problem.answer, problem.answer_type, problem.choices)).fault or None


def _decide(response: str, fmt: ResponseFormat, asked: _Asked) -> _Verdict:
    answer = final_answer(response, fmt)
    if len(answer or "") > LONGEST or len(asked.gold) > LONGEST:
        return _Verdict(Reply(None, "too long"), answer=answer and answer[:LONGEST])
    if answer is None:
        fault = _read_gold(asked).fault
        return _Verdict(Reply(None, fault) if fault else Reply(False, "no answer"))
    return (_remembered if len(answer) < LONGEST_REMEMBERED else _compare)(answer, asked)


@lru_cache(maxsize=4096)
def _read_gold(asked: _Asked) -> _Gold:
    tagged = _ANSWER_TAGS.fullmatch(asked.gold)
    text = plain(unboxed(tagged[1] if tagged else asked.gold))
    if not text or text.lower() in _MISSING:
        return _Gold(text, fault="empty gold")
    if asked.type == "open":
        return _Gold(text, fault="needs a judge model")
    if asked.type == "multiple_choice":
        letters = gold_letters(text, asked.choices)
        if not isinstance(letters, str):
            return _Gold(text, "choice", letters=letters)
        if asked.choices:
            return _Gold(text, fault=letters)
    value = read_plain(text, letters=asked.type == "numeric")
    if asked.policy and isinstance(value, Quantity):
        unit = value.unit or read_unit(f" {asked.policy.unit}") or ""
        value = replace(value, unit=unit, asked=asked.policy.precision, within=Fraction(asked.policy.tolerance))
    worded = isinstance(value, Words) or (asked.type in ("text", "multiple_choice") and not is_structured(value))
    if (asked.type == "numeric" and worded) or (isinstance(value, Formula) and not worded and not _is_balanced(text)):
        return _Gold(text, fault="unparseable gold")
    if isinstance(value, Digits) and value.kind == "ratio" and asked.type == "text":
        value = replace(value, kind="scale")
    return _Gold(text, "text" if worded else "math", value=value)


def _compare(answer: str, asked: _Asked) -> _Verdict:
    gold = _read_gold(asked)
    if gold.fault:
        return _Verdict(Reply(None, gold.fault), answer=answer)
    if gold.letters:
        return _compare_choice(gold, answer, asked.choices)
    text, letters = plain(answer), asked.type == "numeric"
    value = read_plain(text, letters)
    if text == gold.text or without_indices(text) == without_indices(gold.text):
        return _Verdict(Reply(True, "exact"), shown(gold.value), shown(value), answer)
    found = _compare_values(gold, value, text)
    settled = is_structured(value) or (isinstance(found, Reply) and found.same)
    if not settled and (stated := said(text)) is not None:
        value = read_value(stated, letters)
        found = _compare_values(gold, value, stated)
    return _Verdict(found, shown(gold.value), shown(value), answer)


def _compare_choice(gold: _Gold, answer: str, choices: tuple[str, ...]) -> _Verdict:
    """By letter and content; a formula without a letter may be the content in another form."""
    chosen = read_choice(answer, choices)
    content = contents(choices).get(min(gold.letters), "") if not chosen.letters and len(gold.letters) == 1 else ""
    is_formula = content and all(isinstance(read_value(text), Formula) for text in (content, answer))
    if is_formula and set(_LETTER.findall(answer)) <= set(_LETTER.findall(content)):
        return _compare(answer, _Asked(content, "math"))
    found = Reply(chosen.letters == gold.letters, "choice")
    return _Verdict(found, ", ".join(sorted(gold.letters)), chosen.said, answer)


# The responses to one problem mostly end in the same few answers.
_remembered = lru_cache(maxsize=4096)(_compare)


def _compare_values(gold: _Gold, value: Value, text: str) -> Reply | Question:
    wanted = gold.value
    if isinstance(wanted, Meaning) and not is_structured(value):
        value = reasoned(text) or value
    same = same_value(wanted, value)
    if same is not None:
        return Reply(same, _rule(wanted, value))
    if gold.rule == "text":
        return Reply(False, "text")
    too_long = isinstance(wanted, Quantity) and len(text) > LONGEST_TERM
    prose = _PROSE.search(text) or (_WORD.search(text) and not _WORD.search(gold.text))
    prose = prose or (isinstance(wanted, Quantity) and _SPELLED_WORD.search(text))  # n * o * t * 0 is 0
    if too_long or prose or not _is_balanced(text):
        return Reply(False, "number" if isinstance(wanted, Quantity) else "math")
    return _ask(gold.text, wanted, value, text)


def _rule(gold: Value, value: Value) -> str:
    if isinstance(gold, Quantity) and isinstance(value, Quantity):
        return "unit" if value.unit != gold.unit else "number"
    if isinstance(gold, Words | Meaning):
        return "text"
    return "items" if is_structured(gold) and is_structured(value) else "math"


def _ask(gold: str, wanted: Value, value: Value, text: str) -> Reply | Question:
    """What math-verify is asked: units are settled here, as it would only take them away."""
    if not isinstance(wanted, Formula | Quantity) or not isinstance(value, Formula | Quantity):
        return Question(gold, text)
    if not wanted.unit or not value.unit or wanted.unit == value.unit:
        return Question(gold, text)
    factors = conversion(value.unit, wanted.unit)
    if factors is None or factors[1]:
        return Reply(False, "unit")
    return Question(formula_text(wanted), f"({formula_text(value)})*({factors[0]})")


def _is_balanced(text: str) -> bool:
    marks = text.replace("\\{", "").replace("\\}", "")
    depths = [0, *accumulate((mark == "{") - (mark == "}") for mark in marks)]
    return min(depths) == depths[-1] == 0 and any(mark.isalnum() for mark in text)
