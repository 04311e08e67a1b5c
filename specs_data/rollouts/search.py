"""The search: which response to ask for next, so that none is asked for in vain and the policy waits for nobody.

A problem's responses come in rounds: `upfront` of them in the first, one in each later round, and
a later round only if the ones before kept too little. All first rounds go before all second rounds,
and so on: the problems that the policy finds easy are paid for first.

A round that waits for a judging service gives its place at the policy back and stands in that service's line, as one
int: what it has come to is on record, and is gone through again when its turn comes. So the policy never waits for a
judge, however slow that one is, and however long the line.

Where nothing is owed and the policy has idle slots, what may be owed is asked for ahead of time; see `early`.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from enum import Enum, IntEnum, auto
from itertools import accumulate
from math import inf
from typing import Any, Protocol

from msgspec import Struct, field

from specs_data.errors import first_error
from specs_data.loop import this_task
from specs_data.rollouts.early import Ahead, Early
from specs_data.rollouts.store import Index, Position

_POSITION_BITS = 40


class Outcome(Enum):
    """What became of one response."""

    KEPT = auto()
    LEFT = auto()  # left out; another response to the same problem may do better
    OVER = auto()  # this problem gets no other response
    TO_JUDGE = auto()  # a model is to judge the answer
    TO_VERIFY = auto()  # the verifier is to be asked, which takes its time


class Turn(IntEnum):
    """Who may be asked for what is not on record. Who came before has been asked already."""

    POLICY = 0
    JUDGE = 1
    VERIFIER = 2


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


class Line(Struct):
    """Rounds that wait for a judging service. `quest` goes on with them where they stopped, as many at once as there
    are `places`."""

    quest: Quest
    places: int
    waiting: list[int] = field(default_factory=list)


class Agenda:
    """The rounds owed, in their canonical order: by round, then by the problem's place in its source.

    With a `target`, a round is handed out only while it could still belong to the first `target`
    kept rounds in canonical order. What belongs to them therefore does not depend on timing.
    An entry is one int: a million owed rounds take a few tens of MB.

    With a share that is `enough`, there are no rounds after the first in which a response brings less than that share
    of the pairs that one brought in the first round; see `last_round`. That too does not depend on timing: a round
    counts when all of it is decided.
    """

    def __init__(self, samples: int, upfront: int = 1, target: int | None = None, enough: float | None = None) -> None:
        self.samples = samples
        self._upfront = upfront
        self._target = target
        self._enough = enough
        self._owed: list[int] = []
        self._kept: list[int] = []
        self.ended = False  # the source has no more problems that are wanted
        self._problems = 0
        # By round: problems of which it is not decided, pairs, and problems that have all their pairs by it.
        self._undecided: Counter[int] = Counter()
        self._pairs: Counter[int] = Counter()
        self._full: Counter[int] = Counter()
        self._end = inf  # no round after this one is worth its tokens, whatever becomes of those that are undecided

    @property
    def first(self) -> range:
        """The responses of a first round."""
        return range(min(self.samples, self._upfront))

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
        round_ = round_of(index, self._upfront)
        if index >= self.samples or round_ > self._end:
            return False
        heapq.heappush(self._owed, _key(round_, position))
        self._undecided[round_] += 1
        return True

    def begin(self) -> None:
        """A problem more has its first round."""
        self._problems += 1
        self._undecided[0] += 1

    def decide(self, index: Index, pairs: int, full: bool) -> None:
        """The round that begins with response `index` gave so many pairs; the problem may have all its pairs now."""
        round_ = round_of(index, self._upfront)
        self._undecided[round_] -= 1
        self._pairs[round_] += pairs
        self._full[round_] += full
        if self._enough is not None and self.ended and not self._undecided[0]:
            # Rounds that would be in vain even if all that is undecided before them gave a pair need not be begun.
            late = accumulate(self._undecided[each] for each in range(max(self._pairs) + 1))
            most = {each: self._pairs[each] + count for each, count in enumerate(late)}
            last = last_round(self._enough, self._problems, len(self.first), most, self._full)
            self._end = self._end if last is None else min(self._end, last)

    @property
    def most(self) -> int:
        """How many responses a problem may still get."""
        return int(min(self.samples, self._end + self._upfront))

    @property
    def over(self) -> bool:
        """Whether nothing that is under way is worth its tokens any more."""
        if self._enough is None or not self.ended:
            return False
        last = last_round(self._enough, self._problems, len(self.first), self._pairs, self._full)
        return last is not None and not any(self._undecided[round_] for round_ in range(last + 1))

    def keep(self, position: Position, index: Index) -> None:
        """Response `index` of the problem at `position` gave a pair."""
        if self._target is None:
            return
        heapq.heappush(self._kept, -_key(round_of(index, self._upfront), position))
        if len(self._kept) > self._target:
            heapq.heappop(self._kept)

    @property
    def owing(self) -> bool:
        """Whether a round after the first is owed that is not in vain."""
        return bool(self._owed) and not self.vain(self._owed[0])

    def next(self) -> tuple[Position, range] | None:
        """The next owed round after the first: the problem's position and the indices of its responses."""
        return self.round(heapq.heappop(self._owed)) if self.owing else None

    def vain(self, key: int) -> bool:
        """Whether nothing that this round keeps can belong to the target any more."""
        # `kept` has the last of the pairs so far on top: nothing that comes after it can be among the first.
        return key >> _POSITION_BITS > self._end or self.over or (not self.open and key > -self._kept[0])

    def key(self, position: Position, indices: range) -> int:
        """The round as one int; of two, the smaller comes first in canonical order."""
        return _key(round_of(indices[0], self._upfront), position)

    def round(self, key: int) -> tuple[Position, range]:
        """The round that stands as this int."""
        round_, position = divmod(key, 1 << _POSITION_BITS)
        index = round_ + self._upfront - 1
        return Position(position), range(index, index + 1) if round_ else self.first

    def last(self, indices: range) -> bool:
        """Whether a problem can have no round after this one."""
        return indices.stop >= self.samples


def round_of(index: int, upfront: int) -> int:
    """The round of response `index`, from 0."""
    return max(0, index - upfront + 1)


def last_round(
    enough: float, problems: int, first: int, pairs: Mapping[int, int], full: Mapping[int, int]
) -> int | None:
    """The first round after the first in which a response brought less than `enough` times the pairs that one brought
    in the first round, which had `first` responses to each of the `problems`; None where there is none. `pairs` came of
    each round, and so many problems were `full` by it: the others are owed the next one."""
    least, open_ = enough * pairs.get(0, 0) / max(1, problems * first), problems
    for round_ in range(1, max(pairs, default=0) + 1):
        open_ -= full.get(round_ - 1, 0)
        if open_ > 0 and pairs.get(round_, 0) / open_ < least:
            return round_
    return None


async def search(
    agenda: Agenda,
    positions: AsyncIterator[Position],
    quest: Quest,
    room: asyncio.Semaphore,
    progress: Told,
    lines: Mapping[Outcome, Line] | None = None,
    release: Callable[[], Awaitable[None]] | None = None,
    ahead: Ahead | None = None,
) -> None:
    """Play the agenda's rounds, as many at once as `room` has places, until none is owed.

    `positions` gives the problems in the order of their source. A problem is done with as many kept responses as
    are wanted of it, or when it can have no more; `progress` is told. `lines` has the line of each outcome that waits
    for a service, in the order in which a response comes to them. `release` is called when only lines are left, and
    nothing that they can bring makes another response wanted: the policy may go. `ahead` is asked for responses that
    may be needed, where slots are idle.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            early = None if ahead is None else Early(ahead, tasks.create_task)
            await _Search(agenda, positions, quest, room, progress, lines or {}, early, tasks).run(release)
    except BaseExceptionGroup as group:
        raise first_error(group) from None


class _Search:
    """The rounds of one search that are begun and not decided: at the policy, at a service, or in a line."""

    def __init__(
        self,
        agenda: Agenda,
        positions: AsyncIterator[Position],
        quest: Quest,
        room: asyncio.Semaphore,
        progress: Told,
        lines: Mapping[Outcome, Line],
        early: Early | None,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._agenda = agenda
        self._positions = positions
        self._quest = quest
        self._room = room
        self._progress = progress
        self._lines = lines
        self._early = early
        self._group = tasks
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: dict[Position, int] = {}  # only of problems under way that have some of several
        self._under_way = 0
        self._asking = 0  # of them, those at the policy
        self._hopeful = 0  # of them, those whose problem may be owed a further round
        self._moved = asyncio.Event()

    async def run(self, release: Callable[[], Awaitable[None]] | None) -> None:
        while True:
            await self._room.acquire()
            if (turn := await self._following()) is not None:
                self._enter(*turn)
                continue
            self._room.release()
            if not self._under_way or self._agenda.over:
                break
            self._moved.clear()
            if release is not None and self._agenda.ended and not (self._asking or self._hopeful or self._agenda.owing):
                await release()
                release = None
            # What is under way may owe a further round, or leave one that was not worth its tokens till now.
            await self._move()
        self._stop()

    async def _move(self) -> None:
        """Wait until something has happened, or until more can be asked for ahead of time."""
        later = None if self._early is None else self._early.fill(self._agenda.most)
        timer = None if later is None else asyncio.get_running_loop().call_later(later, self._moved.set)
        await self._moved.wait()
        if timer is not None:
            timer.cancel()

    def _stop(self) -> None:
        """Whatever is still under way is not needed."""
        if self._early is not None:
            self._early.close()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(self._group.create_task(work))

    async def _following(self) -> tuple[Position, range] | None:
        # With a target, no more rounds are under way than pairs are missing: each might be the last that is needed.
        if self._under_way >= self._agenda.worth:
            return None
        # First rounds come first, and their problems from the source, which may be endless.
        position = await anext(self._positions, None) if self._agenda.open else None
        self._agenda.ended = position is None
        return self._agenda.next() if position is None else (position, self._agenda.first)

    def _enter(self, position: Position, indices: range) -> None:
        self._under_way += 1
        self._asking += 1
        self._hopeful += not self._agenda.last(indices)
        if indices.start == 0:
            self._agenda.begin()
        if self._early is not None:
            self._early.begin(position, indices, self._kept.get(position, 0), self._quest.wanted(position))
        self._start(self._ask(position, indices))

    def _leave(self, indices: range) -> None:
        self._under_way -= 1
        self._hopeful -= not self._agenda.last(indices)
        self._moved.set()

    async def _ask(self, position: Position, indices: range) -> None:
        """A round at the policy."""
        try:
            outcomes = await self._attempt(self._quest, position, indices)
        finally:
            if self._early is not None:
                self._early.come(position)
            self._asking -= 1
            self._room.release()
            self._moved.set()
        self._go_on(position, indices, outcomes)
        self._tasks.discard(this_task())

    async def _go_through(self, line: Line, position: Position, indices: range) -> None:
        """A round at the service of this line."""
        outcomes = await self._attempt(line.quest, position, indices)
        line.places += 1
        self._go_on(position, indices, outcomes)
        self._serve(line)
        self._tasks.discard(this_task())

    async def _attempt(self, quest: Quest, position: Position, indices: range) -> list[Outcome]:
        kept = self._kept.get(position, 0)
        if len(indices) == 1:
            return [await quest.attempt(position, Index(indices.start), kept)]
        return list(await asyncio.gather(*(quest.attempt(position, Index(index), kept) for index in indices)))

    def _go_on(self, position: Position, indices: range, outcomes: list[Outcome]) -> None:
        """The round's way from here: into the first line that one of its responses has to join, or to its end."""
        for waits, line in self._lines.items():
            if waits in outcomes:
                heapq.heappush(line.waiting, self._agenda.key(position, indices))
                self._serve(line)
                return
        self._decide(position, indices, outcomes)

    def _serve(self, line: Line) -> None:
        """Let the first in line have the places that are free."""
        while line.places and line.waiting:
            key = heapq.heappop(line.waiting)
            position, indices = self._agenda.round(key)
            if self._agenda.vain(key):  # nobody is paid for it
                self._leave(indices)
            else:
                line.places -= 1
                self._start(self._go_through(line, position, indices))

    def _decide(self, position: Position, indices: range, outcomes: list[Outcome]) -> None:
        before, wanted = self._kept.pop(position, 0), self._quest.wanted(position)
        count = before
        for index, outcome in zip(indices, outcomes, strict=True):
            if outcome is Outcome.KEPT and count < wanted:
                count += 1
                self._agenda.keep(position, Index(index))
        self._leave(indices)
        ends = count >= wanted or Outcome.OVER in outcomes
        # Owed first: what is worth its tokens depends on all that may still give a pair.
        ends = ends or not self._agenda.owe(position, Index(indices.stop))
        self._agenda.decide(Index(indices.start), count - before, count >= wanted)
        if self._early is not None:
            self._early.decide(indices.start == 0, outcomes[0] is not Outcome.KEPT)
        if ends:
            self._progress.step(position, count)
            if self._early is not None:
                self._early.forget(position)
        elif count:
            self._kept[position] = count
        if self._agenda.over:  # the loop may wait for a place that one of these has
            self._stop()


def _key(round_: int, position: Position) -> int:
    return round_ << _POSITION_BITS | position
