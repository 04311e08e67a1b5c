"""The main job with the real vLLM, in process and as a server: adaptive sampling, and resume after a kill."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from specs_data.mini.world import write_problems

SPECS_DATA = str(Path(sys.executable).with_name("specs-data"))
PROBLEMS = 48
SAMPLES = 6


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with PROBLEMS drawn puzzles."""
    return write_problems(tmp_path_factory.mktemp("problems"), PROBLEMS, seed=77)


def command(problems: Path, run: Path, *how: str) -> list[str]:
    build = [SPECS_DATA, "build", "--problems", str(problems), "--out", str(run)]
    build += ["--verifier", "rules", "--samples", str(SAMPLES), "--max-tokens", "200", *how]
    return build


def samples(run: Path) -> list[tuple[Any, ...]]:
    """(problem, index) of every response in the store, from a copy: a build has its store to itself."""
    with tempfile.TemporaryDirectory() as folder:
        for file in run.glob("store.sqlite*"):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder, "store.sqlite"))) as store:
            try:
                return store.execute("SELECT problem, idx FROM samples").fetchall()
            except sqlite3.DatabaseError:
                return []


def kill_on_the_way(build: Sequence[str], run: Path, after: int) -> int:
    """kill -9 the build when it has `after` responses; how many it kept."""
    process = subprocess.Popen(build)
    deadline = time.monotonic() + 240
    while len(samples(run)) < after:
        assert process.poll() is None, "the build ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    return len(samples(run))


def cores() -> set[int]:
    """vLLM's core processes on this machine, by their titles."""
    titles = ((file.parent.name, file.read_bytes()) for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists())
    return {int(number) for number, title in titles if b"VLLM::EngineCore" in title}


def test_a_killed_build_takes_the_core_with_it(
    checkpoint: str, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # as users run it
    before = cores()
    build = command(
        problems, tmp_path / "run", "--engine", "vllm", "--policy", checkpoint, "--max-model-len", "512",
        "--dtype", "float32", "--engine-arg", "enforce_eager=true",
    )  # fmt: skip
    process = subprocess.Popen(build)
    wait_until(lambda: bool(cores() - before))
    wait_until(lambda: bool(samples(tmp_path / "run")))
    process.kill()
    process.wait()
    wait_until(lambda: cores() <= before)


def wait_until(holds: Callable[[], bool], seconds: float = 240) -> None:
    """Raises AssertionError when it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check_adaptive(run: Path) -> dict[str, Any]:
    """No problem was asked more than it had to be, and most have a pair."""
    manifest: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    pairs = manifest["counts"]["pairs"]
    kept_after = sum(int(count) * number for count, number in manifest["samples_per_pair"].items())
    assert pairs > PROBLEMS / 2
    assert manifest["counts"]["sampled"] == kept_after + SAMPLES * (PROBLEMS - pairs)
    assert manifest["counts"]["sampled"] < SAMPLES * PROBLEMS
    asked = samples(run)
    assert len(asked) == len(set(asked)) == manifest["counts"]["sampled"]
    assert manifest["tokens"]["generation"]["completion"] > 0
    return manifest


def test_in_process(checkpoint: str, problems: Path, tmp_path: Path) -> None:
    build = command(
        problems, tmp_path / "run", "--engine", "vllm", "--policy", checkpoint, "--max-model-len", "512",
        "--dtype", "float32",
    )  # fmt: skip
    kept = kill_on_the_way(build, tmp_path / "run", 8)
    subprocess.run(build, check=True, timeout=300)
    manifest = check_adaptive(tmp_path / "run")
    assert manifest["counts"]["sampled"] > kept
    check = [SPECS_DATA, "check", str(tmp_path / "run" / "dataset")]
    subprocess.run(check, check=True, timeout=120)


@pytest.fixture(scope="module")
def whole(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sequence[str], Path]:
    """A build of many problems that nothing happened to, but for its folder."""
    folder = tmp_path_factory.mktemp("whole")
    build = command(
        write_problems(folder, 300, seed=77), folder / "run", "--engine", "vllm", "--policy", checkpoint,
        "--max-model-len", "512", "--dtype", "float32",
    )  # fmt: skip
    subprocess.run(build, check=True, timeout=600)
    return build, folder / "run"


def rows_of(run: Path) -> dict[str, bytes]:
    """The files of rows. The card also counts what was asked ahead, which depends on the clock."""
    return {file.name: file.read_bytes() for file in sorted((run / "dataset" / "data").iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_a_killed_build_gives_the_same_pairs(whole: tuple[Sequence[str], Path], tmp_path: Path, number: int) -> None:
    build, run = whole
    again = [*build, "--out", str(tmp_path / "run")]
    kept = kill_on_the_way(again, tmp_path / "run", random.Random(number).randrange(1, len(samples(run))))
    subprocess.run(again, check=True, timeout=600)
    assert rows_of(tmp_path / "run") == rows_of(run)
    assert kept <= len(samples(tmp_path / "run"))


def test_as_a_server(server: str, problems: Path, tmp_path: Path) -> None:
    build = command(problems, tmp_path / "run", "--engine", "openai", "--base-url", server, "--model", "mini")
    kept = kill_on_the_way(build, tmp_path / "run", 8)
    subprocess.run(build, check=True, timeout=300)
    manifest = check_adaptive(tmp_path / "run")
    assert manifest["counts"]["sampled"] > kept
