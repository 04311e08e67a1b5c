"""kill -9 at any moment: the same command finishes the job, and the dataset is the same."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
from fakes.sums import build_slowly, dataset_bytes, policy, recipe, write_sums

from specs_data import build
from specs_data.errors import UserError
from specs_data.rollouts.store import Store

CONCURRENCY = 4  # of build_slowly
KILLS = 20


def test_killed_at_random_moments(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 200, pictures=True)
    whole = policy()
    build(recipe(problems, samples=6), tmp_path / "whole", engine=whole, quiet=True)

    log, run, moments = tmp_path / "log", tmp_path / "run", random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["specs_data.build.run", "fakes.sums"])
    for _ in range(KILLS):
        child = context.Process(target=build_slowly, args=(problems, run, log, moments.randint(1, 12)))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL  # it was not done yet
    build_slowly(problems, run, log)

    repeated = len(log.read_text().splitlines()) - whole.calls
    assert KILLS <= repeated <= KILLS * CONCURRENCY  # each lost the response it was killed at, and what was in flight
    assert dataset_bytes(run) == dataset_bytes(tmp_path / "whole")


def test_killed_while_the_dataset_is_written(tmp_path: Path) -> None:
    """The moments after the last response, when nothing is left but to write."""
    problems = write_sums(tmp_path, 200, pictures=True)
    build(recipe(problems, samples=6), tmp_path / "whole", engine=policy(), quiet=True)
    log, run, moments = tmp_path / "log", tmp_path / "run", random.Random(1)
    build_slowly(problems, run, log)
    context = multiprocessing.get_context("forkserver")
    for _ in range(5):
        child = context.Process(target=build_slowly, args=(problems, run, log))
        child.start()
        time.sleep(moments.uniform(0.05, 0.5))
        child.kill()
        child.join()
    build_slowly(problems, run, log)
    assert dataset_bytes(run) == dataset_bytes(tmp_path / "whole")
    assert not (run / "dataset.old").exists() and not (run / "dataset.part").exists()


def test_a_commit_that_fails_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk that only a log knows of would have the policy generate on for nothing."""
    commit, commits = Store.commit, itertools.count()

    def full(self: Store) -> None:
        if next(commits) == 5:
            self._db.execute("PRAGMA max_page_count = 1")
        commit(self)

    monkeypatch.setattr(Store, "commit", full)
    engine = policy(concurrency=4, delay=0.001)
    with pytest.raises(UserError, match="cannot write .*store.sqlite: database or disk is full"):
        build(recipe(write_sums(tmp_path, 3000), samples=6), tmp_path / "run", engine=engine, quiet=True)
    assert engine.calls < 2000
    monkeypatch.undo()
    built = build(recipe(tmp_path / "problems.jsonl", samples=6), tmp_path / "run", engine=policy(), quiet=True)
    build(recipe(tmp_path / "problems.jsonl", samples=6), tmp_path / "fresh", engine=policy(), quiet=True)
    assert dataset_bytes(built.out) == dataset_bytes(tmp_path / "fresh")
