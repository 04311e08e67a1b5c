"""A commented specs-data.toml to start from."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from specs_data.errors import UserError
from specs_data.recipe import DEFAULT_RECIPE, Recipe

_HEAD = """\
# The recipe of a build: `specs-data build` reads it, and a flag of the same name beats it.
# Uncomment what you need. A setting without a default is shown with an example.
"""


def write_default_recipe(folder: Path = Path()) -> Path:
    """Write specs-data.toml into `folder`. Raises UserError if there is one already."""
    file = folder / DEFAULT_RECIPE
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(default_recipe())
    except FileExistsError:
        raise UserError(f"{file} exists already; edit it, or remove it first") from None
    return file


def default_recipe() -> str:
    """Every setting of a recipe as a commented line, with its description."""
    lines = [_HEAD]
    for name, field in Recipe.model_fields.items():
        value = field.default if field.default not in (None, (), {}) else (field.examples or [""])[0]
        line = f"{name} = {_inline(value)}"
        lines.append(f"# {field.description}\n# {line}\n")
    return "\n".join(lines)


def _inline(value: object) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()
