"""specs-data: self-distilled preference data for the cold start of RL on vision-language models.

The first open implementation of Metis-SPECS (arXiv 2510.25801). What the command line does is here:

    from specs_data import Recipe, build, check, report
    built = build(Recipe(policy="ckpt/grpo-zero", problems="problems.jsonl", verifier="rules"))
    assert check(built.out).ok
    report(built.out)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import specs_data.build  # noqa: F401 - see below
from specs_data.errors import SpecsDataError, UserError

if TYPE_CHECKING:
    from specs_data.build.run import Built, build, load_run
    from specs_data.format import ResponseFormat, load_format
    from specs_data.look.check import check
    from specs_data.look.report import report
    from specs_data.look.show import show
    from specs_data.measure.compare import compare
    from specs_data.measure.evaluate import evaluate
    from specs_data.measure.gf import gf
    from specs_data.recipe import Recipe, make_recipe
    from specs_data.records import Pair, Problem, Sample
    from specs_data.share.export import export
    from specs_data.share.merge import merge
    from specs_data.share.push import push, versions

__all__ = [
    "Built",
    "Pair",
    "Problem",
    "Recipe",
    "ResponseFormat",
    "Sample",
    "SpecsDataError",
    "UserError",
    "__version__",
    "build",
    "check",
    "compare",
    "evaluate",
    "export",
    "gf",
    "load_format",
    "load_run",
    "make_recipe",
    "merge",
    "push",
    "report",
    "show",
    "versions",
]

# Loaded when first used, so that `import specs_data` stays quick.
_LAZY = {
    "Built": "build.run",
    "Pair": "records",
    "Problem": "records",
    "Recipe": "recipe",
    "ResponseFormat": "format",
    "Sample": "records",
    "build": "build.run",
    "check": "look.check",
    "compare": "measure.compare",
    "evaluate": "measure.evaluate",
    "export": "share.export",
    "gf": "measure.gf",
    "load_format": "format",
    "load_run": "build.run",
    "make_recipe": "recipe",
    "merge": "share.merge",
    "push": "share.push",
    "report": "look.report",
    "show": "look.show",
    "versions": "share.push",
}

# Python binds a subpackage's name in its parent once, when it is first imported. That has happened above, so that
# from here on the name is free for the function.
del globals()["build"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("specs-data")
    if name not in _LAZY:
        raise AttributeError(f"module 'specs_data' has no attribute {name!r}")
    return getattr(import_module(f"specs_data.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
