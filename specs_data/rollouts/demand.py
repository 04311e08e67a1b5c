"""An engine that is opened on demand, for whoever samples through the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct

from specs_data.engines import Engine
from specs_data.loop import asked_for
from specs_data.plugins import Scores, is_foreign
from specs_data.records import Likelihood, Request, Response


class OnDemand:
    """An engine that is opened by its first request, so that a run which needs no new response loads
    no model. As many requests are in flight as keep it busy, and `room` (of `width`) is widened to that.
    An engine that is `lent` is not closed."""

    def __init__(
        self, opened: Callable[[], Awaitable[Engine]], room: asyncio.Semaphore, width: int, *, lent: bool
    ) -> None:
        self.concurrency = width
        self._opened = opened
        self._room = room
        self._lent = lent
        self._running: _Running | None = None
        self._lock = asyncio.Lock()
        self._asked = 0

    @property
    def idle(self) -> int:
        """How many requests more the engine can work on without another waiting for it. An engine takes more of them
        than it works on at once, so that the next ones are at hand: half of them it works on in any case."""
        return 0 if self._running is None else self._running.engine.concurrency // 2 - self._asked

    async def generate(self, request: Request) -> Response:
        """As the engine behind it."""
        running = self._running or await self._open()
        self._asked += 1
        try:
            async with running.slots:
                response = await asked_for(running.engine.generate(request), "the engine", running.foreign)
        finally:
            self._asked -= 1
        await asyncio.sleep(0)  # whoever waits for the slot asks before this one is looked at
        return response

    async def likelihood(self, request: Request, text: str) -> Likelihood | None:
        """As the engine behind it; None where that has no log-probabilities."""
        running = self._running or await self._open()
        if not isinstance(running.engine, Scores):
            return None
        async with running.slots:
            return await asked_for(running.engine.likelihood(request, text), "the engine")

    async def close(self) -> None:
        """Release the model; the next request opens it anew."""
        running, self._running = self._running, None
        if running is not None and not self._lent:
            await running.engine.close()

    async def _open(self) -> _Running:
        async with self._lock:
            if self._running is None:
                engine = await self._opened()
                self._running = _Running(engine, asyncio.Semaphore(engine.concurrency), is_foreign(engine))
                # Somewhat more problems are under way than the model works on, so that it never waits for one.
                self._widen(engine.concurrency + engine.concurrency // 4)
            return self._running

    def _widen(self, width: int) -> None:
        for _ in range(self.concurrency, width):
            self._room.release()
        self.concurrency = max(self.concurrency, width)


class _Running(Struct, frozen=True):
    engine: Engine
    slots: asyncio.Semaphore
    foreign: bool
