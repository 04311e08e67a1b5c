"""GRPO with the real vLLM beside the trainer: both see the same pictures at the same places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from specs_data.mini.world import draw, picture
from specs_data.train.report import read_metrics

# How far apart vLLM and the trainer are, on average over the tokens of a step, in log-probability: by bfloat16 0.005 to
# 0.02; where prompts have the tokens of each picture twice 0.3 to 0.7.
SAME = 0.05


def problems(folder: Path) -> Path:
    """Puzzles with their picture among the words, before them, beside another one, and one without any."""
    rows: list[dict[str, Any]] = []
    for number, puzzle in enumerate(draw(5, index) for index in range(24)):
        (folder / f"{number}.png").write_bytes(picture(puzzle.things))
        own, other = f"{number}.png", f"{max(0, number - 1)}.png"
        question, images = [
            (f"In the picture <image>: {puzzle.question}", [own]),
            (puzzle.question, [own]),
            (f"First: <image>\nSecond: <image>\nIn the second one: {puzzle.question}", [other, own]),
            (f"<image><image>{puzzle.question}", [own, other]),
            ("Is red a colour? Answer yes or no.", []),
        ][number % 5]
        rows.append({"id": str(number), "question": question, "images": images, "answer": puzzle.answer or "yes"})
    file = folder / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_whole_run(tmp_path: Path) -> None:
    root, out = Path(__file__).parents[3], tmp_path / "out"
    command = [sys.executable, "-m", "tests.elsewhere.vllm_engine.colocated", str(problems(tmp_path)), str(out)]
    done = subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    apart = [row["sampling/sampling_logp_difference/mean"] for row in read_metrics(out / "metrics.jsonl")]
    assert len(apart) == 4 and max(apart) < SAME, apart
    assert (out / "model.safetensors").exists() and (out / "manifest.json").exists()
