"""The paper in miniature: does a cold start by preference generalize better than one by SFT, and what of its data
matters?

    OMP_NUM_THREADS=1 python benchmarks/miniature.py [--seeds 5] [--ablation-seeds 3] [--out DIR]      (make paper)

The shipped base is trained on format-only pairs in three ways: SFT on the chosen side, DPO (lambda 0) and DPO + SFT
(lambda 1). Every few steps each is evaluated on new problems in the trained format (ID) and in four changed ones
(OOD), at temperature 1; then each goes through GRPO and is evaluated again. The ablation is DPO + SFT on pairs of other
recipes, and on pairs that test why things come out as they do.

A seed is a whole repetition but for the base and the test: it has its own problems to make pairs of, its own sampling
and corruption of them, its own order of training, and its own problems and rollouts in GRPO. What is done stays, and
the tables are printed after every seed: the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from msgspec import Struct

from specs_data.build.run import build
from specs_data.measure.compare import compare, write_page
from specs_data.measure.evaluate import evaluate
from specs_data.measure.evaluation import Evaluation, read_evaluation, write_evaluation
from specs_data.measure.gf import Factors, Scored, generalization_factor, gf, plot, read_scored
from specs_data.mini import checkpoint, formats
from specs_data.mini.world import write_problems
from specs_data.recipe import Recipe, make_recipe
from specs_data.train.dpo import train_dpo
from specs_data.train.grpo import train_grpo
from specs_data.train.settings import DpoSettings, GrpoSettings, SftSettings
from specs_data.train.sft import train_sft

# Worlds of their own, one per seed: nobody is measured on what anybody learned from.
PAIRS_WORLD, TEST_WORLD, RL_WORLD = 3100, 3200, 3300
MAX_TOKENS = 64
# Student's t for a 95 % interval of the mean, by the number of seeds.
T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


class Arm(Struct, frozen=True):
    """A cold start: on the pairs of a shipped recipe (with `changes`), at lambda `weight` or, without one, by SFT."""

    name: str
    recipe: str = "paper"
    weight: float | None = 1.0
    changes: dict[str, Any] = {}

    def folder(self, seed: int) -> str:
        """The name of one seed's folder."""
        return f"{self.name.replace(' ', '-').replace(',', '').replace('+', 'and')}-{seed}"


MAIN = (Arm("SFT", weight=None), Arm("DPO", weight=0.0), Arm("DPO + SFT"))
ABLATION = (
    Arm("twins", "twins"),
    Arm("chosen from the base", "chosen-from-base"),
    Arm("coupled", "coupled"),
    Arm("no verifier", "no-verifier"),
    # Why: is it the corrupted rejected side?
    Arm("twins, DPO", "twins", weight=0.0),
    Arm("base as it is, DPO", weight=0.0, changes={"natural_rejected": True}),
    Arm("base as it is", changes={"natural_rejected": True}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ablation-seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=320)
    parser.add_argument("--problems", type=int, default=200, help="problems of an evaluation, in each format")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--grpo", type=int, default=30, metavar="N", help="steps of GRPO from each cold start")
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    options = parser.parse_args()

    write_problems(options.out / "test", options.problems, TEST_WORLD)
    evaluated(checkpoint("base"), options, "base")
    for play, arms, seeds in (
        (cold_start, MAIN, options.seeds),
        (cold_start, ABLATION, options.ablation_seeds),
        (reinforced, MAIN, options.seeds if options.grpo else 0),
    ):
        for seed in range(seeds):
            for arm in arms:
                play(arm, seed, options)
            say(options)


def cold_start(arm: Arm, seed: int, options: argparse.Namespace) -> None:
    """One seed of one cold start: its pairs, its training, its evaluations on the way."""
    out = options.out / arm.folder(seed)
    train(arm, make_pairs(arm, seed, options), out, options, seed)
    for step in steps_of(options):
        if arm in MAIN or step == options.steps:
            evaluated(out / "checkpoints" / f"checkpoint-{step}", options, f"{out.name}/{step}")


def reinforced(arm: Arm, seed: int, options: argparse.Namespace) -> None:
    """GRPO from one seed of a cold start, and its evaluation."""
    out = options.out / arm.folder(seed)
    evaluated(grpo(out, options, seed), options, f"{out.name}/grpo")


def steps_of(options: argparse.Namespace) -> range:
    """The steps at which a cold start is evaluated."""
    return range(options.every, options.steps + 1, options.every)


def make_pairs(arm: Arm, seed: int, options: argparse.Namespace) -> Path:
    """The pairs of an arm's recipe, from problems that the seed draws; arms of one recipe share them."""
    kind = arm.recipe + "".join(f"-{name}" for name in arm.changes)
    source = write_problems(options.out / f"problems-{seed}", 3 * options.pairs, PAIRS_WORLD + seed)
    base = str(checkpoint("base"))
    settings = {
        "policy": base if arm.recipe == "chosen-from-base" else str(checkpoint("grpo-zero")),
        "problems": str(source),
        "engine": "transformers",
        "verifier": "none" if arm.recipe == "no-verifier" else "rules",
        "rejected_from": "chosen" if arm.recipe == "twins" else base,
        "target": options.pairs,
        "max_tokens": MAX_TOKENS,
        "batch_size": 64,
        "seed": seed,
        **arm.changes,
    }
    return build(make_recipe(settings, Path(arm.recipe)), options.out / f"pairs-{kind}-{seed}", quiet=True).out


def train(arm: Arm, data: Path, out: Path, options: argparse.Namespace, seed: int) -> None:
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
    if arm.weight is None:
        train_sft(SftSettings.model_validate(common))
    else:
        train_dpo(DpoSettings.model_validate({**common, "sft_weight": arm.weight}))


def grpo(cold_start: Path, options: argparse.Namespace, seed: int) -> Path:
    """GRPO from a cold start: 64 responses in a step, to 8 problems."""
    problems = write_problems(options.out / f"rl-problems-{seed}", 8 * 4 * options.grpo, RL_WORLD + seed)
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


def evaluated(policy: Path, options: argparse.Namespace, name: str) -> Path:
    """The file of the policy's evaluation in all formats that the base knows, the trained one first."""
    file = evaluation_file(options, name)
    if not file.exists():
        names = sorted(formats(), key=lambda name: name != "think-answer")
        recipe = Recipe(
            policy=str(policy),
            problems=str(options.out / "test" / "problems.jsonl"),
            engine="transformers",
            samples=1,
            max_tokens=MAX_TOKENS,
            batch_size=100,
        )
        write_evaluation(evaluate(recipe, names, out=file, quiet=True), file)
    return file


def evaluation_file(options: argparse.Namespace, name: str) -> Path:
    """Where an evaluation is."""
    return Path(options.out / "evaluations" / f"{name}.json")


# What came out


def say(options: argparse.Namespace) -> None:
    """Print every table of what there is so far; write gf.svg, compare.html and tables.md."""
    factors = {arm.name: factors_of(arm, options) for arm in MAIN}
    plot(factors, options.out / "gf.svg")
    curves = [(arm.name, path) for arm in MAIN if options.grpo for path in grpo_runs(arm, options)]
    if curves:
        write_page(compare(curves), options.out / "compare.html")
    text = "\n\n".join([*(gf_table(name, found) for name, found in factors.items()), last_table(options), why(options)])
    (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}", flush=True)


def files(arm: Arm, step: str | int, options: argparse.Namespace) -> dict[int, Path]:
    """The arm's evaluations at a step, by seed."""
    found = {
        seed: evaluation_file(options, f"{arm.folder(seed)}/{step}")
        for seed in range(max(options.seeds, options.ablation_seeds))
    }
    return {seed: file for seed, file in found.items() if file.exists()}


def grpo_runs(arm: Arm, options: argparse.Namespace) -> list[Path]:
    """The finished GRPO runs from an arm's cold starts."""
    runs = [options.out / f"{arm.folder(seed)}-grpo" for seed in files(arm, "grpo", options)]
    return [run for run in runs if (run / "manifest.json").exists()]


def factors_of(arm: Arm, options: argparse.Namespace) -> Factors:
    """The Generalization Factor by step."""
    steps = [(step, str(file)) for step in steps_of(options) for file in files(arm, step, options).values()]
    return gf(evaluation_file(options, "base"), steps)


def gf_table(name: str, factors: Factors) -> str:
    """ID, OOD and GF by step as a Markdown table: means, and from the least to the most of the seeds."""
    lines = [f"| {name}: step | ID | OOD | GF on scores | GF on gains | seeds |", "|---|---|---|---|---|---|"]
    lines.append(f"| base | {factors.base['id']:.1%} | {factors.base['ood']:.1%} | - | - | - |")
    for number, step in factors.steps.items():
        cells = []
        for key in ("id", "ood", "gf_scores", "gf_gains"):
            low, high = step.bands.get(key, (getattr(step, key),) * 2)
            cells.append(f"{getattr(step, key):.1%} ({low:.1%} to {high:.1%})")
        lines.append(f"| {number} | {' | '.join(cells)} | {step.seeds} |")
    return "\n".join(lines)


COLUMNS: dict[str, Callable[[Scored, Evaluation], float]] = {
    "ID": lambda scored, _: scored.id,
    "OOD": lambda scored, _: scored.ood,
    "GF": lambda scored, _: generalization_factor(scored.id, scored.ood),
    "accuracy": lambda _, found: found.accuracy.value if found.accuracy else 0.0,
}


def last_table(options: argparse.Namespace) -> str:
    """After the cold start and after RL: means over the seeds with their 95 % intervals, and how far GF is from that
    of DPO + SFT on the paper's pairs, seed by seed, with the interval of that."""
    head = [*COLUMNS, "GF against DPO + SFT", "ID after RL", "accuracy after RL"]
    lines = [f"| cold start | {' | '.join(head)} | seeds |", f"|{'---|' * (len(head) + 2)}"]
    reference = {seed: read(file)["GF"] for seed, file in files(MAIN[-1], options.steps, options).items()}
    for arm in MAIN + ABLATION:
        cold = {seed: read(file) for seed, file in files(arm, options.steps, options).items()}
        final = [read(file) for file in files(arm, "grpo", options).values()]
        if not cold:
            continue
        cells = [interval([row[key] for row in cold.values()]) for key in COLUMNS]
        cells.append(interval([row["GF"] - reference[seed] for seed, row in cold.items() if seed in reference]))
        cells += [interval([row[key] for row in final]) for key in ("ID", "accuracy")]
        lines.append(f"| {arm.name} | {' | '.join(cells)} | {len(cold)} |")
    return "\n".join(lines)


def read(file: Path) -> dict[str, float]:
    """The columns of an evaluation."""
    scored, found = read_scored(str(file), "format"), read_evaluation(file)
    return {name: column(scored, found) for name, column in COLUMNS.items()}


def interval(values: Sequence[float]) -> str:
    """The mean and the half width of its 95 % interval, by Student's t over the seeds."""
    if len(values) < 2:
        return f"{values[0]:.1%}" if values else "-"
    return f"{fmean(values):.1%} ± {T.get(len(values), 2.0) * stdev(values) / len(values) ** 0.5:.1%}"


def why(options: argparse.Namespace) -> str:
    """By changed format: the share that keeps it, and the most frequent fault of the others."""
    names = [name for name in formats() if name != "think-answer"]
    lines = [f"| last step | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    for arm in MAIN + ABLATION:
        found = [read_evaluation(file).by_format for file in files(arm, options.steps, options).values()]
        if found:
            cells = [f"{fmean(one[name].format.value for one in found if one[name].format):.1%}" for name in names]
            faults = [most([one[name].format_errors for one in found]) for name in names]
            lines.append(f"| {arm.name} | {' | '.join(map(' '.join, zip(cells, faults, strict=True)))} |")
    return "\n".join(lines)


def most(counts: Sequence[dict[str, int]]) -> str:
    """The most frequent key of several counts."""
    whole: dict[str, int] = {}
    for count in counts:
        for key, number in count.items():
            whole[key] = whole.get(key, 0) + number
    return f"({max(whole, key=whole.__getitem__)})" if whole else ""


if __name__ == "__main__":
    main()
