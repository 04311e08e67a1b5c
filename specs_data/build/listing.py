"""The problems of a run, read ahead of the search and given their places in the store.

A problem's place is that in the order in which problems are asked about: of their sources, or shuffled.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from specs_data.judges.rules import gold_fault
from specs_data.problems import Dropped, Incoming, Order, Source, read_all, read_problems, sources_of, told_apart
from specs_data.recipe import Recipe
from specs_data.records import Problem
from specs_data.rollouts.plan import outside_window
from specs_data.rollouts.responses import read_responses
from specs_data.rollouts.store import Index, Number, Position, Store
from specs_data.services import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from specs_data.build.leakage import Leakage

# The source is read ahead by so many problems, or by so many bytes of pictures; at first by fewer, for the model to
# begin with. While the store takes them in the loop stands still, and whoever waits for the next request with it.
_READ_FIRST = 64
_READ_AHEAD = 128
_READ_AHEAD_BYTES = 8_000_000


class Listing:
    """The problems of a run in the order in which they are asked about, as far as they have been read.

    `expect` is told of each problem that the store did not know before, `about_to_read` of each picture file. Four
    bytes are kept of a problem. Without a judge model (`by_rule`), what no rule can judge is left out; where the
    verifier is a service (`by_service`) or a judge model would be asked, so is what has larger pictures than one
    request takes.
    """

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        *,
        by_rule: bool,
        by_service: bool,
        expect: Callable[[Number, Problem], None] | None,
        about_to_read: Callable[[Path], None] | None = None,
    ) -> None:
        self._store = store
        self._recipe = recipe
        self._by_rule = by_rule
        self._by_service = by_service
        self._expect = expect
        self._about_to_read = about_to_read
        self._numbers = array("I")  # by position; 0 where a row of the source became no problem of this run
        self._sources = sources_of(recipe)
        self._given = 0  # the places up to which problems were handed out: more may have been read
        self.rest = self._read()  # the problems that nobody has asked for yet, read as they are wanted

    def number(self, position: Position) -> Number:
        """The number in the store of the problem at this place."""
        return Number(self._numbers[position])

    async def again(self) -> AsyncIterator[Position]:
        """All of them from the beginning, each of them once."""
        for place, number in enumerate(self._numbers[: self._given]):
            if number:
                yield Position(place)
        async for position in self.rest:
            yield position

    async def _read(self) -> AsyncIterator[Position]:
        recipe, store = self._recipe, self._store
        store.start_listing()
        leakage = _leakage(recipe.exclude, self._about_to_read) if recipe.exclude else None
        source = read_all(
            self._sources,
            columns=recipe.columns,
            limit=recipe.limit,
            rated=recipe.pass_rate is not None and recipe.samples_upfront == 1,
            about_to_read=self._about_to_read,
            order=Order(recipe.shuffled, recipe.balance == "source", recipe.seed, recipe.part),
        )
        async for chunk in _ahead(
            item if isinstance(item, Dropped) else self._screen(item, leakage) for item in source
        ):
            for position in self._list(chunk):
                self._given = position + 1
                yield position

    def _screen(self, item: Incoming, leakage: Leakage | None) -> Incoming | Dropped:
        """`item`, unless it is also in an evaluation set, too hard or too easy by what its source says, or no response
        to it could be judged or verified: for that every token would be in vain."""
        problem = item.problem
        if reason := leakage and leakage.match(problem.question, item.images):
            return _dropped(item, f"excluded: {reason}")
        if (window := self._recipe.pass_rate) is not None:
            if item.pass_rate is None and self._recipe.samples_upfront == 1:
                return _dropped(item, "pass rate not known", problem.id)
            if item.pass_rate is not None and not window[0] <= item.pass_rate <= window[1]:
                return _dropped(item, outside_window(window), f"{problem.id}: {item.pass_rate:g}")
        if (self._by_rule or problem.answer_type != "open") and (fault := gold_fault(problem)):
            return _dropped(item, f"cannot be judged: {fault}", problem.id)
        if self._by_service or (not self._by_rule and problem.answer_type == "open"):
            size = sum(map(len, item.images))
            if size > MAX_IMAGE_BYTES:
                told = f"{problem.id}: {size:,} bytes, and a request has room for {MAX_IMAGE_BYTES:,}"
                return _dropped(item, "images too large for the service that judges", told)
        return item

    def _list(self, chunk: Sequence[Incoming | Dropped]) -> list[Position]:
        """Give these problems their places; the positions of those that have one."""
        store = self._store
        incoming = [item for item in chunk if isinstance(item, Incoming)]
        listed = store.list_problems([(Position(item.position), item.problem) for item in incoming])
        if len(self._sources) > 1:
            incoming = [item if item.position in listed else self._renamed(item) for item in incoming]
            others = [(Position(item.position), item.problem) for item in incoming if item.position not in listed]
            listed = store.list_problems(others) | listed
        for item in incoming:
            if item.position in listed:
                self._take(item, *listed[Position(item.position)])
            else:
                store.drop("input", item.row, "duplicate", self._twice(item))
        for dropped in chunk:
            if isinstance(dropped, Dropped):
                store.drop("input", dropped.row, dropped.reason, dropped.detail)
        return sorted(listed)

    def _renamed(self, item: Incoming) -> Incoming:
        """A problem whose id another one has, perhaps of another source: then it is not the same problem."""
        return told_apart(item, self._known(item))

    def _twice(self, item: Incoming) -> str:
        """The id that is taken, and whether by another problem: a source may call two of them the same."""
        same = told_apart(item, self._known(item)) is item
        return item.problem.id if same else f"{item.problem.id}: another problem has this id"

    def _known(self, item: Incoming) -> Problem | None:
        number = self._store.named(item.problem.id)
        return None if number is None else self._store.problem(number)

    def _take(self, item: Incoming, number: Number, unseen: bool) -> None:
        for name, data in zip(item.problem.images, item.images, strict=True):
            self._store.put_image(name, data)
        self._numbers.extend(repeat(0, item.position - len(self._numbers)))
        self._numbers.append(number)
        if unseen and self._expect is not None:  # what was just read need not be looked up in the store
            self._expect(number, item.problem)


def take_responses(store: Store, recipe: Recipe, file: Path, settings: int, stage: str) -> None:
    """Log the responses of `file` as samples, numbered in their order for each problem. What is wrong with a row is
    told as of `stage`; that it belongs to another shard is nothing wrong."""
    taken, shard = array("I"), Order(shard=recipe.part)
    sources = sources_of(recipe)
    for row, found in enumerate(read_responses(file)):
        if isinstance(found, str):
            if shard.has(str(row)):
                store.drop(stage, Position(row), found)
            continue
        number = store.named(found[0])
        if number is None:
            if shard.has(_told_apart(found[0], sources)):
                store.drop(stage, Position(row), "unknown problem_id", found[0])
            continue
        taken.extend(repeat(0, number + 1 - len(taken)))
        store.put("samples", settings, number, Index(taken[number]), None, found[1])
        taken[number] += 1
    store.commit()


def _told_apart(name: str, sources: Sequence[Source]) -> str:
    """The id by which a problem has its shard: without what tells it apart from another source's of the same id."""
    label, _, rest = name.partition("/")
    return rest if len(sources) > 1 and label in (source.label for source in sources) else name


async def each(positions: Sequence[Position]) -> AsyncIterator[Position]:
    """These problems, one after the other."""
    for position in positions:
        yield position


def _dropped(item: Incoming, reason: str, detail: str = "") -> Dropped:
    return Dropped(item.position, reason, detail, item.row)


def _leakage(sets: Sequence[str], about_to_read: Callable[[Path], None] | None) -> Leakage:
    """The evaluation sets whose problems are left out."""
    from specs_data.build.leakage import Leakage

    found = (item for name in sets for item in read_problems(name, gold=False, about_to_read=about_to_read))
    return Leakage((item.problem.question, item.images) for item in found if isinstance(item, Incoming))


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
