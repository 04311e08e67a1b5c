"""What the host itself costs: a build with a scripted policy that answers at once, everything stored durably.

    python benchmarks/host.py cost               ms a row, 10,000 and 100,000 problems
    python benchmarks/host.py memory             peak memory, 10,000 and 1,000,000 problems
    python benchmarks/host.py disk               bytes on disk over bytes of pictures of 100 KB

Each size runs in a process of its own. A row is one problem, one response, its judgement, verdict and
pair, and one row of the dataset. A sampled row is the part of it that other tools do as well: one problem
and one response. The slope between two sizes leaves out what starting up costs.
"""

from __future__ import annotations

import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from PIL import Image

from specs_data import build, make_recipe
from specs_data.build.flow import Flow
from specs_data.engines import Engine
from specs_data.engines.scripted import ScriptedEngine
from specs_data.records import Request
from specs_data.rollouts.search import Outcome, Turn


def respond(request: Request) -> str:
    """Always right and well formed."""
    number = int(request.messages[-1].content.split()[2]) + 1
    return f"<think>Adding one to the number gives {number}.</think>\n<answer>\\boxed{{{number}}}</answer>"


async def sample_only(flow: Flow, engine: Engine | None, number: int, index: int, turn: Turn = Turn.POLICY) -> Outcome:
    """In place of `Flow.choose`: the response is asked for and stored, and that is all."""
    problem = flow._unseen.pop(number)
    await flow.sample(flow._nothing, engine, flow.policy, problem, number, index)
    return Outcome.OVER


def write_problems(folder: Path, count: int, pictures: bool) -> Path:
    """Sums; with `pictures`, each with a JPEG of about 100 KB."""
    file = folder / "problems.jsonl"
    noise = random.Random(0)
    with file.open("w") as lines:
        for number in range(count):
            row = {"id": f"sum-{number}", "question": f"What is {number} + 1?", "answer": str(number + 1)}
            if pictures:
                data = io.BytesIO()
                Image.frombytes("RGB", (230, 230), noise.randbytes(230 * 230 * 3)).save(data, "JPEG", quality=97)
                (folder / f"{number}.jpg").write_bytes(data.getvalue())
                row |= {"images": [f"{number}.jpg"]}
            lines.write(json.dumps(row) + "\n")
    return file


def measure(count: int, verifier: str, pictures: bool = False) -> dict[str, float]:
    """One build in this process, "sampled" or with a verifier: seconds, CPU seconds, peak memory in MB, bytes on
    disk and of pictures."""
    sampled = verifier == "sampled"
    choose = sample_only if sampled else Flow.choose
    with tempfile.TemporaryDirectory() as name, patch.object(Flow, "choose", choose):
        folder = Path(name)
        problems = write_problems(folder, count, pictures)
        recipe = make_recipe({"problems": str(problems), "verifier": "none" if sampled else verifier})
        wall, cpu = time.perf_counter(), time.process_time()
        built = build(recipe, folder / "run", engine=ScriptedEngine(respond), quiet=True)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert built.manifest["counts"]["sampled"] == count
        assert built.count == (0 if sampled else count)
        return {
            "wall": wall,
            "cpu": cpu,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "disk": sum(file.stat().st_size for file in (folder / "run").rglob("*") if file.is_file()),
            "pictures": sum(file.stat().st_size for file in folder.glob("*.jpg")),
        }


def apart(count: int, verifier: str, pictures: bool = False) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "one", str(count), verifier, *(["pictures"] if pictures else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # type: ignore[no-any-return]


def cost() -> None:
    """ms a row."""
    titles = {"sampled": "sampled rows", "none": "rows without a verifier", "rules": "rows verified by rules"}
    for verifier, title in titles.items():
        small, large = apart(10_000, verifier), apart(100_000, verifier)
        for key in ("wall", "cpu"):
            slope = (large[key] - small[key]) / 90
            print(
                f"{title}, {key}: 10,000 rows {small[key] / 10:.3f} ms a row, "
                f"100,000 rows {large[key] / 100:.3f}, slope {slope:.3f}"
            )
        print(f"{title}, peak memory: {small['memory']:.0f} MB and {large['memory']:.0f} MB")


def memory() -> None:
    """Peak memory from 10,000 to 1,000,000 problems."""
    small, large = apart(10_000, "none"), apart(1_000_000, "none")
    grown = large["memory"] - small["memory"]
    print(f"peak memory: {small['memory']:.0f} MB and {large['memory']:.0f} MB, {grown:+.0f} MB")
    print(f"1,000,000 rows: {large['wall'] / 1000:.3f} ms a row")


def disk() -> None:
    """Bytes on disk over bytes of pictures."""
    found = apart(2_000, "none", pictures=True)
    print(
        f"store and dataset {found['disk'] / 1e6:.1f} MB, pictures {found['pictures'] / 1e6:.1f} MB, "
        f"ratio {found['disk'] / found['pictures']:.3f}; {found['wall'] / 2:.2f} ms a row"
    )


if __name__ == "__main__":
    if sys.argv[1] == "one":
        print(json.dumps(measure(int(sys.argv[2]), sys.argv[3], "pictures" in sys.argv)))
    else:
        {"cost": cost, "memory": memory, "disk": disk}[sys.argv[1]]()
