"""Where chat templates of published checkpoints differ: found out once, when a model is opened.

Some open `<think>` at the end of the prompt themselves, so that the model only goes on; some know no system role and
raise, or leave its text out; some take a message's content as text only and would print a list of parts as Python.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from specs_data.errors import UserError, first_line
from specs_data.records import Message, Request

logger = logging.getLogger(__name__)

_PROBE = "Mnemosyne 4711"
_OPENED = re.compile(r"<(?:think(?:ing)?|thought|reason(?:ing)?)>\s*\Z")


class Template(Struct, frozen=True):
    """What a chat template does: it takes a `system` message, or content in `parts`; `opened` is what it writes itself
    at the beginning of a response."""

    system: bool = True
    parts: bool = False
    opened: str = ""


def opened(prompt: str) -> str:
    """What a prompt has of the response already: a thought that is open at its end."""
    found = _OPENED.search(prompt)
    return found[0] if found else ""


def learn(render: Callable[[list[dict[str, Any]]], str], checkpoint: object, *, parts: bool) -> Template:
    """The ways of the template behind `render` (a chat, as a prompt). `parts`: a processor's, which may take parts.
    Raises UserError where it takes no chat at all."""
    asked = {"role": "user", "content": _PROBE}
    in_parts = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
    if parts:
        prompt = _tried(render, [in_parts])
        parts = prompt is not None and _PROBE in prompt and "'type'" not in prompt and '"type"' not in prompt
    try:
        prompt = render([in_parts if parts else asked])
    except Exception as error:  # a template may raise whatever it likes
        raise UserError(f"{checkpoint} cannot be chatted with: {first_line(error)}") from None
    words = "Answer briefly."
    content = [{"type": "text", "text": words}] if parts else words
    system = words in (_tried(render, [{"role": "system", "content": content}, in_parts if parts else asked]) or "")
    return Template(system, parts, opened(prompt))


def tell(template: Template, checkpoint: object) -> None:
    """Say once what is done differently for a template."""
    if not template.system:
        logger.warning(
            "the chat template of %s takes no system message: the instruction goes into the user's turn", checkpoint
        )


def fold(request: Request) -> Request:
    """`request` with its system message at the beginning of the user's turn."""
    first, *rest = request.messages
    if first.role != "system" or not rest:
        return request
    asked = Message(rest[0].role, f"{first.content}\n\n{rest[0].content}")
    return replace(request, messages=(asked, *rest[1:]))


def _tried(render: Callable[[list[dict[str, Any]]], str], chat: list[dict[str, Any]]) -> str | None:
    try:
        return render(chat)
    except Exception:  # see above
        return None
