"""Multiple choice, by letter or by content.

Worked example, for the choices (A) 30° and (B) 60°: `B`, `(B) 60°`, `B) because A is wrong`, `60°`
and `60` all choose B; `A or B` chooses nothing, and neither does `(A) 60°`, whose letter and content
disagree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache

from specs_data.judges.answers import plain
from specs_data.judges.numbers import read_quantity, same_quantity

_NAMED = re.compile(
    r"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer|letter)\s*(?:is\b\s*)?:?\s*(?=[(\[]?\s*[A-Za-z]\b)",
    re.IGNORECASE,
)
_BARE = re.compile(r"[(\[{]?\s*([A-Za-z])\s*[)\]}]?\s*[.:]?")
_LETTER = re.compile(
    r"(?:\(\s*([A-Z])\s*\)|\[\s*([A-Z])\s*\]|([A-Z])(?=\s*[).:\],]|\s+[-]\s))\s*[).:\],-]*\s*(.*)", re.DOTALL
)
_SEVERAL = re.compile(r"[(\[]?[A-Z][)\]]?(?:\s*(?:,|;|/|&|\band\b|\s)\s*(?:and\s+)?[(\[]?[A-Z][)\]]?)+")
_JOINED = re.compile(r"[A-H]{2,8}")
_ANOTHER = re.compile(r"(?:or|and|,|/|&)?\s*[(\[]?[A-Z](?:[)\].:,]|\s*$|\s+(?:or|and)\b)")
_PREFIX = re.compile(r"[(\[]?([A-Z])[)\].:]\s*(?=\S)")
_FOLDED = re.compile(r"[\s\-_,;:'\"`]+")
_EDGES = " .!?()[]{}*"


def fold(text: str) -> str:
    """A word or phrase without case, punctuation and a leading article: what makes two the same."""
    text = _FOLDED.sub(" ", plain(text).casefold()).strip(_EDGES)
    for article in ("the ", "a ", "an "):
        if text.startswith(article) and len(text) > len(article):
            return text[len(article) :]
    return text


def read_letters(text: str) -> tuple[frozenset[str], str] | None:
    """The letters that `text` chooses and what it says after one, or None where it chooses none."""
    text = plain(text).replace("*", "")
    named = _NAMED.match(text)
    if named:
        text = text[named.end() :]
    bare = _BARE.fullmatch(text)
    if bare:
        return frozenset(bare[1].upper()), ""
    if _SEVERAL.fullmatch(text):
        return frozenset(re.findall(r"[A-Z]", text)), ""
    if _JOINED.fullmatch(text) and len(set(text)) == len(text):
        return frozenset(text), ""
    found = _LETTER.match(text)
    if not found or _ANOTHER.match(found[4]):
        return None
    return frozenset(found[1] or found[2] or found[3]), found[4].strip()


def find_choice(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the one choice whose content is `text`, as words or as a number; None for no one."""
    contents = _contents(tuple(choices))
    folded = fold(text)
    found = [letter for letter, content in contents if fold(content) == folded]
    if not found:
        number = read_quantity(text)
        values = [(letter, read_quantity(content)) for letter, content in contents] if number else []
        found = [letter for letter, value in values if value and number and same_quantity(value, number)]
    return found[0] if len(found) == 1 else None


def gold_letters(gold: str, choices: Sequence[str]) -> frozenset[str] | str:
    """The letters that are right, or the named reason why the gold does not say."""
    content = find_choice(gold, choices)
    letters = read_letters(gold)
    if letters and choices and not letters[0] <= _letters(choices):
        letters = None
    if letters and _JOINED.fullmatch(gold) and sorted(gold) != list(gold):
        letters = None  # a word: BAD
    if content and letters and letters[0] != {content} and not letters[1]:
        return "ambiguous gold"
    if letters:
        return letters[0]
    return frozenset(content) if content else "gold is not a choice"


def chosen_letters(answer: str, choices: Sequence[str]) -> frozenset[str] | None:
    """The letters that an answer chooses, None where it chooses none or contradicts itself."""
    found = read_letters(answer)
    if found is None or (choices and not found[0] <= _letters(choices)):
        content = find_choice(answer, choices)
        return frozenset(content) if content else None
    letters, rest = found
    other = find_choice(rest, choices) if rest and choices else None
    return None if other and other not in letters else letters


def _letters(choices: Sequence[str]) -> frozenset[str]:
    return _first_letters(min(len(choices), 26))


@cache
def _first_letters(count: int) -> frozenset[str]:
    return frozenset(chr(ord("A") + number) for number in range(count))


@lru_cache(maxsize=1024)
def _contents(choices: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(letter, content) of each choice; a choice may carry its letter: `(A) red`."""
    prefixes = [_PREFIX.match(choice) for choice in choices]
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    if all(prefix and prefix[1] == letter for prefix, letter in zip(prefixes, letters, strict=True)):
        choices = tuple(choice[prefix.end() :] for choice, prefix in zip(choices, prefixes, strict=True) if prefix)
    return tuple(zip(letters, choices, strict=True))
