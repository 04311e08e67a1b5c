"""Running a coroutine from plain code, also where an event loop runs already, as in a notebook."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from specs_data.errors import PluginFailed

try:
    from uvloop import run as _run  # a fifth less work for a request over HTTP
except ImportError:  # there is none for Windows
    from asyncio import run as _run  # type: ignore[assignment]

T = TypeVar("T")


async def asked_for(call: Awaitable[T], who: str) -> T:
    """What `call` gives. Raises PluginFailed where `who` ends it by a CancelledError that nobody asked for:
    its task would end as if all was well."""
    try:
        return await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise PluginFailed(f"{who} gave up a call that nobody had cancelled") from None


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. Where this thread runs an event loop, another thread does the work; an interrupt
    cancels it there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(work)
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()

    async def told() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        started.set_result((asyncio.get_running_loop(), task))
        return await work

    with ThreadPoolExecutor(1, "specs-data") as thread:
        done = thread.submit(_run, told())
        try:
            return done.result()
        except KeyboardInterrupt:
            loop, task = started.result()
            loop.call_soon_threadsafe(task.cancel)
            raise
