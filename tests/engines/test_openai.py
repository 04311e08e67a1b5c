"""OpenAI-compatible servers as the policy, over real HTTP on the loopback."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.openai_server import OpenAIServer, Reply
from msgspec.structs import replace
from PIL import Image

from specs_data import wire
from specs_data.engines import ModelOptions, replicas
from specs_data.engines.openai import OpenAIEngine
from specs_data.errors import EngineFailed, PromptRefused, Undecided, UserError
from specs_data.records import Message, Nuclei, Request, Response, Sampling
from specs_data.services.openai import OpenAIClient

Answer = Callable[[dict[str, Any]], str | Reply]
PLAIN = Sampling()
STOP = Sampling(temperature=0.7, top_p=0.9, max_tokens=50, stop=("</answer>",))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(seed: int = 0, images: tuple[bytes, ...] = (), system: str | None = None) -> Request:
    user = Message("user", f'How many "circles"\n{seed}?')
    return Request((user,) if system is None else (Message("system", system), user), images, seed)


def seed_of(body: dict[str, Any]) -> str:
    return str(body["seed"])


def picture(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, form)
    return file.getvalue()


@asynccontextmanager
async def engine_at(
    *urls: str, model: str = "tiny", sampling: Sampling = PLAIN, patience: float = 600.0, **options: Any
) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(model, sampling, ModelOptions(base_url=urls, **options), patience=patience)
    try:
        async with asyncio.timeout(20):
            yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def serving(answer: Answer, **options: Any) -> AsyncIterator[tuple[OpenAIServer, OpenAIEngine]]:
    models = options.pop("models", ("tiny",))
    async with OpenAIServer(answer, models=models) as server, engine_at(server.url, **options) as engine:
        yield server, engine


@asynccontextmanager
async def two_serving(answer: Answer, **options: Any) -> AsyncIterator[tuple[OpenAIServer, OpenAIServer, OpenAIEngine]]:
    async with (
        OpenAIServer(answer) as one,
        OpenAIServer(answer) as two,
        engine_at(one.url, two.url, **options) as engine,
    ):
        yield one, two, engine


async def until(reached: Callable[[], bool]) -> None:
    while not reached():  # noqa: ASYNC110 - the server under test has no event to wait for
        await asyncio.sleep(0.005)


async def answers(engine: OpenAIEngine, count: int) -> list[str]:
    return [response.text for response in await asyncio.gather(*(engine.generate(ask(seed)) for seed in range(count)))]


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# What is sent and what comes back


async def test_the_request_on_the_wire() -> None:
    async with serving(lambda _: Reply("a b </answer>", "stop"), sampling=STOP) as (server, engine):
        response = await engine.generate(ask(41, system="Think."))
    assert response == Response("a b </answer>", "stop", 5, 3)
    body = server.bodies[0]
    assert body["messages"] == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": 'How many "circles"\n41?'},
    ]
    expected = {"model": "tiny", "seed": 41, "temperature": 0.7, "top_p": 0.9, "max_tokens": 50, "stop": ["</answer>"]}
    assert expected.items() <= body.items()
    assert body["include_stop_str_in_output"] is True
    assert body["repetition_penalty"] == 1.0, "generation_config.json must not change how the policy is sampled"
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
async def test_images_travel_as_they_are_before_the_first_user_text(form: str) -> None:
    image = picture(form)
    async with serving(lambda _: "red") as (server, engine):
        await engine.generate(ask(1, (image, picture("PNG")), system="Look."))
    system, user = server.bodies[0]["messages"]
    assert system == {"role": "system", "content": "Look."}
    assert [part["type"] for part in user["content"]] == ["image_url", "image_url", "text"]
    head, _, data = user["content"][0]["image_url"]["url"].partition(",")
    assert head == f"data:image/{form.lower()};base64"
    assert base64.b64decode(data) == image


async def test_a_large_image_arrives_whole() -> None:
    image = b"\xff\xd8\xff" + bytes(3 << 20)
    async with serving(lambda _: "big") as (server, engine):
        assert (await engine.generate(ask(1, (image,)))).text == "big"
    url = server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]) == image


async def test_pixel_limits_reach_the_server_and_too_many_images_do_not() -> None:
    async with serving(lambda _: "ok", min_pixels=64, max_pixels=4096, limit_images=1) as (server, engine):
        await engine.generate(ask(0, (picture("PNG"),)))
        with pytest.raises(PromptRefused, match="too many images: 2, and the limit is 1"):
            await engine.generate(ask(0, (picture("PNG"),) * 2))
    assert server.bodies[0]["mm_processor_kwargs"] == {"min_pixels": 64, "max_pixels": 4096}
    assert len(server.bodies) == 1


async def test_a_server_that_takes_no_pixel_limits_is_not_asked_without_them() -> None:
    fault = Reply("Per-request mm_processor_kwargs are disabled", status=400)
    async with serving(lambda _: fault, max_pixels=4096) as (_, engine):
        with pytest.raises(UserError, match=r"takes no pixel limits.*disabled"):
            await engine.generate(ask(0, (picture("PNG"),)))


@pytest.mark.parametrize("slash", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_end_in_v1_or_not(slash: str) -> None:
    async with OpenAIServer(seed_of) as server, engine_at(server.url + slash) as engine:
        assert await answers(engine, 1) == ["0"]


async def test_empty_content_is_an_empty_response() -> None:
    async with serving(lambda _: Reply("", "length")) as (_server, engine):
        assert await engine.generate(ask()) == Response("", "length", 5, 0)


# The name of the model


async def test_the_only_model_of_a_server_needs_no_name() -> None:
    async with serving(seed_of, models=("org/one",), model="") as (server, engine):
        await answers(engine, 3)
    assert {body["model"] for body in server.bodies} == {"org/one"}


async def test_a_replica_that_lists_nothing_leaves_it_to_the_others() -> None:
    async with (
        OpenAIServer(lambda _: Reply("no such page", status=404), models=404) as bad,
        OpenAIServer(seed_of, models=("org/one",)) as good,
        engine_at(bad.url, good.url, model="") as engine,
    ):
        assert await answers(engine, 4) == ["0", "1", "2", "3"]
    assert good.bodies[-1]["model"] == "org/one"


async def test_several_models_need_a_name() -> None:
    async with serving(seed_of, models=("one", "two"), model="") as (_server, engine):
        with pytest.raises(UserError, match="--model: it lists one, two"):
            await engine.generate(ask())


# Stop strings stay in the text


@pytest.mark.parametrize("name", ["stop_reason", "matched_stop"])
async def test_a_stop_string_that_was_cut_and_named_comes_back(name: str) -> None:
    reply = Reply("<answer>4", "stop", {name: "</answer>"})
    async with serving(lambda _: reply, sampling=STOP) as (server, engine):
        assert (await engine.generate(ask())).text == "<answer>4</answer>"
    assert len(server.bodies) == 1


@pytest.mark.parametrize("reason", [None, 151645])
async def test_a_model_that_ended_by_itself_gets_no_stop_string(reason: int | None) -> None:
    reply = Reply("<answer>4", "stop", {"stop_reason": reason})
    async with serving(lambda _: reply, sampling=STOP) as (server, engine):
        assert (await engine.generate(ask())).text == "<answer>4"
    assert len(server.bodies) == 1


async def test_a_server_that_cuts_without_a_word_is_asked_again_without_stop_strings() -> None:
    def cuts(body: dict[str, Any]) -> str:
        return "<answer>4" if "stop" in body else "<answer>4</answer>"

    async with serving(cuts, sampling=STOP) as (server, engine):
        assert await answers(engine, 10) == ["<answer>4</answer>"] * 10
        seen = len(server.bodies)
        await answers(engine, 5)
    assert seen <= 20
    assert ["stop" in body for body in server.bodies[seen:]] == [False] * 5


async def test_a_server_that_knows_only_openai_parameters() -> None:
    def strict(body: dict[str, Any]) -> str | Reply:
        unknown = body.keys() - {"model", "messages", "temperature", "top_p", "max_tokens", "stop", "seed"}
        return Reply(f"Unrecognized request argument: {min(unknown)}", status=400) if unknown else "whole</answer>"

    async with serving(strict, sampling=STOP) as (server, engine):
        assert await answers(engine, 4) == ["whole</answer>"] * 4
        assert (await engine.generate(ask(9))).text == "whole</answer>"
    assert "stop" not in server.bodies[-1]


async def test_a_length_cut_is_not_completed() -> None:
    async with serving(lambda _: Reply("<answer>4", "length"), sampling=STOP) as (_server, engine):
        assert await engine.generate(ask()) == Response("<answer>4", "length", 5, 1)


async def test_a_reasoning_parser_is_refused() -> None:
    message = {"message": {"role": "assistant", "content": "4", "reasoning_content": "two and two"}}
    async with serving(lambda _: Reply("4", choice=message)) as (_, engine):
        with pytest.raises(UserError, match="without a reasoning parser"):
            await engine.generate(ask())


# One request that is refused, and what the user must mend


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_prompt_disturbs_no_other(status: int) -> None:
    def picky(body: dict[str, Any]) -> str | Reply:
        return Reply("the prompt is\n too long", status=status) if body["seed"] == 3 else seed_of(body)

    async with serving(picky) as (server, engine):
        found = await asyncio.gather(*(engine.generate(ask(seed)) for seed in range(6)), return_exceptions=True)
    assert isinstance(found[3], PromptRefused)
    assert str(found[3]) == "prompt too long: the prompt is too long"
    assert [getattr(response, "text", None) for response in found] == ["0", "1", "2", None, "4", "5"]
    assert len(server.bodies) == 6


@pytest.mark.parametrize("status", [401, 403])
async def test_a_wrong_key_is_the_users_and_is_not_printed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with serving(lambda _: Reply("Incorrect API key: sk-secret", status=status)) as (server, engine):
        with pytest.raises(UserError, match="set OPENAI_API_KEY") as caught:
            await engine.generate(ask())
    assert "sk-secret" not in str(caught.value)
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_wrong_key_is_told_when_the_models_are_listed(status: int) -> None:
    async with serving(seed_of, models=status, model="") as (_server, engine):
        with pytest.raises(UserError, match=rf"refuses the key \({status}: no list.*set OPENAI_API_KEY"):
            await engine.generate(ask())


@pytest.mark.parametrize("key", ["sk-sec\nret", "sk-sec\tret", "sk-sécret", "sk-sec\x7fret"])
def test_a_key_that_no_header_can_carry_is_refused_unprinted(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for opened in (
        lambda: OpenAIEngine("m", PLAIN, ModelOptions(base_url=("http://h",))),
        lambda: OpenAIClient("m", "http://h"),
    ):
        with pytest.raises(UserError, match="OPENAI_API_KEY has a line break or another character") as caught:
            opened()
        assert "sk-s" not in str(caught.value)


async def test_an_unknown_model_is_the_users() -> None:
    async with serving(lambda _: Reply("no such model", status=404), model="huge") as (_server, engine):
        with pytest.raises(UserError, match=r"has no model 'huge'.*--model"):
            await engine.generate(ask())


async def test_an_address_where_nothing_answers(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(replicas, "FIRST_ANSWER", 0.1)
    for model in ("tiny", ""):
        async with engine_at(closed_port(), model=model) as engine:
            found = await asyncio.gather(*(engine.generate(ask(seed)) for seed in range(200)), return_exceptions=True)
        assert {type(error) for error in found} == {UserError}
        assert "start it or correct --base-url" in str(found[0])


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://[", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="http://HOST:PORT/v1"):
        OpenAIEngine("tiny", PLAIN, ModelOptions(base_url=(url,)))


def test_no_address_is_refused() -> None:
    with pytest.raises(UserError, match="--base-url"):
        OpenAIEngine("tiny", PLAIN)


# Failures that pass


@pytest.mark.parametrize(
    "fault",
    [
        Reply("slow down", status=429),
        Reply("overloaded", status=503, headers={"Retry-After": "0"}),
        Reply("broken", status=500),
        Reply(drop=True),
        Reply("partial", "abort"),
        Reply(choice={"message": 3}),
        Reply(choice={"message": {"role": "assistant", "content": None}}),
    ],
)
async def test_passing_failures_are_retried(fault: Reply) -> None:
    failing = {2: 3, 5: 1}

    def shaky(body: dict[str, Any]) -> str | Reply:
        seed = body["seed"]
        if failing.get(seed, 0):
            failing[seed] -= 1
            return fault
        return seed_of(body)

    async with serving(shaky) as (_server, engine):
        assert await answers(engine, 8) == [str(seed) for seed in range(8)]
    assert not any(failing.values())


async def test_retry_after_is_obeyed() -> None:
    first = True

    def busy(body: dict[str, Any]) -> str | Reply:
        nonlocal first
        first, was = False, first
        return Reply("wait", status=429, headers={"Retry-After": "0.3"}) if was else "done"

    async with serving(busy) as (_server, engine):
        start = asyncio.get_running_loop().time()
        assert (await engine.generate(ask())).text == "done"
        assert asyncio.get_running_loop().time() - start >= 0.3


@pytest.mark.parametrize("status", [429, 500])
async def test_a_quota_that_ends_for_the_day_stops_the_run(status: int) -> None:
    fault = Reply("daily quota", status=status, headers={"Retry-After": "80000"})
    async with serving(lambda _: fault) as (_server, engine):
        with pytest.raises(EngineFailed, match="asks to wait 80000 s: daily quota"):
            await engine.generate(ask())


@pytest.mark.parametrize(
    "fault",
    [
        Reply("Insufficient Balance", status=402),
        Reply("Your credit balance is too low to access the API", status=400),
        Reply(body={"choices": None, "error": {"message": "payment required", "code": 402}}),
    ],
)
async def test_an_account_without_money_stops_the_run(fault: Reply) -> None:
    async with serving(lambda _: fault) as (_server, engine):
        with pytest.raises(UserError, match="has no quota left for the key in OPENAI_API_KEY"):
            await engine.generate(ask())


async def test_a_failure_that_is_sent_as_200_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_PAUSE", 0.02)
    fault = Reply(body={"choices": [], "error": {"message": "the upstream is overloaded", "code": 502}})
    async with serving(lambda _: fault, patience=0.3) as (_server, engine):
        with pytest.raises(EngineFailed, match="the upstream is overloaded"):
            await engine.generate(ask())


async def test_a_response_about_an_error_is_a_response() -> None:
    async with serving(lambda _: Reply('{"error": "none"}', body={"error": None})) as (_server, engine):
        assert (await engine.generate(ask())).text == '{"error": "none"}'


async def test_a_request_that_always_breaks_the_server_is_given_up_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_PAUSE", 0.02)

    def poisoned(body: dict[str, Any]) -> Reply:
        return Reply("illegal memory access", status=500) if body["seed"] == 7 else Reply("fine", delay=0.002)

    async with serving(poisoned) as (_server, engine):
        poison = asyncio.create_task(engine.generate(ask(7)))
        while not poison.done():
            assert (await engine.generate(ask(1))).text == "fine"
        with pytest.raises(Undecided, match=r"^given up: .*while others were served.*illegal memory access"):
            await poison


async def test_a_server_that_only_fails_stops_the_run_and_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_PAUSE", 0.02)
    async with serving(lambda _: Reply("out of memory", status=500), patience=0.3) as (_server, engine):
        with pytest.raises(EngineFailed, match="out of memory"):
            await engine.generate(ask())


@pytest.mark.parametrize("fault", [Reply("out of memory", status=500), Reply(choice={"message": 3}), Reply(drop=True)])
async def test_a_server_that_only_fails_is_told_once(fault: Reply, caplog: pytest.LogCaptureFixture) -> None:
    failing = 6

    def shaky(_: dict[str, Any]) -> str | Reply:
        nonlocal failing
        failing -= 1
        return fault if failing >= 0 else "well"

    async with serving(shaky) as (server, engine):
        await engine.generate(ask())
    assert caplog.text.count(f"{server.url}/v1 serves nothing at the moment and is asked again: ") == 1


# Several replicas


async def test_load_is_spread_and_bounded() -> None:
    async with two_serving(lambda body: Reply(seed_of(body), delay=0.01), concurrency=4) as (one, two, engine):
        assert engine.concurrency == 8
        assert await answers(engine, 60) == [str(seed) for seed in range(60)]
    assert (one.most_in_flight, two.most_in_flight) == (4, 4)
    assert min(len(one.bodies), len(two.bodies)) >= 20


async def test_a_slow_replica_gets_less() -> None:
    async with (
        OpenAIServer(lambda body: Reply(seed_of(body), delay=0.2)) as slow,
        OpenAIServer(seed_of) as fast,
        engine_at(slow.url, fast.url, concurrency=8) as engine,
    ):
        await answers(engine, 100)
    assert len(slow.bodies) < 20


async def test_a_replica_that_dies_loses_nothing_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with two_serving(lambda body: Reply(seed_of(body), delay=0.02), concurrency=4) as (one, _two, engine):
        run = asyncio.create_task(answers(engine, 60))
        await until(lambda: len(one.bodies) >= 8)
        await one.die()
        assert await run == [str(seed) for seed in range(60)]
        assert "is put aside until it serves again" in caplog.text

        before = len(one.bodies)
        await one.start()
        await until(lambda: f"{one.url}/v1 serves again" in caplog.text)
        assert await answers(engine, 20) == [str(seed) for seed in range(20)]
        assert len(one.bodies) > before


async def test_a_restart_of_the_only_server_is_waited_for() -> None:
    async with serving(lambda body: Reply(seed_of(body), delay=0.02), concurrency=4) as (server, engine):
        run = asyncio.create_task(answers(engine, 24))
        await until(lambda: len(server.bodies) >= 6)
        await server.die()
        await asyncio.sleep(0.1)
        assert not run.done()
        await server.start()
        assert await run == [str(seed) for seed in range(24)]


async def test_all_replicas_dead_for_too_long_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_PAUSE", 0.05)
    async with two_serving(seed_of, concurrency=2, patience=0.3) as (one, two, engine):
        await answers(engine, 4)
        await one.die()
        await two.die()
        found = await asyncio.gather(*(engine.generate(ask(seed)) for seed in range(20)), return_exceptions=True)
    assert {type(error) for error in found} == {EngineFailed}
    assert one.url in str(found[0])
    assert two.url in str(found[0])


async def test_a_cancelled_request_frees_its_slot() -> None:
    def slow_once(body: dict[str, Any]) -> Reply:
        return Reply(seed_of(body), delay=5 if body["seed"] == 1 else 0)

    async with serving(slow_once, concurrency=1) as (server, engine):
        slow = asyncio.create_task(engine.generate(ask(1)))
        await until(lambda: len(server.bodies) > 0)
        slow.cancel()
        assert (await engine.generate(ask(2))).text == "2"


@pytest.mark.parametrize(
    "fault",
    [
        Reply("bad gateway", status=502),
        Reply("broken", status=500),
        Reply("loading", status=503),
        Reply("wrong key", status=401),
        Reply("no such model", status=404),
        Reply("daily quota", status=429, headers={"Retry-After": "3600"}),
        Reply(drop=True),
        Reply(choice={"message": 3}),
    ],
)
@pytest.mark.parametrize("bad_first", [True, False])
async def test_a_replica_that_only_fails_costs_nothing(fault: Reply, bad_first: bool) -> None:
    async with (
        OpenAIServer(lambda _: fault) as bad,
        OpenAIServer(lambda body: Reply(seed_of(body), delay=0.005)) as good,
        engine_at(*((bad.url, good.url) if bad_first else (good.url, bad.url)), concurrency=8) as engine,
    ):
        start = asyncio.get_running_loop().time()
        assert await answers(engine, 300) == [str(seed) for seed in range(300)]
        assert asyncio.get_running_loop().time() - start < 5
    assert len(bad.bodies) < 40


async def test_a_replica_that_fails_before_any_has_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.2)
    async with (
        OpenAIServer(lambda _: Reply("bad gateway", status=502)) as bad,
        OpenAIServer(lambda body: Reply(seed_of(body), delay=0.5)) as slow,
        engine_at(bad.url, slow.url, concurrency=2) as engine,
    ):
        assert await answers(engine, 4) == ["0", "1", "2", "3"]
    assert len(bad.bodies) <= 8


async def test_a_replica_that_failed_is_tried_until_it_serves(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    well = False

    def recovering(body: dict[str, Any]) -> Reply:
        return Reply(seed_of(body), delay=0.005) if well else Reply("loading", status=503)

    async with (
        OpenAIServer(recovering) as one,
        OpenAIServer(lambda body: Reply(seed_of(body), delay=0.005)) as two,
        engine_at(one.url, two.url, concurrency=2) as engine,
    ):
        run = asyncio.create_task(answers(engine, 200))
        await until(lambda: f"{one.url}/v1 is put aside until it serves again" in caplog.text)
        assert one.most_in_flight <= 2
        assert await run == [str(seed) for seed in range(200)]
        well = True
        async with asyncio.timeout(30):
            while f"{one.url}/v1 serves again" not in caplog.text:
                await answers(engine, 20)
        before = len(one.bodies)
        await answers(engine, 40)
        assert len(one.bodies) - before > 10


async def test_a_request_that_breaks_every_replica_is_given_up_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_PAUSE", 0.02)

    def poisoned(body: dict[str, Any]) -> Reply:
        return Reply("illegal memory access", status=500) if body["seed"] == 7 else Reply("fine", delay=0.002)

    async with two_serving(poisoned) as (_one, _two, engine):
        poison = asyncio.create_task(engine.generate(ask(7)))
        while not poison.done():
            assert (await engine.generate(ask(1))).text == "fine"
        with pytest.raises(Undecided, match=r"^given up: .*while others were served.*illegal memory access"):
            await poison


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Reply("wrong key", status=401), UserError),
        (Reply("no such model", status=404), UserError),
        (Reply("daily quota", status=429, headers={"Retry-After": "3600"}), EngineFailed),
        (Reply("out of memory", status=500), EngineFailed),
    ],
)
async def test_replicas_that_all_fail_stop_the_run(
    fault: Reply, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LONGEST_PAUSE", 0.02)
    async with two_serving(lambda _: fault, patience=0.3) as (_one, _two, engine):
        with pytest.raises(error, match=fault.text):
            await engine.generate(ask())


async def test_a_server_s_words_drive_no_terminal() -> None:
    async with serving(lambda _: Reply("no \x1b[2J\u202e such model", status=404)) as (_server, engine):
        with pytest.raises(UserError, match="no ␛\\[2J⟨U\\+202E⟩ such model"):
            await engine.generate(ask())


async def test_words_that_only_contain_a_parameter_are_a_refusal() -> None:
    def picky(body: dict[str, Any]) -> str | Reply:
        return Reply("image is smaller than min_pixels", status=400) if body["seed"] == 3 else "whole</answer>"

    async with serving(picky, sampling=STOP) as (server, engine):
        with pytest.raises(PromptRefused, match="min_pixels"):
            await engine.generate(ask(3))
        await engine.generate(ask(4))
    assert server.bodies[-1]["stop"] == ["</answer>"]


def chances(*tokens: float) -> dict[str, Any]:
    """Chances of the likeliest tokens, as servers tell them, at each of two tokens."""
    top = [{"token": "x", "logprob": math.log(chance), "bytes": [120]} for chance in tokens]
    return {"logprobs": {"content": [{"token": "x", "logprob": -0.1, "top_logprobs": top}] * 2}}


async def test_a_server_that_tells_chances_has_nuclei() -> None:
    answer = Reply("a b", choice=chances(0.9, 0.06, 0.01))
    async with OpenAIServer(lambda body: answer) as server, engine_at(server.url) as engine:
        counted = await engine.generate(replace(ask(), nuclei=True))
        plain = await engine.generate(ask())
    assert counted.nuclei == Nuclei(0.95, 2, 4)
    assert [body.get("top_logprobs") for body in server.bodies] == [20, None]
    assert plain.text == counted.text


async def test_a_nucleus_beyond_the_likeliest_tokens_is_a_lower_bound() -> None:
    answer = Reply("a b", choice=chances(0.5, 0.2))
    async with OpenAIServer(lambda body: answer) as server, engine_at(server.url) as engine:
        assert (await engine.generate(replace(ask(), nuclei=True))).nuclei == Nuclei(0.95, 2, 6, 2)


@pytest.mark.parametrize("choice", [{}, {"logprobs": None}, {"logprobs": {"content": None}}, chances()])
async def test_a_server_that_tells_none_has_no_nuclei(choice: dict[str, Any]) -> None:
    async with OpenAIServer(lambda body: Reply("a b", choice=choice)) as server, engine_at(server.url) as engine:
        assert await engine.generate(replace(ask(), nuclei=True)) == Response("a b", "stop", 5, 2)


async def test_a_server_that_refuses_to_tell_is_asked_without() -> None:
    def answer(body: dict[str, Any]) -> Reply:
        if "logprobs" in body:
            return Reply("top_logprobs is not supported by this model", status=400)
        return Reply("a b")

    async with OpenAIServer(answer) as server, engine_at(server.url) as engine:
        responses = [await engine.generate(replace(ask(seed), nuclei=True)) for seed in range(3)]
    assert [response.text for response in responses] == ["a b"] * 3
    assert len(server.bodies) == 4  # it is not asked for them again


async def test_chances_at_another_temperature_are_not_those_that_were_sampled_from() -> None:
    cool = Sampling(temperature=0.7)
    async with OpenAIServer(seed_of) as server, engine_at(server.url, sampling=cool) as engine:
        await engine.generate(replace(ask(), nuclei=True))
    assert "logprobs" not in server.bodies[0]


# Servers that hang


SHORT = Sampling(max_tokens=1)
HANG = Reply("late", delay=600.0)


async def test_a_replica_that_hangs_gives_its_requests_to_the_others() -> None:
    async with (
        OpenAIServer(lambda _: HANG) as hanging,
        OpenAIServer(seed_of) as well,
        engine_at(hanging.url, well.url, sampling=SHORT, patience=0.3, concurrency=4) as engine,
    ):
        assert await answers(engine, 40) == [str(seed) for seed in range(40)]
    assert 1 <= len(hanging.bodies) <= 8


async def test_a_server_is_not_tried_with_the_request_that_it_failed() -> None:
    both = replicas.Replicas(["http://one", "http://other"], {}, per_server=1, patience=1.0)
    hanging, well = both.servers
    hanging.standing = replicas.Standing.ON_TRIAL
    assert both.servers[(await both.take(avoid=hanging))[1]] is well
    assert both.servers[(await both.take())[1]] is hanging


async def test_a_single_server_that_hangs_ends_the_run_in_one_sentence() -> None:
    async with serving(lambda _: HANG, sampling=SHORT, patience=0.3) as (_server, engine):
        with pytest.raises(EngineFailed, match=r"hangs: it takes requests, and has answered none for 0 s"):
            await answers(engine, 8)


async def test_a_server_that_hangs_after_it_has_served_is_noticed() -> None:
    count = 0

    def tiring(_: dict[str, Any]) -> str | Reply:
        nonlocal count
        count += 1
        return "well" if count <= 10 else HANG

    async with serving(tiring, sampling=SHORT, patience=0.3, concurrency=4) as (_server, engine):
        with pytest.raises(EngineFailed, match="hangs"):
            await answers(engine, 20)


async def test_a_slow_server_does_not_hang() -> None:
    async with serving(lambda body: Reply(seed_of(body), delay=0.1 * body["seed"]), sampling=SHORT, patience=0.3) as (
        _server,
        engine,
    ):
        assert await answers(engine, 10) == [str(seed) for seed in range(10)]


async def test_a_request_that_hangs_alone_is_given_up_alone() -> None:
    async with serving(lambda body: HANG if body["seed"] == 7 else "well", sampling=SHORT, patience=0.2) as (
        _server,
        engine,
    ):
        hanging = asyncio.create_task(engine.generate(ask(7)))
        while not hanging.done():
            await asyncio.sleep(0.02)
            assert (await engine.generate(ask(1))).text == "well"
        with pytest.raises(Undecided, match="while others were answered"):
            await hanging


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "content_filter", "message": {"role": "assistant", "content": None}},
        {"message": {"role": "assistant", "content": None, "refusal": "I cannot look at that."}},
    ],
)
async def test_what_a_service_blocks_is_the_item_s(choice: dict[str, Any]) -> None:
    def picky(body: dict[str, Any]) -> Reply:
        return Reply("fine", choice=choice if body["seed"] == 3 else {})

    async with serving(picky) as (server, engine):
        with pytest.raises(PromptRefused, match="^blocked: "):
            await engine.generate(ask(3))
        assert (await engine.generate(ask(1))).text == "fine"
    assert len(server.bodies) == 2


async def test_a_third_of_failures_slows_a_run_and_does_not_stall_it() -> None:
    def shaky(body: dict[str, Any]) -> str | Reply:
        draw = next(draws) % 10
        return {0: Reply("full", status=429), 1: Reply("broken", status=500), 2: Reply(drop=True)}.get(draw, "well")

    draws = itertools.count()
    start = time.monotonic()
    async with serving(shaky, concurrency=16) as (_server, engine):
        assert await answers(engine, 400) == ["well"] * 400
    assert time.monotonic() - start < 10


# Templates of served models


async def test_a_served_template_without_a_system_role_has_it_in_the_users_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def picky(body: dict[str, Any]) -> str | Reply:
        if body["messages"][0]["role"] == "system":
            return Reply("System role not supported", status=400)
        return str(body["messages"][0]["content"])

    async with serving(picky) as (_server, engine):
        found = await asyncio.gather(*(engine.generate(ask(seed, system="Think.")) for seed in range(20)))
    assert all(response.text.startswith("Think.\n\nHow many") for response in found)
    assert caplog.text.count("takes no system message") == 1
