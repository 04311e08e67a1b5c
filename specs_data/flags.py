"""A settings model's fields as typer options, so that a flag and a TOML key are always the same thing."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


def with_flags(
    model: type[BaseModel] | str, *, of: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of `model` (with `of`, per field that the verb `of` also takes), passed on
    as keyword arguments. The model may be named, as "recipe:Recipe", and is then imported when its flags are wanted.

    An option that is not given is None: the default, or the file's value, is for the model to say.
    """
    return lambda command: Flagged(command, model, of)


class Flagged:
    """A command with the fields of a model as its options. With `hidden` it has only its own: a list of commands shows
    no options, and what it takes to make them is half of what such a list would take."""

    hidden = False

    def __init__(self, command: Callable[..., None], model: type[BaseModel] | str, of: str | None) -> None:
        self.__name__ = command.__name__
        self.__doc__ = command.__doc__
        self._command = command
        self._model = model
        self._of = of

    def __call__(self, **given: Any) -> None:
        for name in self._switches:
            if given.pop(f"no_{name}"):
                given[name] = False
        self._command(**given)

    @property
    def __signature__(self) -> inspect.Signature:
        own = [
            parameter
            for parameter in inspect.signature(self._command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        return inspect.Signature(own if self.hidden else [*own, *self._options])

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {parameter.name: parameter.annotation for parameter in self.__signature__.parameters.values()}

    @cached_property
    def _fields(self) -> Mapping[str, FieldInfo]:
        from specs_data.recipe import says

        model = self._model
        if isinstance(model, str):
            module, _, name = model.partition(":")
            model = getattr(import_module(f"specs_data.{module}"), name)
        fields: Mapping[str, FieldInfo] = model.model_fields
        return {name: field for name, field in fields.items() if self._of is None or self._of in says(field, "also")}

    @property
    def _switches(self) -> list[str]:
        return [name for name, field in self._fields.items() if _plain(field.annotation) is bool]

    @property
    def _options(self) -> list[inspect.Parameter]:
        options = [_option(name, _annotation(name, field)) for name, field in self._fields.items()]
        return options + [_option(f"no_{name}", _off(name)) for name in self._switches]


def _option(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _annotation(name: str, field: FieldInfo) -> Any:
    from specs_data.recipe import says

    option = typer.Option(
        f"--{name.replace('_', '-')}", help=_help(field), show_default=False, rich_help_panel=says(field, "panel")
    )
    return Annotated[_plain(field.annotation) | None, option]


def _off(name: str) -> Any:
    """What switches off again what a file has switched on. All switches are off by default: the help is silent."""
    return Annotated[bool | None, typer.Option(f"--no-{name.replace('_', '-')}", hidden=True)]


def _plain(annotation: Any) -> Any:
    """The type of a field as the command line has it: lists repeat, mappings are texts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain(arguments[0])
    if origin in (Union, types.UnionType):
        return _plain(next(argument for argument in arguments if argument is not type(None)))
    if origin is Literal:
        return annotation
    if origin is tuple:  # one of a fixed length, as a window, is one text
        return list[str] if arguments[-1] is ... else str
    if origin is dict and arguments[1] is not str:
        return list[str]
    return annotation if annotation in (int, float, bool, Path) else str


def _help(field: FieldInfo) -> str:
    from rich.markup import escape

    text = escape(field.description or "")  # brackets are no markup
    default = field.default
    if default in (None, (), {}, False) or field.is_required():
        return text
    return f"{text} (default: {default})".strip()
