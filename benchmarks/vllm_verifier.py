"""Does the real vLLM work as fast beside a slow verifier as without one?

    .venv-vllm/bin/python benchmarks/vllm_verifier.py [--problems 512] [--rounds 3] [--at-once 16] [--verdict 0.5]
        [--layers N] [--width N] [--gpu]

Builds without a verifier and with one of a few at once take turns, over problems that neither has seen. Prints the
tokens that the model made per second, from the first request to the last response, and the ratio of the medians.
--layers, --width and --gpu as in vllm_ratio.py.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from slow_verifier import Waiting
from vllm_ratio import SAMPLING, dearer, settled

from specs_data import build
from specs_data.engines.vllm import VLLMEngine
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.recipe import Recipe
from specs_data.records import Request, Response


class Watched:
    """vLLM, with the time that it was asked first, and gave its last response."""

    def __init__(self, engine: VLLMEngine) -> None:
        self.concurrency = engine.concurrency
        self.tokens = 0
        self.first = self.last = 0.0
        self._engine = engine

    async def generate(self, request: Request) -> Response:
        """As the engine."""
        self.first = self.first or time.perf_counter()
        response = await self._engine.generate(request)
        self.last = time.perf_counter()
        self.tokens += response.completion_tokens
        return response

    async def close(self) -> None:
        """It is needed again."""


def play(engine: VLLMEngine, count: int, world: int, verifier: Waiting | None) -> float:
    """One build: tokens a second."""
    watched = Watched(engine)
    with tempfile.TemporaryDirectory() as folder:
        problems = write_problems(Path(folder), count, world)
        recipe = Recipe(problems=str(problems), samples=4, verifier="none", max_tokens=SAMPLING.max_tokens)
        built = build(recipe, Path(folder) / "run", engine=watched, verifier=verifier, quiet=True)
    speed = watched.tokens / (watched.last - watched.first)
    name = "a slow verifier" if verifier else "no verifier"
    print(f"{name}: {watched.tokens} tokens, {speed:.0f} a second, {built.count} pairs", flush=True)
    return speed


def main() -> None:
    """Print a line for each build, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--verdict", type=float, default=0.5)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        policy = dearer(checkpoint("grpo-zero"), options.layers, options.width, Path(folder))
        compare(VLLMEngine(policy, SAMPLING, **settled(options.gpu)), options)


def compare(engine: VLLMEngine, options: argparse.Namespace) -> None:
    """Builds with and without the verifier by turns."""
    play(engine, 32, 1, None)
    slow = Waiting(options.at_once, options.verdict)
    alone, beside = [], []
    for number in range(options.rounds):
        for speeds, verifier in ((alone, None), (beside, slow))[:: 1 - 2 * (number % 2)]:
            speeds.append(play(engine, options.problems, 2 + number, verifier))
    print(f"beside a slow verifier over without one: {statistics.median(beside) / statistics.median(alone):.3f}")
    asyncio.run(engine.close())


if __name__ == "__main__":
    main()
