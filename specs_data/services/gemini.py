"""Gemini, through google-genai.

The key is GOOGLE_API_KEY or else GEMINI_API_KEY; GOOGLE_GEMINI_BASE_URL moves the endpoint. Retries
and timeouts are left to the caller: the client's own ignore how long the service asks to wait.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp
from pybase64 import b64encode

from specs_data import wire
from specs_data.errors import UserError, require
from specs_data.services import Failed, Question, Reply, image_type, json_schema, no_answer, tokens, turned_down
from specs_data.wire import Meaning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google import genai
    from google.genai.errors import APIError

DEFAULT_MODEL = "gemini-3.8-flash"
MAX_TOKENS = 4096
THINKING_BUDGET = 1024

_KEYS = ("GOOGLE_API_KEY", "GEMINI_API_KEY")  # in the order in which google-genai looks for them

# A prompt or an answer was held back, as opposed to broken or cut off.
_HELD_BACK = {
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "IMAGE_SAFETY",
    "OTHER",
    "ESCALATION",
    "MODEL_ARMOR",
}


def api_key() -> str | None:
    """The key in the environment, as google-genai looks for it."""
    return wire.read_key(*_KEYS).text


class GeminiClient:
    """A Gemini model. `role` (verifier, judge) is whose settings errors speak of. Raises UserError without a
    key, MissingExtra without google-genai."""

    service = "gemini"

    def __init__(self, model: str = DEFAULT_MODEL, role: str = "verifier", max_tokens: int = MAX_TOKENS) -> None:
        self._role = role
        self.max_tokens = max_tokens
        self._genai = require("google.genai", "gemini")
        self._key = wire.read_key(*_KEYS)
        if self._key.text is None:
            raise UserError("Gemini needs a key in GOOGLE_API_KEY or GEMINI_API_KEY; get one at aistudio.google.com")
        self.model = model

    @property
    def account(self) -> tuple[str, str | None]:
        """The service and the key."""
        return self.service, self._key.text

    @property
    def options(self) -> Mapping[str, str]:
        """What else determines an answer."""
        options = _generation_options(self.model)
        options |= options.pop("thinkingConfig", {})
        return {"max_tokens": str(self.max_tokens), **{name: str(value) for name, value in options.items()}}

    async def ask(self, question: Question[Any]) -> Reply:
        """One attempt. Raises Failed, and UserError where no attempt can succeed."""
        name = self.model if "/" in self.model else f"models/{self.model}"
        with self.failures():
            # What generate_content ends in: it would turn the request into models of its own and back first,
            # for more than half of the client's CPU time.
            call = self.sdk._api_client.async_request
            response = await call("post", f"{name}:generateContent", self.request(question))
            body = json.loads(response.body)
        return read_response(body)

    async def close(self) -> None:
        """Release connections."""
        if "sdk" in vars(self):
            await self.sdk.aio.aclose()
            self.sdk.close()
            await self._session.close()

    @cached_property
    def sdk(self) -> genai.Client:
        """The client. It makes one attempt per call: without this it repeats a broken connection by itself,
        seconds later."""
        # The client's own session would follow redirects, with the key and the question.
        self._session = wire.session(proxies=True)
        once = self._genai.types.HttpRetryOptions(attempts=1)
        options = self._genai.types.HttpOptions(retry_options=once, aiohttp_client=self._session)
        client: genai.Client = self._genai.Client(api_key=self._key.text, vertexai=False, http_options=options)
        return client

    def request(self, question: Question[Any]) -> dict[str, Any]:
        """A request in wire format: the rubric, the item (the image files as they are, at their places in the text),
        the form and the options."""
        images = [
            {"inlineData": {"mimeType": image_type(image), "data": b64encode(image).decode()}}
            for image in question.images
        ]
        parts = [{"text": piece} if isinstance(piece, str) else images[piece] for piece in question.asked]
        config = {
            "maxOutputTokens": question.most(self.max_tokens),
            "responseMimeType": "application/json",
            "responseJsonSchema": json_schema(question.form),
            **_generation_options(self.model),
        }
        if "temperature" in config:
            config["temperature"] = question.warmth
        return {
            "systemInstruction": {"parts": [{"text": question.rubric}]},
            "contents": [{"role": "user", "parts": parts}],
            "generationConfig": config,
        }

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Turn what google-genai raises into Failed, or into UserError where no attempt can succeed."""
        try:
            yield
        except self._genai.errors.APIError as error:
            self._raise(error)
        except wire.Redirected as away:
            raise self._turned_down(Meaning.ELSEWHERE, away.status, self._key.hide(away)) from None
        # Besides what goes wrong on the wire: the client trips over bodies that are not what the API promises.
        except (aiohttp.ClientError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise no_answer(wire.NoAnswer(error), self._key) from None

    def _raise(self, error: APIError) -> NoReturn:
        message = self._key.hide(error.message or error.status or "")
        means = wire.meaning(error.code, f"{message} {json.dumps(error.details, default=str)}")
        if means is Meaning.REFUSED and "api key" in message.lower():
            means = Meaning.WRONG_KEY
        if error.status == "FAILED_PRECONDITION":
            raise UserError(f"Gemini cannot be used with this key: {message}") from None
        wait = wire.asked_wait(getattr(error.response, "headers", {}), error.details)
        raise self._turned_down(means, error.code, message, wait) from None

    def _turned_down(self, means: Meaning, status: int, words: str, wait: float | None = None) -> Exception:
        told = {"flags": f"--{self._role}-model", "key": " or ".join(_KEYS)}
        mistake = wire.mistake(means, "Gemini", f"{status}: {words}", model=self.model, **told)
        return mistake or turned_down(means, words, wait)


def _generation_options(model: str) -> dict[str, Any]:
    """Thinking and temperature, as this generation of models takes them: 3.x has thinking levels and
    wants no temperature, 2.5 has a thinking budget. Others are left alone."""
    version = re.match(r"(?:models/)?gemini-(\d+)(?:\.(\d+))?\b", model)
    generation = (int(version[1]), int(version[2] or 0)) if version else (0, 0)
    if generation >= (3, 0):
        return {"thinkingConfig": {"thinkingLevel": "LOW"}}
    if generation == (2, 5):
        return {"thinkingConfig": {"thinkingBudget": THINKING_BUDGET}, "temperature": 0}
    return {}


def read_response(response: Any) -> Reply:
    """The reply in a GenerateContentResponse in wire format. Raises Failed with the reason there is none."""
    try:
        usage = response.get("usageMetadata") or {}
        paid = Reply(
            served=str(response.get("modelVersion") or "").removeprefix("models/"),
            prompt_tokens=tokens(usage.get("promptTokenCount")),
            completion_tokens=tokens(usage.get("candidatesTokenCount")) + tokens(usage.get("thoughtsTokenCount")),
        )
        if (response.get("promptFeedback") or {}).get("blockReason"):
            raise Failed("blocked", paid=paid)
        candidates = response.get("candidates") or [{}]
        finish = candidates[0].get("finishReason")
        if finish in _HELD_BACK:
            raise Failed("blocked", paid=paid)
        if finish == "MAX_TOKENS":
            raise Failed("cut off", paid=paid)
        parts = (candidates[0].get("content") or {}).get("parts") or []
        text = "".join(part.get("text") or "" for part in parts if not part.get("thought"))
    except (AttributeError, KeyError, TypeError, IndexError):
        raise Failed("broken answer") from None
    if not text.strip():
        raise Failed("empty answer", paid=paid)
    return Reply(text, paid.served, paid.prompt_tokens, paid.completion_tokens)
