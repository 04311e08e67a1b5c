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
from types import TracebackType
from typing import Self

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.judges.answers import final_answer, plain, said, unboxed, without_indices
from specs_data.judges.choices import content_of, gold_letters, read_choice
from specs_data.judges.numbers import Quantity
from specs_data.judges.symbolic import Question, Reply, SymbolicJudge
from specs_data.judges.units import conversion, read_unit
from specs_data.judges.values import (
    Digits,
    Formula,
    Meaning,
    Range,
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
        """Judge one response. `choices` are the contents behind the letters A, B, ..., where known.
        `policy` is how the source wants
        numbers compared. Never raises, whatever the text; blocks for a second at most once a worker is running."""
        answer, verdict = _decide(response, gold, answer_type, tuple(choices), fmt, policy)
        found = verdict.found
        if isinstance(found, Question):
            found = self._symbolic.ask(found).result()
        return Judgement(found.same, found.rule, answer, gold=verdict.gold, read=verdict.read)

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
        answer, verdict = _decide(response, gold, answer_type, tuple(choices), fmt, policy)
        found = verdict.found
        if isinstance(found, Question):
            found = await asyncio.wrap_future(self._symbolic.ask(found))
        return Judgement(found.same, found.rule, answer, gold=verdict.gold, read=verdict.read)

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
    """A gold answer, read once. `fault` names why nothing can be judged by it. Of a `literal` one, as of a scale
    1:100 in a text, each term counts."""

    text: str
    rule: str = "math"
    fault: str = ""
    letters: frozenset[str] = frozenset()
    value: Value | None = None
    literal: bool = False


class _Verdict(Struct, frozen=True):
    """What was found, or what to ask of math-verify; and the values that were read in the gold and in the answer."""

    found: Reply | Question
    gold: str = ""
    read: str = ""


def same_answer(gold: str, answer: str, answer_type: AnswerType, choices: Sequence[str] = ()) -> bool | None:
    """Do two final answers say the same? By plain rules only: None where those cannot tell."""
    found = _compare(gold, answer, answer_type, tuple(choices)).found
    return None if isinstance(found, Question) else found.same


def gold_fault(problem: Problem) -> str | None:
    """Why no response to `problem` can be judged by rule, whatever it answers; None if it can."""
    return _read_gold(problem.answer, problem.answer_type, problem.choices).fault or None


def _decide(
    response: str,
    gold: str,
    answer_type: AnswerType,
    choices: tuple[str, ...],
    fmt: ResponseFormat,
    policy: Policy | UnsetType,
) -> tuple[str | None, _Verdict]:
    answer = final_answer(response, fmt)
    if answer is not None and len(answer) > LONGEST:
        return answer[:LONGEST], _Verdict(Reply(None, "too long"))
    if len(gold) > LONGEST:
        return answer, _Verdict(Reply(None, "too long"))
    if answer is None:
        fault = _read_gold(gold, answer_type, choices).fault
        return None, _Verdict(Reply(None, fault) if fault else Reply(False, "no answer"))
    return answer, (_remembered if len(answer) < LONGEST_REMEMBERED else _compare)(
        gold, answer, answer_type, choices, policy
    )


@lru_cache(maxsize=4096)
def _read_gold(
    gold: str, answer_type: AnswerType, choices: tuple[str, ...], policy: Policy | UnsetType = UNSET
) -> _Gold:
    tagged = _ANSWER_TAGS.fullmatch(gold)
    text = plain(unboxed(tagged[1] if tagged else gold))
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
    value = read_plain(text, letters=answer_type == "numeric")
    if policy and isinstance(value, Quantity):
        unit = value.unit or read_unit(f" {policy.unit}") or ""
        value = replace(value, unit=unit, asked=policy.precision, within=Fraction(policy.tolerance))
    worded = isinstance(value, Words) or (answer_type in ("text", "multiple_choice") and not is_structured(value))
    if answer_type == "numeric" and worded:
        return _Gold(text, fault="unparseable gold")
    if isinstance(value, Formula) and not worded and not _is_balanced(text):
        return _Gold(text, fault="unparseable gold")
    return _Gold(text, "text" if worded else "math", value=value, literal=answer_type == "text")


def _compare(
    written: str,
    answer: str,
    answer_type: AnswerType,
    choices: tuple[str, ...],
    policy: Policy | UnsetType = UNSET,
) -> _Verdict:
    gold = _read_gold(written, answer_type, choices, policy)
    if gold.fault:
        return _Verdict(Reply(None, gold.fault))
    if gold.value is None:
        return _compare_choice(gold, answer, choices)
    answer = plain(answer)
    letters = answer_type == "numeric"
    if answer == gold.text or without_indices(answer) == without_indices(gold.text):
        return _verdict(gold.value, read_plain(answer, letters), Reply(True, "exact"))
    value = read_plain(answer, letters)
    verdict = _verdict(gold.value, value, _compare_values(gold, gold.value, value, answer))
    stated = None if is_structured(value) else said(answer)
    if stated is None or (isinstance(verdict.found, Reply) and verdict.found.same):
        return verdict
    value = read_value(stated, letters)
    return _verdict(gold.value, value, _compare_values(gold, gold.value, value, stated))


def _compare_choice(gold: _Gold, answer: str, choices: tuple[str, ...]) -> _Verdict:
    """By letter and content; a formula without a letter may be the content in another form."""
    chosen = read_choice(answer, choices)
    content = content_of(min(gold.letters), choices) if chosen.letters is None and len(gold.letters) == 1 else ""
    is_formula = content and all(isinstance(read_value(text), Formula) for text in (content, answer))
    if is_formula and set(_LETTER.findall(answer)) <= set(_LETTER.findall(content)):
        return _compare(content, answer, "math", ())
    return _Verdict(Reply(chosen.letters == gold.letters, "choice"), ", ".join(sorted(gold.letters)), chosen.said)


def _verdict(gold: Value, value: Value, found: Reply | Question) -> _Verdict:
    return _Verdict(found, shown(gold), shown(value))


# The responses to one problem mostly end in the same few answers.
_remembered = lru_cache(maxsize=4096)(_compare)


def _compare_values(gold: _Gold, wanted: Value, value: Value, text: str) -> Reply | Question:
    if isinstance(wanted, Meaning) and not is_structured(value):
        value = reasoned(text) or value
    if gold.literal and isinstance(wanted, Digits) and wanted.kind == "ratio":
        return Reply(
            wanted == value or (isinstance(value, Range) and bool(same_value(wanted, value, _not_here))), "text"
        )
    same = same_value(wanted, value, _not_here)
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


def _not_here(_gold: Formula, _answer: Formula) -> None:
    """Formulas are compared in a process of their own."""


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
    depth = 0
    for mark in text.replace("\\{", "").replace("\\}", ""):
        depth += (mark == "{") - (mark == "}")
        if depth < 0:
            return False
    return depth == 0 and any(mark.isalnum() for mark in text)
