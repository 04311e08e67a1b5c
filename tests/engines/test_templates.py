"""What is learned of chat templates in the shapes in which models are published."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from specs_data.engines.checkpoint import load_processor
from specs_data.engines.templates import Template, fold, learn, tell
from specs_data.mini import checkpoint
from specs_data.records import Message, Request
from specs_data.texts import in_blocks

TEMPLATES = Path(__file__).parents[1] / "cases" / "templates"
ASKED = (Message("system", "Be brief."), Message("user", "Picture A: <image>\nPicture B: <image>\nWhich one?"))
TEXT_ONLY = Template(parts=False)
# What a template is like, and what it writes for a picture.
WAYS = {
    "deepseek-r1-distill": (Template(opened="<think>\n"), ""),
    "gemma2": (Template(system=False), ""),
    "gemma3": (Template(parts=True), "<start_of_image>"),
    "idefics3": (Template(parts=True), "<image>"),
    "internvl3": (Template(parts=True), "<IMG_CONTEXT>"),
    "llama-3.2-vision": (Template(system=False, parts=True), "<|image|>"),
    "llava-onevision": (Template(parts=True, among=False), "<image>"),
    "mistral": (Template(system=False), ""),
    "phi-4-mm": (TEXT_ONLY, ""),
    "qwen2.5-vl": (Template(parts=True), "<|image_pad|>"),
    "qwen3-vl-thinking": (Template(parts=True, opened="<think>\n"), "<|image_pad|>"),
}
Render = Callable[[list[dict[str, Any]]], str]


def test_every_shape_is_tried() -> None:
    assert {file.stem for file in TEMPLATES.glob("*.jinja")} == WAYS.keys()


@pytest.fixture(scope="module")
def apply() -> Callable[..., str]:
    processor: Any = load_processor(checkpoint("base"))
    return partial(processor.tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)


@pytest.fixture(params=WAYS)
def shape(request: pytest.FixtureRequest, apply: Callable[..., str]) -> tuple[str, Render]:
    """Its name, and what renders a chat with it."""
    text = (TEMPLATES / f"{request.param}.jinja").read_text().rstrip("\n")
    return request.param, lambda chat: apply(chat, chat_template=text)


def test_its_ways_are_learned(shape: tuple[str, Render]) -> None:
    name, render = shape
    assert learn(render, name, parts=True) == WAYS[name][0]


def test_a_chat_in_its_way_says_everything_in_its_order(shape: tuple[str, Render]) -> None:
    name, render = shape
    way, mark = WAYS[name]
    messages = ASKED if way.system else fold(Request(ASKED, (), 0)).messages
    if way.parts and way.among:
        prompt = render(in_blocks(messages, 2))
    else:  # with the token of a picture in the text
        texts = [message.content for message in messages]
        content = [[{"type": "text", "text": text}] if way.parts else text for text in texts]
        prompt = render([{"role": each.role, "content": said} for each, said in zip(messages, content, strict=True)])
    said = ["Be brief.", "Picture A:", mark or "<image>", "Picture B:", mark or "<image>", "Which one?"]
    start = 0
    for word in said:
        start = prompt.index(word, start) + len(word)
    assert "'type'" not in prompt and prompt.endswith(way.opened)


def test_pictures_that_a_template_moves_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tell(Template(parts=True, among=False), "llava", mended=True)
        assert not caplog.text
        tell(Template(parts=True, among=False), "llava")
    assert "llava puts every picture before the text" in caplog.text
