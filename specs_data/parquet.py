"""Preference rows as Parquet files that the Hub's viewer, datasets 3.6 to 5.2 and TRL read.

A row is a dict with the columns of `SCHEMA`; an image is `{"bytes": ..., "path": file name}`.
Writing is streamed: memory holds one row group (about 100 MB), however large the dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

Row = dict[str, Any]

_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_TEXT_COLUMNS = ("problem_id", "answer", "answer_type", "corruption", "rejected_from", "policy", "verifier")
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
_IMAGE_BYTES = "images.list.element.bytes"


def _schema() -> pa.Schema:
    fields = [("id", pa.string()), ("images", _IMAGES)]
    fields += [(name, _MESSAGES) for name in ("prompt", "chosen", "rejected")]
    fields += [(name, pa.string()) for name in _TEXT_COLUMNS]
    schema = pa.schema(fields)
    # The legacy spelling of list features, which every release of datasets from 3.6 on reads.
    features = {field.name: _feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> Any:
    if kind == _IMAGES:
        return [{"_type": "Image"}]
    if kind == _MESSAGES:
        return [{field.name: _feature(field.type) for field in kind.value_type}]
    return {"dtype": "string", "_type": "Value"}


SCHEMA = _schema()


class Shard(Struct, frozen=True):
    """One Parquet file: its path inside the dataset, its rows, its size in bytes, its sha256 hex digest."""

    path: str
    rows: int
    bytes: int
    sha256: str


def write_shards(
    rows: Iterable[Row],
    folder: Path,
    split: str,
    *,
    shard_bytes: int = 500_000_000,
    row_group_bytes: int = 100_000_000,
) -> list[Shard]:
    """Write `rows` to `folder`/data/<split>-0000k-of-0000N.parquet and return the files in order.

    The same rows give the same bytes. Without rows nothing is written. Files of the same split
    that an earlier call left in the folder are replaced.
    """
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for old in data.glob(f"{split}-*.parquet*"):
        old.unlink()
    groups = _row_groups(rows, row_group_bytes)
    parts: list[tuple[Path, int]] = []
    for first in groups:
        part = data / f"{split}-{len(parts):05d}.parquet.part"
        parts.append((part, _write_one(part, first, groups, shard_bytes)))
    shards = []
    for number, (part, count) in enumerate(parts):
        path = part.rename(data / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")
        shards.append(describe(path, folder, count))
    return shards


def describe(path: Path, folder: Path, rows: int | None = None) -> Shard:
    """The Shard of a Parquet file inside `folder`; its rows are read from it if not given."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    count = pq.read_metadata(path).num_rows if rows is None else rows
    return Shard(path.relative_to(folder).as_posix(), count, path.stat().st_size, digest)


def fingerprint(splits: Mapping[str, Sequence[Shard]]) -> str:
    """The sha256 hex digest of a dataset's content: its files' digests in order, split by split."""
    lines = (f"{split} {shard.rows} {shard.sha256}\n" for split in sorted(splits) for shard in splits[split])
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _row_groups(rows: Iterable[Row], limit: int) -> Iterator[pa.Table]:
    """`rows` as tables of about `limit` bytes."""
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += _size(row)
        if size >= limit:
            yield _table(group)
            group, size = [], 0
    if group:
        yield _table(group)


def _size(row: Row) -> int:
    """About the bytes `row` takes in memory: a kilobyte for the row itself, its images and its texts."""
    images = sum(len(image["bytes"]) for image in row["images"])
    texts = sum(len(message["content"]) for key in ("prompt", "chosen", "rejected") for message in row[key])
    return 1_000 + images + texts


def _table(rows: Sequence[Row]) -> pa.Table:
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _write_one(path: Path, first: pa.Table, rest: Iterator[pa.Table], limit: int) -> int:
    """Write `first` and as much of `rest` as fits into one file of about `limit` bytes; the rows written."""
    count = size = 0
    table: pa.Table | None = first
    with path.open("wb") as file, _writer(file) as writer:
        while table is not None:
            writer.write_table(table, row_group_size=len(table))
            count, size = count + len(table), size + table.nbytes
            table = next(rest, None) if size + table.nbytes <= limit else None
    return count


def _writer(file: Any) -> pq.ParquetWriter:
    # Pictures are compressed already. Pages cut by content let the Hub store only what a new version changes.
    return pq.ParquetWriter(
        file,
        SCHEMA,
        compression={path: "none" if path == _IMAGE_BYTES else "zstd" for path in _leaves()},
        use_dictionary=list(_REPETITIVE),
        write_page_index=True,
        use_content_defined_chunking=True,
    )


def _leaves() -> Iterator[str]:
    for field in SCHEMA:
        if not pa.types.is_list(field.type):
            yield field.name
            continue
        for leaf in field.type.value_type:
            yield f"{field.name}.list.element.{leaf.name}"
