"""How good is a policy? Format and answer accuracy, pass@k, branching, in the trained and in changed formats.

Responses are sampled, judged and verified by the same stages as a build's, through the same store under the same
keys: the same command resumes, and what a build sampled with these settings is not sampled again. Figures are
counted from the store at the end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import Struct
from tqdm import tqdm

from specs_data import engines
from specs_data.engines import Engine
from specs_data.engines.nucleus import P
from specs_data.errors import UserError
from specs_data.format import ResponseFormat, load_format
from specs_data.inert import visible
from specs_data.judges.model import ModelJudge, open_judge
from specs_data.judges.rules import RuleJudge, gold_fault
from specs_data.loop import run
from specs_data.measure.count import Seen, format_slice, frame, parts
from specs_data.measure.evaluation import Evaluation, FormatSlice, Slice
from specs_data.measure.malformed import error_class
from specs_data.problems import Dropped, Incoming, read_problems
from specs_data.recipe import Recipe
from specs_data.records import Judged, Problem, Request, Response
from specs_data.rollouts.plan import Plan
from specs_data.rollouts.planning import Parts, make_plan, name_of
from specs_data.rollouts.sample import check_policy, policy_fingerprint, sampling
from specs_data.rollouts.stages import Stages
from specs_data.rollouts.store import Answers, Store
from specs_data.services.opening import open_budget
from specs_data.texts import system_prompt
from specs_data.verifiers import Verifier, open_verifier
from specs_data.verifiers.none import NoVerifier

_CHUNK = 256  # problems that are taken from the source together
_NO_CHANCES = "the engine tells no chances of its tokens"


def evaluate(
    recipe: Recipe,
    formats: Sequence[str] = (),
    *,
    store: Path,
    engine: Engine | None = None,
    verifier: Verifier | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Evaluate the recipe's policy on its problems in each of `formats` (by default the recipe's own); the first is
    the in-distribution one. `recipe.samples` responses are asked for to each problem.

    What is sampled and judged is kept in the folder `store`: the same call goes on from there. `engine` and
    `verifier` take the place of those that the recipe names; without a verifier there is no consistency. Raises
    UserError.
    """
    recipe = settled(recipe, engine)
    wanted = [load_format(name) for name in formats or (recipe.format,)]
    if len({fmt.name for fmt in wanted}) < len(wanted):
        raise UserError("two formats have the same name: give each of them once")
    return run(_evaluate(recipe, wanted, store, engine, verifier, quiet))


def settled(recipe: Recipe, engine: Engine | None = None) -> Recipe:
    """The recipe with its engine and policy settled. Raises UserError if something is missing."""
    if recipe.problems is None:
        raise UserError("no problems: give --problems SRC, or problems = ... in specs-data.toml")
    if engine is not None:
        return recipe
    name = engines.engine_name(recipe)
    if name == "openai" and (recipe.model or not recipe.policy):
        model = recipe.model or run(engines.only_model(recipe))
        return recipe.model_copy(update={"engine": name, "policy": model, "model": model})
    if recipe.policy is None:
        raise UserError("no policy: give --policy CKPT, or --base-url URL of a server")
    if name != "openai" and recipe.ray in (None, "local"):  # a cluster has folders of its own
        check_policy(recipe.policy)
    return recipe.model_copy(update={"engine": name})


def store_folder(out: Path, recipe: Recipe) -> Path:
    """Where an evaluation whose file is `out` keeps its responses: in the store of the run in whose folder `out`
    lies, else in a folder of the policy's beside it, so that several policies can be evaluated at once."""
    if (out.parent / "store.sqlite").exists():
        return out.parent
    name = name_of(recipe).replace("/", "--")
    return out.parent / "stores" / f"{name}-{policy_fingerprint(recipe.policy or recipe.model or '')[:8]}"


class _Bench(Struct, frozen=True):
    """What all formats of an evaluation share. `problems` are the problems' numbers in the store; `verifier` is
    given by the caller, or opened for each format where the recipe names one."""

    recipe: Recipe
    store: Store
    answers: Answers
    rules: RuleJudge
    judge: ModelJudge | None
    engine: Engine | None
    verifier: Callable[[Recipe], Verifier] | None
    problems: Sequence[int]
    quiet: bool


async def _evaluate(
    recipe: Recipe,
    formats: Sequence[ResponseFormat],
    folder: Path,
    engine: Engine | None,
    verifier: Verifier | None,
    quiet: bool,
) -> Evaluation:
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Store(folder / "store.sqlite"))
        answers = Answers((recipe.cache or folder) / "answers.sqlite")
        stack.callback(answers.close)
        budget = open_budget(recipe, sum(paid.dollars for paid in store.paid().values()), store.pay)
        judge = open_judge(recipe, budget)
        if judge is not None:
            stack.push_async_callback(judge.close)

        def opened(own: Recipe) -> Verifier:
            if verifier is not None:
                return verifier
            made = open_verifier(own, budget)
            stack.push_async_callback(made.close)
            return made

        left_out: Counter[str] = Counter()
        bench = _Bench(
            recipe=recipe,
            store=store,
            answers=answers,
            rules=stack.enter_context(RuleJudge()),
            judge=judge,
            engine=engine,
            verifier=opened if verifier or recipe.verifier else None,
            problems=take_problems(store, recipe, by_rule=judge is None, left_out=left_out),
            quiet=quiet,
        )
        frames = {fmt.name: frame(await _in_format(bench, fmt)) for fmt in formats}
    return _evaluation(recipe, frames, verifier, left_out, len(bench.problems))


async def _in_format(bench: _Bench, fmt: ResponseFormat) -> list[Seen]:
    """What becomes of the responses in one format."""
    recipe = bench.recipe.model_copy(update={"format": fmt.name})
    made = Parts(
        recipe=recipe,
        fmt=fmt,
        system=system_prompt(recipe.system_prompt, fmt.instruction),
        corruptions={},
        weights={},
        verifier=bench.verifier(recipe) if bench.verifier else NoVerifier(),
        judge=bench.judge,
        engine=bench.engine,
        rival=None,
    )
    plan = make_plan(bench.store, made)
    stages = Stages(plan, made, bench.store, bench.answers, bench.rules, P)
    return await each_response(bench.store, plan, stages, bench.problems, bench.engine, _Pass(stages, fmt, bench.verifier is not None), bench.quiet)
