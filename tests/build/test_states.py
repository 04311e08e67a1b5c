"""Whole builds against loopback servers in every state: each ends with the dataset of all others, or in a sentence."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fakes.gemini_server import Service as Server
from fakes.openai_server import OpenAIServer, Reply
from fakes.sums import recipe, write_sums

from specs_data import build
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import UserError
from specs_data.records import Request

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

COUNT = 24
BAD = {3, 11, 20}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits longer for the next attempt than a moment."""
    monkeypatch.setattr("specs_data.wire.pause", lambda *_, **__: 0.001)


PROBE = "?"  # what a server is asked that failed a request, and nobody else is being served


def number_in(text: str) -> int:
    found = re.search(r"What is (\d+) \+ 1", text)
    assert found is not None
    return int(found[1])


def right(number: int) -> str:
    return f"<think>{number} + 1 = {number + 1}.</think>\n<answer>\\boxed{{{number + 1}}}</answer>"


def left_out(run: Path) -> set[tuple[str, str]]:
    rows = map(json.loads, (run / "dropped.jsonl").read_text().splitlines())
    return {(row["stage"], row["reason"].partition(": ")[0]) for row in rows}


# The policy's server


def null(**message: Any) -> Reply:
    return Reply(choice={"message": {"role": "assistant", "content": None, **message}})


OF_THE_PROMPT = {
    "blocked": Reply(choice={"finish_reason": "content_filter", "message": {"role": "assistant", "content": None}}),
    "refused": null(refusal="I cannot look at that."),
    "nothing": null(),
    "too long": Reply("This model's maximum context length is 4096 tokens. However, you requested 9000.", status=400),
    "images": Reply("At most 1 image(s) may be provided in one prompt.", status=400),
    "image": Reply("cannot identify image file <_io.BytesIO object>", status=400),
    "unknown": Reply("Value error, something that nobody has heard of", status=422),
    "broken": Reply("Internal Server Error", status=500),
    "dropped": Reply(drop=True),
    "too large": Reply("Request Entity Too Large", status=413),
}


async def built_at(answer: Any, tmp_path: Path, **settings: Any) -> int:
    async with OpenAIServer(answer) as server:
        given = recipe(
            write_sums(tmp_path, COUNT), engine="openai", base_url=[server.url], model="tiny", samples=1, **settings
        )
        built = await asyncio.to_thread(build, given, tmp_path / "run", quiet=True)
        return int(built.count)


@pytest.mark.parametrize("state", OF_THE_PROMPT)
async def test_a_prompt_that_the_policy_does_not_answer(tmp_path: Path, state: str) -> None:
    """Also by the next run, in which nothing else is left to ask for."""

    def answer(body: dict[str, Any]) -> str | Reply:
        asked = body["messages"][-1]["content"]
        if asked == PROBE:
            return "yes"
        return OF_THE_PROMPT[state] if number_in(asked) in BAD else right(number_in(asked))

    for _ in range(2):
        assert await built_at(answer, tmp_path) == COUNT - len(BAD)
        assert {stage for stage, _ in left_out(tmp_path / "run")} == {"sample"}


async def test_a_shaky_server(tmp_path: Path) -> None:
    draws = itertools.count()

    def answer(body: dict[str, Any]) -> str | Reply:
        faults = {0: Reply("full", status=429), 3: Reply("broken", status=503), 6: Reply(drop=True)}
        asked = body["messages"][-1]["content"]
        return faults.get(next(draws) % 10) or ("yes" if asked == PROBE else right(number_in(asked)))

    assert await built_at(answer, tmp_path) == COUNT


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Reply("Invalid API key", status=401), "key"),
        (Reply("The model `tiny` does not exist", status=404), "tiny"),
        (Reply("You exceeded your current quota: insufficient_quota", status=429), "quota"),
    ],
)
async def test_a_server_that_serves_nobody(tmp_path: Path, fault: Reply, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        await built_at(lambda _: fault, tmp_path)
    assert "\n" not in str(caught.value)


# Who verifies, and who judges


def checked_by(service: str, server: Server, folder: Path) -> int:
    """How many pairs a build has whose responses are all right."""
    file = write_sums(folder, COUNT)
    given: dict[str, Any] = {"verifier": "gemini", "verifier_model": "gemini-3.8-flash"}
    if service == "openai":
        given = {"verifier": "openai", "verifier_model": "judge", "verifier_base_url": server.url}
    if service == "judge":
        rows = [{**json.loads(line), "answer_type": "open"} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"verifier": "none", "judge_model": "openai:judge", "judge_base_url": server.url}

    def respond(request: Request) -> str:
        return right(number_in(request.messages[-1].content))

    built = build(recipe(file, samples=1, **given), folder / "run", engine=ScriptedEngine(respond), quiet=True)
    return int(built.count)


@pytest.mark.parametrize("service", ["gemini", "openai", "judge"])
@pytest.mark.parametrize("state", ["blocked", "MAX_TOKENS", "no parts", "broken JSON", "400", "503", "html", "reset"])
def test_an_item_that_a_service_does_not_answer_about(server: Server, tmp_path: Path, service: str, state: str) -> None:
    server.fault_of = lambda text: state if number_in(text) in BAD else ""
    assert checked_by(service, server, tmp_path) == COUNT - len(BAD)
    assert {stage for stage, _ in left_out(tmp_path / "run")} == {"judge" if service == "judge" else "verify"}
    server.fault_of = lambda _: ""
    again = {"blocked", "MAX_TOKENS", "400"}  # the item's own: on record, and not asked about again
    assert checked_by(service, server, tmp_path) == COUNT - len(BAD) * (state in again)


@pytest.mark.parametrize("service", ["gemini", "openai", "judge"])
@pytest.mark.parametrize("state", ["429 0", "500", "html", "truncated", "reset", "no parts", "broken JSON"])
def test_a_failure_that_passes(server: Server, tmp_path: Path, service: str, state: str) -> None:
    server.faults.extend([state, "", ""] * (COUNT // 3))
    assert checked_by(service, server, tmp_path) == COUNT


@pytest.mark.parametrize("service", ["gemini", "openai", "judge"])
@pytest.mark.parametrize("state", ["401", "403", "404", "quota", "400", "500"])
def test_a_service_that_serves_nobody(server: Server, tmp_path: Path, service: str, state: str) -> None:
    server.fault_of = lambda _: state
    with pytest.raises(UserError) as caught:
        checked_by(service, server, tmp_path)
    assert "\n" not in str(caught.value)
