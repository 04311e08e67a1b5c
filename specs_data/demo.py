"""The main job in miniature: from drawn pictures, through the shipped tiny policy, to a dataset."""

from __future__ import annotations

from pathlib import Path

from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.pipeline import Built, build
from specs_data.recipe import Recipe, read_settings

PROBLEMS = 192


def demo(out: Path, *, quiet: bool = False) -> Built:
    """Draw problems, sample the shipped GRPO-zero on the CPU, judge, verify by rule, pair, write.

    Everything lands in `out`: the problems in problems/, the run in run/. Needs no network, GPU or key,
    and a specs-data.toml in the working directory plays no part.
    """
    problems = write_problems(out / "problems", PROBLEMS, seed=0)
    recipe = read_settings(Recipe, {
        "policy": str(checkpoint("grpo-zero")),
        "problems": str(problems),
        "engine": "transformers",
        "verifier": "rules",
        "max_tokens": 96,
        "samples": 6,
        "batch_size": 64,
    })  # fmt: skip
    return build(recipe, out / "run", quiet=quiet)
