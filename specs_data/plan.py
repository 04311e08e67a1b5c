"""What determines each stage's results in one run, as numbers in its store."""

from __future__ import annotations

from msgspec import Struct

from specs_data.format import ResponseFormat
from specs_data.recipe import Recipe
from specs_data.texts import Text


class Source(Struct, frozen=True):
    """A policy whose responses are in the store: its name in the dataset, and the settings under
    which its samples and their judgements are logged."""

    name: str
    samples: int
    judgements: int


class Plan(Struct, frozen=True):
    """One run. `rival` writes the rejected responses where they do not come from the chosen;
    `verdicts` and `pairs` are the settings of those stages; `samples` is the most responses a
    problem gets; `services` are the stages that ask a model ("verification", "judging")."""

    recipe: Recipe
    fmt: ResponseFormat
    system: Text | None
    policy: Source
    rival: Source | None
    verdicts: int
    pairs: int
    samples: int
    services: frozenset[str]

    @property
    def verifier(self) -> str:
        """The verifier as the dataset names it."""
        name = self.recipe.verifier or "none"
        return f"{name}:{self.recipe.verifier_model}" if self.recipe.verifier_model else name
