"""Gemini, through google-genai.

The key is GOOGLE_API_KEY or else GEMINI_API_KEY; GOOGLE_GEMINI_BASE_URL moves the endpoint. Retries
and timeouts are left to the caller: the client's own ignore how long the service asks to wait.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp

from specs_data.errors import UserError, require
from specs_data.services import Failed, Form, Question, Reply, image_type, json_schema, one_line, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.genai import types
    from google.genai.errors import APIError

DEFAULT_MODEL = "gemini-3.8-flash"
MAX_TOKENS = 4096
THINKING_BUDGET = 1024

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
    return os.environ.get("GOOGLE_API_KEY") or os.environ.get("GEMINI_API_KEY") or None


class GeminiClient:
    """A Gemini model. Raises UserError without a key, MissingExtra without google-genai."""

    service = "gemini"
    max_tokens = MAX_TOKENS

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        genai = require("google.genai", "gemini")
        key = api_key()
        if key is None:
            raise UserError("Gemini needs a key in GOOGLE_API_KEY or GEMINI_API_KEY; get one at aistudio.google.com")
        # One attempt: without this the client repeats a broken connection by itself, seconds later.
        once = genai.types.HttpRetryOptions(attempts=1)
        self.sdk = genai.Client(api_key=key, http_options=genai.types.HttpOptions(retry_options=once))
        self.model = model
        self._types = genai.types
        self._configs: dict[tuple[str, type[Form]], types.GenerateContentConfig] = {}

    @property
    def options(self) -> Mapping[str, str]:
        """What else determines an answer."""
        return {"max_tokens": str(MAX_TOKENS), **_generation_options(self.model)}

    async def ask(self, question: Question[Any]) -> Reply:
        """One attempt. Raises Failed, and UserError where no attempt can succeed."""
        with failures(self.model):
            response = await self.sdk.aio.models.generate_content(
                model=self.model, contents=self.content(question), config=self.config(question)
            )
        return read_response(response.model_dump(mode="json", by_alias=True, exclude_none=True))

    async def close(self) -> None:
        """Release connections."""
        await self.sdk.aio.aclose()
        self.sdk.close()

    def content(self, question: Question[Any]) -> types.Content:
        """The item: the image files as they are, then the text."""
        part = self._types.Part
        images = [part.from_bytes(data=image, mime_type=image_type(image)) for image in question.images]
        content: types.Content = self._types.Content(role="user", parts=[*images, part(text=question.text)])
        return content

    def config(self, question: Question[Any]) -> types.GenerateContentConfig:
        """The rubric, the form and the options: the same object for all questions that share them."""
        key = (question.rubric, question.form)
        if key not in self._configs:
            self._configs[key] = self._make_config(*key)
        return self._configs[key]

    def _make_config(self, rubric: str, form: type[Form]) -> types.GenerateContentConfig:
        options: dict[str, Any] = {"max_output_tokens": MAX_TOKENS}
        for name, value in _generation_options(self.model).items():
            if name == "temperature":
                options[name] = float(value)
            else:
                options["thinking_config"] = self._types.ThinkingConfig(**{name: value})
        config: types.GenerateContentConfig = self._types.GenerateContentConfig(
            system_instruction=rubric,
            response_mime_type="application/json",
            response_json_schema=json_schema(form),
            **options,
        )
        return config


def _generation_options(model: str) -> dict[str, str]:
    """Thinking and temperature, as this generation of models takes them: 3.x has thinking levels and
    wants no temperature, 2.5 has a thinking budget. Others are left alone."""
    version = re.match(r"(?:models/)?gemini-(\d+)(?:\.(\d+))?\b", model)
    generation = (int(version[1]), int(version[2] or 0)) if version else (0, 0)
    if generation >= (3, 0):
        return {"thinking_level": "low"}
    if generation == (2, 5):
        return {"thinking_budget": str(THINKING_BUDGET), "temperature": "0"}
    return {}


def read_response(response: Mapping[str, Any]) -> Reply:
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


@contextmanager
def failures(model: str) -> Iterator[None]:
    """Turn what google-genai raises into Failed, or into UserError where no attempt can succeed."""
    errors = require("google.genai.errors", "gemini")
    try:
        yield
    except errors.APIError as error:
        _raise_api_error(error, model)
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
        cut = isinstance(error, aiohttp.ClientPayloadError)
        raise Failed("broken answer" if cut else "no connection") from None
    except (aiohttp.ClientError, ValueError, TypeError, KeyError, AttributeError):
        # The client trips over bodies that are not what the API promises.
        raise Failed("broken answer") from None


def _raise_api_error(error: APIError, model: str) -> NoReturn:
    body = error.details if isinstance(error.details, dict) else {}
    fault = body.get("error") if isinstance(body.get("error"), dict) else body
    details = [detail for detail in (fault or {}).get("details") or [] if isinstance(detail, dict)]
    message = one_line(error.message or error.status or "")
    if error.code == 404:
        raise UserError(f"Gemini has no model {model!r}: {message}; choose another with --verifier-model") from None
    bad_key = any(detail.get("reason") in ("API_KEY_INVALID", "API_KEY_EXPIRED") for detail in details)
    if error.code in (401, 403) or bad_key or "api key" in message.lower():
        raise UserError(f"Gemini refuses the key in GOOGLE_API_KEY or GEMINI_API_KEY: {message}") from None
    if error.status == "FAILED_PRECONDITION":
        raise UserError(f"Gemini cannot be used with this key: {message}") from None
    wait = _retry_delay(details)
    if error.code == 429:
        raise Failed("rate limit", message, wait=wait) from None
    if error.code in (408, 499) or error.code >= 500:
        raise Failed("timeout" if error.code in (408, 504) else "service error", message, wait=wait) from None
    raise Failed("refused", message, final=True) from None


def _retry_delay(details: list[dict[str, Any]]) -> float | None:
    """Seconds that a google.rpc.RetryInfo asks to wait."""
    for detail in details:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
        if found:
            return float(found[1])
    return None
