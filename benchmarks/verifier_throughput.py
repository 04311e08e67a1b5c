"""How close the Gemini verifier comes to the ideal throughput of a service with limits.

The real google-genai client, 64 calls in flight, against a loopback server in a process of its own:
200 ms per call, and 5 % of the calls are turned away with RetryInfo. Ideal is a service that turns
nobody away and a client that costs nothing: calls * latency / in flight.

    python benchmarks/verifier_throughput.py [--calls 12800]

Prints the ratio to the ideal and exits 1 below 0.95.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from specs_data.prices import load_prices
from specs_data.records import Judged, Judgement, Problem, Response, Sample
from specs_data.services.gemini import DEFAULT_MODEL, GeminiClient
from specs_data.services.limits import Budget
from specs_data.services.service import Service
from specs_data.verifiers.model import ModelVerifier

IN_FLIGHT = 64
SERVER = Path(__file__).parent.parent / "tests" / "gemini_server.py"


def judged(number: int) -> Judged:
    """A response of the usual length, different for each number."""
    text = f"<think>{'The block is red and the ball is not. ' * 30}So it is {number}.</think><answer>{number}</answer>"
    problem = Problem(str(number), "How many red blocks are left?", str(number), "numeric")
    return Judged(Sample(problem, 0, Response(text)), Judgement(True, "number", str(number)), None)


async def run(calls: int, image: bytes) -> tuple[float, float]:
    """Seconds of wall clock and of this process for so many verdicts, with the verifier's own backlog."""
    verifier = ModelVerifier(Service(GeminiClient(DEFAULT_MODEL), Budget(load_prices()), in_flight=IN_FLIGHT))
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


def main() -> int:
    """Run once and compare with the ideal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=12800)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--image-bytes", type=int, default=30_000)
    options = parser.parse_args()
    command = [sys.executable, str(SERVER), "--latency", str(options.latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            os.environ |= {"GEMINI_API_KEY": "none", "GOOGLE_GEMINI_BASE_URL": server.stdout.readline().strip()}
            image = b"\x89PNG\r\n\x1a\n" + os.urandom(options.image_bytes)
            wall, cpu = asyncio.run(run(options.calls, image))
        finally:
            server.kill()
    ideal = options.calls * options.latency / IN_FLIGHT
    print(f"{options.calls} verdicts in {wall:.1f} s ({options.calls / wall:.0f}/s), ideal {ideal:.1f} s")
    print(f"this process: {1000 * cpu / options.calls:.2f} ms CPU per verdict, images of {options.image_bytes} bytes")
    print(f"ratio to the ideal: {ideal / wall:.3f}")
    return 0 if ideal / wall >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
