"""The vLLM engine against a bare `LLM.chat` loop: the same prompts, images, seeds and tokens.

    .venv-vllm/bin/python benchmarks/vllm_ratio.py [--checkpoint DIR] [--prompts 256] [--rounds 5]

Both engines live in this process and take turns, with empty prefix and image caches each time; the
ratio is the median over the rounds. On a GPU leave the VLLM_* settings below away with --gpu.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image, ImageDraw

from specs_data.engines.vllm import VLLMEngine, _messages
from specs_data.records import Message, Request, Response, Sampling

SMALL_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


def picture(seed: int, side: int) -> bytes:
    """A PNG of `side` pixels with five coloured discs."""
    rng = random.Random(seed)
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, r = rng.randrange(side), rng.randrange(side), side // 8
        draw.ellipse((x - r, y - r, x + r, y + r), fill=rng.choice(("red", "green", "blue", "black")))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def requests(count: int, side: int) -> list[Request]:
    """`count` requests with an image each, all different."""
    system = Message("system", "Think in <think> </think>, then answer in <answer> </answer>.")
    return [
        Request((system, Message("user", f"{n}: how many discs are red?")), (picture(n, side),), n)
        for n in range(count)
    ]


def bare(llm: Any, asked: list[Request], sampling: Sampling) -> list[str]:
    """One call of LLM.chat with everything."""
    from vllm import SamplingParams

    chats = [_messages(request, [Image.open(io.BytesIO(data)) for data in request.images]) for request in asked]
    params = [
        SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
        )
        for request in asked
    ]
    return [output.outputs[0].text for output in llm.chat(chats, params, use_tqdm=False)]


async def through(engine: VLLMEngine, asked: list[Request]) -> list[Response]:
    """The requests as the build asks them: `concurrency` at a time, each when another is done."""
    room = asyncio.Semaphore(engine.concurrency)

    async def one(request: Request) -> Response:
        async with room:
            return await engine.generate(request)

    return await asyncio.gather(*(one(request) for request in asked))


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds, result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def main() -> None:
    """Print one line per round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="specs_data/mini/grpo-zero")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=56)
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    settings: dict[str, Any] = {"max_model_len": options.max_model_len}
    if options.gpu:
        settings["gpu_memory_utilization"] = 0.4
    else:
        os.environ |= SMALL_CPU
        settings |= {
            "dtype": "float32",
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
            "enable_chunked_prefill": False,
        }

    from vllm import LLM

    sampling = Sampling(max_tokens=options.max_tokens, stop=("</answer>",))
    asked = requests(options.prompts, options.side)
    engine = VLLMEngine(options.checkpoint, sampling, **settings)
    llm = LLM(options.checkpoint, limit_mm_per_prompt={"video": 0}, **settings)
    walls, cpus, same = [], [], 0
    loop = asyncio.new_event_loop()
    for number in range(options.rounds + 1):
        # New seeds and new first words: nothing of the round before is in a cache.
        asked = [
            Request((request.messages[0], Message("user", f"Round {number}, {request.messages[1].content}")),
                    (picture(number * 10_000 + request.seed, options.side),), request.seed)
            for request in asked
        ]  # fmt: skip
        order: list[Callable[[], Any]] = [
            partial(bare, llm, asked, sampling),
            lambda asked=asked: loop.run_until_complete(through(engine, asked)),
        ]
        if number % 2:
            order.reverse()
        runs = [timed(work) for work in order]
        if number % 2:
            runs.reverse()
        (bare_wall, bare_cpu, texts), (wall, cpu, responses) = runs
        if number == 0:
            continue  # both warm up
        same += sum(text == response.text for text, response in zip(texts, responses, strict=True))
        tokens = sum(response.completion_tokens for response in responses)
        walls.append(wall / bare_wall)
        cpus.append(cpu / bare_cpu)
        print(
            f"round {number}: {tokens} tokens, bare {bare_wall:.2f} s ({bare_cpu:.2f} CPU),"
            f" engine {wall:.2f} s ({cpu:.2f} CPU), ratio {walls[-1]:.3f} ({cpus[-1]:.3f} CPU)"
        )
    print(
        f"median ratio: wall {statistics.median(walls):.3f}, CPU {statistics.median(cpus):.3f};"
        f" {same} of {options.rounds * options.prompts} texts identical"
    )
    loop.run_until_complete(engine.close())


if __name__ == "__main__":
    main()
