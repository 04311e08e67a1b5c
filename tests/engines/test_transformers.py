"""The transformers engine, on the shipped miniature checkpoints."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.nucleus import nucleus_by_hand
from lessons import question
from model import CHAT_TEMPLATE
from msgspec.structs import replace
from PIL import Image
from transformers import Qwen2Config, Qwen2ForCausalLM

from specs_data.engines import ModelOptions
from specs_data.engines.checkpoint import load_model, load_processor
from specs_data.engines.images import open_image
from specs_data.engines.transformers import TransformersEngine, _blocks, _Job, _placeholders
from specs_data.errors import EngineFailed, PromptRefused, UserError
from specs_data.format import THINK_ANSWER
from specs_data.mini import checkpoint
from specs_data.mini.world import draw, picture
from specs_data.records import Message, Nuclei, Request, Response, Sampling

GREEDY = Sampling(temperature=0, max_tokens=48)
SAMPLING = Sampling(temperature=1.0, max_tokens=48)


def ask(index: int, seed: int | None = None) -> Request:
    puzzle = draw(3, index)
    return Request(question(puzzle, THINK_ANSWER), (picture(puzzle.things),), index if seed is None else seed)


async def sample(engine: TransformersEngine, *requests: Request) -> list[Response]:
    return list(await asyncio.gather(*map(engine.generate, requests)))


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    engine = TransformersEngine(checkpoint("grpo-zero"), SAMPLING, ModelOptions(batch_size=8, limit_images=2))
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def greedy() -> Iterator[TransformersEngine]:
    engine = TransformersEngine(checkpoint("grpo-zero"), GREEDY, ModelOptions(batch_size=8))
    yield engine
    asyncio.run(engine.close())


async def test_a_sample_depends_on_its_seed_and_not_on_its_company(engine: TransformersEngine) -> None:
    requests = [ask(index) for index in range(20)]
    together = await sample(engine, *requests)
    backwards = await sample(engine, *reversed(requests))
    alone = await sample(engine, requests[7])
    assert together == backwards[::-1]
    assert alone == [together[7]]


async def test_seeds_give_different_samples(engine: TransformersEngine) -> None:
    texts = {response.text for response in await sample(engine, *(ask(0, seed) for seed in range(16)))}
    assert len(texts) > 1


async def test_padding_on_the_left_changes_nothing(greedy: TransformersEngine) -> None:
    short, long = ask(0), ask(1)
    long = Request((long.messages[0], Message("user", long.messages[1].content + " Please." * 40)), long.images, 0)
    assert (await sample(greedy, short))[0] == (await sample(greedy, short, long))[0]


async def test_images_matter(greedy: TransformersEngine) -> None:
    puzzles = [puzzle for puzzle in (draw(3, index) for index in range(400)) if puzzle.kind == "most"][:16]
    same_question = puzzles[0].question
    seen = [Request((Message("user", same_question),), (picture(p.things),), 0) for p in puzzles]
    texts = {response.text for response in await sample(greedy, *seen)}
    assert len(texts) > 4


async def test_responses_end_by_themselves_without_special_tokens(engine: TransformersEngine) -> None:
    response = (await sample(engine, ask(0)))[0]
    assert response.finish_reason == "stop"
    assert "<|" not in response.text
    tokenizer: Any = load_processor(checkpoint("grpo-zero"))
    tokenizer = tokenizer.tokenizer
    assert response.completion_tokens == len(tokenizer(response.text)["input_ids"]) + 1  # and its ending
    assert response.prompt_tokens > len(tokenizer(ask(0).messages[0].content)["input_ids"])


async def test_a_stop_string_ends_a_response_and_stays_in_it() -> None:
    engine = TransformersEngine(
        checkpoint("grpo-zero"),
        Sampling(temperature=0, max_tokens=48, stop=("</think>", "never")),
        ModelOptions(batch_size=4),
    )
    plain = TransformersEngine(checkpoint("grpo-zero"), GREEDY, ModelOptions(batch_size=4))
    stopped, whole = await sample(engine, *map(ask, range(4))), await sample(plain, *map(ask, range(4)))
    await engine.close()
    await plain.close()
    assert any("</think>" in response.text for response in whole)
    for cut, full in zip(stopped, whole, strict=True):
        head, found, _ = full.text.partition("</think>")
        assert (cut.text, cut.finish_reason) == (head + found, "stop")
        assert not found or cut.completion_tokens < full.completion_tokens


async def test_a_response_cut_off_says_so() -> None:
    engine = TransformersEngine(checkpoint("grpo-zero"), Sampling(max_tokens=3), ModelOptions(batch_size=4))
    response = (await sample(engine, ask(0)))[0]
    await engine.close()
    assert (response.finish_reason, response.completion_tokens) == ("length", 3)


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (Request(ask(0).messages, (b"no image",), 0), "an image cannot be read"),
        (Request(ask(0).messages, (picture(()),) * 3, 0), "too many images: 3, and the limit is 2"),
        (Request((Message("user", "7 " * 1200),), ask(0).images, 0), "prompt too long: "),
        (Request((Message("user", "<|image_pad|>"),), ask(0).images, 0), "the engine cannot serve it: "),
    ],
    ids=["broken image", "too many images", "too long", "a placeholder in the text"],
)
async def test_a_refused_prompt_leaves_the_others_unharmed(
    engine: TransformersEngine, spoilt: Request, reason: str
) -> None:
    requests = [ask(1), ask(2), spoilt, ask(3)]
    found = await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)
    assert isinstance(found[2], PromptRefused) and reason in str(found[2])
    assert [found[0], found[1], found[3]] == await sample(engine, ask(1), ask(2), ask(3))


async def test_problems_with_and_without_images_go_together(engine: TransformersEngine) -> None:
    text_only = Request(ask(0).messages, (), 5)
    two = Request(ask(0).messages, ask(0).images * 2, 5)
    mixed = await sample(engine, text_only, ask(1), two, text_only)
    assert mixed[0] == mixed[3]
    assert mixed[2].prompt_tokens > mixed[0].prompt_tokens


async def test_top_p_near_zero_is_greedy(greedy: TransformersEngine) -> None:
    narrowing = Sampling(top_p=1e-6, max_tokens=48)
    engine = TransformersEngine(checkpoint("grpo-zero"), narrowing, ModelOptions(batch_size=8))
    narrow = await sample(engine, *map(ask, range(8)))
    await engine.close()
    assert narrow == await sample(greedy, *map(ask, range(8)))


async def test_samples_follow_the_models_own_chances() -> None:
    """The first token, drawn with many seeds, comes up as often as the model's softmax says."""
    engine = TransformersEngine(checkpoint("base"), Sampling(max_tokens=1), ModelOptions(batch_size=64))
    drawn = await sample(engine, *(ask(0, seed) for seed in range(320)))
    await engine.close()
    processor: Any = load_processor(checkpoint("base"))
    image = Image.open(io.BytesIO(ask(0).images[0]))
    chat = [{"role": message.role, "content": message.content} for message in ask(0).messages]
    chat[1]["content"] = [{"type": "image"}, {"type": "text", "text": chat[1]["content"]}]  # type: ignore[assignment]
    prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    model: Any = load_model(checkpoint("base"), device="cpu")
    with torch.inference_mode():
        chances = model(**processor(text=[prompt], images=[image], return_tensors="pt")).logits[0, -1].softmax(-1)
    for token in chances.topk(2).indices.tolist():
        share = sum(response.text == processor.tokenizer.decode([token]) for response in drawn) / len(drawn)
        assert share == pytest.approx(float(chances[token]), abs=0.09)


def text_model(folder: Path) -> Path:
    """An untrained language model that takes no images."""
    tokenizer: Any = load_processor(checkpoint("base"))
    tokenizer = tokenizer.tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


async def test_a_model_without_eyes_serves_text_and_refuses_images(tmp_path: Path) -> None:
    engine = TransformersEngine(text_model(tmp_path), Sampling(max_tokens=8), ModelOptions(batch_size=4))
    text = Request(ask(0).messages, (), 3)
    found = await asyncio.gather(*map(engine.generate, [text, ask(0), text]), return_exceptions=True)
    await engine.close()
    assert isinstance(found[1], PromptRefused) and "takes no images" in str(found[1])
    assert isinstance(found[0], Response) and found[0] == found[2]
    assert 0 < found[0].completion_tokens <= 8


async def test_cancelled_requests_cost_nothing_and_harm_no_one(engine: TransformersEngine) -> None:
    tasks = [asyncio.ensure_future(engine.generate(ask(index))) for index in range(12)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in found[::2])
    assert found[1::2] == await sample(engine, *(ask(index) for index in range(1, 12, 2)))


async def test_closing_ends_the_running_batch_and_gives_no_cut_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(text_model(tmp_path), Sampling(max_tokens=3000), ModelOptions(batch_size=1))
    started, steps, closing = threading.Event(), 0, engine._closing

    def held(*arguments: Any, **options: Any) -> Any:
        """Hold the first token until the engine is closed."""
        nonlocal steps
        steps += 1
        started.set()
        while not engine._closed:
            time.sleep(0.001)
        return closing(*arguments, **options)

    monkeypatch.setattr(engine, "_closing", held)
    running = asyncio.create_task(engine.generate(Request(ask(0).messages, (), 3)))
    await asyncio.to_thread(started.wait)
    await engine.close()
    with pytest.raises(EngineFailed, match="was closed"):
        await running
    assert steps == 1


async def test_a_closed_engine_refuses(tmp_path: Path) -> None:
    engine = TransformersEngine(checkpoint("base"), SAMPLING)
    await engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        await engine.generate(ask(0))


def test_a_checkpoint_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the checkpoint"):
        TransformersEngine(tmp_path / "missing", SAMPLING)
    with pytest.raises(UserError, match="bfloat16, float16, float32"):
        TransformersEngine(checkpoint("base"), SAMPLING, ModelOptions(dtype="int3"))


def test_what_is_saved_without_torchvision_still_names_the_video_processor(tmp_path: Path) -> None:
    processor: Any = load_processor(checkpoint("base"), max_pixels=6272)
    assert processor.image_processor.size["longest_edge"] == 6272
    processor.save_pretrained(tmp_path)
    assert "Qwen2VLVideoProcessor" in (tmp_path / "processor_config.json").read_text()


async def test_nuclei_are_counted_at_each_token_and_change_no_sample(engine: TransformersEngine) -> None:
    wanted = [replace(ask(index), nuclei=index % 2 == 0) for index in range(12)]
    found = await sample(engine, *wanted)
    assert [response.nuclei is not None for response in found] == [request.nuclei for request in wanted]
    plain = await sample(engine, *(ask(index) for index in range(12)))
    assert [replace(response, nuclei=None) for response in found] == plain
    for response in found[::2]:
        assert response.nuclei is not None and response.nuclei.beyond == 0
        assert response.nuclei.tokens == response.completion_tokens > 0
        assert response.nuclei.sizes >= response.nuclei.tokens


async def test_the_nuclei_are_those_of_the_models_own_distributions(engine: TransformersEngine) -> None:
    """The text of a response is fed back, and the distribution at each token looked at."""
    (response,) = await sample(engine, replace(ask(0), nuclei=True))
    processor, model = load_processor(checkpoint("grpo-zero")), load_model(checkpoint("grpo-zero"))
    request, tokenizer = ask(0), processor.tokenizer
    job = _Job(request, tuple(map(open_image, request.images)), Future())
    prompt = processor.apply_chat_template([_blocks(job)], tokenize=False, add_generation_prompt=True)
    images = {"images": [list(job.images)], "add_special_tokens": False, "return_tensors": "pt"}
    asked = processor(text=prompt, **images)["input_ids"].shape[1]
    inputs = processor(text=[prompt[0] + response.text + tokenizer.eos_token], **images)
    with torch.inference_mode():
        logits = model(**inputs).logits[0, asked - 1 : -1].double()
    allowed = logits.index_fill(1, torch.tensor(_placeholders(model.config)), -float("inf")).tolist()
    sizes = [nucleus_by_hand(row, 0.95) for row in allowed]
    assert response.nuclei == Nuclei(0.95, len(sizes), sum(sizes))


async def test_a_greedy_policy_does_not_branch(greedy: TransformersEngine) -> None:
    (response,) = await sample(greedy, replace(ask(0), nuclei=True))
    assert response.nuclei is not None and response.nuclei.sizes == response.nuclei.tokens
