"""Every contract that an author of a plug-in meets, and how a name is found.

    what            given to the build as    its group of entry points    what stands there
    an operator     --corruption             specs_data.corruptions       an Operator, or a class that makes one
    an engine       --engine                 specs_data.engines           a MakeEngine, such as a class
    a verifier      --verifier               specs_data.verifiers         a MakeVerifier, such as a class

A name is looked for in one way, whichever of the three it is: `./file.py` is that file, any other name is what is
built in or registered by an installed package. A name that two packages own is an error that names both. In a
file stands what has the file's name, or else the only public function or class that is defined there.

The group of an operator says when it is drawn, whoever wrote it: by default in formats with tags
(`specs_data.corruptions`), by default in JSON formats (`specs_data.corruptions.json`), or only where --corruption
names it (`specs_data.corruptions.by_name`).

What a plug-in raises, if it is none of this package's errors, ends the run with the plug-in's name (PluginFailed);
so does what it returns, if that is of another type. An operator has SECONDS seconds for a response; of an engine or
a verifier that waits for longer than PATIENCE seconds a warning says so, for that may be right.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import inspect
import logging
import random
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import msgspec
from msgspec import Struct

from specs_data.errors import PluginFailed, SpecsDataError, UserError, unknown_name
from specs_data.format import ResponseFormat
from specs_data.inert import one_line
from specs_data.loop import GRACE, Interrupted, asked_for, is_cancelled, is_interrupted, running
from specs_data.records import Judged, Likelihood, Request, Response, Sampling, Verdict

SECONDS = 10.0
PATIENCE = 600.0
_SLOW = "%s has not answered for %g seconds"
_LONGEST_ERROR = 300  # characters of what a plug-in's error says

# An operator gets a response, its format and a seeded random generator, the only one that it may use, and returns
# the text with its format broken and all else as it was, or None where it does not apply. Every result is checked.
Operator = Callable[[str, ResponseFormat, random.Random], str | None]


class Engine(Protocol):
    """A policy that can be sampled. It serves many `generate` calls at once and keeps its model busy with them."""

    @property
    def concurrency(self) -> int:
        """How many `generate` calls in flight keep the model fully busy."""
        ...

    async def generate(self, request: Request) -> Response:
        """Sample one response. Raises PromptRefused where this one request cannot be served, Undecided
        where it was given up and may be served on the next run (both with a reason, by which they are
        counted, and a detail), and EngineFailed where the engine can serve none."""
        ...

    async def close(self) -> None:
        """Release the model. Calls still in flight may fail."""
        ...


@runtime_checkable
class Scores(Protocol):
    """What an Engine may do besides: say how likely a text is."""

    async def likelihood(self, request: Request, text: str) -> Likelihood | None:
        """How likely `text` is as what follows the request's prefill; None where that cannot be told. Raises as
        `generate`."""
        ...


class Verifier(Protocol):
    """A judge of reasoning paths (paper, stage 1b)."""

    @property
    def concurrency(self) -> int:
        """How many `verify` calls may be waiting at once: the backlog while the policy generates on."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """All that determines a verdict besides the sample (verifier, version, model, prompt hash ...): part of
        the verdict's key in the store."""
        ...

    @property
    def paid(self) -> bool:
        """Does a verdict cost money or a model's time? Then it is shown the images, and the same response to the same
        problem is asked about once: other runs with the same `cache` take the verdict too."""
        ...

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        """Judge one right and well-formed sample. `images` are the files' bytes. Raises Undecided,
        with the reason, where no usable verdict was had; raises UserError where no call can succeed
        (a wrong key, an unknown model)."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class ModelOptions(Struct, frozen=True):
    """How a model is to be held and asked: the recipe's settings of the same names. None is the engine's own
    default, and an engine passes over what has no meaning for it."""

    dtype: str = "auto"
    min_pixels: int | None = None
    max_pixels: int | None = None
    limit_images: int | None = None
    max_model_len: int | None = None
    batch_size: int | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    base_url: tuple[str, ...] = ()
    model: str | None = None
    concurrency: int | None = None
    engine_arg: Mapping[str, Any] = {}


# Called with --policy (at a server: the model's name), with how to sample it, and with how to hold it, in a thread:
# loading a model may take its time.
MakeEngine = Callable[[str, Sampling, ModelOptions], Engine]
# Called with the format of the responses.
MakeVerifier = Callable[[ResponseFormat], Verifier]

# ---- How a name is found ----

Kind = Literal["corruption", "engine", "verifier"]
_SIGNATURES: Mapping[Kind, str] = {
    "corruption": "one function called {}(text, fmt, rng)",
    "engine": "one class or function called {}(policy, sampling, options)",
    "verifier": "one class or function called {}(fmt)",
}
logger = logging.getLogger(__name__)
T = TypeVar("T")


def group(kind: Kind) -> str:
    """The group of entry points in which plug-ins of this kind are registered."""
    return f"specs_data.{kind}s"


# The groups of operators, by when they are drawn: by default in a layout, or only by name.
DRAWN = {
    "tags": group("corruption"),
    "json": f"{group('corruption')}.json",
    "by name": f"{group('corruption')}.by_name",
}


class Plugin(Struct, frozen=True):
    """What was found under a name: the object itself, and its owner, a distribution or a file. `file` is its own
    source file, wherever a decorator or a partial that wraps it is from."""

    kind: Kind
    name: str
    origin: str
    found: Any
    file: Path | None

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.origin})"

    @property
    def sha256(self) -> str:
        """The digest of the source file."""
        try:
            content = self.file.read_bytes() if self.file else self.origin.encode()
        except OSError as error:
            raise UserError(f"cannot read the {self.kind} {self.file}: {error.strerror}") from None
        return hashlib.sha256(content).hexdigest()

    def named(self, doing: str) -> AbstractContextManager[None]:
        """Give a crash in this block the plug-in's name. This package's own errors pass: they are its contract."""
        return _blamed(str(self), doing)


@contextmanager
def _blamed(who: str, doing: str) -> Iterator[None]:
    """Whatever a plug-in raises in this block is its own, also what is no Exception: one that calls sys.exit must not
    end the build as if it were done. An interrupt ends it at once."""
    try:
        with running():
            yield
    except (SpecsDataError, _TooLong, _Interrupted):
        raise
    except (Interrupted, KeyboardInterrupt) as error:
        logger.warning("interrupted in %s", who)
        raise (asyncio.CancelledError() if isinstance(error, Interrupted) else error) from None
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            raise
        raise PluginFailed(f"{who} {doing}: {_shown(error)}") from error


def _shown(error: BaseException) -> str:
    """What an error says of itself, if it does."""
    try:
        return one_line(repr(error), _LONGEST_ERROR)
    except Exception:
        return type(error).__name__


def label(name: str) -> str:
    """What a plug-in is called: a file's name without its folder, or the name itself."""
    return Path(name).stem if name.endswith(".py") else name


def check_name(kind: Kind, name: str, built_in: Collection[str]) -> None:
    """Raise UserError if nothing is called `name`, or if two packages claim it. Nothing is loaded."""
    if name.endswith(".py"):
        _check_file(kind, Path(name))
        return
    installed = _installed(kind)
    if name not in built_in and name not in installed:
        raise unknown_name(kind, name, {*built_in, *installed}, "./file.py names one of your own")
    if name in built_in and name in installed:
        other = _origin(installed[name])
        raise UserError(f"two packages own the {kind} {name!r}: specs-data and {other}; uninstall one")


def find_plugin(kind: Kind, name: str, installed: Mapping[str, EntryPoint] | None = None) -> Plugin:
    """The plug-in called `name`: ./file.py, or an installed one (of these, where they are known: looking takes 10 ms).
    Raises UserError where there is none, PluginFailed where it cannot be loaded."""
    if name.endswith(".py"):
        return _from_file(kind, Path(name))
    installed = _installed(kind) if installed is None else installed
    if name in installed:
        return _from_entry_point(kind, installed[name])
    raise unknown_name(kind, name, installed, "./file.py names one of your own")


def _installed(kind: Kind) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    groups = DRAWN.values() if kind == "corruption" else (group(kind),)
    for point in (point for each in groups for point in entry_points(group=each)):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f"two packages own the {kind} {point.name!r}: {_origin(other)} and {_origin(point)}; uninstall one"
            )
    return found


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _from_entry_point(kind: Kind, point: EntryPoint) -> Plugin:
    with Plugin(kind, point.name, _origin(point), None, None).named("cannot be loaded"):
        found = point.load()
    file = getattr(sys.modules.get(point.module), "__file__", None)
    return Plugin(kind, point.name, _origin(point), found, Path(file) if file else None)


def _check_file(kind: Kind, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no {kind} file {path}")


def _from_file(kind: Kind, path: Path) -> Plugin:
    _check_file(kind, path)
    spec = importlib.util.spec_from_file_location(f"_{kind}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where inspect and dataclasses look for it
    try:
        with _blamed(f"{kind} file {path}", "cannot be loaded"):
            spec.loader.exec_module(module)
    except PluginFailed as failed:
        if not isinstance(failed.__cause__, SyntaxError):
            raise
        shown = "".join(traceback.format_exception_only(failed.__cause__)).rstrip()
        raise PluginFailed(f"{kind} file {path} cannot be loaded:\n{shown}") from failed.__cause__
    return Plugin(kind, path.stem, str(path), _main(kind, module, path), path)


def _main(kind: Kind, module: ModuleType, path: Path) -> object:
    """The plug-in in a file: the callable named like the file, else the only public one it defines."""
    named = getattr(module, path.stem, None)
    if callable(named):
        return named
    own = [
        value
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    if len(own) != 1:
        raise UserError(f"{path} should define {_SIGNATURES[kind].format(path.stem)}")
    return own[0]


# ---- Operators ----


class Corruption:
    """A named operator. `origin` says where it comes from: a distribution, or a file; `file` is the
    plug-in's own source file, wherever a decorator or a partial that wraps the operator is from."""

    def __init__(self, name: str, operator: Operator, origin: str, file: Path | None = None) -> None:
        self.name = name
        self.origin = origin
        self._operator = operator
        self._stopped = False
        self._plugin = Plugin("corruption", name, origin, operator, file)

    @cached_property
    def sha256(self) -> str:
        """The digest of the operator's source file: part of what determines a pair."""
        return self._plugin.sha256

    @cached_property
    def built_in(self) -> bool:
        """Is it one of those that are shipped?"""
        return str(getattr(self._operator, "__module__", "")).startswith(f"{group('corruption')}.")

    @property
    def summary(self) -> str:
        """The first line of the operator's docstring."""
        return (inspect.getdoc(self._operator) or "").partition("\n")[0]

    def describe(self) -> dict[str, str]:
        """Where the operator comes from, what it does and its source file's digest."""
        return {"origin": self.origin, "summary": self.summary, "sha256": self.sha256}

    def apply(self, text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
        """What the operator returns. Raises PluginFailed, which names it, if it raises, returns
        anything but a string or None, or takes more than SECONDS (which is seen in the main thread)."""
        if self.built_in:
            return self._operator(text, fmt, rng)
        if self._stopped:  # others that wait for it must not hold up what an interrupt has ended
            raise asyncio.CancelledError
        try:
            with self._plugin.named("failed"), _at_most(SECONDS):
                result = self._operator(text, fmt, rng)
        except (_Interrupted, asyncio.CancelledError):
            self._stopped = True
            raise asyncio.CancelledError from None
        except _TooLong:
            raise PluginFailed(f"{self._plugin} took more than {SECONDS:g} seconds for one response") from None
        if result is not None and not isinstance(result, str):
            if inspect.iscoroutine(result):
                result.close()
            raise PluginFailed(f"{self._plugin} returned {type(result).__name__}, not text")
        return result


def find_corruptions(names: Collection[str] = (), drawn: str = "tags") -> dict[str, Corruption]:
    """The operators called `names` (entry points or ./file.py); without names, those installed that are
    drawn by default in the layout `drawn`, or only `"by name"`.

    Raises UserError if one is unknown or two owners claim one name.
    """
    found: dict[str, Corruption] = {}
    installed = _installed("corruption")
    for name in names or sorted({point.name for point in entry_points(group=DRAWN[drawn])}):
        plugin = find_plugin("corruption", name, installed)
        corruption = Corruption(plugin.name, _operator(plugin), plugin.origin, plugin.file)
        if corruption.name in found:
            raise UserError(
                f"two corruptions are called {corruption.name!r}: {found[corruption.name].origin} "
                f"and {corruption.origin}; rename one"
            )
        found[corruption.name] = corruption
    return found


def corruption_names() -> frozenset[str]:
    """The names of all operators that are installed, whenever they are drawn."""
    return frozenset(_installed("corruption"))


def _operator(plugin: Plugin) -> Operator:
    with plugin.named("cannot be made"):
        made = plugin.found() if inspect.isclass(plugin.found) else plugin.found
    if not callable(made):
        raise PluginFailed(f"{plugin} is not callable")
    operator: Operator = made
    return operator


class _TooLong(BaseException):
    """Raised in an operator that takes too long; none catches it by accident."""


class _Interrupted(BaseException):
    """Raised in an operator by a Ctrl-C that an event loop has taken note of."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise _TooLong in the block after `seconds`, and _Interrupted at once after a Ctrl-C, which an event loop would
    only come to when the block ends.

    By signals, which also end a regular expression that goes back and forth: a thread that waits for another one
    would wait for it too. Only the main thread has them; elsewhere nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT)}
    others = signal.getitimer(signal.ITIMER_REAL)
    running = True  # a signal that comes while all is put back must raise nothing

    def ring(number: int, frame: FrameType | None) -> None:
        if running:
            raise _TooLong

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = before[signal.SIGINT]
        if callable(handler):
            handler(number, frame)  # Python's own raises KeyboardInterrupt, asyncio's cancels its main task
        if running:
            raise _Interrupted

    try:
        signal.signal(signal.SIGALRM, ring)
        signal.signal(signal.SIGINT, interrupt)
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again and again, where a bare except swallows it
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, *others)
        for number, known in before.items():
            signal.signal(number, signal.SIG_DFL if known is None else known)


# ---- Engines and verifiers ----


def make_engine(name: str, policy: str, sampling: Sampling, options: ModelOptions) -> Engine:
    """The engine plug-in called `name`, its model loaded. Raises UserError, PluginFailed."""
    plugin = find_plugin("engine", name)
    with plugin.named("cannot be made"):
        engine = plugin.found(policy, sampling, options)
    _check_members(plugin, engine, "generate", "close")
    return _OwnedEngine(engine, plugin)


def make_verifier(name: str, fmt: ResponseFormat) -> Verifier:
    """The verifier plug-in called `name`. Raises UserError, PluginFailed."""
    plugin = find_plugin("verifier", name)
    with plugin.named("cannot be made"):
        verifier = plugin.found(fmt)
    _check_members(plugin, verifier, "verify", "close")
    return _OwnedVerifier(verifier, plugin)


def is_foreign(made: object) -> bool:
    """Is it somebody's own that nothing here watches over? What is found by its name is watched over."""
    return not type(made).__module__.startswith("specs_data.")


def verifier_label(verifier: Verifier) -> str:
    """What a verifier that was handed over is called: as its settings say, or else its class."""
    return verifier.settings.get("verifier") or type(verifier).__name__


class _Owned:
    """An engine or a verifier whose every call has its owner's name on it."""

    def __init__(self, made: Any, plugin: Plugin) -> None:
        self._made = made
        self._plugin = plugin
        self._named = False

    @property
    def concurrency(self) -> int:
        return _checked(self._plugin, "concurrency", self._made.concurrency, int)

    async def close(self) -> None:
        with suppress(TimeoutError):  # nobody waits for long where all is to end
            async with asyncio.timeout(GRACE if is_interrupted() else None):
                await self._waited(self._made.close)

    async def _waited(self, call: Callable[..., Awaitable[T]], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        slow = loop.call_later(PATIENCE, logger.warning, _SLOW, self._plugin, PATIENCE)
        try:
            with self._plugin.named("failed"):
                try:
                    return await asked_for(call(*arguments), str(self._plugin))
                except asyncio.CancelledError:
                    self._name(loop.time() - begun)
                    raise
        finally:
            slow.cancel()

    def _name(self, seconds: float) -> None:
        """Say once that an interrupt ends what this plug-in has not answered: it may be what the run hangs in."""
        if is_interrupted() and not self._named:
            self._named = True
            logger.warning(f"interrupted in {_SLOW}", self._plugin, round(seconds, 1))


class _OwnedEngine(_Owned):
    async def generate(self, request: Request) -> Response:
        return _checked(self._plugin, "generate", await self._waited(self._made.generate, request), Response)


class _OwnedVerifier(_Owned):
    def __init__(self, made: Any, plugin: Plugin) -> None:
        super().__init__(made, plugin)
        self.paid = bool(getattr(made, "paid", False))

    @property
    def settings(self) -> Mapping[str, str]:
        """As the verifier says, with the digest of its file: while it is written, its verdicts change."""
        said = self._made.settings
        settings = dict(said) if isinstance(said, Mapping) else said
        settings = _checked(self._plugin, "settings", settings, dict[str, str])
        return {"verifier": self._plugin.name, **settings, "sha256": self._plugin.sha256}

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        return _checked(self._plugin, "verify", await self._waited(self._made.verify, judged, images), Verdict)


def _check_members(plugin: Plugin, made: object, *methods: str) -> None:
    settings = ("settings",) if plugin.kind == "verifier" else ()
    missing = [name for name in ("concurrency", *settings, *methods) if not hasattr(made, name)]
    if missing:
        raise PluginFailed(f"{plugin} gave {type(made).__name__}, which has no {', no '.join(missing)}")


def _checked(plugin: Plugin, what: str, value: object, kind: type[T]) -> T:
    """`value`, if it and all that it holds is of the type that the contract says."""
    try:
        plain = msgspec.to_builtins(value)
        msgspec.json.encode(plain)  # half a surrogate cannot be kept
        return msgspec.convert(plain, kind)
    except (msgspec.ValidationError, TypeError, UnicodeEncodeError) as error:
        raise PluginFailed(
            f"{plugin}: {what} is {one_line(repr(value)[:200], 80)}, where a {kind.__name__} should stand: {error}"
        ) from None
