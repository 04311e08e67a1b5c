"""A small world for tests of the pipeline: sums with pictures, and a policy that plays a script."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from specs_data.engines.scripted import ScriptedEngine
from specs_data.recipe import Recipe, make_recipe
from specs_data.records import Request


def picture(number: int) -> bytes:
    """A small PNG, another one for each number."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 7)).save(data, "PNG")
    return data.getvalue()


def write_sums(folder: Path, count: int, *, pictures: bool = False) -> Path:
    """problems.jsonl with `count` sums; with `pictures`, one picture for every two problems."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        row: dict[str, Any] = {"id": f"sum-{number}", "question": f"What is {number} + 1?", "answer": str(number + 1)}
        if pictures:
            name = f"{number // 2}.png"
            (folder / name).write_bytes(picture(number // 2))
            row["images"] = [name]
        rows.append(row)
    file = folder / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def respond(request: Request) -> str:
    """By the seed: a right and well-formed response half of the time, else a wrong or a malformed one."""
    number = int(request.messages[-1].content.split()[2])
    kind = hashlib.sha256(str(request.seed).encode()).digest()[0] % 4
    answer = number + 1 + (kind == 2)
    if kind == 3:
        return f"{number} + 1 = {answer}.\n\\boxed{{{answer}}}"
    return f"<think>{number} + 1 = {answer}.</think>\n<answer>\\boxed{{{answer}}}</answer>"


def policy(**options: Any) -> ScriptedEngine:
    """The scripted policy."""
    return ScriptedEngine(respond, **options)


def recipe(problems: Path, **settings: Any) -> Recipe:
    """A recipe for sums that needs no service."""
    return make_recipe({"problems": str(problems), "verifier": "rules", **settings})


def dataset_bytes(run: Path) -> dict[str, bytes]:
    """The files of a run's dataset."""
    root = run / "dataset"
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def build_slowly(problems: Path, run: Path, log: Path, killed_at: int | None = None) -> None:
    """Build with a slow policy, four responses at a time, that notes each response it gives away. This process is
    killed as it asks for the `killed_at`-th."""
    from specs_data import build

    engine, asked = policy(concurrency=4, delay=0.01), count(1)
    with log.open("a", buffering=1) as notes:

        def script(request: Request) -> str:
            notes.write("x\n")
            if next(asked) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return respond(request)

        engine._script = script
        build(recipe(problems, samples=6), run, engine=engine, quiet=True)
