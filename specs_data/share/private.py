"""What must not leave this machine: secrets in any cell, local paths, and in a column of pictures what is none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from specs_data.errors import UserError
from specs_data.images import image_fault
from specs_data.pairs.rows import Dataset, raw_rows
from specs_data.recipe import NAMES_SECRET

# A token is at least as long as its issuer makes it, and does not go on from a longer word.
_SECRETS = {
    "Hugging Face token": rb"hf_[A-Za-z0-9]{30,}",
    "Google API key": rb"AIza[A-Za-z0-9_-]{35}",
    "OpenAI or Anthropic API key": rb"sk-[A-Za-z0-9]{40,}|sk-(?:proj|svcacct|admin|ant)-[A-Za-z0-9_-]{20,}",
    "AWS access key": rb"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])",
    "GitHub token": rb"gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,}",
    "private key": rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
}
_SECRET = re.compile(rb"(?<![A-Za-z0-9])(?:" + b"|".join(b"(%s)" % pattern for pattern in _SECRETS.values()) + b")")
_STARTS = (b"hf_", b"AIza", b"sk-", b"AKIA", b"ASIA", b"gh", b"-----BEGIN")
_LOCAL = re.compile(r"[/\\]|^[A-Za-z]:")
_SHORTEST = 12  # characters of a key; a shorter word may stand in a text by chance
_PICTURES = 16  # decoded at once


def find_secret(text: bytes) -> str | None:
    """What kind of secret `text` holds, or None: one by its look, or a key of this environment. The secret itself is
    never returned."""
    own = next((name for name, key in _own_keys() if key in text), None)
    if own is not None:
        return f"value of {own}"
    if not any(start in text for start in _STARTS):
        return None
    found = _SECRET.search(text)
    return None if found is None or found.lastindex is None else list(_SECRETS)[found.lastindex - 1]


def _own_keys() -> list[tuple[str, bytes]]:
    """The keys in the environment, by the variable's name."""
    found = ((name, os.environ[name].strip()) for name in os.environ if NAMES_SECRET.search(name))
    return [(name, os.fsencode(key)) for name, key in found if len(key) >= _SHORTEST and not key.startswith("/")]


def refuse_private(dataset: Dataset, texts: dict[str, bytes]) -> None:
    """Raise UserError if a cell or one of the `texts` (content by file name) holds a secret, or if a
    picture is only a path, names a folder of this machine, or cannot be decoded."""
    for name, text in texts.items():
        _refuse_secret(text, name)
    for files in dataset.splits.values():
        for file in files:
            if file.suffix == ".parquet":
                _check_parquet(file)
            else:
                _check_jsonl(file)


def without_local_paths(value: Any) -> Any:
    """`value` (as JSON) with every absolute path cut down to its last part."""
    if isinstance(value, dict):
        return {key: without_local_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_local_paths(item) for item in value]
    if isinstance(value, str) and re.match(r"[/~\\]|[A-Za-z]:[/\\]", value) and "\n" not in value:
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _refuse_secret(text: bytes, where: str) -> None:
    kind = find_secret(text)
    if kind is not None:
        raise UserError(f"{where} holds what looks like a {kind}; take it out (and revoke it) before publishing")


def _check_jsonl(file: Path) -> None:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            _refuse_secret(line, f"line {number} of {file}")
    for number, row in enumerate(raw_rows(file), 1):
        _refuse_secret(msgspec.json.encode(row), f"line {number} of {file}")  # without the line's escapes
        for column in ("image", "images"):
            if row.get(column):
                raise UserError(_only_a_path(column, number, file))


def _check_parquet(file: Path) -> None:
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as parquet:
        _refuse_secret(repr(parquet.schema_arrow.metadata).encode(), f"the header of {file}")
        pictures = [field.name for field in parquet.schema_arrow if _holds_pictures(field)]
        paths = [leaf for leaf in _leaves(parquet) if not _in_picture(leaf, pictures, "bytes")]
        first = 0
        for batch in parquet.iter_batches(4096, columns=paths):
            for column in batch.schema.names:
                for text in _buffers(batch.column(column)):
                    _refuse_secret(text, f"the column {column!r} in rows {first + 1} to {first + len(batch)} of {file}")
            first += len(batch)
        for column in pictures:
            _check_names(parquet, column, file)
        for column in pictures:
            _check_content(parquet, column, file)


def _holds_pictures(field: pa.Field) -> bool:
    inner = _inner(field.type)
    if pa.types.is_struct(inner):
        return {"bytes", "path"} <= {child.name for child in inner}
    # A column of which no row has a picture may have no type at all.
    return field.name in {"image", "images"} and not pa.types.is_null(inner)


def _inner(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return kind


def _leaves(parquet: pq.ParquetFile) -> list[str]:
    return [parquet.schema.column(number).path for number in range(len(parquet.schema))]


def _in_picture(leaf: str, pictures: list[str], part: str) -> bool:
    return leaf.split(".", maxsplit=1)[0] in pictures and leaf.rsplit(".", 1)[-1] == part


def _check_names(parquet: pq.ParquetFile, column: str, file: Path) -> None:
    """Every picture has bytes, and a name without folders if any."""
    if not pa.types.is_struct(_inner(parquet.schema_arrow.field(column).type)):
        if not _is_binary(_inner(parquet.schema_arrow.field(column).type)):
            raise UserError(_only_a_path(column, 1, file))
        return
    leaves = [leaf for leaf in _leaves(parquet) if _in_picture(leaf, [column], "path")]
    if not _never_null(parquet, column):
        leaves += [leaf for leaf in _leaves(parquet) if _in_picture(leaf, [column], "bytes")]
    first = 1
    for batch in parquet.iter_batches(256, columns=leaves):
        flat, owners = _flattened(batch.column(0))
        paths = flat.field("path").to_pylist()
        empty = flat.field("bytes").is_null().to_pylist() if len(leaves) == 2 else [False] * len(flat)
        for owner, path, missing in zip(owners, paths, empty, strict=True):
            if path is not None and _LOCAL.search(path):
                raise UserError(
                    f"row {first + owner} of {file} names a local path in the column {column!r}; "
                    "store the file's name alone"
                )
            if path is not None and missing:
                raise UserError(_only_a_path(column, first + owner, file))
        first += len(batch)


def _check_content(parquet: pq.ParquetFile, column: str, file: Path) -> None:
    """Every picture is one, and no secret hides in it or behind it."""
    with ThreadPoolExecutor() as threads:
        for number, pictures in enumerate(_contents(parquet, column)):
            first = number * _PICTURES + 1
            for fault in threads.map(image_fault, pictures.values()):
                if fault is not None:
                    raise UserError(
                        f"a picture in rows {first} to {first + _PICTURES - 1} of {file}, column {column!r}, cannot be "
                        f"used ({fault}); take it out before publishing"
                    )
            for row, content in pictures.items():
                _refuse_secret(content, f"a picture in row {first + row[0]} of {file}")


def _contents(parquet: pq.ParquetFile, column: str) -> Iterator[dict[tuple[int, int], bytes]]:
    """The pictures of a few rows at a time, by their row and their place among these."""
    binary = _is_binary(_inner(parquet.schema_arrow.field(column).type))
    leaves = [leaf for leaf in _leaves(parquet) if _in_picture(leaf, [column], "bytes")]
    for batch in parquet.iter_batches(_PICTURES, columns=[column] if binary else leaves):
        flat, owners = _flattened(batch.column(0))
        pictures = (flat if binary else flat.field("bytes")).to_pylist()
        yield {
            (row, place): picture
            for place, (row, picture) in enumerate(zip(owners, pictures, strict=True))
            if picture is not None
        }


def _never_null(parquet: pq.ParquetFile, column: str) -> bool:
    """Do the row groups' statistics already prove that every picture has bytes?"""
    number = next(n for n, leaf in enumerate(_leaves(parquet)) if _in_picture(leaf, [column], "bytes"))
    groups = (parquet.metadata.row_group(group).column(number) for group in range(parquet.num_row_groups))
    return all(c.statistics is not None and c.statistics.has_null_count and not c.statistics.null_count for c in groups)


def _flattened(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """The items of a column of lists, or the column, and the row each belongs to."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return column, list(range(len(column)))
    return column.flatten(), pc.list_parent_indices(column).to_pylist()


def _only_a_path(column: str, row: int, file: Path) -> str:
    return (
        f"row {row} of {file} holds a path instead of a picture in the column {column!r}; embed the bytes: "
        "specs-data merge writes a dataset with its pictures inside"
    )


def _buffers(array: pa.Array) -> Iterator[bytes]:
    """The text of every string below `array`, each column of strings as one piece."""
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        yield from _buffers(array.flatten())
    elif pa.types.is_struct(array.type):
        for number in range(array.type.num_fields):
            yield from _buffers(array.field(number))
    elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or _is_binary(array.type):
        yield b"\n".join(text for text in array.cast(pa.large_binary()).to_pylist() if text)
    elif not pa.types.is_primitive(array.type):  # a map, a dictionary, a view: however it is laid out
        yield "\n".join(map(str, array.to_pylist())).encode(errors="replace")


def _is_binary(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary())
