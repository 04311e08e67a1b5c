"""The format errors that a policy really makes: how often each class, with examples, and the corruption mix that
makes the same errors where an operator of that name is installed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from textwrap import shorten

import msgspec
from msgspec import Struct

from specs_data.engines import Engine
from specs_data.format import ResponseFormat, load_format
from specs_data.inert import visible
from specs_data.loop import run
from specs_data.measure.bench import default_out, open_bench, settled, store_folder
from specs_data.measure.evaluation import write_file
from specs_data.measure.malformed import error_class
from specs_data.plugins import corruption_names
from specs_data.problems import sources_of
from specs_data.recipe import Recipe
from specs_data.records import Sample
from specs_data.rollouts.plan import name_of
from specs_data.rollouts.search import Turn
from specs_data.rollouts.stages import Stages
from specs_data.rollouts.store import Number

EXAMPLES = 3
_SHOWN = 160  # characters of an example in the terminal


class ErrorClass(Struct, frozen=True):
    """One class: how many of the malformed responses are in it, whether an operator makes such ones, and texts."""

    count: int
    share: float
    operator: bool
    examples: tuple[str, ...]


class FormatErrors(Struct, frozen=True):
    """The malformed ones among `responses`, by class, the most frequent first. `mix` has the weights of the
    operators that make such errors; `covered` is the share of the malformed responses that they account for."""

    policy: str
    problems: str
    format: str
    responses: int
    malformed: int
    classes: dict[str, ErrorClass]
    mix: dict[str, float]
    covered: float

    @property
    def flags(self) -> str:
        """The mix as flags of `build`."""
        return " ".join(f"--corruption {name}={weight:g}" for name, weight in self.mix.items())

    def __str__(self) -> str:
        if not self.malformed:
            return f"all of the {self.responses:,} responses keep the format {self.format}"
        lines = [f"{self.malformed:,} of {self.responses:,} responses miss the format {self.format}"]
        for name, found in self.classes.items():
            lines.append(f"{found.share:>7.1%}  {found.count:>6,}  {name}{'' if found.operator else '  (no operator)'}")
            lines += [f"{'':>17}{shorten(visible(text), _SHOWN, placeholder=' ...')}" for text in found.examples[:1]]
        if self.mix:
            lines += [f"the mix that matches {self.covered:.0%} of them:", f"  {self.flags}"]
        return "\n".join(lines)


def sort_errors(
    responses: Iterable[tuple[str, str]],
    fmt: ResponseFormat,
    operators: Collection[str],
    *,
    policy: str = "",
    problems: str = "",
) -> FormatErrors:
    """Sort the (text, finish reason) of responses into classes of format errors. `operators` are the names of the
    corruption operators there are."""
    texts: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    seen = 0
    for text, finish_reason in responses:
        seen += 1
        name = error_class(text, fmt, finish_reason)
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
            if len(kept := texts.setdefault(name, [])) < EXAMPLES:
                kept.append(text)
    malformed = sum(counts.values())
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    classes = {
        name: ErrorClass(counts[name], counts[name] / malformed, name in operators, tuple(texts[name]))
        for name in ordered
    }
    covered = sum(counts[name] for name in ordered if name in operators)
    return FormatErrors(
        policy=policy,
        problems=problems,
        format=fmt.name,
        responses=seen,
        malformed=malformed,
        classes=classes,
        mix={name: float(f"{counts[name] / covered:.4g}") for name in ordered if name in operators},
        covered=covered / malformed if malformed else 0.0,
    )


def natural_errors(
    recipe: Recipe, response_format: str, *, out: Path | None = None, engine: Engine | None = None, quiet: bool = False
) -> FormatErrors:
    """The format errors of the recipe's policy on its problems: `recipe.samples` responses to each, sampled as
    `evaluate` does and kept beside `out` (by default in runs/<name of the policy>). Raises UserError."""
    recipe, fmt = settled(recipe, engine), load_format(response_format)
    folder = store_folder(out or default_out(recipe), recipe)
    responses = run(_sampled(recipe, response_format, folder, engine, quiet))
    return sort_errors(
        responses,
        fmt,
        corruption_names(),
        policy=recipe.policy or name_of(recipe),
        problems=", ".join(source.name for source in sources_of(recipe)),
    )


def write(errors: FormatErrors, out: Path) -> None:
    """Write the errors to `out` as JSON. Raises UserError."""
    write_file(out, encode(errors))


async def _sampled(
    recipe: Recipe, form: str, folder: Path, engine: Engine | None, quiet: bool
) -> list[tuple[str, str]]:
    async with open_bench(recipe, folder, engine=engine, quiet=quiet) as bench:
        return await bench.each(form, _text)


async def _text(stages: Stages, sample: Sample, number: Number, turn: Turn) -> tuple[str, str]:
    return sample.response.text, sample.response.finish_reason


def encode(errors: FormatErrors) -> bytes:
    """The errors as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(errors), indent=2) + b"\n"
