"""A settings model's fields as typer options, so that a flag and a TOML key are always the same thing."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo


def with_flags(
    model: type[BaseModel], *, only: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of `model` (of those in `only`), passed on as keyword arguments.

    An option that is not given is None: the default, or the file's value, is for the model to say.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        fields = {name: field for name, field in model.model_fields.items() if not only or name in only}
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, field))
            for name, field in fields.items()
        ]
        command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
        return command

    return decorate


def _annotation(name: str, field: FieldInfo) -> Any:
    kind = _plain(field.annotation)
    flag = f"--{name.replace('_', '-')}"
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    option = typer.Option(*names, help=_help(field), show_default=False)
    return Annotated[kind | None, option]


def _plain(annotation: Any) -> Any:
    """The type of a field as the command line has it: lists repeat, mappings are texts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain(arguments[0])
    if origin in (Union, types.UnionType):
        return _plain(next(argument for argument in arguments if argument is not type(None)))
    if origin is Literal:
        return annotation
    if origin is tuple or (origin is dict and arguments[1] is not str):
        return list[str]
    return annotation if annotation in (int, float, bool, Path) else str


def _help(field: FieldInfo) -> str:
    text = field.description or ""
    default = field.default
    if default in (None, (), {}, False) or field.is_required():
        return text
    return f"{text} (default: {default})".strip()
