"""A disk that fills up, an error at any write: the run ends at once with a sentence, and the same command goes on."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.sums import dataset_bytes, policy, recipe, write_sums
from hard.conftest import some

from specs_data import build
from specs_data.errors import UserError
from specs_data.rollouts.store import Store

PROBLEMS = 60
# A process whose files may not grow beyond a size: a full disk, to it.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
sys.path[:0] = [sys.argv[4]]
from pathlib import Path
from fakes.sums import policy, recipe
from specs_data import build
from specs_data.errors import UserError
engine = policy(concurrency=4, delay=0.0005)
try:
    build(recipe(Path(sys.argv[1]), samples=6), sys.argv[2], engine=engine, quiet=True)
except (UserError, OSError) as error:
    print(type(error).__name__, error)
print("calls", engine.calls)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and its problems."""
    folder = tmp_path_factory.mktemp("whole")
    build(recipe(write_sums(folder, PROBLEMS), samples=6), folder / "run", engine=policy(), quiet=True)
    return folder


def same_afterwards(whole: Path, run: Path) -> int:
    """The same command goes on from there: nothing is lost, nothing is under another problem."""
    engine = policy()
    build(recipe(whole / "problems.jsonl", samples=6), run, engine=engine, quiet=True)
    assert dataset_bytes(run) == dataset_bytes(whole / "run")
    return engine.calls


@pytest.mark.parametrize("number", some(20, 3))
def test_a_disk_that_fills_up_and_is_freed_again(tmp_path: Path, whole: Path, number: int, tally: Callable) -> None:
    size = random.Random(number).randrange(60_000, (whole / "run" / "store.sqlite").stat().st_size * 3)
    command = [sys.executable, "-c", LIMITED, str(whole / "problems.jsonl"), str(tmp_path / "run"), str(size)]
    done = subprocess.run(
        [*command, str(Path(__file__).parent.parent)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    same_afterwards(whole, tmp_path / "run")
    tally("ended in a sentence" if "Error" in done.stdout else "had room enough")


class Faulty:
    """A connection whose write number `fault` fails as on a broken disk, and all after it."""

    def __init__(self, db: sqlite3.Connection, fault: int) -> None:
        self._db, self._left = db, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement in ("BEGIN", "COMMIT"):
            self._fail()
        return self._db.execute(statement, *values)

    def executemany(self, statement: str, rows: Any) -> sqlite3.Cursor:
        self._fail()
        return self._db.executemany(statement, rows)

    def _fail(self) -> None:
        self._left -= 1
        if self._left < 0:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("number", some(60, 6))
def test_an_error_at_any_write(
    tmp_path: Path, whole: Path, number: int, tally: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = Store._prepare

    def broken(self: Store) -> None:
        prepare(self)
        self._db = Faulty(self._db, number * 7 % 420)  # type: ignore[assignment]

    monkeypatch.setattr(Store, "_prepare", broken)
    engine = policy(concurrency=4, delay=0.0005)
    asked_at_failure: list[int] = []
    fail = Store._fail

    def noted(self: Store, error: Exception) -> None:
        asked_at_failure.append(engine.calls)
        fail(self, error)

    monkeypatch.setattr(Store, "_fail", noted)
    try:
        build(recipe(whole / "problems.jsonl", samples=6), tmp_path / "run", engine=engine, quiet=True)
    except UserError as error:
        assert "cannot write" in str(error) and "disk I/O error" in str(error)
        assert engine.calls - asked_at_failure[0] <= 4, "sampled after the failure"
        tally("write failed: ended in a sentence")
    else:
        tally("no write failed")
    monkeypatch.undo()
    same_afterwards(whole, tmp_path / "run")


def test_a_folder_that_is_taken_away(tmp_path: Path, whole: Path, tally: Callable) -> None:
    engine = policy(concurrency=4, delay=0.02)
    script, run = engine._script, tmp_path / "run"

    def going(request: Any) -> str:
        if engine.calls == 40:
            shutil.rmtree(run)
        return script(request)  # type: ignore[return-value]

    engine._script = going  # type: ignore[assignment]
    with pytest.raises((UserError, OSError)) as caught:
        build(recipe(whole / "problems.jsonl", samples=6), run, engine=engine, quiet=True)
    assert str(run) in str(caught.value)
    tally("folder taken away: ended in a sentence")
