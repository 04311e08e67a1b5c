"""kill -9 at any moment of a verb: what stands under a final name is whole, and the same command ends the work as if
nothing had been."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.hub_server import Hub
from fakes.sums import build_slowly, dataset_bytes, policy, recipe, write_sums
from hard.conftest import some

from specs_data import build
from specs_data.look.report import report
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.recipe import make_recipe
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


def killed(work: Callable[..., object], *given: object, within: tuple[float, float], number: int) -> bool:
    """Do `work` in a process of its own, and kill that some seconds after its start; whether it was not done yet."""
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=work, args=given)
    child.start()
    child.join(random.Random(number).uniform(*within))
    child.kill()
    child.join()
    return child.exitcode != 0


def seconds_of(work: Callable[..., object], *given: object) -> float:
    """What `work` takes in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    begun = time.monotonic()
    child = context.Process(target=work, args=given)
    child.start()
    child.join()
    assert child.exitcode == 0
    return time.monotonic() - begun


# Building


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A build that nothing happened to, its problems, and how long it took."""
    folder = tmp_path_factory.mktemp("built")
    problems = write_sums(folder, 60, pictures=True)
    (folder / "log").touch()
    return folder, seconds_of(build_slowly, problems, folder / "run", folder / "log")


@pytest.mark.parametrize("number", some(30, 1))
def test_a_killed_build_comes_out_the_same(
    tmp_path: Path, built: tuple[Path, float], number: int, tally: Callable
) -> None:
    whole, took = built
    arguments = (whole / "problems.jsonl", tmp_path / "run", tmp_path / "log")
    (tmp_path / "log").touch()
    cut = killed(build_slowly, *arguments, within=(0.1 * took, took), number=number)
    build_slowly(*arguments)
    assert dataset_bytes(tmp_path / "run") == dataset_bytes(whole / "run")
    asked = (tmp_path / "log").read_text().count("x"), (whole / "log").read_text().count("x")
    assert asked[0] - asked[1] <= 4, "more than what was in flight is asked for again"
    tally(f"build: {'cut off' if cut else 'done before'}")


def sample(problems: Path, out: Path) -> None:
    """A build with a real model."""
    wanted = {"policy": str(checkpoint("grpo-zero")), "engine": "transformers", "verifier": "rules", "samples": 3}
    build(make_recipe({**wanted, "problems": str(problems), "dtype": "float32", "batch_size": 4}), out, quiet=True)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A build with a real model that nothing happened to."""
    folder = tmp_path_factory.mktemp("sampled")
    return folder, seconds_of(sample, write_problems(folder, 12, seed=5), folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_a_killed_build_with_a_model_loses_no_response(
    tmp_path: Path, sampled: tuple[Path, float], number: int, tally: Callable
) -> None:
    whole, took = sampled
    problems = next(whole.glob("*.jsonl"))
    cut = killed(sample, problems, tmp_path / "run", within=(0.3 * took, took), number=number)
    sample(problems, tmp_path / "run")
    assert dataset_bytes(tmp_path / "run") == dataset_bytes(whole / "run")
    tally(f"build with transformers: {'cut off' if cut else 'done before'}")


# Training


def train(kind: str, folder: Path, out: Path) -> None:
    """A trainer's work: six steps, a checkpoint after each."""
    from fakes.train_world import NANO

    from specs_data.train.dpo import train_dpo
    from specs_data.train.grpo import train_grpo
    from specs_data.train.settings import DpoSettings, GrpoSettings, SftSettings
    from specs_data.train.sft import train_sft

    shared: dict[str, Any] = {"model": str(folder / "nano"), "out": out, "save_every": 1, "keep_checkpoints": 2, **NANO}
    pairs = str(folder / "pairs")
    if kind == "dpo":
        train_dpo(DpoSettings(data=pairs, steps=6, batch=4, micro_batch=2, **shared))
    elif kind == "sft":
        train_sft(SftSettings(data=pairs, steps=6, batch=4, micro_batch=2, **shared))
    else:
        shape: dict[str, Any] = {
            "batch": 8,
            "rollout_batch": 2,
            "rollouts": 4,
            "micro_batch": 4,
            "max_tokens": 8,
            "steps": 6,
        }
        shape["accuracy_window"] = (0.0, 1.0)
        train_grpo(GrpoSettings(problems=(str(folder / "problems.jsonl"),), **shape, **shared))


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pairs and problems."""
    from fakes.train_world import nano_checkpoint, preference_dataset, problem_file

    folder = tmp_path_factory.mktemp("school")
    nano_checkpoint(folder / "nano")
    preference_dataset(folder / "pairs", 8)
    made = problem_file(folder)
    if made != folder / "problems.jsonl":
        shutil.copy(made, folder / "problems.jsonl")
    return folder


TOOK: dict[str, float] = {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "sft", "grpo"])
@pytest.mark.parametrize("number", range(10))
def test_a_killed_training_comes_out_the_same(
    tmp_path: Path, school: Path, kind: str, number: int, tally: Callable
) -> None:
    pytest.importorskip("trl")
    whole = school / f"whole-{kind}"
    if kind not in TOOK:
        TOOK[kind] = seconds_of(train, kind, school, whole)
    cut = killed(train, kind, school, tmp_path / "out", within=(0.3 * TOOK[kind], TOOK[kind]), number=number)
    assert not (tmp_path / "out" / "manifest.json").exists() or (tmp_path / "out" / "model.safetensors").exists()
    if cut:
        assert seconds_of(train, kind, school, tmp_path / "out")
    weights = [(out / "model.safetensors").read_bytes() for out in (whole, tmp_path / "out")]
    assert weights[0] == weights[1], "other weights than without a kill"
    tally(f"train {kind}: {'cut off' if cut else 'done before'}")


# Publishing


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as started:
        yield started


def push(run: Path, name: str, hub: Hub, home: Path) -> subprocess.Popen[str]:
    given = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_" + "a" * 34, "HF_HUB_OFFLINE": "0",
             "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "specs_data",
        "push",
        str(run),
        f"me/{name}",
        "--tag",
        "v1.0.0",
        "--license",
        "mit",
    ]
    return subprocess.Popen(
        command, env=os.environ | given, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.parametrize("number", some(25, 0))
def test_a_killed_push_is_finished_by_the_next(
    tmp_path: Path, run: Path, hub: Hub, number: int, tally: Callable
) -> None:
    if "push" not in TOOK:
        begun = time.monotonic()
        said, _ = push(run, "whole", hub, tmp_path / "home").communicate()
        assert "v1.0.0" in hub.repos["me/whole"].tags, said
        TOOK["push"] = time.monotonic() - begun
    name = f"killed-{number}"
    with push(run, name, hub, tmp_path / "home") as child:
        try:
            child.wait(random.Random(number).uniform(0.3, 1.0) * TOOK["push"])
        except subprocess.TimeoutExpired:
            child.kill()
    repo = hub.repos.get(f"me/{name}")
    there = repo is not None and "v1.0.0" in repo.tags
    if not there:
        with push(run, name, hub, tmp_path / "home") as again:
            said, _ = again.communicate()
        assert again.returncode == 0, said
    wanted, found = (
        {path: file.content for path, file in hub.repos[f"me/{each}"].files("v1.0.0").items() if path != "README.md"}
        for each in ("whole", name)
    )
    assert found == wanted
    tally(f"push: {'done before' if there else 'cut off'}")
