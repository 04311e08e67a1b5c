"""From what became of responses to the figures of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from msgspec import Struct
from polars import col

from specs_data.measure.estimate import Estimate, estimate, ks, pass_at_k
from specs_data.measure.evaluation import FormatSlice, Lengths, Rbf, Slice
from specs_data.records import Nuclei

SIZES = (120, 240, 480)  # responses over which the paper gives its Rollout Branching Factor

_SCHEMA = {
    "problem": pl.Int64(),
    "index": pl.Int64(),
    "type": pl.String(),
    "source": pl.String(),
    "formed": pl.Boolean(),
    "right": pl.Boolean(),
    "consistent": pl.Boolean(),
    "tokens": pl.Int64(),
    "cut": pl.Boolean(),
    "error": pl.String(),
    "nuclei": pl.Int64(),
    "sizes": pl.Int64(),
    "beyond": pl.Int64(),
}


class Seen(Struct, frozen=True):
    """What became of one response to a `problem`, told by a number. `right` and `consistent` are None where nobody
    judged; `error` is the class of its format error."""

    problem: int
    index: int
    type: str
    source: str
    right: bool | None
    consistent: bool | None
    tokens: int
    cut: bool
    error: str | None
    nuclei: Nuclei | None


def frame(seen: Sequence[Seen]) -> pl.DataFrame:
    """The responses as a frame, a row each."""
    return pl.DataFrame(list(map(_row, seen)), schema=_SCHEMA, orient="row")


def _row(one: Seen) -> tuple[Any, ...]:
    nuclei = one.nuclei
    counted = (nuclei.tokens, nuclei.sizes, nuclei.beyond) if nuclei else (None, None, None)
    return (
        one.problem,
        one.index,
        one.type,
        one.source,
        one.error is None,
        one.right,
        one.consistent,
        one.tokens,
        one.cut,
        one.error,
        *counted,
    )


def format_slice(rows: pl.DataFrame, p: float, temperature: float, reason: str) -> FormatSlice:
    """The figures of the responses in one format. `reason` says why they have no nuclei, where they have none."""
    plain = part(rows)
    errors = (
        rows.filter(col("error").is_not_null()).group_by("error").len().sort(["len", "error"], descending=[True, False])
    )
    verdicts = _by_problem(rows, "consistent")
    return FormatSlice(
        **{name: getattr(plain, name) for name in Slice.__struct_fields__},
        rbf=branching(rows, p, temperature, reason),
        consistency=estimate(verdicts["true"].to_numpy(), verdicts["known"].to_numpy()),
        lengths=_lengths(rows),
        format_errors=dict(errors.iter_rows()),
        unjudged=rows["right"].null_count(),
    )


def slices(rows: pl.DataFrame, column: str) -> dict[str, Slice]:
    """The figures by the values of a column, the most frequent first."""
    names = rows.group_by(column).len().sort(["len", column], descending=[True, False])[column]
    return {name or "(none)": part(rows.filter(col(column) == name)) for name in names}


def part(rows: pl.DataFrame) -> Slice:
    """The figures of some responses."""
    formed, right = _by_problem(rows, "formed"), _by_problem(rows, "right")
    samples, rights = right["known"].to_numpy(), right["true"].to_numpy()
    passed = {str(k): found for k in ks(int(samples.max(initial=0))) if (found := _pass_at(samples, rights, k))}
    ends = {k: (found.low, found.high) for k, found in passed.items()}
    return Slice(
        n=len(formed),
        format=estimate(formed["true"].to_numpy(), formed["known"].to_numpy()),
        accuracy=estimate(rights, samples),
        pass_at={k: found.value for k, found in passed.items()},
        pass_at_interval={k: (low, high) for k, (low, high) in ends.items() if low is not None and high is not None},
    )


def branching(rows: pl.DataFrame, p: float, temperature: float, reason: str) -> Rbf:
    """The Rollout Branching Factor of some responses."""
    told = rows.filter(col("nuclei") > 0).sort("index", "problem")
    if told.is_empty():
        return Rbf(p=p, temperature=temperature, reason=reason)
    sums = told.group_by("problem", maintain_order=True).agg(col("sizes", "nuclei", "beyond").sum())
    value = estimate(sums["sizes"].to_numpy(), sums["nuclei"].to_numpy(), share=False)
    tokens = int(sums["nuclei"].sum())
    sizes = {str(size): _mean_size(told.head(size)) for size in SIZES if size <= len(told)}
    return Rbf(
        value=value.value if value else None,
        low=value.low if value else None,
        high=value.high if value else None,
        p=p,
        temperature=temperature,
        tokens=tokens,
        beyond=int(sums["beyond"].sum()) / tokens,
        by_size=sizes,
    )


def _mean_size(rows: pl.DataFrame) -> float:
    return int(rows["sizes"].sum()) / int(rows["nuclei"].sum())


def _by_problem(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """Per problem how many responses have the column `true`, and of how many it is `known`."""
    found = rows.group_by("problem", maintain_order=True)
    return found.agg(true=col(column).sum().cast(pl.Int64), known=col(column).count().cast(pl.Int64))


def _pass_at(samples: Any, right: Any, k: int) -> Estimate | None:
    """pass@k over the problems that have k judged responses."""
    enough = samples >= k
    return estimate(pass_at_k(samples[enough], right[enough], k)) if enough.any() else None


def _lengths(rows: pl.DataFrame) -> Lengths | None:
    counted = rows.filter(col("tokens") > 0)["tokens"].to_numpy()
    if not counted.size:
        return None
    median, p95 = np.quantile(counted, (0.5, 0.95))
    return Lengths(float(counted.mean()), float(median), float(p95), float(np.mean(rows["cut"].to_numpy())))
