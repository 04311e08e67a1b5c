"""The Generalization Factor of a cold start (paper, section on generalization).

    Gamma(n) = (1 + b^2) ID(n) OOD(n) / (b^2 ID(n) + OOD(n)),   b = 2

n is the training step; ID is the measure in the trained output format and OOD the mean over the changed ones. b = 2
weighs OOD more. The paper's text defines it on the gains over the base model, its figure reproduces on the scores
themselves: both are given, and each is called what it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Literal

import msgspec
from msgspec import Struct

from specs_data.errors import UserError, require
from specs_data.inert import one_line
from specs_data.measure.evaluation import Evaluation, read_evaluation, write_file

logger = logging.getLogger(__name__)

BETA = 2.0
PLOTS = (".png", ".svg", ".pdf")
Measure = Literal["format", "accuracy"]


class Step(Struct, frozen=True):
    """The factor at one training step: means over its `seeds` evaluations, and from the least to the most of them
    (`bands`: id, ood, gf_scores, gf_gains). Scores and gains are shares of 1."""

    id: float
    ood: float
    gf_scores: float
    gf_gains: float
    seeds: int = 1
    bands: dict[str, tuple[float, float]] = {}


class Factors(Struct, frozen=True):
    """The Generalization Factor by training step. `base` has the base's own id and ood; `formats` the names of the
    in-distribution format and of the others."""

    measure: Measure
    beta: float
    base: dict[str, float]
    formats: tuple[str, ...]
    steps: dict[str, Step]

    def __str__(self) -> str:
        return table(self)


def generalization_factor(id: float, ood: float, beta: float = BETA) -> float:
    """The weighted harmonic mean of two scores or two gains.

    Where one of them is zero it is zero, as its limit is. Where one of them is negative (a gain may be) the
    formula has a pole and can call a loss a gain: then nothing was generalized, and the factor is the smaller
    of the two, the loss itself.
    """
    if min(id, ood) <= 0:
        return min(id, ood)
    square = beta * beta
    return (1 + square) * id * ood / (square * id + ood)


def gf(base: str | Path, steps: Sequence[tuple[int, str]], measure: Measure = "format", beta: float = BETA) -> Factors:
    """The factor at each of `steps`, (n, evaluation): a step that is given several times is one of several seeds.

    An evaluation is a file, or several with commas between: the first is in-distribution, the others are not.
    Raises UserError.
    """
    before = read_scored(str(base), measure)
    by_step: dict[int, list[Scored]] = {}
    for number, files in steps:
        scored = read_scored(files, measure)
        # Several files have names of their own, which say nothing of what they measure.
        named = "," not in files and "," not in str(base)
        if len(scored.formats) != len(before.formats) or (named and not _same(scored.formats, before.formats)):
            raise UserError(
                f"{files} has the formats {', '.join(scored.formats)}, and the base {', '.join(before.formats)}: "
                "their means cannot be compared"
            )
        _tell_unequal(files, scored, before)
        by_step.setdefault(number, []).append(scored)
    if not by_step:
        raise UserError("no step is given: --step N=EVAL, once for each step and seed")
    return Factors(
        measure=measure,
        beta=beta,
        base={"id": before.id, "ood": before.ood},
        formats=before.formats,
        steps={str(number): _step(by_step[number], before, beta) for number in sorted(by_step)},
    )


def _tell_unequal(files: str, scored: Scored, base: Scored) -> None:
    """Say where a step was measured on more or fewer problems than the base: its gain is then also that of others."""
    sizes, others = (sorted(one.sizes) for one in (scored, base))
    if sizes != others and all((*sizes, *others)):
        logger.warning(
            "%s is of %s problems, and the base of %s: what looks like a gain may be that of other problems",
            *(one_line(files), *(", ".join(map(str, dict.fromkeys(each))) for each in (sizes, others))),
        )


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether both have the same in-distribution format, which is the first, and the same others."""
    return one[0] == other[0] and {*one} == {*other}


class Scored(Struct, frozen=True):
    """What one evaluation scored in the first format (or file) and on average in the others; `sizes` are the numbers of
    problems in each, 0 where it does not say."""

    formats: tuple[str, ...]
    sizes: tuple[int, ...]
    id: float
    ood: float


def read_scored(files: str, measure: Measure) -> Scored:
    """The scores in one evaluation file, or in several with commas between. Raises UserError."""
    scores: dict[str, float] = {}
    sizes: list[int] = []
    for name in files.split(","):
        evaluation = read_evaluation(Path(name.strip()))
        sizes += [part.n for part in (evaluation.by_format or {"": evaluation}).values()]
        for key, value in _scores(evaluation, name, measure).items():
            scores[key if key not in scores else f"{name}: {key}"] = value
    if len(scores) < 2:
        raise UserError(
            f"{files} has one output format only, {', '.join(scores)}: evaluate with a second --format, "
            "or give several files with commas between"
        )
    first, *others = scores.values()
    return Scored(tuple(scores), tuple(sizes), first, fmean(others))


def _scores(evaluation: Evaluation, name: str, measure: Measure) -> dict[str, float]:
    """The measure in each format."""
    parts: Mapping[str, object] = evaluation.by_format or {evaluation.problems or name: evaluation}
    found = {key: getattr(part, measure) for key, part in parts.items()}
    missing = [key for key, value in found.items() if value is None]
    if missing:
        advice = "; --measure accuracy compares right answers" if measure == "format" else ""
        raise UserError(f"{name} has no {measure} for {', '.join(missing)}{advice}")
    return {key: float(value.value) for key, value in found.items()}


def _step(seeds: Sequence[Scored], base: Scored, beta: float) -> Step:
    rows = {
        "id": [seed.id for seed in seeds],
        "ood": [seed.ood for seed in seeds],
        "gf_scores": [generalization_factor(seed.id, seed.ood, beta) for seed in seeds],
        "gf_gains": [generalization_factor(seed.id - base.id, seed.ood - base.ood, beta) for seed in seeds],
    }
    means = {name: fmean(values) for name, values in rows.items()}
    bands = {name: (min(values), max(values)) for name, values in rows.items()} if len(seeds) > 1 else {}
    return Step(**means, seeds=len(seeds), bands=bands)


def table(factors: Factors) -> str:
    """The factors as a table for the terminal, in percents."""
    first, *others = factors.formats
    measured = "format accuracy" if factors.measure == "format" else "answer accuracy"
    lines = [
        f"{measured}; ID is {first}, OOD the mean over {', '.join(others)}; beta {factors.beta:g}",
        f"{'step':>8} {'ID':>7} {'OOD':>7} {'GF on scores':>13} {'GF on gains':>12} {'seeds':>6}",
        f"{'base':>8} {factors.base['id']:>7.1%} {factors.base['ood']:>7.1%}",
    ]
    lines += [
        f"{number:>8} {step.id:>7.1%} {step.ood:>7.1%} {step.gf_scores:>13.1%} {step.gf_gains:>12.1%} {step.seeds:>6}"
        for number, step in factors.steps.items()
    ]
    if any(step.gf_gains < 0 for step in factors.steps.values()):
        lines.append("a negative GF on gains is the loss itself: in one of the two the step is worse than the base")
    return "\n".join(lines)


def write(factors: Factors, out: Path) -> None:
    """Write the factors to `out`: a plot where it ends in .png, .svg or .pdf, JSON otherwise. Raises UserError."""
    if out.suffix.lower() in PLOTS:
        plot({"": factors}, out)
    else:
        write_file(out, encode(factors))


def encode(factors: Factors) -> bytes:
    """The factors as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(factors), indent=2) + b"\n"


def plot(runs: Mapping[str, Factors], file: Path) -> None:
    """Draw ID, OOD and GF (on scores) over the steps, a line per named run with a band over its seeds: the three
    panels of the paper's figure. Needs matplotlib."""
    require("matplotlib", "train")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = {"id": "in distribution", "ood": "out of distribution", "gf_scores": "Generalization Factor on scores"}
    for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, factors in runs.items():
            numbers = [int(number) for number in factors.steps]
            steps = list(factors.steps.values())
            values = [100 * getattr(step, key) for step in steps]
            (line,) = axes.plot(numbers, values, marker="o", markersize=3, label=name or None)
            ends = [step.bands.get(key, (getattr(step, key),) * 2) for step in steps]
            low, high = ([100 * end for end in side] for side in zip(*ends, strict=True))
            axes.fill_between(numbers, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("training step")
        axes.set_ylabel("%")
        if any(runs):
            axes.legend(fontsize=8)
    drawn, kind = BytesIO(), file.suffix.lower()
    with rc_context({"svg.hashsalt": "specs-data", "svg.fonttype": "none"}):
        figure.savefig(drawn, format=kind.removeprefix("."), metadata={"Date": None} if kind == ".svg" else None)
    write_file(file, drawn.getvalue())


def read_step(text: str) -> tuple[int, str]:
    """`"25=eval.json"` as (25, "eval.json"). Raises UserError."""
    number, equals, file = text.partition("=")
    if not equals or not number.strip().isdecimal() or not file.strip():
        raise UserError(f"--step {text!r} should be N=EVAL, as in 25=runs/sft-25.json")
    return int(number), file.strip()
