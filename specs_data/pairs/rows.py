"""Open any preference dataset and walk over its rows: runs, dataset folders, single files, the Hub.

Whatever the layout on disk, `rows` gives Pairs, and `to_row` a Pair as our own datasets have it. The layouts
of LLaMA-Factory (conversations) and ms-swift (messages, rejected_response) are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, takewhile
from numbers import Number
from pathlib import Path
from shlex import quote
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import asdict, replace

from specs_data.errors import FileRefused, UserError, first_line
from specs_data.files import (
    FIRST_ROWS,
    SUFFIXES,
    columns_of,
    is_plain,
    read_inside,
    read_rows,
    refuse_irregular,
    runs_in,
)
from specs_data.files import count_rows as rows_in
from specs_data.images import MAX_BYTES, image_fault
from specs_data.inert import one_line
from specs_data.pairs.manifest import Manifest, load_manifest
from specs_data.records import Message, Pair, Picture, Role
from specs_data.texts import IMAGE, leading, to_content

Row = dict[str, Any]

TEXT_COLUMNS = ("problem_id", "answer", "answer_type", "corruption", "rejected_from", "policy", "verifier")
# How difficult the problem is: a share, and whether.
DIFFICULTY = ("pass_rate", "solved_blind")
# What --columns can name.
COLUMNS = ("prompt", "chosen", "rejected", "images", "id", "answer", "answer_type", "corruption", "rejected_from")
_SIDES = {"chosen": ("chosen", "messages"), "rejected": ("rejected", "rejected_response", "rejected_messages")}
_ROLES = {"human": "user", "gpt": "assistant"}
_LONGEST_NAME = 200  # of what a row gives as its picture, in a sentence
_SHARD = re.compile(r"(?P<split>[\w.]+?)(?:-\d+-of-\d+)?")
_KNOWN_SPLITS = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
}


class _Bad(Exception):
    """Why a row cannot be read."""


class Dataset(Struct, frozen=True):
    """A preference dataset on disk. `splits` maps names to data files in order; `manifest` is the
    run's manifest.json where there is one of ours. Paths of `splits` lie under `root`. Pictures that its rows
    name are read from inside of `inside` alone (default: `root`), or of `images`, the folder that the user names."""

    root: Path
    splits: dict[str, tuple[Path, ...]]
    manifest: Manifest | None = None
    inside: Path | None = None
    images: Path | None = None

    @property
    def home(self) -> Path:
        """The folder that none of its files lies outside of."""
        return self.inside or self.root


def open_dataset(path: str | Path, images: Path | None = None) -> Dataset:
    """The dataset at `path`: a RUN, a dataset folder, one Parquet or JSONL file, or else a Hub
    dataset id `name[@revision]`, which is downloaded. `images` is the folder of the pictures that its rows
    name, if they do not lie in the dataset's own. Raises UserError."""
    if images is not None and not images.is_dir():
        raise UserError(f"there is no folder {images} with pictures")
    return replace(_open(path), images=images)


def open_whole(path: str | Path, images: Path | None = None) -> Dataset:
    """The dataset at `path`, as `open_dataset` has it, to be used and not only looked at. Raises UserError as well for
    a run that has been tried by a dry run and never built: the few pairs that this found are for who asks for them by
    name."""
    dataset = open_dataset(path, images)
    pilot = Path(path) / "pilot"
    if dataset.root.parent == pilot:
        raise UserError(f"{path} has only what a dry run has found: build it first, or give {pilot} for just that")
    return dataset


def _open(path: str | Path) -> Dataset:
    place = Path(path)
    if place.is_file():
        if place.suffix not in SUFFIXES:
            raise UserError(f"{place} is neither a .parquet nor a .jsonl file")
        return Dataset(place.parent, {_split_of(place, alone=True): (place,)}, _manifest(place.parent))
    if place.is_dir():
        # Where there is nothing else, what a dry run has found.
        inside = next((one for one in (place / "dataset", place / "pilot" / "dataset") if one.is_dir()), place)
        runs = runs_in(place) if inside == place else []
        if not {place, place / "pilot"}.isdisjoint(runs):
            told = quote(str(place))
            raise UserError(
                f"{place}: this run has no dataset; specs-data show {told} --dropped shows what it left out"
            )
        if runs:
            raise UserError(f"{place} holds runs: name one of them, such as {runs[0]}")
        if inside == place and (place / "store.sqlite").is_file():
            raise UserError(f"{place}: this run is not finished; the command that began it goes on with it")
        return _open_folder(inside if inside.is_dir() else place)
    refuse_irregular(place)
    snapshot = _download(str(path))
    return replace(_open_folder(snapshot), inside=snapshot.parent.parent)  # its files are links to blobs beside it


def rows(
    dataset: Dataset,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    pictures: bool = True,
) -> Iterator[Pair]:
    """The rows of `split`, or of every split in order.

    `columns` names the data's own columns for ours (`{"chosen": "preferred"}`). Without `pictures`
    none is read, and `images` is empty. Memory holds a few rows at a time. Raises UserError that
    names the file and row that cannot be read.
    """
    for file, number, pair in _read(dataset, split, columns or {}, pictures):
        if isinstance(pair, str):
            raise UserError(f"row {number + 1} of {file} {pair}")
        yield pair


def try_rows(
    dataset: Dataset,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    pictures: bool = True,
) -> Iterator[Pair | str]:
    """As `rows`, but a string stands for a row that cannot be read, and says why."""
    return (pair for _, _, pair in _read(dataset, split, columns or {}, pictures))


def to_row(pair: Pair) -> Row:
    """A pair as a row of our datasets: messages are `{"role", "content"}`, images `{"bytes", "path": file name}`.
    The prompt's content is text, or in blocks where pictures stand among it."""
    row = asdict(pair)
    for side, before in zip(("chosen", "rejected"), row.pop("turns_before"), strict=True):
        row[side] = [*_plain(before), {"role": "assistant", "content": row[side]}]
    row["images"] = [{"bytes": image.content, "path": image.name} for image in pair.images]
    row["prompt"] = to_content(pair.prompt, len(pair.images))
    return row


def interleaved(pair: Pair) -> bool:
    """Whether pictures stand among the prompt's text."""
    return leading(pair.prompt, len(pair.images)) is None


def _plain(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def raw_rows(file: Path) -> Iterator[Row]:
    """The rows of one Parquet or JSONL file as they are. Raises UserError."""
    for number, row in enumerate(read_rows(file)):
        if isinstance(row, str):
            raise UserError(f"row {number + 1} of {file} is {row}")
        yield row


def count_rows(dataset: Dataset) -> dict[str, int]:
    """The number of rows of each split."""
    return {name: sum(map(rows_in, files)) for name, files in dataset.splits.items()}


def _open_folder(root: Path) -> Dataset:
    files = sorted(file for suffix in SUFFIXES for file in root.rglob(f"*{suffix}") if is_plain(file, root))
    if any(file.suffix == ".parquet" for file in files):
        files = [file for file in files if file.suffix == ".parquet"]
    if not files:
        raise UserError(f"{root} has no .parquet or .jsonl files, so it is not a dataset")
    splits: dict[str, tuple[Path, ...]] = {}
    for file in files:
        name = _split_of(file, alone=len(files) == 1)
        splits[name] = (*splits.get(name, ()), file)
    ordered = sorted(splits, key=lambda name: (name != "train", name))
    return Dataset(root, {name: splits[name] for name in ordered}, _manifest(root))


def _split_of(file: Path, alone: bool) -> str:
    found = _SHARD.fullmatch(file.stem)
    name = found["split"] if found else file.stem
    return _KNOWN_SPLITS.get(name, "train" if alone else name)


def _manifest(root: Path) -> Manifest | None:
    """The manifest inside a dataset folder, or above it where the folder is the data of a dataset or the
    dataset of a run."""
    folder = root.resolve()
    while folder.name in ("data", "dataset") and not (folder / "manifest.json").is_file():
        folder = folder.parent
    place = folder / "manifest.json"
    return load_manifest(place) if place.is_file() else None


def _download(name: str) -> Path:
    repo, _, revision = name.partition("@")
    nowhere = UserError(f"{name} does not exist, and it is not a Hub dataset id either")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise nowhere
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["README.md", "manifest.json", *(f"*{suffix}" for suffix in SUFFIXES)]
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision or None, allow_patterns=patterns))
    except HFValidationError:
        raise nowhere from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{name} is no file or folder here, and the Hub does not give it: {first_line(error)}"
        ) from None


def _read(
    dataset: Dataset, split: str | None, columns: Mapping[str, str], pictures: bool
) -> Iterator[tuple[Path, int, Pair | str]]:
    """Each row, or why it cannot be read, with its file and its number there."""
    if split is not None and split not in dataset.splits:
        raise UserError(f"{dataset.root} has no split {split!r}; it has: {', '.join(dataset.splits)}")
    for name in columns:
        if name not in COLUMNS:
            raise UserError(f"--columns knows no column {name!r}; it takes {', '.join(COLUMNS)}")
    unread = () if pictures else ("image", "images", *(columns[name] for name in ("images",) if name in columns))
    for name in [split] if split is not None else list(dataset.splits):
        for file in dataset.splits[name]:
            for number, row in enumerate(_checked(file, unread, columns)):
                yield file, number, _tried(row, file, dataset, columns, unread)


def _checked(file: Path, unread: Collection[str], columns: Mapping[str, str]) -> Iterator[Row | str]:
    """The rows of `file`. Raises UserError if none of the first ones has a column that is needed."""
    rows = read_rows(file, unread)
    first: list[Row | str] = []
    missing: list[str] = []
    for row in islice(rows, FIRST_ROWS):
        first.append(row)
        missing = _missing(columns_of(first), columns, unread)
        if not missing:
            break
    there = columns_of(first)
    if len(first) == FIRST_ROWS and file.suffix == ".jsonl":  # a later row may have what is not in every row
        missing = [name for name in missing if name in _SIDES]
    if there and missing:
        name = missing[0]
        raise UserError(
            f"{file} has no column {columns.get(name, name)!r}; it has {', '.join(there)}; a preference dataset has "
            f"prompt, chosen and rejected: rename its own, or name it to check and export with --columns {name}=COLUMN"
        )
    return chain(first, rows)


def _missing(there: Collection[str], columns: Mapping[str, str], unread: Collection[str]) -> list[str]:
    needed = _SIDES | {ours: (theirs,) for ours, theirs in columns.items() if theirs not in unread}
    return [ours for ours, names in needed.items() if not any(name in there for name in names)]


def _tried(
    row: Row | str, file: Path, dataset: Dataset, columns: Mapping[str, str], unread: Collection[str]
) -> Pair | str:
    if isinstance(row, str):
        return f"is {row}"
    named = row | {ours: row.get(theirs) for ours, theirs in columns.items()}
    try:
        return _pair({key: value for key, value in named.items() if key not in unread}, file, dataset)
    except _Bad as bad:
        return str(bad)


def _pair(row: Row, file: Path, dataset: Dataset) -> Pair:
    sides = _sides(row)
    for column in ("chosen", "rejected"):
        if sides[column] is None:
            raise _Bad(f"has no {column!r}")
    images = row.get("images")
    if images is None:
        images = [] if row.get("image") is None else [row["image"]]
    pictures = tuple(_image(image, file, dataset) for image in (images if isinstance(images, list) else [images]))
    prompt = _messages(sides["prompt"] or [], "user", "prompt", seen=bool(pictures))
    chosen, rejected = (_messages(sides[column] or [], "assistant", column) for column in ("chosen", "rejected"))
    if shared := _shared(prompt, chosen, rejected):
        prompt = _messages(sides["chosen"], "assistant", "chosen", seen=bool(pictures))[:shared]
        chosen, rejected = chosen[shared:], rejected[shared:]
    prompt = (*_asked_by_column(row, prompt), *prompt)
    if not chosen or not rejected:
        raise _Bad("has an empty chosen or rejected side")
    return Pair(
        id=_stated(row, "id") or "",
        images=pictures,
        # Pictures that come first anyway need no placeholders.
        prompt=leading(prompt, len(pictures)) or prompt,
        chosen=chosen[-1].content,
        rejected=rejected[-1].content,
        pass_rate=_number(row.get("pass_rate")),
        solved_blind=solved if isinstance(solved := row.get("solved_blind"), bool) else None,
        turns_before=(chosen[:-1], rejected[:-1]),
        **{column: _stated(row, column) for column in TEXT_COLUMNS},
    )


def _shared(prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """How many turns both sides begin with that are the prompt, because there is no other (TRL's implicit prompts), or
    because the sides hold the whole talk although it stands beside them (UltraFeedback)."""
    sides = zip(chosen[:-1], rejected[:-1], strict=False)
    shared = list(takewhile(lambda turns: turns[0] == turns[1], sides))
    anew = shared and prompt and prompt[-1].role == "user" and shared[0][0].role in ("system", "user")
    return len(shared) if anew or not prompt else 0


def _asked_by_column(row: Row, prompt: Sequence[Message]) -> tuple[Message, ...]:
    """The system message of a row that has it in a column of its own, as LLaMA-Factory's rows may."""
    system = row.get("system")
    if not prompt or prompt[0].role == "system" or not isinstance(system, str) or not system.strip():
        return ()
    return (Message("system", system),)


def _stated(row: Row, column: str) -> str | None:
    """What a row says in a column of texts: a number in its digits, None for what is neither text nor number."""
    value = row.get(column)
    return str(value) if isinstance(value, str | Number) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _sides(row: Mapping[str, Any]) -> dict[str, Any]:
    """Prompt, chosen and rejected, each as the row has it, in whatever trainer's layout; None for what it lacks."""
    prompt, chosen, rejected = (row.get(column) for column in ("prompt", "chosen", "rejected"))
    if prompt is None:
        prompt = row.get("conversations")
    messages, other = row.get("messages"), row.get("rejected_messages")
    if chosen is None and isinstance(messages, list):
        if rejected is None and isinstance(other, list) and len(other) > 1:
            return {"prompt": None, "chosen": messages, "rejected": other}  # the whole talk, twice
        prompt, chosen = messages[:-1], messages[-1:]
    if rejected is None:
        rejected = other[-1:] if isinstance(other, list) else row.get("rejected_response")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _messages(value: Any, role: Role, column: str, seen: bool = False) -> tuple[Message, ...]:
    """A text, one message, or a list of messages (with plain or block content) as plain messages. Where pictures are
    `seen`, their blocks are places in the text."""
    if isinstance(value, str):
        return (Message(role, value),)
    try:
        return tuple(_message(message, seen) for message in ([value] if isinstance(value, Mapping) else value))
    except (TypeError, KeyError, AttributeError):
        raise _Bad(f"has a {column} that is neither text nor a list of role and content") from None


def _message(message: Mapping[str, Any], seen: bool) -> Message:
    if "role" not in message:  # ShareGPT's words, which LLaMA-Factory uses
        role, content = _ROLES.get(message["from"], message["from"]), message["value"]
    else:
        role, content = message["role"], message["content"]
    return Message(cast(Role, str(role)), _text(content, seen))  # somebody else's may be none of ours


def _text(content: Any, seen: bool) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(IMAGE if seen and block.get("type") == "image" else block.get("text") or "" for block in content)


def _image(image: Any, file: Path, dataset: Dataset) -> Picture:
    """An image given as bytes, as a path, or as datasets' own dict."""
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (None, image)
    if isinstance(path, bytes):
        return Picture(path)
    if isinstance(content, bytes):
        return Picture(content, (Path(path).name if isinstance(path, str) else "") or None)
    if content is not None:
        raise _Bad("has an image whose bytes are not binary; give the path of its file instead")
    if not isinstance(path, str):
        raise _Bad("has an image that is neither bytes nor a path")
    return Picture(_named_picture(path, file, dataset), Path(path).name)


def _named_picture(path: str, file: Path, dataset: Dataset) -> bytes:
    """The bytes of the picture that a row of `file` names: relative to it, or to the folder that the user names."""
    told = one_line(path if path.isprintable() else repr(path), _LONGEST_NAME)
    try:
        if dataset.images is not None:
            content = read_inside(dataset.images, path, MAX_BYTES)
        else:
            content = read_inside(dataset.home, str((file.parent / path).absolute()), MAX_BYTES)
    except FileRefused as refused:
        if refused.reason != "outside":
            raise _Bad(f"names the image {told}, which {refused.detail}") from None
        place = f"the folder {dataset.images}" if dataset.images else "the dataset's own folder"
        raise _Bad(
            f"names the image {told}, which lies outside of {place}, and no other is read: move it there, "
            "or give the folder of the pictures with --images"
        ) from None
    fault = image_fault(content)
    if fault is not None:
        raise _Bad(f"names the image {told}, which is no picture that can be used ({fault})")
    return content
