"""A damaged store, mended: what is sound of it goes into a new one in its place."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from specs_data.errors import UserError
from specs_data.files import put_in_place
from specs_data.rollouts.salvage import Salvaged, paid_key, salvage
from specs_data.rollouts.tables import (
    IN_ORDER,
    NUMBER,
    PUT,
    SCHEMA,
    STAGES,
    VERSION,
    Damaged,
    Stage,
    is_in_order,
    look_at,
    numbered,
    sum_of,
)

REPAIRED = ".repaired"  # the suffix of a repaired store until it takes the damaged one's place


def repaired(path: Path, damage: str) -> UserError:
    """Put all that is sound in the damaged store at `path` into a new one in its place, and say what is lost. The
    damaged file stays beside it."""
    sound = salvage(path, STAGES)
    old = not sound and _is_old(path)
    if old:
        sound = _salvage_old(path)
    if not sound:
        return UserError(f"{path} is not a store of specs-data: {damage}")
    counted = _rows_before(path)
    total = {stage: max(sound.highest.get(stage, 0), counted.get(stage, 0)) for stage in STAGES}
    fresh = Path(f"{path}.part")
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 8192")
        db.execute("BEGIN")
        for statement in SCHEMA:
            db.execute(statement)
        kept = _fill(db, sound)
        if _was_in_order(path):
            db.execute("INSERT INTO traits VALUES (?)", (IN_ORDER,))
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    put_in_place(fresh, Path(f"{path}{REPAIRED}"))
    finish_repair(path)
    told = "; that release kept no checksums: what can still be read is kept as it is" if old else ""
    lost = [f"{total[stage] - kept[stage]:,} {stage}" for stage in STAGES if total[stage] > kept[stage]]
    return UserError(
        f"{path} is damaged ({damage}): {' and '.join(lost) or 'no response'} of {sum(total.values()):,} records "
        f"on record are lost, all others are kept, and the damaged file is {path.name}.damaged{told}; run the same "
        "command again to go on: it asks for what is lost, and reads the pictures anew"
    )


def _is_old(path: Path) -> bool:
    """Does the file say that it is of version 1?"""
    with path.open("rb") as file:
        head = file.read(100)
    return head.startswith(b"SQLite format 3") and int.from_bytes(head[60:64]) == 1


# By table of version 1: how many columns are its key, and which hold text.
_OLD: dict[str, tuple[int, tuple[int, ...]]] = {
    "settings": (1, (1,)),
    "problems": (1, ()),
    **dict.fromkeys(STAGES, (3, (3,))),
}


def _salvage_old(path: Path) -> Salvaged:
    """What of a store of version 1 can be reached from either end of each table, and is no nonsense: its keys ascend,
    its record is JSON and has the digest that it goes by. There are no checksums that would tell more."""
    found = Salvaged({stage: {} for stage in STAGES}, {}, {}, {}, {}, {})
    with TemporaryDirectory(dir=path.parent) as folder, closing(sqlite3.connect(_at_full_length(path, folder))) as db:
        db.text_factory = bytes  # a text that is damaged would end the reading
        found.settings.update({row[0]: row for row in _reached(db, "settings")})
        found.problems.update({row[0]: row for row in _reached(db, "problems")})
        for stage in STAGES:
            found.logs[stage].update({row[:3]: row for row in _reached(db, stage)})
        with suppress(sqlite3.Error, TypeError, ValueError):
            for number, row in enumerate(db.execute("SELECT * FROM payments")):
                found.payments[number] = paid_key((*map(_text, row[:3]), *row[3:]))
    return found


def _at_full_length(path: Path, folder: str) -> Path:
    """A copy of a store in `folder`, as long as its head says: SQLite reads none that is shorter."""
    for file in (path, Path(f"{path}-wal")):
        if file.exists():
            shutil.copy(file, folder)
    copy = Path(folder, path.name)
    with copy.open("r+b") as content:
        head = content.read(100)
        whole = int.from_bytes(head[16:18]) * int.from_bytes(head[28:32])
        if copy.stat().st_size < whole <= 2 * path.stat().st_size:
            content.truncate(whole)
    return copy


def _reached(db: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    keys, texts = _OLD[table]
    for order in ("ASC", "DESC"):
        rows: list[tuple[Any, ...]] = []
        with suppress(sqlite3.Error):  # what it comes by until there stays
            by = ", ".join(f"{number + 1} {order}" for number in range(keys))
            rows.extend(db.execute(f"SELECT * FROM {table} ORDER BY {by}"))
        rows = rows if order == "ASC" else rows[::-1]
        for before, row, after in zip([None, *rows], rows, [*rows[1:], None], strict=False):
            with suppress(Damaged, TypeError, AttributeError, UnicodeDecodeError):
                if all(one[:keys] < other[:keys] for one, other in ((before, row), (row, after)) if one and other):
                    yield look_at(table, tuple(_text(value) if n in texts else value for n, value in enumerate(row)))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def finish_repair(path: Path) -> None:
    """Put a repaired file in the place of the damaged one. It is begun anew where it was cut short: a log of the
    damaged store must not be taken for one of the repaired."""
    fresh = Path(f"{path}{REPAIRED}")
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
        db.execute(NUMBER, numbered(kind, number, key))
        row = (
            sound.settings.get(number, (number, "", key, b""))
            if kind == "settings"
            else (sound.problems.get(number, (number, key, None)))
        )
        db.execute(f"INSERT INTO {kind} VALUES ({', '.join('?' * (len(row) + 1))})", (*row, sum_of(kind, row)))
    for row in sound.payments.values():
        db.execute("INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, sum_of("payments", row)))
    kept: Counter[str] = Counter()
    for stage, log in sound.logs.items():
        known = [row for row in log.values() if ("settings", row[0]) in digests and ("problems", row[1]) in digests]
        db.executemany(PUT[cast(Stage, stage)], [(*row, sum_of(stage, row)) for row in sorted(known, key=_key)])
        kept[stage] = len(known)
    return kept


def _key(row: Sequence[Any]) -> tuple[int, int, int]:
    return row[0], row[1], row[2]


def _was_in_order(path: Path) -> bool:
    """As far as the damaged file still says."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as db:
        return is_in_order(db)
    return False


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
