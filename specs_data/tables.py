"""Rows of JSONL and Parquet files, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from specs_data.errors import UserError

SUFFIXES = (".jsonl", ".parquet")
_BATCH = 64


def read_rows(file: Path) -> Iterator[dict[str, Any] | str]:
    """The rows of `file`; a string stands for a row that cannot be read, and says why.

    Raises UserError if the file is of another kind or, as a whole, not readable.
    """
    if file.suffix == ".parquet":
        return _parquet_rows(file)
    if file.suffix == ".jsonl":
        return _jsonl_rows(file)
    raise UserError(f"{file} should be a .jsonl or .parquet file")


def count_rows(file: Path) -> int:
    """How many rows `file` has. Raises UserError as read_rows does."""
    if file.suffix == ".parquet":
        with _open_parquet(file) as table:
            return int(table.metadata.num_rows)
    with file.open("rb") as content:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: content.read(1 << 20), b""))


def _jsonl_rows(file: Path) -> Iterator[dict[str, Any] | str]:
    decode = msgspec.json.Decoder().decode
    with file.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield "not JSON"
                continue
            yield row if isinstance(row, dict) else "not a JSON object"


def _parquet_rows(file: Path) -> Iterator[dict[str, Any] | str]:
    with _open_parquet(file) as table:
        for batch in table.iter_batches(batch_size=_BATCH):
            yield from batch.to_pylist()


def _open_parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} is not a readable Parquet file: {error}") from None
