"""An OpenAI-compatible server as the policy, or several replicas of one: `vllm serve`, SGLang, hosted ones.

Stop strings belong into the text. vLLM and SGLang are asked to keep them. A server that cut one and
names it gets it back; a server that leaves open whether it cut one is asked again without stop
strings, and so from then on: what the model did not write is never made up.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from pybase64 import b64encode

from specs_data import wire
from specs_data.engines import DEFAULTS, ModelOptions
from specs_data.engines.nucleus import nuclei_at_top
from specs_data.engines.refusals import BLOCKED, check_images, refusal
from specs_data.engines.replicas import MOST_SILENCES, PROBE, Replicas, Server, Silent
from specs_data.engines.templates import Template, fold, opened, tell
from specs_data.errors import EngineFailed, PromptRefused, SpecsDataError, Undecided, UserError
from specs_data.images import media_type
from specs_data.inert import one_line
from specs_data.records import Likelihood, Message, Nuclei, Request, Response, Sampling
from specs_data.texts import Piece, placed
from specs_data.wire import Answer, Meaning, NoAnswer, Trouble

logger = logging.getLogger(__name__)

STRIKES = 8  # failures of one request, each while others were served, until it is given up
_OF_PROMPT = b',"prompt_logprobs":0'  # vLLM's: the chances of the prompt's own tokens
READING = Sampling(0.0, 1.0, 1)  # a server writes a token even where it is only to read
_CHANCES = b',"logprobs":true,"top_logprobs":20'  # as many as OpenAI and vLLM tell by default
SLOWEST = 10  # tokens per second of a server that is believed to work
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


_SYSTEM = b'"role":"system"'
# What servers say whose template takes no system message.
_NO_SYSTEM = re.compile(r"system (role|message)s?\b.*\bnot (be )?(supported|allowed)|no system (role|message)", re.I)


class _Said(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class _Top(Struct):
    logprob: float


class _Token(Struct):
    top_logprobs: tuple[_Top, ...] = ()


class _Chances(Struct):
    content: tuple[_Token, ...] | None = None


class _Choice(Struct):
    message: _Said
    logprobs: _Chances | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET  # vLLM
    matched_stop: str | int | UnsetType | None = UNSET  # SGLang


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Reply(Struct):
    choices: tuple[_Choice, ...]
    usage: _Usage | None = None


class _OfPrompt(Struct):
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class _Read(Struct):
    prompt_logprobs: tuple[dict[str, _OfPrompt] | None, ...] | None = None
    usage: _Usage | None = None


class _Tokens(Struct):
    token_strs: tuple[str, ...]


class _Model(Struct):
    id: str


class _Models(Struct):
    data: tuple[_Model, ...]


# How vLLM and SGLang are told that the last message is the beginning of the response.
_GOING_ON = b',"continue_final_message":true,"add_generation_prompt":false'

_decode_reply = msgspec.json.Decoder(_Reply).decode


class _Settings(Struct, frozen=True):
    """What all requests have in common; `head` is it as JSON, up to the messages."""

    head: bytes
    sampling: Sampling
    stop: tuple[str, ...]
    extras: Mapping[str, Any]


class _Again(Exception):
    """The same request should be asked again at once, with `settings`."""

    def __init__(self, settings: _Settings) -> None:
        super().__init__("ask again")
        self.settings = settings


class _Failed(Exception):
    """One attempt failed and is worth another, in `pause` seconds if the server says so. `strike`: the request
    may be to blame; `lost`: the connection broke; `fault`: what it means if no other server does better."""

    def __init__(
        self,
        reason: str,
        *,
        strike: bool = True,
        pause: float | None = None,
        lost: bool = False,
        fault: SpecsDataError | None = None,
    ) -> None:
        super().__init__(reason)
        self.strike = strike
        self.pause = pause
        self.lost = lost
        self.fault = fault


class _Attempts(Struct):
    """What one request has met so far: `served` is how many others had been served when it last
    failed, and `server` where that was."""

    served: int
    sampling: Sampling
    server: Server | None = None
    failures: int = 0
    strikes: int = 0
    since: float = 0.0


class OpenAIEngine:
    """Samples from the OpenAI-compatible servers at `options.base_url` (with or without /v1), at most
    `options.concurrency` (64) requests in flight at each.

    `model` is the name the servers know the model by; without one, it is the only one they list. A key, where
    one is needed, is read from OPENAI_API_KEY. `min_pixels` and `max_pixels` reach vLLM's image
    processor; a request with more than `limit_images` images is refused. After `patience` seconds
    without any server, or without any response, EngineFailed is raised. A server that answers none of its requests
    for as long (and longer than the longest response would take at SLOWEST) hangs: others get them.
    """

    def __init__(
        self, model: str, sampling: Sampling, options: ModelOptions = DEFAULTS, *, patience: float = 600.0
    ) -> None:
        if not options.base_url:
            raise UserError("the openai engine needs the address of a server: --base-url http://HOST:PORT/v1")
        self._key = wire.read_key(wire.OPENAI_KEY)
        headers = {"Content-Type": "application/json", **self._key.bearer}
        self._per_server = options.concurrency or 64
        silence = max(patience, sampling.max_tokens / SLOWEST)
        self._replicas = Replicas(
            options.base_url, headers, per_server=self._per_server, patience=patience, silence=silence
        )
        self._sampling = sampling
        self._model = model
        self._pixels = _pixels(options.min_pixels, options.max_pixels)
        self._limit_images = options.limit_images
        self._settings: dict[Sampling, _Settings] = {}
        self._tells = True  # the chances of tokens, until it refuses
        self._reads = True  # the chances of a prompt's tokens, until it does not tell them
        self._fold = False  # the servers' template takes no system message
        self._begun = ""  # how every response begins, before what the server says
        self._opening = asyncio.Lock()
        self._failure: UserError | None = None
        self._served = 0

    @property
    def concurrency(self) -> int:
        """Requests in flight at all servers together."""
        return self._per_server * len(self._replicas.servers)

    async def generate(self, request: Request) -> Response:
        """Sample one response, at whichever server is free. Raises PromptRefused, with the server's
        words, where it is refused; Undecided where it is given up; UserError for a wrong key, model or
        address; EngineFailed."""
        response: Response = await self._served_by_one(request, request.sampling or self._sampling)
        return response if request.prefill else replace(response, text=self._begun + response.text)

    async def likelihood(self, request: Request, text: str) -> Likelihood | None:
        """How likely `text` is as what follows the request's prefill, at a server that tells the chances of its prompts
        (vLLM). None at any other. Raises as `generate`."""
        if not self._reads:
            return None
        likelihood: Likelihood | None = await self._served_by_one(request, READING, text)
        if likelihood is None and self._reads:
            self._reads = False
            logger.warning("the server tells no chances of its prompts: --verifier policy goes by its answers alone")
        return likelihood

    async def _served_by_one(self, request: Request, sampling: Sampling, text: str = "") -> Any:
        """The response, or the likelihood of a `text`, from whichever server is free."""
        messages = self._messages(request, text)
        if sampling not in self._settings:
            await self._open(sampling)
        attempts = _Attempts(self._served, sampling)
        while True:
            try:
                found = await self._attempt(messages, attempts, text)
            except _Again as again:
                self._settings[sampling] = again.settings
                messages = self._messages(request, text)
            except _Failed as failed:
                # Where others are under way they will tell whether the server is well.
                alone = failed.strike and attempts.failures and self._served == attempts.served
                well = bool(alone) and await self._is_well(attempts)
                await asyncio.sleep(self._pause(failed, attempts, well))
            else:
                self._served += 1
                return found

    async def close(self) -> None:
        """Close the connections."""
        await self._replicas.close()

    async def only_model(self) -> str:
        """The name of the only model that the servers list. Raises UserError where there is not one."""
        server, answer = await self._replicas.models()
        fault = self._mistake(server, answer)
        if fault is not None and answer.means is not Meaning.NOT_THERE:  # not every server has such a list
            raise fault
        try:
            names = [model.id for model in msgspec.json.decode(answer.content, type=_Models).data]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            names = []
        if len(names) != 1:
            listing = f"it lists {one_line(', '.join(names), wire.LONGEST_WORDS)}" if names else "it lists none"
            raise UserError(f"name the model to use at {server.name} with --model: {listing}")
        return names[0]

    async def _open(self, sampling: Sampling) -> None:
        async with self._opening:
            if self._failure is not None:  # whoever waited to be the next to ask need not
                raise self._failure
            if not self._model:
                try:
                    self._model = await self.only_model()
                except UserError as error:
                    self._failure = error
                    raise
            if not self._settings:
                self._begun = await self._opened()
            if sampling not in self._settings:
                self._settings[sampling] = self._make_settings(sampling, sampling.stop, EXTRAS)

    def _make_settings(self, sampling: Sampling, stop: tuple[str, ...], extras: Mapping[str, Any]) -> _Settings:
        fields: dict[str, Any] = {
            "model": self._model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            **({"stop": stop} if stop else {}),
            **extras,
            **self._pixels,
        }
        return _Settings(msgspec.json.encode(fields)[:-1] + b',"messages":[', sampling, stop, extras)

    async def _opened(self) -> str:
        """What the server's chat template writes at the beginning of a response. vLLM tells how it ends a prompt."""
        chat = [{"role": "user", "content": "?"}]
        said = {"model": self._model, "messages": chat, "add_generation_prompt": True, "return_token_strs": True}
        for server in self._replicas.servers:
            try:
                url = server.chat.with_path("/tokenize")
                answer = await wire.ask(self._replicas.session, url, msgspec.json.encode(said), seconds=PROBE)
                tokens = msgspec.json.decode(answer.content, type=_Tokens).token_strs
            except (NoAnswer, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            # Byte-level tokenizers write a line break and a space as letters of their own.
            return opened("".join(tokens[-8:]).replace("\u010a", "\n").replace("\u0120", " "))
        return ""

    def _messages(self, request: Request, text: str = "") -> tuple[bytes, ...]:
        """The part of the body that belongs to one request, or to one about a `text`, in pieces: pictures are large,
        and are put together once."""
        if self._fold:
            request = fold(request)
        check_images(len(request.images), self._limit_images)
        begun = request.prefill + text
        answer = b"," + msgspec.json.encode(Message("assistant", begun)) if begun else b""
        # Servers tell chances as they are at temperature 1.
        told = request.nuclei and self._tells and (request.sampling or self._sampling).temperature == 1
        told = told and not text
        further = (_GOING_ON if begun else b"") + (_CHANCES if told else b"") + (_OF_PROMPT if text else b"")
        return (*_in_pieces(request), b'%b],"seed":%d%b}' % (answer, request.seed, further))

    async def _attempt(self, messages: Sequence[bytes], attempts: _Attempts, text: str) -> Response | Likelihood | None:
        """Ask one server once, another than at the last attempt where one is free."""
        slot = await self._replicas.take(avoid=attempts.server)
        server = self._replicas.servers[slot[1]]
        try:
            found = await self._ask(server, messages, self._settings[attempts.sampling], text)
        except _Failed as failed:
            hope = self._replicas.failed(
                server, str(failed), pause=failed.pause, lost=failed.lost, lasting=failed.fault is not None
            )
            if failed.fault is not None and not hope:
                raise failed.fault from None
            if hope:
                failed.pause = None
            # Where another is up, a server that fails everything must not use up a request's strikes.
            failed.strike &= server is not attempts.server or not self._replicas.others_up(server)
            attempts.server = server
            raise
        else:
            self._replicas.served(server)
            return found
        finally:
            self._replicas.give_back(slot)

    async def _ask(
        self, server: Server, messages: Sequence[bytes], settings: _Settings, text: str
    ) -> Response | Likelihood | None:
        body = b"".join((settings.head, *messages))
        data = body if len(body) < LARGE else io.BytesIO(body)
        try:
            asked = wire.ask(self._replicas.session, server.chat, data)
            answer = wire.told(await self._replicas.listen(server, asked))
        except Silent as silent:
            raise self._silent(server, silent) from None
        except NoAnswer as none:
            # A server that is not there is no fault of the request; one that died of it, or that answers
            # without end, may be.
            strike, lost = none.trouble is not Trouble.UNREACHED, none.trouble is not Trouble.BROKEN
            raise _Failed(f"{server.name}: {self._key.hide(none)}", strike=strike, lost=lost) from None
        means = answer.means
        if means is Meaning.DONE:
            return _likelihood(answer.content, text) if text else self._read(server, settings, answer.content)
        if text and means is Meaning.REFUSED and b"prompt_logprobs" in answer.content:
            return None
        if means is Meaning.REFUSED and b"logprobs" in answer.content and body.endswith(_CHANCES + b"}"):
            self._tells = False
            raise _Again(settings)
        raise self._fault(server, settings, answer, messages)

    def _silent(self, server: Server, silent: Silent) -> Exception:
        silence = self._replicas.silence
        if not silent.hangs:
            return Undecided("given up", f"no answer for {MOST_SILENCES * silence:.0f} s, while others were answered")
        said = f"{server.name} hangs: it takes requests, and has answered none for {silence:.0f} s"
        return _Failed(said, fault=EngineFailed(f"{said}; restart it, and the same command goes on from here"))

    def _read(self, server: Server, settings: _Settings, content: bytes) -> Response:
        try:
            reply = _decode_reply(content)
            choice = reply.choices[0]
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError, RecursionError):
            raise _Failed(f"{server.name} sent no chat completion") from None
        if choice.finish_reason == "abort":
            raise _Failed(f"{server.name} gave the response up")
        if choice.message.reasoning_content or choice.message.reasoning:
            raise UserError(f"{server.name} takes the thought out of the response: start it without a reasoning parser")
        if choice.finish_reason == "content_filter" or choice.message.refusal:
            raise PromptRefused(BLOCKED, self._key.hide(choice.message.refusal or "held back by a content filter"))
        if choice.message.content is None:
            raise _Failed(f"{server.name} sent a response without text ({choice.finish_reason})")
        text = _kept_stop(choice, settings.stop)
        if text is None:
            raise _Again(self._make_settings(settings.sampling, (), settings.extras))
        usage = reply.usage or _Usage()
        tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
        return Response(text, choice.finish_reason or "stop", *tokens, _nuclei(choice))

    def _fault(self, server: Server, settings: _Settings, answer: Answer, messages: Sequence[bytes]) -> Exception:
        """What an answer without a response means."""
        means, words = answer.means, self._words(answer)
        if means.passes or means is Meaning.CONFLICT:
            pause = wire.asked_wait(answer.headers)
            long = pause is not None and pause > self._replicas.patience
            strike = means in (Meaning.BROKEN, Meaning.TIMEOUT)  # perhaps over this request
            return _Failed(
                f"{server.name} {'failed' if strike else 'is busy'} ({answer.status}: {words})",
                strike=strike,
                pause=pause,
                fault=EngineFailed(f"{server.name} asks to wait {pause:.0f} s: {words}") if long else None,
            )
        if means is Meaning.REFUSED:
            return self._refused(server, settings, words, messages)
        fault = self._mistake(server, answer)
        fault = fault or UserError(f"{server.name} refuses requests ({answer.status}: {words})")
        return _Failed(str(fault), strike=False, fault=fault)

    def _refused(self, server: Server, settings: _Settings, said: str, messages: Sequence[bytes]) -> Exception:
        if any(re.search(rf"\b{name}\b", said) for name in settings.extras):
            # A server that knows only OpenAI's parameters would also cut stop strings without a word.
            return _Again(self._make_settings(settings.sampling, (), {}))
        if re.search(r"continue_final_message|add_generation_prompt|last message", said):
            return UserError(f"{server.name} cannot go on from the first words of a response ({said})")
        if any(_SYSTEM in piece for piece in messages) and _NO_SYSTEM.search(said):
            if not self._fold:
                tell(Template(system=False), self._model)
            self._fold = True
            return _Again(settings)
        if self._pixels and "mm_processor_kwargs" in said:
            return UserError(f"{server.name} takes no pixel limits ({said}): set them where the server is started")
        return refusal(said)

    def _mistake(self, server: Server, answer: Answer) -> UserError | None:
        told = {"flags": "--model and --base-url", "key": wire.OPENAI_KEY}
        said = f"{answer.status}: {self._words(answer)}"
        return wire.mistake(answer.means, server.name, said, model=self._model, **told)

    def _words(self, answer: Answer) -> str:
        return self._key.hide(wire.said_in(answer.content))

    async def _is_well(self, attempts: _Attempts) -> bool:
        """Does the server that failed a request answer another one, of one word?"""
        if attempts.server is None:
            return False
        said = {"model": self._model, "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]}
        try:
            url, session = attempts.server.chat, self._replicas.session
            answer = await wire.ask(session, url, msgspec.json.encode(said), seconds=PROBE)
            return answer.means is Meaning.DONE and bool(_decode_reply(answer.content).choices)
        except (NoAnswer, msgspec.DecodeError, UnicodeDecodeError):
            return False

    def _pause(self, failed: _Failed, attempts: _Attempts, well: bool) -> float:
        """Seconds to wait before the next attempt, or the end of the attempts.

        A failure counts against the request only while others are served, or the server is `well` otherwise: that a
        service is down is no reason to give a request up."""
        now = time.monotonic()
        attempts.failures += 1
        others_served = well or self._served > attempts.served
        if attempts.failures == 1 or others_served:
            attempts.since = now
        elif now - attempts.since > self._replicas.patience:
            raise self._replicas.failure or EngineFailed(f"no response for {self._replicas.patience:.0f} s: {failed}")
        attempts.served = self._served
        attempts.strikes += failed.strike and others_served
        if attempts.strikes >= STRIKES:
            raise Undecided("given up", f"{STRIKES} attempts failed while others were served: {failed}")
        return wire.pause(attempts.failures, failed.pause)


def _likelihood(content: bytes, text: str) -> Likelihood | None:
    """How likely the end of the prompt, which `text` is, is said to be; None where the server does not say."""
    try:
        reply = msgspec.json.decode(content, type=_Read)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    logprob, is_first, end = 0.0, True, ""
    for chances in reversed(reply.prompt_logprobs or ()):
        if end.endswith(text):
            break
        # The token itself stands first; where it is not the likeliest one, that may stand after it.
        chance = next(iter((chances or {}).values()), None)
        if chance is None or chance.decoded_token is None:
            return None
        end = chance.decoded_token + end
        logprob += chance.logprob
        is_first &= chance.rank == 1
    tokens = (reply.usage or _Usage()).completion_tokens or 0
    return Likelihood(logprob, is_first, tokens) if end.endswith(text) else None


def _nuclei(choice: _Choice) -> Nuclei | None:
    """The nuclei of the response, where the server told the likeliest tokens at each of its own."""
    tokens = choice.logprobs.content if choice.logprobs else None
    if not tokens or not all(token.top_logprobs for token in tokens):
        return None
    return nuclei_at_top([[top.logprob for top in token.top_logprobs] for token in tokens])


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


def _in_pieces(request: Request) -> Iterator[bytes]:
    """The messages of a request as JSON, between the brackets of their list. The files' bytes are sent as they are, and
    base64 needs no JSON escapes."""
    if not request.images:
        yield msgspec.json.encode(request.messages)[1:-1]
        return
    placing = zip(request.messages, placed(request.messages, len(request.images)), strict=True)
    for number, (message, pieces) in enumerate(placing):
        yield b"," if number else b""
        yield from _with_images(message, pieces, request.images)


def _with_images(message: Message, pieces: Sequence[Piece], images: Sequence[bytes]) -> Iterator[bytes]:
    if not any(isinstance(piece, int) for piece in pieces):
        yield msgspec.json.encode(message)
        return
    yield b'{"role":"user","content":['
    for number, piece in enumerate(pieces):
        yield b"," if number else b""
        if isinstance(piece, str):
            yield b'{"type":"text","text":%b}' % msgspec.json.encode(piece)
        else:
            yield b'{"type":"image_url","image_url":{"url":"data:%b;base64,' % _kind(images[piece])
            yield b64encode(images[piece])
            yield b'"}}'
    yield b"]}"


def _kind(image: bytes) -> bytes:
    return (media_type(image) or "image/png").encode()


def _pixels(min_pixels: int | None, max_pixels: int | None) -> dict[str, Any]:
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return {"mm_processor_kwargs": given} if given else {}
