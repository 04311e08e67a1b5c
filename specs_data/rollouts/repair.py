"""A damaged store, mended: what is sound of it goes into a new one in its place."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

from specs_data.errors import UserError
from specs_data.files import put_in_place
from specs_data.rollouts.salvage import Salvaged, salvage
from specs_data.rollouts.tables import (
    IN_ORDER,
    NUMBER,
    PUT,
    SCHEMA,
    STAGES,
    VERSION,
    Stage,
    is_in_order,
    numbered,
    sum_of,
)

REPAIRED = ".repaired"  # the suffix of a repaired store until it takes the damaged one's place


def repaired(path: Path, damage: str) -> UserError:
    """Put all that is sound in the damaged store at `path` into a new one in its place, and say what is lost. The
    damaged file stays beside it."""
    sound = salvage(path, STAGES)
    if not sound and _is_old(path):
        return UserError(
            f"{path} is damaged ({damage}), and of a release that kept no checksums by which to tell what of it is "
            "sound: put a copy from before in its place, or take it away, and everything is asked for again"
        )
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
    lost = [f"{total[stage] - kept[stage]:,} {stage}" for stage in STAGES if total[stage] > kept[stage]]
    return UserError(
        f"{path} is damaged ({damage}): {' and '.join(lost) or 'no response'} of {sum(total.values()):,} records "
        f"on record are lost, all others are kept, and the damaged file is {path.name}.damaged; run the same command "
        "again to go on: it asks for what is lost, and reads the pictures anew"
    )


def _is_old(path: Path) -> bool:
    """Does the file say that it is of version 1?"""
    with path.open("rb") as file:
        head = file.read(100)
    return head.startswith(b"SQLite format 3") and int.from_bytes(head[60:64]) == 1


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
