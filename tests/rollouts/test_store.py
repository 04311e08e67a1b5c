"""The store: append-only, keyed, and whole after a crash at any moment."""

from __future__ import annotations

import hashlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from specs_data.errors import UserError
from specs_data.records import Judgement, Paid, Payment, Problem, Response
from specs_data.rollouts.answers import Answers
from specs_data.rollouts.store import Index, Number, Position, Store
from specs_data.rollouts.tables import STAGES, Stage, digest

texts = st.text(st.characters(codec="utf-8"), max_size=20)
stages = st.sampled_from(STAGES)
keys = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 2))
responses = st.builds(Response, texts, texts, st.integers(0, 9), st.integers(0, 9))
reasons = st.none() | texts


def make_problem(name: str, **fields: Any) -> Problem:
    return Problem(name, "How many?", "5", "numeric", **fields)


def crashed(path: Path) -> Path:
    """What a process that dies now leaves behind: the files as the operating system has them."""
    copy = Path(tempfile.mkdtemp(dir=path.parent)) / path.name
    for file in (path, Path(f"{path}-wal")):
        if file.exists():
            shutil.copy(file, copy.with_name(file.name))
    return copy


class AppendOnly(RuleBasedStateMachine):
    """A store beside a dictionary that keeps what was written first."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "store.sqlite"
        self.store = Store(self.path)
        self.seen: dict[tuple[Any, ...], tuple[str | None, bytes]] = {}
        self.safe = dict(self.seen)

    @rule(stage=stages, key=keys, reason=reasons, record=responses)
    def put(self, stage: Stage, key: tuple[int, int, int], reason: str | None, record: Response) -> None:
        self.store.put(stage, *key, reason, record)
        self.seen.setdefault((stage, *key), (reason, msgspec.json.encode(record)))

    @rule(stage=stages, key=keys)
    def get(self, stage: Stage, key: tuple[int, int, int]) -> None:
        assert self.store.get(stage, *key) == self.seen.get((stage, *key))

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.safe = dict(self.seen)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.path)
        self.safe = dict(self.seen)
        self.all_there()

    @rule()
    def crash(self) -> None:
        path = crashed(self.path)
        self.store.close()
        self.path, self.store, self.seen = path, Store(path), dict(self.safe)
        self.all_there()

    def all_there(self) -> None:
        found = {}
        for stage in STAGES:
            for *key, reason, record in self.store.select(
                f"SELECT settings, problem, idx, reason, record FROM {stage}"
            ):
                found[stage, *key] = (reason, record)
        assert found == self.seen

    def teardown(self) -> None:
        self.all_there()
        self.store.close()
        shutil.rmtree(self.folder)


AppendOnly.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestAppendOnly = AppendOnly.TestCase


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_torn_log_holds_the_first_commits_whole(data: st.DataObject) -> None:
    """A power failure may cut the log anywhere, or leave garbage at its end."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store.sqlite"
        commits = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
        with Store(path) as store:
            written: list[list[int]] = []
            for size in commits:
                written.append(
                    [*(written[-1] if written else []), *range(100 * len(written), 100 * len(written) + size)]
                )
                for index in range(size):
                    store.put("samples", 1, 1, 100 * (len(written) - 1) + index, None, Response("x" * 3000))
                store.commit()
            torn = crashed(path)
        log = torn.with_name(f"{torn.name}-wal")
        whole = log.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        log.write_bytes(whole[:cut] + data.draw(st.binary(max_size=50)))
        with Store(torn) as store:
            found = [row[0] for row in store.select("SELECT idx FROM samples ORDER BY idx")]
            assert found in ([], *written)
            assert found == written[-1] or cut < len(whole)
            store.put("samples", 1, 1, 999, None, Response("after"))
            store.commit()
            assert store.get("samples", 1, 1, 999) is not None


WRITER = """
import sys
from pathlib import Path
from specs_data.records import Response
from specs_data.rollouts.store import Store
store = Store(Path(sys.argv[1]))
first = 0
while store.get("samples", 1, 1, first):
    first += 1
print("open", first, flush=True)
for index in range(first, 10**9):
    store.put("samples", 1, 1, index, None, Response("x" * (index % 7000)))
    store.put("verdicts", 1, 1, index, "why not", Response(str(index)))
    if index % 3 == 0:
        store.commit()
        print(index, flush=True)
"""


def test_kill_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    path, committed = tmp_path / "run" / "store.sqlite", -1
    for wait in (0.0, 0.05, 0.3):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert int(child.stdout.readline().split()[1]) > committed
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        told = child.communicate()[0].splitlines()
        committed = max([committed, *(int(line) for line in told[:-1])])
    assert committed > 0
    with Store(path) as store:
        for stage in ("samples", "verdicts"):
            found = [row[0] for row in store.select(f"SELECT idx FROM {stage} ORDER BY idx")]
            assert found == list(range(len(found))) and len(found) > committed
            assert len(found) % 3 == 1  # whole transactions only


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    code = (
        "import sys; from pathlib import Path; from specs_data.rollouts.store import Store;"
        "Store(Path(sys.argv[1])).close()"
    )

    def open_elsewhere() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)

    with Store(path) as store:
        store.commit()
        done = open_elsewhere()
        assert done.returncode != 0 and "UserError" in done.stderr and "is another build running there?" in done.stderr
        store.put("samples", 1, 1, 1, None, Response("still mine"))
        store.commit()
    assert open_elsewhere().returncode == 0


def test_what_is_no_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database at all, but long enough to look like one " * 50)
    with pytest.raises(UserError, match=r"text\.sqlite is not a store of specs-data"):
        Store(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "newer.sqlite")
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(UserError, match="another version of specs-data; use another --out"):
        Store(tmp_path / "newer.sqlite")
    for kind in (Store, Answers):
        with pytest.raises(UserError, match="cannot open"):
            kind(tmp_path)
        with pytest.raises(UserError, match="cannot open"):
            kind(tmp_path / "text.sqlite" / "below" / "store.sqlite")


def test_settings_stand_for_their_content(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        first = store.settings("samples", {"seed": 0, "policy": {"a": 1, "b": 2}})
        assert store.settings("samples", {"policy": {"b": 2, "a": 1}, "seed": 0}) == first
        others = [
            store.settings("pairs", {"seed": 0, "policy": {"a": 1, "b": 2}}),
            store.settings("samples", {"seed": 1, "policy": {"a": 1, "b": 2}}),
            store.settings("samples", {"seed": "0", "policy": {"a": 1, "b": 2}}),
        ]
        assert len({first, *others}) == 4
    with Store(tmp_path / "store.sqlite") as store:
        assert store.settings("samples", {"seed": 0, "policy": {"a": 1, "b": 2}}) == first


@settings(max_examples=50, deadline=None)
@given(fields=st.dictionaries(texts, st.integers() | texts | st.lists(texts, max_size=3), max_size=5), data=st.data())
def test_a_digest_does_not_depend_on_the_order_of_keys(fields: dict[str, Any], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(fields.items()))))
    assert digest(shuffled) == digest(fields) and len(digest(fields)) == 16
    assert digest({**fields, "one more": 1}) != digest({**fields, "one more": 2})


def test_problems_are_listed_in_their_order_and_once(tmp_path: Path) -> None:
    a, b, other_a = make_problem("a"), make_problem("b"), make_problem("a", source="elsewhere")
    with Store(tmp_path / "store.sqlite") as store:
        listed = store.list_problems([(0, b), (5, a), (6, a)])
        first, second = listed[0], listed[5]
        assert list(listed) == [0, 5] and first[1] and second[1]
        assert store.list_problems([(7, a), (8, other_a)]) == {} == store.list_problems([])
        rows = store.select("SELECT position, problem FROM listing ORDER BY position")
        assert list(rows) == [(0, first[0]), (5, second[0])]
        assert store.named("a") == second[0] and store.named("nowhere") is None
        assert store.problem(second[0]) == a and store.problem(first[0]) == b
        store.drop("input", 8, "no answer")
        store.start_listing()
        assert store.named("a") is None and not list(store.select("SELECT * FROM dropped"))
        assert store.list_problems([(0, a), (1, make_problem("c"))]) == {0: (second[0], False), 1: (4, True)}


def test_images_are_kept_once(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10
    name = hashlib.sha256(data).hexdigest()
    with Store(tmp_path / "store.sqlite") as store:
        store.put_image(name, data)
        store.put_image(name, b"something else")
        assert store.image(name) == data
        assert list(store.select("SELECT count(*) FROM images")) == [(1,)]


def test_seconds_add_up_over_runs(tmp_path: Path) -> None:
    for _ in range(3):
        with Store(tmp_path / "store.sqlite") as store:
            store.spend("judge", 0.5)
            store.sync()
    with Store(tmp_path / "store.sqlite") as store:
        assert store.seconds() == {"judge": 1.5}


def test_payments_add_up_over_runs_and_in_older_stores(tmp_path: Path) -> None:
    Store(tmp_path / "store.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as older:
        older.execute("DROP TABLE payments")
    for dollars in (0.5, 0.25, None):
        with Store(tmp_path / "store.sqlite") as store:
            store.pay(Payment("verification", "m", "m-1", 10, 2, batch=False, dollars=dollars))
            store.pay(Payment("judging", "j", "j", 1, 1, batch=False, dollars=1.0))
    with Store(tmp_path / "store.sqlite") as store:
        assert store.paid() == {"judging": Paid(3, 3, 3.0, True), "verification": Paid(30, 6, 0.75, False)}
        assert store.dollars == 3.75


def test_what_a_run_has_cost_is_told_without_a_look_at_each_payment(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        asked: list[str] = []
        store._db.set_trace_callback(asked.append)
        for number in range(1, 5):
            store.pay(Payment("verification", "m", "m-1", 10, 2, batch=False, dollars=0.5))
            assert store.dollars == number / 2
        assert sum("SELECT" in query for query in asked) == 1


def test_answers_are_shared_and_the_first_stays(tmp_path: Path) -> None:
    one, other = Answers(tmp_path / "answers.sqlite"), Answers(tmp_path / "answers.sqlite")
    first, second = Judgement(True, "model", "5", "m", "m-1", 3, 4), Judgement(False, "model")
    assert one.get(b"key", Judgement) is None
    one.put(b"key", first)
    other.put(b"key", second)
    assert one.get(b"key", Judgement) == other.get(b"key", Judgement) == first
    assert other.get(b"another", Judgement) is None
    one.put_job("a", {"state": 1})
    other.put_job("a", {"state": 2})
    other.put_job("b", {"state": 3})
    assert one.jobs(dict) == other.jobs(dict) == [{"state": 2}, {"state": 3}]
    one.close()
    other.close()


def test_a_write_that_fails_ends_the_store(tmp_path: Path) -> None:
    """What was given out before the rollback must not be used after it: nothing is written any more."""
    store = Store(tmp_path / "store.sqlite")
    store.put("samples", 1, Number(1), Index(0), None, Response("kept"))
    store.commit()
    store._db.execute("PRAGMA max_page_count = 20")  # a full disk, to SQLite
    store.put("samples", 1, Number(1), Index(1), None, Response("x" * 1_000_000))
    for attempt in (store.commit, store.commit, lambda: store.spend("judge", 1.0)):
        with pytest.raises(UserError, match=r"cannot write .*store\.sqlite.*run the same command again"):
            attempt()
    store.close()
    with Store(tmp_path / "store.sqlite") as store:
        assert store.get("samples", 1, Number(1), Index(0)) is not None
        assert store.get("samples", 1, Number(1), Index(1)) is None


@pytest.mark.parametrize("page", ["settings", "problems", "numbers", "samples"])
def test_a_record_that_is_not_what_was_written_is_said_and_taken_out(tmp_path: Path, page: str) -> None:
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        number = store.settings("samples", {"seed": 0})
        listed = store.list_problems([(Position(n), make_problem(f"p{n}")) for n in range(3)])
        for position in listed:
            store.put("samples", number, listed[position][0], Index(0), None, Response(f"to {position}"))
    with closing(sqlite3.connect(path)) as other, other:
        column = {"numbers": "digest", "samples": "record"}.get(page, "record")
        other.execute(f"UPDATE {page} SET {column} = CAST('x' AS BLOB) WHERE rowid = 1")
    with pytest.raises(
        UserError, match=rf"store.sqlite is damaged \(a record of {page} is not what was written\).*run"
    ):
        Store(path)
    with Store(path) as store:  # what is sound is there, under the same keys
        assert store.settings("samples", {"seed": 0}) == number
        again = store.list_problems([(Position(n + 3), make_problem(f"p{n}", source="s")) for n in range(1)])
        assert again[Position(3)][0] == 4
        store.start_listing()
        assert {n for n, _ in store.list_problems([(Position(0), make_problem("p0"))]).values()} == {1}
        assert store.problem(Number(1)) == make_problem("p0")
        kept = [store.get("samples", number, Number(n), Index(0)) for n in (1, 2, 3)]
        assert (kept[0] is None) == (page == "samples") and None not in kept[1:]
    assert (tmp_path / "store.sqlite.damaged").exists()
    Store(path).close()


def test_a_store_that_is_taken_away_ends_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="cannot write .* taken away"), Store(folder / "store.sqlite") as store:
        store.put("samples", 1, Number(1), Index(0), None, Response("a"))
        store.commit()
        store.sync()
        shutil.rmtree(folder)
        store.sync()


def test_what_a_repair_left_half_done_is_finished(tmp_path: Path) -> None:
    """It was killed after the damaged file got its other name, while its log was still there."""
    path = tmp_path / "store.sqlite"
    with Store(tmp_path / "other.sqlite") as store:
        store.put("samples", 1, Number(1), Index(0), None, Response("sound"))
    (tmp_path / "other.sqlite").rename(tmp_path / "store.sqlite.repaired")
    (tmp_path / "store.sqlite.damaged").write_bytes(b"damaged")
    (tmp_path / "store.sqlite-wal").write_bytes(b"a log of the damaged one")
    with Store(path) as store:
        assert store.get("samples", 1, Number(1), Index(0)) is not None
    names = {file.name for file in tmp_path.iterdir() if file.suffix != ".sum"}
    assert names == {"store.sqlite", "store.sqlite.damaged"}


def test_a_store_that_may_not_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        settings_number, problem = store.settings("samples", {"a": 1}), store.know([make_problem("p")])[0]
        store.put("samples", settings_number, problem, Index(0), None, Response("text", "stop", 1, 1))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr("specs_data.rollouts.store.is_writable", lambda _: False)
    with Store.to_read(path) as store:
        assert store.get("samples", settings_number, problem, Index(0)) is not None
        assert store.problem(problem) == make_problem("p")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(UserError, match="there is no"):
        Store.to_read(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
