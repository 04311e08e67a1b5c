"""Is a preference dataset format-only? Proved row by row, for our datasets and others'.

A row is format-only if its chosen response passes the format and its rejected one fails it, and both
give the gold answer. Where the rejected was made from the chosen, the text without markers and
answer labels, white space folded, must be the same as well. DPO on such rows can learn the format
and nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast, get_args

from msgspec import UNSET, Struct
from msgspec.structs import replace

from specs_data.errors import UserError
from specs_data.format import ResponseFormat
from specs_data.inert import one_line
from specs_data.judges.choices import listed_choices, read_letters
from specs_data.judges.rules import RuleJudge, final_answer
from specs_data.pairs.manifest import Manifest, Sides
from specs_data.pairs.rows import Dataset, open_dataset, try_rows
from specs_data.pairs.sides import SidesTally, format_of, what_it_is
from specs_data.records import AnswerType, Pair, Policy

_LISTED = 100  # failing rows that a result holds; all are counted


class Failure(Struct, frozen=True):
    """A row that is not format-only. `row` counts from 0 within its split."""

    split: str
    row: int
    id: str
    reasons: tuple[str, ...]


class CheckResult(Struct, frozen=True):
    """What a check found. `failures` are the first hundred of `failed` rows, `reasons` counts every
    reason in all rows, `notes` say what could not be checked, and how the dataset differs, and `sides` what the two
    sides are to each other."""

    rows: int
    failed: int
    failures: tuple[Failure, ...]
    reasons: dict[str, int]
    notes: tuple[str, ...]
    sides: Sides = Sides()

    @property
    def ok(self) -> bool:
        """Whether every row is format-only."""
        return self.failed == 0

    def __str__(self) -> str:
        lines = [
            f"{self.rows:,} rows, each of them format-only"
            if self.ok
            else f"{self.failed:,} of {self.rows:,} rows are not format-only"
        ]
        lines += [f"  {count:,} x {reason}" for reason, count in self.reasons.items()]
        lines += [
            f"  {failure.split} row {failure.row}{name}: {'; '.join(failure.reasons)}"
            for failure in self.failures
            for name in [f" ({one_line(failure.id, 40)})" if failure.id else ""]
        ]
        if self.failed > len(self.failures):
            lines.append(f"  ... and {self.failed - len(self.failures):,} more")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def check(path: str | Path, fmt: ResponseFormat | None = None, columns: Mapping[str, str] | None = None) -> CheckResult:
    """Check the dataset at `path`: a run, a folder, a Parquet or JSONL file, or a Hub dataset id.

    `fmt` is the format it teaches; by default the one in its manifest, else think-answer.
    `columns` names the dataset's own columns for ours: prompt, chosen, rejected, answer,
    answer_type. Rows without a gold answer must give the same answer twice; a row that cannot be read
    fails. Memory holds a few rows at a time. Raises UserError.
    """
    dataset = open_dataset(path)
    fmt = fmt or _format_of(dataset)
    tally = _Tally(SidesTally(fmt))
    with RuleJudge() as judge:
        for split in dataset.splits:
            for number, pair in enumerate(try_rows(dataset, split, columns=columns, pictures=False)):
                if isinstance(pair, str):
                    tally.add(split, number, "", (pair,))
                else:
                    tally.add(split, number, pair.id, tuple(_faults(pair, fmt, judge, tally)))
    if not tally.rows:
        raise UserError(f"{path} has no rows, so there is nothing to check")
    return tally.result(dataset.manifest or Manifest(), fmt)


# Tokens by which templates begin and end turns: a trainer would read them as such.
_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|end_of_text|begin_of_text|start_header_id|end_header_id|eot_id|eom_id|end|"
    r"user|assistant|system|return|vision_start|vision_end|image_pad|video_pad)\|>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<\uff5c[^<>\uff5c]{1,40}\uff5c>"
)

_DECIMAL = re.compile(r"-?\d+\.(\d+)")


class _Tally:
    """What is counted on the way."""

    def __init__(self, sides: SidesTally) -> None:
        self.rows = self.failed = 0
        self.sides = sides
        self.failures: list[Failure] = []
        self.reasons: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    def add(self, split: str, number: int, name: str, faults: tuple[str, ...]) -> None:
        self.rows += 1
        if not faults:
            return
        self.failed += 1
        self.reasons.update(faults)
        if len(self.failures) < _LISTED:
            self.failures.append(Failure(split, number, name, faults))

    def result(self, manifest: Manifest, fmt: ResponseFormat) -> CheckResult:
        sides = self.sides.told()
        notes = [*_notes(self.seen, manifest.setting("pairing"), fmt), *what_it_is(replace(manifest, sides=sides))]
        return CheckResult(
            self.rows,
            self.failed,
            tuple(self.failures),
            dict(self.reasons.most_common()),
            tuple(notes),
            sides,
        )


def _faults(pair: Pair, fmt: ResponseFormat, judge: RuleJudge, tally: _Tally) -> Iterator[str]:
    """Why a row is not format-only."""
    control = _CONTROL.search(pair.chosen)
    if control is not None:
        yield f"chosen has a control token of chat templates in it: {one_line(control[0], 40)}"
    broken = fmt.check(pair.chosen)
    if broken is not None:
        yield f"chosen breaks the format: {broken}"
    if fmt.check(pair.rejected) is None:
        yield "rejected keeps the format"
    if pair.turns_before[0] != pair.turns_before[1]:
        yield "chosen and rejected part ways before their last turn"
    if not tally.sides.see(pair) and pair.rejected_from == "chosen":
        yield "rejected was made from chosen but says something else"
    yield from _answer_faults(pair, fmt, judge, tally)


def _answer_faults(pair: Pair, fmt: ResponseFormat, judge: RuleJudge, tally: _Tally) -> Iterator[str]:
    chosen, rejected = final_answer(pair.chosen, fmt), final_answer(pair.rejected, fmt)
    if chosen is None:
        yield "chosen gives no answer"
        return
    if rejected is None:
        yield "rejected gives no answer"
        return
    if not pair.answer:
        tally.seen["no gold"] += 1
        if chosen != rejected and _is_right(pair, pair.rejected, chosen, fmt, judge) is not True:
            yield "chosen and rejected give different answers"
        return
    right = _is_right(pair, pair.chosen, pair.answer, fmt, judge)
    if right is None:
        tally.seen["not judged"] += 1
        if chosen != rejected and _is_right(pair, pair.rejected, chosen, fmt, judge) is not True:
            yield "chosen and rejected give different answers"
        return
    if not right:
        yield "chosen does not give the gold answer"
    also = right if chosen == rejected else _is_right(pair, pair.rejected, pair.answer, fmt, judge)
    if not also:
        yield "rejected does not give the gold answer"


def _is_right(pair: Pair, response: str, gold: str, fmt: ResponseFormat, judge: RuleJudge) -> bool | None:
    """Whether `response` gives `gold`; None where rules cannot say. A row does not say to how many places its source
    rounds: to those that the gold shows."""
    kind = _answer_type(pair, gold)
    choices = listed_choices(pair.question) if kind == "multiple_choice" else ()
    policy = Policy(precision=len(decimals[1])) if (decimals := _DECIMAL.fullmatch(gold)) else UNSET
    right = judge.judge(response, gold, kind, choices, fmt, policy).right
    if right is None and choices:
        right = judge.judge(response, gold, kind, (), fmt, policy).right
    if (
        not right
        and kind == "multiple_choice"
        and not choices
        and not read_letters(final_answer(response, fmt) or "").letters
    ):
        return None  # an answer in words to choices that the row does not list
    return right


def _answer_type(pair: Pair, gold: str) -> AnswerType:
    if pair.answer_type in get_args(AnswerType):
        return cast(AnswerType, pair.answer_type)
    return "multiple_choice" if re.fullmatch(r"\(?[A-Z]\)?", gold.strip()) else "math"


def _format_of(dataset: Dataset) -> ResponseFormat:
    fmt = format_of(dataset.manifest or Manifest())
    if fmt is None:
        raise UserError(f"the manifest of {dataset.root} holds no valid response format; give --format")
    return fmt


def _notes(seen: Mapping[str, int], pairing: str | None, fmt: ResponseFormat) -> Iterator[str]:
    yield f"checked against the response format {fmt.name!r}"
    if pairing == "coupled":
        yield (
            "this dataset is coupled on purpose: its rejected responses are wrong and malformed, so it teaches "
            "answers along with the format and is not format-only"
        )
    if seen.get("no gold"):
        yield f"{seen['no gold']:,} rows have no gold answer: checked only that both sides give the same answer"
    if seen.get("not judged"):
        yield (
            f"{seen['not judged']:,} gold answers cannot be judged by rule: checked only that both sides give the "
            "same answer"
        )
