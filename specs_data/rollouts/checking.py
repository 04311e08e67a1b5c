"""The policy that checks thoughts: the one that is sampled, or another checkpoint."""

from __future__ import annotations

import asyncio

from specs_data import engines
from specs_data.engines import Engine
from specs_data.format import load_format
from specs_data.recipe import Recipe, named_verifiers
from specs_data.records import Sampling
from specs_data.rollouts.demand import OnDemand
from specs_data.rollouts.sample import check_policy, policy_fingerprint, policy_name
from specs_data.texts import system_prompt
from specs_data.verifiers import Checker, verifier_names

AT_ONCE = 64
HALF = 0.45  # of a GPU's memory, where two models of vLLM are on it


def open_checker(recipe: Recipe, sampled: OnDemand | None = None) -> Checker | None:
    """What `--verifier policy` asks: the checkpoint that `verifier_model` names, in an engine of its own that loads
    when first asked, or else the engine that is `sampled`. None where the recipe asks for no such verifier, or where
    there is neither. The engine is the caller's to close. Raises UserError."""
    if "policy" not in verifier_names(recipe):
        return None
    system = system_prompt(recipe.system_prompt, load_format(recipe.format).instruction)
    if recipe.verifier_model is None:
        name = recipe.policy or recipe.model or ""
        return Checker(sampled, policy_name(name), policy_fingerprint(name), system) if sampled else None
    model = recipe.verifier_model
    check_policy(model)
    share = recipe if sampled is None else sharing(recipe)
    own = share.model_copy(update={"policy": model, "engine": "auto", "base_url": ()})

    async def opened() -> Engine:
        return await engines.open_engine(own, Sampling(0.0))

    engine = OnDemand(opened, asyncio.Semaphore(AT_ONCE), AT_ONCE, lent=False)
    return Checker(engine, policy_name(model), policy_fingerprint(model), system)


def sharing(recipe: Recipe) -> Recipe:
    """The recipe with half of the GPU's memory where another checkpoint verifies beside the policy and nothing else is
    said: of what vLLM takes by itself, nearly all, only one model can be had. A Ray cluster has a GPU for each."""
    alone = recipe.verifier_model is None or "policy" not in named_verifiers(recipe.verifier)
    if alone or recipe.gpu_memory_utilization is not None or recipe.ray is not None:
        return recipe
    return recipe.model_copy(update={"gpu_memory_utilization": HALF})


def asks_sampled(recipe: Recipe) -> bool:
    """Whether the verifier needs the policy's own engine to the end."""
    return recipe.verifier_model is None and "policy" in named_verifiers(recipe.verifier)
