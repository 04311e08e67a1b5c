"""Problems as another trainer's GRPO prompts."""

from __future__ import annotations

from pathlib import Path

from specs_data.export import PROMPT_TARGETS, Export, export_problems
from specs_data.format import load_format
from specs_data.problems import Incoming, read_problems
from specs_data.recipe import Recipe
from specs_data.texts import system_prompt

__all__ = ["PROMPT_TARGETS", "export_prompts"]


def export_prompts(recipe: Recipe, to: str, out: Path) -> Export:
    """Write the recipe's problems, with its system prompt, for the trainer `to`. Raises UserError."""
    system = system_prompt(recipe.system_prompt, load_format(recipe.format).instruction)
    rows = read_problems(recipe.problems or "", preset=recipe.preset, columns=recipe.columns, limit=recipe.limit)
    found = ((row.problem, row.images) for row in rows if isinstance(row, Incoming))
    return export_problems(found, system, to, out)
