"""The search for pairs: which response to ask for next, so that none is asked for in vain.

A problem's responses come in rounds: `upfront` of them in the first, one in each later round, and
a later round only if the ones before kept too little. All first rounds go before all second rounds,
and so on: the problems that the policy finds easy are paid for first.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable
from enum import Enum, auto
from math import inf
from typing import Protocol

from specs_data.errors import first_error
from specs_data.rollouts.store import Index, Position

_POSITION_BITS = 40


class Outcome(Enum):
    """What became of one response."""

    KEPT = auto()
    LEFT = auto()  # left out; another response to the same problem may do better
    OVER = auto()  # this problem gets no other response


class Quest(Protocol):
    """What is searched for in the responses to a problem."""

    def wanted(self, position: Position) -> int:
        """How many responses to the problem at `position` are to be kept."""
        ...

    def attempt(self, position: Position, index: Index, kept: int) -> Awaitable[Outcome]:
        """Ask for response `index`, and see what becomes of it; `kept` responses of the problem are kept so far."""
        ...


class Told(Protocol):
    """Who is told of each problem that is done."""

    def step(self, position: Position, pairs: int) -> None:
        """The problem at `position` is done and has that many pairs."""
        ...


class Agenda:
    """The rounds owed, in their canonical order: by round, then by the problem's place in its source.

    With a `target`, a round is handed out only while it could still belong to the first `target`
    kept rounds in canonical order. What belongs to them therefore does not depend on timing.
    An entry is one int: a million owed rounds take a few tens of MB.
    """

    def __init__(self, samples: int, upfront: int = 1, target: int | None = None) -> None:
        self._samples = samples
        self._upfront = upfront
        self._target = target
        self._owed: list[int] = []
        self._kept: list[int] = []

    @property
    def first(self) -> range:
        """The responses of a first round."""
        return range(min(self._samples, self._upfront))

    @property
    def open(self) -> bool:
        """Whether first rounds of further problems are wanted."""
        return self._target is None or len(self._kept) < self._target

    @property
    def worth(self) -> float:
        """How many rounds at once are worth their tokens: with a target, as many as pairs are missing."""
        return inf if self._target is None else max(1, self._target - len(self._kept))

    def owe(self, position: Position, index: Index) -> bool:
        """Note that the problem at `position` is owed a round that begins with response `index`;
        False if its responses are spent."""
        if index >= self._samples:
            return False
        heapq.heappush(self._owed, _key(round_of(index, self._upfront), position))
        return True

    def keep(self, position: Position, index: Index) -> None:
        """Response `index` of the problem at `position` gave a pair."""
        if self._target is None:
            return
        heapq.heappush(self._kept, -_key(round_of(index, self._upfront), position))
        if len(self._kept) > self._target:
            heapq.heappop(self._kept)

    def next(self) -> tuple[Position, range] | None:
        """The next owed round after the first: the problem's position and the indices of its responses."""
        # `kept` has the last of the pairs so far on top: nothing that comes after it can be among the first any more.
        if not self._owed or (not self.open and self._owed[0] > -self._kept[0]):
            return None
        round_, position = divmod(heapq.heappop(self._owed), 1 << _POSITION_BITS)
        index = round_ + self._upfront - 1
        return Position(position), range(index, index + 1)


def round_of(index: int, upfront: int) -> int:
    """The round of response `index`, from 0."""
    return max(0, index - upfront + 1)


async def search(
    agenda: Agenda, positions: AsyncIterator[Position], quest: Quest, room: asyncio.Semaphore, progress: Told
) -> None:
    """Play the agenda's rounds, as many at once as `room` has places, until none is owed.

    `positions` gives the problems in the order of their source. A problem is done with as many kept responses as
    are wanted of it, or when it can have no more; `progress` is told.
    """
    kept: dict[Position, int] = {}  # only of problems under way that have some of several
    running: set[Position] = set()
    moved = asyncio.Event()

    async def play(position: Position, indices: range) -> None:
        try:
            count = kept.pop(position, 0)
            outcomes = await _attempt(quest, position, indices, count)
            wanted = quest.wanted(position)
            for index, outcome in zip(indices, outcomes, strict=True):
                if outcome is Outcome.KEPT and count < wanted:
                    count += 1
                    agenda.keep(position, Index(index))
            if count >= wanted or Outcome.OVER in outcomes or not agenda.owe(position, Index(indices.stop)):
                progress.step(position, count)
            elif count:
                kept[position] = count
        finally:
            running.discard(position)
            room.release()
            moved.set()

    async def following() -> tuple[Position, range] | None:
        # With a target, no more rounds are under way than pairs are missing: each might be the last that is needed.
        if len(running) >= agenda.worth:
            return None
        # First rounds come first, and their problems from the source, which may be endless.
        position = await anext(positions, None) if agenda.open else None
        return agenda.next() if position is None else (position, agenda.first)

    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await room.acquire()
                if (turn := await following()) is not None:
                    running.add(turn[0])
                    tasks.create_task(play(*turn))
                    continue
                room.release()
                if not running:
                    return
                # What is under way may owe a further round, or leave one that was not worth its tokens till now.
                moved.clear()
                await moved.wait()
    except BaseExceptionGroup as group:
        raise first_error(group) from None


async def _attempt(quest: Quest, position: Position, indices: range, kept: int) -> list[Outcome]:
    attempts = [quest.attempt(position, Index(index), kept) for index in indices]
    return [await attempts[0]] if len(attempts) == 1 else list(await asyncio.gather(*attempts))


def _key(round_: int, position: Position) -> int:
    return round_ << _POSITION_BITS | position
