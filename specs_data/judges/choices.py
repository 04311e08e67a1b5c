"""Multiple choice, by letter or by content.

Worked example, for the choices (A) 30° and (B) 60°: `B`, `(B) 60°`, `b. 60°`, `B (60°)`, `60°`, `60`,
`B) because A is wrong` and `It is 60°` all choose B; `A or B` chooses nothing, and neither does
`(A) 60°`, whose letter and content disagree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache

from specs_data.judges.answers import plain, said, without_indices
from specs_data.judges.numbers import read_quantity, same_quantity

_NAMED = re.compile(
    r"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer|letter)\s*(?:is\b\s*)?:?\s*(?=[(\[]?\s*[A-Za-z]\b)",
    re.IGNORECASE,
)
_BARE = re.compile(r"[(\[{]?\s*([A-Za-z])\s*[)\]}]?\s*[.:]?")
_LETTER = re.compile(
    r"(?:\(\s*([A-Z])\s*\)|\[\s*([A-Z])\s*\]|([A-Z])(?=\s*[).:\],]|\s+[-]\s))\s*[).:\],-]*\s*(.*)", re.DOTALL
)
_IN_BRACKETS = re.compile(r"([A-Z])\s*(\([^()]*\))\s*")  # B (blue)
_BOLD = re.compile(r"\*\*\(?([A-Z])[).:]?\*\*[).:]?(?=\s+\S)")
_MARKED = re.compile(
    r"[(\[]?[ \t]*([A-Za-z])(?![A-Za-z])[ \t]*[)\]]?[ \t]*(?:[.:=-]|\bis\b)?[ \t]*([^ \t].*)", re.DOTALL
)
_OPTION = re.compile(r"(?:^|(?<=\s))(?:\(([A-Z])[).:][ \t]*|([A-Z])[).:][ \t]+)", re.MULTILINE)
_ROOT = re.compile(r"(?:\\sqrt\s*|√\s*)(?:\{\s*(\w+)\s*\}|\(\s*(\w+)\s*\)|(\d+|[A-Za-z]))")
_RATIO = re.compile(r"\\frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_SEVERAL = re.compile(r"[(\[]?[A-Z][)\]]?(?:\s*(?:,|;|/|&|\band\b|\s)\s*(?:and\s+)?[(\[]?[A-Z][)\]]?)+")
_JOINED = re.compile(r"[A-H]{2,8}")
_ANOTHER = re.compile(r"(?:or|and|,|/|&)?\s*[(\[]?[A-Z](?:[)\].:,]|\s*$|\s+(?:or|and)\b)")
_PREFIX = re.compile(r"[(\[]?([A-Z])[)\].:]\s*(?=\S)")
_FOLDED = re.compile(r"[\s\-_,;:'\"`]+")
_EDGES = " .!?()[]{}*"


def fold(text: str) -> str:
    """A word or phrase without case, punctuation and a leading article: what makes two the same."""
    text = _FOLDED.sub(" ", without_indices(plain(text)).casefold()).strip(_EDGES)
    for article in ("the ", "a ", "an "):
        if text.startswith(article) and len(text) > len(article):
            return text[len(article) :]
    return text


def _mathematics(text: str) -> str:
    """A formula in one spelling: `2\\sqrt{3}` and `2√3` are the same."""
    text = _ROOT.sub(lambda root: f"√({root[1] or root[2] or root[3]})", plain(text))
    text = _RATIO.sub(lambda ratio: f"{ratio[1] or ratio[3]}/{ratio[2] or ratio[4]}", text).replace("\\pi", "π")
    return re.sub(r"[\s*]|\{(?=\w\})|(?<=\^\{\w)\}", "", re.sub(r"(?<![A-Za-z])pi(?![A-Za-z])", "π", text))


def listed_choices(question: str) -> tuple[str, ...]:
    """The choices that a question lists by their letters, as (A) ... (B) ... or A. ... B. ..., or none."""
    marks = list(_OPTION.finditer(question))
    letters = [mark[1] or mark[2] for mark in marks]
    if len(marks) < 2 or letters != [chr(ord("A") + number) for number in range(len(letters))]:
        return ()
    ends = [*(mark.start() for mark in marks[1:]), len(question)]
    texts = (question[mark.end() : end].strip().partition("\n")[0] for mark, end in zip(marks, ends, strict=True))
    choices = tuple(text.strip() for text in texts)
    return choices if all(choices) else ()


def read_letters(text: str) -> tuple[frozenset[str], str] | None:
    """The letters that `text` chooses and what it says after one, or None where it chooses none."""
    text = plain(_BOLD.sub(r"\1)", text) if "**" in text else text).replace("*", "")
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
    bracketed = _IN_BRACKETS.fullmatch(text)
    if bracketed and not _ANOTHER.match(bracketed[2]):
        return frozenset(bracketed[1]), bracketed[2]
    found = _LETTER.match(text)
    if not found or _ANOTHER.match(found[4]):
        return None
    return frozenset(found[1] or found[2] or found[3]), found[4].strip()


def find_choice(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the one choice whose content is `text`, as words or as a number; None for no one."""
    contents = _contents(tuple(choices))
    folded = fold(text)
    found = [letter for letter, content in contents if fold(content) == folded]
    if not found and folded.endswith(" one"):
        found = [letter for letter, content in contents if fold(content) == folded.removesuffix(" one")]
    if not found and any(mark in text for mark in "\\√π"):
        formula = _mathematics(text)
        found = [letter for letter, content in contents if _mathematics(content) == formula]
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
    if choices and (found is None or found[1]):
        marked = _MARKED.fullmatch(plain(answer).replace("*", ""))
        if marked and find_choice(marked[2], choices) == marked[1].upper():
            return frozenset(marked[1].upper())
    if found is None or (choices and not found[0] <= _letters(choices)):
        content = find_choice(answer, choices) or _said_choice(answer, choices)
        return frozenset(content) if content else None
    letters, rest = found
    other = find_choice(rest, choices) if rest and choices else None
    return None if other and other not in letters else letters


def _said_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that a statement ends in: `The ball is blue`. One about a letter is none."""
    stated = said(plain(answer)) if choices else None
    return find_choice(stated, choices) if stated and answer[1:2].isalpha() else None


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
