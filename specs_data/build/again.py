"""A finished run, typed again: whether anything that it came of has changed since.

`sources.jsonl` in the run's folder has one line per file that the run read as a picture, and as its last line what
else decided the dataset and what the dataset's files were. A file is the same while its size and its time are;
a file of rows, if it is not large, while its content is as well.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import msgspec
from msgspec import Struct

import specs_data
from specs_data.files import put_in_place, sha256_of, writing
from specs_data.pairs.shard import SHARD
from specs_data.presets import load_preset
from specs_data.problems import source_files, sources_of
from specs_data.rollouts.frames import FATES
from specs_data.rollouts.responses import file_digest
from specs_data.rollouts.tables import digest
from specs_data.texts import load_card

if TYPE_CHECKING:
    from specs_data.build.opening import Run

logger = logging.getLogger(__name__)
_NAME = "sources.jsonl"
# Files of rows up to this size are known by their content: that takes a tenth of a second.
_READ_AT_MOST = 1 << 26


class Stamp(Struct, frozen=True, array_like=True):
    """A file as it was. Size and time (ns) are -1 where there is none."""

    path: str
    size: int = -1
    time: int = -1
    sha256: str = ""


class State(Struct, frozen=True):
    """What decides a run's dataset: the digest of all that is no source, and the files that hold the sources' rows;
    None where something else holds them. `left` are the files of the finished run."""

    key: str
    rows: list[Stamp] | None
    left: list[Stamp] = []


_encode = msgspec.json.Encoder().encode
_stamp = msgspec.json.Decoder(Stamp).decode
_state = msgspec.json.Decoder(State).decode


class Pictures:
    """The picture files that a run reads, each stamped before it is read; on disk, for they are many."""

    def __init__(self, out: Path) -> None:
        self._part = out / "sources.part"
        self._lines: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # nobody needs it any more
            if self._lines is not None:
                self._lines.close()
            self._part.unlink(missing_ok=True)

    def note(self, picture: Path) -> None:
        """A file that is about to be read."""
        self.write(_look(str(picture)))

    def write(self, record: Struct) -> None:
        """One line more."""
        with writing(self._part):
            if self._lines is None:
                self._lines = self._part.open("wb")
            self._lines.write(_encode(record) + b"\n")

    def put(self, place: Path) -> None:
        """The file is whole, and goes to its place."""
        if self._lines is not None:
            self._lines.close()
            put_in_place(self._part, place)


def state_of(run: Run) -> State:
    """What the dataset of this run depends on, before anything of it is read."""
    return State(_key(run), _row_stamps(run))


def is_finished(run: Run, now: State) -> bool:
    """Whether the run's folder holds what this run would make, and nothing that it would read has changed."""
    try:
        with (run.out / _NAME).open("rb") as lines:
            *pictures, last = lines
        before = _state(last)
        return (
            (before.key, before.rows) == (now.key, now.rows)
            and before.left == list(map(_look, _left(run.out)))
            and all(_is_same(_stamp(line)) for line in pictures)
        )
    except (OSError, ValueError):  # there is none, or it is damaged
        return False


def keep(run: Run, before: State) -> None:
    """The run is finished: the same command has nothing to do, unless a service left something undecided, or a file of
    rows was changed while the run read it."""
    place = run.out / _NAME
    place.unlink(missing_ok=True)
    if before.rows is not None and _row_stamps(run) != before.rows:
        logger.warning("the files of problems were changed while they were read: run the same command again")
        return
    if before.rows is not None and not run.store.has_undecided():
        run.pictures.write(msgspec.structs.replace(before, left=list(map(_look, _left(run.out)))))
        run.pictures.put(place)


def _key(run: Run) -> str:
    recipe, plan = run.recipe, run.plan
    settings = [plan.verdicts, plan.pairs]
    for source in plan.sources:
        settings += [source.samples, source.judgements]
    texts = [load_card(recipe.card).sha256, file_digest(recipe.prices) if recipe.prices else ""]
    presets = [msgspec.to_builtins(load_preset(source.preset)) for source in sources_of(recipe) if source.preset]
    stages = [run.store.settings_digest(number).hex() for number in settings]
    return digest([recipe.model_dump(mode="json"), stages, texts, presets, sorted(plan.struck), list(_program())]).hex()


def _program() -> Iterator[Stamp]:
    """The files of this package: another release may make another dataset."""
    root = Path(specs_data.__file__).parent
    for path in sorted(root.rglob("*.py")):
        yield _look(str(path))


def _row_stamps(run: Run) -> list[Stamp] | None:
    """The files that hold the rows of problems and evaluation sets; None where something else holds them."""
    found: list[Stamp] = []
    for name in (*(source.name for source in sources_of(run.recipe)), *run.recipe.exclude):
        files = source_files(name)
        if files is None:
            return None
        found += map(_read, files)
    return found


def _left(out: Path) -> list[str]:
    """The files of a finished run."""
    dataset = (str(file) for file in sorted((out / "dataset").rglob("*")) if file.is_file())
    return [*(str(out / name) for name in ("manifest.json", "recipe.toml", "dropped.jsonl", FATES, SHARD)), *dataset]


def _read(file: Path) -> Stamp:
    stamp = _look(str(file))
    if not 0 <= stamp.size <= _READ_AT_MOST:
        return stamp
    return msgspec.structs.replace(stamp, sha256=sha256_of(file))


def _look(path: str) -> Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116 - there may be a hundred thousand
    except (OSError, ValueError):
        return Stamp(path)
    return Stamp(path, found.st_size, found.st_mtime_ns)


def _is_same(stamp: Stamp) -> bool:
    return _look(stamp.path) == stamp
