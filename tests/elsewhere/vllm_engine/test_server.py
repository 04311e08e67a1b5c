"""The openai engine against a real vLLM server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from specs_data.engines import ModelOptions
from specs_data.engines.openai import OpenAIEngine
from specs_data.errors import PromptRefused, UserError
from specs_data.records import Message, Request, Response, Sampling
from tests.elsewhere.vllm_engine.bad_requests import bad_among_good


def ask(seed: int, *images: bytes, text: str = "How many circles are red?") -> Request:
    return Request((Message("system", "Think."), Message("user", text)), images, seed)


@asynccontextmanager
async def engine_at(
    url: str, sampling: Sampling, model: str | None = None, **options: Any
) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(model, sampling, ModelOptions(base_url=(url,), **options))
    try:
        yield engine
    finally:
        await engine.close()


async def test_many_requests_with_images(server: str, picture: bytes) -> None:
    async with engine_at(server, Sampling(max_tokens=32)) as engine:
        responses = await asyncio.gather(*(engine.generate(ask(seed, picture)) for seed in range(60)))
        again = await engine.generate(ask(7, picture))
        without = await engine.generate(ask(7))
    assert again.text == responses[7].text, "the seed alone decides"
    assert len({response.text for response in responses}) > 3
    assert again.prompt_tokens > without.prompt_tokens + 1
    assert all(0 < response.completion_tokens <= 32 for response in responses)


async def test_the_stop_string_stays(server: str) -> None:
    async with engine_at(server, Sampling(max_tokens=32)) as engine:
        text = (await engine.generate(ask(3))).text
    letter = next(letter for letter in text[len(text) // 2 :] if letter.isascii() and letter.isprintable())
    async with engine_at(server, Sampling(max_tokens=32, stop=(letter,))) as engine:
        response = await engine.generate(ask(3))
        ended = [await engine.generate(ask(seed)) for seed in range(20)]
    assert response == Response(
        text[: text.index(letter) + 1], "stop", response.prompt_tokens, response.completion_tokens
    )
    assert all(each.text.endswith(letter) or letter not in each.text for each in ended)


async def test_a_bad_request_disturbs_no_other(server: str, picture: bytes) -> None:
    requests = bad_among_good(ask, picture)
    async with engine_at(server, Sampling(max_tokens=32)) as engine, asyncio.timeout(120):
        found = await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)
    assert [type(each) for each in found] == [Response, *[PromptRefused] * 5, Response], found


async def test_a_prompt_that_leaves_less_room_than_max_tokens(server: str) -> None:
    async with engine_at(server, Sampling(max_tokens=500)) as engine, asyncio.timeout(120):
        response = await engine.generate(ask(0, text="How many? " * 8))
    assert response.completion_tokens > 0


async def test_pixel_limits_are_obeyed(server: str) -> None:
    large = io.BytesIO()
    Image.new("RGB", (280, 280), "red").save(large, "PNG")
    tokens = []
    for most in (3136, 12544):
        async with engine_at(server, Sampling(max_tokens=4), min_pixels=784, max_pixels=most) as engine:
            tokens.append((await engine.generate(ask(0, large.getvalue()))).prompt_tokens)
    assert tokens[0] < tokens[1]


async def test_an_unknown_model_is_the_users(server: str) -> None:
    async with engine_at(server, Sampling(), model="other") as engine:
        with pytest.raises(UserError, match="has no model 'other'"):
            await engine.generate(ask(0))
