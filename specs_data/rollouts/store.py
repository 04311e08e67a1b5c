"""The durable store of a run: one append-only log per stage, images once, in one SQLite file.

Each stage's log is keyed by (settings, problem, index). `settings` stands for everything that
determines that stage's result, so a changed setting never returns an old result and never repeats
the work of a stage it does not concern. A row whose `reason` is NULL goes on to the next stage;
otherwise `reason` says why it was left out. Rows are never changed; only refusals under a limit that is another now,
and a rival's pairs before they are made anew, are forgotten.

A commit reaches the operating system at once, so killing the process costs only what was in flight;
`sync` makes it safe against a power failure as well. A write that fails ends the store: what SQLite rolls back
then was never there, and numbers that were given out in between must not be used any more.

Every record has a checksum with its key in it. A store is checked when it is opened: as a whole where it was closed
well, which is as fast as it can be read, and else record by record. Of a damaged one every sound record is kept, and
whoever opened it is told what is lost: the next one finds it mended.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from traceback import clear_frames
from typing import Any, NewType, NoReturn, Self
from weakref import WeakSet

import msgspec

from specs_data.errors import UserError
from specs_data.inert import one_line
from specs_data.records import Paid, Payment, Problem
from specs_data.rollouts.repair import finish_repair, repaired
from specs_data.rollouts.salvage import checksum, paid_key
from specs_data.rollouts.tables import (
    IN_ORDER,
    NUMBER,
    PUT,
    SCHEMA,
    STAGES,
    SUMMED,
    VERSION,
    Damaged,
    Stage,
    check_structure,
    check_sums,
    connect,
    digest,
    encode,
    hash_of,
    is_as_left,
    is_busy,
    is_current,
    is_damage,
    is_in_order,
    is_old,
    is_writable,
    migrate,
    note_as_left,
    numbered,
)

# Three kinds of whole numbers, which are easily taken for each other: a problem's place in its source, its number
# in the store, and which of its responses is meant.
Position = NewType("Position", int)
Number = NewType("Number", int)
Index = NewType("Index", int)

_RECENT = 64_000_000  # bytes of pictures in memory: those of the problems that are read ahead and under way

_GET = {
    stage: f"SELECT reason, record, sum FROM {stage} WHERE settings = ? AND problem = ? AND idx = ?" for stage in STAGES
}
_decode_problem = msgspec.json.Decoder(Problem).decode


class Store:
    """The open store of one run. Only one process can hold it; a second one gets a UserError."""

    def __init__(self, path: Path, frozen: bool = False) -> None:
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._frozen = frozen
        self._failure: UserError | None = None
        if not frozen:
            finish_repair(path)
        self._db = connect(path, timeout=0, frozen=frozen)
        try:
            if not frozen:
                self._prepare()
            elif not is_current(self._db):
                raise UserError(f"{path} is of another version of specs-data; copy the run to where it can be written")
        except (sqlite3.DatabaseError, Damaged) as error:
            clear_frames(error.__traceback__)  # a query of theirs would keep the file locked
            self._db.close()
            if frozen:
                raise UserError(f"cannot read {path}: {error}") from None
            if is_damage(error):
                raise repaired(path, one_line(str(error), 100)) from None
            why = "is another build running there?" if is_busy(error) else "use a folder that can be written"
            raise UserError(f"cannot open {path}: {error}; {why}") from None
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
        self._dollars: float | None = None
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    @classmethod
    def to_read(cls, path: Path) -> Self:
        """The store of a finished run, of which only is read: also where nothing may be written. Raises UserError
        where there is none."""
        if not path.is_file():
            raise UserError(f"there is no {path}, in which the run's responses are")
        return cls(path, frozen=not is_writable(path))

    def _prepare(self) -> None:
        """Lock the file, bring it to this version, and look whether it is sound."""
        sound = is_as_left(self._path)
        execute = self._db.execute
        self._db.create_function("row_sum", 6, lambda stage, *row: checksum(stage, row[:4], row[4]))
        execute("PRAGMA page_size = 8192")
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("PRAGMA cache_size = -4000")
        execute("BEGIN IMMEDIATE")
        version = execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UserError(f"{self._path} was written by another version of specs-data; use another --out")
        old, in_order = is_old(self._db), is_in_order(self._db)
        if old:
            check_structure(self._db, ("settings", "problems", *STAGES))
            migrate(self._db)
        for statement in SCHEMA:
            execute(statement)
        if in_order:
            execute("INSERT OR IGNORE INTO traits VALUES (?)", (IN_ORDER,))
        execute(f"PRAGMA user_version = {VERSION}")
        execute("COMMIT")
        if old:
            with suppress(sqlite3.OperationalError):  # it needs room for a copy; the old pages are used up otherwise
                execute("VACUUM")
        if not sound:
            check_structure(self._db, (*SUMMED, "listing", "seconds"))
            check_sums(self._db)

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
        """Commit and close; a store that failed, or is only read, is only closed."""
        if self._frozen:
            self._db.close()
            return
        if self._failure is None:
            self.commit()
        with suppress(sqlite3.Error):  # a query that an error cut short still reads
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        if self._failure is None:
            note_as_left(self._path)

    # Settings

    def settings(self, stage: str, record: Mapping[str, Any]) -> int:
        """The number that stands for these settings of a stage."""
        key = digest([stage, record])
        number = self._settings_of(key)
        if number is None:
            content = encode(record)
            number = self._one("SELECT coalesce(max(id), 0) + 1 FROM settings")[0]
            row = (number, stage, key, content, checksum("settings", (number, stage, key), content))
            self._append("INSERT INTO settings VALUES (?, ?, ?, ?, ?)", row)
            self._append(NUMBER, numbered("settings", number, key))
        return int(number)

    def _settings_of(self, key: bytes) -> int | None:
        row = self._read("SELECT id FROM settings WHERE digest = ?", (key,))
        return int(row[0]) if row else None

    def settings_digest(self, number: int) -> bytes:
        """The digest of the settings with this number, which is the same in every store."""
        return bytes(self._one("SELECT digest FROM settings WHERE id = ?", (number,))[0])

    def settings_of(self, stage: str) -> list[tuple[int, Any]]:
        """All settings of a stage: their numbers and their records, as JSON has them."""
        rows = self.select("SELECT id, record FROM settings WHERE stage = ? ORDER BY id", (stage,))
        return [(number, msgspec.json.decode(record)) for number, record in rows]

    def move(self, stage: Stage, old: int, new: int, leaving: Sequence[str] = ()) -> None:
        """Log what is there under the `old` settings under the `new` ones, but for rows with one of these reasons."""
        left = ", ".join("?" * len(leaving))
        self._append(
            f"UPDATE OR IGNORE {stage} SET settings = ?, sum = row_sum('{stage}', ?, problem, idx, reason, record) "
            f"WHERE settings = ? AND (reason IS NULL OR reason NOT IN ({left}))",
            (new, new, old, *leaving),
        )

    def forget(self, stage: Stage, settings: int, problems: Iterable[Number]) -> None:
        """Forget what a stage has logged of these problems under these settings."""
        self._write()
        rows = [(settings, problem) for problem in problems]
        self._append_many(f"DELETE FROM {stage} WHERE settings = ? AND problem = ?", rows)

    def limit(self, settings: int, limits: Mapping[str, Any] | None, reasons: Sequence[str]) -> None:
        """Samples with these settings are asked for within `limits`: refusals for one of these `reasons` are forgotten
        where the limits were others, and without any in every case."""
        row = self._read("SELECT record FROM limits WHERE settings = ?", (settings,))
        known = msgspec.json.decode(row[0]) if row else dict.fromkeys(limits or ())
        if limits is None or known != limits:
            marks = ", ".join("?" * len(reasons))
            self._append(f"DELETE FROM samples WHERE settings = ? AND reason IN ({marks})", (settings, *reasons))
        if limits is not None and known != limits:
            self._append("INSERT OR REPLACE INTO limits VALUES (?, ?)", (settings, encode(limits)))

    # Problems and images

    @property
    def in_order(self) -> bool:
        """Whether an earlier release began it, which asked about problems in the order of their source alone."""
        return self._read("SELECT 1 FROM traits WHERE name = ?", (IN_ORDER,)) is not None

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
        rows = [(position, problem.id, encode(problem)) for position, problem in problems]
        digests = [hash_of(record) for _, _, record in rows]
        numbers = self._add_problems({key: record for key, (_, _, record) in zip(digests, rows, strict=True)})
        self._append_many(
            "INSERT OR IGNORE INTO listing VALUES (?, ?, ?)",
            [(position, numbers[key], name) for (position, name, _), key in zip(rows, digests, strict=True)],
        )
        query = "SELECT position, problem FROM listing WHERE position BETWEEN ? AND ?"
        found = self.select(query, (rows[0][0], rows[-1][0]))
        return {position: (number, number > last) for position, number in found}

    def know(self, problems: Sequence[Problem]) -> list[Number]:
        """The numbers of these problems, known now if they were not, with no place in a run's list."""
        records = [encode(problem) for problem in problems]
        digests = [*map(hash_of, records)]
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
        given = [(number, key) for number, key in enumerate(new, self._last_problem() + 1)]
        filled = given + [(number, key) for key, (number, lost) in known.items() if lost]
        self._append_many(
            "INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?)",
            [(number, key, records[key], checksum("problems", (number, key), records[key])) for number, key in filled],
        )
        self._append_many(NUMBER, [numbered("problems", number, key) for number, key in given])
        return {key: number for key, (number, _) in known.items()} | {key: number for number, key in given}

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
            self._fail(Damaged("a picture is not what was written"))
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
            self._fail(Damaged(f"a record of {stage} is not what was written"))
        return row[0], row[1]

    def put(self, stage: Stage, settings: int, problem: Number, index: Index, reason: str | None, record: Any) -> None:
        """Append one row. What is there already stays."""
        self.appended[stage] += 1
        key, content = (settings, problem, index, reason), encode(record)
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
        return self._read("SELECT 1 FROM undecided LIMIT 1", ()) is not None

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
        before = self.dollars
        self._append("INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*paid, checksum("payments", paid)))
        self._dollars = before + (payment.dollars or 0.0)
        self.commit()

    @property
    def dollars(self) -> float:
        """What all payments of all runs come to, in US dollars as far as their price is known. A bar asks for it twice
        a second: a look at each of half a million payments would take longer than that."""
        if self._dollars is None:
            self._dollars = float(self._one("SELECT total(dollars) FROM payments")[0])
        return self._dollars

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
                self._append_many(PUT[stage], rows)
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
            self._fail(Damaged("a row that should be there is not"))
        return row

    def _fail(self, error: Exception) -> NoReturn:
        """Nothing is written any more, and whoever tries learns why. A store that shows to be damaged is mended."""
        if self._failure is None and self._frozen:
            self._failure = UserError(f"cannot read {self._path}: {error}")
        elif self._failure is None and is_damage(error):
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
