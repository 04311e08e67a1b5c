"""The main job in miniature, and the whole loop: `specs-data demo` and `specs-data demo --full`.

`demo` goes from drawn pictures, through the shipped tiny policy, to a dataset. `demo_full` closes the loop, on a CPU:

    base --GRPO--> GRPO-zero --build--> pairs
    base ------------------------------ pairs --DPO + SFT--> cold start --GRPO--> final

Between the stages each policy is evaluated on new problems at temperature 1: how many of its responses have
the format, and how many are right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from tqdm import tqdm

from specs_data.build.run import Built, build
from specs_data.errors import require
from specs_data.measure.evaluate import evaluate
from specs_data.measure.evaluation import Evaluation, write_evaluation
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.recipe import Recipe, read_settings
from specs_data.train.dpo import train_dpo
from specs_data.train.grpo import train_grpo
from specs_data.train.settings import DpoSettings, GrpoSettings

PROBLEMS = 192

# Worlds of their own: nobody is measured on what anybody learned from.
RL_WORLD, PAIRS_WORLD, TEST_WORLD = 21, 22, 23
MAX_TOKENS = 64
MEASURED = 600


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


class Stage(Struct, frozen=True):
    """A policy of the loop: shares of well-formed and of right responses, seconds that it took to make."""

    name: str
    folder: Path
    format: float
    accuracy: float
    seconds: float


def demo_full(out: Path) -> list[Stage]:
    """Run the loop in the folder `out`, with a line on standard output per stage and a table at the
    end; the same call resumes. Needs the train extra."""
    rl = write_problems(out / "rl-problems", 1000, RL_WORLD)
    new = write_problems(out / "problems", 600, PAIRS_WORLD)
    base, measured = checkpoint("base"), out / "evaluations"
    stages = [_stage("base", measured, lambda: base)]
    zero = _stage("GRPO-zero", measured, lambda: _grpo(base, rl, out / "grpo-zero", stop_when_format=0.9))
    recipe = {"policy": str(zero.folder), "problems": str(new), "verifier": "rules", "max_tokens": MAX_TOKENS}
    pairs = build(Recipe.model_validate({**recipe, "batch_size": 64}), out / "run")
    tqdm.write(f"{pairs.count} pairs that differ only in format, in {pairs.out}")
    stages += [zero, _stage("cold start", measured, lambda: _cold_start(base, pairs.out, out / "cold-start"))]
    stages.append(_stage("final", measured, lambda: _grpo(stages[-1].folder, rl, out / "final")))
    _plot(stages, out / "loop.svg")
    tqdm.write(
        f"\n{table(stages)}\n\nloop.svg, run/dataset, evaluations and every checkpoint with its curves are in {out}"
    )
    return stages


def table(stages: Sequence[Stage]) -> str:
    """The stages as a Markdown table."""
    rows = [f"| {s.name} | {s.format:.1%} | {s.accuracy:.1%} | {_made_in(s.seconds)} |" for s in stages]
    return "\n".join(["| policy | format | accuracy | made in |", "|---|---|---|---|", *rows])


def _stage(name: str, out: Path, make: Callable[[], Path]) -> Stage:
    folder = make()
    manifest = folder / "manifest.json"  # every trainer leaves one, with the time it took
    seconds = json.loads(manifest.read_text())["seconds"] if manifest.exists() else 0.0
    found = measure(folder, out)
    format, accuracy = (share.value if share else 0.0 for share in (found.format, found.accuracy))
    tqdm.write(f"{name}: format {format:.1%}, accuracy {accuracy:.1%} ({_made_in(seconds)})")
    return Stage(name, folder, format, accuracy, seconds)


def _made_in(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds else "shipped"


def _grpo(model: Path, problems: Path, out: Path, **settings: Any) -> Path:
    """Eight responses to each of eight problems per step; larger steps than the paper's, fewer of them."""
    common = {"rollouts": 8, "rollout_batch": 8, "batch": 64, "micro_batch": 64, "steps": 60, "learning_rate": 1e-4}
    given: dict[str, Any] = {"model": str(model), "problems": (str(problems),), "out": out, "max_tokens": MAX_TOKENS}
    return train_grpo(GrpoSettings(**given, **{**common, **settings}))


def _cold_start(model: Path, data: Path, out: Path) -> Path:
    shape: dict[str, Any] = {"batch": 16, "micro_batch": 16, "steps": 70, "learning_rate": 3e-4}
    return train_dpo(DpoSettings(model=str(model), data=str(data), out=out, **shape))


def measure(policy: Path, out: Path) -> Evaluation:
    """How a checkpoint answers new problems, once each at temperature 1. The evaluation is in `out`/NAME.json, and
    the problems and responses beside it; the same call resumes."""
    problems = write_problems(out / "problems", MEASURED, TEST_WORLD)
    file = out / f"{policy.name}.json"
    recipe = read_settings(Recipe, {
        "policy": str(policy),
        "problems": str(problems),
        "engine": "transformers",
        "samples": 1,
        "max_tokens": MAX_TOKENS,
        "batch_size": 64,
    })  # fmt: skip
    evaluation = evaluate(recipe, out=file)
    write_evaluation(evaluation, file)
    return evaluation


def _plot(stages: Sequence[Stage], file: Path) -> None:
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    names = [stage.name for stage in stages]
    axes.plot(names, [stage.format for stage in stages], marker="o", label="format")
    axes.plot(names, [stage.accuracy for stage in stages], marker="o", label="accuracy")
    axes.set_ylim(0, 1)
    axes.legend()
    figure.savefig(file, metadata={"Date": None})
