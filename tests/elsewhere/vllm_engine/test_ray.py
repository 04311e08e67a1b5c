"""vLLM on a real Ray cluster of two replicas, one of which is killed on the way."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil

from specs_data.engines import open_engine
from specs_data.engines.ray import RayEngine
from specs_data.recipe import make_recipe
from specs_data.records import Message, Request, Sampling


def ask(seed: int, *images: bytes) -> Request:
    return Request((Message("system", "Think."), Message("user", "How many circles are red?")), images, seed)


def replicas() -> list[int]:
    """The processes of Ray actors that run vLLM."""
    return [child.pid for child in psutil.Process().children(recursive=True) if "_Replica" in child.name()]


async def test_two_replicas_and_one_killed(checkpoint: str, picture: bytes) -> None:
    import ray

    settings = {"policy": checkpoint, "engine": "vllm", "max_model_len": 512, "dtype": "float32"}
    sampling = Sampling(max_tokens=100, stop=("</answer>",))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        engine = await open_engine(make_recipe({**settings, "ray": "local", "replicas": 2}), sampling)
        assert isinstance(engine, RayEngine)
        whole = [
            response.text
            for response in await asyncio.gather(*(engine.generate(ask(seed, picture)) for seed in range(60)))
        ]
        async with asyncio.timeout(120):
            while len([handle for handle in engine._handles if handle.up]) < 2:
                await engine.generate(ask(0))
            run = asyncio.gather(*(engine.generate(ask(seed, picture)) for seed in range(60)))
            await asyncio.sleep(0.1)
            os.kill(replicas()[0], signal.SIGKILL)
            again = [response.text for response in await run]
        assert sum(one == other for one, other in zip(whole, again, strict=True)) >= 58
        await engine.close()
    finally:
        ray.shutdown()
