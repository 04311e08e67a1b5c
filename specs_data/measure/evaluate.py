"""How good is a policy? Format and answer accuracy, pass@k and branching, in the trained and in changed formats.

Every response is sampled, judged and verified through the store; the figures are counted from what became of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from specs_data.engines import Engine
from specs_data.engines.nucleus import P
from specs_data.errors import UserError
from specs_data.format import ResponseFormat, load_format
from specs_data.loop import run
from specs_data.measure.bench import BRANCHING, Bench, default_out, open_bench, settled, store_folder
from specs_data.measure.count import Seen, format_slice, frame, slices
from specs_data.measure.evaluation import Evaluation, FormatSlice
from specs_data.measure.malformed import error_class
from specs_data.plugins import label
from specs_data.problems import sources_of
from specs_data.recipe import Recipe, deciding
from specs_data.records import Judged, Sample
from specs_data.rollouts.plan import name_of
from specs_data.rollouts.search import Outcome, Turn
from specs_data.rollouts.stages import Stages
from specs_data.rollouts.store import Index, Number
from specs_data.verifiers import Verifier

NO_CHANCES = (
    "no response on record has the chances of its tokens: the engine does not tell them, or at temperature 1 only"
)


def evaluate(
    recipe: Recipe,
    formats: Sequence[str] = (),
    *,
    out: Path | str | None = None,
    engine: Engine | None = None,
    verifier: Verifier | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Evaluate the recipe's policy on its problems in each of `formats` (by default the recipe's own); the first is
    the in-distribution one. `recipe.samples` responses are asked for to each problem.

    `out` is the file that the evaluation will be written to: responses are kept in the store of its folder's run, or
    else beside it, and the same call goes on from there. `engine` and `verifier` take the place of those that the
    recipe names; where neither names a verifier there is no consistency. Raises UserError.
    """
    recipe = settled(recipe, engine, verifier)
    wanted = {name: load_format(name) for name in formats or (recipe.format,)}
    if len({fmt.name for fmt in wanted.values()}) < len(formats or wanted):
        raise UserError("two of the formats have the same name: give each of them once")
    folder = store_folder(Path(out or default_out(recipe)), recipe)
    return run(_evaluate(recipe, wanted, folder, engine, verifier, quiet))


async def _evaluate(
    recipe: Recipe,
    formats: Mapping[str, ResponseFormat],
    folder: Path,
    engine: Engine | None,
    verifier: Verifier | None,
    quiet: bool,
) -> Evaluation:
    async with open_bench(recipe, folder, engine=engine, verifier=verifier, quiet=quiet) as bench:
        seen: dict[str, list[Seen]] = {}
        for name, fmt in formats.items():
            see = partial(_see, fmt=fmt, verified=bench.verifier is not None)
            seen[fmt.name] = await bench.each(name, see)
        return _evaluation(bench, seen)


async def _see(
    stages: Stages, sample: Sample, number: Number, turn: Turn, *, fmt: ResponseFormat, verified: bool
) -> Seen | Outcome:
    """What becomes of a response: it is judged, and where it is right and well-formed perhaps verified."""
    response, problem = sample.response, sample.problem
    if turn is Turn.POLICY and stages.needs_judge(stages.log, stages.policy, sample, number):
        return Outcome.TO_JUDGE
    _, judgement = await stages.judge(stages.log, stages.policy, sample, number) or (None, None)
    error = error_class(response.text, fmt, response.finish_reason)
    verdict = None
    if verified and judgement is not None and judgement.right and error is None:
        if turn is not Turn.VERIFIER and stages.needs_verifier(stages.log, number, Index(sample.index)):
            return Outcome.TO_VERIFY
        verdict = await stages.verify(stages.log, Judged(sample, judgement), number)
    return Seen(
        problem=number,
        index=sample.index,
        type=problem.answer_type,
        source=problem.source,
        right=judgement.right if judgement else None,
        consistent=verdict.consistent if verdict and not verdict.undecided else None,
        tokens=response.completion_tokens,
        cut=response.finish_reason == "length",
        error=error,
        nuclei=response.nuclei,
    )


def _placed(one: Seen, places: Mapping[int, int]) -> Seen:
    """The same with the problem's place in its source, and with nuclei only where this evaluation wants them: others
    may be on record from an earlier one, of fewer problems or in another order."""
    place = places[one.problem]
    first = one.index * len(places) + place < BRANCHING
    return replace(one, problem=place, nuclei=one.nuclei if first else None)


def _evaluation(bench: Bench, seen: Mapping[str, Sequence[Seen]]) -> Evaluation:
    recipe = bench.recipe
    places: dict[int, int] = {number: place for place, number in enumerate(bench.problems)}
    frames = {name: frame([_placed(one, places) for one in rows]) for name, rows in seen.items()}
    by_format = {name: format_slice(rows, P, recipe.temperature, NO_CHANCES) for name, rows in frames.items()}
    first, whole = next(iter(frames.values())), next(iter(by_format.values()))
    missing = sum(len(bench.problems) * recipe.samples - len(rows) for rows in frames.values())
    return Evaluation(
        **{name: getattr(whole, name) for name in FormatSlice.__struct_fields__},
        policy=recipe.policy or name_of(recipe),
        problems=", ".join(source.name for source in sources_of(recipe)),
        samples=recipe.samples,
        by_type=slices(first, "type"),
        by_source=slices(first, "source"),
        by_format=by_format,
        verifier=label(recipe.verifier) if recipe.verifier else None,
        left_out=dict(bench.left_out) | ({"responses refused or given up": missing} if missing else {}),
        settings={name: getattr(recipe, name) for name in deciding("samples") if getattr(recipe, name) is not None},
    )
