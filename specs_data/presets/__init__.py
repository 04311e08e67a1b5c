"""What is known of data sets that others made: which of their columns hold our fields. A TOML file each.

[columns]
id = "extra_info.id"     # a dot looks into a nested column, also one that is text; * is its only value

[where]
problem_version = ["Vision Only"]     # the rows that belong to it

[types]
free-form = ""     # its words for our answer types; "" is inferred from the answer
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from specs_data.errors import UserError
from specs_data.files import read_toml, shipped, toml_called


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
    return shipped(__name__)


def load_preset(name: str) -> Preset:
    """The shipped preset called `name`, or the one in the TOML file `name`. Raises UserError."""
    file = toml_called(name, "preset", __name__)
    try:
        return msgspec.convert(read_toml(file, "the preset file"), Preset)
    except msgspec.ValidationError as error:
        raise UserError(f"the preset file {file} is wrong: {error}; it should have a table [columns]") from None
