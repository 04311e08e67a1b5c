"""HTTP servers that do the same work: load spread over them, and those that die or only fail put aside.

A server that cannot be reached gets work again once it answers. One that is reached and only fails may
well list its models: it gets a single request from time to time, and all its work again once it serves one.

There is no limit on how long an answer may take. A machine that vanished is noticed by TCP keepalive.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from yarl import URL

from specs_data.errors import EngineFailed, SpecsDataError, UserError

logger = logging.getLogger(__name__)

FIRST_ANSWER = 15.0  # seconds until a server that never answered counts as a wrong address
FIRST_PAUSE = 0.5  # seconds between two attempts, doubled up to LONGEST_PAUSE
LONGEST_PAUSE = 30.0
TOLERATED = 3  # failures in a row after which a server is put aside, if another may serve
IDLE = 4  # seconds a connection is kept unused: servers drop theirs after 5 or more
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 8}  # a dead machine shows after 3 minutes

Slot = tuple[int, int]  # a number and a server's place in the list


class Server:
    """One replica: its addresses, and whether it is up. It rests while it is aside for its failures."""

    def __init__(self, root: URL) -> None:
        self.name = str(root)
        self.chat = root / "chat" / "completions"
        self.models = root / "models"
        self.up = True
        self.down_since = 0.0
        self.failures = 0  # in a row
        self.told = False  # that it only fails, while there is no other to do its work
        self.pause = 0.0  # seconds of the rest it is having
        self.rest: asyncio.TimerHandle | None = None
        self.on_trial = False  # the next request is to find out whether it serves again
        self.trial: Slot | None = None  # that request's slot
        self.parked: list[Slot] = []


class Replicas:
    """The servers at `urls` (with or without /v1), at most `per_server` requests in flight at each.

    `patience` is how long, in seconds, all of them may be silent after they once answered.
    """

    def __init__(self, urls: Sequence[str], headers: Mapping[str, str], *, per_server: int, patience: float) -> None:
        self.servers = [Server(_api_root(url)) for url in dict.fromkeys(urls)]
        self.patience = patience
        self.answered = False
        self._headers = headers
        self._opened: aiohttp.ClientSession | None = None
        # The lowest slot number that is free is at the server with the fewest requests in flight.
        self._slots: asyncio.PriorityQueue[Slot] = asyncio.PriorityQueue()
        for slot in ((number, place) for number in range(per_server) for place in range(len(self.servers))):
            self._slots.put_nowait(slot)
        self._revivals: set[asyncio.Task[None]] = set()
        self._failure: SpecsDataError | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections, opened inside the event loop that first asks for them."""
        if self._opened is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE, socket_factory=_kept_alive)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
            self._opened = aiohttp.ClientSession(
                connector=connector, timeout=timeout, headers=self._headers, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._opened

    async def take(self, avoid: Server | None = None) -> Slot:
        """A free slot at a server that is up, not at `avoid` if another has one. Raises UserError or
        EngineFailed where there is none any more."""
        while True:
            slot = await self._slots.get()
            if self._failure is not None:
                self._slots.put_nowait(slot)  # wakes the next who waits
                raise self._failure
            server = self.servers[slot[1]]
            if server.up:
                return self._elsewhere(slot) if server is avoid else slot
            if server.on_trial:
                server.on_trial, server.trial = False, slot
                return slot
            server.parked.append(slot)

    def give_back(self, slot: Slot) -> None:
        """The request in this slot is over."""
        server = self.servers[slot[1]]
        if slot == server.trial:  # which told neither good nor ill
            server.on_trial, server.trial = True, None
        if server.up or server.on_trial or self._failure is not None:
            self._slots.put_nowait(slot)
        else:
            server.parked.append(slot)

    def others_up(self, server: Server) -> bool:
        """Is another server up?"""
        return any(other.up for other in self.servers if other is not server)

    def served(self, server: Server) -> None:
        """`server` has served a request."""
        self.answered = True
        server.failures = 0
        if server.rest is not None:
            if server.pause > FIRST_PAUSE:
                logger.warning("%s serves again", server.name)
            server.rest.cancel()
            server.rest, server.pause = None, 0.0
            server.up, server.on_trial, server.trial = True, False, None
            self._unpark(server)

    def failed(
        self, server: Server, reason: str, *, pause: float = 0.0, lost: bool = False, lasting: bool = False
    ) -> bool:
        """`server` has failed a request, and asks for a `pause`. `lost`: its connection broke; `lasting`:
        another attempt would fail too. True if another server may do better."""
        hope = any(other.up and other.failures < TOLERATED for other in self.servers if other is not server)
        if server.up:
            server.failures += TOLERATED if lasting else 1
            if hope and server.failures >= TOLERATED:
                server.down_since = time.monotonic()
                self._rest(server, max(pause, FIRST_PAUSE), reason)
                return hope
            # Once: a service with a rate limit may turn some away in a row, again and again.
            if server.failures >= TOLERATED and not lasting and not server.told:
                server.told = True
                logger.warning("%s serves nothing at the moment and is asked again: %s", server.name, reason)
            if lost:
                self._put_aside(server, reason)
        elif server.trial is not None:
            self._rest(server, max(pause, min(LONGEST_PAUSE, server.pause * 2)), reason)
        return hope

    def _rest(self, server: Server, pause: float, reason: str) -> None:
        """Give `server` nothing to do for `pause` seconds, and then one request."""
        if pause > FIRST_PAUSE >= server.pause:
            logger.warning("%s is put aside until it serves again: %s", server.name, reason)
        server.up, server.on_trial, server.trial = False, False, None
        server.pause = pause
        server.rest = asyncio.get_running_loop().call_later(pause * random.uniform(1.0, 1.2), self._try, server)

    def _try(self, server: Server) -> None:
        server.on_trial = True
        if server.parked:  # else the next slot that is given back
            self._slots.put_nowait(server.parked.pop())

    def _elsewhere(self, slot: Slot) -> Slot:
        """A free slot at another server that is up, if there is one, in exchange for `slot`."""
        passed = [slot]
        while not self._slots.empty():
            other = self._slots.get_nowait()
            if other[1] != slot[1] and self.servers[other[1]].up:
                slot = other
                break
            passed.append(other)
        for each in passed:
            if each is not slot:
                self._slots.put_nowait(each)
        return slot

    def _put_aside(self, server: Server, reason: str) -> None:
        """Give `server` nothing to do until it answers again."""
        server.up = False
        server.down_since = time.monotonic()
        revival = asyncio.create_task(self._revive(server, reason))
        self._revivals.add(revival)
        revival.add_done_callback(self._revivals.discard)

    async def models(self) -> tuple[Server, int, bytes]:
        """The first server that lists its models, its status, 200, and the list as JSON; where none does,
        those of the first that answers. Raises UserError where none answers."""
        deadline = time.monotonic() + FIRST_ANSWER
        while True:
            others = []
            for server in self.servers:
                status, answer = await self._probe(server)
                if status == 200:
                    return server, status, answer
                if status:
                    others.append((server, status, answer))
            if others:
                return others[0]
            if time.monotonic() > deadline:
                raise self._unreachable("no answer")
            await asyncio.sleep(FIRST_PAUSE)

    async def close(self) -> None:
        """Close the connections."""
        for revival in self._revivals:
            revival.cancel()
        if self._opened is not None:
            await self._opened.close()

    async def _revive(self, server: Server, reason: str) -> None:
        pause = FIRST_PAUSE
        while not (await self._probe(server))[0]:
            if pause == FIRST_PAUSE:
                logger.warning("%s is put aside until it answers: %s", server.name, reason)
            if self._silence() > (self.patience if self.answered else min(FIRST_ANSWER, self.patience)):
                self._failure = self._unreachable(reason)
                self._unpark(*self.servers)
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE, pause * 2)
        if pause > FIRST_PAUSE:
            logger.warning("%s answers again", server.name)
        server.up = True
        self._unpark(server)

    async def _probe(self, server: Server) -> tuple[int, bytes]:
        """What a server answers when asked for its models, and the status, 0 where it does not answer."""
        try:
            timeout = aiohttp.ClientTimeout(total=30)
            async with self.session.get(server.models, timeout=timeout, allow_redirects=False) as reply:
                content = await reply.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0, b""
        return (reply.status, content) if reply.status < 500 else (0, b"")

    def _silence(self) -> float:
        """Seconds for which no server has been up."""
        if any(server.up for server in self.servers):
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


def _api_root(url: str) -> URL:
    try:
        root = URL(url.strip().rstrip("/"))
        usable = root.scheme in ("http", "https") and bool(root.host)
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"{url!r} is not the address of a server; it should look like http://HOST:PORT/v1")
    return root / "v1" if root.path in ("", "/") else root


def _kept_alive(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
