"""From a recipe to a service that answers questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from specs_data.errors import UserError
from specs_data.prices import load_prices
from specs_data.recipe import Recipe
from specs_data.services import Asker, Client
from specs_data.services.limits import Budget
from specs_data.services.service import Service
from specs_data.store import Store

if TYPE_CHECKING:
    from specs_data.services.gemini_batch import JobLog

Stage = Literal["verification", "judging"]


def open_budget(recipe: Recipe, store: Store | None = None) -> Budget:
    """What the recipe lets judging services cost, and their pace. With a `store`, what earlier runs paid
    counts, and what this one pays goes on record there. Raises UserError."""
    prices = load_prices(recipe.prices)
    if store is None:
        return Budget(prices, recipe.max_cost, per_minute=recipe.rpm)
    spent = sum(paid.dollars for paid in store.paid().values())
    return Budget(prices, recipe.max_cost, spent, store.pay, recipe.rpm)


def open_asker(
    service: str,
    model: str | None,
    base_url: str | None,
    recipe: Recipe,
    budget: Budget,
    stage: Stage,
    log: JobLog | None = None,
) -> Asker:
    """The service ("gemini" or "openai") with the recipe's limits, for the questions of a stage. With a `log`
    and where the recipe asks for it, Gemini works through batch jobs. Raises UserError, and MissingExtra."""
    client: Client
    role = "judge" if stage == "judging" else "verifier"
    if service == "gemini":
        from specs_data.services.gemini import DEFAULT_MODEL, GeminiClient

        client = GeminiClient(model or DEFAULT_MODEL, role)
        if recipe.gemini_batch and log is not None:
            from specs_data.services.gemini_batch import GeminiBatch

            return GeminiBatch(client, budget, log, stage=stage, allow_mismatch=recipe.allow_model_mismatch)
    else:
        from specs_data.services.openai import OpenAIClient

        if model is None:
            raise UserError("an openai verifier needs the model's name at its server (--verifier-model)")
        client = OpenAIClient(model, base_url, role)
    return Service(client, budget, stage=stage, allow_mismatch=recipe.allow_model_mismatch)
