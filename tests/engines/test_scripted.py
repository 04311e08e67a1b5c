"""The scripted engine: a stand-in for a model at the engine seam."""

import asyncio

import pytest

from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import PromptRefused
from specs_data.records import Message, Request, Response


def ask(seed: int) -> Request:
    return Request((Message("user", "How many?"),), (), seed)


async def test_plays_the_script_and_counts_its_calls() -> None:
    engine = ScriptedEngine(lambda request: f"{request.messages[0].content} {request.seed}")
    assert [await engine.generate(ask(seed)) for seed in (3, 4)] == [Response("How many? 3"), Response("How many? 4")]
    assert engine.calls == 2
    await engine.close()


async def test_a_whole_response_passes_through() -> None:
    response = Response("cut", "length", 7, 9)
    assert await ScriptedEngine(lambda _: response).generate(ask(0)) == response


async def test_the_script_fails_as_an_engine_does() -> None:
    def script(request: Request) -> str:
        if request.seed == 1:
            raise PromptRefused("too long")
        return "fine"

    engine = ScriptedEngine(script)
    with pytest.raises(PromptRefused, match="too long"):
        await engine.generate(ask(1))
    assert (await engine.generate(ask(2))).text == "fine"


async def test_delayed_requests_overlap() -> None:
    engine = ScriptedEngine(lambda request: str(request.seed), delay=0.05)
    async with asyncio.timeout(0.5):
        responses = await asyncio.gather(*(engine.generate(ask(seed)) for seed in range(100)))
    assert [response.text for response in responses] == [str(seed) for seed in range(100)]
