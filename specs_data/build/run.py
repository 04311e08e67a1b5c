"""The main job: problems -> samples -> judged -> verified -> pairs -> dataset.

The policy is the expensive part. A problem's next response is asked for only while the problem has
too few kept pairs, and unsolved problems come last, so that an interrupted run has the most pairs
for its tokens. Judging, verifying and corrupting happen while the model generates. Each stage looks
into the store first, so the same command resumes a run, and a changed setting repeats only the
stages it concerns.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from specs_data import engines
from specs_data.build import dataset
from specs_data.build.agenda import Agenda, first_in_order
from specs_data.build.flow import Attempt, Clock, Flow, OnDemand, Outcome, search
from specs_data.build.forecast import Forecast, Measured, judging_cost, judging_tokens, scale
from specs_data.build.manifest import make_manifest
from specs_data.engines import Engine
from specs_data.errors import UserError
from specs_data.format import load_format
from specs_data.judges.model import open_judge
from specs_data.judges.rules import RuleJudge, gold_fault
from specs_data.loop import run
from specs_data.pairs.card import render_card
from specs_data.pairs.manifest import Manifest, read_manifest, write_manifest
from specs_data.pairs.rows import open_dataset, rows
from specs_data.plugins import find_corruptions, verifier_label
from specs_data.problems import Dropped, Incoming, count_problems, read_problems
from specs_data.recipe import Recipe, differences, dump_recipe, make_recipe
from specs_data.records import Pair
from specs_data.rollouts.planning import Parts, check_corruptions, make_plan, name_of, rival_recipe
from specs_data.rollouts.progress import Progress, say
from specs_data.rollouts.responses import read_responses
from specs_data.rollouts.sample import check_policy, sampling
from specs_data.rollouts.store import Answers, Store
from specs_data.services.opening import open_budget
from specs_data.services.prices import load_prices
from specs_data.texts import load_card, system_prompt
from specs_data.verifiers import Verifier, open_verifier, verifier_name

if TYPE_CHECKING:
    from specs_data.build.leakage import Leakage
    from specs_data.services.gemini_batch import Job

# The source is read ahead by so many problems, or by so many bytes of pictures; at first by a few, for the
# model to begin with.
_READ_FIRST = 64
_READ_AHEAD = 1024
_READ_AHEAD_BYTES = 8_000_000
# Responses under way before an engine says how many keep it busy.
_WINDOW = 256


class Built(Struct, frozen=True):
    """A finished run: its folder and its manifest."""

    out: Path
    manifest: Manifest

    @property
    def recipe(self) -> Recipe:
        """The recipe it was built with."""
        return make_recipe({}, self.out / "recipe.toml")

    @property
    def count(self) -> int:
        """How many pairs the dataset has."""
        return sum(self.manifest.dataset.rows.values())

    def pairs(self) -> Iterator[Pair]:
        """The pairs of the dataset, split by split, read from its files as they are asked for."""
        return rows(open_dataset(self.out)) if self.count else iter(())


def build(
    recipe: Recipe,
    out: Path | str | None = None,
    *,
    engine: Engine | None = None,
    rival: Engine | None = None,
    verifier: Verifier | None = None,
    quiet: bool = False,
) -> Built:
    """Build the dataset of `recipe` in the folder `out` (default: runs/<name of the policy>).

    `engine`, `rival` (the policy of `rejected_from`) and `verifier` take the place of those that the
    recipe names. Raises UserError for what the user must change; what is done by then is kept, and
    the same call goes on from there.
    """
    recipe = check(recipe, engine, rival, verifier)
    with _seldom_collected():
        return run(_Build(recipe, Path(out or default_out(recipe)), engine, rival, verifier, quiet).run())


def forecast(
    recipe: Recipe,
    out: Path | str | None = None,
    pilot: int = 32,
    *,
    engine: Engine | None = None,
    verifier: Verifier | None = None,
    quiet: bool = False,
) -> Forecast:
    """What `build` would give and take, by trying the first `pilot` problems.

    What the pilot generates and verifies goes into the run's store: the build does not repeat it.
    """
    recipe = check(recipe, engine, verifier=verifier)
    total = count_problems(recipe.problems or "", recipe.limit)
    # A batch job would keep the pilot waiting for up to a day.
    small = recipe.model_copy(update={"limit": min(pilot, total or pilot), "gemini_batch": False})
    pilot_run = _Build(small, Path(out or default_out(recipe)), engine, None, verifier, quiet)
    measured = run(pilot_run.measure(batch=recipe.gemini_batch and recipe.verifier == "gemini"))
    return scale(measured, total, recipe.target)


def load_run(out: Path | str) -> Built:
    """The finished run in the folder `out`. Raises UserError."""
    try:
        manifest = read_manifest((Path(out) / "manifest.json").read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        manifest = None
    if manifest is None:
        raise UserError(f"{out} is not a finished run: it has no readable manifest.json")
    return Built(Path(out), manifest)


def default_out(recipe: Recipe) -> Path:
    """runs/<name of the policy, or of the file of responses>."""
    return Path("runs") / name_of(recipe).replace("/", "--")


def check(
    recipe: Recipe, engine: Engine | None = None, rival: Engine | None = None, verifier: Verifier | None = None
) -> Recipe:
    """The recipe with its defaults settled. Raises UserError if something is missing."""
    if recipe.problems is None:
        raise UserError("no problems: give --problems SRC, or problems = ... in specs-data.toml")
    sampled = recipe.responses is None and engine is None
    name = engines.engine_name(recipe) if engine is None else type(engine).__name__
    served = sampled and name == "openai"
    if sampled and not served and recipe.policy is None:
        raise UserError(
            "no policy: give --policy CKPT (or policy = ... in specs-data.toml), --base-url URL of a server, "
            "or --responses FILE"
        )
    if recipe.rejected_from != "chosen" and recipe.responses is not None:
        raise UserError("--rejected-from CKPT needs a policy that can be sampled, so it cannot go with --responses")
    # What is handed over is what it says it is, whatever the recipe names.
    judge = verifier_name(recipe) if verifier is None else verifier_label(verifier)
    changes: dict[str, Any] = {"verifier": judge}
    if recipe.responses is None:
        changes["engine"] = name
    if served and (recipe.model or not recipe.policy):
        # The policy is what the server is asked for, whatever checkpoint else is named.
        model = recipe.model or run(engines.only_model(recipe))
        changes |= {"policy": model, "model": model}
    local = sampled and name in ("transformers", "vllm")
    if local and recipe.ray in (None, "local"):  # a cluster has folders of its own
        check_policy(recipe.policy or "")
        if recipe.rejected_from != "chosen" and rival is None:
            check_policy(recipe.rejected_from)
    return recipe.model_copy(update=changes)


class _Build:
    """One call of `build`."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        engine: Engine | None,
        rival: Engine | None,
        verifier: Verifier | None,
        quiet: bool,
    ) -> None:
        self.recipe = recipe
        self.out = out
        self.engine = engine
        self.rival = rival
        self.verifier = verifier
        self.quiet = quiet
        self._numbers: dict[int, int] = {}  # in the store, of the positions read ahead
        self.started = datetime.now(UTC).isoformat(timespec="seconds")

    async def run(self) -> Built:
        """Sample, judge, verify and pair as far as needed; then write the dataset."""
        self._say_changes()
        async with self._searched():
            built = self._finish()
        if built.count < (self.recipe.target or 0) and not self.quiet:
            say(f"{built.count} of {self.recipe.target} pairs: no problem is left to ask about")
        return built

    async def measure(self, *, batch: bool) -> Measured:
        """Sample, judge, verify and pair as far as needed; then only count. With `batch`, verdicts count at the
        price of batch jobs."""
        async with self._searched():
            store, plan = self.store, self.plan
            served = dataset.count_served(store, plan)
            rounds = dataset.count_rounds(store, plan)
            return Measured(
                read=dataset.count_read(store),
                counts={**dataset.count_stages(store, plan), "pairs": sum(kept for _, kept in rounds)},
                rounds=rounds,
                tokens={"generation": dataset.count_tokens(store, plan), **judging_tokens(served)},
                seconds=dataset.time_stages(store, plan, self.before),
                cost=judging_cost(served, load_prices(self.recipe.prices), batch),
            )

    @asynccontextmanager
    async def _searched(self) -> AsyncIterator[None]:
        """The open run, once all its problems are searched."""
        if (self.out / "dataset").exists() and not (self.out / "store.sqlite").exists():
            raise UserError(f"{self.out} has a dataset that specs-data did not build; use another --out")
        async with AsyncExitStack() as stack:
            self.store = stack.enter_context(Store(self.out / "store.sqlite"))
            answers = Answers((self.recipe.cache or self.out) / "answers.sqlite")
            stack.callback(answers.close)
            await self._open(stack, answers)
            syncing = asyncio.create_task(_sync(self.store))
            try:
                await self._search(stack)
                self.flow.settle()
            finally:
                syncing.cancel()
                self._spend()
            yield

    def _say_changes(self) -> None:
        """Name what differs from the recipe of the last build in this folder."""
        try:
            changes = differences(make_recipe({}, self.out / "recipe.toml"), self.recipe)
        except UserError:  # there is none, or not one of this version: it is only looked at, and written anew
            return
        if changes and not self.quiet:
            say(f"changed since the last build in {self.out}: {'; '.join(changes)}")

    def _spend(self) -> None:
        """Put the time of this call on record, the model's loading apart from its work."""
        seconds = {stage: clock.seconds for stage, clock in self.flow.clocks.items()}
        seconds["generate"] = max(0.0, seconds["generate"] - seconds["load"])
        for stage, passed in seconds.items():
            self.store.spend(stage, passed)
        self.store.commit()

    # Opening

    async def _open(self, stack: AsyncExitStack, answers: Answers) -> None:
        recipe = self.recipe
        load_card(recipe.card)  # a name that is none should stop the run before it costs anything
        self.before = self.store.seconds()
        budget = open_budget(recipe, sum(paid.dollars for paid in self.store.paid().values()), self.store.pay)
        verifier = self.verifier
        if verifier is None:
            verifier = open_verifier(recipe, budget, _Jobs(answers))
            stack.push_async_callback(verifier.close)
        judge = open_judge(recipe, budget)
        if judge is not None:
            stack.push_async_callback(judge.close)
        fmt = load_format(recipe.format)
        corruptions = find_corruptions(recipe.corruption, fmt.layout)
        self.parts = Parts(
            recipe=recipe,
            fmt=fmt,
            system=system_prompt(recipe.system_prompt, fmt.instruction),
            corruptions=corruptions,
            weights=dict(zip(corruptions, recipe.corruption.values() or repeat(1.0), strict=False)),
            verifier=verifier,
            judge=judge,
            engine=self.engine,
            rival=self.rival,
        )
        self.plan = make_plan(self.store, self.parts)
        if self.plan.rival is None:  # whose responses may be malformed by themselves
            check_corruptions(corruptions, fmt)
        self.flow = Flow(self.plan, self.parts, self.store, answers, stack.enter_context(RuleJudge()))

    # Searching

    async def _search(self, stack: AsyncExitStack) -> None:
        recipe, plan = self.recipe, self.plan
        positions = self._list()
        if recipe.responses is not None:
            positions = _each([position async for position in positions])
            self._take_responses(recipe.responses)
        # Problems that wait for a judging service take no place from those that wait for the policy.
        waiting = sum(one.concurrency for one in (self.parts.verifier, self.parts.judge) if one is not None)
        room = asyncio.Semaphore(_WINDOW + waiting)
        engine = None if recipe.responses is not None else self._on_demand(stack, recipe, self.engine, room)

        async def choose(number: int, index: int, kept: int) -> Outcome:
            return await self.flow.choose(engine, number, index)

        rival = engine
        if recipe.rejected_from != "chosen":
            rival = self._on_demand(stack, rival_recipe(recipe), self.rival, room)
        label, target = "chosen" if plan.rival else "pairs", recipe.target
        while True:
            agenda = Agenda(plan.samples, recipe.samples_upfront, target)
            await self._play(label, agenda, positions, choose, lambda _: recipe.pairs_per_problem, room)
            if plan.rival is None:
                return
            await _make_way(engine, rival)
            await self._search_rejected(rival, room, target)
            missing = (recipe.target or 0) - dataset.count_pairs(self.store, plan)
            if missing <= 0 or agenda.open or not target or not recipe.target:
                return
            # Some chosen responses found no rejected one: that many more are needed.
            target += -(-target * missing // recipe.target)
            positions = self._again(positions)
            await _make_way(rival, engine)

    async def _search_rejected(self, engine: Engine | None, room: asyncio.Semaphore, target: int | None) -> None:
        """The second search: a response of the rival as the rejected side of each of the first `target` chosen."""

        async def reject(number: int, index: int, kept: int) -> Outcome:
            return await self.flow.reject(engine, number, self._chosen(number)[kept], index)

        listed = list(self.store.select("SELECT position, problem FROM listing ORDER BY position"))
        kept = {(position, index) for position, number in listed for index in self._chosen(number)}
        if target is not None:
            kept = first_in_order(kept, target, self.recipe.samples_upfront)
        wanted = Counter(self.store.listed(position) for position, _ in kept)
        positions = [position for position, number in listed if wanted[number]]
        await self._play("rejected", Agenda(self.plan.samples), _each(positions), reject, wanted.__getitem__, room)

    def _chosen(self, number: int) -> list[int]:
        """The indices of the chosen responses of a problem."""
        found = dataset.chosen(self.store, self.plan, number)
        return list(islice(found, self.recipe.pairs_per_problem))

    async def _again(self, rest: AsyncIterator[int]) -> AsyncIterator[int]:
        """The problems listed so far once more, from the store, then the `rest` of the source."""
        for (position,) in list(self.store.select("SELECT position FROM listing ORDER BY position")):
            yield position
        async for position in rest:
            yield position

    async def _play(
        self,
        label: str,
        agenda: Agenda,
        positions: AsyncIterator[int],
        attempt: Attempt,
        wanted: Callable[[int], int],
        room: asyncio.Semaphore,
    ) -> None:
        progress = Progress(label, count_problems(self.recipe.problems or "", self.recipe.limit), self.quiet)
        try:
            await search(agenda, positions, attempt, number=self._number, wanted=wanted, room=room, done=progress.step)
        finally:
            progress.close()

    def _on_demand(
        self, stack: AsyncExitStack, recipe: Recipe, given: Engine | None, room: asyncio.Semaphore
    ) -> Engine:
        async def opened() -> Engine:
            if given is not None:
                return given
            with self.flow.clocks["load"]:
                return await engines.open_engine(recipe, sampling(recipe, self.plan.fmt))

        engine = OnDemand(opened, room, _WINDOW, lent=given is not None)
        stack.push_async_callback(engine.close)
        return engine

    async def _list(self) -> AsyncIterator[int]:
        """Give each problem of the source its place in the run; the positions, in order."""
        recipe, store = self.recipe, self.store
        store.start_listing()
        leakage = _leakage(recipe.exclude) if recipe.exclude else None
        source = read_problems(recipe.problems or "", preset=recipe.preset, columns=recipe.columns, limit=recipe.limit)
        by_rule = self.parts.judge is None
        async for chunk in _ahead(_screened(source, leakage, by_rule)):
            listed = store.list_problems(
                [(item.position, item.problem) for item in chunk if isinstance(item, Incoming)]
            )
            for item in chunk:
                if isinstance(item, Dropped):
                    store.drop("input", item.position, item.reason, item.detail)
                elif item.position not in listed:
                    store.drop("input", item.position, "duplicate", item.problem.id)
                else:
                    for name, data in zip(item.problem.images, item.images, strict=True):
                        store.put_image(name, data)
                    if recipe.responses is None:
                        self._expect(item, *listed[item.position])
            for position in listed:
                yield position

    def _expect(self, item: Incoming, number: int, unseen: bool) -> None:
        """What was just read need not be looked up in the store."""
        self._numbers[item.position] = number
        if unseen:
            self.flow.expect(number, item.problem)

    def _number(self, position: int) -> int:
        return self._numbers.pop(position, None) or self.store.listed(position)

    def _take_responses(self, file: Path) -> None:
        """Log the responses of `file` as samples, numbered in their order for each problem."""
        store, settings = self.store, self.plan.policy.samples
        taken: array[int] = array("I")
        for row, found in enumerate(read_responses(file)):
            number = None if isinstance(found, str) else store.named(found[0])
            if isinstance(found, str) or number is None:
                store.drop(
                    "responses", row, *((found,) if isinstance(found, str) else ("unknown problem_id", found[0]))
                )
                continue
            if number >= len(taken):
                taken.extend(repeat(0, number + 1 - len(taken)))
            store.put("samples", settings, number, taken[number], None, found[1])
            taken[number] += 1
        store.commit()

    # The dataset

    def _finish(self) -> Built:
        """Write the recipe, the dataset, what was left out and the manifest, each in one step."""
        store, plan, out = self.store, self.plan, self.out
        fresh = out / "dataset.part"
        shutil.rmtree(fresh, ignore_errors=True)
        with Clock() as clock:
            splits, figures = dataset.write_rows(store, plan, fresh)
            left_out = dataset.write_left_out(store, plan, out / "dropped.part")
        manifest = make_manifest(
            store,
            plan,
            splits=splits,
            figures=figures,
            left_out=left_out,
            operators={name: found.describe() for name, found in self.parts.corruptions.items()},
            rubric=self.parts.verifier.settings.get("prompt"),
            seconds={**store.seconds(), "dataset": clock.seconds},
            started=self.started,
        )
        if figures.pairs:
            card = render_card(
                manifest, list(figures.examples.values()), template=self.recipe.card, license=self.recipe.license
            )
            (fresh / "README.md").write_text(card, encoding="utf-8")
        else:
            shutil.rmtree(fresh, ignore_errors=True)
        if self.recipe.holdout and figures.pairs and "test" not in splits and not self.quiet:
            say(
                f"no test split: problems that share a picture stay together, and none of their groups fits into "
                f"--holdout {self.recipe.holdout:g} of {figures.pairs} pairs beside a train split"
            )
        # From here on nothing can fail that a user could mend: the run's files belong together.
        (out / "recipe.toml").write_text(dump_recipe(self.recipe), encoding="utf-8")
        (out / "dropped.part").replace(out / "dropped.jsonl")
        _swap(fresh if figures.pairs else None, out / "dataset")
        write_manifest(manifest, out / "manifest.json")
        return Built(out, manifest)


class _Jobs:
    """Gemini's open batch jobs, kept beside the answers."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def jobs(self) -> list[Job]:
        from specs_data.services.gemini_batch import Job

        return self._answers.jobs(Job)

    def put_job(self, job: Job) -> None:
        self._answers.put_job(job.label, job)


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Rows hold no cycles: looking for some as often as Python does by itself takes a sixteenth of the host's work."""
    before = gc.get_threshold()
    gc.set_threshold(10_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _leakage(sets: Sequence[str]) -> Leakage:
    """The evaluation sets whose problems are left out."""
    from specs_data.build.leakage import Leakage

    found = (item for name in sets for item in read_problems(name, gold=False))
    return Leakage((item.problem.question, item.images) for item in found if isinstance(item, Incoming))


def _screened(
    items: Iterator[Incoming | Dropped], leakage: Leakage | None, by_rule: bool
) -> Iterator[Incoming | Dropped]:
    """`items` without the problems that also occur in an evaluation set, and without those to which no
    response could be judged: for them every token would be in vain."""
    for item in items:
        yield item if isinstance(item, Dropped) else _screen(item, leakage, by_rule)


def _screen(item: Incoming, leakage: Leakage | None, by_rule: bool) -> Incoming | Dropped:
    problem = item.problem
    if reason := leakage and leakage.match(problem.question, item.images):
        return Dropped(item.position, f"excluded: {reason}")
    if (by_rule or problem.answer_type != "open") and (fault := gold_fault(problem)):
        return Dropped(item.position, f"cannot be judged: {fault}", problem.id)
    return item


async def _make_way(engine: Engine | None, following: Engine | None) -> None:
    """Close `engine` before another one is opened: two models seldom fit on one GPU."""
    if engine is not None and engine is not following:
        await engine.close()


async def _ahead(items: Iterator[Incoming | Dropped]) -> AsyncIterator[list[Incoming | Dropped]]:
    """`items` in chunks, read ahead in a thread, so that slow files never hold the model up."""
    following = asyncio.create_task(asyncio.to_thread(_chunk, items, _READ_FIRST))
    while chunk := await following:
        following = asyncio.create_task(asyncio.to_thread(_chunk, items, _READ_AHEAD))
        yield chunk


def _chunk(items: Iterator[Incoming | Dropped], most: int) -> list[Incoming | Dropped]:
    """The next items: at most as many as the store takes well at once, and as memory has room for their pictures."""
    chunk: list[Incoming | Dropped] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += sum(map(len, item.images)) if isinstance(item, Incoming) else 0
        if len(chunk) >= most or size >= _READ_AHEAD_BYTES:
            break
    return chunk


async def _each(items: list[int]) -> AsyncIterator[int]:
    for item in items:
        yield item


async def _sync(store: Store) -> None:
    """Make what is committed safe against a power failure, once a second."""
    while True:
        await asyncio.sleep(1)
        await asyncio.to_thread(store.sync)


def _swap(fresh: Path | None, place: Path) -> None:
    """Put the folder `fresh`, or nothing, in the place of the one before."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    if fresh:
        fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)
