"""What lambda does to the rewards of chosen and rejected: the paper's figure, in miniature.

    OMP_NUM_THREADS=1 python benchmarks/hybrid_curves.py [--seeds 3] [--steps 90] [--out DIR]

Builds format-only pairs with the shipped grpo-zero, trains the shipped base on them with each lambda
and seed, and prints the rewards and margins at the end (means of the last tenth of the steps, with
the range over the seeds) and what the model then does on new problems at temperature 1.
The paper, 7B: lambda 0 ends with chosen about -0.5 and margin 17, lambda 1 with 1.8 and 11.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from specs_data import Recipe, build
from specs_data.demo import measure
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.train.dpo import train_dpo
from specs_data.train.report import Row, plot, read_metrics
from specs_data.train.settings import DpoSettings

METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--out", type=Path, default=Path(tempfile.mkdtemp()))
    options = parser.parse_args()
    data = pairs(options.out, options.problems)
    print(f"{options.steps} steps of 16 pairs, learning rate {options.learning_rate:g}, {options.seeds} seeds\n")
    print(f"| lambda | {' | '.join(METRICS)} | format | accuracy |\n|---|---|---|---|---|---|")
    shown: dict[str, list[Row]] = {}
    for weight in options.weights:
        models = [
            train(data, options.out, weight, seed, options.steps, options.learning_rate)
            for seed in range(options.seeds)
        ]
        runs = [read_metrics(model / "metrics.jsonl") for model in models]
        shown[f"λ={weight:g}"] = runs[0]
        ends = [over_seeds([last_tenth(rows, key) for rows in runs], "+.2f") for key in METRICS]
        found = [measure(model, options.out / "evaluations") for model in models]
        shares = [[one.format.value for one in found], [one.accuracy.value for one in found]]
        print("", f"{weight:g}", *ends, *(over_seeds(values, ".1%") for values in shares), "", sep=" | ", flush=True)
    plot(shown, options.out / "hybrid_curves.svg")
    print(options.out / "hybrid_curves.svg")


def pairs(out: Path, problems: int) -> Path:
    source = write_problems(out / "problems", problems, 11)
    recipe = Recipe(policy=str(checkpoint("grpo-zero")), problems=str(source), verifier="rules", max_tokens=96)
    return build(recipe, out / "run").out


def train(data: Path, out: Path, weight: float, seed: int, steps: int, learning_rate: float) -> Path:
    settings = DpoSettings(
        model=str(checkpoint("base")),
        data=str(data),
        out=out / f"lambda-{weight:g}-seed-{seed}",
        sft_weight=weight,
        learning_rate=learning_rate,
        batch=16,
        micro_batch=16,
        steps=steps,
        save_every=10_000,
        seed=seed,
    )
    return train_dpo(settings)


def last_tenth(rows: list[Row], key: str) -> float:
    """Mean over the last tenth of the steps."""
    return statistics.fmean(row[key] for row in rows[-max(1, len(rows) // 10) :])


def over_seeds(values: Sequence[float], form: str) -> str:
    """The mean and the range."""
    return f"{statistics.fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
