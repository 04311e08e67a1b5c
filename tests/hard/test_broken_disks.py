"""An error at every call of a verb that changes anything on the disk: the verb ends in one sentence, or comes out as if
nothing had been; what stands under a final name is whole, and the same command ends the work."""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fakes.broken_disk import Broken, Done
from fakes.sums import write_sums
from hard.conftest import assert_sentence, few
from msgspec import Struct

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the disk is broken by a library that is compiled")
FEW = 8  # two are at the policy or the verifier, and some came that were not committed yet

# Each notes what it was asked, outside of the folder that breaks.
ENGINE = r"""
import hashlib
from pathlib import Path
from specs_data.records import Response
class policy:
    concurrency = 2
    def __init__(self, policy, sampling, options):
        pass
    async def generate(self, request):
        with (Path.cwd().parent / "asked").open("a") as notes:
            notes.write("x")
        number = int(request.messages[-1].content.split()[2])
        kind = hashlib.sha256(str(request.seed).encode()).digest()[0] % 4
        answer = number + 1 + (kind == 2)
        thought = f"{number} + 1 = {answer}."
        return Response(f"<think>{thought}</think>\n<answer>\\boxed{{{answer}}}</answer>" if kind != 3 else thought)
    async def close(self):
        pass
"""
VERIFIER = """
from pathlib import Path
from specs_data.records import Verdict
class check:
    concurrency = 2
    paid = True
    settings = {}
    def __init__(self, fmt):
        pass
    async def verify(self, judged, images):
        with (Path.cwd().parent / "paid").open("a") as notes:
            notes.write("x")
        return Verdict(True, "mine")
    async def close(self):
        pass
"""
POLICY = ("--engine", "./policy.py", "--policy", "p", "--problems", "problems.jsonl")
BUILD = ("build", *POLICY, "--verifier", "./check.py", "--samples", "4", "--holdout", "0.25", "-q", "--out")
# By what is done: the command, what it makes, and the beginning of the paths at which the disk is broken.
VERBS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "build": ((*BUILD, "run"), "run/dataset", ""),
    "build: answers": ((*BUILD, "run"), "run/dataset", "run/answers.sqlite"),
    "build again": ((*BUILD, "given", "--seed", "5"), "given/dataset", ""),
    "dry run": ((*BUILD, "dry", "--dry-run"), "", ""),
    "merge": (("merge", "given", "other", "--out", "merged"), "merged", ""),
    "export": (("export", "given", "--to", "llamafactory", "--out", "exported"), "exported", ""),
    "export again": (("export", "given", "--to", "llamafactory", "--out", "there"), "there", ""),
    "export prompts": (("export", "problems.jsonl", "--to", "verl", "--out", "prompts"), "prompts", ""),
    "report": (("report", "given", "--out", "page/report.html"), "page", ""),
    "show --dropped": (("show", "given", "--dropped"), "", ""),
    "evaluate": (("evaluate", *POLICY, "--samples", "2", "--out", "figures/it.json"), "figures/it.json", ""),
    "errors": (("errors", *POLICY, "--samples", "2", "--out", "figures/it.json"), "figures/it.json", ""),
    "init": (("init",), "specs-data.toml", ""),
}  # fmt: skip


class World(Struct, frozen=True):
    """Where verbs are tried, what each gives, and what it costs: by its name."""

    disk: Broken
    sources: Path
    wanted: dict[str, dict[str, bytes]]
    seen: dict[str, int]
    asked: dict[str, tuple[int, int]]
    logged: dict[str, dict[tuple[Any, ...], bytes]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Problems, plug-ins, two finished runs and an export."""
    sources = tmp_path_factory.mktemp("sources")
    write_sums(sources, 8, pictures=True)
    (sources / "policy.py").write_text(ENGINE)
    (sources / "check.py").write_text(VERIFIER)
    with Broken(tmp_path_factory.mktemp("disk")) as disk:
        for run in ("given", "other"):
            assert disk.play((*BUILD, run), sources, sources).status == 0
        assert disk.play(("export", "other", "--to", "llamafactory", "--out", "there"), sources, sources).status == 0
        yield World(disk, sources, {}, {}, {}, {})


def play(world: World, folder: Path, name: str, fault: int = -1, **how: Any) -> Done:
    verb, _, under = VERBS[name]
    return world.disk.play(verb, folder, folder / under if under else folder, fault, **how)


def made(folder: Path, name: str) -> dict[str, bytes]:
    """The files that the verb has made. A card says on which day it was written, a manifest how long it took."""
    place = folder / (VERBS[name][1] or "nothing")
    found = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def counted(folder: Path) -> tuple[int, int]:
    """How often the policy and the verifier were asked."""
    notes = [folder.parent / name for name in ("asked", "paid")]
    asked, paid = (len(note.read_text()) if note.exists() else 0 for note in notes)
    return asked, paid


def whole(world: World, name: str, folder: Path) -> None:
    """What the verb gives where nothing breaks."""
    if name in world.wanted:
        return
    shutil.copytree(world.sources, folder)
    done = play(world, folder, name)
    assert done.status == 0, done.err
    world.wanted[name], world.seen[name], world.asked[name] = made(folder, name), done.seen, counted(folder)
    world.logged[name] = logged(folder / "run" / "store.sqlite")


def logged(store: Path) -> dict[tuple[Any, ...], bytes]:
    """Every response on record, by the problem itself."""
    if not store.exists():
        return {}
    copy = store.parent.parent.parent / "copy"  # who opens a store changes it
    for file in store.parent.glob("store.sqlite*"):
        copy.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    query = "SELECT p.record, s.settings, s.idx, s.record FROM samples s JOIN problems p ON p.id = s.problem"
    with closing(sqlite3.connect(copy / store.name)) as db:
        try:
            return {tuple(key): record for *key, record in db.execute(query)}
        except sqlite3.OperationalError:  # it has no tables yet
            return {}


def broken(folder: Path, world: World, name: str, fault: int, once: bool, tally: Callable) -> None:
    """One trial."""
    work = folder / "work"
    shutil.copytree(world.sources, work)
    error = random.Random(fault).choice((errno.EIO, errno.ENOSPC, errno.EROFS))
    done = play(world, work, name, fault, error=error, once=once)
    where = f"call {fault} ({done.failed.replace(str(work), '')}, {errno.errorcode[error]}): {done}"
    assert done.status in (0, 2) and "Traceback" not in done.err, where
    if done.status == 2:
        assert_sentence(done.err.strip().splitlines()[-1], "error: ")  # there may be a warning before
        assert "[Errno" not in done.err, where  # which would not say where
    elif VERBS[name][1]:
        assert same(made(work, name), world.wanted[name], name), where
    found = logged(work / "run" / "store.sqlite")
    assert all(world.logged[name].get(key) == record for key, record in found.items()), where
    again = play(world, work, name)
    # Where the last sync failed all is there, which is looked at below.
    assert again.status == 0 or "exists" in again.err, f"{where}; then {again.err}"
    assert same(made(work, name), world.wanted[name], name), where
    more = [now - before for now, before in zip(counted(work), world.asked[name], strict=True)]
    assert max(more) <= FEW or name == "errors", f"{where}: asked {more} more"
    tally(f"{name}: {'ended in a sentence' if done.status else 'came out as if nothing had been'}")
    shutil.rmtree(folder)


def same(found: dict[str, bytes], wanted: dict[str, bytes], name: str) -> bool:
    """Are these the files that are wanted? Some say when they were made."""
    timed = ("README.md", "manifest.json", "report.html", "it.json")
    return found.keys() == wanted.keys() and all(found[file] == wanted[file] or file.endswith(timed) for file in wanted)


@pytest.mark.parametrize("name", few(VERBS, 2))
def test_an_error_at_some_writes(tmp_path: Path, world: World, name: str, tally: Callable) -> None:
    whole(world, name, tmp_path / "whole" / "work")
    for fault in random.Random(name).sample(range(world.seen[name]), 2):
        broken(tmp_path / str(fault), world, name, fault, fault % 2 == 0, tally)


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_an_error_at_every_write(tmp_path: Path, world: World, name: str, tally: Callable) -> None:
    whole(world, name, tmp_path / "whole" / "work")
    for fault in range(world.seen[name]):
        broken(tmp_path / str(fault), world, name, fault, fault % 2 == 1, tally)
