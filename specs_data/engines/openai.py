"""An OpenAI-compatible server as the policy, or several replicas of one: `vllm serve`, SGLang, hosted ones.

Stop strings belong into the text. vLLM and SGLang are asked to keep them. A server that cut one and
names it gets it back; a server that leaves open whether it cut one is asked again without stop
strings, and so from then on: what the model did not write is never made up.
"""

from __future__ import annotations

import asyncio
import io
import random
import re
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec
from msgspec import UNSET, Struct, UnsetType

from specs_data.engines.refusals import check_images, refusal
from specs_data.engines.replicas import FIRST_PAUSE, LONGEST_PAUSE, Replicas, Server
from specs_data.errors import EngineFailed, SpecsDataError, Undecided, UserError
from specs_data.images import media_type
from specs_data.inert import one_line
from specs_data.records import Message, Request, Response, Sampling
from specs_data.services.openai import key_in_environment

STRIKES = 8  # failures of one request, each while others were served, until it is given up
BUSY = {408, 409, 425, 429, 503, 529}
WRONG_KEY = {401, 403}
LONGEST_WORDS = 300  # of a server's, in characters
LARGE = 1 << 20  # bytes; a body above this is sent in pieces

# What vLLM and SGLang understand beyond OpenAI's parameters: keep the stop string in the text, and
# sample from the model itself, whatever its generation_config.json says.
EXTRAS: dict[str, Any] = {
    "include_stop_str_in_output": True,
    "no_stop_trim": True,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}


class _Said(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(Struct):
    message: _Said
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET  # vLLM
    matched_stop: str | int | UnsetType | None = UNSET  # SGLang


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Reply(Struct):
    choices: tuple[_Choice, ...]
    usage: _Usage | None = None


class _Model(Struct):
    id: str


class _Models(Struct):
    data: tuple[_Model, ...]


_decode_reply = msgspec.json.Decoder(_Reply).decode


class _Settings(Struct, frozen=True):
    """What all requests have in common; `head` is it as JSON, up to the messages."""

    head: bytes
    stop: tuple[str, ...]
    extras: Mapping[str, Any]


class _Again(Exception):
    """The same request should be asked again at once, with `settings`."""

    def __init__(self, settings: _Settings) -> None:
        super().__init__("ask again")
        self.settings = settings


class _Failed(Exception):
    """One attempt failed and is worth another, after `pause` seconds. `strike`: the request may be to
    blame; `lost`: the connection broke; `fault`: what it means if no other server does better."""

    def __init__(
        self,
        reason: str,
        *,
        strike: bool = True,
        pause: float = 0.0,
        lost: bool = False,
        fault: SpecsDataError | None = None,
    ) -> None:
        super().__init__(reason)
        self.strike = strike
        self.pause = pause
        self.lost = lost
        self.fault = fault


class _Trouble(Struct):
    """What one request has met so far: `served` is how many others had been served when it last
    failed, and `server` where that was."""

    served: int
    server: Server | None = None
    failures: int = 0
    strikes: int = 0
    since: float = 0.0


class OpenAIEngine:
    """Samples from the OpenAI-compatible servers at `base_urls` (with or without /v1), at most
    `per_server` requests in flight at each.

    `model` is the name the servers know the model by; None takes the only one they list. A key, where
    one is needed, is read from OPENAI_API_KEY. `min_pixels` and `max_pixels` reach vLLM's image
    processor; a request with more than `limit_images` images is refused. After `patience` seconds
    without any server, or without any response, EngineFailed is raised.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        model: str | None,
        sampling: Sampling,
        *,
        per_server: int = 64,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        limit_images: int | None = None,
        patience: float = 600.0,
    ) -> None:
        if not base_urls:
            raise UserError("the openai engine needs the address of a server: --base-url http://HOST:PORT/v1")
        self._key = key_in_environment()
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._replicas = Replicas(base_urls, headers, per_server=per_server, patience=patience)
        self._per_server = per_server
        self._sampling = sampling
        self._model = model
        self._pixels = _pixels(min_pixels, max_pixels)
        self._limit_images = limit_images
        self._settings: _Settings | None = None
        self._served = 0

    @property
    def concurrency(self) -> int:
        """Requests in flight at all servers together."""
        return self._per_server * len(self._replicas.servers)

    async def generate(self, request: Request) -> Response:
        """Sample one response, at whichever server is free. Raises PromptRefused, with the server's
        words, where it is refused; Undecided where it is given up; UserError for a wrong key, model or
        address; EngineFailed."""
        messages = self._messages(request)
        if self._settings is None:
            await self._open()
        trouble = _Trouble(self._served)
        while True:
            try:
                response = await self._attempt(messages, trouble)
            except _Again as again:
                self._settings = again.settings
            except _Failed as failed:
                await asyncio.sleep(self._pause(failed, trouble))
            else:
                self._served += 1
                return response

    async def close(self) -> None:
        """Close the connections."""
        await self._replicas.close()

    async def _open(self) -> None:
        if self._model is None:
            self._model = await self.only_model()
        if self._settings is None:
            self._settings = self._make_settings(self._sampling.stop, EXTRAS)

    async def only_model(self) -> str:
        """The name of the only model that the servers list. Raises UserError where there is not one."""
        server, status, listed = await self._replicas.models()
        if status in WRONG_KEY:
            raise UserError(_refused_key(server, status, self._clean(_error_text(listed))))
        try:
            names = [model.id for model in msgspec.json.decode(listed, type=_Models).data]
        except msgspec.DecodeError:
            names = []
        if len(names) != 1:
            listing = f"it lists {one_line(', '.join(names), LONGEST_WORDS)}" if names else "it lists none"
            raise UserError(f"name the model to use at {server.name} with --model: {listing}")
        return names[0]

    def _make_settings(self, stop: tuple[str, ...], extras: Mapping[str, Any]) -> _Settings:
        sampling = self._sampling
        fields: dict[str, Any] = {
            "model": self._model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            **({"stop": stop} if stop else {}),
            **extras,
            **self._pixels,
        }
        return _Settings(msgspec.json.encode(fields)[:-1] + b',"messages":[', stop, extras)

    def _messages(self, request: Request) -> bytes:
        """The part of the body that belongs to one request. Images go before the first user text."""
        images = request.images
        check_images(len(images), self._limit_images)
        messages = []
        for message in request.messages:
            if images and message.role == "user":
                messages.append(_with_images(message, images))
                images = ()
            else:
                messages.append(msgspec.json.encode(message))
        return b'%b],"seed":%d}' % (b",".join(messages), request.seed)

    async def _attempt(self, messages: bytes, trouble: _Trouble) -> Response:
        """Ask one server once, another than at the last attempt where one is free."""
        slot = await self._replicas.take(avoid=trouble.server)
        server = self._replicas.servers[slot[1]]
        try:
            response = await self._ask(server, messages)
        except _Failed as failed:
            hope = self._replicas.failed(
                server, str(failed), pause=failed.pause, lost=failed.lost, lasting=failed.fault is not None
            )
            if failed.fault is not None and not hope:
                raise failed.fault from None
            if hope:
                failed.pause = 0.0
            # Where another is up, a server that fails everything must not use up a request's strikes.
            failed.strike &= server is not trouble.server or not self._replicas.others_up(server)
            trouble.server = server
            raise
        else:
            self._replicas.served(server)
            return response
        finally:
            self._replicas.give_back(slot)

    async def _ask(self, server: Server, messages: bytes) -> Response:
        settings = self._settings
        assert settings is not None  # noqa: S101 - _open came first
        try:
            body = settings.head + messages
            data = body if len(body) < LARGE else io.BytesIO(body)
            async with self._replicas.session.post(server.chat, data=data, allow_redirects=False) as reply:
                content = await reply.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = self._clean(str(error) or type(error).__name__)
            raise _Failed(reason, strike=not isinstance(error, aiohttp.ClientConnectorError), lost=True) from None
        if reply.status == 200:
            return self._read(server, settings, content)
        raise self._fault(server, settings, reply.status, reply.headers, content)

    def _read(self, server: Server, settings: _Settings, content: bytes) -> Response:
        try:
            reply = _decode_reply(content)
            choice = reply.choices[0]
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
            raise _Failed(f"{server.name} sent no chat completion") from None
        if choice.finish_reason == "abort":
            raise _Failed(f"{server.name} gave the response up")
        if choice.message.reasoning_content or choice.message.reasoning:
            raise UserError(f"{server.name} takes the thought out of the response: start it without a reasoning parser")
        text = _kept_stop(choice, settings.stop)
        if text is None:
            raise _Again(self._make_settings((), settings.extras))
        usage = reply.usage or _Usage()
        return Response(text, choice.finish_reason or "stop", usage.prompt_tokens or 0, usage.completion_tokens or 0)

    def _fault(
        self, server: Server, settings: _Settings, status: int, headers: Mapping[str, str], content: bytes
    ) -> Exception:
        """What an answer other than 200 means."""
        said = self._clean(_error_text(content))
        if status in BUSY or status >= 500:
            pause = _retry_after(headers)
            long = EngineFailed(f"{server.name} asks to wait {pause:.0f} s: {said}")
            return _Failed(
                f"{server.name} {'is busy' if status in BUSY else 'failed'} ({status}): {said}",
                strike=status not in BUSY,
                pause=pause,
                fault=long if pause > self._replicas.patience else None,
            )
        if status in (400, 413, 422):
            if any(re.search(rf"\b{name}\b", said) for name in settings.extras):
                # A server that knows only OpenAI's parameters would also cut stop strings without a word.
                return _Again(self._make_settings((), {}))
            if self._pixels and "mm_processor_kwargs" in said:
                return UserError(f"{server.name} takes no pixel limits ({said}): set them where the server is started")
            return refusal(said)
        if status in WRONG_KEY:
            mistake = _refused_key(server, status, said)
        elif status == 404:
            mistake = f"{server.name} does not serve {self._model!r} ({said}): check --model and --base-url"
        else:
            mistake = f"{server.name} refuses requests ({status}: {said})"
        return _Failed(mistake, strike=False, fault=UserError(mistake))

    def _pause(self, failed: _Failed, trouble: _Trouble) -> float:
        """Seconds to wait before the next attempt, or the end of the attempts.

        A failure counts against the request only while others are served: that a service is down is
        no reason to give a request up."""
        now = time.monotonic()
        trouble.failures += 1
        others_served = self._served > trouble.served
        if trouble.failures == 1 or others_served:
            trouble.since = now
        elif now - trouble.since > self._replicas.patience:
            raise EngineFailed(f"no response for {self._replicas.patience:.0f} s: {failed}")
        trouble.served = self._served
        trouble.strikes += failed.strike and others_served
        if trouble.strikes >= STRIKES:
            raise Undecided(f"given up: {STRIKES} attempts failed while others were served: {failed}")
        backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (trouble.failures - 1))
        return max(failed.pause * random.uniform(1.0, 1.2), backoff * random.uniform(0.5, 1.0))

    def _clean(self, text: str) -> str:
        """One short line without the key."""
        return one_line(text.replace(self._key, "***") if self._key else text, LONGEST_WORDS)


def _refused_key(server: Server, status: int, said: str) -> str:
    return f"{server.name} refuses the key ({status}: {said}): set OPENAI_API_KEY"


def _kept_stop(choice: _Choice, stop: tuple[str, ...]) -> str | None:
    """The text with the string that stopped it; None where the server may have cut one and does not say."""
    text = choice.message.content or ""
    if choice.finish_reason != "stop" or not stop or text.endswith(stop):
        return text
    for stopped_by in (choice.stop_reason, choice.matched_stop):
        if isinstance(stopped_by, str):
            return text + stopped_by
        if stopped_by is not UNSET:
            return text
    return None


def _with_images(message: Message, images: Sequence[bytes]) -> bytes:
    """A user message as JSON. The files' bytes are sent as they are, and base64 needs no JSON escapes."""
    parts = [
        b'{"type":"image_url","image_url":{"url":"data:%b;base64,%b"}}'
        % ((media_type(image) or "image/png").encode(), b64encode(image))
        for image in images
    ]
    parts.append(b'{"type":"text","text":%b}' % msgspec.json.encode(message.content))
    return b'{"role":"user","content":[%b]}' % b",".join(parts)


def _pixels(min_pixels: int | None, max_pixels: int | None) -> dict[str, Any]:
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return {"mm_processor_kwargs": given} if given else {}


def _error_text(content: bytes) -> str:
    """The message in an error body, however the server wraps it."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return content.decode(errors="replace")
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(key):
            body = body[key]
    return body if isinstance(body, str) else msgspec.json.encode(body).decode()


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds the server asks to wait, 0 if it does not."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
