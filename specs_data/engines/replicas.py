"""HTTP servers that do the same work: load spread over them, and those that die or only fail put aside.

One rule for a server's health:

    UP ──(its connection broke; or it failed TOLERATED times in a row and another may serve)──> ASIDE
    ASIDE ──(rests, then lists its models)──> UP, or ON_TRIAL where it had failed that often
    ON_TRIAL ──(one request)──> UP if it was served, else ASIDE, for twice as long

A server that died is proved well by its list of models: it opens its port when the model is loaded, and
then gets all its work at once. One that was reached and only failed may well list its models, so it has to
serve a request first. One that fails while no other may serve stays up: it may only be limiting its rate,
and to put it aside would be to stop. Any request that it serves proves a server well.

How long an answer may take depends on the server alone: one that has answered nothing at all for `silence` seconds,
though it has requests, hangs, and all that it has are failed. A request that waits four times as long while others
are answered is given up. A machine that vanished is noticed by TCP keepalive.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from specs_data import wire
from specs_data.errors import EngineFailed, SpecsDataError, UserError
from specs_data.loop import this_task
from specs_data.wire import Answer, Meaning

logger = logging.getLogger(__name__)

FIRST_ANSWER = 15.0  # seconds until a server that never answered counts as a wrong address
TOLERATED = 3  # failures in a row after which a server is put aside, if another may serve
PROBE = 30.0  # seconds for a list of models
MOST_BYTES = 64 << 20  # of one answer
MOST_SILENCES = 4  # for which one request waits while others are answered

T = TypeVar("T")

Slot = tuple[int, int]  # a number and a server's place in the list


class Silent(Exception):
    """A request had no answer in time; `hangs`: nor had any other at this server."""

    def __init__(self, hangs: bool) -> None:
        super().__init__("no answer")
        self.hangs = hangs


class Standing(Enum):
    """What a server is given to do: requests, nothing, or one request."""

    UP = auto()
    ASIDE = auto()
    ON_TRIAL = auto()


class Server:
    """One replica: its addresses, and how it stands."""

    def __init__(self, root: URL) -> None:
        self.name = str(root)
        self.chat = root / "chat" / "completions"
        self.models = root / "models"
        self.standing = Standing.UP
        self.failures = 0  # in a row
        self.rests = 0  # since it was last up
        self.down_since = 0.0  # when it was last up
        self.told = False  # that it only fails, while there is no other to do its work
        self.trial: Slot | None = None  # the slot of the request that it is tried with
        self.comeback: asyncio.Task[None] | None = None
        self.parked: list[Slot] = []
        self.heard = 0.0  # when it last answered, or got its first request after it had none
        self.waiting: dict[asyncio.Task[Any], float] = {}  # whoever listens to it, since when
        self.given_up: dict[asyncio.Task[Any], bool] = {}  # of them, those that shall not; does the server hang?
        self.watch: asyncio.TimerHandle | None = None

    @property
    def is_up(self) -> bool:
        """Does it get requests?"""
        return self.standing is Standing.UP


class Replicas:
    """The servers at `urls` (with or without /v1), at most `per_server` requests in flight at each.

    `patience` is how long, in seconds, all of them may be away after they once answered, and `silence` how long one
    may have requests and answer none of them.
    """

    def __init__(
        self,
        urls: Sequence[str],
        headers: Mapping[str, str],
        *,
        per_server: int,
        patience: float,
        silence: float | None = None,
    ) -> None:
        self.servers = [Server(wire.api_root(url)) for url in dict.fromkeys(urls)]
        self.patience = patience
        self.silence = silence or patience
        self.answered = False
        self.failure: SpecsDataError | None = None  # none of them will serve any more
        self._headers = headers
        self._opened: aiohttp.ClientSession | None = None
        self._closed = False
        # The lowest slot number that is free is at the server with the fewest requests in flight.
        self._slots: asyncio.PriorityQueue[Slot] = asyncio.PriorityQueue()
        for slot in ((number, place) for number in range(per_server) for place in range(len(self.servers))):
            self._slots.put_nowait(slot)

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections, opened inside the event loop that first asks for them."""
        if self._opened is None:
            self._opened = wire.session(self._headers, most=MOST_BYTES)
        return self._opened

    async def take(self, avoid: Server | None = None) -> Slot:
        """A free slot at a server that is up, not at `avoid` if another has one. Raises UserError or
        EngineFailed where there is none any more."""
        while True:
            slot = await self._slots.get()
            if self.failure is not None:
                self._slots.put_nowait(slot)  # wakes the next who waits
                raise self.failure
            if self.servers[slot[1]] is avoid:  # the request that a server is tried with, too, is better off elsewhere
                slot = self._elsewhere(slot)
            server = self.servers[slot[1]]
            if server.is_up:
                return slot
            if server.standing is Standing.ON_TRIAL and server.trial is None:
                server.trial = slot
                return slot
            server.parked.append(slot)

    def give_back(self, slot: Slot) -> None:
        """The request in this slot is over."""
        server = self.servers[slot[1]]
        if slot == server.trial:  # it told neither good nor ill: the next one shall
            server.trial = None
        wanted = server.standing is Standing.ON_TRIAL and server.trial is None
        if server.is_up or wanted or self.failure is not None:
            self._slots.put_nowait(slot)
        else:
            server.parked.append(slot)

    async def listen(self, server: Server, answer: Awaitable[T]) -> T:
        """The `answer` of a server to a request. Raises Silent where it hangs, or where this request does."""
        now = time.monotonic()
        if not server.waiting:
            server.heard = now
        task = this_task()
        server.waiting[task] = now
        if server.watch is None:
            self._watch(server)
        try:
            found = await answer
        except asyncio.CancelledError:
            # Whoever else cancels the task shall have it cancelled.
            if task not in server.given_up or task.uncancel():
                raise
            raise Silent(server.given_up[task]) from None
        finally:
            del server.waiting[task]
            server.given_up.pop(task, None)
        server.heard = time.monotonic()
        return found

    def _watch(self, server: Server) -> None:
        """End the requests for which `server` has been silent for too long, and look again when it may have been. One
        look for all its requests: a timer for each would cost more than the answers."""
        now, hangs = time.monotonic(), server.heard + self.silence
        ends = {
            task: min(hangs, since + MOST_SILENCES * self.silence)
            for task, since in server.waiting.items()
            if task not in server.given_up
        }
        for task in [task for task, end in ends.items() if end <= now]:
            del ends[task]
            server.given_up[task] = hangs <= now
            task.cancel()
        later = min(ends.values(), default=None)
        loop = asyncio.get_running_loop()
        server.watch = None if later is None else loop.call_later(later - now, self._watch, server)

    def others_up(self, server: Server) -> bool:
        """Is another server up?"""
        return any(other.is_up for other in self.servers if other is not server)

    def served(self, server: Server) -> None:
        """`server` has served a request."""
        self.answered = True
        server.failures = 0
        if not server.is_up:
            self._bring_back(server)

    def failed(
        self, server: Server, reason: str, *, pause: float | None = None, lost: bool = False, lasting: bool = False
    ) -> bool:
        """`server` has failed a request, and asks for a `pause`. `lost`: its connection broke; `lasting`:
        another attempt would fail too. True if another server may do better."""
        hope = self._others_well(server)
        # What was under way when a server was put aside fails with it, and says nothing new.
        if server.is_up or server.trial is not None:
            server.failures += TOLERATED if lasting else 1
            broken = server.failures >= TOLERATED
            if broken and not lasting and not hope and not server.told:
                # Once: a service with a rate limit may turn some away in a row, again and again.
                server.told = True
                logger.warning("%s serves nothing at the moment and is asked again: %s", server.name, reason)
            if lost or not server.is_up or (broken and hope):
                self._put_aside(server, reason, pause)
        return hope

    async def models(self) -> tuple[Server, Answer]:
        """The first server that lists its models, and the list; where none does, the first that answers, and
        what it says. Raises UserError where none answers."""
        deadline = time.monotonic() + FIRST_ANSWER
        while True:
            others = []
            for server in self.servers:
                answer = await self._probe(server)
                if answer is not None and answer.means is Meaning.DONE:
                    return server, answer
                if answer is not None:
                    others.append((server, answer))
            if others:
                return others[0]
            if time.monotonic() > deadline:
                raise self._unreachable("no answer")
            await asyncio.sleep(wire.FIRST_PAUSE)

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        comebacks = [server.comeback for server in self.servers if server.comeback is not None]
        for comeback in comebacks:
            comeback.cancel()
        for server in self.servers:
            if server.watch is not None:
                server.watch.cancel()
        await asyncio.gather(*comebacks, return_exceptions=True)
        if self._opened is not None:
            await self._opened.close()

    def _others_well(self, server: Server) -> bool:
        """Is another server up that does not only fail?"""
        return any(other.is_up and other.failures < TOLERATED for other in self.servers if other is not server)

    def _put_aside(self, server: Server, reason: str, pause: float | None) -> None:
        if server.is_up:
            server.down_since = time.monotonic()
        server.standing, server.trial = Standing.ASIDE, None
        if self._closed:
            return
        # A connection breaks for many reasons, and most servers answer the next one: the first times, it is
        # asked at once.
        rest = self._rest(server, reason, pause) if server.failures >= TOLERATED else 0.0
        server.comeback = asyncio.create_task(self._come_back(server, reason, rest))

    def _rest(self, server: Server, reason: str, asked: float | None = None) -> float:
        """Seconds of the next rest. The first is no news."""
        server.rests += 1
        if server.rests == 2:
            logger.warning("%s is put aside until it serves again: %s", server.name, reason)
        return wire.pause(server.rests, asked)

    async def _come_back(self, server: Server, reason: str, rest: float) -> None:
        """Let `server` rest until it answers, then give it work."""
        await asyncio.sleep(rest)
        while await self._probe(server) is None:
            if self._silence() > (self.patience if self.answered else min(FIRST_ANSWER, self.patience)):
                self.failure = self._unreachable(reason)
                self._unpark(*self.servers)
                return
            await asyncio.sleep(self._rest(server, reason))
        if server.failures < TOLERATED or not self._others_well(server):
            self._bring_back(server)
            return
        server.standing = Standing.ON_TRIAL
        if server.parked:  # else the next slot that is given back
            self._slots.put_nowait(server.parked.pop())

    def _bring_back(self, server: Server) -> None:
        if server.comeback is not None and server.comeback is not asyncio.current_task():
            server.comeback.cancel()  # it served while it was to rest
        if server.rests >= 2:
            logger.warning("%s serves again", server.name)
        server.standing, server.trial, server.comeback, server.rests = Standing.UP, None, None, 0
        self._unpark(server)

    def _elsewhere(self, slot: Slot) -> Slot:
        """A free slot at another server that is up, if there is one, in exchange for `slot`."""
        passed = [slot]
        while not self._slots.empty():
            other = self._slots.get_nowait()
            if other[1] != slot[1] and self.servers[other[1]].is_up:
                slot = other
                break
            passed.append(other)
        for each in passed:
            if each is not slot:
                self._slots.put_nowait(each)
        return slot

    async def _probe(self, server: Server) -> Answer | None:
        """What a server answers when asked for its models, None where it does not answer or is out of order."""
        try:
            answer = await wire.ask(self.session, server.models, seconds=PROBE)
        except wire.NoAnswer:
            return None
        return answer if answer.status < 500 else None

    def _silence(self) -> float:
        """Seconds for which no server has had work to do."""
        if any(server.standing is not Standing.ASIDE for server in self.servers):
            return 0.0
        return time.monotonic() - max(server.down_since for server in self.servers)

    def _unpark(self, *servers: Server) -> None:
        for server in servers:
            for slot in server.parked:
                self._slots.put_nowait(slot)
            server.parked.clear()

    def _unreachable(self, reason: str) -> SpecsDataError:
        where = ", ".join(server.name for server in self.servers)
        if self.answered:
            return EngineFailed(f"no server has answered for {self.patience:.0f} s at {where}: {reason}")
        return UserError(f"no server answers at {where} ({reason}): start it or correct --base-url")
