"""Does it cost format to save the weights of a short GRPO in bfloat16?

    OMP_NUM_THREADS=1 python benchmarks/save_dtype.py [--seeds 3] [--steps 40] [--out DIR]

The shipped base goes through a short GRPO at several learning rates. The trained weights, which are float32, are
measured as they are and rounded to bfloat16, as `--save-dtype bfloat16` saves them: format accuracy at temperature 1
on the same problems with the same seeds. Printed are both by learning rate, means and ranges over the seeds, and the
share of the trained weights that bfloat16 has bit for bit as they were before. What is done stays: the same
command goes on.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from msgspec import Struct
from safetensors.torch import load_file, save_file

from specs_data import Recipe
from specs_data.measure.evaluate import evaluate
from specs_data.measure.evaluation import read_evaluation, write_evaluation
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.train.grpo import train_grpo
from specs_data.train.settings import GrpoSettings

TEST_WORLD, RL_WORLD = 32, 33
MAX_TOKENS = 64
RATES = (1e-5, 1e-4)


class Found(Struct, frozen=True):
    """Format accuracy of one run's weights in float32 and in bfloat16, and the share of those
    trained that bfloat16 has unchanged."""

    whole: float
    rounded: float
    unchanged: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--problems", type=int, default=1000, help="problems of an evaluation")
    parser.add_argument("--out", type=Path, default=Path("runs/save-dtype"))
    options = parser.parse_args()

    base = format_accuracy(checkpoint("base"), options.out / "base.json", options)
    print(f"base: format {base:.1%}")
    heads = ("learning rate", "trained weights unchanged in bfloat16", "format, float32", "bfloat16", "difference")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for rate in RATES:
        found = [measured(rate, seed, options) for seed in range(options.seeds)]
        columns = (
            [each.unchanged for each in found],
            [each.whole for each in found],
            [each.rounded for each in found],
            [each.rounded - each.whole for each in found],
        )
        print(f"| {rate:.0e} | {' | '.join(map(spread, columns))} |", flush=True)


def measured(rate: float, seed: int, options: argparse.Namespace) -> Found:
    """One run of GRPO, and both ways to save it."""
    out = options.out / f"{rate:.0e}-{seed}"
    whole = trained(rate, seed, out / "float32", options)
    rounded = in_bfloat16(whole, out / "bfloat16")
    before = load_file(checkpoint("base") / "model.safetensors")
    after = load_file(rounded / "model.safetensors")
    after = {name: weights for name, weights in after.items() if "visual" not in name}  # these are not trained
    same = sum(int((before[name].bfloat16() == weights).sum()) for name, weights in after.items())
    return Found(
        format_accuracy(whole, out / "float32.json", options),
        format_accuracy(rounded, out / "bfloat16.json", options),
        same / sum(weights.numel() for weights in after.values()),
    )


def trained(rate: float, seed: int, out: Path, options: argparse.Namespace) -> Path:
    """The shipped base after a short GRPO."""
    problems = write_problems(options.out / "rl-problems", 1000, RL_WORLD)
    return train_grpo(
        GrpoSettings(
            model=str(checkpoint("base")),
            problems=(str(problems),),
            out=out,
            rollouts=8,
            rollout_batch=8,
            batch=64,
            micro_batch=64,
            accuracy_window=(0.0, 1.0),
            steps=options.steps,
            learning_rate=rate,
            max_tokens=MAX_TOKENS,
            save_dtype="float32",
            seed=seed,
        )
    )


def in_bfloat16(whole: Path, out: Path) -> Path:
    """A copy of a checkpoint in bfloat16."""
    shutil.copytree(whole, out, dirs_exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(whole / "model.safetensors").items()}
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    return out


def format_accuracy(policy: Path, file: Path, options: argparse.Namespace) -> float:
    """The share of well-formed responses at temperature 1."""
    if not file.exists():
        problems = write_problems(options.out / "test", options.problems, TEST_WORLD)
        recipe = Recipe(
            policy=str(policy),
            problems=str(problems),
            engine="transformers",
            samples=1,
            max_tokens=MAX_TOKENS,
            batch_size=64,
        )
        write_evaluation(evaluate(recipe, out=file, quiet=True), file)
    found = read_evaluation(file)
    assert found.format is not None and found.format.value is not None
    return found.format.value


def spread(values: list[float]) -> str:
    """Mean and range."""
    return f"{sum(values) / len(values):.1%} ({min(values):.1%} to {max(values):.1%})"


if __name__ == "__main__":
    main()
