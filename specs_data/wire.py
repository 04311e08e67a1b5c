"""How an HTTP service is asked: the one place that knows roots, keys, waits, and what an answer means.

The engine's and the services' OpenAI clients, Gemini and the Hub all go by it. Whoever asks keeps its own
rules of when to stop; here is only what is true of every service.

An answer is somebody else's text: it is bounded, and it never sends a request elsewhere. aiohttp takes
`Authorization` off a request that it sends after a redirect to another host, but no other header with a
key in it, and it sends the body along: so no redirect is followed at all.
"""

from __future__ import annotations

import math
import os
import random
import re
import socket
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from specs_data.errors import UserError
from specs_data.inert import one_line

if TYPE_CHECKING:
    from aiohttp.connector import Connection

OPENAI_KEY = "OPENAI_API_KEY"
FIRST_PAUSE = 0.5  # seconds between two attempts, doubled up to LONGEST_PAUSE
LONGEST_PAUSE = 30.0
MOST_BYTES = 16 << 20  # of one answer, decompressed
LONGEST_WORDS = 300  # of a server's, in characters
CONNECT = 30  # seconds for a connection; an answer may take as long as its caller waits
IDLE = 4  # seconds a connection is kept unused: servers drop theirs after 5 or more
_UNTOLD = 500  # the status of a failure that tells none
LINE = 8190  # bytes of one header; of headers aiohttp takes 128
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 8}  # a dead machine shows after 3 minutes
FOLLOWED = (301, 302, 303, 307, 308)  # the redirects that a client would follow


# Where, and with what key


def api_root(url: str) -> URL:
    """The root of an API at `url`: with or without /v1, or that of its chat completions. Raises UserError."""
    try:
        root = URL(url.strip().rstrip("/").removesuffix("/chat/completions"))
        usable = root.scheme in ("http", "https") and bool(root.host)
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"{url!r} is not a URL of a server; it should look like http://HOST:PORT/v1")
    return root / "v1" if root.path in ("", "/") else root


class Key:
    """A key from the environment, or none. `text` goes into a request's head and nowhere else."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    @property
    def bearer(self) -> dict[str, str]:
        """The header that carries it."""
        return {"Authorization": f"Bearer {self.text}"} if self.text else {}

    def hide(self, said: object) -> str:
        """What a service said on one short line that is safe to print: some repeat the key in their errors, or parts
        of it, or as JSON or a URL writes it."""
        return one_line(self._hidden(str(said)[: 8 * LONGEST_WORDS]), LONGEST_WORDS) or "no explanation"

    def _hidden(self, said: str) -> str:
        if not self.text:
            return said
        plain = said
        for _ in range(3):  # JSON in JSON in a URL
            plain = _ESCAPED.sub(_unescaped, plain)
        told = _without(plain, self.text)
        told = _without(said, self.text) if told == plain else told
        for spelling in _spellings(self.text):
            told = _without_parts(told, spelling)
        return told


_ESCAPED = re.compile(r"\\u00([0-9a-fA-F]{2})|%([0-9a-fA-F]{2})|\\([\"\\/])")
_SHORTEST_PART = 6  # characters of a key that are told from a word; fewer beside its masked rest
_MASKED = re.compile(r"[\w-]*(?:\*{2,}|\.{3,}|…)[\w-]*")


def _spellings(key: str) -> Iterator[str]:
    """The key as hexadecimal digits, and as Base64 writes it wherever in a text it begins."""
    yield key.encode().hex()
    for before in range(3):
        for alphabet in (b"+/", b"-_"):
            text = b64encode(bytes(before) + key.encode(), alphabet).decode().rstrip("=")
            yield text[-(-before * 8 // 6) : (before + len(key)) * 8 // 6]


def _unescaped(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    return chr(int(code, 16)) if code else found[3]


def _without(said: str, key: str) -> str:
    """`said` without the key and any part of it."""
    said = _MASKED.sub(lambda found: "***" if _ends_like(found[0], key) else found[0], said)
    return _without_parts(said, key)


def _without_parts(said: str, key: str) -> str:
    shortest = min(_SHORTEST_PART, len(key))
    parts, place = [], 0
    while place < len(said):
        end = place
        while end < len(said) and said[place : end + 1] in key:
            end += 1
        if end - place >= shortest:
            parts.append("***")
            place = end
        else:
            parts.append(said[place])
            place += 1
    return "".join(parts)


def _ends_like(masked: str, key: str) -> bool:
    """Does a word with its middle masked show the beginning or the end of the key?"""
    head, tail = re.split(r"[*.…]+", masked, maxsplit=1)
    return bool(head and key.startswith(head)) or bool(tail and key.endswith(tail))


def read_key(*names: str) -> Key:
    """The key in the first of these environment variables that has one. Raises UserError, without the key, for
    one that no HTTP header can carry: the client's own error would show it."""
    for name in names:
        key = os.environ.get(name, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"{name} has a line break or another character that no key has: set it anew")
        if key:
            return Key(key)
    return Key(None)


# What an answer means


class Meaning(Enum):
    """What an HTTP status means to whoever asked."""

    DONE = auto()
    ELSEWHERE = auto()  # a redirect
    WRONG_KEY = auto()
    NOT_THERE = auto()  # no such model, or nothing at this URL
    REFUSED = auto()  # this one request, and it would be refused again
    NO_QUOTA = auto()  # an account without money, or a "too soon" that no waiting mends
    TOO_SOON = auto()
    CONFLICT = auto()  # a chat: something holds it at the moment; a repository: somebody else was first
    BUSY = auto()
    TIMEOUT = auto()
    BROKEN = auto()
    ODD = auto()

    @property
    def passes(self) -> bool:
        """Does it say to come again, whatever was asked for?"""
        return self in (Meaning.TOO_SOON, Meaning.BUSY, Meaning.TIMEOUT, Meaning.BROKEN)


_MEANINGS = {
    **dict.fromkeys((400, 413, 422), Meaning.REFUSED),
    **dict.fromkeys((401, 403), Meaning.WRONG_KEY),
    402: Meaning.NO_QUOTA,
    404: Meaning.NOT_THERE,
    **dict.fromkeys((408, 504), Meaning.TIMEOUT),
    409: Meaning.CONFLICT,
    **dict.fromkeys((425, 499, 503, 529), Meaning.BUSY),  # 499: Google's for a call that it gave up
    429: Meaning.TOO_SOON,
}
_BY_HUNDREDS = {2: Meaning.DONE, 3: Meaning.ELSEWHERE, 5: Meaning.BROKEN}


# OpenAI's word for an account without money, and the quotaId of Google's that are counted by the day.
_LASTING = re.compile(r"insufficient_quota|[\"']quotaId[\"']\s*:\s*[\"'][^\"']*PerDay")

# How services say it with another status: Anthropic's 400, say. Further on they may repeat what they were asked.
_NO_MONEY = re.compile(
    r"insufficient[ _-](?:balance|credits?|funds|quota)|credit balance|out of credits|exceeded your current quota|"
    r"billing[ _-]hard[ _-]limit|payment required",
    re.IGNORECASE,
)
_BEGINNING = 300


def meaning(status: int, said: str = "") -> Meaning:
    """What a status means; `said` is the error's body, where there is one."""
    if status == 429 and _LASTING.search(said):
        return Meaning.NO_QUOTA
    means = _MEANINGS.get(status) or _BY_HUNDREDS.get(status // 100, Meaning.ODD)
    poor = means in (Meaning.REFUSED, Meaning.ODD) and _NO_MONEY.search(said, 0, _BEGINNING)
    return Meaning.NO_QUOTA if poor else means


def mistake(means: Meaning, where: str, said: str, *, model: str | None, flags: str, key: str) -> UserError | None:
    """What only the user can mend, as a sentence; None for all that is no mistake of the user's. `flags` choose
    model and address, `key` is the environment variable of the key."""
    match means:
        case Meaning.WRONG_KEY:
            return UserError(f"{where} refuses the key ({said}): set {key}")
        case Meaning.NOT_THERE:
            return UserError(f"{where} has no model {model!r}, or nothing is at this URL ({said}): check {flags}")
        case Meaning.NO_QUOTA:
            return UserError(
                f"{where} has no quota left for the key in {key} ({said}): once it has, run the same command again"
            )
        case Meaning.ELSEWHERE:
            return UserError(f"{where} redirects ({said}), and no key is sent there: give the final URL, see {flags}")
    return None


def said_in(content: bytes) -> str:
    """The message in an error's body, however the server wraps it."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return content[: 4 * LONGEST_WORDS].decode(errors="replace")
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(key):
            body = body[key]
    return body if isinstance(body, str) else msgspec.json.encode(body).decode()


# When to come again


def asked_wait(headers: Mapping[str, str], body: object = None) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, `Retry-After` (seconds or an HTTP date), or Google's
    RetryInfo in the error that is `body`, as JSON. None where it asks for none."""
    return next((wait for wait in _waits(headers, body) if math.isfinite(wait) and wait >= 0), None)


def _waits(headers: Mapping[str, str], body: object) -> Iterator[float]:
    yield _number(headers.get("retry-after-ms", "")) / 1000
    yield _number(headers.get("Retry-After", ""))
    yield _until(headers.get("Retry-After", ""))
    fault = body.get("error", body) if isinstance(body, dict) else None
    details = fault.get("details") if isinstance(fault, dict) else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and re.fullmatch(r"\d+(\.\d+)?s", str(detail.get("retryDelay"))):
            yield float(detail["retryDelay"][:-1])


def _until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError, OSError, IndexError):  # what the parser makes of what is no date
        return math.nan


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def pause(failures: int, asked: float | None = None, first: float | None = None) -> float:
    """Seconds until the next attempt after so many failures in a row: what the server asked for, or else `first`
    (FIRST_PAUSE), doubled with each failure. With noise, so that not all come back at once, and never before
    the time that was asked for. A wait of 0 says nothing: obeyed, it would be an attack."""
    if asked:
        return asked * random.uniform(1.0, 1.1)
    first = FIRST_PAUSE if first is None else first
    # The exponent is bounded: 2.0 ** 1024 overflows.
    return min(LONGEST_PAUSE, first * 2.0 ** min(max(0, failures - 1), 64)) * random.uniform(0.5, 1.0)


# Asking


class Answer(Struct, frozen=True):
    """What came back; for a redirect `content` is where to."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def means(self) -> Meaning:
        """What the status means."""
        return meaning(self.status, self.content[:4096].decode(errors="replace") if self.status >= 400 else "")


def told(answer: Answer) -> Answer:
    """The answer to a question for a chat completion, with the status that its body tells: gateways that have sent a
    200 already put a failure there."""
    if b'"error"' not in answer.content or answer.means is not Meaning.DONE:
        return answer
    try:
        body = msgspec.json.decode(answer.content, type=_Failure)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return answer
    if body.choices or not body.error:
        return answer
    code = body.error.get("code") if isinstance(body.error, dict) else None
    status = code if isinstance(code, int) and code in range(400, 600) else _UNTOLD
    return Answer(status, answer.headers, answer.content)


class _Failure(Struct):
    error: Any = None
    choices: Any = None


class Trouble(Enum):
    """Why there is no answer."""

    UNREACHED = auto()  # no connection
    LOST = auto()  # the connection broke before an answer
    BROKEN = auto()  # what came is no answer: cut off, without end, not HTTP


class NoAnswer(Exception):
    """A request without a whole answer, and why."""

    def __init__(self, error: Exception) -> None:
        # aiohttp's own words for a refused connection contain the address of an object in memory.
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        super().__init__(str(cause) or type(error).__name__)
        self.trouble = _trouble(error)


class Redirected(aiohttp.ClientError):
    """The answer is a redirect. The text says where to, but for what follows the path, which may be a secret."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"to {headers.get('Location', 'nowhere').partition('?')[0]}")
        self.status = status
        self.headers = headers


class TooLarge(aiohttp.ClientPayloadError):
    """The answer has more bytes than any answer of use."""


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, aiohttp.ClientConnectorError):
        return Trouble.UNREACHED
    if isinstance(error, aiohttp.ClientConnectionError | OSError):  # a TimeoutError is an OSError
        return Trouble.LOST
    return Trouble.BROKEN


class _Bounded(aiohttp.ClientResponse):
    """A response that leads nowhere else and ends. In the response rather than where it is asked for, so that it
    holds for requests that google-genai makes, too."""

    most = MOST_BYTES

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        await super().start(connection)
        if self.status in FOLLOWED:
            raise Redirected(self.status, self.headers)
        return self

    async def read(self) -> bytes:
        if self._body is None and not self._is_short():
            try:
                self._body = await self._whole()
            except BaseException:
                self.close()  # what is left of it is not waited for
                raise
        return await super().read()

    def _is_short(self) -> bool:
        """Does it say that it is, and is it, as it is not packed, what it says?"""
        headers, told = self.headers, self.headers.get("Content-Length", "")
        plain = "Content-Encoding" not in headers and "Transfer-Encoding" not in headers
        return plain and len(told) < 9 and told.isdecimal() and int(told) <= self.most

    async def _whole(self) -> bytes:
        # Piece by piece: aiohttp would put a gzip bomb or an endless answer together first.
        pieces, size = [], 0
        async for piece in self.content.iter_any():
            size += len(piece)
            if size > self.most:
                raise TooLarge(f"the answer has more than {self.most >> 20} MB")
            pieces.append(piece)
        return b"".join(pieces)


def session(
    headers: Mapping[str, str] | None = None, *, most: int = MOST_BYTES, proxies: bool = False
) -> aiohttp.ClientSession:
    """Connections for requests with these headers, to be opened inside the event loop: as many as are asked for,
    without a limit of time, without cookies, with answers of at most `most` bytes. `proxies`: through those
    of the environment."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE, socket_factory=_kept_alive),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Only where there are any: looking for them takes a thread for each request.
        trust_env=proxies and bool(getproxies()),
        max_line_size=LINE,
        max_field_size=LINE,
        response_class=type("Bounded", (_Bounded,), {"most": most}),
    )


async def ask(
    connections: aiohttp.ClientSession, url: URL, data: Any = None, *, seconds: float | None = None
) -> Answer:
    """The answer to a POST of `data`, or to a GET without. Raises NoAnswer, also after `seconds`."""
    limits: dict[str, Any] = {} if seconds is None else {"timeout": aiohttp.ClientTimeout(total=seconds)}
    method = "GET" if data is None else "POST"
    try:
        async with connections.request(method, url, data=data, allow_redirects=False, **limits) as reply:
            return Answer(reply.status, reply.headers, await reply.read())
    except Redirected as away:
        return Answer(away.status, away.headers, str(away).encode())
    except (aiohttp.ClientError, OSError) as error:
        raise NoAnswer(error) from None


def _kept_alive(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
