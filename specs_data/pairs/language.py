"""The language of a text, as far as its script and its commonest words tell."""

from __future__ import annotations

import re

# Scripts that one language alone is written in; Japanese writes Chinese signs too, and is told by its own.
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\u1100-\u11ff\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("el", re.compile(r"(?:[\u0370-\u03ff]{3,}\s+){2}")),  # a letter alone is an angle
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
)
# Of languages in Latin letters, words that hardly a sentence does without and that mean nothing in the others.
_COMMON = {
    "en": "the of is are what which how find and to with does this that there if many",
    "de": "der die das ist und nicht welche wie viele ein eine mit auf sind wird",
    "fr": "le les des est une quelle quel combien dans sur pour sont avec",
    "es": "el los las es una cuál qué cuántos del por para son con",
    "it": "il gli della è quale quanti una sono che nel",
    "pt": "os das é uma qual quantos do são não em",
    "vi": "là của các trong có được bao nhiêu",
}
_WORDS = {
    word: [name for name, words in _COMMON.items() if word in words.split()]
    for word in " ".join(_COMMON.values()).split()
}
_LETTERS = re.compile(r"[^\W\d_]+")
_AT_MOST = 2_000  # characters that are looked at
UNKNOWN = "und"


def language(text: str) -> str:
    """The ISO 639-1 code of the language that `text` is in, "und" where neither script nor words tell."""
    text = text[:_AT_MOST]
    if not text.isascii():
        for name, script in _SCRIPTS:
            if script.search(text):
                return name
    seen: dict[str, int] = {}
    for word in _LETTERS.findall(text.lower()):
        for name in _WORDS.get(word, ()):
            seen[name] = seen.get(name, 0) + 1
    most = max(seen.values(), default=0)
    first, *others = [name for name, count in seen.items() if count == most] or [UNKNOWN]
    return UNKNOWN if others else first
