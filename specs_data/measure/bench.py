"""Sampling a policy on a set of problems, all of them, as often as wanted: what evaluate and errors share.

Responses pass the same stages as a build's, through the same store under the same keys: the same command resumes,
and what a build sampled with these settings is not sampled again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from specs_data import engines
from specs_data.engines import Engine
from specs_data.errors import UserError
from specs_data.format import load_format
from specs_data.judges.model import ModelJudge, open_judge
from specs_data.judges.rules import RuleJudge, gold_fault
from specs_data.plugins import verifier_label
from specs_data.problems import Dropped, Incoming, read_all, sources_of, told_apart
from specs_data.recipe import Recipe
from specs_data.records import Problem, Sample
from specs_data.rollouts.answers import Answers
from specs_data.rollouts.checking import asks_sampled, open_checker, sharing
from specs_data.rollouts.demand import OnDemand
from specs_data.rollouts.plan import Parts, make_plan, name_of
from specs_data.rollouts.progress import Figures, Progress, told
from specs_data.rollouts.sample import check_policy, edges_fingerprint, loads_here, sampling, settle
from specs_data.rollouts.search import Agenda, Outcome, Quest, Turn, search
from specs_data.rollouts.stages import Stages, durable
from specs_data.rollouts.store import Index, Number, Position, Store
from specs_data.services.opening import open_budget
from specs_data.texts import system_prompt
from specs_data.verifiers import Verifier, open_verifier
from specs_data.verifiers.none import NoVerifier

# Responses, from the first on, whose nuclei are wanted: the paper's largest sample for its Rollout Branching Factor.
# The chances of the likeliest tokens are a hundred times as long as the text itself.
BRANCHING = 480
_READ = 256  # problems that are taken from the source together
_WINDOW = 256  # responses under way before an engine says how many keep it busy

T = TypeVar("T")
# What becomes of a response at this turn, or the line that it has to wait in.
Attempt = Callable[[Stages, Sample, Number, Turn], Awaitable[T | Outcome]]


class Bench(Struct, frozen=True):
    """A policy, open for measuring. `problems` are the problems' numbers in the store, in the order of their source;
    `left_out` counts the rows of the source that are none of them, by reason. `verifier` opens the one for a recipe,
    which may depend on its format, and may ask the engine that is sampled; None where nobody verifies."""

    recipe: Recipe
    store: Store
    answers: Answers
    rules: RuleJudge
    judge: ModelJudge | None
    engine: Engine | None
    verifier: Callable[[Recipe, OnDemand], Verifier] | None
    problems: Sequence[Number]
    left_out: Counter[str]
    quiet: bool

    async def each(self, form: str, attempt: Attempt[T]) -> list[T]:
        """What `attempt` makes of each response in the format called `form`: a response to every problem, then a
        second one to every problem, and so on. Responses that the policy refused or gave up are not among them."""
        recipe, fmt = self.recipe.model_copy(update={"format": form}), load_format(form)

        async def opened() -> Engine:
            return self.engine or await engines.open_engine(sharing(recipe), sampling(recipe, fmt))

        room = asyncio.Semaphore(_WINDOW)
        engine = OnDemand(opened, room, _WINDOW, lent=self.engine is not None)
        parts = Parts(
            recipe=recipe,
            fmt=fmt,
            system=system_prompt(recipe.system_prompt, fmt.instruction),
            corruptions={},
            weights={},
            verifier=self.verifier(recipe, engine) if self.verifier else NoVerifier(),
            judge=self.judge,
            engine=self.engine,
            rival=None,
        )
        stages = Stages(make_plan(self.store, parts), parts, self.store, self.answers, self.rules)
        async with durable(self.store, stages.written):
            found = await self._play(parts, stages, attempt, engine, room)
            stages.settle()
        self.store.commit()
        return found

    async def _play(
        self, parts: Parts, stages: Stages, attempt: Attempt[T], engine: OnDemand, room: asyncio.Semaphore
    ) -> list[T]:
        recipe, fmt = parts.recipe, parts.fmt

        def figures() -> Figures:
            dollars = self.store.dollars
            return Figures(progress.done, stages.generated, stages.tokens, (), dollars)

        places = range(recipe.samples * len(self.problems))
        progress = Progress(fmt.name, len(places), self.quiet, figures, pairing=False)
        found: dict[Position, T] = {}

        def quest(turn: Turn) -> Quest:
            return _Measuring(stages, engine, self.problems, attempt, found, turn)

        lines, release = stages.lines(quest), None if asks_sampled(recipe) else engine.close
        try:
            async with progress:
                await search(Agenda(1), _each(places), quest(Turn.POLICY), room, progress, lines, release)
        finally:
            await engine.close()
        return [found[position] for position in sorted(found)]


class _Measuring(Generic[T]):
    """What the search is for: what `attempt` makes of every response. A position is a response here: the first ones
    to all problems, then the second ones."""

    def __init__(
        self,
        stages: Stages,
        engine: OnDemand,
        problems: Sequence[Number],
        attempt: Attempt[T],
        found: dict[Position, T],
        turn: Turn,
    ) -> None:
        self._stages = stages
        self._engine = None if turn else engine
        self._problems = problems
        self._attempt = attempt
        self._found = found
        self._turn = turn

    def wanted(self, position: Position) -> int:
        """A response is looked at once."""
        return 1

    async def attempt(self, position: Position, index: Index, kept: int) -> Outcome:
        """Ask for the response, and see what becomes of it."""
        stages, (of_problem, place) = self._stages, divmod(position, len(self._problems))
        number = self._problems[place]
        problem, nuclei = stages.problem(number), position < BRANCHING
        sample = await stages.sample(
            stages.log, self._engine, stages.policy, problem, number, Index(of_problem), nuclei=nuclei
        )
        if sample is None:
            return Outcome.OVER
        made = await self._attempt(stages, sample, number, self._turn)
        if isinstance(made, Outcome):
            return made
        self._found[position] = made
        return Outcome.KEPT


async def _each(places: range) -> AsyncIterator[Position]:
    for place in places:
        yield Position(place)


@asynccontextmanager
async def open_bench(
    recipe: Recipe,
    folder: Path,
    *,
    engine: Engine | None = None,
    verifier: Verifier | None = None,
    quiet: bool = False,
) -> AsyncIterator[Bench]:
    """The recipe's policy with its problems, open; `folder` has the store. Raises UserError."""
    async with AsyncExitStack() as stack:
        stack.enter_context(told(folder, quiet=quiet))
        store = stack.enter_context(Store(folder / "store.sqlite"))
        answers = Answers((recipe.cache or folder) / "answers.sqlite")
        stack.callback(answers.close)
        budget = open_budget(recipe, store.dollars, store.pay)
        judge = open_judge(recipe, budget)
        if judge is not None:
            stack.push_async_callback(judge.close)

        def opened(own: Recipe, sampled: OnDemand) -> Verifier:
            if verifier is not None:
                return verifier
            checker = open_checker(own, sampled)
            if checker is not None and checker.engine is not sampled:
                stack.push_async_callback(checker.engine.close)
            made = open_verifier(own, budget, checker=checker)
            stack.push_async_callback(made.close)
            return made

        left_out: Counter[str] = Counter()
        yield Bench(
            recipe=recipe,
            store=store,
            answers=answers,
            rules=stack.enter_context(RuleJudge()),
            judge=judge,
            engine=engine,
            verifier=opened if recipe.verifier else None,
            problems=_take_problems(store, recipe, judge is None, left_out),
            left_out=left_out,
            quiet=quiet,
        )


def settled(recipe: Recipe, engine: Engine | None = None, verifier: Verifier | None = None) -> Recipe:
    """The recipe with its engine, policy and verifier settled. Raises UserError if something is missing."""
    recipe = settle(recipe, engine)
    if loads_here(recipe, engine):
        check_policy(recipe.policy or "")
    return recipe if verifier is None else recipe.model_copy(update={"verifier": verifier_label(verifier)})


def default_out(recipe: Recipe) -> Path:
    """runs/<name of the policy>/evaluation.json."""
    return Path("runs") / name_of(recipe).replace("/", "--") / "evaluation.json"


def store_folder(out: Path, recipe: Recipe) -> Path:
    """Where a measure whose file is `out` keeps responses: in the store of the run in whose folder `out` lies, else
    in the policy's own folder beside `out`, so that several policies can be measured at once. Raises UserError where
    nothing could be written to `out`."""
    if out.is_dir():
        raise UserError(f"{out} is a folder: give a file, such as {out / 'evaluation.json'}")
    if (out.parent / "store.sqlite").exists():
        return out.parent
    name = name_of(recipe).replace("/", "--")
    return out.parent / "stores" / f"{name}-{edges_fingerprint(recipe.policy or recipe.model or '')[:8]}"


def _take_problems(store: Store, recipe: Recipe, by_rule: bool, left_out: Counter[str]) -> list[Number]:
    """The numbers in the store of the recipe's problems. Those that no response could be judged by are left out:
    for them every token would be in vain."""
    sources = sources_of(recipe)
    source = read_all(sources, columns=recipe.columns, limit=recipe.limit)
    if len(sources) > 1:
        source = _apart(source)
    names: set[str] = set()
    numbers: list[Number] = []
    while chunk := list(islice(_fit(source, by_rule, left_out, names), _READ)):
        for item in chunk:
            for name, data in zip(item.problem.images, item.images, strict=True):
                store.put_image(name, data)
        numbers += store.know([item.problem for item in chunk])
        store.commit()
    if not numbers:
        raise UserError(f"{recipe.problems} has no problem to measure by: {_told(left_out)}")
    return numbers


def _apart(source: Iterator[Incoming | Dropped]) -> Iterator[Incoming | Dropped]:
    """Those of several sources, each of two problems with one id by a name of its own."""
    seen: dict[str, Problem] = {}
    for item in source:
        apart = told_apart(item, seen.get(item.problem.id)) if isinstance(item, Incoming) else item
        if isinstance(apart, Incoming):
            seen.setdefault(apart.problem.id, apart.problem)
        yield apart


def _fit(
    source: Iterator[Incoming | Dropped], by_rule: bool, left_out: Counter[str], names: set[str]
) -> Iterator[Incoming]:
    """The problems of `source` that can be judged, each id once; the others are counted."""
    for item in source:
        reason = item.reason if isinstance(item, Dropped) else _misfit(item, by_rule, names)
        if isinstance(item, Incoming) and reason is None:
            names.add(item.problem.id)
            yield item
        else:
            left_out[reason or ""] += 1


def _misfit(item: Incoming, by_rule: bool, names: set[str]) -> str | None:
    problem = item.problem
    if problem.id in names:
        return "duplicate"
    fault = gold_fault(problem) if by_rule or problem.answer_type != "open" else None
    return fault and f"cannot be judged: {fault}"


def _told(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(3)) or "it is empty"
