"""The main job: problems -> samples -> judged -> verified -> pairs -> dataset.

The policy is the expensive part. A problem's next response is asked for only while the problem has
too few kept pairs, and unsolved problems come last, so that an interrupted run has the most pairs
for its tokens. Judging, verifying and corrupting happen while the model generates. Each stage looks
into the store first, so the same command resumes a run, and a changed setting repeats only the
stages it concerns.
"""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from polars import DataFrame, col

from specs_data.build import again, dataset
from specs_data.build.fates import keep_fates
from specs_data.build.flow import Asking, Blind, Choosing, Rejecting
from specs_data.build.forecast import Forecast, Measured, measure, scale
from specs_data.build.keep import default_out, digest_of, keep_card, manifest_of, refuse_empty, refuse_to_replace
from specs_data.build.listing import each, take_responses
from specs_data.build.manifest import make_manifest
from specs_data.build.opening import Given, Manner, Run, opened, spend
from specs_data.build.tally import most_frequent
from specs_data.engines import Engine
from specs_data.errors import InVain, UserError
from specs_data.files import put_in_place, write_whole, writing
from specs_data.loop import run
from specs_data.pairs.card import write_card
from specs_data.pairs.manifest import Counts, Manifest, write_manifest
from specs_data.pairs.rows import open_dataset, rows
from specs_data.pairs.shard import SHARD, write_places
from specs_data.plugins import verifier_label
from specs_data.problems import count_all, sources_of
from specs_data.recipe import Recipe, differences, dump_recipe, make_recipe
from specs_data.records import Pair
from specs_data.rollouts.checking import asks_sampled
from specs_data.rollouts.demand import OnDemand
from specs_data.rollouts.frames import FATES, PILOT, FrameName, read_frame
from specs_data.rollouts.plan import Source, are_given
from specs_data.rollouts.progress import say, told
from specs_data.rollouts.sample import check_policy, loads_here, settle
from specs_data.rollouts.search import Agenda, Quest, Turn, search
from specs_data.rollouts.stages import Clock
from specs_data.rollouts.store import Index, Position
from specs_data.services.prices import load_prices
from specs_data.verifiers import Verifier, verifier_name


class Pairs(int):
    """How many pairs a run has, the number that `pairs` was before; called, it gives them."""

    def __new__(cls, run: Built) -> Self:
        made = super().__new__(cls, run.count)
        made._run = run
        return made

    _run: Built

    def __call__(self) -> Iterator[Pair]:
        """The pairs of the dataset, split by split, read from its files as they are asked for."""
        return rows(open_dataset(self._run.out)) if self else iter(())


class Built(Struct, frozen=True):
    """A finished run: its folder and its manifest."""

    out: Path
    manifest: Manifest

    @property
    def recipe(self) -> Recipe:
        """The recipe it was built with."""
        return make_recipe({}, self.out / "recipe.toml")

    def frame(self, name: FrameName) -> DataFrame:
        """The run's "responses" (texts, verdicts, and where each ended and why), "pairs" (the dataset's rows without
        the bytes of pictures) or "dropped" (what was left out) as a polars frame. Raises UserError."""
        return read_frame(self.out, name)

    @property
    def count(self) -> int:
        """How many pairs the dataset has."""
        return sum(self.manifest.dataset.rows.values())

    @property
    def pairs(self) -> Pairs:
        """`pairs()` yields the pairs of the dataset, typed; as a number it is how many there are."""
        return Pairs(self)


def build(
    recipe: Recipe,
    out: Path | str | None = None,
    *,
    engine: Engine | None = None,
    rival: Engine | None = None,
    verifier: Verifier | None = None,
    quiet: bool = False,
    verbose: bool = False,
    overwrite: bool = False,
    go_on: bool = False,
) -> Built:
    """Build the dataset of `recipe` in the folder `out` (default: runs/<name of the policy>).

    `engine`, `rival` (the policy of `rejected_from`) and `verifier` take the place of those that the
    recipe names. A finished dataset gives way to an empty one, or to one of another policy or other problems, only
    with `overwrite`. Where a policy never keeps the format, a verifier drops nearly all, or no operator makes a
    rejected response, the run stops with InVain after a few dozen, unless told to `go_on`. Raises UserError
    for what the user must change; what is done by then is kept, and the same call goes on from there.
    """
    recipe = check(recipe, engine, rival, verifier)
    place, given = Path(out or default_out(recipe)), Given(engine, rival, verifier)
    with _seldom_collected(), told(place, quiet=quiet, verbose=verbose):
        return run(_build(recipe, place, given, Manner(quiet, verbose, overwrite, go_on)))


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
    whole, parts = count_all(sources_of(recipe), recipe.limit), recipe.part[1]
    # The pilot asks in the order of the build, and nobody ahead of time: it leaves most slots idle, and would tell of
    # more tokens than the build takes. A batch job would keep it waiting for up to a day.
    shuffle = recipe.shuffle if recipe.shuffle is not None or recipe.shuffled else False
    limit = min(pilot * parts, whole or pilot * parts)
    small = recipe.model_copy(update={"limit": limit, "shuffle": shuffle, "gemini_batch": False})
    total = None if whole is None else -(-whole // parts)
    place, given = Path(out or default_out(recipe)), Given(engine, None, verifier)
    batch = recipe.gemini_batch and recipe.verifier == "gemini"
    with told(place, quiet=quiet):
        return scale(run(_measure(small, place, given, Manner(quiet, ahead=False), batch)), total, recipe.wanted)


def load_run(out: Path | str) -> Built:
    """The finished run in the folder `out`. Raises UserError."""
    manifest = manifest_of(Path(out))
    if manifest is None:
        raise UserError(f"{out} is not a finished run: it has no readable manifest.json")
    return Built(Path(out), manifest)


def check(
    recipe: Recipe, engine: Engine | None = None, rival: Engine | None = None, verifier: Verifier | None = None
) -> Recipe:
    """The recipe with its defaults settled. Raises UserError if something is missing."""
    recipe = settle(recipe, engine, ", or --responses FILE")
    sources_of(recipe)
    if recipe.rejected_from != "chosen" and recipe.rejected_responses is not None:
        raise UserError("--rejected-from and --rejected-responses both say whose responses are rejected; give one")
    if recipe.rejected_from != "chosen" and recipe.responses is not None:
        raise UserError(
            "--rejected-from CKPT needs a policy that can be sampled, so it cannot go with --responses; give the "
            "rejected side as --rejected-responses FILE"
        )
    if recipe.blind_check and recipe.responses is not None:
        raise UserError("--blind-check asks the policy without the pictures, so it cannot go with --responses")
    # What is handed over is what it says it is, whatever the recipe names.
    judge = verifier_name(recipe) if verifier is None else verifier_label(verifier)
    if loads_here(recipe, engine):
        check_policy(recipe.policy or "")
        if recipe.rejected_from != "chosen" and rival is None:
            check_policy(recipe.rejected_from)
    return recipe.model_copy(update={"verifier": judge})


async def _build(recipe: Recipe, out: Path, given: Given, manner: Manner) -> Built:
    """Sample, judge, verify and pair as far as needed; then write the dataset."""
    if not manner.overwrite:
        refuse_to_replace(recipe, out)
    async with opened(recipe, out, given, manner) as run:
        _say_changes(run.recipe, out)
        if recipe.natural_rejected and run.plan.rival is None:
            say("--natural-rejected has no effect on twins of chosen responses: it is for those of --rejected-from")
        state = again.state_of(run)
        if again.is_finished(run, state) and (manifest := manifest_of(out)) is not None:
            built = Built(out, manifest)
            say(f"nothing has changed since {out} was finished: {built.count} pairs")
        else:
            await _searched(run)
            with writing(out):
                built = _finish(run, manner.overwrite)
                again.keep(run, state)
    if built.count < (recipe.wanted or 0):
        say(f"{built.count} of {recipe.wanted} pairs: no problem is left to ask about")
    say(done_line(built.manifest))
    return built


async def _measure(recipe: Recipe, out: Path, given: Given, manner: Manner, batch: bool) -> Measured:
    """Sample, judge, verify and pair as far as needed; then only count, and write what there is into RUN/pilot."""
    async with opened(recipe, out, given, manner) as run:
        try:
            await _searched(run)
            vain = ""
        except InVain as reason:
            vain = str(reason)
        fates = run.fates()
        with writing(out / PILOT):
            (out / PILOT).mkdir(exist_ok=True)
            _finish(replace(run, out=out / PILOT), overwrite=True)
        why = vain or run.flow.tally.why()
        return measure(run.store, fates, run.before, load_prices(recipe.prices), batch=batch, why=why)


def _say_changes(recipe: Recipe, out: Path) -> None:
    """Name what differs from the recipe of the last build in this folder."""
    try:
        old = make_recipe({}, out / "recipe.toml")
        settled = {"shuffle": bool(recipe.shuffle)}  # which an earlier release did not say
        changes = differences(old.model_copy(update={"shuffle": bool(old.shuffle)}), recipe.model_copy(update=settled))
    except UserError:  # there is none, or not one of this version: it is only looked at, and written anew
        return
    if changes:
        say(f"changed since the last build in {out}: {'; '.join(changes)}")


# The search


async def _searched(run: Run) -> None:
    """Search all the run's problems."""
    try:
        await _search(run)
        run.flow.settle()
    finally:
        spend(run)


async def _search(run: Run) -> None:
    """Look for the pairs that the recipe asks for. Where a rival writes the rejected responses there are two
    searches, one after the other: two models seldom fit on one GPU."""
    recipe, listing = run.recipe, run.listing
    positions: AsyncIterator[Position] = listing.rest
    if are_given(recipe):
        positions = each([position async for position in listing.rest])
        _take_given(run)

    def choosing(turn: Turn) -> Quest:
        return Choosing(run.flow, listing, run.engine, recipe.pairs_per_problem, turn)

    target = recipe.wanted
    while True:
        run.flow.tally.begin()
        agenda = Agenda(run.plan.policy.most, recipe.samples_upfront, target, recipe.enough)
        label = "pairs" if run.plan.rival is None else "chosen"
        await _play(run, label, agenda, positions, choosing, run.engine, run.plan.policy)
        positions = listing.again()  # What is on record is gone through again and costs nothing.
        if run.plan.blind is not None and await _solved_blind(run, run.plan.blind, target):
            continue  # others take the place of those problems
        if run.plan.rival is None:
            return
        await _make_way(run.engine, run.rival)
        chosen = run.fates().chosen(recipe.pairs_per_problem, target)
        await _search_rejected(run, run.plan.rival, chosen)
        # Only what was searched counts: a pair that an earlier build left further on may have others before it.
        missing = (recipe.wanted or 0) - run.fates().pairs_of(chosen)
        if missing <= 0 or agenda.open or not target or not recipe.wanted:
            return
        # Some chosen responses found no rejected one: that many more are needed.
        target += -(-target * missing // recipe.wanted)
        await _make_way(run.rival, run.engine)


async def _solved_blind(run: Run, blind: Source, target: int | None) -> bool:
    """Ask the policy about the problems that have what the search was for, without their pictures. Whether there are
    solved ones among them that are to be left out."""
    fates = run.fates()
    if run.plan.rival is None:
        found = {Position(position) for position in fates.pairs["position"]}
    else:
        found = {*fates.chosen(run.recipe.pairs_per_problem, target)}
    pictured = [*map(Position, fates.problems.filter(col("pictured") > 0)["position"])]
    tried = [position for position in pictured if position in found]

    def answering(turn: Turn) -> Quest:
        return Blind(run.flow, run.listing, run.engine, turn)

    agenda = Agenda(blind.most, blind.most)
    await _play(run, "without pictures", agenda, each(tried), answering, run.engine, blind)
    if run.recipe.blind_check != "drop":
        return False
    return not found.isdisjoint(map(Position, run.fates().problems.filter("solved_blind")["position"]))


def _take_given(run: Run) -> None:
    """Log the responses that exist already, of either side."""
    recipe, plan = run.recipe, run.plan
    if recipe.responses is not None:
        take_responses(run.store, recipe, recipe.responses, plan.policy.samples, "responses")
    if recipe.rejected_responses is not None and plan.rival is not None:
        take_responses(run.store, recipe, recipe.rejected_responses, plan.rival.samples, "rejected")


async def _search_rejected(run: Run, rival: Source, chosen: Mapping[Position, Sequence[Index]]) -> None:
    """The second search: a response of the rival as the rejected side of each of these chosen ones. Which of them meet
    depends on all: pairs of before, of other chosen responses or without some of the rival's, must not stay among
    those."""
    run.store.forget("pairs", run.plan.pairs, map(run.listing.number, chosen))

    def rejecting(turn: Turn) -> Quest:
        return Rejecting(run.flow, run.listing, run.rival, chosen, turn)

    await _play(run, "rejected", Agenda(rival.most), each(list(chosen)), rejecting, run.rival, rival)


async def _play(
    run: Run,
    label: str,
    agenda: Agenda,
    positions: AsyncIterator[Position],
    quest: Callable[[Turn], Quest],
    engine: OnDemand | None,
    source: Source,
) -> None:
    lines = run.flow.lines(quest)
    async with run.progress(label) as progress:
        asked_again = run.plan.blind is not None and engine is run.engine
        release = None if engine is None or asked_again or asks_sampled(run.recipe) else engine.close
        # Of a first round that is all of a problem nothing more is wanted.
        further = run.ahead and source is not run.plan.blind
        ahead = Asking(run.flow, run.listing, engine, source) if engine is not None and further else None
        await search(agenda, positions, quest(Turn.POLICY), run.room, progress, lines, release, ahead)


async def _make_way(engine: OnDemand | None, following: OnDemand | None) -> None:
    """Close `engine` before another one is opened."""
    if engine is not None and engine is not following:
        await engine.close()


# The dataset


def done_line(manifest: Manifest) -> str:
    """What a finished run is told to have given."""
    counts = manifest.counts or Counts()
    lost: Counter[str] = Counter()
    for stage, reasons in (manifest.dropped or {}).items():
        own = "rejected: " if stage == "rejected" else ""  # a response of the rival's is wrong for itself
        lost.update({own + reason: count for reason, count in reasons.items()})
    rest = f"; left out: {most_frequent(lost)}" if lost else ""
    malformed = f"; {counts.malformed:,} responses lacked the format" if counts.malformed else ""
    return (
        f"done: {counts.pairs or 0:,} pairs from {counts.sampled or 0:,} responses to {counts.problems or 0:,} "
        f"problems{malformed}{rest}"
    )


def _finish(run: Run, overwrite: bool) -> Built:
    """Write the recipe, the dataset, what was left out and the manifest, each in one step."""
    store, plan, out, recipe = run.store, run.plan, run.out, run.recipe
    fresh = out / "dataset.part"
    shutil.rmtree(fresh, ignore_errors=True)
    with Clock() as clock:
        fates = run.fates()
        splits, figures = dataset.write_rows(store, fates, plan, fresh)
        left_out = dataset.write_left_out(fates.left_out(), out / "dropped.part")
        keep_fates(fates, plan, out / "fates.part")
        if recipe.shard is not None:
            write_places(dataset.places(store, fates, plan), out / "shard.part")
    if not figures.pairs and not overwrite:
        refuse_empty(out, run.flow.tally.why())
    manifest = make_manifest(
        store,
        plan,
        fates,
        splits=splits,
        figures=figures,
        left_out=left_out,
        operators={name: found.describe() for name, found in run.parts.corruptions.items()},
        rubric=run.parts.verifier.settings.get("prompt"),
        seconds={**store.seconds(), "dataset": clock.seconds},
        started=run.started,
    )
    if figures.pairs:
        examples = list(figures.examples.values())
        card = write_card(fresh, manifest, examples, template=recipe.card, license=recipe.license)
        manifest = msgspec.structs.replace(manifest, card_sha256=digest_of(card.encode()))
        if note := keep_card(out, fresh):
            say(note)
    else:
        shutil.rmtree(fresh, ignore_errors=True)
    if recipe.holdout and figures.pairs and "test" not in splits:
        say(
            f"no test split: problems that share a picture stay together, and none of their groups fits into "
            f"--holdout {recipe.holdout:g} of {figures.pairs} pairs beside a train split"
        )
    # From here on nothing can fail that a user could mend: the run's files belong together.
    write_whole(out / "recipe.toml", dump_recipe(recipe).encode())
    put_in_place(out / "dropped.part", out / "dropped.jsonl")
    put_in_place(out / "fates.part", out / FATES)
    if recipe.shard is not None:
        put_in_place(out / "shard.part", out / SHARD)
    else:
        (out / SHARD).unlink(missing_ok=True)
    if figures.pairs:
        put_in_place(fresh, out / "dataset")
    else:
        shutil.rmtree(out / "dataset", ignore_errors=True)
    write_manifest(manifest, out / "manifest.json")
    shutil.rmtree(out / PILOT, ignore_errors=True)
    return Built(out, manifest)


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Rows hold no cycles: looking for some as often as Python does by itself takes a sixteenth of the host's work."""
    before = gc.get_threshold()
    gc.set_threshold(10_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
