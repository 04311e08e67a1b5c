"""A run, opened: all that the stages of a build work with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from specs_data import engines
from specs_data.build.again import Pictures
from specs_data.build.fates import Fates, read_fates
from specs_data.build.flow import Flow
from specs_data.build.listing import Listing
from specs_data.build.tally import Tally
from specs_data.engines import Engine
from specs_data.errors import UserError
from specs_data.format import load_format
from specs_data.judges.model import open_judge
from specs_data.judges.rules import RuleJudge
from specs_data.plugins import find_corruptions
from specs_data.problems import count_all, sources_of
from specs_data.recipe import Recipe
from specs_data.rollouts.answers import Answers
from specs_data.rollouts.checking import open_checker, sharing
from specs_data.rollouts.demand import OnDemand
from specs_data.rollouts.plan import (
    Parts,
    Plan,
    are_given,
    check_corruptions,
    has_own_rival,
    make_plan,
    read_struck,
    rival_recipe,
)
from specs_data.rollouts.progress import Figures, Progress, Tracker, say
from specs_data.rollouts.sample import sampling
from specs_data.rollouts.stages import Clock, durable
from specs_data.rollouts.store import Store
from specs_data.rollouts.tables import digest
from specs_data.services.opening import open_budget
from specs_data.texts import load_card, system_prompt
from specs_data.verifiers import Verifier, open_verifier

if TYPE_CHECKING:
    from specs_data.services.gemini_batch import Job

# Responses under way before an engine says how many keep it busy.
_WINDOW = 256


class Given(Struct, frozen=True):
    """What a caller brings in place of what the recipe names. `rival` is the policy of `rejected_from`."""

    engine: Engine | None = None
    rival: Engine | None = None
    verifier: Verifier | None = None


class Manner(Struct, frozen=True):
    """How a build is to go: what is said, whether a finished dataset may be replaced, whether to `go_on` where that is
    in vain, and whether idle slots ask `ahead`. Nothing here decides what becomes of a response."""

    quiet: bool = False
    verbose: bool = False
    overwrite: bool = False
    go_on: bool = False
    ahead: bool = True


class Run(Struct, frozen=True):
    """One call of `build`. `engine` and `rival` are None where no response can be asked for; `room` has a place for
    each problem at the policy. `before` are the seconds that earlier calls took, by stage."""

    out: Path
    recipe: Recipe
    plan: Plan
    parts: Parts
    store: Store
    flow: Flow
    listing: Listing
    pictures: Pictures
    engine: OnDemand | None
    rival: OnDemand | None
    room: asyncio.Semaphore
    before: Mapping[str, float]
    started: str
    quiet: bool
    ahead: bool
    trackers: Sequence[Tracker] = ()

    def fates(self) -> Fates:
        """What has become of every response by now."""
        return read_fates(self.store, self.plan)

    def progress(self, label: str) -> Progress:
        """A bar over the run's problems."""
        total = count_all(sources_of(self.recipe), self.recipe.limit)
        share = None if total is None else -(-total // self.recipe.part[1])
        return Progress(label, share, self.quiet, self.figures, self.recipe.wanted, self.trackers)

    def figures(self) -> Figures:
        """How the run stands."""
        tally = self.flow.tally
        dollars = self.store.dollars if self.plan.services else 0.0
        return Figures(tally.tried, self.flow.generated, self.flow.tokens, tally.reasons.most_common(3), dollars)


@asynccontextmanager
async def opened(recipe: Recipe, out: Path, given: Given, manner: Manner) -> AsyncIterator[Run]:
    """The run of `recipe` in the folder `out`, open. What is appended to its store meanwhile is committed at once;
    where that fails, the block ends with the UserError that says so."""
    if (out / "dataset").exists() and not (out / "store.sqlite").exists():
        raise UserError(f"{out} has a dataset that specs-data did not build; use another --out")
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Store(out / "store.sqlite"))
        recipe = _in_one_order(recipe, store)
        answers = Answers((recipe.cache or out) / "answers.sqlite")
        stack.callback(answers.close)
        run = _open(stack, recipe, out, given, store, answers, manner)
        async with durable(store, run.flow.written):
            yield run


def _in_one_order(recipe: Recipe, store: Store) -> Recipe:
    """The recipe with its order said: a store that an earlier release began goes on in the order of the source, or
    what it has would be sampled again of other problems."""
    if recipe.shuffle is not None or not recipe.shuffled:
        return recipe
    if store.in_order:
        say("this run was begun by an earlier release and goes on in the order of the source; --shuffle takes a sample")
    return recipe.model_copy(update={"shuffle": not store.in_order})


def _open(
    stack: AsyncExitStack, recipe: Recipe, out: Path, given: Given, store: Store, answers: Answers, manner: Manner
) -> Run:
    room, loading = asyncio.Semaphore(_WINDOW), Clock()
    engine = _on_demand(stack, recipe, loading, given.engine, room)
    parts = _open_parts(stack, recipe, given, engine, store, answers)
    plan = replace(make_plan(store, parts), struck=read_struck(out / "struck.txt"))
    if plan.rival is None:  # whose responses may be malformed by themselves
        check_corruptions(parts.corruptions, parts.fmt)
    tally = Tally(manner.go_on)
    flow = Flow(plan, parts, store, answers, stack.enter_context(RuleJudge()), loading, tally)
    rival = engine
    if has_own_rival(recipe):
        rival = _on_demand(stack, rival_recipe(recipe), loading, given.rival, room)
    pictures = stack.enter_context(Pictures(out))
    listing = Listing(
        store,
        recipe,
        by_rule=parts.judge is None,
        by_service="service" in parts.verifier.settings,
        expect=None if are_given(recipe) else flow.expect,
        about_to_read=pictures.note,
    )
    return Run(
        out=out,
        recipe=recipe,
        plan=plan,
        parts=parts,
        store=store,
        flow=flow,
        listing=listing,
        pictures=pictures,
        engine=engine,
        rival=rival,
        room=room,
        before=store.seconds(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        quiet=manner.quiet,
        ahead=manner.ahead,
        trackers=_open_trackers(stack, recipe, out) if recipe.report_to else (),
    )


def _open_trackers(stack: AsyncExitStack, recipe: Recipe, out: Path) -> Sequence[Tracker]:
    from specs_data.rollouts.trackers import open_trackers

    opened = open_trackers(recipe.report_to, out, recipe.model_dump(mode="json", exclude_none=True))
    for one in opened:
        stack.callback(one.close)
    return opened


def _open_parts(
    stack: AsyncExitStack, recipe: Recipe, given: Given, engine: OnDemand | None, store: Store, answers: Answers
) -> Parts:
    load_card(recipe.card)  # a name that is none should stop the run before it costs anything
    budget = open_budget(recipe, store.dollars, store.pay)
    verifier, log = given.verifier, _Log(answers)
    if verifier is None:
        checker = open_checker(recipe, engine)
        if checker is not None and checker.engine is not engine:
            stack.push_async_callback(checker.engine.close)
        verifier = open_verifier(recipe, budget, log, checker)
        stack.push_async_callback(verifier.close)
    judge = open_judge(recipe, budget, log)
    if judge is not None:
        stack.push_async_callback(judge.close)
    fmt = load_format(recipe.format)
    corruptions = find_corruptions(recipe.corruption, fmt.layout)
    return Parts(
        recipe=recipe,
        fmt=fmt,
        system=system_prompt(recipe.system_prompt, fmt.instruction),
        corruptions=corruptions,
        weights=dict(zip(corruptions, recipe.corruption.values() or repeat(1.0), strict=False)),
        verifier=verifier,
        judge=judge,
        engine=given.engine,
        rival=given.rival,
    )


def _on_demand(
    stack: AsyncExitStack, recipe: Recipe, loading: Clock, given: Engine | None, room: asyncio.Semaphore
) -> OnDemand | None:
    if recipe.responses is not None:
        return None

    async def opened() -> Engine:
        if given is not None:
            return given
        with loading:
            return await engines.open_engine(sharing(recipe), sampling(recipe, load_format(recipe.format)))

    engine = OnDemand(opened, room, _WINDOW, lent=given is not None)
    stack.push_async_callback(engine.close)
    return engine


class _Log:
    """Gemini's open batch jobs, and what was refused: kept beside the answers."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def jobs(self) -> list[Job]:
        from specs_data.services.gemini_batch import Job

        return self._answers.jobs(Job)

    def put_job(self, job: Job) -> None:
        self._answers.put_job(job.label, job)

    def was_refused(self, name: str) -> bool:
        return bool(self._answers.get(digest(["refused", name]), bool))

    def put_refused(self, name: str) -> None:
        self._answers.put(digest(["refused", name]), True)


def spend(run: Run) -> None:
    """Put the time of this call on record, the model's loading apart from its work."""
    seconds = {stage: clock.seconds for stage, clock in run.flow.clocks.items()}
    seconds["generate"] = max(0.0, seconds["generate"] - seconds["load"])
    for stage, passed in seconds.items():
        run.store.spend(stage, passed)
    run.store.commit()
