"""Checkpoints as they are published: what differs in their small files must not change how a policy is sampled."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from specs_data.engines import ModelOptions
from specs_data.engines.checkpoint import load_model, load_processor
from specs_data.engines.templates import fold, opened
from specs_data.engines.transformers import TransformersEngine
from specs_data.errors import UserError
from specs_data.mini import checkpoint
from specs_data.mini.world import draw, picture
from specs_data.records import Message, Request, Response, Sampling

SEED = 5
PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_S_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
)
DEAF = PLAIN.replace("{% for message in messages %}", "{% for message in messages if message['role'] != 'system' %}")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model that is not sharp: every setting of sampling shows."""
    folder = tmp_path_factory.mktemp("plain")
    processor: Any = load_processor(checkpoint("grpo-zero"))
    tokenizer = processor.tokenizer
    tokenizer.chat_template = PLAIN
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(plain, tmp_path / "checkpoint"))


def change(file: Path, **changes: Any) -> None:
    settings = json.loads(file.read_text()) if file.exists() else {}
    settings = {name: value for name, value in (settings | changes).items() if value is not None}
    file.write_text(json.dumps(settings))


def template(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_text(text)


def ask(question: str = "How many?", system: str | None = "Think first.") -> Request:
    messages = (
        (Message("user", question),) if system is None else (Message("system", system), Message("user", question))
    )
    return Request(messages, (), SEED)


async def sample(folder: Path, *requests: Request, **sampling: Any) -> list[Response]:
    engine = TransformersEngine(folder, Sampling(**{"max_tokens": 24, **sampling}), ModelOptions(batch_size=4))
    try:
        return [await engine.generate(request) for request in requests or (ask(),)]
    finally:
        await engine.close()


async def prompt_of(folder: Path, request: Request, **sampling: Any) -> str:
    """What the model reads."""
    engine = TransformersEngine(folder, Sampling(max_tokens=1, **sampling), ModelOptions(batch_size=4))
    seen: list[Any] = []
    encode = engine._encode
    engine._encode = lambda jobs: seen.append(encode(jobs)) or seen[0]  # type: ignore[method-assign,func-returns-value]
    try:
        await engine.generate(request)
        return str(engine._tokenizer.decode(seen[0]["input_ids"][0]))
    finally:
        await engine.close()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_generation_config_does_not_reach_sampling(folder: Path, temperature: float) -> None:
    wanted = await sample(folder, temperature=temperature)
    change(
        folder / "generation_config.json",
        repetition_penalty=5.0, top_k=2, top_p=0.1, do_sample=True, temperature=0.01, no_repeat_ngram_size=1,
        max_new_tokens=3, min_new_tokens=2,
    )  # fmt: skip
    assert await sample(folder, temperature=temperature) == wanted


async def test_a_tokenizer_without_a_pad_token_works(folder: Path) -> None:
    wanted = await sample(folder, temperature=0.0)
    change(folder / "tokenizer_config.json", pad_token=None)
    change(folder / "special_tokens_map.json", pad_token=None)
    assert await sample(folder, temperature=0.0) == wanted


@pytest.mark.parametrize("tail", ["<think>\n", "<think>", "<thinking>\n\n"])
async def test_what_a_template_opens_belongs_to_the_response(folder: Path, tail: str) -> None:
    template(folder, PLAIN.replace("assistant\n{% endif", f"assistant\n{tail}{{% endif"))
    (response,) = await sample(folder)
    assert response.text.startswith(tail.removesuffix("\n\n").removesuffix("\n"))


def test_only_an_open_thought_is_opened() -> None:
    assert opened("<|im_start|>assistant\n<think>\n") == "<think>\n"
    for prompt in ("<|im_start|>assistant\n", "<think>\n\n</think>\n\n", "<think> first", "<assistant>\n", ""):
        assert opened(prompt) == ""


@pytest.mark.parametrize("text", [NO_SYSTEM, DEAF], ids=["raises", "leaves out"])
async def test_a_template_without_a_system_role_has_the_instruction_in_the_users_turn(
    folder: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    template(folder, text)
    with caplog.at_level(logging.WARNING):
        prompt = await prompt_of(folder, ask())
    assert prompt.count("Think first.\n\nHow many?") == 1
    assert caplog.text.count("takes no system message") == 1


def test_folding_leaves_other_requests_alone() -> None:
    assert fold(ask(system=None)) == ask(system=None)


async def test_a_template_that_takes_text_never_shows_a_list(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("grpo-zero"), tmp_path / "checkpoint"))
    for file in ("chat_template.json", "chat_template.jinja"):
        (folder / file).unlink(missing_ok=True)
    change(folder / "tokenizer_config.json", chat_template=None)
    template(folder, PLAIN)
    puzzle = draw(3, 0)
    picture_twice = (picture(puzzle.things),) * 2  # beside each other: where one ends and the other begins must show
    request = Request((Message("system", "Look."), Message("user", "How many?")), picture_twice, 0)
    prompt = await prompt_of(folder, request)
    assert "'type'" not in prompt and "[{" not in prompt
    assert "How many?" in prompt and "Look." in prompt


async def test_a_template_that_puts_pictures_first_leaves_them_in_their_places(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("grpo-zero"), tmp_path / "checkpoint"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    shape = Path(__file__).parents[1] / "cases" / "templates" / "llava-onevision.jinja"
    template(folder, shape.read_text().replace("<image>", QWEN_S_PICTURE))
    images = tuple(picture(draw(3, index).things) for index in range(2))
    for question, order in (("A: <image> B: <image> Which?", "A:P B:P Which?"), ("<image><image>Which?", "PP\nWhich?")):
        prompt = await prompt_of(folder, Request((Message("user", question),), images, 0))
        shown = re.sub(r" ?<\|vision_start\|>(?:<\|image_pad\|>){6}<\|vision_end\|>", "P", prompt)
        assert shown.partition("<|im_start|>user")[2].strip().startswith(order), shown


async def test_first_words_take_the_place_of_those_of_a_template(folder: Path) -> None:
    template(folder, PLAIN.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"))
    request = replace(ask(), prefill="<think>\nLet me")
    assert (await prompt_of(folder, request)).endswith("assistant\n<think>\nLet me")
    (response,) = await sample(folder, request)
    assert not response.text.startswith("<think>")  # they are not repeated


async def test_a_checkpoint_without_a_template_says_so(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="cannot be chatted with"):
        await sample(folder)


def shards(folder: Path) -> tuple[Path, Path]:
    """The folder's weights in two files."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    files = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    split = names[: len(names) // 2], names[len(names) // 2 :]
    for file, part in zip(files, split, strict=True):
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: f for f, part in zip(files, split, strict=True) for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / files[0], folder / files[1]


async def test_shards_are_one_checkpoint(folder: Path) -> None:
    wanted = await sample(folder, temperature=0.0)
    shards(folder)
    assert await sample(folder, temperature=0.0) == wanted


def test_a_checkpoint_that_is_not_whole_is_one_sentence(folder: Path) -> None:
    _, second = shards(folder)
    content = second.read_bytes()
    second.write_bytes(content[:-100])
    with pytest.raises(UserError, match=rf"not whole: {second.name} is torn"):
        load_model(folder)
    second.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(UserError, match=rf"not whole: {second.name} is torn"):
        load_model(folder)
    second.unlink()
    with pytest.raises(UserError, match=rf"not whole: {second.name} is missing \(1 of 2"):
        load_model(folder)


@pytest.mark.parametrize("patch", ["dropped", "renamed", "reshaped"])
def test_weights_that_are_missing_are_not_made_up(folder: Path, patch: str) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weight = weights.pop(name)
    weights |= {"renamed": {"model.layers.1.mlp.up.weight": weight}, "reshaped": {name: weight[:-1]}}.get(patch, {})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"(not whole: it lacks model.layers.1.mlp|cannot load the checkpoint)"
    ) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft's own
def test_an_adapter_is_a_policy(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    adapted = get_peft_model(
        load_model(folder, device="cpu"), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    adapted.save_pretrained(tmp_path / "adapter")
    before, after = (asyncio.run(sample(each, temperature=0.0)) for each in (folder, tmp_path / "adapter"))
    assert before != after
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    for file in folder.glob("*token*"):
        shutil.copy(file, tmp_path / "merged")
    shutil.copy(folder / "chat_template.jinja", tmp_path / "merged")
    assert asyncio.run(sample(tmp_path / "merged", temperature=0.0)) == after


def test_an_adapter_without_a_base_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    with pytest.raises(UserError, match="does not name its base"):
        load_model(tmp_path)


async def test_a_folder_as_published_by_qwen2_5_vl_loads(tmp_path: Path) -> None:
    """Sharded weights, the picture processor's settings alone, and the template in a file of its own kind."""
    folder = Path(shutil.copytree(checkpoint("grpo-zero"), tmp_path / "checkpoint"))
    puzzle = draw(3, 0)
    request = Request((Message("user", "How many?"),), (picture(puzzle.things),), 0)
    wanted = await sample(folder, request, temperature=0.0)
    processor: Any = load_processor(folder)
    text = processor.chat_template or processor.tokenizer.chat_template
    for file in ("chat_template.jinja", "processor_config.json", "video_preprocessor_config.json"):
        (folder / file).unlink(missing_ok=True)
    change(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": text}))
    kind = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": type(processor).__name__}
    images = json.loads(processor.image_processor.to_json_string())
    (folder / "preprocessor_config.json").write_text(json.dumps(images | kind))
    change(folder / "generation_config.json", repetition_penalty=1.05, top_k=1, do_sample=True, temperature=0.000001)
    shards(folder)
    assert await sample(folder, request, temperature=0.0) == wanted
