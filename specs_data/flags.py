"""A settings model's fields as typer options, so that a flag and a TOML key are always the same thing."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.markup import escape

from specs_data.recipe import says


def with_flags(
    model: type[BaseModel], *, of: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of `model` (with `of`, per field that the verb `of` also takes), passed on
    as keyword arguments.

    An option that is not given is None: the default, or the file's value, is for the model to say.
    """
    fields = {name: field for name, field in model.model_fields.items() if of is None or of in says(field, "also")}
    switches = [name for name, field in fields.items() if _plain(field.annotation) is bool]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**given: Any) -> None:
            for name in switches:
                if given.pop(f"no_{name}"):
                    given[name] = False
            command(**given)

        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        options = [_option(name, _annotation(name, field)) for name, field in fields.items()]
        options += [_option(f"no_{name}", _off(name)) for name in switches]
        call.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
        return call

    return decorate


def _option(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _annotation(name: str, field: FieldInfo) -> Any:
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
    text = escape(field.description or "")  # brackets are no markup
    default = field.default
    if default in (None, (), {}, False) or field.is_required():
        return text
    return f"{text} (default: {default})".strip()
