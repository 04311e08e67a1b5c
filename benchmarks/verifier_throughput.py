"""How close the Gemini verifier comes to the ideal throughput of a service with limits.

The real google-genai client, 64 calls in flight, against a loopback server in a process of its own:
200 ms per call from its arrival, and 5 % of the calls are turned away with RetryInfo. Ideal is a service that turns
nobody away and a client that costs nothing: calls * latency / in flight.

    python benchmarks/verifier_throughput.py [--calls 25600]

Prints the ratio to the ideal and exits 1 below 0.95. It needs about one core for the client and half
a core for the server; on a machine that is busy, --no-http shows what retries and limits alone cost:
the same calls with neither a client nor a server, only the waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import uvloop

from specs_data.records import Judged, Judgement, Problem, Response, Sample
from specs_data.services import Client, Failed, Question, Reply
from specs_data.services.gemini import DEFAULT_MODEL, GeminiClient
from specs_data.services.limits import Budget
from specs_data.services.prices import load_prices
from specs_data.services.service import Service
from specs_data.verifiers.model import ModelVerifier

IN_FLIGHT = 64
SHARE_429 = 0.05
RETRY_DELAY = 0.5
SERVER = Path(__file__).parent.parent / "tests" / "fakes" / "gemini_server.py"


def judged(number: int) -> Judged:
    """A response of the usual length, different for each number."""
    text = f"<think>{'The block is red and the ball is not. ' * 30}So it is {number}.</think><answer>{number}</answer>"
    problem = Problem(str(number), "How many red blocks are left?", str(number), "numeric")
    return Judged(Sample(problem, 0, Response(text)), Judgement(True, "number", str(number)))


class Waiting:
    """A client that only waits, and is turned away as by the server."""

    service = "gemini"
    model = DEFAULT_MODEL
    max_tokens = 4096
    options: ClassVar = {"max_tokens": "4096"}

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._random = random.Random(0)

    async def ask(self, question: Question[Any]) -> Reply:
        """One attempt."""
        if self._random.random() < SHARE_429:
            raise Failed("rate limit", wait=RETRY_DELAY)
        await asyncio.sleep(self._latency)
        return Reply('{"consistent": true}', self.model, 1000, 200)

    async def close(self) -> None:
        """Nothing to release."""


async def run(client: Client, calls: int, image: bytes) -> tuple[float, float]:
    """Seconds of wall clock and of this process for so many verdicts, with the verifier's own backlog."""
    verifier = ModelVerifier(Service(client, Budget(load_prices()), in_flight=IN_FLIGHT))
    backlog = asyncio.Semaphore(verifier.concurrency)

    async def one(number: int) -> None:
        async with backlog:
            verdict = await verifier.verify(judged(number), [image])
        assert verdict.consistent

    await one(-1)  # The first call opens connections and builds schemas.
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(one, range(calls)))
    seconds = time.perf_counter() - start, time.process_time() - cpu
    await verifier.close()
    return seconds


def against_server(latency: float, calls: int, image: bytes) -> tuple[float, float]:
    """The same with google-genai and the loopback server."""
    limits = ["--latency", str(latency), "--share-429", str(SHARE_429), "--retry-delay", str(RETRY_DELAY)]
    with subprocess.Popen([sys.executable, str(SERVER), *limits], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            os.environ |= {"GEMINI_API_KEY": "none", "GOOGLE_GEMINI_BASE_URL": server.stdout.readline().strip()}
            return uvloop.run(run(GeminiClient(), calls, image))
        finally:
            server.kill()


def main() -> int:
    """Run once and compare with the ideal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=25600)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--image-bytes", type=int, default=30_000)
    parser.add_argument("--no-http", action="store_true")
    options = parser.parse_args()
    image = b"\x89PNG\r\n\x1a\n" + os.urandom(options.image_bytes)
    if options.no_http:
        wall, cpu = uvloop.run(run(Waiting(options.latency), options.calls, image))
    else:
        wall, cpu = against_server(options.latency, options.calls, image)
    ideal = options.calls * options.latency / IN_FLIGHT
    print(f"{options.calls} verdicts in {wall:.1f} s ({options.calls / wall:.0f}/s), ideal {ideal:.1f} s")
    print(f"this process: {1000 * cpu / options.calls:.2f} ms CPU per verdict, images of {options.image_bytes} bytes")
    print(f"ratio to the ideal: {ideal / wall:.3f}")
    return 0 if ideal / wall >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
