"""A damaged store: one sentence, every sound record kept, no response under another problem, the same dataset."""

from __future__ import annotations

import gzip
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fakes.sums import dataset_bytes, policy, recipe, write_sums
from hard.conftest import assert_sentence, some

from specs_data import build
from specs_data.errors import UserError
from specs_data.records import Judgement
from specs_data.rollouts.answers import Answers
from specs_data.rollouts.store import Store
from specs_data.rollouts.tables import STAGES, digest

Damage = Callable[[bytearray, random.Random], None]
PROBLEMS = 120


def flip(data: bytearray, moments: random.Random) -> None:
    """One bit."""
    data[moments.randrange(len(data))] ^= 1 << moments.randrange(8)


def zero(data: bytearray, moments: random.Random) -> None:
    """A block of a disk."""
    place = moments.randrange(len(data) // 4096) * 4096
    data[place : place + 4096] = bytes(4096)


def garble(data: bytearray, moments: random.Random) -> None:
    """Some bytes in a row."""
    place = moments.randrange(len(data) - 64)
    data[place : place + 64] = moments.randbytes(64)


def cut(data: bytearray, moments: random.Random) -> None:
    """The end is missing."""
    del data[moments.randrange(len(data) // 2, len(data)) :]


DAMAGES: tuple[Damage, ...] = (flip, zero, garble, cut)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and its problems."""
    folder = tmp_path_factory.mktemp("whole")
    problems = write_sums(folder, PROBLEMS, pictures=True)
    build(recipe(problems, samples=6), folder / "run", engine=policy(), quiet=True)
    return folder


@pytest.mark.parametrize("number", some(60, 8))
def test_a_damaged_store_loses_only_what_is_damaged(tmp_path: Path, whole: Path, number: int, tally: Callable) -> None:
    moments, damage = random.Random(number), DAMAGES[number % len(DAMAGES)]
    run = tmp_path / "run"
    shutil.copytree(whole / "run", run)
    store = run / "store.sqlite"
    data = bytearray(store.read_bytes())
    damage(data, moments)
    store.write_bytes(data)
    engine = policy()
    told = []
    for _ in range(4):
        try:
            build(recipe(whole / "problems.jsonl", samples=6), run, engine=engine, quiet=True)
            break
        except UserError as error:
            told.append(str(error))
    assert len(told) <= 2, told
    assert all("store.sqlite" in said and "run the same" in said for said in told), told
    assert dataset_bytes(run) == dataset_bytes(whole / "run")
    tally(f"{damage.__name__}: {'mended after one sentence' if told else 'nothing that is in use'}")
    tally("responses asked for again", engine.calls)


@pytest.mark.parametrize("number", some(20, 4))
def test_a_torn_log_loses_only_its_end(tmp_path: Path, whole: Path, number: int, tally: Callable) -> None:
    moments = random.Random(number)
    run = tmp_path / "run"
    run.mkdir()
    problems = whole / "problems.jsonl"

    class Killed(BaseException):
        pass

    engine = policy(delay=0.0005, concurrency=4)
    script, left = engine._script, iter(range(120))

    def dying(request: object) -> str:
        if next(left, None) is None:
            shutil.copytree(run, tmp_path / "torn", dirs_exist_ok=True)
            raise Killed
        return script(request)  # type: ignore[arg-type]

    engine._script = dying  # type: ignore[assignment]
    with pytest.raises(Killed):
        build(recipe(problems, samples=6), run, engine=engine, quiet=True)
    torn = tmp_path / "torn"
    log = torn / "store.sqlite-wal"
    data = bytearray(log.read_bytes())
    DAMAGES[number % len(DAMAGES)](data, moments)
    log.write_bytes(data)
    again = policy()
    for _ in range(3):
        try:
            build(recipe(problems, samples=6), torn, engine=again, quiet=True)
            break
        except UserError as error:
            assert "run the same" in str(error)
    assert dataset_bytes(torn) == dataset_bytes(whole / "run")
    tally("torn log: the same dataset")
    tally("responses asked for again", again.calls)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of answers and a batch job."""
    path = tmp_path_factory.mktemp("answered") / "answers.sqlite"
    answers = Answers(path)
    for number in range(400):
        answers.put(digest(number), Judgement(True, "model", str(number) * (1 + number % 60)))
    answers.put_job("job", {"state": 1})
    answers.put_job("job", {"state": 2})
    answers.close()
    return path.read_bytes()


@pytest.mark.parametrize("number", some(40, 6))
def test_damaged_answers_are_kept_as_far_as_they_are_sound(
    tmp_path: Path, answered: bytes, number: int, tally: Callable
) -> None:
    path, moments = tmp_path / "answers.sqlite", random.Random(number)
    data = bytearray(answered)
    DAMAGES[number % len(DAMAGES)](data, moments)
    path.write_bytes(data)
    told, found = [], {}
    for _ in range(3):
        try:
            answers = Answers(path)
            try:
                found = {n: answers.get(digest(n), Judgement) for n in range(400)}
                assert answers.jobs(dict) in ([{"state": 2}], [])
                break
            finally:
                answers.close()
        except UserError as error:
            told.append(error)
    for error in told:
        assert_sentence(error, "answers.sqlite", "run the same")
    assert len(told) <= 1 and len(found) == 400, told
    kept = {n: one for n, one in found.items() if one is not None}
    assert all(one.answer == str(n) * (1 + n % 60) for n, one in kept.items())
    assert len(kept) > 150, "sound ones are lost"
    tally("answers: mended after one sentence" if told else "answers: nothing that is in use")


def test_answers_of_an_older_release_are_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("CREATE TABLE answers (digest BLOB PRIMARY KEY, record BLOB) WITHOUT ROWID")
        old.execute("CREATE TABLE jobs (name TEXT PRIMARY KEY, record BLOB)")
        old.execute("INSERT INTO answers VALUES (?, ?)", (b"key", b'{"right":true,"rule":"model","answer":"5"}'))
        old.execute("INSERT INTO jobs VALUES ('a', CAST('{}' AS BLOB))")
    for _ in range(2):
        answers = Answers(path)
        assert answers.get(b"key", Judgement) == Judgement(True, "model", "5") and answers.jobs(dict) == [{}]
        answers.close()


def logged(path: Path) -> dict[tuple[object, ...], bytes]:
    """Every record of the stages' logs by its problem, its settings and its number."""
    found: dict[tuple[object, ...], bytes] = {}
    with closing(sqlite3.connect(path)) as db:
        for stage in STAGES:
            rows = db.execute(
                f"SELECT t.digest, p.digest, idx, reason, s.record FROM {stage} s "
                "JOIN settings t ON t.id = s.settings JOIN problems p ON p.id = s.problem"
            )
            found |= {(stage, *row[:4]): row[4] for row in rows}
    return found


@pytest.mark.parametrize("number", some(60, 3))
def test_a_damaged_store_of_an_older_release_keeps_what_can_be_read(
    tmp_path: Path, number: int, tally: Callable
) -> None:
    path, moments = tmp_path / "store.sqlite", random.Random(number)
    sound = gzip.decompress((Path(__file__).parent.parent / "golden" / "store.sqlite.gz").read_bytes())
    path.write_bytes(sound)
    wanted = logged(path)
    data = bytearray(sound)
    DAMAGES[number % len(DAMAGES)](data, moments)
    path.write_bytes(data)
    told = []
    for _ in range(3):
        try:
            Store(path).close()
            break
        except UserError as error:
            assert_sentence(error, "store.sqlite")
            told.append(str(error))
    if told and "is not a store" in told[0]:  # its very head is gone
        assert path.read_bytes() == data
        tally("store of an older release: not known as one, and left alone")
        return
    assert len(told) <= 1, told
    found = logged(path)
    other = [key for key, record in found.items() if wanted.get(key) != record]
    assert len(other) <= 1, other  # that release kept no checksum that would tell
    tally(f"store of an older release: {'mended after one sentence' if told else 'nothing that is in use'}")
    tally("records of an older release that are kept", len(found))
    tally("records of an older release that were lost", len(wanted) - len(found))
    tally("records of an older release that came out otherwise", len(other))
