"""What stands in a store's file: its tables, their checksums, and how a file of an older release becomes one of this.

Every record of a store has a checksum beside it that includes its key and its table. A file is taken as sound without a
look at each record where it is, byte for byte, what the last one to use it left: that is noted beside it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec

from specs_data.errors import UserError
from specs_data.files import write_whole
from specs_data.inert import one_line
from specs_data.rollouts.salvage import checksum, paid_key

Stage = Literal["samples", "judgements", "verdicts", "pairs"]
STAGES: tuple[Stage, ...] = ("samples", "judgements", "verdicts", "pairs")
VERSION = 2  # 1 kept records in the trees of their keys, which took up to seven times their text, and no checksums
IN_ORDER = "in order"  # the trait of a store that was begun before problems could be shuffled
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS settings (id INTEGER PRIMARY KEY, stage TEXT, digest BLOB UNIQUE, record BLOB, "
    "sum INTEGER)",
    "CREATE TABLE IF NOT EXISTS images (id INTEGER PRIMARY KEY, digest BLOB UNIQUE, data BLOB)",
    "CREATE TABLE IF NOT EXISTS problems (id INTEGER PRIMARY KEY, digest BLOB UNIQUE, record BLOB, sum INTEGER)",
    # What the numbers of settings and problems stand for, once more: or a record that is lost would take with it all
    # that goes by its number.
    "CREATE TABLE IF NOT EXISTS numbers (kind TEXT, id INTEGER, digest BLOB, sum INTEGER)",
    # The problems of the run at hand, in the order of their source.
    "CREATE TABLE IF NOT EXISTS listing (position INTEGER PRIMARY KEY, problem INTEGER, name TEXT UNIQUE)",
    "CREATE TABLE IF NOT EXISTS dropped (stage TEXT, position INTEGER, reason TEXT, detail TEXT)",
    "CREATE TABLE IF NOT EXISTS undecided (stage TEXT, problem INTEGER, idx INTEGER, reason TEXT)",
    "CREATE TABLE IF NOT EXISTS seconds (stage TEXT PRIMARY KEY, spent REAL)",
    "CREATE TABLE IF NOT EXISTS payments (stage TEXT, model TEXT, served TEXT, prompt_tokens INTEGER, "
    "completion_tokens INTEGER, batch INTEGER, dollars REAL, sum INTEGER)",
    # What is to be known of how it was begun.
    "CREATE TABLE IF NOT EXISTS traits (name TEXT PRIMARY KEY)",
    # The limits under which prompts were refused, by the settings of their samples.
    "CREATE TABLE IF NOT EXISTS limits (settings INTEGER PRIMARY KEY, record BLOB)",
    *(
        f"CREATE TABLE IF NOT EXISTS {stage} (settings INTEGER, problem INTEGER, idx INTEGER, reason TEXT, "
        "record BLOB, sum INTEGER)"
        for stage in STAGES
    ),
    *(f"CREATE UNIQUE INDEX IF NOT EXISTS {stage}_key ON {stage} (settings, problem, idx)" for stage in STAGES),
)
SUMMED = ("settings", "problems", "numbers", "payments", *STAGES)  # the tables with checksums

PUT = {stage: f"INSERT OR IGNORE INTO {stage} VALUES (?, ?, ?, ?, ?, ?)" for stage in STAGES}
NUMBER = "INSERT INTO numbers VALUES (?, ?, ?, ?)"

encode = msgspec.json.Encoder(order="deterministic").encode


def digest(value: Any) -> bytes:
    """16 bytes that stand for `value` (anything msgspec can encode), the same on every machine."""
    return hash_of(encode(value))


def hash_of(data: bytes) -> bytes:
    """16 bytes that stand for `data`."""
    return hashlib.blake2b(data, digest_size=16).digest()


class Damaged(Exception):
    """What is found to be damaged."""


def is_damage(error: Exception) -> bool:
    """Is the file not what was written? SQLite's other errors are of a disk that is full, a file that is locked."""
    exact = isinstance(error, Damaged) or type(error) is sqlite3.DatabaseError
    return exact or "Could not decode" in str(error)


def is_busy(error: Exception) -> bool:
    """Has another process the file?"""
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def is_current(db: sqlite3.Connection) -> bool:
    """Is the file of this version?"""
    return int(db.execute("PRAGMA user_version").fetchone()[0]) == VERSION


def is_writable(path: Path) -> bool:
    """May this process write the file, and others beside it?"""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return os.access(path.parent, os.W_OK)


def numbered(kind: str, number: int, key: bytes) -> tuple[str, int, bytes, int]:
    """The row that says once more what a number of settings or of a problem stands for."""
    return kind, number, key, checksum("numbers", (kind, number, key))


def check_structure(db: sqlite3.Connection, tables: Sequence[str]) -> None:
    """SQLite's own look at its trees; pictures, most of the bytes, are looked at when they are read. Raises Damaged."""
    for table in tables:
        said = db.execute(f"PRAGMA integrity_check({table})").fetchone()[0]
        if said != "ok":
            raise Damaged(one_line(said, 100))


def check_sums(db: sqlite3.Connection) -> None:
    """Look whether every record is what was written. Raises Damaged."""
    for table in SUMMED:
        for *row, held in db.execute(f"SELECT * FROM {table}"):
            if sum_of(table, row) != held:
                raise Damaged(f"a record of {table} is not what was written")


def sum_of(table: str, row: Sequence[Any]) -> int:
    """The checksum that stands beside a row of `table`."""
    match table:
        case "numbers":
            return checksum(table, row)
        case "payments":
            return checksum(table, paid_key(row))
        case "problems" if row[-1] is None:  # lost, and not asked for since
            return checksum(table, row[:-1])
        case _:
            return checksum(table, row[:-1], row[-1])


def is_in_order(db: sqlite3.Connection) -> bool:
    """Did a release begin this store that asked about problems in the order of their source alone?"""
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "traits" in tables:
        return db.execute("SELECT 1 FROM traits WHERE name = ?", (IN_ORDER,)).fetchone() is not None
    return "listing" in tables and db.execute("SELECT 1 FROM listing LIMIT 1").fetchone() is not None


def is_old(db: sqlite3.Connection) -> bool:
    """Is this a store of version 1?"""
    columns = [row[1] for row in db.execute("PRAGMA table_info(samples)")]
    return bool(columns) and "sum" not in columns


def migrate(db: sqlite3.Connection) -> None:
    """Bring a store of version 1 to this one, within the transaction that is open: the same records under the same
    keys. Raises Damaged where one is plainly not what was written: that version had no checksums."""
    kept = ("settings", "problems", "payments", *STAGES)
    there = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in kept:
        if table in there:
            db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    for statement in SCHEMA:
        db.execute(statement)
    for table in kept:
        if table in there:
            rows = ((*look_at(table, row), sum_of(table, row)) for row in db.execute(f"SELECT * FROM old_{table}"))
            first = next(rows, None)
            if first is not None:
                put = f"INSERT INTO {table} VALUES ({', '.join('?' * len(first))})"
                db.executemany(put, chain([first], rows))
            db.execute(f"DROP TABLE old_{table}")
    for kind in ("settings", "problems"):
        numbers = db.execute(f"SELECT id, digest FROM {kind}").fetchall()
        db.executemany(NUMBER, [numbered(kind, *row) for row in numbers])


def look_at(table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of version 1, whose record must be JSON, and have the digest that it goes by. Raises Damaged."""
    try:
        content = None if table == "payments" else msgspec.json.decode(row[-1])
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
        raise Damaged(f"a record of {table} is not what was written") from None
    known = {"settings": lambda: digest([row[1], content]), "problems": lambda: hash_of(row[-1])}.get(table)
    if known is not None and known() != row[-2]:
        raise Damaged(f"a record of {table} is not what was written")
    return row


# A file as its last user left it

# Bytes up to which a file is looked at as a whole. In a larger one most are pictures, which are checked when they are
# read.
_WHOLE = 8 << 30


class _Left(msgspec.Struct, frozen=True):
    """The bytes of a whole file, as they were when it was closed."""

    size: int
    crc32: int


def note_as_left(path: Path) -> None:
    """Note beside the closed store at `path` what it is like; no note does no harm."""
    with suppress(OSError):
        if path.stat().st_size <= _WHOLE:
            write_whole(_note(path), msgspec.json.encode(_left(path)))


def is_as_left(path: Path) -> bool:
    """Is the store at `path`, which nobody has open, byte for byte what its last user left?"""
    try:
        noted = msgspec.json.decode(_note(path).read_bytes(), type=_Left)
        log = Path(f"{path}-wal")
        logged = log.exists() and log.stat().st_size > 0
        return not logged and path.stat().st_size == noted.size and _left(path) == noted
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):  # not closed well, or no note that can be read
        return False


def _note(path: Path) -> Path:
    return Path(f"{path}.sum")


def _left(path: Path) -> _Left:
    size = found = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found = zlib.crc32(piece, found)
            size += len(piece)
    return _Left(size, found)


def connect(path: Path, timeout: int, frozen: bool = False) -> sqlite3.Connection:
    """A connection to the file at `path`, made where there is none. One to a `frozen` file writes nothing, and takes
    it that nobody else does. Raises UserError."""
    try:
        if frozen:
            return sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(path, isolation_level=None, timeout=timeout)
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(f"cannot open {path}: {error}; use another folder") from None
