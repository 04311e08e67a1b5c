"""Write and push 10,000 pairs with pictures of 100 kB, against Dataset.push_to_hub.

    python benchmarks/publish.py [--rows 10000] [--kilobytes 100] [--out benchmarks/results/publish.md]

The Hub is the tests' one, on the loopback: what is measured is the client's own work (building the
files, hashing, chunking, checking), without a network. Each client is a process of its own; seconds
are wall time, memory is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fakes.hub_server import Hub

ROWS = """
import json, random, resource, sys, time
from pathlib import Path
count, size, folder = int(sys.argv[1]), 1000 * int(sys.argv[2]), Path(sys.argv[3])
pictures = [random.Random(number).randbytes(size) for number in range(64)]

def turn(role, content):
    return [{"role": role, "content": content}]

def rows():
    for number in range(count):
        picture = number.to_bytes(8, "big") + pictures[number % 64][8:]
        thought = f"There are {number} things, and " + "some of them are red, so we count them one by one. " * 20
        yield {
            "id": f"row-{number}",
            "images": [{"bytes": picture, "path": f"{number}.png"}],
            "prompt": turn("user", f"How many red things are there in picture {number}?"),
            "chosen": turn("assistant", f"<think>{thought}</think>\\n<answer>{number}</answer>"),
            "rejected": turn("assistant", f"{thought}\\n{number}"),
            "problem_id": f"problem-{number}", "answer": str(number), "answer_type": "numeric",
            "corruption": "remove_all_tags", "rejected_from": "chosen", "policy": "tiny", "verifier": "rules",
        }

times = {}
def timed(name, start):
    times[name] = time.perf_counter() - start

start = time.perf_counter()
"""
OURS = """
from specs_data.pairs.parquet import write_shards
from specs_data.share.push import carry_out, plan_push
from specs_data.pairs.rows import open_dataset
timed("import", start)
start = time.perf_counter()
write_shards(rows(), folder, "train")
timed("write", start)
start = time.perf_counter()
plan = plan_push(open_dataset(folder), "me/ours", tag="v1.0.0")
timed("plan", start)
start = time.perf_counter()
carry_out(plan)
timed("push", start)
"""
THEIRS = """
from datasets import Dataset, Features, Image, List, Value
timed("import", start)
text, turns = Value("string"), List({"role": Value("string"), "content": Value("string")})
names = "id problem_id answer answer_type corruption rejected_from policy verifier".split()
features = Features(
    {"images": List(Image())} | {n: turns for n in ("prompt", "chosen", "rejected")} | {n: text for n in names}
)
start = time.perf_counter()
pairs = Dataset.from_generator(rows, features=features, cache_dir=str(folder))
timed("write", start)
start = time.perf_counter()
pairs.push_to_hub("me/theirs", private=True)
timed("push", start)
"""
END = """
used = resource.getrusage(resource.RUSAGE_SELF)
times |= {"megabytes": used.ru_maxrss / 1000, "cpu": used.ru_utime + used.ru_stime}
Path(sys.argv[4]).write_text(json.dumps(times))
"""


def measure(code: str, rows: int, kilobytes: int, xet: bool) -> dict[str, float]:
    """Seconds per step and the peak of memory of one client with a Hub of its own."""
    with tempfile.TemporaryDirectory() as folder, Hub() as hub:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": f"{folder}/home",
            "HF_TOKEN": "hf_" + "a" * 34,
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }
        result = Path(folder) / "result.json"
        subprocess.run(
            [sys.executable, "-c", ROWS + code + END, str(rows), str(kilobytes), f"{folder}/data", str(result)],
            env=os.environ | settings,
            check=True,
        )
        found: dict[str, float] = json.loads(result.read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "publish.md")
    asked = parser.parse_args()
    lines = [
        f"# Publishing {asked.rows:,} pairs with pictures of {asked.kilobytes} kB",
        "",
        f"Python {platform.python_version()}, datasets {version('datasets')}, huggingface_hub "
        f"{version('huggingface_hub')}, pyarrow {version('pyarrow')}; {os.cpu_count()} CPU cores; the Hub on the "
        "loopback. `python benchmarks/publish.py`",
        "",
        "| | write | plan and checks | push | all | processor time | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for path, xet in (("Git LFS", False), ("Xet", True)):
        for name, code in (("specs-data", OURS), ("Dataset.push_to_hub", THEIRS)):
            t = measure(code, asked.rows, asked.kilobytes, xet)
            steps = [t["write"], t.get("plan", 0.0), t["push"]]
            cells = [f"{step:.1f} s" if step else "none" for step in steps]
            cells += [f"{sum(steps):.1f} s", f"{t['cpu']:.1f} s", f"{t['megabytes']:,.0f} MB"]
            lines.append(f"| {name}, {path} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    lines += [
        "",
        "`specs-data push` looks for secrets, local paths and missing pictures, makes one guarded commit and a tag, "
        "and reads counts and hashes back from the tag; `push_to_hub` makes neither tag nor check. The write of "
        "`Dataset` is its Arrow cache; its Parquet files are built during the push. Wall times move with what else the "
        "machine does (it was busy here); processor time is the figure to compare.",
    ]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
