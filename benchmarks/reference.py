"""Would it pay to compute the reference's log-probabilities once, before DPO?

    OMP_NUM_THREADS=1 python benchmarks/reference.py [--steps 20] [--problems 200]

Trains the shipped base on twins of the shipped grpo-zero and times the reference's forward passes within the steps. A
row is seen once in an epoch and would be computed once before it, so that n epochs would save (n - 1) / n of that time,
and the reference's memory. TRL has `precompute_ref_log_probs`, and refuses it for pictures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import trl

from specs_data import Recipe, build
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.train.dpo import train_dpo
from specs_data.train.settings import DpoSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--problems", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        problems = write_problems(out / "problems", options.problems, 61)
        recipe = Recipe(
            policy=str(checkpoint("grpo-zero")), problems=str(problems), verifier="rules", max_tokens=64, batch_size=64
        )
        data = build(recipe, out / "run", quiet=True).out
        steps, reference = timed(
            DpoSettings.model_validate(
                {
                    "model": str(checkpoint("base")),
                    "data": str(data),
                    "out": out / "model",
                    "batch": 16,
                    "micro_batch": 16,
                    "steps": options.steps,
                    "save_every": 10_000,
                }
            )
        )
    share = reference / steps
    print(f"{steps / options.steps:.3f} CPU seconds a step, {share:.1%} of it the reference's forward pass")
    for epochs in (1, 2, 3):
        print(f"  computed once, {epochs} epochs: {share * (epochs - 1) / epochs:.1%} of the time saved")


def timed(settings: DpoSettings) -> tuple[float, float]:
    """CPU seconds in all optimizer steps, and of these in the reference."""
    spent = {"steps": 0.0, "reference": 0.0}
    step, init = trl.DPOTrainer.training_step, trl.DPOTrainer.__init__

    def timed_step(self: Any, *args: Any, **more: Any) -> Any:
        started = time.process_time()
        found = step(self, *args, **more)
        spent["steps"] += time.process_time() - started
        return found

    def with_clock(self: Any, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        forward = self.ref_model.forward

        def clocked(*given: Any, **named: Any) -> Any:
            started = time.process_time()
            found = forward(*given, **named)
            spent["reference"] += time.process_time() - started
            return found

        self.ref_model.forward = clocked

    with mock.patch.multiple(trl.DPOTrainer, training_step=timed_step, __init__=with_clock):
        train_dpo(settings)
    return spent["steps"], spent["reference"]


if __name__ == "__main__":
    main()
