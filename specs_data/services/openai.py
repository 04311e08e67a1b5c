"""Any server that speaks OpenAI's chat completions: a local vLLM server, or a hosted model.

The key is OPENAI_API_KEY, if set. Options that a server refuses by name are left out from then on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NoReturn

import aiohttp
from pybase64 import b64encode
from yarl import URL

from specs_data import wire
from specs_data.errors import UserError
from specs_data.services import Failed, Question, Reply, image_type, json_schema, no_answer, tokens, turned_down
from specs_data.wire import Answer, Key, Meaning

HOSTED = "https://api.openai.com/v1"
MAX_TOKENS = 4096
LONGEST_WORDS = 2_000  # characters of one string in a form

# How a server's complaint about an option may name it.
_SCHEMA = ("json_schema", "json schema", "json_object", "structured output", "guided", "maxlength")
_NAMES = {
    "response_format": ("response_format", *_SCHEMA),
    "temperature": ("temperature",),
    "max_completion_tokens": ("max_completion_tokens",),
}


class OpenAIClient:
    """A model behind an OpenAI-compatible server at `base_url` (http://host:port or .../v1). `role` (verifier,
    judge) is whose settings errors speak of."""

    service = "openai"

    def __init__(
        self, model: str, base_url: str | None = None, role: str = "verifier", max_tokens: int = MAX_TOKENS
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self._role = role
        self._key = wire.read_key(wire.OPENAI_KEY)
        self._url = _root(base_url, self._key, role) / "chat" / "completions"
        self._left_out: set[str] = set()

    @property
    def account(self) -> tuple[str, str | None]:
        """The server's URL and the key."""
        return str(self._url), self._key.text

    @property
    def options(self) -> Mapping[str, str]:
        """What else determines an answer."""
        return {"max_tokens": str(self.max_tokens), "temperature": "0"}

    async def ask(self, question: Question[Any]) -> Reply:
        """One attempt. Raises Failed, and UserError where no attempt can succeed."""
        while True:
            left_out = set(self._left_out)
            data = json.dumps(self._payload(question, left_out)).encode()
            try:
                answer = wire.told(await wire.ask(self._session, self._url, data))
            except wire.NoAnswer as none:
                raise no_answer(none, self._key) from None
            if answer.means is Meaning.DONE:
                return _read(answer.content)
            refused = _refused_option(answer, left_out) - left_out
            if not refused:
                self._raise(answer)
            self._left_out |= refused

    async def close(self) -> None:
        """Release connections."""
        if "_session" in vars(self):
            await self._session.close()

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        # No limits here: the caller decides how many calls are in flight and how long they may take.
        return wire.session({"Content-Type": "application/json", **self._key.bearer}, proxies=True)

    def _payload(self, question: Question[Any], left_out: set[str]) -> dict[str, Any]:
        images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in question.images]
        content = [
            {"type": "text", "text": piece} if isinstance(piece, str) else images[piece] for piece in question.asked
        ]
        most = question.most(self.max_tokens)
        options = {
            "response_format": _response_format(question, left_out),
            "temperature": question.warmth,
            "max_completion_tokens": most,
        }
        if "max_completion_tokens" in left_out:
            options["max_tokens"] = most
        return {
            "model": self.model,
            "messages": [
                {"role": "system", "content": question.rubric},
                {"role": "user", "content": content},
            ],
            **{name: value for name, value in options.items() if name not in left_out},
        }

    def _raise(self, answer: Answer) -> NoReturn:
        said = self._key.hide(wire.said_in(answer.content))
        means = answer.means
        told = {"flags": f"--{self._role}-model and --{self._role}-base-url", "key": wire.OPENAI_KEY}
        fault = wire.mistake(means, self._url.host or "", f"{answer.status}: {said}", model=self.model, **told)
        raise fault or turned_down(means, said, wire.asked_wait(answer.headers))


def _root(base_url: str | None, key: Key, role: str) -> URL:
    url = base_url or os.environ.get("OPENAI_BASE_URL") or (HOSTED if key.text else None)
    if url is None:
        raise UserError(f"an openai {role} needs its server's URL (--{role}-base-url), or a key in OPENAI_API_KEY")
    return wire.api_root(url)


def _data_url(image: bytes) -> str:
    return f"data:{image_type(image)};base64,{b64encode(image).decode()}"


def _response_format(question: Question[Any], left_out: set[str]) -> dict[str, Any]:
    """The form as a JSON schema; for a server that has none, any JSON object."""
    if "json_schema" in left_out:
        return {"type": "json_object"}
    schema = json_schema(question.form, LONGEST_WORDS)
    named = {"name": question.form.__name__.lower(), "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


def _refused_option(answer: Answer, left_out: set[str]) -> set[str]:
    """The options that a complaint names. One about the schema leaves the format to be tried without it."""
    if answer.means is not Meaning.REFUSED:
        return set()
    words = answer.content.decode(errors="replace").lower()
    refused = {option for option, names in _NAMES.items() if any(name in words for name in names)}
    if "response_format" in refused and "json_schema" not in left_out and any(name in words for name in _SCHEMA):
        return refused - {"response_format"} | {"json_schema"}
    return refused


def _words(content: object) -> object:
    """What a message says: its text, or that of its blocks. Those of thinking are another type."""
    if not isinstance(content, list):
        return content or ""
    return "".join(block.get("text") or "" for block in content if block.get("type") == "text")


def _read(body: bytes) -> Reply:
    """The reply in a chat completion. Raises Failed with the reason there is none."""
    try:
        completion = json.loads(body)
        usage = completion.get("usage") or {}
        paid = Reply(
            served=str(completion.get("model") or ""),
            prompt_tokens=tokens(usage.get("prompt_tokens")),
            completion_tokens=tokens(usage.get("completion_tokens")),
        )
        choice = (completion.get("choices") or [{}])[0]
        message = choice.get("message") or {}
        text = _words(message.get("content"))
        if choice.get("finish_reason") == "content_filter" or message.get("refusal"):
            raise Failed("blocked", paid=paid)
        if choice.get("finish_reason") == "length":
            raise Failed("cut off", paid=paid)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError):
        raise Failed("broken answer") from None
    if not isinstance(text, str) or not text.strip():
        raise Failed("empty answer", paid=paid)
    return Reply(text, paid.served, paid.prompt_tokens, paid.completion_tokens)
