"""The durable store of a run: one append-only log per stage, images once, in one SQLite file.

Each stage's log is keyed by (settings, problem, index). `settings` stands for everything that
determines that stage's result, so a changed setting never returns an old result and never repeats
the work of a stage it does not concern. A row whose `reason` is NULL goes on to the next stage;
otherwise `reason` says why it was left out. Rows are never changed.

A commit reaches the operating system at once, so killing the process costs only what was in flight;
`sync` makes it safe against a power failure as well. A write that fails ends the store: what SQLite rolls back
then was never there, and numbers that were given out in between must not be used any more.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NewType, NoReturn, Self, TypeVar

import msgspec

from specs_data.errors import UserError
from specs_data.records import Paid, Payment, Problem

Stage = Literal["samples", "judgements", "verdicts", "pairs"]
T = TypeVar("T")
# Three kinds of whole numbers, which are easily taken for each other: a problem's place in its source, its number
# in the store, and which of its responses is meant.
Position = NewType("Position", int)
Number = NewType("Number", int)
Index = NewType("Index", int)

STAGES: tuple[Stage, ...] = ("samples", "judgements", "verdicts", "pairs")
_VERSION = 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS settings (id INTEGER PRIMARY KEY, stage TEXT, digest BLOB UNIQUE, record BLOB)",
    "CREATE TABLE IF NOT EXISTS images (id INTEGER PRIMARY KEY, digest BLOB UNIQUE, data BLOB)",
    "CREATE TABLE IF NOT EXISTS problems (id INTEGER PRIMARY KEY, digest BLOB UNIQUE, record BLOB)",
    # The problems of the run at hand, in the order of their source.
    "CREATE TABLE IF NOT EXISTS listing (position INTEGER PRIMARY KEY, problem INTEGER, name TEXT UNIQUE)",
    "CREATE TABLE IF NOT EXISTS dropped (stage TEXT, position INTEGER, reason TEXT, detail TEXT)",
    "CREATE TABLE IF NOT EXISTS undecided (stage TEXT, problem INTEGER, idx INTEGER, reason TEXT)",
    "CREATE TABLE IF NOT EXISTS seconds (stage TEXT PRIMARY KEY, spent REAL)",
    "CREATE TABLE IF NOT EXISTS payments (stage TEXT, model TEXT, served TEXT, prompt_tokens INTEGER, "
    "completion_tokens INTEGER, batch INTEGER, dollars REAL)",
    *(
        f"CREATE TABLE IF NOT EXISTS {stage} (settings INTEGER, problem INTEGER, idx INTEGER, reason TEXT, "
        "record BLOB, PRIMARY KEY (settings, problem, idx)) WITHOUT ROWID"
        for stage in STAGES
    ),
)

_GET = {stage: f"SELECT reason, record FROM {stage} WHERE settings = ? AND problem = ? AND idx = ?" for stage in STAGES}
_PUT = {stage: f"INSERT OR IGNORE INTO {stage} VALUES (?, ?, ?, ?, ?)" for stage in STAGES}

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_problem = msgspec.json.Decoder(Problem).decode


def digest(value: Any) -> bytes:
    """16 bytes that stand for `value` (anything msgspec can encode), the same on every machine."""
    return _hash(_encode(value))


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


class Store:
    """The open store of one run. Only one process can hold it; a second one gets a UserError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._db = _connect(path, timeout=0)
        try:
            self._db.execute("PRAGMA page_size = 8192")
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA cache_size = -32000")
            self._db.execute("BEGIN IMMEDIATE")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise UserError(f"{path} was written by another version of specs-data; use another --out")
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise UserError(f"cannot open {path}: {error}; is another build running there?") from None
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise UserError(f"{path} is not a store of specs-data: {error}") from None
        except UserError:
            self._db.close()
            raise
        self._execute = self._db.execute
        self.appended: Counter[Stage] = Counter()  # rows since it was opened
        self._unwritten: dict[Stage, list[tuple[Any, ...]]] = {stage: [] for stage in STAGES}
        self._buffered = False
        self._failure: UserError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit(self) -> None:
        """Hand all that was appended to the operating system: it survives the death of this process.

        Raises UserError where it cannot be written, as every later call does that would write."""
        if self._failure is not None:
            raise self._failure
        self._write()
        if self._db.in_transaction:
            try:
                self._execute("COMMIT")
            except sqlite3.Error as error:
                self._fail(error)

    def sync(self) -> None:
        """Force what was committed onto the disk. May be called from another thread."""
        try:
            descriptor = os.open(self._wal, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Commit and close; a store that failed is only closed."""
        if self._failure is None:
            self.commit()
        with suppress(sqlite3.Error):  # a query that an error cut short still reads
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    # Settings

    def settings(self, stage: str, record: Mapping[str, Any]) -> int:
        """The number that stands for these settings of a stage."""
        key = digest([stage, record])
        self._append("INSERT OR IGNORE INTO settings VALUES (NULL, ?, ?, ?)", (stage, key, _encode(record)))
        row = self._execute("SELECT id FROM settings WHERE digest = ?", (key,)).fetchone()
        return int(row[0])

    def settings_digest(self, number: int) -> bytes:
        """The digest of the settings with this number, which is the same in every store."""
        row: tuple[bytes] = self._execute("SELECT digest FROM settings WHERE id = ?", (number,)).fetchone()
        return row[0]

    # Problems and images

    def start_listing(self) -> None:
        """Forget which problems the last run had, and in which order; their data stay."""
        self._append("DELETE FROM listing", ())
        self._append("DELETE FROM dropped", ())
        self._append("DELETE FROM undecided", ())

    def list_problems(self, problems: Sequence[tuple[Position, Problem]]) -> dict[Position, tuple[Number, bool]]:
        """Give each of these (position, problem), in ascending order, its place in the run; by position
        its number and whether the store did not know it. One whose id was there before has no place."""
        if not problems:
            return {}
        last: int = self._execute("SELECT coalesce(max(id), 0) FROM problems").fetchone()[0]
        encoded = [(position, problem.id, _encode(problem)) for position, problem in problems]
        rows = [(position, name, _hash(record), record) for position, name, record in encoded]
        self._append_many("INSERT OR IGNORE INTO problems VALUES (NULL, ?, ?)", [row[2:] for row in rows])
        self._append_many(
            "INSERT OR IGNORE INTO listing SELECT ?, id, ? FROM problems WHERE digest = ?", [row[:3] for row in rows]
        )
        found = self._execute(
            "SELECT position, problem FROM listing WHERE position BETWEEN ? AND ?", (rows[0][0], rows[-1][0])
        )
        return {position: (number, number > last) for position, number in found}

    def know(self, problems: Sequence[Problem]) -> list[Number]:
        """The numbers of these problems, which get no place in the run at hand."""
        rows = [(_hash(record), record) for record in map(_encode, problems)]
        self._append_many("INSERT OR IGNORE INTO problems VALUES (NULL, ?, ?)", rows)
        found = (self._execute("SELECT id FROM problems WHERE digest = ?", (key,)).fetchone() for key, _ in rows)
        return [Number(number) for (number,) in found]

    def problem(self, number: Number) -> Problem:
        """The problem with this number."""
        row = self._execute("SELECT record FROM problems WHERE id = ?", (number,)).fetchone()
        return _decode_problem(row[0])

    def named(self, name: str) -> Number | None:
        """The number of the problem with this id in the run."""
        row = self._execute("SELECT problem FROM listing WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def drop(self, stage: str, position: int, reason: str, detail: str = "") -> None:
        """Record that a row of the run's input was left out."""
        self._append("INSERT INTO dropped VALUES (?, ?, ?, ?)", (stage, position, reason, detail))

    def put_image(self, sha256: str, data: bytes) -> None:
        """Keep an image file's bytes, once."""
        self._append("INSERT OR IGNORE INTO images VALUES (NULL, ?, ?)", (bytes.fromhex(sha256), data))

    def image(self, sha256: str) -> bytes:
        """The bytes of the image file with this digest."""
        row = self._execute("SELECT data FROM images WHERE digest = ?", (bytes.fromhex(sha256),)).fetchone()
        data: bytes = row[0]
        return data

    # The stages' logs

    def get(self, stage: Stage, settings: int, problem: Number, index: Index) -> tuple[str | None, bytes] | None:
        """(reason, record) of one row, or None if that work is not done yet."""
        self._write()
        row: tuple[str | None, bytes] | None = self._execute(_GET[stage], (settings, problem, index)).fetchone()
        return row

    def put(self, stage: Stage, settings: int, problem: Number, index: Index, reason: str | None, record: Any) -> None:
        """Append one row. What is there already stays."""
        self.appended[stage] += 1
        self._unwritten[stage].append((settings, problem, index, reason, _encode(record)))
        self._buffered = True

    def select(self, query: str, parameters: Mapping[str, Any] | tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a read-only query, streamed."""
        self._write()
        return iter(self._db.execute(query, parameters))

    def count(self, stage: Stage) -> int:
        """How many rows a stage has on record, of all runs."""
        return int(next(self.select(f"SELECT count(*) FROM {stage}"))[0])

    def leave_undecided(self, stage: Stage, problem: Number, index: Index, reason: str) -> None:
        """Record that a service gave no verdict in this run; the next run asks again."""
        self._append("INSERT INTO undecided VALUES (?, ?, ?, ?)", (stage, problem, index, reason))

    def has_undecided(self) -> bool:
        """Whether the next run has something to ask again."""
        return self._execute("SELECT 1 FROM undecided LIMIT 1").fetchone() is not None

    # Time

    def spend(self, stage: str, seconds: float) -> None:
        """Add to the time a stage has taken, over all runs."""
        self._append(
            "INSERT INTO seconds VALUES (?, ?) ON CONFLICT (stage) DO UPDATE SET spent = spent + excluded.spent",
            (stage, seconds),
        )

    def seconds(self) -> dict[str, float]:
        """The time each stage has taken, over all runs."""
        return dict(self._db.execute("SELECT stage, spent FROM seconds ORDER BY stage"))

    # Money

    def pay(self, payment: Payment) -> None:
        """Put a payment on record, at once: money that is spent stays spent if this process dies."""
        self._append("INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(payment))
        self.commit()

    def paid(self) -> dict[str, Paid]:
        """What each stage has paid judging services, over all runs."""
        rows = self._db.execute(
            "SELECT stage, sum(prompt_tokens), sum(completion_tokens), total(dollars), count(*) = count(dollars) "
            "FROM payments GROUP BY stage ORDER BY stage"
        )
        return {
            stage: Paid(prompt, completion, dollars, bool(priced))
            for stage, prompt, completion, dollars, priced in rows
        }

    def _write(self) -> None:
        """Hand buffered rows to SQLite: many at once cost a fraction of as many one by one."""
        if not self._buffered:
            return
        self._buffered = False
        for stage, rows in self._unwritten.items():
            if rows:
                self._append_many(_PUT[stage], rows)
                rows.clear()

    def _append(self, statement: str, values: tuple[Any, ...]) -> None:
        self._append_many(statement, [values])

    def _append_many(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            if not self._db.in_transaction:
                self._execute("BEGIN")
            self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            self._fail(error)

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        """Nothing is written any more, and whoever tries learns why."""
        self._failure = UserError(
            f"cannot write {self._path}: {error}; what was committed is kept: make room, or mend the disk, and run "
            "the same command again"
        )
        raise self._failure from error


class Answers:
    """What judging services answered, by content, so that nothing is paid for twice; several runs
    may share one. It also keeps the services' open batch jobs, which outlive the process."""

    def __init__(self, path: Path) -> None:
        self._db = _connect(path, timeout=30)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (digest BLOB PRIMARY KEY, record BLOB) WITHOUT ROWID")
            self._db.execute("CREATE TABLE IF NOT EXISTS jobs (name TEXT PRIMARY KEY, record BLOB)")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise UserError(f"cannot open {path}: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, key: bytes, kind: type[T]) -> T | None:
        """The answer to the question with this digest."""
        row = self._db.execute("SELECT record FROM answers WHERE digest = ?", (key,)).fetchone()
        return msgspec.json.decode(row[0], type=kind) if row else None

    def put(self, key: bytes, record: Any) -> None:
        """Keep an answer, durably."""
        self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, _encode(record)))

    def jobs(self, kind: type[T]) -> list[T]:
        """Every batch job that is on record, the oldest first."""
        rows = self._db.execute("SELECT record FROM jobs ORDER BY rowid")
        return [msgspec.json.decode(row[0], type=kind) for row in rows]

    def put_job(self, name: str, record: Any) -> None:
        """Keep a batch job under its name, in place of what was there."""
        self._db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", (name, _encode(record)))


def _connect(path: Path, timeout: int) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(path, isolation_level=None, timeout=timeout)
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(f"cannot open {path}: {error}; use another folder") from None
