"""A real Ray cluster on this machine: two replicas of a scripted engine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from specs_data.engines import Engine
from specs_data.engines.ray import RayEngine
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import EngineFailed, PromptRefused, Undecided, UserError
from specs_data.records import Message, Request, Response

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # Ray's own
]


def ask(seed: int, text: str = "How many?") -> Request:
    return Request((Message("user", text),), (b"\xff\xd8\xff image",), seed)


def script(request: Request) -> Response:
    """Answers with the process that answers; some texts make it fail."""
    text = request.messages[0].content
    if text == "too long":
        raise PromptRefused("prompt too long", "9 tokens")
    if text == "aborted":
        raise Undecided("given up", "vLLM ended it with 'abort'")
    if text == "wrong key":
        raise UserError("set the key")
    if text == "odd":
        raise ValueError("an odd\nrequest")
    if text.startswith("break once"):
        marker = Path(text.removeprefix("break once "))
        if not marker.exists():
            marker.touch()
            raise EngineFailed("out of memory")
    return Response(str(request.seed), "stop", os.getpid(), len(request.images[0]))


def make_engine() -> Engine:
    return ScriptedEngine(script, delay=0.05, concurrency=8)


def make_slow_engine() -> Engine:
    time.sleep(1.5)
    return make_engine()


def make_endless_engine() -> Engine:
    time.sleep(600)
    return make_engine()


def make_odd_engine() -> Engine:
    raise ValueError("no such weights")


def make_broken_engine() -> Engine:
    raise UserError("no such checkpoint")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[RayEngine]:
    made = await asyncio.to_thread(RayEngine, make_engine, replicas=2)
    yield made
    await made.close()


async def generate(engine: RayEngine, count: int) -> tuple[list[str], set[int]]:
    """The texts, and the processes that wrote them."""
    responses = await asyncio.gather(*(engine.generate(ask(seed)) for seed in range(count)))
    return [response.text for response in responses], {response.prompt_tokens for response in responses}


async def both_up(engine: RayEngine) -> set[int]:
    async with asyncio.timeout(60):
        while len(found := (await generate(engine, 8))[1]) < 2:
            pass
    return found


async def test_requests_are_shared_among_the_replicas(engine: RayEngine) -> None:
    assert engine.concurrency == 16
    await both_up(engine)
    texts, processes = await generate(engine, 40)
    assert texts == [str(seed) for seed in range(40)]
    assert len(processes) == 2
    assert os.getpid() not in processes


async def test_images_arrive(engine: RayEngine) -> None:
    assert (await engine.generate(ask(0))).completion_tokens == len(b"\xff\xd8\xff image")


async def test_a_killed_replica_loses_nothing_and_comes_back(engine: RayEngine) -> None:
    victim = min(await both_up(engine))
    run = asyncio.create_task(generate(engine, 200))
    await asyncio.sleep(0.03)
    os.kill(victim, signal.SIGKILL)
    async with asyncio.timeout(60):
        texts, processes = await run
    assert texts == [str(seed) for seed in range(200)], "none lost, none doubled"
    assert processes
    assert victim not in await both_up(engine)


async def test_a_refusal_is_the_requests_alone(engine: RayEngine) -> None:
    found: list[Any] = await asyncio.gather(
        engine.generate(ask(1)), engine.generate(ask(2, "too long")), engine.generate(ask(3)), return_exceptions=True
    )
    assert [each.text for each in (found[0], found[2])] == ["1", "3"]
    assert isinstance(found[1], PromptRefused)
    assert str(found[1]) == "prompt too long: 9 tokens"


async def test_a_request_that_was_given_up_is_undecided(engine: RayEngine) -> None:
    with pytest.raises(Undecided, match="^given up: vLLM ended it with 'abort'$"):
        await engine.generate(ask(1, "aborted"))


async def test_what_the_user_must_mend_reaches_the_user(engine: RayEngine) -> None:
    with pytest.raises(UserError, match="^set the key$"):
        await engine.generate(ask(1, "wrong key"))


async def test_an_engine_that_breaks_is_started_anew(engine: RayEngine, tmp_path: Path) -> None:
    before = await both_up(engine)
    async with asyncio.timeout(60):
        assert (await engine.generate(ask(5, f"break once {tmp_path / 'broke'}"))).text == "5"
        after = await both_up(engine)
    assert len(before & after) == 1


async def test_an_engine_that_cannot_start_is_reported() -> None:
    with pytest.raises(UserError, match="^no such checkpoint$"):
        await asyncio.to_thread(RayEngine, make_broken_engine, replicas=1)


async def test_an_engine_that_crashes_is_reported_in_one_sentence(engine: RayEngine) -> None:
    with pytest.raises(EngineFailed, match=r"^a replica's engine failed: [^\n]*request$"):
        await engine.generate(ask(1, "odd"))
    assert (await engine.generate(ask(2))).text == "2"
    with pytest.raises(EngineFailed, match=r"^a replica died while it started: ValueError: no such weights$"):
        await asyncio.to_thread(RayEngine, make_odd_engine, replicas=1)


async def test_a_long_wait_for_the_first_replica_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("specs_data.engines.ray.NEWS", 0.2)
    engine = await asyncio.to_thread(RayEngine, make_slow_engine, replicas=1)
    await engine.close()
    assert "no replica is ready after 0 s: each takes 0 GPUs, and of the cluster's 0 GPUs 0 are free" in caplog.text


async def test_all_replicas_lost_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specs_data.engines.ray.RESTARTS", 0)
    engine = await asyncio.to_thread(RayEngine, make_engine, replicas=1)
    process = (await engine.generate(ask(1))).prompt_tokens
    os.kill(process, signal.SIGKILL)
    async with asyncio.timeout(60):
        with pytest.raises(EngineFailed, match="all replicas are lost"):
            await generate(engine, 20)
    await engine.close()


@pytest.mark.parametrize("scheme", ["", "ray://"])
async def test_an_address_at_which_nothing_listens_is_told_at_once(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # there is the other tests' cluster
    with socket.socket() as bound:  # and not listening: nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"^no Ray cluster answers at {address}: .*refused"):
            RayEngine(make_engine, address)


async def test_the_wait_for_a_replica_can_be_given_up() -> None:
    given_up = threading.Event()
    opening = asyncio.create_task(asyncio.to_thread(RayEngine, make_endless_engine, given_up=given_up))
    await asyncio.sleep(2)
    assert not opening.done()
    given_up.set()
    with pytest.raises(EngineFailed, match="given up"):
        await asyncio.wait_for(opening, 20)
