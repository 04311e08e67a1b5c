"""Asking a model behind a service, without ever taking a failure for an answer.

A Question is a rubric, an item and the form to fill in. A Client sends it once and reads what came
back. An Asker gets it answered: a Service (service.py) asks until the form is filled or it has to
give up with Undecided; Gemini's batch jobs (gemini_batch.py) answer later, at half the price.

To add a service, write a module here with a class that satisfies Client and name it in `open_asker` (opening.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from pydantic import BaseModel, BeforeValidator, ConfigDict

from specs_data.errors import ItemRefused
from specs_data.images import Unusable, media_type, settle
from specs_data.records import Message
from specs_data.services.reading import read_form
from specs_data.texts import Piece, joined, placed, said

if TYPE_CHECKING:
    from specs_data.wire import Key, Meaning, NoAnswer

# Why there is no answer: the reasons that are counted.
Reason = Literal[
    "rate limit",
    "service error",
    "timeout",
    "no connection",
    "broken answer",
    "empty answer",
    "cut off",
    "blocked",
    "refused",
    "job failed",
    "images too large",
    "unknown image type",
]

# Those that belong to the one item that was asked about: it is asked about once more at most, and they say
# nothing of the service, once that has answered anything.
OF_THE_ITEM: frozenset[Reason] = frozenset({"blocked", "refused", "cut off", "images too large", "unknown image type"})
TWICE = 2

# A request may have 20 MB, and base64 makes four bytes of three.
MAX_IMAGE_BYTES = 14_000_000

_READ = {"image/png", "image/jpeg", "image/webp"}

_NOTES = {
    "broken answer": "Your last reply could not be read. Reply with the JSON object that is asked for alone.",
    "empty answer": "Your last reply was empty. Reply with the JSON object that is asked for.",
    "cut off": "Your last reply was too long and was cut off. Do not think aloud; keep the reason under 20 words.",
}

# Text that a model may leave out by writing null.
Words = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class Form(BaseModel):
    """What a model fills in: flags and words. `item` repeats the item's id."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    item: Words = ""


F = TypeVar("F", bound=Form)


class Question(Struct, Generic[F], frozen=True):
    """One thing to ask: the rubric, which is the same for many questions and goes first so that
    services can cache it, the image files' bytes, the item's id and its content (text, and the number of a picture
    where that stands), and the form to fill in. A repeated `attempt` knows the `trouble` with the last one, and how
    many were cut off before it (`shorter`)."""

    rubric: str
    images: tuple[bytes, ...]
    item: str
    content: tuple[Piece, ...]
    form: type[F]
    attempt: int = 0
    trouble: Reason | None = None
    shorter: int = 0

    @property
    def text(self) -> str:
        """The item's text, without its pictures."""
        return said(self.content)

    @property
    def asked(self) -> tuple[Piece, ...]:
        """The item's content, and what a repeated attempt has to do better."""
        note = _NOTES.get(self.trouble or "", "")
        return joined((*self.content, f"\n\n{note}" if note else ""))

    def most(self, tokens: int) -> int:
        """Most tokens of this attempt's answer, where the first may have `tokens`: half after each that was cut off."""
        return max(1, tokens >> self.shorter)

    @property
    def warmth(self) -> float:
        """The temperature: 0, and a little more with each attempt, so that it does not end as the one before."""
        return min(0.9, 0.3 * self.attempt)


class Reply(Struct, frozen=True):
    """What a service returned for a question: JSON, it is hoped. `completion_tokens` include thinking."""

    text: str = ""
    served: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Answer(Struct, Generic[F], frozen=True):
    """A filled form, the model that filled it, and the tokens of all attempts it took."""

    filled: F
    served: str
    prompt_tokens: int
    completion_tokens: int


class Failed(Exception):
    """One attempt gave no usable answer. `detail` is the service's explanation, on one line; `wait` how
    many seconds it asked for; `final` says that asking again cannot help; `paid` has the tokens that
    were paid for all the same."""

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        wait: float | None = None,
        final: bool = False,
        paid: Reply | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.detail = detail
        self.wait = wait
        self.final = final
        self.paid = paid or Reply()

    @property
    def of_the_item(self) -> bool:
        """Does it belong to what was asked about, and not to the service?"""
        return self.reason in OF_THE_ITEM


class Client(Protocol):
    """A service that takes questions, one attempt at a time."""

    @property
    def service(self) -> str:
        """Its name: gemini, openai."""
        ...

    @property
    def model(self) -> str:
        """The model that is asked for."""
        ...

    @property
    def account(self) -> Hashable:
        """The address and the key: those with the same share the service's limits."""
        ...

    @property
    def max_tokens(self) -> int:
        """Most tokens of one answer, thinking included."""
        ...

    @property
    def options(self) -> Mapping[str, str]:
        """All that determines an answer besides the model and the question: limits, temperature, thinking."""
        ...

    async def ask(self, question: Question[Any]) -> Reply:
        """One attempt. Raises Failed, and UserError where no attempt can succeed."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class Refusals(Protocol):
    """Where it is kept across runs which items a service would not answer about."""

    def was_refused(self, name: str) -> bool:
        """Is it on record under this name?"""
        ...

    def put_refused(self, name: str) -> None:
        """Put it on record."""
        ...


class Asker(Protocol):
    """Whatever gets questions answered."""

    @property
    def settings(self) -> Mapping[str, str]:
        """The service, the model and the client's options."""
        ...

    @property
    def concurrency(self) -> int:
        """How many questions may be waiting at once."""
        ...

    async def ask(self, question: Question[F]) -> Answer[F]:
        """The answer. Raises Undecided with a Reason, and UserError where the run must stop."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


def ask_about(rubric: str, parts: Mapping[str, str], images: Sequence[bytes], form: type[F]) -> Question[F]:
    """A question about an item made of named parts that were written by others.

    Each part stands between lines that carry the item's id. The id is a hash of all parts, so that
    no text can close its own part. The images stand at the `<image>`s of the first part, or before everything. Those
    of kinds that services do not read go as PNG. Raises ItemRefused for those that cannot be sent."""
    images = _readable(images)
    content = hashlib.sha256(json.dumps(dict(parts)).encode())
    for image in images:
        content.update(hashlib.sha256(image).digest())
    item = content.hexdigest()[:16]
    inside: list[tuple[Piece, ...]] = [(text,) for text in parts.values()]
    if parts:
        (inside[0],) = placed((Message("user", next(iter(parts.values()))),), len(images))
    numbers = tuple(range(len(images)))
    lead = numbers if not inside or inside[0][: len(images)] == numbers else ()
    whole: list[Piece] = [*lead, f"Item {item}"]
    for name, pieces in zip(parts, inside, strict=True):
        own = (piece for piece in pieces if piece not in lead)
        whole += [f"\n\nBEGIN {name} {item}\n", *own, f"\nEND {name} {item}"]
    return Question(rubric, images, item, joined(whole), form)


def image_type(image: bytes) -> str:
    """The media type of an image file, by its first bytes. Raises ItemRefused for one that services do not read."""
    found = media_type(image)
    if found not in _READ:
        raise ItemRefused("unknown image type")
    return found


def json_schema(form: type[Form], longest: int | None = None) -> dict[str, Any]:
    """The JSON schema of a form, in the strict shape that services ask for; strings of `longest` characters at most."""
    kinds: dict[object, dict[str, Any]] = {
        bool: {"type": "boolean"},
        str: {"type": "string"} | ({} if longest is None else {"maxLength": longest}),
    }
    fields = {name: kinds[field.annotation] for name, field in form.model_fields.items()}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def form_sha256(form: type[Form]) -> str:
    """The hash of what a model is asked to fill in."""
    return hashlib.sha256(json.dumps(json_schema(form)).encode()).hexdigest()


def tokens(count: object) -> int:
    """A token count that a service returned, 0 for anything else."""
    return count if isinstance(count, int) else 0


def no_answer(none: NoAnswer, key: Key) -> Failed:
    """The failure of an attempt without an answer."""
    from specs_data.wire import Trouble

    return Failed("broken answer" if none.trouble is Trouble.BROKEN else "no connection", key.hide(none))


def turned_down(means: Meaning, said: str, wait: float | None) -> Failed:
    """The failure of an attempt that the service turned down, and for which it asked to `wait`. Only what plainly
    refuses the item is the item's fault."""
    from specs_data.wire import Meaning

    if means is Meaning.TOO_SOON:
        return Failed("rate limit", said, wait=wait)
    if means is Meaning.REFUSED:
        return Failed("refused", said, final=True)
    return Failed(
        "timeout" if means is Meaning.TIMEOUT else "service error", said, wait=wait, final=means is Meaning.ODD
    )


def fill(form: type[F], text: str, item: str = "") -> F:
    """The form that a reply fills in, whatever stands around it. Raises Failed."""
    filled = read_form(form, text, item)
    if filled is None:
        raise Failed("broken answer")
    return filled


def asked_again(question: Question[F], trouble: Reason) -> Question[F]:
    """The same question, to be asked otherwise than before: with the trouble told, and a cut-off one for less."""
    shorter = question.shorter + (trouble == "cut off")
    return replace(question, attempt=question.attempt + 1, trouble=trouble, shorter=shorter)


def _readable(images: Sequence[bytes]) -> tuple[bytes, ...]:
    try:
        readable = tuple(image if media_type(image) in _READ else settle(image) for image in images)
    except Unusable:
        raise ItemRefused("unknown image type") from None
    if sum(map(len, readable)) > MAX_IMAGE_BYTES:
        raise ItemRefused("images too large")
    return readable
