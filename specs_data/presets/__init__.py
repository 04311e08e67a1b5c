"""What is known of data sets that others made: which of their columns hold our fields. A TOML file each.

[columns]
id = "extra_info.id"     # a dot looks into a nested column, also one that is text; * is its only value

[where]
problem_version = ["Vision Only"]     # the rows that belong to it

[types]
free-form = ""     # its words for our answer types; "" is inferred from the answer
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec import Struct

from specs_data.errors import UserError, unknown_name


class Preset(Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a data set.

    `columns` are its columns for our fields; an empty name says that it has none of use. Of several names, those of
    images and choices are put together, the texts of a question stand below each other, and of any other field the
    first that a row has counts. `where` names the rows that belong to it, by the values of a column; `types` are its
    words for our answer types, "" where the answer says which it is.
    """

    columns: dict[str, str | tuple[str, ...]] = {}
    where: dict[str, tuple[str, ...]] = {}
    types: dict[str, str] = {}


def shipped_presets() -> tuple[str, ...]:
    """The names of the presets in this folder."""
    return tuple(sorted(file.name[:-5] for file in files(__name__).iterdir() if file.name.endswith(".toml")))


def load_preset(name: str) -> Preset:
    """The shipped preset called `name`, or the one in the TOML file `name`. Raises UserError."""
    if name.endswith(".toml"):
        file = Path(name)
    elif name in shipped_presets():
        file = Path(str(files(__name__))) / f"{name}.toml"
    else:
        raise unknown_name("preset", name, shipped_presets(), "a path to a .toml file names one of your own")
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8-sig")), Preset)
    except OSError as error:
        raise UserError(f"cannot read the preset file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the preset file {file} is not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise UserError(f"the preset file {file} is wrong: {error}; it should have a table [columns]") from None
