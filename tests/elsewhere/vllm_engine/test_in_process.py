"""The vLLM engine in process, with the real vLLM."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from specs_data.engines import ModelOptions
from specs_data.engines.vllm import VLLMEngine
from specs_data.errors import PromptRefused, UserError
from specs_data.mini import world
from specs_data.records import Message, Request, Response, Sampling
from tests.elsewhere.vllm_engine.bad_requests import bad_among_good

pytestmark = pytest.mark.asyncio(loop_scope="module")
SAMPLING = Sampling(temperature=1.0, max_tokens=200, stop=("</answer>",))
CPU = {"dtype": "float32", "enforce_eager": True, "distributed_executor_backend": "uni", "max_model_len": 512}


def ask(seed: int, *images: bytes, text: str = "How many circles are red?") -> Request:
    system = Message("system", "Think in <think> </think>, then answer in <answer> </answer>.")
    return Request((system, Message("user", text)), images, seed)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(checkpoint: str) -> AsyncIterator[VLLMEngine]:
    made = VLLMEngine(checkpoint, SAMPLING, ModelOptions(limit_images=2), **CPU)
    yield made
    await made.close()


@pytest.fixture(scope="module")
def bare(engine: VLLMEngine, checkpoint: str) -> Any:
    """vLLM itself. It lives as long as the engine: within one process vLLMs share their groups of workers."""
    from vllm import LLM

    return LLM(checkpoint, enable_chunked_prefill=False, **CPU)


async def test_many_requests_at_once_are_what_llm_chat_gives(engine: VLLMEngine, bare: Any, picture: bytes) -> None:
    from vllm import SamplingParams

    seeds = range(100)
    responses = await asyncio.gather(*(engine.generate(ask(seed, picture)) for seed in seeds))

    image = {"type": "image_pil", "image_pil": Image.open(io.BytesIO(picture))}
    system, user = (message.content for message in ask(0).messages)
    chat = [
        {"role": "system", "content": system},
        {"role": "user", "content": [image, {"type": "text", "text": user}]},
    ]
    stop = {"stop": ["</answer>"], "include_stop_str_in_output": True}
    params = [SamplingParams(temperature=1.0, max_tokens=200, seed=seed, **stop) for seed in seeds]
    outputs = bare.chat([chat] * len(seeds), params, use_tqdm=False)

    same = sum(
        response
        == Response(
            output.outputs[0].text,
            output.outputs[0].finish_reason,
            len(output.prompt_token_ids),
            len(output.outputs[0].token_ids),
        )
        for response, output in zip(responses, outputs, strict=True)
    )
    assert same >= 98, "rounding may differ with the batch, hardly ever enough to change a token"
    assert len({response.text for response in responses}) > 3
    assert engine.concurrency > 100


async def test_the_seed_alone_decides(engine: VLLMEngine, picture: bytes) -> None:
    alone = [await engine.generate(ask(seed, picture)) for seed in (7, 8)]
    among = await asyncio.gather(*(engine.generate(ask(seed, picture)) for seed in range(30)))
    assert [response.text for response in alone] == [response.text for response in among[7:9]]


async def test_the_image_is_seen(engine: VLLMEngine, picture: bytes) -> None:
    with_image, with_two, without = [await engine.generate(ask(1, *[picture] * n)) for n in (1, 2, 0)]
    patches = with_image.prompt_tokens - without.prompt_tokens
    assert patches > 1
    assert with_two.prompt_tokens - with_image.prompt_tokens == patches


async def test_pictures_are_told_apart(engine: VLLMEngine) -> None:
    puzzles = [puzzle for puzzle in (world.draw(5, index) for index in range(200)) if puzzle.kind == "count"]
    few, many = (
        next(puzzle for puzzle in puzzles if puzzle.about == ("shape",) and puzzle.answer == answer)
        for answer in ("1", "5")
    )
    for puzzle in (few, many, few):
        text = "How many shapes are there?"
        asked = [ask(seed, world.picture(puzzle.things), text=text) for seed in range(20)]
        responses = await asyncio.gather(*map(engine.generate, asked))
        right = sum(f"\\boxed{{{puzzle.answer}}}" in response.text for response in responses)
        assert right > 10, f"{puzzle.answer} shapes, seen by {right} of 20"


async def test_a_bad_request_disturbs_no_other(engine: VLLMEngine, picture: bytes) -> None:
    requests = bad_among_good(ask, picture)
    found = await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)
    assert isinstance(found[0], Response)
    assert isinstance(found[6], Response)
    reasons = [str(error) for error in found[1:6] if isinstance(error, PromptRefused)]
    words = ["maximum context length", "too many images: 3", "not an image file", "truncated", "ratio"]
    assert [word in reason for word, reason in zip(words, reasons, strict=True)] == [True] * 5
    assert (await engine.generate(ask(0, picture))).text == found[0].text


async def test_the_stop_string_ends_the_response_and_stays(engine: VLLMEngine, picture: bytes) -> None:
    responses = await asyncio.gather(*(engine.generate(ask(seed, picture)) for seed in range(30)))
    stopped = [response for response in responses if "</answer>" in response.text]
    assert len(stopped) > 10
    assert {response.text.count("</answer>") for response in stopped} == {1}
    assert all(response.text.endswith("</answer>") and response.finish_reason == "stop" for response in stopped)


async def test_responses_come_as_they_finish(engine: VLLMEngine, picture: bytes) -> None:
    tasks = [asyncio.create_task(engine.generate(ask(seed, picture))) for seed in range(60)]
    first, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert others, "no response waits for the longest"
    longest = max(response.completion_tokens for response in await asyncio.gather(*tasks))
    assert max(task.result().completion_tokens for task in first) < longest


async def test_a_cancelled_request_is_given_up(engine: VLLMEngine) -> None:
    task = asyncio.create_task(engine.generate(ask(9)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await engine.generate(ask(1))).completion_tokens > 0


@pytest.mark.parametrize("missing", ["no/such/model/here", "/no/such/folder"])
async def test_a_checkpoint_that_is_not_there(missing: str) -> None:
    with pytest.raises(UserError, match="vLLM cannot start"):
        VLLMEngine(missing, SAMPLING, **CPU)


KILLED = """
import asyncio, os, signal, sys
import psutil
from specs_data.engines.vllm import VLLMEngine
from specs_data.errors import EngineFailed
from specs_data.records import Message, Request, Sampling

async def main():
    engine = VLLMEngine(sys.argv[1], Sampling(max_tokens=400), max_model_len=512, dtype="float32", enforce_eager=True)

    async def forever(seed):
        while True:
            await engine.generate(Request((Message("user", "How many?"),), (), seed))

    running = asyncio.gather(*map(forever, range(64)), return_exceptions=True)
    await asyncio.sleep(0.5)
    for child in psutil.Process().children(recursive=True):
        child.send_signal(signal.SIGKILL)
    found = await asyncio.wait_for(running, 60)
    print("failed", sum(isinstance(each, EngineFailed) for each in found), file=sys.stderr)
    try:
        await engine.generate(Request((Message("user", "How many?"),), (), 1))
    except EngineFailed:
        print("stays failed", file=sys.stderr)
    await asyncio.wait_for(engine.close(), 30)
    print("closed", file=sys.stderr)
    os._exit(0)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_the_death_of_the_engine_process_is_noticed(checkpoint: str, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(script), checkpoint],
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "stays failed" in run.stderr, run.stderr[-3000:]
    assert "failed 64" in run.stderr
    assert "closed" in run.stderr
