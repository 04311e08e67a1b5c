"""Judging a file: a verdict per response, and the rule that decided."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, get_args

import msgspec

from specs_data.files import response_rows
from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.judges.rules import RuleJudge
from specs_data.loop import run
from specs_data.records import AnswerType, Judgement, Policy

COLUMNS = ("response", "gold", "type")
_AT_ONCE = 256


class Tally(msgspec.Struct, frozen=True):
    """How many rows were right, wrong, and not to be judged."""

    right: int
    wrong: int
    unjudged: int


class _Row(msgspec.Struct, frozen=True):
    response: str
    gold: str
    type: AnswerType
    choices: tuple[str, ...]
    policy: Policy


def judge_file(file: Path, out: IO[bytes], fmt: ResponseFormat = THINK_ANSWER) -> Tally:
    """Judge each row of the JSONL or Parquet `file` and write one line of JSON per row, in order.

    Rows have `response`, `gold`, `type` (an answer type) and optionally `choices`, `id`, and how numbers are compared
    (`precision`, `unit`, `tolerance`: see records.Policy); the lines
    have `row` (from 0), `id` where the row has one, `right` (true, false, or null where it cannot be
    judged), `rule` (what decided, or why nothing could), `answer` (the final answer found), and
    `gold_read` and `answer_read` (the two values that were compared). A bad row gets a line that says
    so. Raises UserError if the file cannot be read or lacks a column.
    """
    rows = response_rows(file, COLUMNS)
    counts = {True: 0, False: 0, None: 0}
    encode = msgspec.json.Encoder().encode
    with RuleJudge() as judge:
        for number, (row, judgement) in enumerate(_judgements(rows, judge, fmt)):
            counts[judgement.right] += 1
            name = {"id": row["id"]} if isinstance(row, dict) and "id" in row else {}
            verdict = {"right": judgement.right, "rule": judgement.rule, "answer": judgement.answer}
            verdict |= {"gold_read": judgement.gold, "answer_read": judgement.read}
            out.write(encode({"row": number, **name, **verdict}) + b"\n")
    return Tally(counts[True], counts[False], counts[None])


def _judgements(
    rows: Iterator[dict[str, Any] | str], judge: RuleJudge, fmt: ResponseFormat
) -> Iterator[tuple[dict[str, Any] | str, Judgement]]:
    """Each row with its judgement. Many are judged at once, to keep the judge's processes busy."""

    async def judge_row(row: dict[str, Any] | str) -> Judgement:
        read = row if isinstance(row, str) else _read(row)
        if isinstance(read, str):
            return Judgement(None, f"bad row: {read}")
        return await judge.ajudge(read.response, read.gold, read.type, read.choices, fmt, read.policy)

    async def judge_rows(rows: list[dict[str, Any] | str]) -> list[Judgement]:
        return await asyncio.gather(*map(judge_row, rows))

    while some := list(islice(rows, _AT_ONCE)):
        yield from zip(some, run(judge_rows(some)), strict=True)


def _read(row: dict[str, Any]) -> _Row | str:
    """The row, or what is wrong with it. A gold may be a number."""
    response, gold, choices = row.get("response"), row.get("gold"), row.get("choices")
    kind: Any = row.get("type")
    if not isinstance(response, str):
        return "response is not text"
    if gold is not None and (isinstance(gold, bool) or not isinstance(gold, (str, int, float))):
        return "gold is not text or a number"
    if kind not in get_args(AnswerType):
        return f"type is not one of {', '.join(get_args(AnswerType))}"
    if choices is not None and not (
        isinstance(choices, list) and all(isinstance(c, (str, int, float)) for c in choices)
    ):
        return "choices are not a list of texts"
    asked = {field: row[field] for field in Policy.__struct_fields__ if row.get(field) is not None}
    try:
        policy = msgspec.convert(asked, Policy, strict=False)
    except msgspec.ValidationError as error:
        return str(error)
    return _Row(response, "" if gold is None else str(gold), kind, tuple(map(str, choices or ())), policy)
