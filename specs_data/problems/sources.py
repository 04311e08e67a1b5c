"""Where the rows of problems come from: files, folders of them, Hub datasets. In order, or each by its number."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from specs_data.errors import UserError, first_line
from specs_data.files import SUFFIXES, RowsByNumber, is_plain, read_rows, refuse_irregular, runs_in
from specs_data.inert import one_line
from specs_data.pairs.shelf import HubShelf, Shelf
from specs_data.recipe import Recipe

# A row as its file has it, or why it cannot be read.
Row: TypeAlias = dict[str, Any] | str
Pictures: TypeAlias = Shelf | HubShelf
# A row, and the pictures that it may name.
Raw: TypeAlias = tuple[Row, Pictures]
AboutToRead: TypeAlias = Callable[[Path], None] | None

NO_PRESET = "none"


class Source(Struct, frozen=True):
    """Somewhere with problems: a file, a folder or a Hub dataset, and the preset that knows its columns. It is the
    `nth` of those with the same last part of their names."""

    name: str
    preset: str | None = None
    nth: int = 1

    @property
    def label(self) -> str:
        """What it is called where there are several: no path of this machine."""
        last = Path(self.name).name or self.name
        return last if self.nth == 1 else f"{last}-{self.nth}"


def sources_of(recipe: Recipe) -> tuple[Source, ...]:
    """The recipe's problems, each with its preset. Raises UserError where their numbers differ."""
    names, presets = _listed(recipe.problems), _listed(recipe.preset)
    if presets and len(presets) != len(names):
        raise UserError(
            f"{len(names)} --problems and {len(presets)} --preset: give one for each of the problems, in their order, "
            f"and {NO_PRESET!r} to those that need none"
        )
    known = [None if preset == NO_PRESET else preset for preset in presets] or [None] * len(names)
    seen: Counter[str] = Counter()
    found = []
    for name, preset in zip(names, known, strict=True):
        seen[Path(name).name] += 1
        found.append(Source(name, preset, seen[Path(name).name]))
    return tuple(found)


def _listed(value: tuple[str, ...] | str | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value or ()


def source_files(name: str) -> list[Path] | None:
    """The files that hold the rows of these problems, and the zip files beside them; None for a Hub dataset."""
    path = Path(name)
    if not path.exists():
        return None
    files = _files(path)
    for file in files:
        refuse_irregular(file)
    folders = sorted({file.parent for file in files})
    return [*files, *(archive for folder in folders for archive in sorted(folder.glob("*.zip")))]


def rows_of(name: str, about_to_read: AboutToRead = None) -> Iterator[Raw]:
    """The rows of these problems in their order. `about_to_read` is told of each picture file. Raises UserError."""
    if not _is_here(name):
        hub = _hub_shelf(name)
        yield from ((row, hub) for row in _hub_rows(name))
        return
    for file, shelf in _shelved(name, about_to_read):
        yield from ((row, shelf) for row in read_rows(file))


class Table:
    """The rows of some problems, each to be had by its number, once all of them have been gone through."""

    def __init__(self, name: str, about_to_read: AboutToRead = None) -> None:
        self._parts: list[tuple[_Rows, Pictures]] = (
            [(RowsByNumber(file), shelf) for file, shelf in _shelved(name, about_to_read)]
            if _is_here(name)
            else [(_HubRows(name), _hub_shelf(name))]
        )
        self._starts: list[int] = []

    @property
    def size(self) -> int:
        """About the bytes of all rows."""
        return sum(part.size for part, _ in self._parts)

    def scan(self, columns: Collection[str]) -> Iterator[Row]:
        """All rows in order, with these of their columns at least."""
        count = 0
        for part, _ in self._parts:
            self._starts.append(count)
            for row in part.scan(columns):
                count += 1
                yield row

    def pick(self, numbers: Sequence[int]) -> Iterator[Raw]:
        """The rows with these numbers, which ascend."""
        for (part, shelf), start, within in self._split(numbers):
            yield from ((row, shelf) for row in part.pick([number - start for number in within]))

    def _split(self, numbers: Sequence[int]) -> Iterator[tuple[tuple[_Rows, Pictures], int, Sequence[int]]]:
        at = 0
        while at < len(numbers):
            part = bisect_right(self._starts, numbers[at]) - 1
            following = self._starts[part + 1] if part + 1 < len(self._starts) else numbers[-1] + 1
            end = next((place for place in range(at, len(numbers)) if numbers[place] >= following), len(numbers))
            yield self._parts[part], self._starts[part], numbers[at:end]
            at = end


class _Rows(Protocol):
    @property
    def size(self) -> int: ...

    def scan(self, columns: Collection[str]) -> Iterator[Row]: ...

    def pick(self, numbers: Sequence[int]) -> Iterator[Row]: ...


class _HubRows:
    """A Hub dataset on this machine's disk: all of it, for its rows are wanted in another order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows: Any = None

    @property
    def size(self) -> int:
        return int(self._rows.data.nbytes)

    def scan(self, columns: Collection[str]) -> Iterator[Row]:
        with _told(self._name):
            self._rows = _hub(self._name, streaming=False).with_format("arrow")  # which decodes no picture
            there = [name for name in self._rows.column_names if name in columns]
            if not there:
                yield from repeat({}, len(self._rows))
                return
            for table in self._rows.select_columns(there).iter(1000):
                yield from table.to_pylist()

    def pick(self, numbers: Sequence[int]) -> Iterator[Row]:
        with _told(self._name):
            for number in numbers:
                yield from self._rows[[number]].to_pylist()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if runs := runs_in(path):
        raise UserError(f"{runs[0]} is a run, and holds no problems: give those that it was built from")
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and is_plain(file, path))
    if not files:
        raise UserError(f"the folder {path} holds no .jsonl or .parquet file")
    return files


def _shelved(name: str, about_to_read: AboutToRead) -> Iterator[tuple[Path, Shelf]]:
    """The files of these problems, each with the pictures that its rows may name."""
    path = Path(name)
    root = path if path.is_dir() else path.parent
    shelves: dict[Path, Shelf] = {}
    for file in _files(path):
        yield file, shelves.setdefault(file.parent, Shelf(file.parent, root, about_to_read))


def _is_here(name: str) -> bool:
    """Whether it is a file or folder here, and not a Hub dataset. Raises UserError for what can be neither."""
    path = Path(name)
    if path.exists():
        return True
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?(@[\w./-]+)?(#[\w.-]+)?", name) and path.suffix not in SUFFIXES:
        return False
    raise UserError(f"there are no problems at {name}: no such file or folder, and not a Hub dataset id")


def _hub_rows(name: str) -> Iterator[Row]:
    with _told(name):
        found = _hub(name, streaming=True)
        # Where the kinds of columns are not known nothing is decoded, and datasets 3 refuses to be told so.
        yield from found if found.features is None else found.decode(False)


def _hub(source: str, *, streaming: bool) -> Any:
    import datasets

    name, config, revision, split = _named(source)
    return datasets.load_dataset(name, config, revision=revision, split=split or "train", streaming=streaming)


def _hub_shelf(source: str) -> HubShelf:
    name, _, revision, _ = _named(source)
    return HubShelf(name, revision)


def _named(source: str) -> tuple[str, str | None, str | None, str | None]:
    """The repository, configuration, revision and split of a Hub dataset."""
    rest, _, split = source.partition("#")
    rest, _, revision = rest.partition("@")
    name, _, config = rest.partition(":")
    return name, config or None, revision or None, split or None


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever goes wrong with a Hub dataset is a sentence; of a configuration or split that it lacks, with those that
    there are and how one is named."""
    try:
        yield
    except Exception as error:
        said, repo = first_line(error), _named(name)[0]
        ways = {"config": f"{repo}:CONFIG", "split": f"{repo}#SPLIT"}
        way = next((way for word, way in ways.items() if isinstance(error, ValueError) and word in said.lower()), "")
        if way:
            said = f"{one_line(' '.join(str(error).splitlines()[:2]), 600)}; one is given as {way}"
        raise UserError(f"cannot read the Hub dataset {name}: {said}") from None
