"""What the end of a run takes, where responses are of very different lengths and some problems are hard.

    python benchmarks/tail.py [--problems 500 1500] [--slots 128] [--enough 0.2]

A scripted policy whose responses take 0.05 to 8 s (log-normal, wrong ones longer) and that solves some problems nearly
always and others hardly ever. Each size is built as it is, without asking ahead, and with `--enough`. Prints the time
that it took, the time of slots, when 95 % of the pairs were there, and both over the ideal: all slots always busy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import tempfile
import time
from pathlib import Path
from unittest.mock import PropertyMock, patch

from specs_data import build, make_recipe
from specs_data.build.flow import Asking
from specs_data.records import Request, Response
from specs_data.rollouts.search import _Search
from specs_data.rollouts.store import Position


class Policy:
    """Of so many slots. What it says, and how long it takes, depends on the problem and the seed alone."""

    def __init__(self, slots: int) -> None:
        self.concurrency = slots
        self.calls = 0
        self.seconds = 0.0

    async def generate(self, request: Request) -> Response:
        """A response, after a while."""
        number = int(request.messages[-1].content.split()[2])
        problem, drawn = random.Random(number), random.Random(f"{number}/{request.seed}")
        right = drawn.random() < problem.betavariate(0.6, 0.4)
        length = 0.5 * math.exp(problem.gauss(0, 0.5) + drawn.gauss(0, 0.8)) * (1 if right else 1.4)
        seconds = min(8.0, max(0.05, length))
        self.calls += 1
        begun = time.perf_counter()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.seconds += time.perf_counter() - begun
        answer = number + 2 - right
        thought = "We look at it once more. " * round(20 * seconds)
        return Response(f"<think>{thought}It is {answer}.</think>\n<answer>\\boxed{{{answer}}}</answer>")

    async def close(self) -> None:
        """Nothing to release."""


def measure(count: int, slots: int, label: str, settings: dict[str, float], ahead: bool) -> None:
    """One build; prints its line."""
    policy, came = Policy(slots), []
    decide = _Search._decide

    def noted(search: _Search, position: Position, indices: range, outcomes: list[object]) -> None:
        decide(search, position, indices, outcomes)  # type: ignore[arg-type]
        came.extend(time.perf_counter() for outcome in outcomes if outcome.name == "KEPT")  # type: ignore[attr-defined]

    with tempfile.TemporaryDirectory() as name, patch.object(_Search, "_decide", noted):
        problems = Path(name) / "problems.jsonl"
        rows = ({"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(count))
        problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = make_recipe({"problems": str(problems), "verifier": "none", **settings})
        idle = Asking.idle if ahead else PropertyMock(return_value=0)
        begun = time.perf_counter()
        with patch.object(Asking, "idle", idle):
            built = build(recipe, Path(name) / "run", engine=policy, quiet=True)
        seconds = time.perf_counter() - begun
    ideal = policy.seconds / slots
    most = sorted(came)[math.ceil(0.95 * len(came)) - 1] - begun
    print(
        f"{count} problems, {label}: {seconds:.1f} s, {seconds / ideal:.2f} of the ideal; 95 % of the pairs after "
        f"{most:.1f} s, {most / ideal:.2f}; {built.count} pairs, {policy.calls} responses, {policy.seconds:.0f} s of "
        "slots",
        flush=True,
    )


def main() -> None:
    """Three builds of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, nargs="+", default=[500, 1500])
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--enough", type=float, default=0.2)
    options = parser.parse_args()
    for count in options.problems:
        measure(count, options.slots, "nobody asked ahead", {}, ahead=False)
        measure(count, options.slots, "as it is", {}, ahead=True)
        measure(count, options.slots, f"--enough {options.enough:g}", {"enough": options.enough}, ahead=True)


if __name__ == "__main__":
    main()
