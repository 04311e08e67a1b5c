"""Any server that speaks OpenAI's chat completions: a local vLLM server, or a hosted model.

The key is OPENAI_API_KEY, if set. Options that a server refuses by name are left out from then on.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp

from specs_data.errors import UserError
from specs_data.services import Failed, Question, Reply, image_type, json_schema, one_line, tokens

HOSTED = "https://api.openai.com/v1"
MAX_TOKENS = 4096

# How a server's complaint about an option may name it.
_NAMES = {
    "response_format": ("response_format", "json_schema", "json schema", "structured output", "guided"),
    "temperature": ("temperature",),
    "max_completion_tokens": ("max_completion_tokens",),
}


def key_in_environment() -> str | None:
    """The key in OPENAI_API_KEY. Raises UserError, without the key, for one that no HTTP header can carry."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError("OPENAI_API_KEY has a line break or another character that no key has: set it anew")
    return key or None


class OpenAIClient:
    """A model behind an OpenAI-compatible server at `base_url` (http://host:port or .../v1). `role` (verifier,
    judge) is whose settings errors speak of."""

    service = "openai"
    max_tokens = MAX_TOKENS

    def __init__(self, model: str, base_url: str | None = None, role: str = "verifier") -> None:
        self.model = model
        self._key = key_in_environment()
        self._url = f"{_api_root(base_url, self._key, role)}/chat/completions"
        self._left_out: set[str] = set()
        self._session: aiohttp.ClientSession | None = None

    @property
    def account(self) -> tuple[str, str | None]:
        """The server's URL and the key."""
        return self._url, self._key

    @property
    def options(self) -> Mapping[str, str]:
        """What else determines an answer."""
        return {"max_tokens": str(MAX_TOKENS), "temperature": "0"}

    async def ask(self, question: Question[Any]) -> Reply:
        """One attempt. Raises Failed, and UserError where no attempt can succeed."""
        while True:
            left_out = set(self._left_out)
            status, headers, body = await self._post(self._payload(question, left_out))
            if status == 200:
                return _read(body)
            refused = _refused_option(status, body) - left_out
            if not refused:
                self._raise(status, headers, body)
            self._left_out |= refused

    async def close(self) -> None:
        """Release connections."""
        if self._session:
            await self._session.close()

    def _payload(self, question: Question[Any], left_out: set[str]) -> dict[str, Any]:
        images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in question.images]
        schema = {"name": question.form.__name__.lower(), "schema": json_schema(question.form), "strict": True}
        options = {
            "response_format": {"type": "json_schema", "json_schema": schema},
            "temperature": 0,
            "max_completion_tokens": MAX_TOKENS,
        }
        if "max_completion_tokens" in left_out:
            options["max_tokens"] = MAX_TOKENS
        return {
            "model": self.model,
            "messages": [
                {"role": "system", "content": question.rubric},
                {"role": "user", "content": [*images, {"type": "text", "text": question.text}]},
            ],
            **{name: value for name, value in options.items() if name not in left_out},
        }

    async def _post(self, payload: Mapping[str, Any]) -> tuple[int, Mapping[str, str], str]:
        if self._session is None:
            # No limits here: the caller decides how many calls are in flight and how long they may take.
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=None), trust_env=True
            )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            async with self._session.post(self._url, json=payload, headers=headers) as response:
                return response.status, response.headers, await response.text(errors="replace")
        except aiohttp.ClientPayloadError:
            raise Failed("broken answer") from None
        except aiohttp.InvalidURL:
            raise UserError(f"{self._url} is not a URL; give the server's as http://HOST:PORT/v1") from None
        except (aiohttp.ClientConnectionError, OSError):
            raise Failed("no connection") from None
        except aiohttp.ClientError:
            raise Failed("broken answer") from None

    def _raise(self, status: int, headers: Mapping[str, str], body: str) -> NoReturn:
        message = one_line(body.replace(self._key, "...") if self._key else body)
        if status in (401, 403):
            raise UserError(f"{self._host} refuses the key in OPENAI_API_KEY: {message}")
        if status == 404:
            raise UserError(f"{self._host} has no model {self.model!r}, or no chat completions at this URL: {message}")
        if status == 429 and "insufficient_quota" in body:
            raise UserError(f"{self._host} has no quota left for this key: {message}")
        wait = _retry_after(headers)
        if status == 429:
            raise Failed("rate limit", message, wait=wait)
        if status in (408, 409, 425) or status >= 500:
            raise Failed("timeout" if status in (408, 504) else "service error", message, wait=wait)
        raise Failed("refused", message, final=True)

    @property
    def _host(self) -> str:
        return urlsplit(self._url).hostname or self._url


def _api_root(base_url: str | None, key: str | None, role: str) -> str:
    url = base_url or os.environ.get("OPENAI_BASE_URL") or (HOSTED if key else None)
    if url is None:
        raise UserError(f"an openai {role} needs its server's URL (--{role}-base-url), or a key in OPENAI_API_KEY")
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url!r} is not a URL; give the server's as http://HOST:PORT/v1")
    url = url.rstrip("/").removesuffix("/chat/completions")
    return url if urlsplit(url).path.strip("/") else f"{url}/v1"


def _data_url(image: bytes) -> str:
    return f"data:{image_type(image)};base64,{base64.b64encode(image).decode()}"


def _refused_option(status: int, body: str) -> set[str]:
    """The options that a complaint names."""
    if status not in (400, 422):
        return set()
    body = body.lower()
    return {option for option, names in _NAMES.items() if any(name in body for name in names)}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the headers ask to wait."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return None


def _read(body: str) -> Reply:
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
        text = message.get("content") or ""
        if choice.get("finish_reason") == "content_filter" or message.get("refusal"):
            raise Failed("blocked", paid=paid)
        if choice.get("finish_reason") == "length":
            raise Failed("cut off", paid=paid)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        raise Failed("broken answer") from None
    if not isinstance(text, str) or not text.strip():
        raise Failed("empty answer", paid=paid)
    return Reply(text, paid.served, paid.prompt_tokens, paid.completion_tokens)
