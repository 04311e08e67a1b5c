"""What is asked for ahead of time changes nothing but the time; what ends a run early does not depend on timing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from fakes.sums import dataset_bytes, policy, recipe, respond, write_sums
from hypothesis import given, settings
from hypothesis import strategies as st

from specs_data import build
from specs_data.engines.scripted import ScriptedEngine
from specs_data.records import Request, Response
from specs_data.rollouts import early
from specs_data.rollouts.early import Early
from specs_data.rollouts.sample import sample_seed
from specs_data.rollouts.search import last_round
from specs_data.rollouts.store import Index, Position

PROBLEMS = 40
PLACES = {sample_seed(0, f"sum-{number}", index): (number, index) for number in range(PROBLEMS) for index in range(8)}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses take no time here."""
    monkeypatch.setattr(early, "SOON", 0.0)


class Stuck(ScriptedEngine):
    """Gives response `first` to the `hard` problem, and each later one, only when it was asked for the one after it;
    none of those after `last`."""

    def __init__(self, hard: int, last: int, first: int = 1) -> None:
        super().__init__(respond, concurrency=64)
        self.hard = hard
        self.last = last
        self.first = first
        self.asked: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self.given_up: list[int] = []

    async def generate(self, request: Request) -> Response:
        number, index = PLACES[request.seed]
        if number == self.hard:
            self.asked[index].set()
            if index > self.last:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.given_up.append(index)
            if self.first <= index < 7:
                await self.asked[index + 1].wait()
        return await super().generate(request)


def solved_at() -> dict[int, int]:
    """The first right and well-formed response to each problem."""
    found: dict[int, int] = {}
    for seed, (number, index) in PLACES.items():
        text = respond(Request((_Said(number),), (), seed))  # type: ignore[arg-type]
        if text.endswith(f"<answer>\\boxed{{{number + 1}}}</answer>"):
            found.setdefault(number, index)
    return found


class _Said:
    def __init__(self, number: int) -> None:
        self.content = f"What is {number} + 1?"


@pytest.mark.parametrize("extra", [{}, {"samples_upfront": 2}, {"pairs_per_problem": 2}])
def test_idle_slots_ask_for_what_is_likely_needed(tmp_path: Path, extra: dict[str, Any]) -> None:
    """The hard problem would wait for ever if its next responses were not asked for before this one has come."""
    hard, last = max(solved_at().items(), key=lambda found: found[1])
    if extra.get("pairs_per_problem"):
        last = 7
    assert last >= 3
    wanted = recipe(write_sums(tmp_path, PROBLEMS), **extra)
    engine, plain = Stuck(hard, last, wanted.samples_upfront), Stuck(-1, 0)
    ahead = build(wanted, tmp_path / "early", engine=engine, quiet=True)
    usual = build(wanted, tmp_path / "usual", engine=plain, quiet=True)
    assert _rows(ahead.out) == _rows(usual.out)
    assert ahead.manifest.counts.pairs == usual.manifest.counts.pairs
    again = build(wanted, tmp_path / "early", engine=plain, quiet=True)
    assert _rows(again.out) == _rows(usual.out)


def test_what_turns_out_not_to_be_needed_is_given_up(tmp_path: Path) -> None:
    hard, last = max(solved_at().items(), key=lambda found: found[1])
    engine = Stuck(hard, last)
    built = build(recipe(write_sums(tmp_path, PROBLEMS)), tmp_path / "run", engine=engine, quiet=True)
    assert built.count == len(solved_at())
    assert engine.given_up == [index for index in engine.asked if index > last]


def test_nobody_is_asked_ahead_while_slots_are_few(tmp_path: Path) -> None:
    plain, slow = policy(concurrency=1), policy(concurrency=2, delay=0.001)
    wanted = recipe(write_sums(tmp_path, PROBLEMS))
    for name, engine in (("plain", plain), ("slow", slow)):
        build(wanted, tmp_path / name, engine=engine, quiet=True)
    assert plain.calls == slow.calls


class Policy:
    """Notes what it is asked for ahead of time."""

    def __init__(self, idle: int) -> None:
        self.idle = idle
        self.typical = 0.0
        self.asked: list[tuple[int, int]] = []

    def since(self, position: Position, indices: range) -> float | None:
        return 0.0

    async def ask(self, position: Position, index: Index) -> None:
        self.asked.append((position, index))


def test_the_hardest_problems_come_first_and_easy_ones_not_at_all() -> None:
    async def ask() -> list[tuple[int, int]]:
        noted = Policy(4)
        asking = Early(noted, asyncio.get_running_loop().create_task)
        for left in (True, False, False, False):
            asking.decide(True, left)
        asking.begin(Position(1), range(0, 1), 0, 1)  # a first response: one in five is left out
        asking.begin(Position(2), range(1, 2), 0, 1)
        asking.begin(Position(3), range(6, 7), 0, 1)
        asking.begin(Position(4), range(0, 1), 0, 2)  # two are wanted: the second is needed in any case
        asking.fill(8)
        await asyncio.sleep(0)
        noted.idle = 0
        asking.fill(8)
        await asyncio.sleep(0)
        return noted.asked

    assert asyncio.run(ask()) == [(4, 1), (3, 7), (2, 2), (4, 2)]


def test_few_are_asked_for_that_nobody_has_needed_yet() -> None:
    async def ask() -> list[int]:
        noted = Policy(1000)
        asking = Early(noted, asyncio.get_running_loop().create_task)
        problems = [*map(Position, range(200))]
        counts = []

        async def filled() -> None:
            asking.fill(8)
            await asyncio.sleep(0)
            counts.append(len(noted.asked))

        for position in problems:
            asking.begin(position, range(1, 2), 0, 1)
        await filled()
        for position, index in noted.asked[:6]:  # six of them are needed, as their problems come to them
            asking.come(position)
            asking.begin(position, range(index, index + 1), 0, 1)
        await filled()
        for _ in problems:
            asking.decide(False, True)
        await filled()
        return counts

    assert asyncio.run(ask()) == [16, 22, 26]


@pytest.mark.parametrize(
    ("enough", "extra"), [(1.0, {}), (0.8, {"samples_upfront": 2, "pairs_per_problem": 2, "target": 50})]
)
def test_enough_ends_at_the_same_round_whatever_the_timing(
    tmp_path: Path, enough: float, extra: dict[str, Any]
) -> None:
    problems = write_sums(tmp_path, PROBLEMS)
    engines = policy(concurrency=1), policy(concurrency=64, delay=0.001)
    for number, engine in enumerate(engines):
        build(recipe(problems, enough=enough, **extra), tmp_path / f"{number}", engine=engine, quiet=True)
    full = policy()
    build(recipe(problems, **extra), tmp_path / "late", engine=full, quiet=True)
    cut = build(recipe(problems, enough=enough, **extra), tmp_path / "late", engine=full, quiet=True)
    first, *others = (_rows(tmp_path / name) for name in ("0", "1", "late"))
    assert all(rows == first for rows in others)
    assert engines[0].calls <= full.calls
    if enough == 1.0 and not extra:
        assert engines[0].calls < full.calls
        assert cut.manifest.dropped["pair"]["beyond enough"] > 0


def test_enough_does_not_wait_for_what_is_not_worth_it(tmp_path: Path) -> None:
    """What comes after the last round that is worth it never comes; nobody needs it."""
    solved = Counter(solved_at().values())
    last = last_round(1.0, PROBLEMS, 1, solved, solved)
    assert last is not None

    class Endless(ScriptedEngine):
        async def generate(self, request: Request) -> Response:
            if PLACES[request.seed][1] > last:
                await asyncio.Event().wait()
            return await super().generate(request)

    wanted = recipe(write_sums(tmp_path, PROBLEMS), enough=1.0)
    built = build(wanted, tmp_path / "run", engine=Endless(respond), quiet=True)
    assert built.count == sum(count for index, count in solved.items() if index <= last)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=6), st.floats(0.01, 1))
def test_the_last_round_is_the_first_that_brings_too_little(rounds: list[tuple[int, int]], enough: float) -> None:
    pairs = dict(enumerate(pairs for pairs, _ in rounds))
    full = dict(enumerate(full for _, full in rounds))
    problems = 200
    last = last_round(enough, problems, 1, pairs, full)
    least = enough * pairs[0] / problems
    brought = {r: pairs[r] / (problems - sum(full[q] for q in range(r))) for r in range(1, len(rounds))}
    if last is None:
        assert all(each >= least for each in brought.values())
    else:
        assert brought[last] < least and all(brought[r] >= least for r in range(1, last))
    # Rounds after the last do not matter, and rounds without pairs need not be named.
    if last is not None:
        known = {r: count for r, count in pairs.items() if count} | {len(rounds) + 1: 1}
        assert last_round(enough, problems, 1, known, full) == last


def _rows(run: Path) -> dict[str, bytes]:
    files = dataset_bytes(run)
    return {name: data for name, data in files.items() if name.endswith(".parquet")}


def test_what_was_asked_ahead_is_on_record_as_not_needed(tmp_path: Path) -> None:
    hard, last = max(solved_at().items(), key=lambda found: found[1])

    class Talkative(Stuck):
        """Answers what is asked ahead, and then what it was asked before."""

        async def generate(self, request: Request) -> Response:
            number, index = PLACES[request.seed]
            if number == hard and index == last + 1:
                self.asked[index].set()
                return await ScriptedEngine.generate(self, request)
            return await super().generate(request)

    built = build(recipe(write_sums(tmp_path, PROBLEMS)), tmp_path / "run", engine=Talkative(hard, last), quiet=True)
    left = [json.loads(line) for line in (built.out / "dropped.jsonl").read_text().splitlines()]
    assert [row["index"] for row in left if (row["stage"], row["reason"]) == ("sample", "not needed")] == [last + 1]
