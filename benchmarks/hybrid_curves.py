"""What lambda does to the rewards, for both kinds of rejected side: the paper's figure, in miniature.

    OMP_NUM_THREADS=1 python benchmarks/hybrid_curves.py [--seeds 5] [--steps 60] [--sides twins base] [--out DIR]

The chosen side is the shipped grpo-zero's. The rejected side is its twin (this project's variant) or a corrupted right
answer of the shipped base (the paper's). A seed draws new problems, responses and an order of the pairs. The shipped
base is trained on them with each lambda; printed are the rewards and margins at the end (means of the last tenth of the
steps) and what the model then does on new problems at temperature 1: means over the seeds with 95 % intervals
(Student's t). What is done stays in DIR: the same command goes on.
The paper, 7B: lambda 0 ends with chosen about -0.5 and margin 17, lambda 1 with 1.8 and 11.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from specs_data import Recipe, build
from specs_data.demo import measure
from specs_data.measure.estimate import Estimate
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.train.dpo import train_dpo
from specs_data.train.report import Row, plot, read_metrics
from specs_data.train.settings import DpoSettings

METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins")
WORLD = 41  # of the first seed's problems: nobody is measured on what anybody learned from
# The t of a 95 % interval, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class Run(Struct, frozen=True):
    """A trained model: its training's metrics, and the shares of well-formed and of right responses."""

    rows: list[Row]
    format: float
    accuracy: float

    def figures(self) -> list[float]:
        """The rewards at the end, and the shares."""
        return [*(last_tenth(self.rows, key) for key in METRICS), self.format, self.accuracy]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--sides", nargs="+", choices=["twins", "base"], default=["twins", "base"])
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "hybrid_curves")
    options = parser.parse_args()
    runs: dict[tuple[str, float], list[Run]] = {}
    for seed in range(options.seeds):  # a seed of every kind first: what there is can be read at any time
        for side in options.sides:
            data = pairs(options.out, options.problems, side, seed)
            for weight in options.weights:
                out = options.out / f"{side}-lambda-{weight:g}-seed-{seed}"
                model = train(data, out, weight, seed, options.steps, options.learning_rate)
                found = measure(model, options.out / "evaluations")
                run = Run(read_metrics(model / "metrics.jsonl"), *map(share_of, (found.format, found.accuracy)))
                runs.setdefault((side, weight), []).append(run)
        print(f"\n{table(runs)}", flush=True)
    plot({f"{side}, λ={weight:g}": found[0].rows for (side, weight), found in runs.items()}, options.out / "curves.svg")


def table(runs: dict[tuple[str, float], list[Run]]) -> str:
    """A row for each kind of rejected side and lambda, and the differences of the kinds seed by seed, as Markdown."""
    lines = [f"| rejected | lambda | seeds | {' | '.join(METRICS)} | format | accuracy |", "|---" * 8 + "|"]
    figures = {kind: [run.figures() for run in found] for kind, found in runs.items()}
    for (side, weight), found in [*figures.items()]:
        if side == "base" and ("twins", weight) in figures:
            both = zip(found, figures["twins", weight], strict=False)
            figures["base less twins", weight] = [[a - b for a, b in zip(*pair, strict=True)] for pair in both]
    for (side, weight), found in figures.items():
        forms = ["+.2f"] * len(METRICS) + ["+.1%" if "less" in side else ".1%"] * 2
        cells = [with_interval(values, form) for values, form in zip(zip(*found, strict=True), forms, strict=True)]
        lines.append(f"| {side} | {weight:g} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def share_of(found: Estimate | None) -> float:
    return found.value if found else 0.0


def pairs(out: Path, problems: int, side: str, seed: int) -> Path:
    source = write_problems(out / f"problems-{seed}", problems, WORLD + seed)
    recipe = Recipe(
        policy=str(checkpoint("grpo-zero")),
        rejected_from="chosen" if side == "twins" else str(checkpoint("base")),
        problems=str(source),
        engine="transformers",
        verifier="rules",
        max_tokens=64,
        batch_size=64,
        seed=seed,
    )
    return build(recipe, out / f"{side}-{seed}", quiet=True).out


def train(data: Path, out: Path, weight: float, seed: int, steps: int, learning_rate: float) -> Path:
    settings = DpoSettings(
        model=str(checkpoint("base")),
        data=str(data),
        out=out,
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


def with_interval(values: Sequence[float], form: str) -> str:
    """The mean and its 95 % interval over the seeds; one seed has none."""
    mean, freedom = statistics.fmean(values), len(values) - 1
    if not freedom:
        return f"{mean:{form}}"
    half = STUDENT.get(freedom, 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:{form}} ± {half:{form.lstrip('+')}}"


if __name__ == "__main__":
    main()
