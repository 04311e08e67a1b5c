"""From a recipe to a service that answers questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from specs_data.errors import UserError
from specs_data.recipe import Recipe
from specs_data.records import Payment
from specs_data.services import Asker, Client, Refusals
from specs_data.services.limits import Budget
from specs_data.services.prices import load_prices
from specs_data.services.service import Service

if TYPE_CHECKING:
    from specs_data.services.gemini_batch import JobLog

Stage = Literal["verification", "judging"]


def open_budget(recipe: Recipe, spent: float = 0.0, pay: Callable[[Payment], None] | None = None) -> Budget:
    """What the recipe lets judging services cost, and their pace. `spent` are the US dollars that earlier runs
    paid; `pay` puts on record what this one pays. Raises UserError."""
    return Budget(load_prices(recipe.prices), recipe.max_cost, spent, pay, recipe.rpm)


def open_asker(
    service: str,
    model: str | None,
    base_url: str | None,
    recipe: Recipe,
    budget: Budget,
    stage: Stage,
    log: JobLog | None = None,
    refused: Refusals | None = None,
) -> Asker:
    """The service ("gemini" or "openai") with the recipe's limits, for the questions of a stage. With a `log`
    and where the recipe asks for it, Gemini works through batch jobs. `refused` is what earlier runs were refused.
    Raises UserError, and MissingExtra."""
    client: Client
    role = "judge" if stage == "judging" else "verifier"
    if service == "gemini":
        from specs_data.services.gemini import DEFAULT_MODEL, GeminiClient

        client = GeminiClient(model or DEFAULT_MODEL, role, recipe.answer_tokens)
        if recipe.gemini_batch and log is not None:
            from specs_data.services.gemini_batch import GeminiBatch

            return GeminiBatch(client, budget, log, stage=stage, allow_mismatch=recipe.allow_model_mismatch)
    else:
        from specs_data.services.openai import OpenAIClient

        if model is None:
            raise UserError("an openai verifier needs the model's name at its server (--verifier-model)")
        client = OpenAIClient(model, base_url, role, recipe.answer_tokens)
    return Service(client, budget, stage=stage, allow_mismatch=recipe.allow_model_mismatch, refused=refused or log)
