"""From a recipe to a service that answers questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specs_data.errors import UserError
from specs_data.prices import load_prices
from specs_data.recipe import Recipe
from specs_data.services import Asker, Client
from specs_data.services.limits import Budget
from specs_data.services.service import Service

if TYPE_CHECKING:
    from specs_data.services.gemini_batch import JobLog


def open_budget(recipe: Recipe, spent: float = 0.0) -> Budget:
    """What the recipe lets judging services cost; `spent` is what earlier runs cost. Raises UserError."""
    return Budget(load_prices(recipe.prices), recipe.max_cost, spent)


def open_asker(
    service: str,
    model: str | None,
    base_url: str | None,
    recipe: Recipe,
    budget: Budget,
    log: JobLog | None = None,
) -> Asker:
    """The service ("gemini" or "openai") with the recipe's limits. With a `log` and where the recipe
    asks for it, Gemini works through batch jobs. Raises UserError, and MissingExtra."""
    client: Client
    if service == "gemini":
        from specs_data.services.gemini import DEFAULT_MODEL, GeminiClient

        client = GeminiClient(model or DEFAULT_MODEL)
        if recipe.gemini_batch and log is not None:
            from specs_data.services.gemini_batch import GeminiBatch

            return GeminiBatch(client, budget, log, allow_mismatch=recipe.allow_model_mismatch)
    else:
        from specs_data.services.openai import OpenAIClient

        if model is None:
            raise UserError("an openai verifier needs the model's name at its server (--verifier-model)")
        client = OpenAIClient(model, base_url)
    return Service(client, budget, per_minute=recipe.rpm, allow_mismatch=recipe.allow_model_mismatch)
