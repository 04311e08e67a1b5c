"""Problems as another trainer's GRPO prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from specs_data.format import load_format
from specs_data.problems import Dropped, read_all, sources_of
from specs_data.recipe import Recipe
from specs_data.records import Problem
from specs_data.share.export import PROMPT_TARGETS, Export, export_problems
from specs_data.texts import system_prompt

__all__ = ["PROMPT_TARGETS", "export_prompts"]


def export_prompts(recipe: Recipe, to: str, out: Path) -> Export:
    """Write the recipe's problems, with its system prompt, for the trainer `to`; bad rows are counted.
    Raises UserError."""
    problems = _Problems(recipe)
    system = system_prompt(recipe.system_prompt, load_format(recipe.format).instruction)
    return export_problems(problems, system, to, out, problems.unread)


class _Problems:
    """The problems of a recipe, as often as they are asked for; `unread` are the bad rows of the last time."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.unread: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[Problem, tuple[bytes, ...]]]:
        self.unread.clear()
        recipe = self._recipe
        sources = sources_of(recipe)
        for row in read_all(sources, columns=recipe.columns, limit=recipe.limit):
            if isinstance(row, Dropped):
                self.unread[row.reason] += 1
            else:
                yield row.problem, row.images
