"""specs-data: self-distilled preference data for the cold start of RL on vision-language models.

The first open implementation of Metis-SPECS (arXiv 2510.25801). What the command line does is here:

    from specs_data import Recipe, build
    built = build(Recipe(policy="ckpt/grpo-zero", problems="problems.jsonl", verifier="rules"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from specs_data.errors import SpecsDataError, UserError
from specs_data.format import ResponseFormat, load_format
from specs_data.recipe import Recipe, make_recipe
from specs_data.records import Pair, Problem, Sample

if TYPE_CHECKING:
    from specs_data.pipeline import Built, build, load_run

__all__ = [
    "Built",
    "Pair",
    "Problem",
    "Recipe",
    "ResponseFormat",
    "Sample",
    "SpecsDataError",
    "UserError",
    "build",
    "load_format",
    "load_run",
    "make_recipe",
]

# Loaded when first used, so that `import specs_data` stays quick.
_LAZY = {"Built": "pipeline", "build": "pipeline", "load_run": "pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'specs_data' has no attribute {name!r}")
    return getattr(import_module(f"specs_data.{_LAZY[name]}"), name)
