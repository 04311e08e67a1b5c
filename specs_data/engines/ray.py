"""Many engines on a Ray cluster: one per actor, each request with the one that has the fewest.

Ray places the actors, starts them again when they or their machines die, and moves requests and
responses. What was in flight on a lost replica is asked again elsewhere at once; since the seed alone
decides a response, it does not matter where.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from specs_data.engines import Engine
from specs_data.errors import EngineFailed, SpecsDataError, UserError, require
from specs_data.inert import one_line
from specs_data.records import Request, Response

logger = logging.getLogger(__name__)

RESTARTS = 20  # times Ray starts one replica again, until it counts as broken
NEWS = 60.0  # seconds between two words on replicas that are waited for
CONNECT = 30.0  # seconds until a cluster's address takes a connection
GLANCE = 0.2  # seconds between two looks at whether the wait was given up


class _Replica:
    """What runs in the actor. Errors are returned as values: Ray would wrap them in tracebacks."""

    def __init__(self, make_engine: Callable[[], Engine]) -> None:
        self._engine: Engine | None = None
        self._fault: SpecsDataError | None = None
        try:
            self._engine = make_engine()
        except SpecsDataError as error:
            self._fault = error

    async def concurrency(self) -> int | SpecsDataError:
        if self._engine is None:
            return self._fault or EngineFailed("no engine")
        return self._engine.concurrency

    async def generate(self, request: Request) -> Response | SpecsDataError:
        if self._engine is None:
            return self._fault or EngineFailed("no engine")
        try:
            return await self._engine.generate(request)
        except SpecsDataError as error:
            return error

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()


class _Handle:
    """The driver's view of one actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.in_flight = 0
        self.up = False
        self.broken = False


class RayEngine:
    """`replicas` engines made by `make_engine`, each in a Ray actor with `gpus` GPUs (fewer than one
    may be shared). `address` is the cluster's; None starts Ray on this machine.

    `make_engine` must be picklable, and what it reads (the checkpoint) must be at the same path on
    every machine. The first replica that is ready starts the work; others join as they come up. Whoever
    sets `given_up` ends the wait for it: EngineFailed.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        address: str | None = None,
        *,
        replicas: int = 1,
        gpus: float = 0,
        given_up: threading.Event | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = require("ray", "ray")
        self._connected = not self._ray.is_initialized()
        if self._connected:
            _connect(self._ray, address)
        gpus = _affordable(self._ray, replicas, gpus, local=address is None)
        actor = self._ray.remote(_Replica).options(
            num_cpus=0, num_gpus=gpus, scheduling_strategy="SPREAD", max_restarts=RESTARTS, max_concurrency=10_000
        )
        self._handles = [_Handle(actor.remote(make_engine)) for _ in range(replicas)]
        self._comebacks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._failure: SpecsDataError | None = None
        self._followed = False
        self.concurrency = self._first_ready(gpus, given_up or threading.Event()) * replicas

    async def generate(self, request: Request) -> Response:
        """Sample one response on some replica. Raises PromptRefused, Undecided, UserError or EngineFailed
        as the replicas' engines do; EngineFailed too when all replicas are lost for good."""
        self._follow()
        while True:
            handle = await self._least_loaded()
            handle.in_flight += 1
            try:
                outcome = await handle.actor.generate.remote(request)
            except self._ray.exceptions.RayTaskError as error:
                raise EngineFailed(f"a replica's engine failed: {_one_line(error)}") from None
            except self._ray.exceptions.RayError as error:  # its process or machine, or the answer, is lost
                self._put_aside(handle, error)
                continue
            finally:
                handle.in_flight -= 1
            if isinstance(outcome, EngineFailed):
                # The engine is broken inside a live actor: Ray starts the actor anew.
                if handle.up:
                    self._ray.kill(handle.actor, no_restart=False)
                    self._put_aside(handle, outcome)
                continue
            if isinstance(outcome, SpecsDataError):
                raise outcome
            return outcome  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Release the replicas, and Ray where this engine started it."""
        for comeback in self._comebacks:
            comeback.cancel()
        for handle in self._handles:
            self._ray.kill(handle.actor)
        if self._connected:
            await asyncio.to_thread(self._ray.shutdown)

    def _first_ready(self, gpus: float, given_up: threading.Event) -> int:
        """How many requests keep one replica busy, once one is up. A cluster may grow, so there is no
        limit to the wait."""
        start = told = time.monotonic()
        waiting = {handle.actor.concurrency.remote(): handle for handle in self._handles}
        fault: SpecsDataError | None = None
        while waiting:
            done, _ = self._ray.wait(list(waiting), num_returns=1, timeout=GLANCE)
            if given_up.is_set():
                for handle in self._handles:
                    self._ray.kill(handle.actor)
                raise EngineFailed("the wait for a replica was given up")
            if not done:
                if time.monotonic() - told >= NEWS:
                    told = time.monotonic()
                    self._tell_of_the_wait(told - start, gpus)
                continue
            (ready,) = done
            handle = waiting.pop(ready)
            try:
                found = self._ray.get(ready)
            except self._ray.exceptions.RayError as error:
                found = EngineFailed(f"a replica died while it started: {_one_line(error)}")
            if isinstance(found, int):
                handle.up = True
                return found
            fault = found
            handle.broken = True
        raise fault or UserError("--replicas must be at least 1")

    def _tell_of_the_wait(self, seconds: float, gpus: float) -> None:
        there = self._ray.cluster_resources().get("GPU", 0)
        free = self._ray.available_resources().get("GPU", 0)
        logger.warning(
            "no replica is ready after %.0f s: each takes %g GPUs, and of the cluster's %g GPUs %g are free",
            *(seconds, gpus, there, free),
        )

    def _follow(self) -> None:
        """Watch the replicas that were not ready at the start."""
        if not self._followed:
            self._followed = True
            for handle in self._handles:
                if not handle.up and not handle.broken:
                    self._await_comeback(handle)

    async def _least_loaded(self) -> _Handle:
        while True:
            if self._failure is not None:
                raise self._failure
            up = [handle for handle in self._handles if handle.up]
            if up:
                return min(up, key=lambda handle: handle.in_flight)
            self._changed.clear()
            await self._changed.wait()

    def _put_aside(self, handle: _Handle, error: Exception) -> None:
        if handle.up:
            handle.up = False
            logger.warning("a replica is lost, its requests go to the others: %s", _one_line(error))
            self._await_comeback(handle)

    def _await_comeback(self, handle: _Handle) -> None:
        comeback = asyncio.create_task(self._come_back(handle))
        self._comebacks.add(comeback)
        comeback.add_done_callback(self._comebacks.discard)

    async def _come_back(self, handle: _Handle) -> None:
        """Wait until Ray has started the actor anew, or given it up."""
        try:
            found = await handle.actor.concurrency.options(max_task_retries=-1).remote()
        except self._ray.exceptions.RayError as error:
            found = EngineFailed(f"all replicas are lost: {_one_line(error)}")
        if isinstance(found, int):
            handle.up = True
        else:
            handle.broken = True
            if all(each.broken for each in self._handles):
                self._failure = found
        self._changed.set()


def _connect(ray: Any, address: str | None) -> None:
    _refuse_unreachable(address or "")
    local: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster answers at {address or 'this machine'}: {_one_line(error)}") from None


def _refuse_unreachable(address: str) -> None:
    """Raise UserError where nothing listens at HOST:PORT or ray://HOST:PORT: Ray would try for ten minutes and more,
    and say nothing."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=CONNECT).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {_one_line(error)}") from None


def _affordable(ray: Any, replicas: int, gpus: float, *, local: bool) -> float:
    """The GPUs per replica: none on a cluster without any. Raises UserError where this machine has too
    few; a cluster may still grow."""
    there = ray.cluster_resources().get("GPU", 0)
    if not there:
        return 0
    if local and replicas * gpus > there:
        raise UserError(
            f"{replicas} replicas with {gpus:g} GPUs each need more than the {there:g} GPUs of this machine"
        )
    return gpus


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    if "ray::" in text:  # a remote traceback, which ends with the error
        text = text.rpartition("\n")[2]
    return one_line(text, 300) or type(error).__name__
