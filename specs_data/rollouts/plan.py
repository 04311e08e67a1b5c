"""What determines each stage's results in one run, as numbers in its store."""

from __future__ import annotations

from msgspec import Struct

from specs_data.format import ResponseFormat
from specs_data.recipe import Recipe
from specs_data.texts import Text


class Source(Struct, frozen=True):
    """A policy whose responses are in the store: its name in the dataset, what identifies it, and the
    settings under which its samples and their judgements are logged."""

    name: str
    fingerprint: str
    samples: int
    judgements: int


class Plan(Struct, frozen=True):
    """One run. `rival` writes the rejected responses where they do not come from the chosen; `verifier` is
    its name in the dataset;
    `verdicts` and `pairs` are the settings of those stages; `samples` is the most responses a
    problem gets; `services` are the stages that ask a model ("verification", "judging")."""

    recipe: Recipe
    fmt: ResponseFormat
    system: Text | None
    policy: Source
    rival: Source | None
    verifier: str
    verdicts: int
    pairs: int
    samples: int
    services: frozenset[str]
