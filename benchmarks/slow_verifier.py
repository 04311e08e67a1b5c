"""Does a slow verifier keep the policy waiting?

    python benchmarks/slow_verifier.py [--problems 2000] [--slots 128] [--response 0.5] [--at-once 64] [--verdict 1.0]
    python benchmarks/slow_verifier.py --sweep [--pictures] [--problems 9000] [--response 0.085]

A scripted policy of so many slots, where half of the responses are wrong, and a verifier of a few at once, slower than
the policy is. Prints two shares of the slots' time that is used, until the last first response is asked for and until
the last response has come, with `--samples-upfront` and `--pairs-per-problem` as well, and exits 1 where the second is
below 0.90. `--sweep`: the first share alone, beside verifiers of 16, 64 and 256 at once that take 0.2, 1 and 5 s, which
have mercy once the last first response is asked for; exits 1 below 0.99, or 0.98 with `--pictures` (a JPEG of 100 KB in
each problem).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from pathlib import Path

from http_cost import draw

from specs_data import build, make_recipe
from specs_data.engines.scripted import ScriptedEngine
from specs_data.records import Judged, Request, Response, Verdict


class Watched(ScriptedEngine):
    """Notes when each response began and ended, in seconds."""

    def __init__(self, slots: int, seconds: float) -> None:
        super().__init__(respond, concurrency=slots, delay=seconds)
        self.spans: list[tuple[float, float]] = []

    async def generate(self, request: Request) -> Response:
        """As the scripted engine."""
        begun = time.perf_counter()
        response = await super().generate(request)
        self.spans.append((begun, time.perf_counter()))
        return response

    def used(self, count: int | None = None) -> float:
        """The share of the slots' time from the first response to the last, or until `count` have begun."""
        spans = sorted(self.spans)
        first, last = spans[0][0], max(end for _, end in spans) if count is None else spans[count - 1][0]
        used = sum(min(end, last) - begun for begun, end in spans if begun < last)
        return used / ((last - first) * self.concurrency)


class Waiting:
    """A verifier that takes its time and finds everything consistent."""

    paid = True

    def __init__(self, at_once: int, seconds: float, engine: Watched | None = None, until: float = math.inf) -> None:
        self.settings = {"verifier": "waiting", "model": "waiting-1"}
        self.concurrency = at_once
        self._seconds = seconds
        self._engine = engine
        self._until = until

    async def verify(self, judged: Judged, images: object) -> Verdict:
        """Consistent, after a while; at once when so many responses have been asked for."""
        if self._engine is None or self._engine.calls < self._until:
            await asyncio.sleep(self._seconds)
        return Verdict(True, "looked at for long")

    async def close(self) -> None:
        """Nothing to release."""


def respond(request: Request) -> str:
    """Right for every second seed."""
    answer = int(request.messages[-1].content.split()[2]) + 1 + request.seed % 2
    return f"<think>Adding one to the number gives {answer}.</think>\n<answer>\\boxed{{{answer}}}</answer>"


def measure(options: argparse.Namespace, settings: dict[str, int], shown: Path | None) -> float:
    """One build; prints its line. The share that counts."""
    engine = Watched(options.slots, options.response)
    firsts = options.problems * settings.get("samples_upfront", 1)
    with tempfile.TemporaryDirectory() as name:
        problems = (shown or Path(name)) / "problems.jsonl"
        with problems.open("w") as file:
            for number in range(options.problems):
                row = {"question": f"What is {number} + 1?", "answer": str(number + 1)}
                images = {} if shown is None else {"images": [f"{number}.jpg"]}
                file.write(json.dumps(row | images) + "\n")
        recipe = make_recipe({"problems": str(problems), "samples": 4, **settings})
        begun = time.perf_counter()
        verifier = Waiting(options.at_once, options.verdict, engine, firsts if options.sweep else math.inf)
        built = build(recipe, Path(name) / "run", engine=engine, verifier=verifier, quiet=True)
        seconds = time.perf_counter() - begun
    first, whole = engine.used(firsts), engine.used()
    print(
        f"{options.at_once} at once, {options.verdict:g} s, {settings or 'plain'}: {first:.3f}"
        f"{'' if options.sweep else f' and {whole:.3f}'} of the slots' time used; {engine.calls} responses, "
        f"{built.count} pairs, {seconds:.0f} s",
        flush=True,
    )
    return first if options.sweep else whole


def main() -> int:
    """Three builds for each verifier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--response", type=float, default=0.5)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--verdict", type=float, default=1.0)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--pictures", action="store_true")
    options = parser.parse_args()
    kinds: list[dict[str, int]] = [{}, {"samples_upfront": 2}, {"samples_upfront": 4, "pairs_per_problem": 2}]
    verifiers = [(options.at_once, options.verdict)]
    if options.sweep:
        verifiers = [(at_once, verdict) for at_once in (16, 64, 256) for verdict in (0.2, 1.0, 5.0)]
    found = []
    with tempfile.TemporaryDirectory() as name:
        shown = Path(name) if options.pictures else None
        if shown is not None:
            draw(shown, options.problems)
        for options.at_once, options.verdict in verifiers:
            found += [measure(options, settings, shown) for settings in kinds]
    least = 0.9 if not options.sweep else 0.98 if options.pictures else 0.99
    return int(min(found) < least)


if __name__ == "__main__":
    sys.exit(main())
