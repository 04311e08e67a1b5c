"""The policy as its own verifier with the real vLLM, in process and as a server, with the prefix cache on."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from specs_data.engines import ModelOptions
from specs_data.engines import vllm as vllm_engine
from specs_data.engines.openai import OpenAIEngine
from specs_data.engines.transformers import TransformersEngine
from specs_data.engines.vllm import VLLMEngine
from specs_data.format import THINK_ANSWER
from specs_data.measure.verifier_score import Labelled, labelled_pair
from specs_data.plugins import Engine
from specs_data.records import Request, Sampling, Verdict
from specs_data.texts import chat, system_prompt
from specs_data.verifiers import Checker
from specs_data.verifiers.policy import PolicyVerifier
from tests.elsewhere.vllm_engine.conftest import serve

CASES: Sequence[Labelled] = [one for index in range(40) for one in labelled_pair(7919, index)]
SYSTEM = system_prompt(None, THINK_ANSWER.instruction)
SAMPLING = Sampling(temperature=1.0, max_tokens=64)
# A small block, the smallest of a CPU: what fills none is not cached, and these prompts are short.
SMALL = {"enforce_eager": True, "distributed_executor_backend": "uni", "max_model_len": 512, "block_size": 32}


async def verdicts(engine: Engine) -> list[Verdict]:
    """Those on the labelled cases. Before, each problem is sampled once, as a build does."""
    prompts = [(chat(one.judged.sample.problem, SYSTEM), (one.image,)) for one in CASES]
    await asyncio.gather(*(engine.generate(Request(messages, images, 0)) for messages, images in prompts))
    verifier = PolicyVerifier(Checker(engine, "mini", "digest", SYSTEM), THINK_ANSWER)
    return list(await asyncio.gather(*(verifier.verify(one.judged, (one.image,)) for one in CASES)))


@pytest.fixture(scope="module")
def wanted(checkpoint: str) -> list[Verdict]:
    """What the transformers engine says."""

    async def found() -> list[Verdict]:
        engine = TransformersEngine(checkpoint, SAMPLING, ModelOptions(dtype="float32"))
        try:
            return await verdicts(engine)
        finally:
            await engine.close()

    return asyncio.run(found())


@pytest.fixture(scope="module")
def caching_server(checkpoint: str) -> Iterator[str]:
    with serve(checkpoint, "--block-size", "32") as (url, _):
        yield url


def same(found: Sequence[Verdict], wanted: Sequence[Verdict]) -> int:
    """How many verdicts are the same: rounding may turn one of a hundred."""
    return sum(one.consistent is other.consistent for one, other in zip(found, wanted, strict=True))


def hits(url: str) -> tuple[float, float]:
    """(tokens that were looked for in the prefix cache, and those found) since the server began."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
        text = page.read().decode()
    asked, found = (
        sum(float(value) for value in re.findall(rf"^vllm:prefix_cache_{name}_total{{.*}} (\S+)$", text, re.MULTILINE))
        for name in ("queries", "hits")
    )
    return asked, found


async def test_in_process_as_with_transformers(
    checkpoint: str, wanted: list[Verdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    cached: list[int] = []

    def counted(outputs: list[Any], *further: Any) -> list[Any]:
        for output in outputs:
            if output.finished:
                asked.append(len(output.prompt_token_ids))
                cached.append(output.num_cached_tokens or 0)
        return deliver(outputs, *further)

    deliver = vllm_engine._deliver
    monkeypatch.setattr(vllm_engine, "_deliver", counted)
    engine = VLLMEngine(checkpoint, SAMPLING, ModelOptions(limit_images=2, dtype="float32"), **SMALL)
    try:
        found = await verdicts(engine)
    finally:
        await engine.close()
    assert same(found, wanted) >= len(CASES) - 2
    assert any(one.consistent for one in found) and not all(one.consistent for one in found)
    tokens = sum(one.completion_tokens for one in found) / len(found)
    print(f"in process: {same(found, wanted)} of {len(CASES)} as transformers, {tokens:.2f} tokens a verdict")  # noqa: T201
    share = sum(cached) / sum(asked)
    print(f"prefix cache: {sum(cached)} of {sum(asked)} tokens, {share:.3f}")  # noqa: T201
    assert tokens < 3 and share > 0


async def test_a_server_as_with_transformers(caching_server: str, wanted: list[Verdict]) -> None:
    engine = OpenAIEngine("mini", SAMPLING, ModelOptions(base_url=(caching_server,)))
    try:
        found = await verdicts(engine)
    finally:
        await engine.close()
    assert same(found, wanted) >= len(CASES) - 2
    asked, hit = hits(caching_server)
    tokens = sum(one.completion_tokens for one in found) / len(found)
    print(f"server: {same(found, wanted)} of {len(CASES)} as transformers, {tokens:.2f} tokens a verdict")  # noqa: T201
    print(f"prefix cache: {hit:.0f} of {asked:.0f} tokens, {hit / asked:.3f}")  # noqa: T201
    assert hit > 0


async def test_what_is_cached_is_not_read_again(checkpoint: str) -> None:
    engine = VLLMEngine(checkpoint, SAMPLING, ModelOptions(limit_images=2, dtype="float32"), **SMALL)
    request = Request(chat(CASES[0].judged.sample.problem, SYSTEM), (CASES[0].image,), 0, prefill="<think>5.</think>")
    try:
        fresh, cached, within = [await engine.likelihood(request, text) for text in ("a", "a", "a b c d " * 20)]
        again = await engine.likelihood(request, "a b c d " * 20)
    finally:
        await engine.close()
    assert fresh.logprob == pytest.approx(cached.logprob, abs=1e-3)
    assert within.logprob == pytest.approx(again.logprob, abs=1e-3), (
        "a text that fills blocks of the cache is read anew"
    )
