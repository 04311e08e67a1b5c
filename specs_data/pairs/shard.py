"""What a shard of a run keeps of its pairs beside its dataset: by it all shards are joined to what one run gives."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import polars as pl
from msgspec import Struct

from specs_data.files import write_frame

SHARD = "shard.parquet"
_SCHEMA = {
    "id": pl.String(),
    "position": pl.Int64(),
    "index": pl.UInt32(),
    "prompt_tokens": pl.UInt32(),
    "completion_tokens": pl.UInt32(),
    "keys": pl.List(pl.Binary()),
}


class Place(Struct, frozen=True):
    """A pair by its id: the place of its problem among the problems of all shards, which response is its chosen side,
    that response's tokens, and what makes the problem one of a group that stays in one split."""

    id: str
    position: int
    index: int
    prompt_tokens: int
    completion_tokens: int
    keys: list[bytes]


def write_places(places: Iterable[Place], file: Path) -> None:
    """Write the places of a shard's pairs."""
    rows = list(map(msgspec.structs.astuple, places))
    write_frame(pl.DataFrame(rows, schema=_SCHEMA, orient="row"), file)


def read_places(file: Path) -> list[Place]:
    """The places that write_places wrote, in their order."""
    return [Place(*row) for row in pl.read_parquet(file).iter_rows()]
