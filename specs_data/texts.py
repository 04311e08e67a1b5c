"""Prompt and card texts, each with the hash that goes on record wherever it was used, and where pictures stand in them.

Pictures stand at the `<image>`s of what the user says, or else before it. Only as many of them as there are pictures
are places; what stands in quotes or backticks is text about the word.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence, Sized
from importlib.resources import files
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from msgspec import Struct

from specs_data.errors import UserError
from specs_data.records import Message, Problem

IMAGE = "<image>"
# A piece of a message: text, or the number of a picture, from 0.
Piece = str | int
# What is quoted goes first, so that what is left of the word is a place. Hostile texts are long: all this is linear.
_QUOTED = r"```[^`]*```|`[^`'\n]*`|[\"'“‘«](?:<image>)+[\"'”’»]"
_PLACE = re.compile(rf"{_QUOTED}|(<image>)")
_NUMBERED = re.compile(rf"{_QUOTED}|<image[ _](\d{{1,2}})>".replace("<image>)+", r"<image(?:[ _]\d{1,2})?>)+"))
_FIRST = re.compile(r"\s*(?:<image>\s*)+")


class Text(Struct, frozen=True):
    """A prompt or card text. `sha256` is the hex digest of its UTF-8 bytes."""

    name: str
    body: str
    sha256: str


def load_prompt(name: str) -> Text:
    """The text `name` from prompts/, or the file of that path. Raises UserError."""
    return _load("prompts", name, (".md", ".txt"))


def load_card(name: str) -> Text:
    """The template `name` from cards/, or the file of that path. Raises UserError."""
    return _load("cards", name, (".md.jinja", ".html.jinja"))


def system_prompt(name: str | None, instruction: str) -> Text | None:
    """The system prompt of a run: `name` in prompts/ or a file, nothing for "none", and by default
    the response format's own `instruction` (a name in prompts/ or the text itself)."""
    if name == "none":
        return None
    if name is not None:
        return load_prompt(name)
    try:
        return load_prompt(instruction)
    except UserError:
        return _text("the format's instruction", instruction)


def chat(problem: Problem, system: Text | None) -> tuple[Message, ...]:
    """The messages that put `problem` to a policy: one way for sampling, training and the dataset."""
    user = Message("user", _question(problem))
    return (user,) if system is None else (Message("system", system.body), user)


def _question(problem: Problem) -> str:
    """The question, followed by the choices if it does not list them by their letters."""
    question = problem.question
    if not problem.choices:
        return question
    options = list(zip(ascii_uppercase, problem.choices, strict=False))
    if all(re.search(rf"\b{letter}\W{{1,3}}{re.escape(choice)}(?!\w)", question) for letter, choice in options):
        return question
    return "\n".join((question, *(f"({letter}) {choice}" for letter, choice in options)))


def _load(folder: str, name: str, suffixes: tuple[str, ...]) -> Text:
    root = files(f"specs_data.{folder}")
    shipped = [root.joinpath(name + suffix) for suffix in suffixes if "/" not in name]
    try:
        for file in shipped:
            if file.is_file():
                return _text(name, file.read_text(encoding="utf-8"))
        return _text(Path(name).name, Path(name).read_text(encoding="utf-8-sig"))  # some editors begin with a mark
    except (OSError, ValueError):  # `name` may be any text: too long for a path, with a NUL in it
        found = sorted(item.name.split(".")[0] for item in root.iterdir() if item.name.endswith(suffixes))
        raise UserError(f"no readable file {name!r}, and {folder}/ has only: {', '.join(found)}") from None


def _text(name: str, body: str) -> Text:
    body = body.strip()
    return Text(name, body, hashlib.sha256(body.encode()).hexdigest())


# Where pictures stand


def count_places(text: str) -> int:
    """How many `<image>`s in `text` stand for pictures, if there are pictures."""
    return sum(found[1] is not None for found in _PLACE.finditer(text)) if IMAGE in text else 0


def without_first(text: str) -> str:
    """`text` without the `<image>`s that it begins with."""
    found = _FIRST.match(text)
    return text[found.end() :] if found else text


def numbered_places(text: str) -> tuple[str, list[int]]:
    """`text` with `<image>` for each `<image 3>` (MMMU) or `<image_3>` (EMMA) of it, and their numbers."""
    numbers: list[int] = []

    def place(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        numbers.append(int(found[1]))
        return IMAGE

    return _NUMBERED.sub(place, text), numbers


def misplaced(messages: Sequence[Message], pictures: int) -> str | None:
    """The number of places and of pictures, where they disagree; None where every picture has its place."""
    asked = [message.content for message in messages if message.role == "user"]
    places = sum(map(count_places, asked))
    about_the_word = not pictures and not any(map(_FIRST.match, asked))
    if places in (0, pictures) or about_the_word:
        return None
    return f"{tell(range(places), 'placeholder')}, {tell(range(pictures), 'picture')}"


def placed(messages: Sequence[Message], pictures: int) -> list[tuple[Piece, ...]]:
    """The pieces of each message, with every picture at its place. Where there are not as many places as pictures,
    the pictures stand before the first thing that the user says."""
    if not pictures:
        return [(message.content,) for message in messages]
    places = [count_places(message.content) if message.role == "user" else 0 for message in messages]
    if sum(places) == pictures:
        numbers = iter(range(pictures))
        return [
            tuple(_pieces(message.content, numbers)) if count else (message.content,)
            for message, count in zip(messages, places, strict=True)
        ]
    first = _first(messages)
    return [(*(range(pictures) if turn == first else ()), message.content) for turn, message in enumerate(messages)]


def leading(messages: Sequence[Message], pictures: int) -> tuple[Message, ...] | None:
    """The messages as text, where all pictures stand before the first thing that the user says; None where they are
    among the text."""
    if not pictures:
        return tuple(messages)
    first = _first(messages)
    found = []
    for turn, (message, pieces) in enumerate(zip(messages, placed(messages, pictures), strict=True)):
        numbers = [place for place, piece in enumerate(pieces) if isinstance(piece, int)]
        lead = numbers[-1] + 1 if numbers else 0
        if numbers and (turn != first or len(numbers) < pictures or said(pieces[:lead]).strip()):
            return None
        found.append(Message(message.role, said(pieces[lead:])))
    return tuple(found)


def in_blocks(messages: Sequence[Message], pictures: int) -> list[dict[str, Any]]:
    """The messages in the blocks that trainers and chat templates take: `{"type": "image"}` and text."""
    return [
        {"role": message.role, "content": list(map(_block, pieces))}
        for message, pieces in zip(messages, placed(messages, pictures), strict=True)
    ]


def to_content(messages: Sequence[Message], pictures: int) -> list[dict[str, Any]]:
    """The messages as a trainer's row has them: in text where the pictures come first, as every trainer puts them,
    and in blocks where they are among the text."""
    plain = leading(messages, pictures)
    if plain is None:
        return in_blocks(messages, pictures)
    return [{"role": message.role, "content": message.content} for message in plain]


def _first(messages: Sequence[Message]) -> int | None:
    """The turn in which the user says the first thing."""
    return next((turn for turn, message in enumerate(messages) if message.role == "user"), None)


def said(pieces: Sequence[Piece]) -> str:
    """The text of these pieces, without the pictures."""
    return "".join(piece for piece in pieces if isinstance(piece, str))


def joined(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """The same with each run of texts as one; empty ones go."""
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        elif piece != "":
            found.append(piece)
    return tuple(found)


def _block(piece: Piece) -> dict[str, str]:
    return {"type": "text", "text": piece} if isinstance(piece, str) else {"type": "image"}


def _pieces(text: str, numbers: Iterator[int]) -> Iterator[Piece]:
    start = 0
    for found in _PLACE.finditer(text):
        if found[1] is None:
            continue
        if text[start : found.start()]:
            yield text[start : found.start()]
        yield next(numbers)
        start = found.end()
    if text[start:]:
        yield text[start:]


def tell(things: Sized, name: str) -> str:
    """How many there are: "1 picture", "2 pictures"."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
