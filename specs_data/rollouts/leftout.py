"""What a run left out, with its texts and pictures: for whoever wants to look at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import msgspec
import polars as pl
from msgspec import Struct
from polars import col

from specs_data.errors import UserError
from specs_data.records import Judgement, Problem, Response, Verdict
from specs_data.rollouts.frames import place_of, read_fates, read_frame, store_of
from specs_data.rollouts.store import Index, Number, Store
from specs_data.rollouts.tables import Stage
from specs_data.texts import chat

_REASONS = 20  # that an error lists
_response = msgspec.json.Decoder(Response).decode
_judgement = msgspec.json.Decoder(Judgement).decode
_verdict = msgspec.json.Decoder(Verdict).decode


class NothingLeftOut(UserError):
    """No response was left out, or none as it is asked for."""


class LeftOut(Struct, frozen=True):
    """A response that is in no pair: where it ended, why, and what decided (`detail`). `malformed` says why a wrong one
    breaks the format as well; `judgement` and `verdict` are None where it did not come so far."""

    problem: Problem
    images: tuple[bytes, ...]
    index: int
    stage: str
    reason: str
    detail: str
    malformed: str
    response: str
    judgement: Judgement | None
    verdict: Verdict | None

    @property
    def question(self) -> str:
        """What the policy was asked, choices included."""
        return chat(self.problem, None)[0].content

    def facts(self) -> Iterator[tuple[str, str]]:
        """What decided, by name."""
        yield "gold", self.problem.answer
        if self.judgement is not None:
            found, read, gold = self.judgement.answer, self.judgement.read, self.judgement.gold
            yield "found", "no answer" if found is None else found
            yield "judged", f"by {self.judgement.rule}" + (f": {read} against {gold}" if read or gold else "")
        if self.malformed:
            yield "format", f"broken as well: {self.malformed}"
        if self.verdict is not None:
            yield "verifier", self.verdict.reason
            if self.verdict.answer is not None:
                yield "concludes", self.verdict.answer


def left_out(out: Path, count: int, *, stage: str | None = None, reason: str | None = None) -> Iterator[LeftOut]:
    """`count` responses that the run in the folder `out` left out, of different reasons as far as there are; only those
    of `stage`, and those whose reason holds the words of `reason`. Raises NothingLeftOut where there are none, and
    UserError where they cannot be read."""
    fates, settings = read_fates(out)
    fates = fates.filter(col("reason").is_not_null(), col("completion_tokens").is_not_null())
    fates = fates.filter(col("reason").cast(pl.String) != "not needed")
    there = fates.group_by("stage", "reason").len().sort("len", descending=True)
    if stage is not None:
        fates = fates.filter(col("stage").cast(pl.String) == stage)
    if reason is not None:
        fates = fates.filter(col("reason").cast(pl.String).str.contains(reason, literal=True))
    if fates.is_empty():
        listed = "; ".join(f"{where}: {why} ({number:,})" for where, why, number in there.head(_REASONS).iter_rows())
        what = " of this stage and reason" if listed else ""
        has = "; it has " * bool(listed) + listed + _rows_left_out(out)
        raise NothingLeftOut(f"{out} left out no response{what}{has}")
    turn = col("index").cum_count().over("stage", "reason")
    with Store.to_read(store_of(place_of(out))) as store:
        for row in fates.with_columns(turn=turn).sort("turn", "stage", maintain_order=True).head(count).to_dicts():
            yield _read(store, settings[row["role"]], row)


def _rows_left_out(out: Path) -> str:
    """What the run left out before there was a response to it, by reason, with the first of each; empty if nothing."""
    file = place_of(out) / "dropped.jsonl"
    rows = read_frame(file.parent, "dropped").filter(col("index").is_null()) if file.exists() else pl.DataFrame()
    if rows.is_empty():
        return ""
    found = rows.group_by("stage", "reason", maintain_order=True).agg(pl.len(), col("row", "detail").first())
    told = (
        f"{stage}: {reason} ({number:,}{'' if row is None else f', first row {row}'}{detail and f' ({detail})'})"
        for stage, reason, number, row, detail in found.with_columns(col("detail").fill_null("")).iter_rows()
    )
    return f"; left out without one: {', '.join(islice(told, _REASONS))}; {file} has each"


def _read(store: Store, settings: Mapping[Stage, int], row: Mapping[str, object]) -> LeftOut:
    number, index = Number(int(str(row["number"]))), Index(int(str(row["index"])))

    def record(stage: Stage) -> bytes | None:
        found = store.get(stage, settings[stage], number, index) if stage in settings else None
        return found[1] if found else None

    problem, sample, judged, verified = (
        store.problem(number), record("samples"), record("judgements"), record("verdicts")
    )  # fmt: skip
    texts = {key: str(row[key] or "") for key in ("stage", "reason", "detail", "malformed")}
    return LeftOut(
        problem=problem,
        images=tuple(map(store.image, problem.images)),
        index=index,
        response=_response(sample).text if sample else "",
        judgement=_judgement(judged) if judged else None,
        verdict=_verdict(verified) if verified and row["verdict"] is not None else None,
        **texts,
    )
