"""Files: rows of JSONL and Parquet, streamed, tables in TOML, and writing in one step."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tomllib
from array import array
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from specs_data.errors import FileRefused, UserError, first_line, unknown_name

if TYPE_CHECKING:
    from polars import DataFrame

SUFFIXES = (".jsonl", ".parquet")
_decode = msgspec.json.Decoder().decode
FIRST_ROWS = 100  # among which every column that is needed must occur
_BATCH = 64  # rows that are read together, and their bytes: a row may have hundreds of pictures
_BATCH_BYTES = 32_000_000
# A FIFO would block, a link could be put in the file's place after it was looked at.
_UNTRUSTED = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def sha256_of(file: Path) -> str:
    """The sha256 hex digest of a file's bytes. Raises OSError."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_rows(file: Path, unread: Collection[str] = ()) -> Iterator[dict[str, Any] | str]:
    """The rows of `file`; a string stands for a row that cannot be read, and says why. The columns
    `unread` of a Parquet file are left out.

    Raises UserError if the file is of another kind or, as a whole, not readable.
    """
    refuse_irregular(file)
    if file.suffix == ".parquet":
        return _parquet_rows(file, unread)
    if file.suffix == ".jsonl":
        return _jsonl_rows(file)
    raise UserError(f"{file} should be a .jsonl or .parquet file")


class RowsByNumber:
    """The rows of a file, each to be had by its number. Of a row in lines eight bytes are kept, of others none.
    Raises UserError as read_rows does."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._places = array("Q")  # of lines

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return self._file.stat().st_size

    def scan(self, columns: Collection[str]) -> Iterator[dict[str, Any] | str]:
        """All rows in order, with these of their columns at least: once, and before any is picked."""
        if self._file.suffix != ".jsonl":
            with _open_parquet(self._file) as table:
                there = [name for name in table.schema_arrow.names if name in columns]
                rows = _parquet_rows(self._file, {*table.schema_arrow.names} - {*there})
                yield from rows if there else repeat({}, table.metadata.num_rows)
            return
        place = 0
        with self._file.open("rb") as lines:
            for line in lines:
                if not line.isspace():
                    self._places.append(place)
                    yield _decoded(line) if columns else {}
                place += len(line)

    def pick(self, numbers: Sequence[int]) -> Iterator[dict[str, Any] | str]:
        """The rows with these numbers, which ascend."""
        if self._file.suffix != ".jsonl":
            yield from _picked(self._file, numbers)
            return
        with self._file.open("rb") as lines:
            for number in numbers:
                lines.seek(self._places[number])
                yield _decoded(lines.readline())


def columns_of(rows: Iterable[dict[str, Any] | str]) -> list[str]:
    """Every column that one of `rows` has. Rows of JSONL differ; one of Parquet has them all."""
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def response_rows(file: Path, needed: Sequence[str]) -> Iterator[dict[str, Any] | str]:
    """The rows of a file of responses, as read_rows has them. Raises UserError if there is no such file,
    or none of its first rows has one of the columns that are `needed`."""
    if file.suffix not in SUFFIXES or not file.is_file():
        raise UserError(f"there are no responses at {file}: it should be a .jsonl or .parquet file")
    rows = read_rows(file)
    first = list(islice(rows, FIRST_ROWS))
    columns = columns_of(first)
    for name in needed:
        if columns and name not in columns:
            raise UserError(f"{file} has no column {name!r}; it has {', '.join(columns)}")
    return chain(first, rows)


def write_whole(file: Path, content: bytes) -> None:
    """Write `file` in one step: a reader sees the old content or the new, and so does who comes after a crash."""
    with whole_file(file) as target:
        target.write(content)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """An error in this block that names no file is one of `place`: a disk that is full does not say which it is."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # polars' have words alone
            raise OSError(errno.EIO, str(error), str(place)) from None
        if error.filename is None:
            error.filename = str(place)
        raise


@contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """A file to write to, that takes the place of `file` in one step when the block ends; after an error there is
    none of it. Of several processes one comes after the other."""
    part = file.with_name(f"{file.name}.part")
    with _turn(part):
        try:
            with writing(file), part.open("wb") as target:
                yield target
            put_in_place(part, file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_frame(frame: DataFrame, file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a polars frame as Parquet. Raises OSError, with the file's name, where that fails."""
    from polars.exceptions import PolarsError

    try:
        with writing(file):
            frame.write_parquet(file, metadata=metadata)
    except PolarsError as error:  # some of its words for a full disk
        raise OSError(errno.EIO, f"{os.strerror(errno.EIO)} ({first_line(error)})", str(file)) from None


def put_in_place(part: Path, place: Path) -> None:
    """Give `part`, a finished file or folder, the name `place`, in place of a file or folder that has it. What stands
    under that name is whole at any moment, and after a power failure: all of it is on the disk before it is named."""
    with writing(place):
        for file in [part, *part.rglob("*")]:
            _sync(file)
        if part.is_dir() and place.is_dir():  # no folder takes the place of another in one step
            old = place.with_name(f"{place.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            place.rename(old)
            part.rename(place)
            shutil.rmtree(old, ignore_errors=True)
        else:
            part.replace(place)
        _sync(place.parent)


@contextmanager
def staged(place: Path) -> Iterator[Path]:
    """An empty folder, whose files go into the folder `place` when the block ends: the deepest first, then in the order
    in which they were written, each in one step. Where there is no `place` yet it comes to be whole. After an error
    nothing of it is there."""
    fresh = not place.is_dir()
    if fresh and place.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
    part = place.with_name(f".{place.name}.part") if fresh else place / ".part"
    part.mkdir(parents=True, exist_ok=True)
    with _locked(part, busy=f"another process is writing {place}: let it end, or write elsewhere"):
        try:
            with writing(place):
                for left in part.iterdir():  # by one that was killed
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
                yield part
            if fresh:
                put_in_place(part, place)
            else:
                _put_all(part, place)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _turn(part: Path) -> Iterator[None]:
    """In this block no other process writes the file `part`."""
    while True:
        with _locked(part, flags=os.O_CREAT) as descriptor:  # whoever has it may give it its name at any moment
            if descriptor is None or _is_at(part, descriptor):  # or whoever had it has given it its name
                yield
                return


@contextmanager
def _locked(place: Path, busy: str = "", flags: int = 0) -> Iterator[int | None]:
    """A descriptor of the file or folder at `place`, locked; None where there are no such locks. One that another has
    is waited for, or refused with a UserError that says `busy`."""
    try:
        import fcntl
    except ImportError:  # on Windows
        yield None
        return
    descriptor = os.open(place, os.O_RDONLY | flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise UserError(busy) from None
        except OSError:
            pass  # a file system that knows none
        yield descriptor
    finally:
        os.close(descriptor)


def _is_at(place: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(place.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _put_all(part: Path, place: Path) -> None:
    files = [file for file in part.rglob("*") if file.is_file()]
    # What says that all is there comes last, whatever the clock said.
    for file in sorted(
        files, key=lambda file: (-len(file.parts), file.name == "manifest.json", file.stat().st_mtime_ns)
    ):
        there = place / file.relative_to(part)
        there.parent.mkdir(parents=True, exist_ok=True)
        put_in_place(file, there)


def _sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, onto the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # how Windows says that a folder cannot be opened
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)


def shipped(package: str) -> tuple[str, ...]:
    """The names of the TOML files that come with this package, without their suffix."""
    return tuple(sorted(file.name[:-5] for file in resources.files(package).iterdir() if file.name.endswith(".toml")))


def toml_called(name: str, kind: str, package: str) -> Path:
    """The TOML file `name`, or the one of a `kind` that comes with `package` under this name. Raises UserError."""
    if name.endswith(".toml"):
        return Path(name)
    if name not in shipped(package):
        raise unknown_name(kind, name, shipped(package), "a path to a .toml file names one of your own")
    return Path(str(resources.files(package))) / f"{name}.toml"


def read_toml(file: Path, called: str) -> dict[str, Any]:
    """What a TOML file holds. Raises UserError, in which it is `called` so."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
    except OSError as error:
        raise UserError(f"cannot read {called} {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{called} {file} is not valid TOML: {error}") from None


def read_inside(folder: Path, name: str, most_bytes: int) -> bytes:
    """The bytes of a file that data name: `name` is relative to `folder`, and leads, with all links followed, to a
    regular file inside of it, of at most `most_bytes`. Nothing else is read, nothing is waited for.

    Raises FileRefused; its reason is "not found", "outside", "not a file", "too large" or "not readable", and its
    detail goes on from "which".
    """
    try:
        place, home = os.path.realpath(folder / name, strict=True), os.path.realpath(folder)
        if os.path.commonpath((place, home)) != home:
            raise FileRefused("outside", f"lies outside of {folder}")
        with open(place, "rb", opener=lambda path, _: os.open(path, _UNTRUSTED)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileRefused("not a file", "is no regular file")
            content = file.read(status.st_size + 1) if status.st_size <= most_bytes else None
            if content is not None and len(content) > status.st_size:
                # One that grows, or one of the system's that claims to be empty, has no more than that either.
                content += file.read(most_bytes + 1 - len(content))
    except ValueError:  # a NUL in it
        raise FileRefused("not found", "no file can be called") from None
    except (FileNotFoundError, NotADirectoryError):
        raise FileRefused("not found", "cannot be found") from None
    except IsADirectoryError:
        raise FileRefused("not a file", "is a folder") from None
    except OSError as error:  # a socket cannot be opened, a ring of links leads nowhere
        raise FileRefused("not readable", f"cannot be read: {error.strerror}") from None
    if content is None or len(content) > most_bytes:
        raise FileRefused("too large", f"has more than {most_bytes:,} bytes")
    return content


def is_plain(file: Path, folder: Path) -> bool:
    """Whether it is a regular file of a folder, and neither hidden there nor in a hidden folder: editors, file systems
    and downloads keep older copies in such places."""
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def runs_in(folder: Path) -> list[Path]:
    """The run that `folder` is, and the runs that it holds, down to where the demo puts its own: each has a list of
    what it left out."""
    found = (sorted(folder.glob(f"{inside}dropped.jsonl")) for inside in ("", "*/", "*/*/"))
    return [file.parent for file in chain.from_iterable(found)]


def count_rows(file: Path) -> int:
    """How many rows `file` has. Raises UserError as read_rows does."""
    refuse_irregular(file)
    if file.suffix == ".parquet":
        with _open_parquet(file) as table:
            return int(table.metadata.num_rows)
    with file.open("rb") as lines:
        return sum(not line.isspace() for line in lines)


def refuse_irregular(file: Path) -> None:
    """Raise UserError for a FIFO, which would block, and for a device, which may never end."""
    if file.exists() and not file.is_file():
        raise UserError(f"{file} is no regular file")


def _jsonl_rows(file: Path) -> Iterator[dict[str, Any] | str]:
    with file.open("rb") as lines:
        yield from (_decoded(line) for line in lines if not line.isspace())


def _decoded(line: bytes) -> dict[str, Any] | str:
    try:
        row = _decode(line.removeprefix(BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "not JSON"
    return row if isinstance(row, dict) else "not a JSON object"


def _parquet_rows(file: Path, unread: Collection[str]) -> Iterator[dict[str, Any] | str]:
    with _open_parquet(file) as table:
        for batch in _batches(file, table, [name for name in table.schema_arrow.names if name not in unread]):
            yield from _rows_of(batch)


def _picked(file: Path, numbers: Sequence[int]) -> Iterator[dict[str, Any] | str]:
    """The rows of a Parquet file with these numbers: of its groups only those that have some of them are read."""
    wanted = deque(numbers)
    with _open_parquet(file) as table:
        end = 0
        for group in range(table.num_row_groups):
            start, end = end, end + table.metadata.row_group(group).num_rows
            if not wanted or wanted[0] >= end:
                continue
            for batch in _batches(file, table, table.schema_arrow.names, [group]):
                while wanted and wanted[0] < min(start + len(batch), end):
                    yield from _rows_of(batch.slice(wanted.popleft() - start, 1))
                start += len(batch)
                if not wanted or wanted[0] >= end:
                    break


def _rows_of(batch: Any) -> Iterator[dict[str, Any] | str]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        yield from (_row(batch.slice(number, 1)) for number in range(len(batch)))


def _row(batch: Any) -> dict[str, Any] | str:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
    except UnicodeDecodeError:
        return "not UTF-8"
    return row


def _batches(file: Path, table: Any, columns: list[str], groups: list[int] | None = None) -> Iterator[Any]:
    groups = list(range(table.num_row_groups)) if groups is None else groups
    try:
        yield from table.iter_batches(batch_size=_batch_size(table, groups), columns=columns, row_groups=groups)
    except (OSError, ValueError) as error:  # both are pyarrow's words for damage
        raise _unreadable(file, error) from None


def _batch_size(table: Any, groups: Iterable[int]) -> int:
    """How many rows are read together, as large as they are on average in the one of these groups where they are
    largest."""
    read = map(table.metadata.row_group, groups)
    largest = max((group.total_byte_size // max(1, group.num_rows) for group in read), default=0)
    return max(1, min(_BATCH, _BATCH_BYTES // max(1, largest)))


def _open_parquet(file: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        # Read bit by bit: by default a whole row group waits in memory.
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} is not a readable Parquet file: {first_line(error)}")
