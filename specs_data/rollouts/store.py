"""The durable store of a run: one append-only log per stage, images once, in one SQLite file.

Each stage's log is keyed by (settings, problem, index). `settings` stands for everything that
determines that stage's result, so a changed setting never returns an old result and never repeats
the work of a stage it does not concern. A row whose `reason` is NULL goes on to the next stage;
otherwise `reason` says why it was left out. Rows are never changed; only refusals under a limit that is another now
are forgotten.

A commit reaches the operating system at once, so killing the process costs only what was in flight;
`sync` makes it safe against a power failure as well. A write that fails ends the store: what SQLite rolls back
then was never there, and numbers that were given out in between must not be used any more.

Every record has a checksum with its key in it. A store is checked when it is opened; of a damaged one every sound
record is kept, and whoever opened it is told what is lost: the next one finds it mended.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NewType, NoReturn, Self, TypeVar, cast
from weakref import WeakSet

import msgspec

from specs_data.errors import UserError
from specs_data.files import put_in_place
from specs_data.inert import one_line
from specs_data.records import Paid, Payment, Problem
from specs_data.rollouts.salvage import Salvaged, checksum, paid_key, salvage

Stage = Literal["samples", "judgements", "verdicts", "pairs"]
T = TypeVar("T")
_REPAIRED = ".repaired"  # the suffix of a repaired store until it takes the damaged one's place
# Three kinds of whole numbers, which are easily taken for each other: a problem's place in its source, its number
# in the store, and which of its responses is meant.
Position = NewType("Position", int)
Number = NewType("Number", int)
Index = NewType("Index", int)

STAGES: tuple[Stage, ...] = ("samples", "judgements", "verdicts", "pairs")
_VERSION = 2  # 1 kept records in the trees of their keys, which took up to seven times their text, and no checksums
_SCHEMA = (
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
    # The limits under which prompts were refused, by the settings of their samples.
    "CREATE TABLE IF NOT EXISTS limits (settings INTEGER PRIMARY KEY, record BLOB)",
    *(
        f"CREATE TABLE IF NOT EXISTS {stage} (settings INTEGER, problem INTEGER, idx INTEGER, reason TEXT, "
        "record BLOB, sum INTEGER)"
        for stage in STAGES
    ),
    *(f"CREATE UNIQUE INDEX IF NOT EXISTS {stage}_key ON {stage} (settings, problem, idx)" for stage in STAGES),
)
_RECENT = 64_000_000  # bytes of pictures in memory: those of the problems that are read ahead and under way
_SUMMED = ("settings", "problems", "numbers", "payments", *STAGES)  # the tables with checksums

_GET = {
    stage: f"SELECT reason, record, sum FROM {stage} WHERE settings = ? AND problem = ? AND idx = ?" for stage in STAGES
}
_PUT = {stage: f"INSERT OR IGNORE INTO {stage} VALUES (?, ?, ?, ?, ?, ?)" for stage in STAGES}
_NUMBER = "INSERT INTO numbers VALUES (?, ?, ?, ?)"

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
        self._failure: UserError | None = None
        finish_repair(path)
        self._db = _connect(path, timeout=0)
        try:
            self._prepare()
        except (sqlite3.DatabaseError, _Damaged) as error:
            self._db.close()
            if _is_damage(error):
                raise repaired(path, one_line(str(error), 100)) from None
            raise UserError(f"cannot open {path}: {error}; is another build running there?") from None
        except BaseException:
            self._db.close()
            raise
        self._file = path.stat().st_ino
        self._execute = self._db.execute
        self.appended: Counter[Stage] = Counter()  # rows since it was opened
        self._unwritten: dict[Stage, list[tuple[Any, ...]]] = {stage: [] for stage in STAGES}
        self._buffered = False
        self._recent: dict[str, bytes] = {}  # pictures, and their bytes together
        self._recent_bytes = 0
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def _prepare(self) -> None:
        """Lock the file, bring it to this version, and look whether it is sound."""
        execute = self._db.execute
        self._db.create_function("row_sum", 6, lambda stage, *row: checksum(stage, row[:4], row[4]))
        execute("PRAGMA page_size = 8192")
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("PRAGMA cache_size = -32000")
        execute("BEGIN IMMEDIATE")
        version = execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise UserError(f"{self._path} was written by another version of specs-data; use another --out")
        old = _is_old(self._db)
        if old:
            _check_structure(self._db, ("settings", "problems", *STAGES))
            migrate(self._db)
        for statement in _SCHEMA:
            execute(statement)
        execute(f"PRAGMA user_version = {_VERSION}")
        execute("COMMIT")
        if old:
            with suppress(sqlite3.OperationalError):  # it needs room for a copy; the old pages are used up otherwise
                execute("VACUUM")
        _check_structure(self._db, (*_SUMMED, "listing", "seconds"))
        _check_sums(self._db)

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
        """Force what was committed onto the disk. May be called from another thread. Raises UserError where that
        fails, or where the file is not there any more: what is written to it would be lost."""
        try:
            if self._path.stat().st_ino != self._file:
                raise FileNotFoundError
            descriptor = os.open(self._wal, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            if self._path.exists() and self._path.stat().st_ino == self._file:
                return  # nothing is written yet
            self._fail(OSError("it was taken away, or another put in its place, while the run wrote to it"))
        except OSError as error:
            self._fail(error)

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
        number = self._settings_of(key)
        if number is None:
            content = _encode(record)
            number = self._one("SELECT coalesce(max(id), 0) + 1 FROM settings")[0]
            row = (number, stage, key, content, checksum("settings", (number, stage, key), content))
            self._append("INSERT INTO settings VALUES (?, ?, ?, ?, ?)", row)
            self._append(_NUMBER, _numbered("settings", number, key))
        return int(number)

    def _settings_of(self, key: bytes) -> int | None:
        row = self._read("SELECT id FROM settings WHERE digest = ?", (key,))
        return int(row[0]) if row else None

    def settings_digest(self, number: int) -> bytes:
        """The digest of the settings with this number, which is the same in every store."""
        row: tuple[bytes] = self._execute("SELECT digest FROM settings WHERE id = ?", (number,)).fetchone()
        return row[0]

    def settings_of(self, stage: str) -> list[tuple[int, Any]]:
        """All settings of a stage: their numbers and their records, as JSON has them."""
        rows = self._execute("SELECT id, record FROM settings WHERE stage = ? ORDER BY id", (stage,)).fetchall()
        return [(number, msgspec.json.decode(record)) for number, record in rows]

    def move(self, stage: Stage, old: int, new: int, leaving: Sequence[str] = ()) -> None:
        """Log what is there under the `old` settings under the `new` ones, but for rows with one of these reasons."""
        left = ", ".join("?" * len(leaving))
        self._append(
            f"UPDATE OR IGNORE {stage} SET settings = ?, sum = row_sum('{stage}', ?, problem, idx, reason, record) "
            f"WHERE settings = ? AND (reason IS NULL OR reason NOT IN ({left}))",
            (new, new, old, *leaving),
        )

    def limit(self, settings: int, limits: Mapping[str, Any] | None, reasons: Sequence[str]) -> None:
        """Samples with these settings are asked for within `limits`: refusals for one of these `reasons` are forgotten
        where the limits were others, and without any in every case."""
        row = self._execute("SELECT record FROM limits WHERE settings = ?", (settings,)).fetchone()
        known = msgspec.json.decode(row[0]) if row else dict.fromkeys(limits or ())
        if limits is None or known != limits:
            marks = ", ".join("?" * len(reasons))
            self._append(f"DELETE FROM samples WHERE settings = ? AND reason IN ({marks})", (settings, *reasons))
        if limits is not None and known != limits:
            self._append("INSERT OR REPLACE INTO limits VALUES (?, ?)", (settings, _encode(limits)))

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
        last = self._last_problem()
        rows = [(position, problem.id, _encode(problem)) for position, problem in problems]
        digests = [_hash(record) for _, _, record in rows]
        self._add_problems({key: record for key, (_, _, record) in zip(digests, rows, strict=True)})
        self._append_many(
            "INSERT OR IGNORE INTO listing SELECT ?, id, ? FROM problems WHERE digest = ?",
            [(position, name, key) for (position, name, _), key in zip(rows, digests, strict=True)],
        )
        query = "SELECT position, problem FROM listing WHERE position BETWEEN ? AND ?"
        found = self.select(query, (rows[0][0], rows[-1][0]))
        return {position: (number, number > last) for position, number in found}

    def know(self, problems: Sequence[Problem]) -> list[Number]:
        """The numbers of these problems, known now if they were not, with no place in a run's list."""
        records = [_encode(problem) for problem in problems]
        digests = [*map(_hash, records)]
        known = self._add_problems(dict(zip(digests, records, strict=True)))
        return [Number(known[key]) for key in digests]

    def _last_problem(self) -> int:
        return int(self._one("SELECT coalesce(max(id), 0) FROM problems")[0])

    def _add_problems(self, records: Mapping[bytes, bytes]) -> dict[bytes, int]:
        """The numbers of problems by digest. Those that the store does not know get one, and those whose record was
        lost get it again."""
        marks = ", ".join("?" * len(records))
        query = f"SELECT digest, id, record IS NULL FROM problems WHERE digest IN ({marks})"
        known = {key: (number, lost) for key, number, lost in self.select(query, tuple(records))}
        new = [key for key in records if key not in known]
        numbered = [(number, key) for number, key in enumerate(new, self._last_problem() + 1)]
        filled = numbered + [(number, key) for key, (number, lost) in known.items() if lost]
        self._append_many(
            "INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?)",
            [(number, key, records[key], checksum("problems", (number, key), records[key])) for number, key in filled],
        )
        self._append_many(_NUMBER, [_numbered("problems", number, key) for number, key in numbered])
        return {key: number for key, (number, _) in known.items()} | {key: number for number, key in numbered}

    def problem(self, number: Number) -> Problem:
        """The problem with this number."""
        row = self._one("SELECT record FROM problems WHERE id = ?", (number,))
        return _decode_problem(row[0])

    def named(self, name: str) -> Number | None:
        """The number of the problem with this id in the run."""
        row = self._read("SELECT problem FROM listing WHERE name = ?", (name,))
        return row[0] if row else None

    def drop(self, stage: str, position: int, reason: str, detail: str = "") -> None:
        """Record that a row of the run's input was left out."""
        self._append("INSERT INTO dropped VALUES (?, ?, ?, ?)", (stage, position, reason, detail))

    def put_image(self, sha256: str, data: bytes) -> None:
        """Keep an image file's bytes, once. They stay in memory for a while: they are asked for soon."""
        self._append("INSERT OR IGNORE INTO images VALUES (NULL, ?, ?)", (bytes.fromhex(sha256), data))
        if sha256 not in self._recent:
            self._recent[sha256] = data
            self._recent_bytes += len(data)
        while self._recent_bytes > _RECENT:
            self._recent_bytes -= len(self._recent.pop(next(iter(self._recent))))

    def image(self, sha256: str) -> bytes:
        """The bytes of the image file with this digest."""
        if sha256 in self._recent:
            return self._recent[sha256]
        key = bytes.fromhex(sha256)
        row = self._read("SELECT data FROM images WHERE digest = ?", (key,))
        if row is None or hashlib.sha256(row[0]).digest() != key:
            self._fail(_Damaged("a picture is not what was written"))
        data: bytes = row[0]
        return data

    # The stages' logs

    def get(self, stage: Stage, settings: int, problem: Number, index: Index) -> tuple[str | None, bytes] | None:
        """(reason, record) of one row, or None if that work is not done yet."""
        self._write()
        key = (settings, problem, index)
        row = self._read(_GET[stage], key)
        if row is None:
            return None
        if checksum(stage, (*key, row[0]), row[1]) != row[2]:
            self._fail(_Damaged(f"a record of {stage} is not what was written"))
        return row[0], row[1]

    def put(self, stage: Stage, settings: int, problem: Number, index: Index, reason: str | None, record: Any) -> None:
        """Append one row. What is there already stays."""
        self.appended[stage] += 1
        key, content = (settings, problem, index, reason), _encode(record)
        self._unwritten[stage].append((*key, content, checksum(stage, key, content)))
        self._buffered = True

    def select(self, query: str, parameters: Mapping[str, Any] | tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a read-only query, streamed."""
        self._write()
        try:
            cursor = self._db.execute(query, parameters)
            self._cursors.add(cursor)
            for row in cursor:  # noqa: UP028 - "yield from" would close a cursor whose store is closed
                yield row
        except sqlite3.DatabaseError as error:
            self._fail(error)

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
        return dict(self.select("SELECT stage, spent FROM seconds ORDER BY stage"))

    # Money

    def pay(self, payment: Payment) -> None:
        """Put a payment on record, at once: money that is spent stays spent if this process dies."""
        paid = paid_key(msgspec.structs.astuple(payment))
        self._append("INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*paid, checksum("payments", paid)))
        self.commit()

    def paid(self) -> dict[str, Paid]:
        """What each stage has paid judging services, over all runs."""
        rows = self.select(
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

    def _read(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._execute(query, values).fetchone()
        except sqlite3.DatabaseError as error:
            self._fail(error)
        return row

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        row = self._read(query, values)
        if row is None:
            self._fail(_Damaged("a row that should be there is not"))
        return row

    def _fail(self, error: Exception) -> NoReturn:
        """Nothing is written any more, and whoever tries learns why. A store that shows to be damaged is mended."""
        if self._failure is None and _is_damage(error):
            for cursor in [*self._cursors]:  # what still reads would keep the file open, and its lock
                cursor.close()
            self._db.close()
            self._failure = repaired(self._path, one_line(str(error), 100))
        elif self._failure is None:
            self._failure = UserError(
                f"cannot write {self._path}: {error}; what was committed is kept: make room, or mend the disk, and run "
                "the same command again"
            )
        raise self._failure from error


class _Damaged(Exception):
    """What is found to be damaged."""


def _is_damage(error: Exception) -> bool:
    """Is the file not what was written? SQLite's other errors are of a disk that is full, a file that is locked."""
    exact = isinstance(error, _Damaged) or type(error) is sqlite3.DatabaseError
    return exact or "Could not decode" in str(error)


def _numbered(kind: str, number: int, key: bytes) -> tuple[str, int, bytes, int]:
    return kind, number, key, checksum("numbers", (kind, number, key))


def _check_structure(db: sqlite3.Connection, tables: Sequence[str]) -> None:
    """SQLite's own look at its trees; pictures, most of the bytes, are looked at when they are read."""
    for table in tables:
        said = db.execute(f"PRAGMA integrity_check({table})").fetchone()[0]
        if said != "ok":
            raise _Damaged(one_line(said, 100))


def _check_sums(db: sqlite3.Connection) -> None:
    for table in _SUMMED:
        for *row, held in db.execute(f"SELECT * FROM {table}"):
            if _sum(table, row) != held:
                raise _Damaged(f"a record of {table} is not what was written")


def _sum(table: str, row: Sequence[Any]) -> int:
    match table:
        case "numbers":
            return checksum(table, row)
        case "payments":
            return checksum(table, paid_key(row))
        case "problems" if row[-1] is None:  # lost, and not asked for since
            return checksum(table, row[:-1])
        case _:
            return checksum(table, row[:-1], row[-1])


def _is_old(db: sqlite3.Connection) -> bool:
    """Is this a store of version 1?"""
    columns = [row[1] for row in db.execute("PRAGMA table_info(samples)")]
    return bool(columns) and "sum" not in columns


def migrate(db: sqlite3.Connection) -> None:
    """Bring a store of version 1 to this one, within the transaction that is open: the same records under the same
    keys."""
    kept = ("settings", "problems", "payments", *STAGES)
    there = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in kept:
        if table in there:
            db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    for statement in _SCHEMA:
        db.execute(statement)
    for table in kept:
        if table in there:
            rows = ((*row, _sum(table, row)) for row in db.execute(f"SELECT * FROM old_{table}"))
            first = next(rows, None)
            if first is not None:
                put = f"INSERT INTO {table} VALUES ({', '.join('?' * len(first))})"
                db.executemany(put, chain([first], rows))
            db.execute(f"DROP TABLE old_{table}")
    for kind in ("settings", "problems"):
        numbers = db.execute(f"SELECT id, digest FROM {kind}").fetchall()
        db.executemany(_NUMBER, [_numbered(kind, *row) for row in numbers])


# Damage


def repaired(path: Path, damage: str) -> UserError:
    """Put all that is sound in the damaged store at `path` into a new one in its place, and say what is lost. The
    damaged file stays beside it."""
    sound = salvage(path, STAGES)
    if not sound:
        return UserError(f"{path} is not a store of specs-data: {damage}")
    counted = _rows_before(path)
    total = {stage: max(sound.highest.get(stage, 0), counted.get(stage, 0)) for stage in STAGES}
    fresh = Path(f"{path}.part")
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 8192")
        db.execute("BEGIN")
        for statement in _SCHEMA:
            db.execute(statement)
        kept = _fill(db, sound)
        db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute("COMMIT")
    put_in_place(fresh, Path(f"{path}{_REPAIRED}"))
    finish_repair(path)
    lost = [f"{total[stage] - kept[stage]:,} {stage}" for stage in STAGES if total[stage] > kept[stage]]
    return UserError(
        f"{path} is damaged ({damage}): {' and '.join(lost) or 'no response'} of {sum(total.values()):,} records "
        f"on record are lost, all others are kept, and the damaged file is {path.name}.damaged; run the same command "
        "again to go on: it asks for what is lost, and reads the pictures anew"
    )


def finish_repair(path: Path) -> None:
    """Put a repaired store in the place of the damaged one. It is begun anew where it was cut short: a log of the
    damaged store must not be taken for one of the repaired."""
    fresh = Path(f"{path}{_REPAIRED}")
    if not fresh.exists():
        return
    if path.exists() and path.stat().st_ino != fresh.stat().st_ino:
        path.replace(Path(f"{path}.damaged"))
    for rest in ("-wal", "-shm"):
        Path(f"{path}{rest}").unlink(missing_ok=True)
    put_in_place(fresh, path)


def _fill(db: sqlite3.Connection, sound: Salvaged) -> Counter[str]:
    """Write what is sound; how many rows of each table. What goes by the number of something unknown is left out: the
    number will be given out again."""
    digests = dict(sound.numbers)
    digests |= {("settings", row[0]): row[2] for row in sound.settings.values()}
    digests |= {("problems", row[0]): row[1] for row in sound.problems.values()}
    for (kind, number), key in digests.items():
        db.execute(_NUMBER, _numbered(kind, number, key))
        row = (
            sound.settings.get(number, (number, "", key, b""))
            if kind == "settings"
            else (sound.problems.get(number, (number, key, None)))
        )
        db.execute(f"INSERT INTO {kind} VALUES ({', '.join('?' * (len(row) + 1))})", (*row, _sum(kind, row)))
    for row in sound.payments.values():
        db.execute("INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, _sum("payments", row)))
    kept: Counter[str] = Counter()
    for stage, log in sound.logs.items():
        known = [row for row in log.values() if ("settings", row[0]) in digests and ("problems", row[1]) in digests]
        db.executemany(_PUT[cast(Stage, stage)], [(*row, _sum(stage, row)) for row in sorted(known, key=_key)])
        kept[stage] = len(known)
    return kept


def _key(row: Sequence[Any]) -> tuple[int, int, int]:
    return row[0], row[1], row[2]


def _rows_before(path: Path) -> dict[str, int]:
    """How many rows each log had, as far as the damaged file still says."""
    found: dict[str, int] = {}
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as db:
        for stage in STAGES:
            with suppress(sqlite3.Error):
                found[stage] = db.execute(f"SELECT max(rowid) FROM {stage}").fetchone()[0] or 0
            with suppress(sqlite3.Error):
                counted = db.execute(f"SELECT count(*) FROM {stage} INDEXED BY {stage}_key").fetchone()[0]
                found[stage] = max(found.get(stage, 0), counted)
    return found


class Answers:
    """What judging services answered, by content, so that nothing is paid for twice; several runs
    may share one. It also keeps the services' open batch jobs, which outlive the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
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
        try:
            row = self._db.execute("SELECT record FROM answers WHERE digest = ?", (key,)).fetchone()
            return msgspec.json.decode(row[0], type=kind) if row else None
        except (sqlite3.Error, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self._path} is damaged ({error}): take it away, and what judging services answered is asked again"
            ) from error

    def put(self, key: bytes, record: Any) -> None:
        """Keep an answer, durably."""
        self._write("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, _encode(record)))

    def jobs(self, kind: type[T]) -> list[T]:
        """Every batch job that is on record, the oldest first."""
        rows = self._db.execute("SELECT record FROM jobs ORDER BY rowid")
        return [msgspec.json.decode(row[0], type=kind) for row in rows]

    def put_job(self, name: str, record: Any) -> None:
        """Keep a batch job under its name, in place of what was there."""
        self._write("INSERT OR REPLACE INTO jobs VALUES (?, ?)", (name, _encode(record)))

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise UserError(
                f"cannot write {self._path}: {error}; what it has is kept: make room, and run the same command again"
            ) from error


def _connect(path: Path, timeout: int) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(path, isolation_level=None, timeout=timeout)
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(f"cannot open {path}: {error}; use another folder") from None
