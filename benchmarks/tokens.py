"""Tokens per kept pair: asking for the next response only where none is kept, against a fixed n = 8.

    python benchmarks/tokens.py

Both build from the same problems with the shipped GRPO-zero; the responses with the same index are the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from specs_data import build, make_recipe
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems


def main() -> None:
    """Print tokens per kept pair both ways, and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems = write_problems(folder, 200, seed=31)
        common = {
            "policy": str(checkpoint("grpo-zero")), "problems": str(problems), "verifier": "rules",
            "engine": "transformers", "max_tokens": 96, "samples": 8,
        }  # fmt: skip
        found = {}
        for label, upfront in (("adaptive", 1), ("fixed n = 8", 8)):
            recipe = make_recipe({**common, "samples_upfront": upfront})
            manifest = build(recipe, folder / label, quiet=True).manifest
            tokens, counts = manifest["tokens"]["generation"]["completion"], manifest["counts"]
            found[label] = tokens / counts["pairs"]
            print(f"{label}: {counts['sampled']} responses, {counts['pairs']} pairs, {found[label]:.1f} tokens a pair")
        print(f"ratio {found['adaptive'] / found['fixed n = 8']:.3f}")


if __name__ == "__main__":
    main()
