"""What judging services answered, kept by content, so that nothing is paid for twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from specs_data.errors import UserError
from specs_data.files import put_in_place
from specs_data.inert import one_line
from specs_data.rollouts.repair import REPAIRED, finish_repair
from specs_data.rollouts.salvage import checksum, salvage_pairs
from specs_data.rollouts.tables import Damaged, connect, encode, is_damage

T = TypeVar("T")
_SCHEMA = {
    "answers": "CREATE TABLE IF NOT EXISTS answers (digest BLOB PRIMARY KEY, record BLOB, sum INTEGER)",
    "jobs": "CREATE TABLE IF NOT EXISTS jobs (name TEXT PRIMARY KEY, record BLOB, sum INTEGER)",
}


class Answers:
    """What judging services answered, by content; several runs may share one. It also keeps the services' open batch
    jobs, which outlive the process. Every record has a checksum with its key in it: of a damaged file all that is sound
    is kept, and whoever meets the damage is told; the next one finds it mended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        finish_repair(path)
        self._db = connect(path, timeout=30)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            _prepare(self._db)
            said = self._db.execute("PRAGMA quick_check").fetchone()[0]
            if said != "ok":
                raise Damaged(one_line(said, 100))
        except (sqlite3.DatabaseError, Damaged) as error:
            if is_damage(error):
                self._mend(error)
            self._db.close()
            raise UserError(f"cannot open {path}: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, key: bytes, kind: type[T]) -> T | None:
        """The answer to the question with this digest. Raises UserError."""
        try:
            row = self._db.execute("SELECT record, sum FROM answers WHERE digest = ?", (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            self._fail(error)
        if row is None:
            return None
        return msgspec.json.decode(self._sound("answers", key, *row), type=kind)

    def put(self, key: bytes, record: Any) -> None:
        """Keep an answer, durably. Raises UserError."""
        self._write("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", "answers", key, record)

    def jobs(self, kind: type[T]) -> list[T]:
        """Every batch job that is on record, the oldest first. Raises UserError."""
        try:
            rows = self._db.execute("SELECT name, record, sum FROM jobs ORDER BY rowid").fetchall()
        except sqlite3.DatabaseError as error:
            self._fail(error)
        return [msgspec.json.decode(self._sound("jobs", *row), type=kind) for row in rows]

    def put_job(self, name: str, record: Any) -> None:
        """Keep a batch job under its name, in place of what was there. Raises UserError."""
        self._write("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)", "jobs", name, record)

    def _sound(self, table: str, key: bytes | str, record: bytes, held: int) -> bytes:
        if checksum(table, (key,), record) != held:
            self._fail(Damaged(f"a record of {table} is not what was written"))
        return record

    def _write(self, statement: str, table: str, key: bytes | str, record: Any) -> None:
        content = encode(record)
        try:
            self._db.execute(statement, (key, content, checksum(table, (key,), content)))
        except sqlite3.Error as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        if is_damage(error):
            self._mend(error)
        raise UserError(
            f"cannot use {self._path}: {error}; what it has is kept: make room, and run the same command again"
        ) from error

    def _mend(self, error: Exception) -> NoReturn:
        """Put all that is sound into a new file in the place of the damaged one, which stays beside it."""
        counted = _counted(self._db)
        self._db.close()
        if not self._path.read_bytes()[:15].startswith(b"SQLite format 3"):
            raise UserError(f"{self._path} is not a file of specs-data: {one_line(str(error), 100)}") from None
        sound = salvage_pairs(self._path, [*_SCHEMA])
        fresh = Path(f"{self._path}.part")
        fresh.unlink(missing_ok=True)
        with closing(sqlite3.connect(fresh)) as db, db:
            for table, rows in sound.items():
                db.execute(_SCHEMA[table])
                db.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows.values())
        put_in_place(fresh, Path(f"{self._path}{REPAIRED}"))
        finish_repair(self._path)
        kept = len(sound["answers"])
        lost = f"{counted - kept:,} of {counted:,} answers are" if counted and counted > kept else "what is unsound is"
        raise UserError(
            f"{self._path} is damaged ({one_line(str(error), 100)}): {lost} lost, {kept:,} are kept, and the damaged "
            f"file is {self._path.name}.damaged; run the same command again to go on: it asks for what is lost"
        ) from None


def _prepare(db: sqlite3.Connection) -> None:
    """Make the tables, and put checksums into those of an older release."""
    columns = [row[1] for row in db.execute("PRAGMA table_info(answers)")]
    if columns and "sum" not in columns:
        db.execute("BEGIN IMMEDIATE")
        for table, statement in _SCHEMA.items():
            rows = db.execute(f"SELECT * FROM {table}").fetchall()
            db.execute(f"DROP TABLE {table}")
            db.execute(statement)
            summed = [(key, record, checksum(table, (key,), record)) for key, record in rows]
            db.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", summed)
        db.execute("COMMIT")
    for statement in _SCHEMA.values():
        db.execute(statement)


def _counted(db: sqlite3.Connection) -> int | None:
    """How many answers there were, where the damaged file still says."""
    try:
        return int(db.execute("SELECT max(rowid) FROM answers").fetchone()[0] or 0)
    except sqlite3.Error:
        return None
