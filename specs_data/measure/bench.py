"""Sampling a policy on a set of problems, all of them, as often as wanted: what evaluate and errors share.

Responses pass the same stages as a build's, through the same store under the same keys: the same command resumes,
and what a build sampled with these settings is not sampled again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice, product
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from tqdm import tqdm

from specs_data import engines
from specs_data.engines import Engine
from specs_data.errors import UserError, first_error
from specs_data.format import load_format
from specs_data.judges.model import ModelJudge, open_judge
from specs_data.judges.rules import RuleJudge, gold_fault
from specs_data.plugins import verifier_label
from specs_data.problems import Dropped, Incoming, read_problems
from specs_data.recipe import Recipe
from specs_data.records import Sample
from specs_data.rollouts.answers import Answers
from specs_data.rollouts.checking import open_checker
from specs_data.rollouts.demand import OnDemand
from specs_data.rollouts.plan import Parts, make_plan, name_of
from specs_data.rollouts.progress import say, told
from specs_data.rollouts.sample import check_policy, policy_fingerprint, sampling
from specs_data.rollouts.stages import Stages, durable
from specs_data.rollouts.store import Index, Number, Store
from specs_data.services.opening import open_budget
from specs_data.texts import system_prompt
from specs_data.verifiers import Verifier, open_verifier
from specs_data.verifiers.none import NoVerifier

# Responses, from the first on, whose nuclei are wanted: the paper's largest sample for its Rollout Branching Factor.
# The chances of the likeliest tokens are a hundred times as long as the text itself.
BRANCHING = 480
MINUTE = 60.0  # seconds between two lines off a terminal
_READ = 256  # problems that are taken from the source together
_WINDOW = 256  # responses under way before an engine says how many keep it busy

T = TypeVar("T")
Attempt = Callable[[Stages, Sample, Number], Awaitable[T]]


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
            return self.engine or await engines.open_engine(recipe, sampling(recipe, fmt))

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
        # What waits for a judging service takes no place from what waits for the policy.
        for _ in range(sum(one.concurrency for one in (parts.verifier, self.judge) if one is not None)):
            room.release()
        found: dict[tuple[int, int], T] = {}

        async def one(number: Number, index: Index, nuclei: bool) -> None:
            try:
                problem = self.store.problem(number)
                sample = await stages.sample(stages.log, engine, stages.policy, problem, number, index, nuclei=nuclei)
                if sample is not None:
                    found[index, number] = await attempt(stages, sample, number)
                watch.step()
            finally:
                room.release()

        watch = _Watch(fmt.name, len(self.problems) * recipe.samples, self.quiet)
        try:
            async with asyncio.TaskGroup() as tasks:
                for place, (index, number) in enumerate(product(range(recipe.samples), self.problems)):
                    await room.acquire()
                    tasks.create_task(one(number, Index(index), place < BRANCHING))
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            watch.close()
            await engine.close()
        return [found[key] for key in sorted(found)]


class _Watch:
    """A bar over responses; off a terminal, a line a minute."""

    def __init__(self, label: str, total: int, quiet: bool) -> None:
        self._bar = tqdm(total=total, desc=label, unit=" responses", disable=quiet or None, dynamic_ncols=True)
        self._label = label
        self._total = total
        self._done = 0
        self._started = self._told = time.monotonic()
        self._tells = self._bar.disable and not quiet

    def step(self) -> None:
        """One more response is done."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._tells and now - self._told >= MINUTE:
            self._told = now
            pace = self._done / (now - self._started)
            left = (self._total - self._done) / pace / 60
            say(f"{self._label}: {self._done:,} of {self._total:,} responses, {pace:.1f}/s, {left:.0f} minutes left")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


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
        budget = open_budget(recipe, sum(paid.dollars for paid in store.paid().values()), store.pay)
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
    if recipe.problems is None:
        raise UserError("no problems: give --problems SRC, or problems = ... in specs-data.toml")
    if verifier is not None:
        recipe = recipe.model_copy(update={"verifier": verifier_label(verifier)})
    if engine is not None:
        return recipe
    name = engines.engine_name(recipe)
    if name == "openai":
        recipe = engines.at_server(recipe)
    if recipe.policy is None:
        raise UserError("no policy: give --policy CKPT, or --base-url URL of a server")
    if name != "openai" and recipe.ray in (None, "local"):  # a cluster has folders of its own
        check_policy(recipe.policy)
    return recipe.model_copy(update={"engine": name})


def default_out(recipe: Recipe) -> Path:
    """runs/<name of the policy>/evaluation.json."""
    return Path("runs") / name_of(recipe).replace("/", "--") / "evaluation.json"


def store_folder(out: Path, recipe: Recipe) -> Path:
    """Where a measure whose file is `out` keeps responses: in the store of the run in whose folder `out` lies, else
    in the policy's own folder beside `out`, so that several policies can be measured at once."""
    if (out.parent / "store.sqlite").exists():
        return out.parent
    name = name_of(recipe).replace("/", "--")
    return out.parent / "stores" / f"{name}-{policy_fingerprint(recipe.policy or recipe.model or '')[:8]}"


def _take_problems(store: Store, recipe: Recipe, by_rule: bool, left_out: Counter[str]) -> list[Number]:
    """The numbers in the store of the recipe's problems. Those that no response could be judged by are left out:
    for them every token would be in vain."""
    source = read_problems(recipe.problems or "", preset=recipe.preset, columns=recipe.columns, limit=recipe.limit)
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
