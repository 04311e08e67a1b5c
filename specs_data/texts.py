"""Prompt and card texts, each with the hash that goes on record wherever it was used."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from pathlib import Path
from string import ascii_uppercase

from msgspec import Struct

from specs_data.errors import UserError
from specs_data.records import Message, Problem


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
    question, options = problem.question, list(zip(ascii_uppercase, problem.choices, strict=False))
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
        return _text(Path(name).name, Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # `name` may be any text: too long for a path, with a NUL in it
        found = sorted(item.name.split(".")[0] for item in root.iterdir() if item.name.endswith(suffixes))
        raise UserError(f"no readable file {name!r}, and {folder}/ has only: {', '.join(found)}") from None


def _text(name: str, body: str) -> Text:
    body = body.strip()
    return Text(name, body, hashlib.sha256(body.encode()).hexdigest())
