"""kill -9 while a verb writes: what stands under a final name is whole."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.sums import policy, recipe, write_sums
from hard.conftest import some

from specs_data import build
from specs_data.look.report import report
from specs_data.share.export import export
from specs_data.share.merge import merge

VERBS: dict[str, Callable[[Path, Path], object]] = {
    "export": lambda run, out: export(run, "llamafactory", out / "new"),
    "export again": lambda run, out: export(run, "llamafactory", out),
    "merge": lambda run, out: merge([run, run.parent / "other"], out / "new"),
    "report": lambda run, out: report(run, out / "report.html"),
}


def work(verb: str, run: Path, out: Path) -> None:
    """One verb, in a process of its own."""
    VERBS[verb](run, out)


def files(out: Path) -> dict[str, bytes]:
    """What stands under final names."""
    found = (file for file in out.rglob("*") if file.is_file())
    return {
        file.relative_to(out).as_posix(): file.read_bytes()
        for file in found
        if not file.name.endswith(".part") and not any(part.startswith(".") for part in file.relative_to(out).parts)
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and another one beside it."""
    folder = tmp_path_factory.mktemp("runs")
    for name, first in (("run", 300), ("other", 40)):
        problems = write_sums(folder / f"{name}-problems", first, pictures=True)
        build(recipe(problems), folder / name, engine=policy(), quiet=True)
    return folder / "run"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("number", some(25, 1))
def test_a_killed_verb_leaves_whole_files(tmp_path: Path, run: Path, verb: str, number: int, tally: Callable) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["specs_data.share.export", "specs_data.share.merge", "specs_data.look.report"])
    whole, out = tmp_path / "whole", tmp_path / "out"
    for place in (whole, out):
        place.mkdir()
    begun = time.monotonic()
    child = context.Process(target=work, args=(verb, run, whole))
    child.start()
    child.join()
    took = time.monotonic() - begun
    child = context.Process(target=work, args=(verb, run, out))
    child.start()
    time.sleep(random.Random(number).uniform(0.3, 1.0) * took)
    child.kill()
    child.join()
    wanted, found = files(whole), files(out)
    assert all(wanted.get(name, content) == content for name, content in found.items())
    assert verb == "export again" or set(found) >= set(wanted) or not found
    if verb != "merge" or not found:
        work(verb, run, out)
    assert files(out) == files(whole)
    tally(f"{verb}: {'cut off' if child.exitcode else 'done before'}")
