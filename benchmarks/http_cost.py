"""What a row costs over HTTP: a build against a server that answers at once, 64 requests in flight.

    python benchmarks/http_cost.py [--rows 4000] [--rounds 3]

Prints milliseconds per row, as the slope between a quarter of the rows and all of them, median of the
rounds: for a bare aiohttp loop, for the openai engine alone, for a build's part that other tools do as well
(a problem read, its response asked for and stored), and for a whole build (problems, sampling, judging, pairing,
store, dataset), without a verifier and with verification by rules. All on uvloop, as a build is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import aiohttp
import msgspec
import uvloop
from host import sample_only

from specs_data import build
from specs_data.build.flow import Flow
from specs_data.engines import ModelOptions
from specs_data.engines.openai import OpenAIEngine
from specs_data.recipe import Recipe
from specs_data.records import Message, Request, Sampling

AT_ONCE = 64
TEXT = "<think>Three and four are seven, so the sum is \\boxed{7}.</think>\n<answer>\\boxed{7}</answer>"
CHOICE = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop", "stop_reason": None}
USAGE = {"prompt_tokens": 30, "completion_tokens": 30, "total_tokens": 60}
BODY = msgspec.json.encode({"id": "1", "object": "chat.completion", "model": "m", "choices": [CHOICE], "usage": USAGE})
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Server(asyncio.Protocol):
    """Answers every request with the same completion, as soon as it is complete."""

    def __init__(self) -> None:
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A part of a request, or several of them."""
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            head = self._seen[:end].lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._seen) < end + 4 + length:
                return
            self._seen = self._seen[end + 4 + length :]
            self._transport.write(REPLY)  # type: ignore[attr-defined]


async def serve() -> None:
    """Serve until killed; the port goes to standard output."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def asked(number: int) -> Request:
    """The request for one row."""
    system = Message("system", "Think in <think> </think>, then answer in <answer> </answer>.")
    return Request((system, Message("user", f"What is three plus four? ({number})")), (), number)


async def bare(url: str, rows: int) -> None:
    """The least that a client can do: AT_ONCE loops that post and read."""
    numbers = iter(range(rows))
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def loop() -> None:
            for number in numbers:
                messages = [{"role": message.role, "content": message.content} for message in asked(number).messages]
                body = {"model": "m", "messages": messages, "seed": number, "max_tokens": 256, "temperature": 1.0}
                async with session.post(f"{url}/v1/chat/completions", data=json.dumps(body)) as reply:
                    json.loads(await reply.read())

        await asyncio.gather(*(loop() for _ in range(AT_ONCE)))


async def engine(url: str, rows: int) -> None:
    """The engine alone."""
    numbers = iter(range(rows))
    options = ModelOptions(base_url=(url,), concurrency=AT_ONCE)
    policy = OpenAIEngine("m", Sampling(max_tokens=256, stop=("</answer>",)), options)

    async def loop() -> None:
        for number in numbers:
            await policy.generate(asked(number))

    await asyncio.gather(*(loop() for _ in range(AT_ONCE)))
    await policy.close()


def sampled(url: str, rows: int) -> None:
    """A build that only samples."""
    with patch.object(Flow, "choose", sample_only):
        whole(url, rows, "none", pairs=0)


def whole(url: str, rows: int, verifier: str, pairs: int | None = None) -> None:
    """A build, from a problems file to Parquet files; `pairs` are expected, by default one a row."""
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "problems.jsonl"
        with problems.open("w") as file:
            for number in range(rows):
                question = f"What is three plus four? ({number})"
                file.write(json.dumps({"id": str(number), "question": question, "answer": "7"}) + "\n")
        recipe = Recipe(
            problems=str(problems), engine="openai", base_url=(url,), model="m", concurrency=AT_ONCE, verifier=verifier
        )
        start = time.perf_counter()
        built = build(recipe, Path(folder) / "run", quiet=True)
        if built.count != (rows if pairs is None else pairs):
            raise SystemExit(f"{built.count} pairs from {rows} problems after {time.perf_counter() - start:.1f} s")


def slope(work: Callable[[int], object], rows: int) -> tuple[float, float]:
    """Milliseconds per row, wall and CPU (of this process)."""
    seconds = []
    for count in (rows // 4, rows):
        wall, cpu = time.perf_counter(), time.process_time()
        work(count)
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    (few_wall, few_cpu), (all_wall, all_cpu) = seconds
    per = 1000 / (rows - rows // 4)
    return (all_wall - few_wall) * per, (all_cpu - few_cpu) * per


def main() -> None:
    """Print one line per subject."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"  # type: ignore[union-attr]
        subjects: dict[str, Callable[[int], object]] = {
            "bare aiohttp loop": lambda rows: uvloop.run(bare(url, rows)),
            "openai engine": lambda rows: uvloop.run(engine(url, rows)),
            "build, sampling": lambda rows: sampled(url, rows),
            "build, no verifier": lambda rows: whole(url, rows, "none"),
            "build, rules": lambda rows: whole(url, rows, "rules"),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
        for work in subjects.values():
            work(64)  # imports and caches
        for _ in range(options.rounds):
            for name, work in subjects.items():
                found[name].append(slope(work, options.rows))
        for name, each in found.items():
            walls, cpus = zip(*each, strict=True)
            print(f"{name:18} {statistics.median(walls):.3f} ms a row, {statistics.median(cpus):.3f} of CPU")
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
