"""Whether what is said of the choices speaks for the one that is chosen."""

from __future__ import annotations

import re

from specs_data.verifiers.rules.conclusion import Conclusion, Thought
from specs_data.verifiers.rules.prose import Sentence
from specs_data.verifiers.rules.wanted import MOST_OWN_WORDS, Wanted, named_choices, option_letters, stems
from specs_data.verifiers.rules.words import (
    AGAINST,
    CALLED,
    CORRECTION,
    DENIAL,
    NEGATIVE,
    OPTION_LINE,
    RULED_OUT,
    SUGGESTS,
)  # fmt: skip

MOST_OF_THE_END = 3  # sentences before the conclusion whose words tell which choice they speak of
_ENDS_IN_LETTER = re.compile(r"\([A-J]\)\W*$")


def other_choice(thought: Thought, conclusion: Conclusion) -> str:
    """Only another choice is spoken of: before the letter, or after it where the thought begins with it."""
    wanted = thought.wanted
    comes_first = bool(thought.stated) and thought.stated[-1].at < thought.sentences[0].end
    if not wanted.letter or not wanted.choices or wanted.is_yes_no or not (conclusion.stated or comes_first):
        return ""
    until = len(thought.text) if comes_first else conclusion.at
    if other := _odd_one(thought) or _ruled_out(thought, conclusion):
        return other
    are_listed = sum(wanted.is_all_of(one.text) for one in thought.sentences) > 2
    spoken: dict[str, str] = {}
    last = frozenset[str]()
    for one in thought.sentences:
        text = thought.before_statement(one)[: max(0, until - one.start)]
        if len(text.strip()) < 2 or (are_listed and wanted.is_all_of(text)):
            continue
        named = _spoken_choices(thought, one.start, text)
        last = named if _suggests(text, wanted) else frozenset()
        if _denies(text):
            spoken.update((letter, "") for letter in named if wanted.letter == letter)
        else:
            spoken.update((letter, text) for letter in named)
    if len(spoken) == 1 and wanted.letter not in spoken:
        return next(iter(spoken.values()))
    if len(last) == 1 and wanted.letter not in last and not NEGATIVE.search(thought.question):
        return spoken.get(next(iter(last)), "")
    return "" if wanted.letter in spoken else _other_words(thought, conclusion)


def _ruled_out(thought: Thought, conclusion: Conclusion) -> str:
    """Where the chosen one is called wrong by its letter, and is not spoken of any more but to state it."""
    if NEGATIVE.search(thought.question):
        return ""
    for one in RULED_OUT.finditer(thought.text, 0, conclusion.at):
        letters = re.findall(r"\b[A-J]\b", next(filter(None, one.groups())))
        if thought.wanted.letter in letters and not CORRECTION.search(thought.text, one.end(), conclusion.at):
            return one.group()
    return ""


def _suggests(text: str, wanted: Wanted) -> bool:
    """Does a sentence point to what it names? One that starts with a choice, or its letter, goes through them all."""
    said = text.strip(" \"'(*-.!").lower()
    is_a_heading = any(re.match(rf"{re.escape(one)}\W*[:(-]", said) for one in wanted.short)
    if _denies(text) or OPTION_LINE.match(text) or is_a_heading:
        return False
    return said.endswith(wanted.short) or _ENDS_IN_LETTER.search(text) is not None or SUGGESTS.search(text) is not None


def _denies(text: str) -> bool:
    """Does a sentence deny what it names? What comes after `instead of` is denied, and not what stands before it."""
    head = AGAINST.split(text, maxsplit=1)[0]
    return DENIAL.search(head if len(head.split()) > 2 else text) is not None


def _odd_one(thought: Thought) -> str:
    """Of choices that are called true or false one by one, the only one that is called otherwise than the others, where
    it is not the chosen one."""
    judged: dict[str, tuple[bool, str]] = {}
    line = ""
    for sentence in thought.sentences:
        label = OPTION_LINE.match(sentence.text)
        line = label[1] if label else line
        for found in CALLED.finditer(sentence.text):
            if letter := found[1] or line:
                judged[letter] = (DENIAL.search(found[2]) is None, sentence.text)
    if not 3 <= len(judged) == len(thought.wanted.choices):
        return ""
    for verdict in (True, False):
        odd = [letter for letter, (is_true, _) in judged.items() if is_true is verdict]
        if len(odd) == 1 and odd[0] != thought.wanted.letter:
            return judged[odd[0]][1]
    return ""


def _other_words(thought: Thought, conclusion: Conclusion) -> str:
    """The one choice whose own words the end of the thought uses, where it uses none of the chosen one's."""
    wanted = thought.wanted
    own = wanted.own_stems
    chosen = ord(wanted.letter) - ord("A")
    before = [one.text for one in thought.sentences if one.end <= conclusion.at]
    end = " ".join(before[-MOST_OF_THE_END:])
    if DENIAL.search(end) or chosen >= len(own) or own[chosen] & frozenset(stems(thought.text[: conclusion.at])):
        return ""
    said = frozenset(stems(end))
    others = [at for at, mine in enumerate(own) if mine and len(mine & said) >= MOST_OWN_WORDS * len(mine)]
    return wanted.choices[others[0]] if len(others) == 1 and own[chosen] else ""


def _spoken_choices(thought: Thought, start: int, text: str) -> frozenset[str]:
    """The choices that a sentence names; a number that is only computed with names none."""
    choices = thought.wanted.choices
    operands = {term.text for term in thought.terms_in(Sentence(start, text)) if term.operand}
    named = named_choices(text, choices) | option_letters(text, choices)
    return frozenset(letter for letter in named if choices[ord(letter) - ord("A")] not in operands)
