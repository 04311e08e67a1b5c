"""Responses that are asked for before it is known whether they are needed.

At the end of a run a few long responses are at the policy, and most of its slots have nothing to do; where one of these
responses is left out, its problem waits for one more from the beginning, and so on. So idle slots ask for the next
responses of such problems, where these are more likely needed than not; of all that nobody has needed yet there are
only few at a time. They are put on record and that is all: which response becomes chosen is decided in the order of
their indices, as if each had been waited for.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from msgspec import Struct

from specs_data.rollouts.store import Index, Position

LIKELY = 0.5  # the least chance that a response is needed
SOON = 1.0  # seconds; what is there by then need not be waited for
# How many may turn out not to be needed: this share of the rounds that are decided, or this many. An engine that is
# slow for another reason than its slots looks idle, and every response of it late.
SHARE, FEW = 0.1, 16


class Ahead(Protocol):
    """Whoever can be asked ahead of time."""

    @property
    def idle(self) -> int:
        """How many responses more the policy can work on without any other waiting for it."""
        ...

    @property
    def typical(self) -> float:
        """The seconds that a response takes on average, as far as that is known."""
        ...

    def since(self, position: Position, indices: range) -> float | None:
        """When (time.monotonic) the policy was asked for the first of these responses that it has not given yet; None
        where it has been asked for none of them."""
        ...

    def ask(self, position: Position, index: Index) -> Awaitable[None]:
        """Put response `index` to the problem at `position` on record, if there is one."""
        ...


class _Round(Struct):
    """A round at the policy: its responses, how many of the problem were kept before, and how many are missing."""

    indices: range
    kept: int
    missing: int


class Early:
    """What is at the policy, and what has been asked for ahead."""

    def __init__(self, ahead: Ahead, create_task: Callable[..., asyncio.Task[None]]) -> None:
        self._ahead = ahead
        self._create_task = create_task
        self._rounds: dict[Position, _Round] = {}
        self._asked: dict[Position, list[asyncio.Task[None]]] = {}
        self._next: dict[Position, int] = {}  # the response after those that were asked for
        self._first = self._left = 0  # first responses, and how many of them were left out
        self._decided = 0  # rounds
        self._unneeded = 0  # responses that were asked for ahead, and that no round has come to

    def begin(self, position: Position, indices: range, kept: int, wanted: int) -> None:
        """A round is at the policy."""
        if position in self._next:
            self._unneeded -= sum(index < self._next[position] for index in indices)
        self._rounds[position] = _Round(indices, kept, wanted - kept)

    def come(self, position: Position) -> None:
        """It has come back."""
        del self._rounds[position]

    def decide(self, first: bool, left: bool) -> None:
        """What became of a response."""
        self._decided += 1
        self._first += first
        self._left += first and left

    def forget(self, position: Position) -> None:
        """The problem is done: what is still being asked for is not needed."""
        self._next.pop(position, None)
        for task in self._asked.pop(position, ()):
            task.cancel()

    def close(self) -> None:
        """Nothing more is needed."""
        for position in [*self._asked]:
            self.forget(position)

    def fill(self, most: int) -> float | None:
        """Ask for as many responses as the policy has idle slots; a problem gets so many at `most`. In how many seconds
        there may be more to ask for, None where only something that happens can bring more."""
        free = min(self._ahead.idle, max(FEW, int(SHARE * self._decided)) - self._unneeded)
        if free <= 0 or not self._rounds:
            return None
        # Of a response that has taken longer than most, the rest will take about as long again.
        before = time.monotonic() - max(SOON, self._ahead.typical)
        asked = {position: self._ahead.since(position, round_.indices) for position, round_ in self._rounds.items()}
        late = {position for position, since in asked.items() if since is not None and since <= before}
        found = [(*first, position) for position in late if (first := next(self._following(position, most), None))]
        heapq.heapify(found)
        while found and free > 0:
            _, index, position = heapq.heappop(found)
            self._ask(position, Index(index))
            free -= 1
            if first := next(self._following(position, most), None):
                heapq.heappush(found, (*first, position))
        if free <= 0 or len(late) == len(asked):
            return None
        return min(SOON if since is None else since - before for place, since in asked.items() if place not in late)

    def _following(self, position: Position, most: int) -> Iterator[tuple[float, int]]:
        """The next response of a problem that may be asked for, and how unlikely it is that it is needed."""
        round_ = self._rounds[position]
        index = max(round_.indices.stop, self._next.get(position, 0))
        chance = 1.0
        for before in range(round_.indices.start + round_.missing - 1, index):
            chance *= self._fails(before, round_.kept)
        if index < most and chance >= LIKELY:
            yield -chance, index

    def _fails(self, index: int, kept: int) -> float:
        """The chance that response `index` is left out, as all before it but `kept` were: that of a beta distribution
        with the weight of one response, which the first responses of all problems give its mean."""
        return (index - kept + self._left / (self._first + 1)) / (index + 1)

    def _ask(self, position: Position, index: Index) -> None:
        self._next[position] = index + 1
        self._unneeded += 1
        self._asked.setdefault(position, []).append(self._create_task(self._ahead.ask(position, index)))
