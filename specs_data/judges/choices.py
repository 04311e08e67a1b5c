"""Multiple choice, by letter, by content, or by both.

Worked example, for the choices (A) 30° and (B) 60°: `B`, `(B) 60°`, `b. 60°`, `B (60°)`, `60° (option B)`,
`60°`, `60`, `B) because A is wrong`, `Therefore, B is correct.`, `故选B` and `It is 60°` all choose B;
`A or B` chooses nothing, and neither does `(A) 60°` or `(A) 45°`, whose letter and content disagree.
Contents are compared as values: 0.5 is 1/2, and -2 is not 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from difflib import SequenceMatcher
from functools import lru_cache
from string import ascii_uppercase

from msgspec import Struct

from specs_data.judges.answers import CONCLUSION, HESITATION, LEAD, last_sentence, plain, said
from specs_data.judges.values import Formula, Meaning, Value, Words, fold, read_value, reasoned, same_value, spelling

_BARE = re.compile(r"[•(\[{]?\s*([A-Za-z])\s*[)\]}]?\s*[.:!项]?()")
_LETTER = re.compile(
    r"(?:\(\s*(?=[A-Z]\s*\))|\[\s*(?=[A-Z]\s*\]))?([A-Z])(?:\s*[)\]]|(?=\s*[.:,;]|\s+[-→]\s|\s(?:because|since)\b))"
    r"(?:\s*[).:\],;]+\s*|\s+[-→]\s+|\s*)(.*)",
    re.DOTALL,
)
_RIGHT = re.compile(
    r"[(\[]?\s*([A-Z])\s*[)\]]?(?:\s+(?:is|are)\s+(?:the\s+)?(?:only\s+)?(?:correct|right|true|best|answer)\b"
    r"|(?:选项)?(?:是?正确)的?|\s+it is)(.*)",
    re.DOTALL,
)
_FORMS = (_BARE, re.compile(r"([A-Z])\s*(\([^()]*\))\s*"), _RIGHT, _LETTER)  # the second one is B (blue)
_BULLET = re.compile(r"\A-\s+(?=\(?[A-Z]\b)")
_NAMED_OPTION = re.compile(r"([A-Z])\s*选项")
_BOLD = re.compile(r"\*\*\(?([A-Z])[).:]?\*\*[).:]?(?=\s+\S)")
_MARKED = re.compile(
    r"[(\[]?[ \t]*([A-Za-z])(?![A-Za-z])[ \t]*[)\]]?(?:[.:=]|(?<=[ \t])-(?=[ \t])|\bis\b)?[ \t]*([^ \t].*)",
    re.DOTALL,
)
_LAST = re.compile(
    r"(.*?)[\s,]*(?:(?:so|thus|hence|therefore|i\.e\.|that is)[,\s]+)?"
    r"(?:\(\s*(?:option |choice |answer )?(?=[A-Z]\s*\))|[故应该所以]*选\s*\(?"
    r"|(?:the\s+)?(?:(?:correct|right|best|final)\s+)?(?:option|choice|answer)\s+(?:is\s+)?\(?)([A-Z])\s*\)?\s*",
    re.DOTALL | re.IGNORECASE,
)
_OPTION = re.compile(r"(?:^|(?<=\s))(?:\(([A-Z])[).:][ \t]*|([A-Z])[).:][ \t]+)", re.MULTILINE)
_SEVERAL = re.compile(r"[(\[]?[A-Z][)\]]?(?:\s*(?:,|;|/|&|\band\b|\s)\s*(?:and\s+)?[(\[]?[A-Z][)\]]?)+")
_JOINED = re.compile(r"[A-H]{2,8}")
_ANOTHER = re.compile(r"(?:or|and|,|/|&)?\s*[(\[]?[A-Z](?:[)\].:,]|\s*$|\s+(?:or|and)\b)")
_PREFIX = re.compile(r"[(\[]?([A-Z])[)\].:]\s*(?=\S)")
_DENIED = re.compile(
    r"不选\s*[A-Z][,;]?|\(?\b(?i:not|isn't|rather than|instead of)\s+(?i:option\s+|choice\s+)?[(\[]?[A-Z]\b[)\]]?[,;.]?"
    r"|(?i:because |since |as |and |option |choice )*[(\[]?\b[A-Z][)\]]? (?:is|are)"
    r" (?:incorrect|wrong|false|not (?:correct|right|true))[,;.]?"
)
_NEGATIONS = ("ot ", "n't ", "ather than", "nstead of", "wrong", "incorrect", "false", "不选")  # all in _DENIED
_DOUBT = re.compile(
    r"\b(?:not|no|none|never|neither|nor|except|but|than|unless|wrong|incorrect|cannot|false)\b|n't|[≠¬不非]",
    re.IGNORECASE,
)
_TELLING = re.compile(r"-?\w*\d[\w.]*|\b(?:not|no|never|only)\b|n't")
_WORD = re.compile(r"\w+")
_CAPITAL = re.compile(r"\b[A-Z]\b")
_AT_END = re.compile(r"[\s(][A-Z]\)?$")
_OR_ANOTHER = re.compile(r"[(\[]?[A-Z][)\]]?\s+or\s+[(\[]?[A-Z]\b")
# Another letter that the rest of an answer commits to.
_CLAIM = re.compile(
    r"(?:(?:answer|option|choice|letter)s?(?: letter)?(?: is| are|:)?"
    r"|\b(?i:it is|it's|rather|but|no,?|wait,?|actually,?|choose|select|pick|or))\s*[(\[]?([A-Z])(?![\w'])"
)
_BECAUSE = re.compile(r"[\s(,]*(?:(?:because|since|as)\b|$)", re.IGNORECASE)
_NOT_OTHER = re.compile(r",?\s+\(?(?:and )?(?:not|rather than|instead of)\s+.*", re.DOTALL | re.IGNORECASE)
_WHICH = re.compile(
    r"(?:(?:which|that|it)\s+(?:is|equals)|i\.e\.,?|namely)\s+(.*)|.*[=≈]\s*([^=≈]+)", re.DOTALL | re.IGNORECASE
)
_ALL = frozenset(ascii_uppercase)


class Choice(Struct, frozen=True):
    """The letters that an answer chooses, empty where it chooses none or contradicts itself, and what it says."""

    letters: frozenset[str] = frozenset()
    said: str = ""


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


def read_letters(text: str) -> Choice:
    """The letters that `text` begins with, and what it says after them."""
    text = LEAD.sub("", _plain(text))
    if _SEVERAL.fullmatch(text) or (_JOINED.fullmatch(text) and len(set(text)) == len(text)):
        return Choice(frozenset(_ALL.intersection(text)))
    for form in _FORMS:
        if (found := form.fullmatch(text)) and not _ANOTHER.match(found[2]):
            return Choice(frozenset(found[1].upper()), found[2].strip())
    return Choice()


def find_choice(text: str, choices: tuple[str, ...]) -> str:
    """The letter of the one choice whose content is `text`, as words or as a value; empty for no one."""
    found = _spelled(text, choices)
    if not found:
        value = read_value(plain(text).removesuffix(" one"), True)
        # Formulas that are spelled alike have been found before; no others can be told here.
        values = {} if isinstance(value, Formula) else _values(choices)
        found = [letter for letter, content in values.items() if same_value(content, value)]
    return found[0] if len(found) == 1 else ""


def _spelled(text: str, choices: tuple[str, ...]) -> list[str]:
    written = spelling(text)
    return [letter for letter, content in _spellings(choices).items() if content == written]


def gold_letters(gold: str, choices: tuple[str, ...]) -> frozenset[str] | str:
    """The letters that are right, or the named reason why the gold does not say."""
    found = read_letters(gold)
    letters = found.letters if found.letters <= _letters(choices) else frozenset()
    content = "" if letters and not found.said and not _spelled(gold, choices) else find_choice(gold, choices)
    if _JOINED.fullmatch(gold) and sorted(gold) != list(gold):
        letters = frozenset()  # a word: BAD
    if content and letters and letters != {content}:
        return frozenset(content) if found.said else "ambiguous gold"
    return letters or frozenset(content) or "gold is not a choice"


def read_choice(answer: str, choices: tuple[str, ...]) -> Choice:
    """What an answer chooses, by its letter and its content, which must agree."""
    text = _plain(answer)
    last = last_sentence(text)
    if len(last) < len(text) and not (
        _LETTER.match(LEAD.sub("", text)) or read_letters(text).letters or reasoned(text)
    ):
        return read_choice(last, choices)
    if not any(stem in text for stem in _NEGATIONS):  # this tells it fast
        return _read_choice(text, choices)
    denied = "".join(found[0] for found in _DENIED.finditer(text))
    chosen = _read_choice(_DENIED.sub(" ", text).strip(" ,;"), choices)
    return Choice(said=chosen.said) if chosen.letters <= set(_CAPITAL.findall(denied)) else chosen


def _read_choice(text: str, choices: tuple[str, ...]) -> Choice:
    bare = _BARE.fullmatch(text)
    if bare and bare[1].upper() in _letters(choices):
        return Choice(frozenset(bare[1].upper()), bare[1].upper())
    found = read_letters(text)
    # Where the answer begins with a letter, only what is written as a choice is one.
    written = _spelled(text, choices) if found.letters else [*find_choice(text, choices)]
    if len(written) == 1:
        return Choice(frozenset(written), f"{written[0]}: {text}")
    marked = _MARKED.fullmatch(text) if found.said or not found.letters else None
    if marked and (content := find_choice(marked[2], choices)):
        letter = marked[1].upper()
        return Choice(frozenset(content if content == letter else ""), f"{letter}: {marked[2]}")
    if not found.letters or not found.letters <= _letters(choices):
        found = _letter_inside(text, choices)
    if not found.letters and (concluded := CONCLUSION.search(text)):
        chosen = read_choice(concluded[1], choices)
        by_letter = chosen.letters if _CAPITAL.search(concluded[1]) else ()
        return (
            Choice(said=text)
            if by_letter and _is_contradicted(chosen.letters, text[: concluded.start()], choices)
            else chosen
        )
    if not found.letters:
        content = _said_choice(text, choices)
        return Choice(frozenset(content), f"{content}: {text}" if content else text)
    what = ", ".join(sorted(found.letters)) + f": {found.said}" * bool(found.said)
    return Choice(frozenset() if _is_contradicted(found.letters, found.said, choices) else found.letters, what)


def _plain(text: str) -> str:
    if "**" in text:
        text = _BOLD.sub(r"\1)", text).replace("**", "")
    return _BULLET.sub("", plain(_NAMED_OPTION.sub(r"\1", text) if "选" in text else text))


def _letter_inside(text: str, choices: tuple[str, ...]) -> Choice:
    """The letter that a sentence names at its end: 45° (B), `which is option C`."""
    last = _LAST.fullmatch(text)
    if not last or last[2] not in _letters(choices):
        return Choice()
    unsure = _ANOTHER.search(last[1]) or _DOUBT.search(last[1])
    return Choice() if unsure and not find_choice(last[1], choices) else Choice(frozenset(last[2]), last[1])


def _is_contradicted(letters: frozenset[str], rest: str, choices: tuple[str, ...]) -> bool:
    """Does what is said beside the letters name another letter, or the content of no choice or of another?"""
    if any(claim[1] not in letters for claim in _CLAIM.finditer(rest)):
        return True
    if HESITATION.search(rest) and set(_CAPITAL.findall(rest)) - letters:
        return True
    last = _LAST.fullmatch(rest)
    if last and last[2] not in letters and not find_choice(rest, choices):
        return True
    if not choices or len(letters) > 1 or _BECAUSE.match(rest):
        return False
    named = [(content, find_choice(content, choices)) for content in _contents_said(rest)]
    if any(letter in letters for _, letter in named):
        return False
    if any(_nearly_says(rest, contents(choices).get(letter, "")) for letter in letters):
        return True
    kinds = {letter: type(content) for letter, content in _values(choices).items()}
    worded = any(kinds[letter] in (Words, Meaning) for letter in letters)
    return any(letter or _is_value(content, {*kinds.values()}, worded) for content, letter in named)


def _nearly_says(rest: str, content: str) -> bool:
    """The same sentence with other numbers, or with a `not` more or less."""
    one, other = spelling(rest), spelling(content)
    told, wanted = (sorted(_TELLING.findall(plain(text).casefold())) for text in (rest, content))
    return told != wanted and SequenceMatcher(None, one[:300], other[:300]).ratio() > 0.7


def _contents_said(rest: str) -> Iterator[str]:
    yield rest
    inner = rest.strip().rpartition("\n")[2]
    if inner[:1] == "(" and inner[-1:] == ")":
        yield inner[1:-1]
    yield _NOT_OTHER.sub("", inner)
    if which := _WHICH.fullmatch(inner):
        yield which[1] or which[2]
    if stated := said(inner):
        yield stated


def _is_value(content: str, kinds: set[type], worded: bool) -> bool:
    """Is this a value, so that it must be one of the choices, whose `kinds` it has or which are not `worded`?"""
    value = read_value(content, True)
    if isinstance(value, Words | Meaning) or not content.strip():
        return False
    return (type(value) in kinds or not worded) and (
        not isinstance(value, Formula) or not re.search(r"[A-Za-z]{3}", re.sub(r"\\[A-Za-z]+", "", content))
    )


def _said_choice(text: str, choices: tuple[str, ...]) -> str:
    """The choice that a sentence says: `The ball is blue`, `No, because ...`, `A dog, not a cat`."""
    if not choices or _OR_ANOTHER.match(text):
        return ""
    candidates = [LEAD.sub("", text), said(text), said(LEAD.sub("", text)), _NOT_OTHER.sub("", text)]
    found = {find_choice(candidate, choices) for candidate in candidates if candidate and candidate != text}
    if (meaning := reasoned(text)) and not _AT_END.search(text):
        found.add(find_choice(meaning.said, choices))
    found.discard("")
    return found.pop() if len(found) == 1 else "" if found else _only_named(text, choices)


def _only_named(text: str, choices: tuple[str, ...]) -> str:
    """The one choice whose words a sentence has: Only Carla can be the thief."""
    text = _NOT_OTHER.sub("", text)
    if _DOUBT.search(text):
        return ""
    words = {letter: _words(content) for letter, content in contents(choices).items() if len(content) > 2}
    sentence = _words(text)
    named = [one for one in words.values() if (one if one.isascii() else one.strip()) in sentence]
    longest = [one for one in named if not any(one in other for other in named if other != one)]
    found = [letter for letter, content in words.items() if longest == [content]]
    return found[0] if found and isinstance(_values(choices)[found[0]], Words) else ""


def _words(text: str) -> str:
    return f" {' '.join(_WORD.findall(fold(text)))} "


@lru_cache(maxsize=1024)
def contents(choices: tuple[str, ...]) -> dict[str, str]:
    """What the choice of each letter says; a choice may carry its letter: `(A) red`."""
    listed = dict(zip(ascii_uppercase, choices, strict=False))
    prefixes = {letter: _PREFIX.match(choice) for letter, choice in listed.items()}
    if all(prefix and prefix[1] == letter for letter, prefix in prefixes.items()):
        return {letter: listed[letter][prefix.end() :] for letter, prefix in prefixes.items() if prefix}
    return listed


def _letters(choices: tuple[str, ...]) -> Set[str]:
    """The letters there are: any, where nothing is known of the choices."""
    return contents(choices).keys() or _ALL


@lru_cache(maxsize=1024)
def _spellings(choices: tuple[str, ...]) -> dict[str, str]:
    return {letter: spelling(content) for letter, content in contents(choices).items()}


@lru_cache(maxsize=1024)
def _values(choices: tuple[str, ...]) -> dict[str, Value]:
    return {letter: read_value(content, True) for letter, content in contents(choices).items()}
