"""Running a coroutine from plain code, also where an event loop runs already, as in a notebook.

An event loop comes to an interrupt when the code that it runs returns to it. Code of others may never: what runs in a
block of `running` is interrupted at once.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from specs_data.errors import PluginFailed

try:
    from uvloop import run as _run  # a fifth less work for a request over HTTP
except ImportError:  # there is none for Windows
    from asyncio import run as _run  # type: ignore[assignment]

GRACE = 5.0  # seconds for what waits on after it was cancelled
T = TypeVar("T")
_INTERRUPT = threading.Event()  # has there been one since `run` began?
_RUNNING: ContextVar[bool] = ContextVar("running", default=False)  # whose task is it that the loop is at?


class Interrupted(BaseException):
    """Raised in code of others by a Ctrl-C; none catches it by accident."""


@contextmanager
def running() -> Iterator[None]:
    """In this block code of others runs."""
    token = _RUNNING.set(True)
    try:
        yield
    finally:
        _RUNNING.reset(token)


def is_interrupted() -> bool:
    """Has there been a Ctrl-C?"""
    return _INTERRUPT.is_set()


def is_cancelled() -> bool:
    """Has anybody asked for the end of the task at hand, or of everything?"""
    if is_interrupted():
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop, no task
        return False
    return task is not None and task.cancelling() > 0


async def asked_for(call: Awaitable[T], who: str, foreign: bool = True) -> T:
    """What `call` gives. Raises PluginFailed where `who`, who is `foreign`, ends it by a CancelledError that nobody
    asked for: its task would end as if all was well."""
    if not foreign:
        return await call
    if not isinstance(call, Awaitable):
        raise PluginFailed(f"{who} gave {type(call).__name__}, which cannot be waited for: it should be a coroutine")
    try:
        return await _Left(call)
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        raise PluginFailed(f"{who} gave up a call that nobody had cancelled") from None


class _Left(Awaitable[T]):
    """What `call` gives. One that waits on for GRACE seconds after it was cancelled is left there: whoever swallows a
    cancellation would hold up the end of all for ever."""

    def __init__(self, call: Awaitable[T]) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._call.__await__()
        step, late, cancelled = partial(next, steps), None, 0
        try:
            while True:
                waits = step()
                if cancelled > 1:
                    _never_collect(steps)
                    raise asyncio.CancelledError
                try:
                    yield waits
                    step = partial(next, steps)
                except BaseException as error:  # what it waited for failed, or it is cancelled: it shall know
                    step = partial(steps.throw, error)
                    if isinstance(error, asyncio.CancelledError):
                        cancelled += 1
                        late = late or asyncio.get_running_loop().call_later(GRACE, this_task().cancel)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            if late is not None:
                late.cancel()


def _never_collect(left: object) -> None:
    """What is collected is closed, and what swallows that as well would hold up the end of the process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))


def this_task() -> asyncio.Task[Any]:
    """The task at hand, of a coroutine."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is one
    return task


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. Where this thread runs an event loop, another thread does the work; an interrupt
    cancels it there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(_interruptible(work))
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()

    async def told() -> T:
        started.set_result((asyncio.get_running_loop(), this_task()))
        return await work

    with ThreadPoolExecutor(1, "specs-data") as thread:
        done = thread.submit(_run, told())
        try:
            return done.result()
        except KeyboardInterrupt:
            loop, task = started.result()
            loop.call_soon_threadsafe(task.cancel)
            raise


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    known = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(known):
        return await work

    def interrupt(number: int, frame: FrameType | None) -> None:
        _INTERRUPT.set()
        known(number, frame)  # asyncio's cancels its main task
        # A handler runs in the context of what it interrupts: a task, or a callback of the loop that a task asked for.
        if _RUNNING.get() and asyncio.current_task() is not None:
            raise Interrupted

    signal.signal(signal.SIGINT, interrupt)
    try:
        return await work
    finally:
        signal.signal(signal.SIGINT, known)
        _INTERRUPT.clear()


async def in_thread(call: Callable[[], T]) -> T:
    """What `call` gives, in a thread of its own. Once this is cancelled nobody waits for it."""
    loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def settle(set_outcome: Callable[[Any], None], outcome: object) -> None:
        if not done.done():
            set_outcome(outcome)

    def work() -> None:
        try:
            outcome = done.set_result, call()
        except BaseException as error:
            outcome = done.set_exception, error  # type: ignore[assignment]
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=copy_context().run, args=(work,), daemon=True).start()
    result: T = await done
    return result
