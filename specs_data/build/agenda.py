"""Which response to ask for next, so that none is asked for in vain.

A problem's responses come in rounds: `upfront` of them in the first, one in each later round, and
a later round only if the ones before kept too little. All first rounds go before all second rounds,
and so on: the problems that the policy finds easy are paid for first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from math import inf

_POSITION_BITS = 40


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

    def owe(self, position: int, index: int) -> bool:
        """Note that the problem at `position` is owed a round that begins with response `index`;
        False if its responses are spent."""
        if index >= self._samples:
            return False
        heapq.heappush(self._owed, _key(round_of(index, self._upfront), position))
        return True

    def keep(self, position: int, index: int) -> None:
        """Response `index` of the problem at `position` gave a pair."""
        if self._target is None:
            return
        heapq.heappush(self._kept, -_key(round_of(index, self._upfront), position))
        if len(self._kept) > self._target:
            heapq.heappop(self._kept)

    def next(self) -> tuple[int, range] | None:
        """The next owed round after the first: the problem's position and the indices of its responses."""
        if not self._owed or (not self.open and self._owed[0] > -self._kept[0]):
            return None
        round_, position = divmod(heapq.heappop(self._owed), 1 << _POSITION_BITS)
        index = round_ + self._upfront - 1
        return position, range(index, index + 1)


def round_of(index: int, upfront: int) -> int:
    """The round of response `index`, from 0."""
    return max(0, index - upfront + 1)


def first_in_order(kept: Iterable[tuple[int, int]], target: int, upfront: int = 1) -> set[tuple[int, int]]:
    """The `target` first of (position, index) in canonical order."""
    ordered = heapq.nsmallest(target, kept, key=lambda pair: (round_of(pair[1], upfront), *pair))
    return set(ordered)


def _key(round_: int, position: int) -> int:
    return round_ << _POSITION_BITS | position
