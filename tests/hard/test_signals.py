"""Ctrl-C and SIGTERM at any moment of any verb: it ends with 130 or 143 and one line, what stands under a final name is
whole, and the same command ends the work."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.hub_server import Hub
from fakes.sums import policy, recipe, write_sums
from hard.conftest import few

from specs_data import build

BOUND = 120  # seconds, on a busy machine
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
# A policy that takes its time.
SLOW = """
import asyncio
from specs_data.records import Response
class slow:
    concurrency = 2
    def __init__(self, policy, sampling, options):
        pass
    async def generate(self, request):
        await asyncio.sleep(0.02)
        return Response("<think>1 + 1 = 2.</think>\\n<answer>\\\\boxed{2}</answer>")
    async def close(self):
        pass
"""
POLICY = ("--engine", "./slow.py", "--policy", "p", "--problems", "problems.jsonl", "--samples", "2")
VERBS: dict[str, tuple[str, ...]] = {
    "build": ("build", *POLICY, "--verifier", "none", "--out", "built"),
    "evaluate": ("evaluate", *POLICY, "--out", "figures/evaluation.json"),
    "errors": ("errors", *POLICY, "--out", "figures/errors.json"),
    "merge": ("merge", "run", "other", "--out", "merged"),
    "export": ("export", "run", "--to", "llamafactory", "--out", "exported"),
    "report": ("report", "run", "--out", "page/report.html"),
    "check": ("check", "run"),
    "show": ("show", "run", "-n", "50"),
    "push": ("push", "run", "me/NAME", "--tag", "v1.0.0", "--license", "mit"),
    "train sft": ("train", "sft", "--model", "nano", "--data", "run", "--steps", "6", "--batch", "2",
                  "--micro-batch", "2", "--out", "trained"),
}  # fmt: skip
TOOK: dict[str, float] = {}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Hub]]:
    """Two runs, a policy, and a Hub on the loopback."""
    folder = tmp_path_factory.mktemp("world")
    for name, count in (("run", 120), ("other", 40)):
        build(recipe(write_sums(folder / f"{name}-problems", count, pictures=True)), folder / name, engine=policy(),
              quiet=True)  # fmt: skip
    write_sums(folder, 30)
    (folder / "slow.py").write_text(SLOW)
    with Hub() as hub:
        yield folder, hub


def is_ready(child: subprocess.Popen[str]) -> bool:
    """Does it handle SIGTERM by now? Before that Python itself ends it."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)


def start(folder: Path, hub: Hub, verb: str, name: str) -> subprocess.Popen[str]:
    given = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_TOKEN": "hf_" + "a" * 34,
             "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    command = [word.replace("NAME", name) for word in VERBS[verb]]
    return subprocess.Popen(
        [sys.executable, "-m", "specs_data", *command], cwd=folder, env=os.environ | given, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def linked(world: Path, folder: Path) -> Path:
    """The world, in a folder of its own."""
    for place in world.iterdir():
        (folder / place.name).symlink_to(place)
    return folder


TRIALS = [f"{verb}: {number.name} {moment}" for verb in VERBS for number in STATUS for moment in range(4)]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="who is ready is seen in /proc")
@pytest.mark.parametrize("trial", few(TRIALS, 1))
def test_a_signal_ends_any_verb(tmp_path: Path, world: tuple[Path, Hub], trial: str, tally: Callable) -> None:
    verb, _, rest = trial.partition(": ")
    number = signal.Signals[rest.split()[0]]
    folder, hub = linked(world[0], tmp_path), world[1]
    if verb.startswith("train") and not (world[0] / "nano").exists():
        pytest.importorskip("trl")
        from fakes.train_world import nano_checkpoint

        nano_checkpoint(world[0] / "nano")
        (folder / "nano").symlink_to(world[0] / "nano")
    name = f"{verb.replace(' ', '-')}-{TRIALS.index(trial)}"
    if verb not in TOOK:
        (whole := tmp_path / "whole").mkdir()
        TOOK[verb] = seconds_of(start(linked(world[0], whole), hub, verb, f"{name}-whole"))
    child = start(folder, hub, verb, name)
    while child.poll() is None and not is_ready(child):
        time.sleep(0.01)
    time.sleep(random.Random(trial).uniform(0, TOOK[verb]))
    child.send_signal(number)
    out, err = child.communicate(timeout=BOUND)
    assert "Traceback" not in err + out, err
    assert child.returncode in (0, STATUS[number]), (child.returncode, err)
    if child.returncode:
        assert err.count("interrupted; the same command goes on from here") == 1, err
    again = start(folder, hub, verb, name)
    out, err = again.communicate(timeout=BOUND)
    done_before = verb == "merge" and child.returncode == 0 and "already exists" in err
    assert again.returncode == 0 or done_before, err
    tally(f"{verb}: {'cut off' if child.returncode else 'done before'}")


def seconds_of(child: subprocess.Popen[str]) -> float:
    """What the verb takes from when it handles signals to its end."""
    while child.poll() is None and not is_ready(child):
        time.sleep(0.01)
    begun = time.monotonic()
    out, err = child.communicate(timeout=BOUND)
    assert child.returncode == 0, err + out
    return time.monotonic() - begun
