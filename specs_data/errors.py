"""What can go wrong, drawn as a tree.

SpecsDataError
├── UserError           the user must change something: one sentence, exit status 2
│   ├── MissingExtra    an optional dependency is not installed
│   └── InVain          going on would give nothing
├── CheckFailed         a check did not hold: exit status 1
├── PromptRefused       an engine cannot serve one request: that problem is dropped, with the reason
├── EngineFailed        an engine broke down: the run stops, what is stored stays
├── FileRefused         a file that data name is not one that may be read: that row is left out, or named
├── Undecided           a service gave no usable answer: never a verdict or a response, asked again later
│   └── ItemRefused     it never will about this one item: the service is well, others are unharmed
└── PluginFailed        a plug-in raised or returned nonsense: the plug-in is named
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class SpecsDataError(Exception):
    """Base of every error this package raises on purpose."""


class UserError(SpecsDataError):
    """The user must change something. The message says what is wrong, where, and what to do."""


class MissingExtra(UserError):
    """An optional dependency is not installed. The message carries the pip command."""


class InVain(UserError):
    """What was tried often enough never succeeded: going on would cost and give nothing."""


class CheckFailed(SpecsDataError):
    """A check the user asked for did not hold."""


class _Reasoned(SpecsDataError):
    """`reason` is a name, by which it is counted; `detail` says more of this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # both, or an actor's error would come back without its detail
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class PromptRefused(_Reasoned):
    """One request cannot be served (too long, too many images, a broken image); others are unharmed."""


class FileRefused(_Reasoned):
    """A file that data name is not there, not inside the data's folder, no regular file, or too large."""


class EngineFailed(SpecsDataError):
    """The engine broke down. What was stored stays, and the same command resumes."""


class Undecided(_Reasoned):
    """A service gave no usable answer, a judging one or an engine. The same is asked again on the next run."""


class ItemRefused(Undecided):
    """A judging service answers others, but will not answer about this item (a blocked or broken picture): nothing
    is asked about it a second time, and it says nothing of the service."""


class PluginFailed(SpecsDataError):
    """A plug-in raised an error or returned something that is not allowed. The message names it."""


def unknown_name(kind: str, name: str, known: Iterable[str], otherwise: str) -> UserError:
    """The error for a name that nothing has: what there is, what goes `otherwise`, and what was perhaps meant."""
    listed = sorted(known)
    near = difflib.get_close_matches(name, listed, 1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"no {kind} is called {name!r}; there are {', '.join(listed)}, and {otherwise}{meant}")


def first_error(error: BaseException) -> BaseException:
    """The error itself, or the first of a group of them: tasks that were cancelled for it say nothing new."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def first_line(error: Exception) -> str:
    """What an error of somebody else's says, as a part of a sentence; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .")


def _package(module: str) -> str:
    """What is installed to have `module`."""
    return "google-genai" if module.startswith("google.genai") else module.split(".", maxsplit=1)[0]


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtra with the command that installs `extra`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".", maxsplit=1)[0]:
            raise
        raise MissingExtra(f"{_package(module)} is not installed; run: pip install 'specs-data[{extra}]'") from None
