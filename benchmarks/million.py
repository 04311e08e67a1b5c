"""Every verb on a run of 100,000 and of 1,000,000 problems: seconds, processor time, peak memory, and what grows faster
than its input.

    python benchmarks/million.py [--sizes 100000 1000000] [--folder DIR] [--results FILE] [--only VERB ...]

Each verb is the command in a process of its own, the Hub the tests' one on the loopback. The policy is scripted: a
response is right and well formed, wrong, or malformed, three in four the first; at most four are asked for. A line is
written for each verb as soon as it ends; a table at the end says by how much a verb's processor time grew from the
smallest size to the largest, over the growth of the size: above 1, it grows faster than its input.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fakes.hub_server import Hub

ENGINE = """
import hashlib
from specs_data.engines.scripted import ScriptedEngine

def respond(request):
    number = int(request.messages[-1].content.split()[2]) + 1
    kind = hashlib.sha256(str(request.seed).encode()).digest()[0] % 8
    number += kind == 0
    text = f"Adding one to the number gives {number}."
    return text if kind == 1 else f"<think>{text}</think>\\n<answer>\\\\boxed{{{number}}}</answer>"

def policy(policy, sampling, options):
    return ScriptedEngine(respond)
"""
BUILD = (
    "build --engine ./policy.py --policy scripted --problems problems.jsonl --verifier none --samples 4 --out run -q"
)
VERBS = {
    "build": BUILD,
    "build, typed again": BUILD,
    "build with a holdout, no token": f"{BUILD} --holdout 0.01",
    "check": "check run",
    "show": "show run",
    "show --dropped": "show run --dropped",
    "report": "report run --out report.html",
    "export to LLaMA-Factory": "export run --to llamafactory --out llamafactory",
    "export to OpenRLHF": "export run --to openrlhf --out openrlhf",
    "push --dry-run": "push run me/million --tag v1.0.0 --license mit --dry-run",
    "merge with itself": "merge run run --out merged",
}


class Measured(Struct):
    """One verb at one size: wall and processor seconds, peak memory in MB, bytes on disk that it left in MB."""

    verb: str
    size: int
    seconds: float
    cpu: float
    memory: float
    disk: float


def prepare(folder: Path, size: int) -> None:
    """The problems and the policy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.py").write_text(ENGINE)
    with (folder / "problems.jsonl").open("w") as lines:
        for number in range(size):
            row = {"id": f"sum-{number}", "question": f"What is {number} + 1?", "answer": str(number + 1)}
            lines.write(json.dumps(row) + "\n")


def on_disk(folder: Path) -> float:
    """MB of files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def measure(folder: Path, verb: str, size: int) -> Measured:
    """Run one verb. Raises CalledProcessError where it fails."""
    before, begun = on_disk(folder), time.perf_counter()
    command = [sys.executable, "-m", "specs_data", *VERBS[verb].split()]
    with Hub() as hub, (folder / "said.txt").open("wb") as said:
        here = {"HF_ENDPOINT": hub.url, "HF_HOME": f"{folder}/home", "HF_TOKEN": "hf_" + "a" * 34}
        child = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=os.environ | here)
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise subprocess.CalledProcessError(status, command, (folder / "said.txt").read_text()[-2000:])
    seconds = time.perf_counter() - begun
    cpu = used.ru_utime + used.ru_stime
    return Measured(verb, size, seconds, cpu, used.ru_maxrss / 1024, on_disk(folder) - before)


def measured(folder: Path, size: int, verbs: Sequence[str]) -> Iterator[Measured]:
    """All verbs at one size."""
    prepare(folder, size)
    for verb in verbs:
        try:
            yield measure(folder, verb, size)
        except subprocess.CalledProcessError as error:
            print(f"{verb}: status {error.returncode}: {error.output}", flush=True)


def table(found: Sequence[Measured]) -> Iterator[str]:
    """Figures of the largest size, and how they grew from the smallest, over how the size grew."""
    sizes = sorted({one.size for one in found})
    small, large = ({one.verb: one for one in found if one.size == size} for size in (sizes[0], sizes[-1]))
    yield f"| verb | s at {sizes[0]:,} | s at {sizes[-1]:,} | growth | MB at {sizes[0]:,} | MB at {sizes[-1]:,} |"
    yield "|---|---|---|---|---|---|"
    for verb, many in large.items():
        if few := small.get(verb):
            growth = many.cpu / few.cpu / (sizes[-1] / sizes[0])
            cells = f"{few.seconds:.1f} | {many.seconds:.1f} | {growth:.2f} | {few.memory:.0f} | {many.memory:.0f}"
            yield f"| {verb} | {cells} |"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path("million.jsonl"))
    parser.add_argument("--only", nargs="+", choices=VERBS, default=list(VERBS))
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp())
    found = []
    for size in asked.sizes:
        for one in measured(folder / str(size), size, asked.only):
            found.append(one)
            with asked.results.open("ab") as lines:
                lines.write(msgspec.json.encode(one) + b"\n")
            print(f"{one.size:>9,} {one.verb:32} {one.seconds:8.1f} s {one.cpu:8.1f} s CPU {one.memory:7.0f} MB "
                  f"{one.disk:+8.0f} MB on disk", flush=True)  # fmt: skip
    if not asked.folder:
        shutil.rmtree(folder)
    print(*table(found), sep="\n")


if __name__ == "__main__":
    main()
