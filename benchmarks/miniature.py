"""The paper in miniature: does a cold start by preference generalize better than one by SFT?

    OMP_NUM_THREADS=1 python benchmarks/miniature.py [--seeds 5] [--steps 60] [--every 10] [--out DIR]      (make paper)

The shipped base is trained on the same format-only pairs in three ways: SFT on the chosen side, DPO (lambda 0) and
DPO + SFT (lambda 1). Every few steps each is evaluated on new problems in the trained format (ID) and in four changed
ones (OOD), at temperature 1. Printed are ID, OOD and the Generalization Factor by step, means and ranges over the
seeds; with --grpo N each cold start then goes through N steps of GRPO. gf.svg has the three panels of the paper's
figure, compare.html the training runs side by side. What is done stays: the same command goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from specs_data import Recipe, build
from specs_data.measure.compare import compare, write_page
from specs_data.measure.evaluate import evaluate
from specs_data.measure.evaluation import write_evaluation
from specs_data.measure.gf import Factors, gf, plot
from specs_data.mini import checkpoint, formats
from specs_data.mini.world import write_problems
from specs_data.train.dpo import train_dpo
from specs_data.train.grpo import train_grpo
from specs_data.train.settings import DpoSettings, GrpoSettings, SftSettings
from specs_data.train.sft import train_sft

METHODS = ("SFT", "DPO", "DPO + SFT")
# Worlds of their own: nobody is measured on what anybody learned from.
PAIRS_WORLD, TEST_WORLD, RL_WORLD = 31, 32, 33
MAX_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=600, help="problems that pairs are made of")
    parser.add_argument("--problems", type=int, default=300, help="problems of an evaluation, in each format")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--grpo", type=int, default=0, metavar="N", help="steps of GRPO from each cold start")
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    options = parser.parse_args()

    data = make_pairs(options.out, options.pairs)
    test = write_problems(options.out / "test", options.problems, TEST_WORLD)
    base = evaluated(checkpoint("base"), test, options.out / "evaluations" / "base.json")
    factors: dict[str, Factors] = {}
    for method in METHODS:
        steps = []
        for seed in range(options.seeds):
            out = options.out / f"{method.replace(' ', '')}-{seed}"
            train(method, data, out, options, seed)
            for step in range(options.every, options.steps + 1, options.every):
                file = options.out / "evaluations" / out.name / f"{step}.json"
                steps.append((step, str(evaluated(out / "checkpoints" / f"checkpoint-{step}", test, file))))
            if options.grpo:
                grpo(out, options, seed)
        factors[method] = gf(base, steps)
        print(f"\n{method}\n{factors[method]}", flush=True)
    plot(factors, options.out / "gf.svg")
    print(f"\n{last_steps(factors)}")
    compare_runs(options.out, options.seeds, "grpo" if options.grpo else "")


def make_pairs(out: Path, problems: int) -> Path:
    """Pairs of the shipped GRPO-zero."""
    source = write_problems(out / "problems", problems, PAIRS_WORLD)
    recipe = Recipe(
        policy=str(checkpoint("grpo-zero")),
        problems=str(source),
        engine="transformers",
        verifier="rules",
        max_tokens=MAX_TOKENS,
        batch_size=64,
    )
    return build(recipe, out / "run").out


def train(method: str, data: Path, out: Path, options: argparse.Namespace, seed: int) -> None:
    """One cold start, with its checkpoints on the way."""
    common = {
        "model": str(checkpoint("base")),
        "data": str(data),
        "out": out,
        "learning_rate": options.learning_rate,
        "batch": 16,
        "micro_batch": 16,
        "steps": options.steps,
        "save_every": options.every,
        "keep_checkpoints": options.steps // options.every + 1,
        "seed": seed,
    }
    if method == "SFT":
        train_sft(SftSettings.model_validate(common))
    else:
        train_dpo(DpoSettings.model_validate({**common, "sft_weight": float(method != "DPO")}))


def grpo(cold_start: Path, options: argparse.Namespace, seed: int) -> Path:
    """GRPO from a cold start."""
    problems = write_problems(options.out / "rl-problems", 1000, RL_WORLD)
    settings = GrpoSettings(
        model=str(cold_start),
        problems=(str(problems),),
        out=cold_start.with_name(f"{cold_start.name}-grpo"),
        rollouts=8,
        rollout_batch=8,
        batch=64,
        micro_batch=64,
        steps=options.grpo,
        learning_rate=1e-4,
        max_tokens=MAX_TOKENS,
        seed=seed,
    )
    return train_grpo(settings)


def evaluated(policy: Path, problems: Path, file: Path) -> Path:
    """The file of the policy's evaluation in all formats that the base knows, the trained one first."""
    if not file.exists():
        names = sorted(formats(), key=lambda name: name != "think-answer")
        recipe = Recipe(
            policy=str(policy),
            problems=str(problems),
            engine="transformers",
            samples=1,
            max_tokens=MAX_TOKENS,
            batch_size=64,
        )
        write_evaluation(evaluate(recipe, names, out=file, quiet=True), file)
    return file


def last_steps(factors: dict[str, Factors]) -> str:
    """The last step of each method, as a Markdown table: means, and ranges over the seeds."""
    lines = ["| cold start | step | ID | OOD | GF on scores | GF on gains |", "|---|---|---|---|---|---|"]
    for method, found in factors.items():
        number, step = list(found.steps.items())[-1]
        cells = []
        for key in ("id", "ood", "gf_scores", "gf_gains"):
            value, (low, high) = getattr(step, key), step.bands.get(key, (getattr(step, key),) * 2)
            cells.append(f"{value:.1%} ({low:.1%} to {high:.1%})")
        lines.append(f"| {method} | {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compare_runs(out: Path, seeds: int, suffix: str) -> None:
    """The training runs side by side."""
    named = [
        (method, path)
        for method in METHODS
        for seed in range(seeds)
        if (path := out / f"{method.replace(' ', '')}-{seed}{'-' if suffix else ''}{suffix}").exists()
    ]
    print(f"\n{compare(named)}\n\n{write_page(compare(named), out / 'compare.html')}")


if __name__ == "__main__":
    main()
