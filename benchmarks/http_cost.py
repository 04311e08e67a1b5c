"""What a row costs over HTTP: a build against a server that answers at once, 64 requests in flight.

    python benchmarks/http_cost.py [--rows 4000] [--rounds 3] [--pictures] [--characters 2700]

Responses have 300 to 4,000 characters, half of them less than 900, or all of them `--characters`. With `--pictures`
each problem has a JPEG of 100 KB. Prints milliseconds per row, as the slope between a quarter of the rows and all of
them, median of the rounds: for a bare aiohttp loop (on uvloop, with ready JSON and a worker for each place), for a
plain one, as one writes it at first (on asyncio, with `json=` and a task for each row), for the openai engine alone,
for a build's part that other tools do as well (a problem read, its response asked for and stored), and for a whole
build (problems, sampling, judging, pairing, store, dataset), without a verifier and verified by rules.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import aiohttp
import msgspec
import uvloop
from host import sample_only
from PIL import Image

from specs_data import build
from specs_data.build.flow import Flow
from specs_data.engines import ModelOptions
from specs_data.engines.openai import OpenAIEngine
from specs_data.recipe import Recipe
from specs_data.records import Message, Request, Sampling

AT_ONCE = 64
DISTINCT = 500  # pictures; each has its number at its end, so that no two are the same


def lengths() -> list[int]:
    """Characters of 64 responses, in no order: the quantiles of a log-normal distribution, cut off at both ends."""
    spread = statistics.NormalDist(math.log(900), 0.8)
    drawn = [min(4000, max(300, round(math.exp(spread.inv_cdf((place + 0.5) / 64))))) for place in range(64)]
    random.Random(0).shuffle(drawn)
    return drawn


def reply(characters: int) -> bytes:
    """A server's answer, with a response of so many characters."""
    aside = "We look at the figure once more, and count what it shows from the left to the right. "
    thought = aside * (max(0, characters - 90) // len(aside)) + "Three and four are seven, so the sum is \\boxed{7}."
    text = f"<think>{thought}</think>\n<answer>\\boxed{{7}}</answer>"
    said = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": said, "finish_reason": "stop", "stop_reason": None}
    usage = {"prompt_tokens": 30, "completion_tokens": 30, "total_tokens": 60}
    body = msgspec.json.encode(
        {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    )
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Server(asyncio.Protocol):
    """Answers every request as soon as it is complete, with one completion after the other."""

    def __init__(self, answers: Iterator[bytes]) -> None:
        self._answers = answers
        self._seen = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A part of a request, or several of them."""
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._seen[:end]).lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._seen) < end + 4 + length:
                return
            del self._seen[: end + 4 + length]
            self._transport.write(next(self._answers))  # type: ignore[attr-defined]


async def serve(characters: int | None) -> None:
    """Serve until killed; the port goes to standard output."""
    answers = itertools.cycle([reply(length) for length in ([characters] if characters else lengths())])
    server = await asyncio.get_running_loop().create_server(lambda: Server(answers), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def started(characters: int | None) -> subprocess.Popen[str]:
    """A server in a process of its own, whose first line is its port."""
    command = [sys.executable, __file__, "--serve", *([f"--characters={characters}"] if characters else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def draw(folder: Path, rows: int) -> None:
    """JPEG files of 100 KB for so many rows."""
    noise = random.Random(0)
    drawn = []
    for _ in range(DISTINCT):
        data = io.BytesIO()
        Image.frombytes("RGB", (230, 230), noise.randbytes(230 * 230 * 3)).save(data, "JPEG", quality=97)
        drawn.append(data.getvalue())
    for number in range(rows):
        (folder / f"{number}.jpg").write_bytes(drawn[number % DISTINCT] + number.to_bytes(4))


def asked(number: int, pictures: Path | None) -> Request:
    """The request for one row."""
    system = Message("system", "Think in <think> </think>, then answer in <answer> </answer>.")
    images = () if pictures is None else ((pictures / f"{number}.jpg").read_bytes(),)
    return Request((system, Message("user", f"What is three plus four? ({number})")), images, number)


def content(message: Message, images: tuple[bytes, ...]) -> object:
    """What the plainest client makes of a message."""
    if not images or message.role == "system":
        return message.content
    urls = [f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for image in images]
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*shown, {"type": "text", "text": message.content}]


def body_of(number: int, pictures: Path | None) -> dict[str, object]:
    """What the plainest client sends for one row."""
    request = asked(number, pictures)
    messages = [{"role": message.role, "content": content(message, request.images)} for message in request.messages]
    return {"model": "m", "messages": messages, "seed": number, "max_tokens": 256, "temperature": 1.0}


async def bare(url: str, rows: int, pictures: Path | None) -> None:
    """The least that a client can do: AT_ONCE loops that read a picture, post and read."""
    numbers = iter(range(rows))
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def loop() -> None:
            for number in numbers:
                body = json.dumps(body_of(number, pictures))
                async with session.post(f"{url}/v1/chat/completions", data=body) as reply:
                    json.loads(await reply.read())

        await asyncio.gather(*(loop() for _ in range(AT_ONCE)))


async def plain(url: str, rows: int, pictures: Path | None) -> None:
    """The loop that one writes at first: a task for each row, AT_ONCE of them at the server."""
    places = asyncio.Semaphore(AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def ask(number: int) -> str:
            async with places, session.post(f"{url}/v1/chat/completions", json=body_of(number, pictures)) as reply:
                found = await reply.json()
            return str(found["choices"][0]["message"]["content"])

        await asyncio.gather(*map(ask, range(rows)))


async def engine(url: str, rows: int, pictures: Path | None) -> None:
    """The engine alone."""
    numbers = iter(range(rows))
    options = ModelOptions(base_url=(url,), concurrency=AT_ONCE)
    policy = OpenAIEngine("m", Sampling(max_tokens=256, stop=("</answer>",)), options)

    async def loop() -> None:
        for number in numbers:
            await policy.generate(asked(number, pictures))

    await asyncio.gather(*(loop() for _ in range(AT_ONCE)))
    await policy.close()


def sampled(url: str, rows: int, pictures: Path | None) -> None:
    """A build that only samples."""
    with patch.object(Flow, "choose", sample_only):
        whole(url, rows, "none", pictures, pairs=0)


def whole(url: str, rows: int, verifier: str, pictures: Path | None, pairs: int | None = None) -> None:
    """A build, from a problems file to Parquet files; `pairs` are expected, by default one a row."""
    with tempfile.TemporaryDirectory() as folder:
        problems = (pictures or Path(folder)) / "problems.jsonl"
        with problems.open("w") as file:
            for number in range(rows):
                row = {"id": str(number), "question": f"What is three plus four? ({number})", "answer": "7"}
                shown = {} if pictures is None else {"images": [f"{number}.jpg"]}
                file.write(json.dumps(row | shown) + "\n")
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
    parser.add_argument("--pictures", action="store_true", help="a JPEG of 100 KB in each row")
    parser.add_argument("--characters", type=int, help="length of every response")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.characters))
        return
    server = started(options.characters)
    folder = tempfile.TemporaryDirectory()
    try:
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"  # type: ignore[union-attr]
        shown = Path(folder.name) if options.pictures else None
        if shown is not None:
            draw(shown, options.rows)
        subjects: dict[str, Callable[[int], object]] = {
            "bare aiohttp loop": lambda rows: uvloop.run(bare(url, rows, shown)),
            "plain aiohttp loop": lambda rows: asyncio.run(plain(url, rows, shown)),
            "openai engine": lambda rows: uvloop.run(engine(url, rows, shown)),
            "build, sampling": lambda rows: sampled(url, rows, shown),
            "build, no verifier": lambda rows: whole(url, rows, "none", shown),
            "build, rules": lambda rows: whole(url, rows, "rules", shown),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
        for work in subjects.values():
            work(64)  # imports and caches
        for _ in range(options.rounds):
            for name, work in subjects.items():
                found[name].append(slope(work, options.rows))
        times = {
            name: [statistics.median(column) for column in zip(*each, strict=True)] for name, each in found.items()
        }
        least, first = times["bare aiohttp loop"][1], times["plain aiohttp loop"][1]
        for name, (wall, cpu) in times.items():
            print(
                f"{name:18} {wall:.3f} ms a row, {cpu:.3f} of CPU: {cpu / least:.2f} times the bare loop's, "
                f"{cpu / first:.2f} times the plain one's"
            )
    finally:
        server.kill()
        server.wait()
        folder.cleanup()


if __name__ == "__main__":
    main()
