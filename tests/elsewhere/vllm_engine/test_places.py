"""Pictures stand where the question says, in the real vLLM and at its server: the greedy responses are those of the
transformers engine, whose prompt is the chat template's own text, and another order of pictures gives others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from specs_data.engines import Engine, ModelOptions
from specs_data.engines.openai import OpenAIEngine
from specs_data.engines.transformers import TransformersEngine
from specs_data.engines.vllm import VLLMEngine
from specs_data.mini.world import draw, picture
from specs_data.records import Message, Request, Response, Sampling

CPU: dict[str, Any] = {"enforce_eager": True, "distributed_executor_backend": "uni", "max_model_len": 512}
GREEDY = Sampling(temperature=0.0, max_tokens=60, stop=("</answer>",))
SYSTEM = Message("system", "Think in <think> </think>, then answer in <answer> </answer>.")
PICTURES = [picture(draw(5, index).things) for index in range(16)]
QUESTIONS = (
    "First: <image>\nSecond: <image>\nHow many shapes are there in the second picture?",
    "<image>How many shapes are there, and how many here: <image>?",
    "How many shapes are there? <image><image>",
    "How many shapes are there?",
)


def requests() -> Iterator[Request]:
    """Each question about pairs of pictures, in both orders."""
    for text in QUESTIONS:
        for one, other in zip(PICTURES[::2], PICTURES[1::2], strict=True):
            for images in ((one, other), (other, one)):
                yield Request((SYSTEM, Message("user", text)), images, 0)


async def asked(engine: Engine) -> list[Response]:
    try:
        return await asyncio.gather(*map(engine.generate, requests()))
    finally:
        await engine.close()


@pytest.fixture(scope="module")
def wanted(checkpoint: str) -> list[Response]:
    return asyncio.run(asked(TransformersEngine(checkpoint, GREEDY, ModelOptions(dtype="float32"))))


def check(found: list[Response], wanted: list[Response]) -> None:
    assert [each.prompt_tokens for each in found] == [each.prompt_tokens for each in wanted]
    assert sum(one.text == other.text for one, other in zip(found, wanted, strict=True)) >= len(wanted) - 1


def test_another_place_gives_another_response(wanted: list[Response]) -> None:
    """Or the next two tests could not fail."""
    texts = [each.text for each in wanted]
    count = len(PICTURES)
    for start in (0, count, 2 * count):
        among, before = texts[start : start + count], texts[3 * count :]
        assert sum(one != other for one, other in zip(among, before, strict=True)) > count * 3 / 4
        assert any(one != other for one, other in zip(among[::2], among[1::2], strict=True))


def test_in_process(checkpoint: str, wanted: list[Response]) -> None:
    check(asyncio.run(asked(VLLMEngine(checkpoint, GREEDY, ModelOptions(dtype="float32"), **CPU))), wanted)


def test_at_a_server(server: str, wanted: list[Response]) -> None:
    check(asyncio.run(asked(OpenAIEngine("mini", GREEDY, ModelOptions(base_url=(server,))))), wanted)
