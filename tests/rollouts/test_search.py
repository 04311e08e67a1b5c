"""The search: whatever the timing, the same dataset, and no response is asked for in vain."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from specs_data.errors import EngineFailed
from specs_data.records import Request, Response
from specs_data.rollouts.demand import OnDemand
from specs_data.rollouts.search import Agenda, Line, Outcome, last_round, round_of, search
from specs_data.rollouts.stages import Clock
from specs_data.rollouts.store import Index, Position

KEPT, LEFT, OVER = Outcome.KEPT, Outcome.LEFT, Outcome.OVER
SAMPLES = 5


Attempt = Callable[[Position, Index, int], Awaitable[Outcome]]


class Quest(Struct, frozen=True):
    """A search for as many kept responses to every problem."""

    attempt: Attempt
    count: int = 1

    def wanted(self, position: Position) -> int:
        return self.count


class Told(Struct):
    """Progress that only notes what it is told."""

    done: dict[int, int] = {}

    def step(self, position: Position, pairs: int) -> None:
        self.done[position] = pairs


class World(Struct, frozen=True):
    """What would become of every response to every problem, and how the search is to go."""

    outcomes: tuple[tuple[Outcome, ...], ...]
    samples: int
    upfront: int
    wanted: int
    target: int | None
    enough: float | None = None


class Played(Struct):
    """What a search did: responses asked for in their order, pairs kept, problems done, most rounds at once."""

    asked: list[tuple[int, int]]
    kept: list[tuple[int, int]]
    done: dict[int, int]
    most: int = 0


outcomes = st.sampled_from([KEPT, KEPT, LEFT, LEFT, LEFT, LEFT, OVER])
rows = st.lists(outcomes, min_size=SAMPLES, max_size=SAMPLES).map(tuple)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    samples = draw(st.integers(1, SAMPLES))
    return World(
        outcomes=tuple(draw(st.lists(rows, max_size=8))),
        samples=samples,
        upfront=draw(st.integers(1, samples)),
        wanted=draw(st.integers(1, 2)),
        target=draw(st.none() | st.integers(1, 4)),
        enough=draw(st.none() | st.sampled_from([0.2, 0.5, 0.8, 1.0])),
    )


def rounds(world: World) -> list[range]:
    return [range(world.upfront), *(range(index, index + 1) for index in range(world.upfront, world.samples))]


def in_full(world: World) -> Played:
    """One problem after the other, as if there were no target."""
    played = Played([], [], {})
    for position, row in enumerate(world.outcomes):
        count = 0
        for indices in rounds(world):
            played.asked += [(position, index) for index in indices]
            for index in indices:
                if row[index] is KEPT and count < world.wanted:
                    count += 1
                    played.kept.append((position, index))
            if count >= world.wanted or OVER in [row[index] for index in indices]:
                break
        played.done[position] = count
    return played


def play(world: World, room: int, seed: int | None) -> Played:
    """Search `world`; responses take random times, or none without a `seed`."""
    clock = random.Random(seed)
    played = Played([], [], {})
    under_way: Counter[int] = Counter()

    async def pause() -> None:
        for _ in range(clock.choice((0, 0, 1, 5, 80)) if seed is not None else 0):
            await asyncio.sleep(0)

    async def positions() -> AsyncIterator[Position]:
        for position in range(len(world.outcomes)):
            await pause()
            yield Position(position * 3)  # places in the source need not be neighbours

    async def attempt(place: Position, index: Index, count: int) -> Outcome:
        position = place // 3
        assert (position, index) not in played.asked
        assert count == sum(kept == position for kept, _ in played.kept)
        played.asked.append((position, index))
        under_way[position] += 1
        played.most = max(played.most, len(under_way))
        await pause()
        under_way[position] -= 1
        if not under_way[position]:
            del under_way[position]
        return world.outcomes[position][index]

    class Watched(Agenda):
        def keep(self, position: Position, index: Index) -> None:
            played.kept.append((position // 3, index))
            super().keep(position, index)

        def next(self) -> tuple[Position, range] | None:
            following = super().next()
            if following is not None and world.target is not None and len(played.kept) >= world.target:
                last = sorted(order(world, *pair) for pair in played.kept)[world.target - 1]
                assert order(world, following[0] // 3, following[1][0]) < last, "asked for in vain"
            return following

    told = Told()

    async def run() -> None:
        agenda = Watched(world.samples, world.upfront, world.target, world.enough)
        await search(agenda, positions(), Quest(attempt, world.wanted), asyncio.Semaphore(room), told)

    asyncio.run(asyncio.wait_for(run(), 20))
    played.done = {position // 3: count for position, count in told.done.items()}
    return played


def first_in_order(kept: list[tuple[int, int]], target: int, upfront: int) -> set[tuple[int, int]]:
    """The `target` first of (position, index) in canonical order: by round, then by place."""
    return set(sorted(kept, key=lambda pair: (max(0, pair[1] - upfront + 1), *pair))[:target])


def worth(world: World, kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs up to the last round that is worth its tokens."""
    if world.enough is None:
        return kept
    mine = {position: sorted(index for one, index in kept if one == position) for position, _ in kept}
    full = [indices[world.wanted - 1] for indices in mine.values() if len(indices) == world.wanted]
    rounds_of = (Counter(round_of(index, world.upfront) for index in each) for each in ([i for _, i in kept], full))
    last = last_round(world.enough, len(world.outcomes), world.upfront, *rounds_of)
    return [(position, index) for position, index in kept if last is None or round_of(index, world.upfront) <= last]


def chosen(world: World, kept: list[tuple[int, int]]) -> set[tuple[int, int]]:
    found = worth(world, kept)
    return set(found) if world.target is None else first_in_order(found, world.target, world.upfront)


def order(world: World, position: int, index: int) -> tuple[int, int]:
    return max(0, index - world.upfront + 1), position


@settings(max_examples=100, deadline=None)
@given(world=worlds(), room=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_the_dataset_does_not_depend_on_timing(world: World, room: int, seed: int) -> None:
    full, played = in_full(world), play(world, room, seed)
    assert chosen(world, played.kept) == chosen(world, full.kept)
    assert played.most <= room
    assert set(played.asked) <= set(full.asked)
    if world.target is None and world.enough is None:
        assert sorted(played.asked) == full.asked and sorted(played.kept) == full.kept and played.done == full.done


@settings(max_examples=100, deadline=None)
@given(world=worlds())
def test_one_at_a_time_asks_for_nothing_beyond_the_target(world: World) -> None:
    full, played = in_full(world), play(world, 1, None)
    needed = full.asked
    if world.target is not None and len(full.kept) >= world.target:
        last = max(order(world, *pair) for pair in chosen(world, full.kept))
        needed = [pair for pair in full.asked if order(world, *pair) <= last]
    assert sorted(played.asked) == needed if world.enough is None else set(played.asked) <= set(needed)
    assert [order(world, *pair) for pair in played.asked] == sorted(order(world, *pair) for pair in played.asked)


def test_unsolved_problems_come_last() -> None:
    hard, easy = (LEFT, LEFT, KEPT, LEFT, LEFT), (KEPT,) * SAMPLES
    played = play(World((hard, easy, hard, easy), SAMPLES, 1, 1, None), 1, None)
    assert played.asked == [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (2, 1), (0, 2), (2, 2)]


async def test_a_slow_problem_is_not_overtaken() -> None:
    """The second response to problem 0 comes before that to problem 1 in order, though it is asked for after it."""
    asked = []

    async def attempt(number: int, index: int, count: int) -> Outcome:
        asked.append((number, index))
        for _ in range(50 if (number, index) == (0, 0) else 0):
            await asyncio.sleep(0)
        return KEPT if index else LEFT

    await search(Agenda(3, 1, target=2), numbers(3), Quest(attempt), asyncio.Semaphore(2), Told())
    assert asked == [(0, 0), (1, 0), (2, 0), (1, 1), (0, 1)]


async def test_what_is_worth_its_tokens_is_not_given_up_before_the_last_first_round_is_done() -> None:
    """The first response to problem 9 waits for its verdict until the others are at their third. Its second one gives a
    pair, by which the second round is worth its tokens, and so the third one is wanted."""
    kept_at_once = {*((number, 0) for number in range(5)), (5, 1), (9, 1)}
    verified, at_their_third = {(9, 0): LEFT, (6, 2): KEPT, (7, 2): KEPT}, asyncio.Event()

    async def attempt(number: int, index: int, count: int) -> Outcome:
        if (number, index) == (8, 2):
            at_their_third.set()
        return Outcome.TO_VERIFY if (number, index) in verified else KEPT if (number, index) in kept_at_once else LEFT

    async def verify(number: int, index: int, count: int) -> Outcome:
        await at_their_third.wait()
        return verified.pop((number, index))

    lines = {Outcome.TO_VERIFY: Line(Quest(verify), 1)}
    agenda = Agenda(3, enough=0.5)
    await search(agenda, numbers(10), Quest(attempt), asyncio.Semaphore(1), told := Told(), lines)
    assert not verified and told.done[6] == told.done[7] == 1


async def test_a_target_takes_no_more_at_once_than_it_needs() -> None:
    asked = []

    async def attempt(number: int, index: int, count: int) -> Outcome:
        asked.append(number)
        await asyncio.sleep(0)
        return KEPT if number % 2 else LEFT

    await search(Agenda(1, target=10), numbers(1000), Quest(attempt), asyncio.Semaphore(256), Told())
    assert len(asked) == 20


def test_an_attempt_that_fails_ends_the_search_with_its_own_error() -> None:
    cancelled = []

    async def attempt(number: int, index: int, count: int) -> Outcome:
        if number == 2:
            raise EngineFailed("the engine died")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return LEFT

    async def run() -> None:
        await search(Agenda(1), numbers(5), Quest(attempt), asyncio.Semaphore(8), Told())

    with pytest.raises(EngineFailed, match="the engine died"):
        asyncio.run(run())
    assert sorted(cancelled) == [0, 1, 3, 4]


async def numbers(count: int) -> AsyncIterator[Position]:
    for number in range(count):
        yield Position(number)


def test_an_owed_round_is_one_int() -> None:
    tracemalloc.start()
    try:
        agenda = Agenda(8, 1, target=30_000)
        for position in range(30_000):
            agenda.owe(position, 1)
            agenda.keep(position, 0)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 30_000 * 2 * 48


# What attempts are made with


class Engine:
    concurrency = 5

    def __init__(self) -> None:
        self.busy = self.most = 0

    async def generate(self, request: Request) -> Response:
        self.busy += 1
        self.most = max(self.most, self.busy)
        await asyncio.sleep(0.001)
        self.busy -= 1
        return Response("")

    async def close(self) -> None: ...


async def test_an_engine_is_opened_once_by_the_first_request_and_kept_busy() -> None:
    opened = []

    async def open_engine() -> Engine:
        await asyncio.sleep(0.001)
        opened.append(Engine())
        return opened[-1]

    room = asyncio.Semaphore(2)
    engine = OnDemand(open_engine, room, 2, lent=True)

    async def attempt(number: int, index: int, count: int) -> Outcome:
        await engine.generate(Request((), (), 0))
        return KEPT

    assert not opened
    told = Told()
    await search(Agenda(1), numbers(40), Quest(attempt), room, told)
    assert len(opened) == 1 and sorted(told.done) == list(range(40))
    assert opened[0].most == 5


async def test_a_clock_counts_time_that_is_shared_once() -> None:
    clock = Clock()

    async def work() -> None:
        with clock:
            await asyncio.sleep(0.05)

    await asyncio.gather(*(work() for _ in range(10)))
    assert 0.05 <= clock.seconds < 0.4
