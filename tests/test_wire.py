"""How services are asked: what answers mean, when to come again, and answers that mean harm."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from specs_data import wire
from specs_data.engines import ModelOptions
from specs_data.engines.openai import OpenAIEngine
from specs_data.errors import UserError
from specs_data.records import Message, Request, Sampling
from specs_data.services import Failed, Form, Question
from specs_data.services.gemini import GeminiClient
from specs_data.services.openai import OpenAIClient
from specs_data.wire import Meaning, NoAnswer, Trouble

# google-genai's own session, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")
QUESTION = Question("rubric", (), "1", ("text",), Form)
REQUEST = Request((Message("user", "?"),), (), 0)
Handler = Callable[[web.Request], Any]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def ask(url: str, **options: Any) -> wire.Answer:
    connections = wire.session(**options)
    try:
        return await wire.ask(connections, URL(url), seconds=20)
    finally:
        await connections.close()


# What an answer means


@pytest.mark.parametrize(
    ("status", "means", "passes"),
    [
        (200, Meaning.DONE, False),
        (302, Meaning.ELSEWHERE, False),
        (400, Meaning.REFUSED, False),
        (403, Meaning.WRONG_KEY, False),
        (404, Meaning.NOT_THERE, False),
        (408, Meaning.TIMEOUT, True),
        (409, Meaning.CONFLICT, False),
        (418, Meaning.ODD, False),
        (429, Meaning.TOO_SOON, True),
        (500, Meaning.BROKEN, True),
        (503, Meaning.BUSY, True),
        (504, Meaning.TIMEOUT, True),
        (599, Meaning.BROKEN, True),
    ],
)
def test_what_a_status_means(status: int, means: Meaning, passes: bool) -> None:
    assert (wire.meaning(status), wire.meaning(status).passes) == (means, passes)


def test_no_waiting_mends_a_quota() -> None:
    assert wire.meaning(429, '{"code": "insufficient_quota"}') is Meaning.NO_QUOTA
    assert wire.meaning(402) is Meaning.NO_QUOTA
    assert wire.meaning(400, '{"error": {"message": "Your credit balance is too low"}}') is Meaning.NO_QUOTA
    assert wire.meaning(400, f"{'x' * 400}: what is a credit balance?") is Meaning.REFUSED
    assert not Meaning.NO_QUOTA.passes


def test_a_key_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_KEY", " ")
    monkeypatch.setenv("OTHER_KEY", "sk-secret\n")
    key = wire.read_key("ONE_KEY", "OTHER_KEY")
    assert key.bearer == {"Authorization": "Bearer sk-secret"}
    assert "secret" not in f"{key!r} {key} {key.hide('a wrong key: sk-secret')}"
    monkeypatch.setenv("ONE_KEY", "sk-sec\nret")
    with pytest.raises(UserError, match="^ONE_KEY has a line break") as caught:
        wire.read_key("ONE_KEY", "OTHER_KEY")
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        'key sk-proj-Ab3/Xy"Z9q8w7 is wrong',
        json.dumps({"error": 'key sk-proj-Ab3/Xy"Z9q8w7 is wrong'}),
        json.dumps(json.dumps({"error": 'key sk-proj-Ab3/Xy"Z9q8w7'})),
        json.dumps('sk-proj-Ab3/Xy"Z9q8w7').replace("/", "\\/").replace("A", "\\u0041"),
        "GET /v1?key=sk-proj-Ab3%2FXy%22Z9q8w7",
        "key sk-proj-Ab3/Xy is too short",
        'the key ends in Xy"Z9q8w7',
        "Incorrect API key provided: sk-proj-********q8w7.",
        "Incorrect API key provided: sk-pr...w7",
        "x" * 2390 + 'sk-proj-Ab3/Xy"Z9q8w7',
    ],
)
def test_no_part_of_a_key_is_shown_however_it_is_written(said: str) -> None:
    shown = wire.Key('sk-proj-Ab3/Xy"Z9q8w7').hide(said)
    assert not any(part in shown for part in ("Ab3", "Xy", "Z9", "q8", "w7", "sk-p"))


def test_what_is_no_key_is_shown_as_it_was_said() -> None:
    said = r"a \u00e9 in C:\\new %41 ... and *** of sk- or proj, 100%"
    assert wire.Key("sk-proj-Ab3XyZ9q8w7").hide(said) == said


@given(st.binary(max_size=60))
def test_every_error_body_says_something(content: bytes) -> None:
    assert wire.Key(None).hide(wire.said_in(content))


# When to come again


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, None, None),
        ({"Retry-After": "1.5"}, None, 1.5),
        ({"retry-after-ms": "250", "Retry-After": "1"}, None, 0.25),
        ({"Retry-After": formatdate(time.time() - 99, usegmt=True)}, None, 0.0),
        ({}, {"error": {"details": [3, {"x": 1}, {"retryDelay": "31.5s"}]}}, 31.5),
        ({"Retry-After": "inf"}, {"details": [{"retryDelay": "2s"}]}, 2.0),
        ({"Retry-After": "-3"}, {"error": []}, None),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], body: object, seconds: float | None) -> None:
    assert wire.asked_wait(headers, body) == seconds


def test_a_date_is_waited_for() -> None:
    seconds = wire.asked_wait({"Retry-After": formatdate(time.time() + 90, usegmt=True)})
    assert seconds is not None and 80 < seconds <= 90


JSON = st.recursive(
    st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@given(st.text(), JSON)
def test_no_words_make_a_wait_that_is_none(text: str, body: Any) -> None:
    wait = wire.asked_wait({"Retry-After": text, "retry-after-ms": text}, {"error": {"details": [body, body]}})
    assert wait is None or (math.isfinite(wait) and wait >= 0)


@given(st.integers(0, 10_000), st.none() | st.floats(0, 1e6))
def test_pauses_grow_and_end(failures: int, asked: float | None) -> None:
    pause = wire.pause(failures, asked)
    if asked:
        assert asked <= pause <= asked * 1.1
    else:
        assert wire.FIRST_PAUSE / 2 <= pause <= wire.LONGEST_PAUSE


# Answers that mean harm


async def test_an_answer_without_end_is_a_failed_attempt() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    async with serving(endless) as url:
        with pytest.raises(NoAnswer, match="more than 1 MB") as caught:
            await ask(url, most=1 << 20)
    assert caught.value.trouble is Trouble.BROKEN


async def test_a_bomb_counts_by_what_it_becomes() -> None:
    async def bomb(_: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(bytes(64 << 20)), headers={"Content-Encoding": "gzip"})

    async with serving(bomb) as url:
        with pytest.raises(NoAnswer, match="more than 1 MB"):
            await ask(url, most=1 << 20)
        assert len((await ask(url, most=64 << 20)).content) == 64 << 20


async def test_a_head_without_end_is_a_failed_attempt() -> None:
    async def talkative(_: web.Request) -> web.Response:
        return web.Response(headers={"X-Much": "x" * 100_000})

    async with serving(talkative) as url:
        with pytest.raises(NoAnswer) as caught:
            await ask(url)
    assert caught.value.trouble is Trouble.BROKEN


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_key_goes_where_a_redirect_points(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []

    async def thief(request: web.Request) -> web.Response:
        reached.append(dict(request.headers))
        return web.json_response({})

    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "k-secret")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    async with serving(thief) as elsewhere:

        async def redirect(_: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": f"{elsewhere}/v1?token=t-secret"})

        async with serving(redirect) as url:
            monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", url)
            engine = OpenAIEngine("m", Sampling(), ModelOptions(base_url=(url,)))
            unnamed = OpenAIEngine("", Sampling(), ModelOptions(base_url=(url,)))
            clients = OpenAIClient("m", url), GeminiClient()
            asked = [lambda: engine.generate(REQUEST), unnamed.only_model]
            asked += [lambda client=client: client.ask(QUESTION) for client in clients]
            for call in asked:
                with pytest.raises(UserError, match=rf"redirects \({status}: to {elsewhere}/v1\)") as caught:
                    await call()
                assert "secret" not in str(caught.value)
            for each in (engine, unnamed, *clients):
                await each.close()
    assert reached == []


@pytest.mark.parametrize("service", ["openai", "gemini"])
async def test_a_service_that_sends_a_bomb_gave_no_answer(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bomb(_: web.Request) -> web.Response:
        body = gzip.compress(b" " * (wire.MOST_BYTES + 1))
        return web.Response(body=body, headers={"Content-Encoding": "gzip"}, content_type="application/json")

    monkeypatch.setenv("GEMINI_API_KEY", "k-secret")
    async with serving(bomb) as url:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", url)
        client = OpenAIClient("m", url) if service == "openai" else GeminiClient()
        with pytest.raises(Failed, match="broken answer"):
            await client.ask(QUESTION)
        await client.close()
