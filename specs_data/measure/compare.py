"""Evaluations and training runs side by side, in the terminal and as one self-contained HTML page.

The paper's stability figure is such a page: the GRPO runs that follow an SFT and a DPO cold start, with the format
reward from the first step on, the loss, how much they swing, and the reward at equal steps. A name that is given
several times is one of several seeds: lines are means, bands go from the least to the most.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from specs_data.errors import UserError
from specs_data.files import read_rows
from specs_data.inert import one_line, visible
from specs_data.measure.estimate import Estimate
from specs_data.measure.evaluation import Evaluation, FormatSlice, read_evaluation, write_file
from specs_data.measure.table import aligned, branching, formats_of, passed, share
from specs_data.texts import load_card

logger = logging.getLogger(__name__)

# What is looked at in a training run, in this order: the names of TRL and of our trainers.
METRICS = (
    "reward", "format", "accuracy", "loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "kl", "entropy",
    "completions/mean_length",
)  # fmt: skip
_WIDTH, _HEIGHT = 360.0, 170.0  # of a panel, in the page's own units
_TENTH = 10
_FILES = (".json", ".jsonl", ".csv", ".tsv")  # of evaluations; in dpo-0.5 the end is no file's


class Curve(Struct, frozen=True):
    """One metric of one named run: its steps, as far as all of its `seeds` came, and over them the mean, the least and
    the most at each. `swing` is None where no seed has a change to compare with another."""

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    swing: float | None
    seeds: int = 1

    @property
    def start(self) -> float:
        """The mean over the first tenth of the steps."""
        return fmean(self.mean[: max(1, len(self.mean) // _TENTH)])

    @property
    def end(self) -> float:
        """The mean over the last tenth of the steps."""
        return fmean(self.mean[-max(1, len(self.mean) // _TENTH) :])

    def at(self, step: int) -> float | None:
        """The mean at the last logged step up to this one; None before the first."""
        place = bisect_right(self.steps, step)
        return self.mean[place - 1] if place else None


class Comparison(Struct, frozen=True):
    """Evaluations by name, and the curves of training runs by metric and name."""

    evaluations: dict[str, Evaluation]
    curves: dict[str, dict[str, Curve]]

    @property
    def last_common_step(self) -> int | None:
        """The last step that every training run reached."""
        ends = [curve.steps[-1] for curves in self.curves.values() for curve in curves.values()]
        return min(ends, default=None)

    def __str__(self) -> str:
        parts = []
        if self.evaluations:
            parts.append(aligned([_EVALUATION_HEAD, *_evaluation_lines(self.evaluations)]))
        if self.curves:
            parts.append(aligned([self.run_head(), *self.run_lines()]))
            parts.append("swing: the standard deviation of the change from one logged step to the next")
        return "\n\n".join(parts)

    def run_head(self) -> tuple[str, ...]:
        """The titles of `run_lines`."""
        return ("metric", "run", "at first", "at last", f"at step {self.last_common_step}", "swing", "seeds")

    def run_lines(self) -> list[tuple[str, ...]]:
        """Each metric of each training run, as cells."""
        step = self.last_common_step or 0
        return [
            (
                metric,
                one_line(name),
                *("-" if value is None else f"{value:.3f}" for value in (one.start, one.end, one.at(step), one.swing)),
                str(one.seeds),
            )
            for metric, curves in self.curves.items()
            for name, one in curves.items()
        ]


def compare(named: Sequence[tuple[str, Path]]) -> Comparison:
    """Read (name, path) pairs: an evaluation file, or the folder of a training run. Raises UserError."""
    evaluations: dict[str, Evaluation] = {}
    runs: dict[str, list[list[dict[str, Any]]]] = {}
    for name, path in named:
        if path.is_dir():
            runs.setdefault(name, []).append(_metrics(path))
            _tell_diverged(path, runs[name][-1])
        else:
            place = name if name not in evaluations else f"{name} ({path})"
            evaluations[place] = read_evaluation(path)
    for name, seeds in runs.items():
        _tell_unequal(name, [max((row["step"] for row in rows), default=0) for rows in seeds])
    curves = {metric: found for metric in METRICS if (found := _curves(runs, metric))}
    if runs and not curves:
        raise UserError(f"none of the training runs has one of the metrics {', '.join(METRICS)}")
    return Comparison(evaluations, curves)


def read_named(texts: Sequence[str]) -> list[tuple[str, Path]]:
    """Each `"DPO=runs/dpo"` as a name and a path. A path alone is called by its last part, or by the whole of it where
    that would be the name of another one too: only a name that is given makes runs the seeds of one."""
    given = [_given(text) for text in texts]
    times = Counter(_last_part(path) if name is None else name for name, path in given)
    return [(_called(path, times) if name is None else name, Path(path)) for name, path in given]


def _given(text: str) -> tuple[str | None, str]:
    """The name that stands before a path, if one does, and the path: one may have an equals sign itself (lr=1e-6)."""
    name, equals, path = text.partition("=")
    return (name.strip(), path.strip()) if equals and not Path(text).exists() else (None, text)


def _called(path: str, times: Mapping[str, int]) -> str:
    last = _last_part(path)
    return last if times[last] == 1 else path


def _last_part(path: str) -> str:
    place = Path(path)
    return (place.stem if place.suffix in _FILES else place.name) or path


def encode(comparison: Comparison) -> bytes:
    """The comparison as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=2) + b"\n"


def _tell_unequal(name: str, reached: Sequence[int]) -> None:
    if len(set(reached)) > 1:
        steps = ", ".join(map(str, sorted(reached)))
        logger.warning("the seeds of %s came to different steps (%s): its figures end with the first", name, steps)


def _tell_diverged(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    losses = _points(rows, "loss")
    last = max((row["step"] for row in rows if "loss" in row), default=0)
    if losses and max(losses) < last:
        logger.warning("%s has diverged: its loss is no number after step %d", run, max(losses))


def _metrics(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise UserError(f"{run} is no training run: it has no metrics.jsonl")
    return [row for row in read_rows(file) if isinstance(row, dict) and isinstance(row.get("step"), int)]


def _curves(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], metric: str) -> dict[str, Curve]:
    found = {name: _curve([_points(rows, metric) for rows in seeds]) for name, seeds in runs.items()}
    return {name: curve for name, curve in found.items() if curve is not None}


def _points(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[int, float]:
    values = ((row["step"], row.get(metric)) for row in rows)
    return {step: float(value) for step, value in values if isinstance(value, int | float) and math.isfinite(value)}


def _curve(seeds: Sequence[Mapping[int, float]]) -> Curve | None:
    seeds = [seed for seed in seeds if seed]
    if not seeds:
        return None
    # A mean of fewer seeds than before would be a step in the curve that no run has made.
    first, last = max(map(min, seeds)), min(map(max, seeds))
    steps = [step for step in sorted(set().union(*seeds)) if first <= step <= last]
    if not steps:
        return None
    at = list(zip(*(_held(seed, steps) for seed in seeds), strict=True))
    swings = [float(np.std(np.diff(list(seed.values())))) for seed in seeds if len(seed) > 2]
    return Curve(
        steps=tuple(steps),
        mean=tuple(map(fmean, at)),
        low=tuple(map(min, at)),
        high=tuple(map(max, at)),
        swing=fmean(swings) if swings else None,
        seeds=len(seeds),
    )


def _held(seed: Mapping[int, float], steps: Sequence[int]) -> list[float]:
    """The value at each step, or the last one before it."""
    known = sorted(seed)
    return [seed[known[bisect_right(known, step) - 1]] for step in steps]


_EVALUATION_HEAD = ("evaluation", "format", "problems", "well formed", "right", "pass@k", "RBF", "consistent")


def _evaluation_lines(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, ...]]:
    return [
        (
            one_line(name, 28),
            one_line(form, 28),
            f"{part.n:,}",
            share(part.format),
            share(part.accuracy),
            passed(part),
            branching(part),
            share(part.consistency),
        )
        for name, evaluation in evaluations.items()
        for form, part in formats_of(evaluation).items()
    ]


# The page


class Line(Struct, frozen=True):
    """A curve of a panel: its number decides the colour, `points` and `band` are SVG's."""

    name: str
    number: int
    points: str
    band: str


class Panel(Struct, frozen=True):
    """A metric over the steps, with the ends of both axes."""

    title: str
    lines: tuple[Line, ...]
    first: str
    last: str
    bottom: str
    top: str


class Whisker(Struct, frozen=True):
    """A share with its interval on a scale from 0 to 100."""

    label: str
    text: str
    value: float
    low: float
    high: float


def write_page(comparison: Comparison, out: Path) -> Path:
    """Write the page, and return its path. It needs no network and allows none. Raises UserError."""
    write_file(out, render(comparison).encode())
    return out


def render(comparison: Comparison) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"visible": visible, "csp": _csp_hash}
    names = list(dict.fromkeys(name for curves in comparison.curves.values() for name in curves))
    return environment.from_string(load_card("compare").body).render(
        panels=[_panel(metric, curves, names) for metric, curves in comparison.curves.items()],
        names=names,
        width=_WIDTH,
        height=_HEIGHT,
        runs=[comparison.run_head(), *comparison.run_lines()] if comparison.curves else [],
        evaluations=[_EVALUATION_HEAD, *_evaluation_lines(comparison.evaluations)] if comparison.evaluations else [],
        charts=[
            (title, _whiskers(comparison.evaluations, measure))
            for title, measure in (("well formed", "format"), ("right", "accuracy"))
            if _whiskers(comparison.evaluations, measure)
        ],
    )


def _panel(metric: str, curves: Mapping[str, Curve], names: Sequence[str]) -> Panel:
    steps = [step for curve in curves.values() for step in curve.steps]
    ends = [end for curve in curves.values() for end in (*curve.low, *curve.high)]
    left, right, bottom, top = min(steps), max(steps), min(ends), max(ends)

    def place(step: int, value: float) -> str:
        x = (step - left) / ((right - left) or 1) * _WIDTH
        y = (1 - (value - bottom) / ((top - bottom) or 1)) * _HEIGHT
        return f"{x:.1f},{y:.1f}"

    def line(name: str, curve: Curve) -> Line:
        low, mean, high = (list(map(place, curve.steps, side)) for side in (curve.low, curve.mean, curve.high))
        band = " ".join([*high, *reversed(low)]) if curve.low != curve.high else ""
        return Line(name, names.index(name) % 6, " ".join(mean), band)

    lines = tuple(line(name, curve) for name, curve in curves.items())
    return Panel(metric, lines, str(left), str(right), f"{bottom:.3g}", f"{top:.3g}")


def _whiskers(evaluations: Mapping[str, Evaluation], measure: str) -> list[Whisker]:
    found: list[Whisker] = []
    for name, evaluation in evaluations.items():
        for form, part in formats_of(evaluation).items():
            whisker = _whisker(f"{name} · {form}", part, measure)
            found += [whisker] if whisker else []
    return found


def _whisker(label: str, part: FormatSlice, measure: str) -> Whisker | None:
    value: Estimate | None = getattr(part, measure)
    if value is None:
        return None
    low = value.value if value.low is None else value.low
    high = value.value if value.high is None else value.high
    return Whisker(label, share(value), 100 * value.value, 100 * low, 100 * high)


def _csp_hash(text: str) -> str:
    """The source expression that admits exactly this inline style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
