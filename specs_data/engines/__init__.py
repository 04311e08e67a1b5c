"""The engine seam: whatever turns requests into responses.

An engine serves many `generate` calls at once and keeps its model busy with them; the caller keeps
about `concurrency` calls in flight. The contract is in plugins.py. To add one here, write a module with a class that
satisfies it and name that in ENGINES; others are found by name.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pkgutil import resolve_name

from specs_data.errors import UserError
from specs_data.loop import in_thread, is_interrupted, run
from specs_data.plugins import Engine as Engine
from specs_data.plugins import MakeEngine, check_name, make_engine
from specs_data.plugins import ModelOptions as ModelOptions
from specs_data.recipe import Recipe, named_verifiers
from specs_data.records import Sampling

DEFAULTS = ModelOptions()
logger = logging.getLogger(__name__)

# Where each engine is made: a module is imported when its engine is wanted.
ENGINES: Mapping[str, str] = {
    "transformers": "specs_data.engines.transformers:TransformersEngine",
    "vllm": "specs_data.engines.vllm:VLLMEngine",
    "openai": "specs_data.engines.openai:OpenAIEngine",
}
# Of the settings for a model, those that each of them has no use for. A plug-in's are its own affair.
UNUSED: Mapping[str, tuple[str, ...]] = {
    "transformers": (
        "base_url", "concurrency", "engine_arg", "gpu_memory_utilization", "max_model_len", "model",
        "tensor_parallel_size",
    ),
    "vllm": ("base_url", "batch_size", "concurrency", "model"),
    "openai": (
        "batch_size", "dtype", "engine_arg", "gpu_memory_utilization", "max_model_len", "tensor_parallel_size",
    ),
}  # fmt: skip


def engine_factory(name: str) -> MakeEngine:
    """What makes the engine of this name: one of ENGINES, or else a plug-in. Raises UserError where there is none."""
    check_name("engine", name, ENGINES)
    if name not in ENGINES:
        return partial(make_engine, name)
    factory: MakeEngine = resolve_name(ENGINES[name])
    return factory


def engine_name(recipe: Recipe) -> str:
    """The engine that the recipe means: for "auto" a server where it names one, else vLLM where that
    is installed, else transformers. Raises UserError for a name that nothing has."""
    check_name("engine", recipe.engine, ("auto", *ENGINES))
    if recipe.engine != "auto":
        return recipe.engine
    if recipe.base_url:
        return "openai"
    return "vllm" if find_spec("vllm") is not None else "transformers"


def model_options(recipe: Recipe) -> ModelOptions:
    """How the recipe wants the model held and asked."""
    settings = {name: getattr(recipe, name) for name in ModelOptions.__struct_fields__}
    return ModelOptions(**settings | {"base_url": tuple(filter(None, recipe.base_url))})


def tell_unused(recipe: Recipe, name: str) -> None:
    """Say which settings were given that the engine `name` has no use for."""
    if recipe.verifier_model and "policy" in named_verifiers(recipe.verifier):
        return  # whose checkpoint may be loaded by another engine
    given = [each for each in UNUSED.get(name, ()) if getattr(recipe, each) != Recipe.model_fields[each].default]
    if given:
        flags = ", ".join(f"--{each.replace('_', '-')}" for each in given)
        logger.warning("the engine %s has no use for %s", name, flags)


async def open_engine(recipe: Recipe, sampling: Sampling) -> Engine:
    """The engine of a recipe, its model loaded. Raises UserError where it cannot be had."""
    name = engine_name(recipe)
    served = name == "openai"
    if served and recipe.ray is not None:
        raise UserError("--ray starts engines of its own: give --engine openai the --base-url of each server instead")
    if recipe.replicas is not None and recipe.ray is None:
        raise UserError("--replicas are engines on a Ray cluster, of one machine too: give --ray local, or its address")
    own = name in ENGINES and not served
    if recipe.ray is not None and not own:
        raise UserError(f"--ray starts engines of its own, vllm or transformers; it cannot go with {name}")
    if own and recipe.base_url:
        raise UserError(f"--base-url belongs to --engine openai, not to {name}")
    if own and recipe.policy is None:
        raise UserError("no policy: give --policy CKPT (or policy = ... in specs-data.toml)")
    policy = recipe.model if served else recipe.policy
    make = partial(_make, name, policy or "", sampling, model_options(recipe))
    # Loading takes seconds to minutes: not in the event loop.
    if name not in ENGINES:
        return await _in_thread(name, make)
    if recipe.ray is None:
        return await asyncio.to_thread(make)
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(_open_replicas, make, recipe, given_up)
    finally:
        given_up.set()  # a thread that goes on waiting would keep the interrupted process


async def _in_thread(name: str, make: Callable[[], Engine]) -> Engine:
    """A plug-in may never come to an end."""
    try:
        return await in_thread(make)
    except asyncio.CancelledError:
        if is_interrupted():
            logger.warning("interrupted while the engine %s was made", name)
        raise


def at_server(recipe: Recipe) -> Recipe:
    """A recipe for servers, with the model that they are asked for as its policy, whatever checkpoint else is named;
    as it is where it names a policy alone. Raises UserError."""
    if recipe.policy and not recipe.model:
        return recipe
    model = recipe.model or run(only_model(recipe))
    return recipe.model_copy(update={"policy": model, "model": model})


async def only_model(recipe: Recipe) -> str:
    """The name of the only model at the servers of a recipe. Raises UserError where there is not one."""
    from specs_data.engines.openai import OpenAIEngine

    engine = OpenAIEngine("", Sampling(), model_options(recipe))
    try:
        return await engine.only_model()
    finally:
        await engine.close()


def _make(name: str, policy: str, sampling: Sampling, options: ModelOptions) -> Engine:
    # The name travels to an actor rather than the factory, which not every machine could unpickle.
    return engine_factory(name)(policy, sampling, options)


def _open_replicas(make: partial[Engine], recipe: Recipe, given_up: threading.Event) -> Engine:
    from specs_data.engines.ray import RayEngine

    address = None if recipe.ray == "local" else recipe.ray
    gpus = recipe.tensor_parallel_size
    return RayEngine(make, address, replicas=recipe.replicas or 1, gpus=gpus, given_up=given_up)
