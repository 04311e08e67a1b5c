"""Servers in every state, as the policy and as the verifier: one sentence, or the dataset of all that was answered;
once the server is well again, the same command gives the dataset that a good one gives. The key is nowhere."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from fakes.gemini_server import item_of
from fakes.sums import policy, recipe, write_sums
from hard.conftest import assert_no_secret, assert_sentence, few

from specs_data import build, wire
from specs_data.build.run import Built
from specs_data.engines.openai import OpenAIEngine
from specs_data.errors import SpecsDataError
from specs_data.services.service import Service

BOUND = 60.0  # seconds, on a busy machine
KEY = 'sk-pl4nted"\\/key-0123456789'
PROBLEMS, FIRST = 8, 3  # a server gets into its state after so many good answers


def packed(status: int, body: bytes, *heads: str) -> bytes:
    """An HTTP answer."""
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json", *heads]
    return "\r\n".join([*head, "", ""]).encode() + body


def completion(text: object, **choice: object) -> bytes:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop", **choice}]
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    found = {"id": "1", "object": "chat.completion", "model": "tiny", "usage": usage, "choices": choices}
    return json.dumps(found).encode()


def refusal(said: str) -> bytes:
    return json.dumps({"error": {"message": said}}).encode()


def hold(place: socket.socket, left: threading.Event) -> None:
    left.wait(BOUND)


def endless(place: socket.socket, left: threading.Event) -> None:
    place.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not left.is_set():
        place.sendall(b" " * (1 << 20))


def drip(place: socket.socket, left: threading.Event) -> None:
    place.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not left.wait(0.05):
        place.sendall(b" ")


def half(place: socket.socket, left: threading.Event) -> None:
    place.sendall(packed(200, completion("text"))[:-20])


def half_and_hold(place: socket.socket, left: threading.Event) -> None:
    half(place, left)
    hold(place, left)


def heads(place: socket.socket, left: threading.Event) -> None:
    place.sendall(b"HTTP/1.1 200 OK\r\n")
    while not left.is_set():
        place.sendall(b"X-Much: " + b"x" * 8000 + b"\r\n")


def saying(answer: bytes) -> Callable[[socket.socket, threading.Event], None]:
    return lambda place, left: place.sendall(answer)


BOMB = gzip.compress(b" " * (100 << 20))
STATES: dict[str, Callable[[socket.socket, threading.Event], None]] = {
    "closes at once": lambda place, left: None,
    "never answers": hold,
    "an endless body": endless,
    "a gzip bomb": saying(packed(200, BOMB, "Content-Encoding: gzip")),
    "endless heads": heads,
    "a giant head": saying(packed(200, b"{}", "X-Much: " + "x" * 100_000)),
    "a redirect": saying(packed(307, b"", "Location: http://127.0.0.1:1/v1?token=" + KEY[:9])),
    "a redirect to itself": saying(packed(302, b"", "Location: /v1/chat/completions")),
    "500s": saying(packed(500, refusal("sorry"))),
    "429s": saying(packed(429, refusal("too soon"))),
    "429s for a day": saying(packed(429, refusal("later"), "Retry-After: 86400")),
    "401s that echo the key": saying(packed(401, refusal(f"wrong key {KEY} {KEY[:12]}*** {json.dumps(KEY)}"))),
    "400s that echo the key": saying(packed(400, refusal(f"odd request, key {json.dumps(json.dumps(KEY))}"))),
    "500s that echo the key": saying(packed(500, refusal(f"Bearer {KEY[3:]}"))),
    "403s that echo the key otherwise": saying(packed(403, refusal(
        f"user {b64encode(f'user:{KEY}'.encode()).decode()} {b64encode(KEY.encode()).decode()[:20]} {quote(KEY)} "
        f"{quote(quote(KEY))} {KEY.encode().hex()[8:]} {KEY[: len(KEY) // 2]}"
    ))),
    "no content": saying(packed(200, completion(None))),
    "content that is a number": saying(packed(200, completion(5))),
    "no choices": saying(packed(200, b'{"choices": []}')),
    "broken JSON": saying(packed(200, b'{"choices": [')),
    "deep JSON": saying(packed(200, b"[" * 100_000)),
    "a page": saying(packed(200, b"<html><script>alert(1)</script>")),
    "no HTTP": saying(b"SSH-2.0-OpenSSH_9.6\r\n" * 9),
    "a length that is wrong": saying(packed(200, completion("text")).replace(b"Length: ", b"Length: -")),
    "dies in the middle": half,
    "hangs in the middle": half_and_hold,
    "drips": drip,
}  # fmt: skip


class Server:
    """Answers well, but for a time when it is in a state."""

    def __init__(self, state: str, answer: Callable[[dict[str, Any]], str], good: int) -> None:
        self.good = good
        self._state = STATES[state]
        self._answer = answer
        self._left = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def mend(self) -> None:
        self.good = 1 << 30

    def close(self) -> None:
        self._left.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # which ends an accept that waits
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                place, _ = self._socket.accept()
                threading.Thread(target=self._talk, args=(place,), daemon=True).start()

    def _talk(self, place: socket.socket) -> None:
        with place, suppress(OSError), place.makefile("rb") as lines:
            while lines.readline():
                size = 0
                while (line := lines.readline()).strip():
                    name, _, value = line.decode().partition(":")
                    size = int(value) if name.lower() == "content-length" else size
                body = json.loads(lines.read(size) or b"{}")
                self.good -= 1
                if self.good < 0:
                    return self._state(place, self._left)
                place.sendall(packed(200, completion(self._answer(body))))
        return None


def asked_in(body: dict[str, Any]) -> str:
    """The text of the last turn."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def play(body: dict[str, Any]) -> str:
    """A right and well-formed response to a sum."""
    words = asked_in(body).split()
    number = int(words[2]) + 1 if words[:2] == ["What", "is"] else 0  # what a template opens with is asked for as well
    return f"<think>{number - 1} + 1 = {number}.</think>\n<answer>\\boxed{{{number}}}</answer>"


def agree(body: dict[str, Any]) -> str:
    """A verdict."""
    return json.dumps({"item": item_of(asked_in(body)), "reason": "it does", "answer": "1", "consistent": True})


def as_policy(server: Server, folder: Path) -> Built:
    asked = {"engine": "openai", "base_url": [server.url], "model": "tiny", "concurrency": 2, "max_tokens": 20}
    return build(recipe(folder / "problems.jsonl", samples=2, **asked), folder / "run", quiet=True)


def as_verifier(server: Server, folder: Path) -> Built:
    asked = {"verifier": "openai", "verifier_base_url": server.url, "verifier_model": "tiny", "samples": 2}
    return build(recipe(folder / "problems.jsonl", **asked), folder / "run", engine=policy(concurrency=2), quiet=True)


SIDES = {"policy": (as_policy, play), "verifier": (as_verifier, agree)}


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(wire, "LONGEST_PAUSE", 0.1)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setitem(OpenAIEngine.__init__.__kwdefaults__, "patience", 1.5)
    for name, value in {"attempts": 2, "timeout": 1.5, "pause": 0.01, "patience": 1.5}.items():
        monkeypatch.setitem(Service.__init__.__kwdefaults__, name, value)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Filled as sides are tried: what a good server gives."""
    yield {}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The pairs; the card has the server's address."""
    found: list[dict[str, Any]] = pq.read_table(folder / "run" / "dataset" / "data").to_pylist()
    return found


def good(side: str, folder: Path) -> list[dict[str, Any]]:
    run, answer = SIDES[side]
    write_sums(folder, PROBLEMS)
    server = Server("500s", answer, 1 << 30)
    run(server, folder)
    server.close()
    return rows(folder)


TRIALS = [f"{side}: {state}" for side in SIDES for state in STATES]


@pytest.mark.parametrize("trial", few(TRIALS, 4))
def test_a_server_in_any_state(
    tmp_path: Path, wanted: dict[str, list[dict[str, Any]]], trial: str, tally: Callable,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    side, _, state = trial.partition(": ")
    run, answer = SIDES[side]
    caplog.set_level(logging.DEBUG)
    if side not in wanted:
        wanted[side] = good(side, tmp_path / "good")
        assert len(wanted[side]) > PROBLEMS / 2
    write_sums(tmp_path, PROBLEMS)
    server, begun = Server(state, answer, FIRST), time.monotonic()
    try:
        built = run(server, tmp_path)
    except SpecsDataError as error:
        assert_sentence(error)
        assert_no_secret(str(error), KEY)
        tally(f"{side}: ended in a sentence")
    else:
        whole = built.count == len(wanted[side])
        tally(f"{side}: {'all there' if whole else 'left out, and asked again by the next run'}")
    assert time.monotonic() - begun < BOUND
    server.mend()
    run(server, tmp_path)
    server.close()
    if side == "policy" or state not in ("400s that echo the key",):
        assert rows(tmp_path) == wanted[side]
    said = capfd.readouterr()
    for text in (said.out, said.err, caplog.text):
        assert "Traceback" not in text
        assert_no_secret(text, KEY)
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            assert_no_secret(file.read_bytes().decode(errors="replace"), KEY)
