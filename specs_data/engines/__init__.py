"""The engine seam: whatever turns requests into responses.

An engine serves many `generate` calls at once and keeps its model busy with them; the caller keeps
about `concurrency` calls in flight. The contract is in plugins.py. To add one here, write a module with a class that
satisfies Engine and name it in `open_engine`; others are found by name.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from specs_data.errors import UserError
from specs_data.plugins import Engine as Engine
from specs_data.plugins import check_name, make_engine
from specs_data.recipe import Recipe
from specs_data.records import Sampling

if TYPE_CHECKING:
    from specs_data.engines.openai import OpenAIEngine

BUILT_IN = ("auto", "transformers", "vllm", "openai")


def engine_name(recipe: Recipe) -> str:
    """The engine that the recipe means: for "auto" a server where it names one, else vLLM where that
    is installed, else transformers. Raises UserError for a name that nothing has."""
    check_name("engine", recipe.engine, BUILT_IN)
    if recipe.engine != "auto":
        return recipe.engine
    if recipe.base_url:
        return "openai"
    return "vllm" if find_spec("vllm") is not None else "transformers"


async def open_engine(recipe: Recipe, sampling: Sampling) -> Engine:
    """The engine of a recipe, its model loaded. Raises UserError where it cannot be had."""
    name = engine_name(recipe)
    if name == "openai":
        return _open_server(recipe, sampling)
    if name not in BUILT_IN:
        if recipe.ray is not None:
            raise UserError(f"--ray starts engines of its own, vllm or transformers; it cannot go with {name}")
        return await asyncio.to_thread(make_engine, name, recipe.policy or "", sampling, recipe)
    if recipe.base_url:
        raise UserError(f"--base-url belongs to --engine openai, not to {name}")
    # Loading takes seconds to minutes: not in the event loop.
    if recipe.ray is not None:
        given_up = threading.Event()
        try:
            return await asyncio.to_thread(_open_replicas, recipe, sampling, given_up)
        finally:
            given_up.set()  # a thread that goes on waiting would keep the interrupted process
    return await asyncio.to_thread(_open_here, recipe, sampling)


async def only_model(recipe: Recipe) -> str:
    """The name of the only model at the servers of a recipe. Raises UserError where there is not one."""
    engine = _open_server(recipe, Sampling())
    try:
        return await engine.only_model()
    finally:
        await engine.close()


def _open_here(recipe: Recipe, sampling: Sampling) -> Engine:
    if recipe.policy is None:
        raise UserError("no policy: give --policy CKPT (or policy = ... in specs-data.toml)")
    if engine_name(recipe) == "vllm":
        from specs_data.engines.vllm import VLLMEngine

        return VLLMEngine(
            recipe.policy,
            sampling,
            tensor_parallel_size=recipe.tensor_parallel_size,
            max_model_len=recipe.max_model_len,
            gpu_memory_utilization=recipe.gpu_memory_utilization,
            dtype=recipe.dtype,
            limit_images=recipe.limit_images,
            min_pixels=recipe.min_pixels,
            max_pixels=recipe.max_pixels,
        )
    from specs_data.engines.transformers import TransformersEngine

    return TransformersEngine(
        recipe.policy,
        sampling,
        batch_size=recipe.batch_size or 32,
        dtype=recipe.dtype,
        min_pixels=recipe.min_pixels,
        max_pixels=recipe.max_pixels,
        limit_images=recipe.limit_images,
    )


def _open_replicas(recipe: Recipe, sampling: Sampling, given_up: threading.Event) -> Engine:
    from specs_data.engines.ray import RayEngine

    address = None if recipe.ray == "local" else recipe.ray
    gpus = recipe.tensor_parallel_size
    make_engine = partial(_open_here, recipe, sampling)
    return RayEngine(make_engine, address, replicas=recipe.replicas or 1, gpus=gpus, given_up=given_up)


def _open_server(recipe: Recipe, sampling: Sampling) -> OpenAIEngine:
    from specs_data.engines.openai import OpenAIEngine

    if recipe.ray is not None:
        raise UserError("--ray starts engines of its own: give --engine openai the --base-url of each server instead")
    return OpenAIEngine(
        [url for urls in recipe.base_url for url in urls.split(",") if url.strip()],
        recipe.model,
        sampling,
        per_server=recipe.concurrency or 64,
        min_pixels=recipe.min_pixels,
        max_pixels=recipe.max_pixels,
        limit_images=recipe.limit_images,
    )
