"""Open any preference dataset and walk over its rows: runs, dataset folders, single files, the Hub.

Whatever the layout on disk, `rows` gives one shape, that of our own datasets:
`images` is a list of `{"bytes": ..., "path": file name}`, `prompt`, `chosen` and `rejected` are
lists of `{"role", "content"}` with plain text. Other columns come through as they are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from specs_data.errors import UserError

SUFFIXES = (".parquet", ".jsonl")
_SHARD = re.compile(r"(?P<split>[\w.]+?)(?:-\d+-of-\d+)?")
_KNOWN_SPLITS = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
}
_BATCH_ROWS = 64


class Dataset(Struct, frozen=True):
    """A preference dataset on disk. `splits` maps names to data files in order; `manifest` is the
    run's manifest.json where there is one. Paths of `splits` lie under `root`. `foreign` is one that
    came from the Hub: its rows may name no picture outside of it."""

    root: Path
    splits: dict[str, tuple[Path, ...]]
    manifest: dict[str, Any] | None = None
    foreign: bool = False


def open_dataset(path: str | Path) -> Dataset:
    """The dataset at `path`: a RUN, a dataset folder, one Parquet or JSONL file, or else a Hub
    dataset id `name[@revision]`, which is downloaded. Raises UserError."""
    place = Path(path)
    if place.is_file():
        if place.suffix not in SUFFIXES:
            raise UserError(f"{place} is neither a .parquet nor a .jsonl file")
        return Dataset(place.parent, {_split_of(place, alone=True): (place,)}, _manifest(place.parent))
    if place.is_dir():
        return _open_folder(place / "dataset" if (place / "dataset").is_dir() else place)
    return _open_folder(_download(str(path)), foreign=True)


def rows(
    dataset: Dataset,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    pictures: bool = True,
) -> Iterator[dict[str, Any]]:
    """The rows of `split`, or of every split in order, in the shape this module's docstring states.

    `columns` names the data's own columns for ours (`{"chosen": "preferred"}`). Without `pictures`
    none is read, and `images` is empty. Memory holds a few rows at a time. Raises UserError that
    names the file and row that cannot be read.
    """
    if split is not None and split not in dataset.splits:
        raise UserError(f"{dataset.root} has no split {split!r}; it has: {', '.join(dataset.splits)}")
    for name in [split] if split is not None else list(dataset.splits):
        for file in dataset.splits[name]:
            unread = () if pictures else _picture_columns(columns or {})
            for number, row in enumerate(raw_rows(file, unread)):
                named = row | {ours: row.get(theirs) for ours, theirs in (columns or {}).items()}
                yield _normalised(
                    {key: value for key, value in named.items() if key not in unread}, file, number, dataset
                )


def raw_rows(file: Path, unread: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of one Parquet or JSONL file as they are, without the columns `unread`. Raises UserError."""
    return _parquet_rows(file, unread) if file.suffix == ".parquet" else _jsonl_rows(file)


def count_rows(dataset: Dataset) -> dict[str, int]:
    """The number of rows of each split."""
    return {
        name: sum(
            _parquet(f).metadata.num_rows if f.suffix == ".parquet" else sum(1 for _ in _jsonl_rows(f)) for f in fs
        )
        for name, fs in dataset.splits.items()
    }


def _open_folder(root: Path, *, foreign: bool = False) -> Dataset:
    files = sorted(file for suffix in SUFFIXES for file in root.rglob(f"*{suffix}") if not _hidden(file, root))
    if any(file.suffix == ".parquet" for file in files):
        files = [file for file in files if file.suffix == ".parquet"]
    if not files:
        raise UserError(f"{root} has no .parquet or .jsonl files, so it is not a dataset")
    splits: dict[str, tuple[Path, ...]] = {}
    for file in files:
        name = _split_of(file, alone=len(files) == 1)
        splits[name] = (*splits.get(name, ()), file)
    ordered = sorted(splits, key=lambda name: (name != "train", name))
    return Dataset(root, {name: splits[name] for name in ordered}, _manifest(root), foreign)


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _split_of(file: Path, alone: bool) -> str:
    found = _SHARD.fullmatch(file.stem)
    name = found["split"] if found else file.stem
    return _KNOWN_SPLITS.get(name, "train" if alone else name)


def _manifest(root: Path) -> dict[str, Any] | None:
    """The manifest inside a dataset folder, or beside it where the folder belongs to a run."""
    places = [root / "manifest.json", *([root.parent / "manifest.json"] if root.name == "dataset" else [])]
    for place in places:
        if place.is_file():
            try:
                return msgspec.json.decode(place.read_bytes(), type=dict[str, Any])
            except msgspec.MsgspecError as error:
                raise UserError(f"{place} is not a valid manifest: {error}") from None
    return None


def _download(name: str) -> Path:
    repo, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise UserError(f"{name} does not exist, and it is not a Hub dataset id either")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["README.md", "manifest.json", *(f"*{suffix}" for suffix in SUFFIXES)]
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name} is no file or folder here, and the Hub does not give it: {reason}") from None


def _parquet(file: Path) -> pq.ParquetFile:
    try:
        # Read bit by bit: by default a whole row group waits in memory.
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} is not a readable Parquet file: {error}") from None


def _picture_columns(columns: Mapping[str, str]) -> tuple[str, ...]:
    return ("image", "images", *(columns[name] for name in ("image", "images") if name in columns))


def _parquet_rows(file: Path, unread: Sequence[str]) -> Iterator[dict[str, Any]]:
    with _parquet(file) as parquet:
        wanted = [name for name in parquet.schema_arrow.names if name not in unread]
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=wanted):
            yield from batch.to_pylist()


def _jsonl_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{file} line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise UserError(f"{file} line {number} is not a JSON object")
            yield row


def _normalised(row: dict[str, Any], file: Path, number: int, dataset: Dataset) -> dict[str, Any]:
    where = f"row {number + 1} of {file}"
    for column in ("chosen", "rejected"):
        if row.get(column) is None:
            raise UserError(
                f"{where} has no {column!r}: a preference dataset has the columns prompt, chosen and rejected"
            )
    prompt, chosen, rejected = (
        _messages(row.get(column) or [], role, where)
        for column, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))
    )
    if not prompt:  # TRL's implicit prompts: chosen and rejected start with the same turns
        prompt, chosen, rejected = chosen[:-1], chosen[-1:], rejected[-1:]
    if not chosen or not rejected:
        raise UserError(f"{where} has an empty chosen or rejected side")
    images = row.get("images")
    if images is None:
        images = [] if row.get("image") is None else [row["image"]]
    rest = {key: value for key, value in row.items() if key != "image"}
    inside = dataset.root if dataset.foreign else None
    images = [_image(image, file, where, inside) for image in (images if isinstance(images, list) else [images])]
    return {**rest, "images": images, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def _messages(value: Any, role: str, where: str) -> list[dict[str, str]]:
    """A text, one message, or a list of messages (with plain or block content) as plain messages."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    messages = [value] if isinstance(value, Mapping) else value
    try:
        return [{"role": str(message["role"]), "content": _text(message["content"])} for message in messages]
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{where} has a {role} side that is neither text nor a list of role and content") from None


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(block.get("text") or "" for block in content)


def _image(image: Any, file: Path, where: str, inside: Path | None) -> dict[str, Any]:
    """`{"bytes", "path"}` of bytes, of a path relative to the file, or of datasets' own dict."""
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (None, image)
    if isinstance(path, bytes):
        return {"bytes": path, "path": None}
    if content is not None:
        return {"bytes": content, "path": path}
    if not isinstance(path, str):
        raise UserError(f"{where} has an image that is neither bytes nor a path")
    # Links are not followed: the Hub's cache is made of them.
    place = Path(os.path.normpath(file.parent / path))
    if inside is not None and not place.is_relative_to(inside):
        raise UserError(f"{where} names the image {path}, which lies outside of the dataset")
    try:
        return {"bytes": place.read_bytes(), "path": place.name}
    except OSError as error:
        raise UserError(f"{where} names the image {path}, which cannot be read: {error.strerror}") from None
