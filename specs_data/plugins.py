"""The contract of a corruption operator, and how operators are found.

An operator is one callable: it gets the response, its format and a seeded random generator, and
returns the corrupted text, or None where it does not apply. It is registered under the entry-point
group `specs_data.corruptions` or named by the path of its file. `corrupt` checks every result,
whoever wrote the operator.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import random
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from specs_data.errors import PluginFailed, UserError
from specs_data.format import ResponseFormat

GROUP = "specs_data.corruptions"
_CRASHES = (Exception, SystemExit)  # a plug-in that calls sys.exit must not end the build as if it were done
Operator = Callable[[str, ResponseFormat, random.Random], str | None]


class Corruption:
    """A named operator. `origin` says where it comes from: a distribution, or a file; `file` is the
    plug-in's own source file, wherever a decorator or a partial that wraps the operator is from."""

    def __init__(self, name: str, operator: Operator, origin: str, file: Path | None = None) -> None:
        self.name = name
        self.origin = origin
        self._operator = operator
        self._file = file

    @cached_property
    def sha256(self) -> str:
        """The digest of the operator's source file: part of what determines a pair."""
        try:
            content = self._file.read_bytes() if self._file else self.origin.encode()
        except OSError as error:
            raise UserError(f"cannot read the corruption {self._file}: {error.strerror}") from None
        return hashlib.sha256(content).hexdigest()

    @property
    def built_in(self) -> bool:
        """Is it one of those that are shipped?"""
        return str(getattr(self._operator, "__module__", "")).startswith(f"{GROUP}.")

    @property
    def summary(self) -> str:
        """The first line of the operator's docstring."""
        return (inspect.getdoc(self._operator) or "").partition("\n")[0]

    def describe(self) -> dict[str, str]:
        """Where the operator comes from, what it does and its source file's digest."""
        return {"origin": self.origin, "summary": self.summary, "sha256": self.sha256}

    def apply(self, text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
        """What the operator returns. Raises PluginFailed, which names it, if it raises or returns
        anything but a string or None."""
        try:
            result = self._operator(text, fmt, rng)
        except _CRASHES as error:
            raise PluginFailed(f"corruption {self.name!r} ({self.origin}) failed: {error!r}") from error
        if result is not None and not isinstance(result, str):
            raise PluginFailed(f"corruption {self.name!r} ({self.origin}) returned {type(result).__name__}, not text")
        return result


def find_corruptions(names: Mapping[str, float] | None = None) -> dict[str, Corruption]:
    """The operators called `names` (entry points or ./file.py), or all that are installed.

    Raises UserError if one is unknown or two owners claim one name.
    """
    installed = _installed()
    found: dict[str, Corruption] = {}
    for name in names or sorted(installed):
        if name.endswith(".py"):
            corruption = _from_file(Path(name))
        elif name in installed:
            corruption = _from_entry_point(installed[name])
        else:
            raise UserError(
                f"no corruption is called {name!r}; there are {', '.join(sorted(installed))}, "
                "and ./file.py names one of your own"
            )
        if corruption.name in found:
            raise UserError(
                f"two corruptions are called {corruption.name!r}: {found[corruption.name].origin} "
                f"and {corruption.origin}; rename one"
            )
        found[corruption.name] = corruption
    return found


def fault(original: str, corrupted: str, fmt: ResponseFormat) -> str | None:
    """Why `corrupted` is not a format-only corruption of `original`; None if it is one. That the
    answer is still found is for a judge to say."""
    if fmt.check(corrupted) is None:
        return "format not broken"
    if fmt.content(corrupted) != fmt.content(original):
        return "content changed"
    return None


def _installed() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f"two packages own the corruption {point.name!r}: {_origin(other)} and {_origin(point)}; uninstall one"
            )
    return found


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _from_entry_point(point: EntryPoint) -> Corruption:
    try:
        operator = point.load()
    except _CRASHES as error:
        raise PluginFailed(f"corruption {point.name!r} ({_origin(point)}) cannot be loaded: {error!r}") from error
    file = getattr(sys.modules.get(point.module), "__file__", None)
    return Corruption(
        point.name, _instance(operator, point.name, _origin(point)), _origin(point), Path(file) if file else None
    )


def _from_file(path: Path) -> Corruption:
    if not path.is_file():
        raise UserError(f"there is no corruption file {path}")
    spec = importlib.util.spec_from_file_location(f"_corruption_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where inspect and dataclasses look for it
    try:
        spec.loader.exec_module(module)
    except _CRASHES as error:
        raise PluginFailed(f"corruption file {path} cannot be loaded: {error!r}") from error
    return Corruption(path.stem, _instance(_main(module, path), path.stem, str(path)), str(path), path)


def _main(module: ModuleType, path: Path) -> object:
    """The operator in a file: the callable named like the file, else the only public one it defines."""
    named = getattr(module, path.stem, None)
    if callable(named):
        return named
    own = [
        value
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    if len(own) != 1:
        raise UserError(f"{path} should define one function called {path.stem}(text, fmt, rng)")
    return own[0]


def _instance(operator: object, name: str, origin: str) -> Operator:
    try:
        made = operator() if inspect.isclass(operator) else operator
    except _CRASHES as error:
        raise PluginFailed(f"corruption {name!r} ({origin}) cannot be made: {error!r}") from error
    if not callable(made):
        raise PluginFailed(f"corruption {name!r} ({origin}) is not callable")
    return made
