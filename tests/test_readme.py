"""Every command of the README runs, in its order, with the services on the loopback."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from fakes.gemini_server import Service
from fakes.hub_server import Hub
from fakes.openai_server import OpenAIServer

from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems

README = Path(__file__).parent.parent / "README.md"
# The README's commands train for hours on GPUs; here for one step.
ONE_STEP = {
    "dpo": "--steps 1 --batch 2 --micro-batch 1",
    "grpo": "--steps 1 --rollouts 2 --rollout-batch 2 --batch 4 --micro-batch 2 --max-tokens 64",
}


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@contextmanager
def policy_server(problems: Path) -> Iterator[str]:
    """A server whose policy knows one answer to each question."""
    rows = [msgspec.json.decode(line) for line in problems.read_bytes().splitlines()]
    answers = {row["question"]: row["answer"] for row in rows}

    def answer(body: dict) -> str:
        asked = msgspec.json.encode(body["messages"][-1]).decode()
        found = next((gold for question, gold in answers.items() if question in asked), "0")
        return f"<think>It is {found}.</think>\n<answer>\\boxed{{{found}}}</answer>"

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = OpenAIServer(answer, models=("grpo-zero",))
    asyncio.run_coroutine_threadsafe(server.start(), loop).result()
    yield f"{server.url}/v1"
    asyncio.run_coroutine_threadsafe(server.die(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path) -> None:
    for name in ("base", "grpo-zero"):
        shutil.copytree(checkpoint(name), tmp_path / "ckpt" / name)
    problems = write_problems(tmp_path, 24, seed=5)
    write_problems(tmp_path / "other", 4, seed=6).rename(tmp_path / "benchmark.jsonl")
    for picture in (tmp_path / "other" / "images").iterdir():
        shutil.copy(picture, tmp_path / "images")
    (tmp_path / "mine.py").write_text("def mine(text, fmt, rng):\n    return fmt.without(text, fmt.thought.close)\n")
    listed = commands()
    assert len(listed) > 15
    with Service() as gemini, Hub() as hub, policy_server(problems) as server:
        environment = os.environ | {
            "GEMINI_API_KEY": "key-for-the-loopback",
            "GOOGLE_GEMINI_BASE_URL": gemini.url,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hub"),
            "HF_TOKEN": "hf_" + "a" * 34,
            "HF_HUB_DISABLE_XET": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "OMP_NUM_THREADS": "1",
        }
        for command in listed:
            words = shlex.split(command.replace("http://localhost:8000/v1", server))
            assert words[0] == "specs-data"
            if words[1] == "train":
                words += ONE_STEP[words[2]].split()
            done = subprocess.run(
                [sys.executable, "-m", "specs_data", *words[1:]],
                cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_the_python_example_names_what_exists() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    imported = re.search(r"from specs_data import (.*)", example)
    assert imported is not None
    import specs_data

    assert set(imported[1].split(", ")) <= set(specs_data.__all__)


def test_the_file_tree_is_what_is_on_disk() -> None:
    root = README.parent
    block = README.read_text().partition("## File structure\n\n")[2].partition("\n\n")[0]
    inside, outside = set(), set()
    for line in block.splitlines():
        names = re.findall(r"[\w./]+", re.split(r"\s{2,}(?=[a-zA-Z][^/.]*(?:[ ,]|$))", line.strip())[0])
        (inside if line.startswith("      ") else outside).update(names)
    for name in outside:
        assert (root / name).exists(), name
    package = root / "specs_data"
    shown = {path.name + ("/" if path.is_dir() else "") for path in package.iterdir() if not path.name.startswith("_")}
    assert inside == shown - {"py.typed"}
