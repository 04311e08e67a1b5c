"""Preference rows as Parquet files that the Hub's viewer, datasets 3.6 to 5.2 and TRL read.

Also sets of problems, with columns of their own.
Writing is streamed: memory holds one row group (about 100 MB), however large the dataset.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from specs_data.files import sha256_of
from specs_data.pairs.manifest import Shard
from specs_data.pairs.rows import DIFFICULTY, TEXT_COLUMNS, Row, to_row
from specs_data.records import Message, Pair
from specs_data.texts import in_blocks

IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_BLOCK = pa.struct([("type", pa.string()), ("text", pa.string())])
BLOCKS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(_BLOCK))]))
_GROUP_ROWS = 10_000
# As Python objects rows of text take several times their bytes: they become Arrow's in batches.
_BATCH_ROWS = 500
_LARGEST = 1 << 31  # bytes of a column's texts and pictures; a character takes four at most
_REPETITIVE = (
    "prompt.list.element.role",
    "chosen.list.element.role",
    "rejected.list.element.role",
    "answer_type",
    "corruption",
    "rejected_from",
    "policy",
    "verifier",
)


class Interleaved(Exception):
    """A row has its prompt in blocks, and the column is of text."""


def make_schema(columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """A schema that datasets reads with these columns; IMAGES become its Image features."""
    schema = pa.schema(list(columns.items()))
    # The legacy spelling of list features, which every release of datasets from 3.6 on reads.
    features = {field.name: _feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> Any:
    if kind == IMAGES:
        return [{"_type": "Image"}]
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": "float64" if pa.types.is_float64(kind) else str(kind), "_type": "Value"}


_COLUMNS = (
    {"id": pa.string(), "images": IMAGES}
    | dict.fromkeys(("prompt", "chosen", "rejected"), MESSAGES)
    | dict.fromkeys(TEXT_COLUMNS, pa.string())
    | dict(zip(DIFFICULTY, (pa.float64(), pa.bool_()), strict=True))
)
SCHEMA = make_schema(_COLUMNS)
_BLOCK_SCHEMA = make_schema(_COLUMNS | {"prompt": BLOCKS})


def write_pairs(pairs: Iterable[Pair], folder: Path, split: str, *, blocks: bool = False) -> list[Shard]:
    """Write `pairs` as one split of the dataset in `folder`, as write_shards does. With `blocks` every prompt is in
    blocks, as those of `interleaved` pairs must be: a column has one type."""
    rows = map(to_row, pairs)
    return (
        write_shards(map(with_blocks, rows), folder, split, schema=_BLOCK_SCHEMA)
        if blocks
        else write_shards(rows, folder, split)
    )


def write_either(
    rows: Callable[[], Iterable[Row]], folder: Path, split: str, columns: Mapping[str, pa.DataType]
) -> list[Shard]:
    """As write_shards, with the prompts in text, or from the start in blocks once a row has them."""
    try:
        return write_shards(map(in_text, rows()), folder, split, schema=make_schema(columns))
    except Interleaved:
        blocks = make_schema({**columns, "prompt": BLOCKS})
        return write_shards(map(with_blocks, rows()), folder, split, schema=blocks)


def in_text(row: Row) -> Row:
    """A row with its prompt in text, as it is. Raises Interleaved."""
    if _has_blocks(row):
        raise Interleaved
    return row


def with_blocks(row: Row) -> Row:
    """A row with its prompt in blocks."""
    if _has_blocks(row):
        return row
    prompt = [Message(message["role"], message["content"]) for message in row["prompt"]]
    return row | {"prompt": in_blocks(prompt, len(row["images"]))}


def write_shards(
    rows: Iterable[Row],
    folder: Path,
    split: str,
    *,
    schema: pa.Schema = SCHEMA,
    shard_bytes: int = 500_000_000,
    row_group_bytes: int = 100_000_000,
) -> list[Shard]:
    """Write `rows` to `folder`/data/<split>-0000k-of-0000N.parquet and return the files in order.

    A row is a dict with the columns of `schema`; an image is `{"bytes": ..., "path": file name}`.

    The same rows give the same bytes. Without rows nothing is written. Files of the same split
    that an earlier call left in the folder are replaced.
    """
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for old in data.glob(f"{split}-*.parquet*"):
        old.unlink()
    groups = _row_groups(rows, schema, row_group_bytes)
    parts: list[tuple[Path, int]] = []
    while (first := next(groups, None)) is not None:
        part = data / f"{split}-{len(parts):05d}.parquet.part"
        parts.append((part, _write_one(part, first, groups, shard_bytes)))
    shards = []
    for number, (part, count) in enumerate(parts):
        path = part.rename(data / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")
        shards.append(describe(path, folder, count))
    return shards


def describe(path: Path, folder: Path, rows: int | None = None) -> Shard:
    """The Shard of a Parquet file inside `folder`; its rows are read from it if not given."""
    count = pq.read_metadata(path).num_rows if rows is None else rows
    return Shard(path.relative_to(folder).as_posix(), count, path.stat().st_size, sha256_of(path))


def _row_groups(rows: Iterable[Row], schema: pa.Schema, limit: int) -> Iterator[pa.Table]:
    """`rows` as tables of about `limit` bytes, and at most `_GROUP_ROWS` rows."""
    tables: list[pa.Table] = []
    batch: list[Row] = []
    size = count = 0
    for row in rows:
        batch.append(row)
        count += 1
        size += _size(row)
        full = size >= limit or count >= _GROUP_ROWS
        if full or len(batch) >= _BATCH_ROWS:
            tables.append(_table(batch, schema))
            batch = []
        if full:
            group = pa.concat_tables(tables)
            tables, size, count = [], 0, 0
            yield group
            del group
    if batch:
        tables.append(_table(batch, schema))
    if tables:
        yield pa.concat_tables(tables)


def _size(row: Row) -> int:
    """About the bytes `row` takes in memory: a kilobyte for the row itself, its images and its texts."""
    size = 1_000 + sum(len(image["bytes"]) for image in row["images"])
    for key in ("prompt", "chosen", "rejected"):
        for message in row.get(key, ()):
            size += _length(message["content"])
    return size


def _has_blocks(row: Row) -> bool:
    """Whether the prompt of a row is in blocks."""
    prompt = row.get("prompt", ())
    return not isinstance(prompt, str) and any(isinstance(message["content"], list) for message in prompt)


def _length(content: str | list[dict[str, str]]) -> int:
    return len(content) if isinstance(content, str) else sum(100 + len(block.get("text", "")) for block in content)


def _table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    columns = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """`values` as a column. `pa.array` imports pandas, which takes longer than most columns, and copies the bytes of
    pictures each time that they outgrow the room that it made."""
    there = [value is not None for value in values]
    buffers = [None if all(there) else _bits(there)]
    children = None
    if pa.types.is_struct(kind):
        rows = [value or {} for value in values]
        children = [_column([row.get(field.name) for row in rows], field.type) for field in kind]
    elif pa.types.is_list(kind):
        parts = [value or () for value in values]
        buffers.append(_ends(parts))
        children = [_column([item for part in parts for item in part], kind.value_type)]
    elif kind in (pa.string(), pa.binary()) and sum(map(len, filter(None, values))) < _LARGEST // 4:
        texts = [value.encode() if isinstance(value, str) else value or b"" for value in values]
        buffers += [_ends(texts), pa.py_buffer(b"".join(texts))]
    elif pa.types.is_boolean(kind):
        buffers.append(_bits(values))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        buffers.append(pa.py_buffer(np.array([value or 0 for value in values], kind.to_pandas_dtype())))
    else:
        return pa.array(values, kind)
    return pa.Array.from_buffers(kind, len(values), buffers, children=children)


def _bits(values: Sequence[Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array([bool(value) for value in values], bool), bitorder="little"))


def _ends(parts: Sequence[Sized]) -> pa.Buffer:
    """Where each part begins, and the last one ends."""
    return pa.py_buffer(np.cumsum([0, *map(len, parts)], dtype=np.int32))


def _write_one(path: Path, first: pa.Table, rest: Iterator[pa.Table], limit: int) -> int:
    """Write `first` and as much of `rest` as fits into one file of about `limit` bytes; the rows written."""
    count = size = 0
    table: pa.Table | None = first
    with path.open("wb") as file, _writer(file, first.schema) as writer:
        while table is not None:
            writer.write_table(table, row_group_size=len(table))
            count, size = count + len(table), size + table.nbytes
            full = size + table.nbytes > limit
            table = None  # let go of it before the next one is built
            table = None if full else next(rest, None)
    return count


def _writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    # Pictures are compressed already. Pages cut by content let the Hub store only what a new version changes.
    leaves = [leaf for field in schema for leaf in _leaves(field.type, field.name)]
    return pq.ParquetWriter(
        file,
        schema,
        compression={leaf: "none" if leaf.endswith(".bytes") else "zstd" for leaf in leaves},
        use_dictionary=list(_REPETITIVE),
        write_page_index=True,
        use_content_defined_chunking=True,
    )


def _leaves(kind: pa.DataType, path: str) -> Iterator[str]:
    """The paths of the columns that Parquet makes of one nested column."""
    if pa.types.is_list(kind):
        yield from _leaves(kind.value_type, f"{path}.list.element")
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(field.type, f"{path}.{field.name}")
    else:
        yield path
