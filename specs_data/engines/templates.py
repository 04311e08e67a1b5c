"""Where chat templates of published checkpoints differ: found out once, when a model is opened.

Some open `<think>` at the end of the prompt themselves, so that the model only goes on; some know no system role and
raise, or leave its text out, and some none beside a picture (Llama 3.2); some take a message's content as text only and
would print a list of parts as Python; some put all pictures before the text (LLaVA-OneVision).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from specs_data.errors import UserError, first_line
from specs_data.records import Message, Request

logger = logging.getLogger(__name__)

_Render = Callable[[list[dict[str, Any]]], str]
_PROBE, _WORDS = "Mnemosyne 4711", "Answer briefly."
_PICTURE = {"type": "image"}
_OPENED = re.compile(r"<(?:think(?:ing)?|thought|reason(?:ing)?)>\s*\Z")


class Template(Struct, frozen=True):
    """What a chat template does: it takes a `system` message, or content in `parts`, and leaves pictures `among` its
    words; `opened` is what it writes itself at the beginning of a response."""

    system: bool = True
    parts: bool = False
    opened: str = ""
    among: bool = True


def opened(prompt: str) -> str:
    """What a prompt has of the response already: a thought that is open at its end."""
    found = _OPENED.search(prompt)
    return found[0] if found else ""


def learn(render: _Render, checkpoint: object, *, parts: bool) -> Template:
    """The ways of the template behind `render` (a chat, as a prompt). `parts`: a processor's, which may take parts.
    Raises UserError where it takes no chat at all."""
    asked = {"role": "user", "content": _PROBE}
    in_parts = {"role": "user", "content": [_text(_PROBE)]}
    if parts:
        prompt = _tried(render, [in_parts])
        parts = prompt is not None and _PROBE in prompt and "'type'" not in prompt and '"type"' not in prompt
    try:
        prompt = render([in_parts if parts else asked])
    except Exception as error:  # a template may raise whatever it likes
        raise UserError(f"{checkpoint} cannot be chatted with: {first_line(error)}") from None
    if not parts:
        return Template(_takes_system(render, _WORDS, asked), parts, opened(prompt))
    seeing = {"role": "user", "content": [*in_parts["content"], _PICTURE, _text(_WORDS)]}
    sees = _tried(render, [seeing]) is not None
    system = all(_takes_system(render, [_text("Look.")], each) for each in (in_parts, *([seeing] if sees else ())))
    return Template(system, parts, opened(prompt), not sees or _keeps_place(render, seeing))


def template_of(processor: Any, checkpoint: object, *, parts: bool | None = None) -> Template:
    """The ways of the template of a processor, or of a tokenizer, which takes no `parts` unless it is said to. Raises
    UserError where it takes no chat at all."""

    def render(chat: list[dict[str, Any]]) -> str:
        return str(processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

    return learn(render, checkpoint, parts=hasattr(processor, "tokenizer") if parts is None else parts)


def tell(template: Template, checkpoint: object, *, mended: bool = False) -> None:
    """Say once what is done differently for a template. `mended`: pictures are put among the words all the same."""
    if not template.system:
        logger.warning(
            "the chat template of %s takes no system message: the instruction goes into the user's turn", checkpoint
        )
    if not template.among and not mended:
        logger.warning("the chat template of %s puts every picture before the text, wherever it stands", checkpoint)


def fold(request: Request) -> Request:
    """`request` with its system message at the beginning of the user's turn."""
    return replace(request, messages=folded(request.messages))


def folded(messages: Sequence[Message]) -> tuple[Message, ...]:
    """`messages` with a system message at the beginning of the user's turn."""
    first, *rest = messages
    if first.role != "system" or not rest:
        return tuple(messages)
    return (Message(rest[0].role, f"{first.content}\n\n{rest[0].content}"), *rest[1:])


def _takes_system(render: _Render, content: Any, asked: dict[str, Any]) -> bool:
    said = content if isinstance(content, str) else content[0]["text"]
    return said in (_tried(render, [{"role": "system", "content": content}, asked]) or "")


def _keeps_place(render: _Render, seeing: dict[str, Any]) -> bool:
    """Does anything stand where the picture is?"""
    blind = seeing | {"content": [part for part in seeing["content"] if part != _PICTURE]}
    between = [(_tried(render, [each]) or "").partition(_PROBE)[2].partition(_WORDS)[0] for each in (seeing, blind)]
    return between[0] != between[1]


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _tried(render: _Render, chat: list[dict[str, Any]]) -> str | None:
    try:
        return render(chat)
    except Exception:  # see above
        return None
