"""What speaks against a thought that ends in the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from math import ceil, floor

from specs_data.judges.numbers import Quantity
from specs_data.verifiers.rules.choices import other_choice
from specs_data.verifiers.rules.conclusion import TWO_CONCLUSIONS, Conclusion, Thought
from specs_data.verifiers.rules.prose import Sentence
from specs_data.verifiers.rules.sums import Term, Wrong, close, is_about, is_number, is_scaled
from specs_data.verifiers.rules.wanted import stems, value_in
from specs_data.verifiers.rules.words import (
    ANNOUNCES,
    BOILERPLATE,
    CHINESE_BOILERPLATE,
    CONCLUDES,
    CORRECTION,
    DENIAL,
    GUESSED,
    HYPOTHETICAL,
    IMAGINARY,
    TAKEN_BACK,
    WORD_OR_MARK,
    content_words,
)  # fmt: skip

ENOUGH_CONTENT = 3  # a number or two words besides the statement of the answer
MOST_WORDS = 8  # of a sentence that only concludes
MOST_COUNTED = 20
MOST_ROUNDED = 3  # results that may be rounded, up or down
FARTHEST_VALUE = 2  # sentences before the conclusion in which a value may contradict it
_NO_CONTENT = re.compile(r"\\boxed\s*\{[^{}]*\}|\bimage \d|<[^<>]*>")
_A_NUMBER = re.compile(r"[\d=√π∠]")
_AN_OPERATOR = re.compile(r"[-+*/^]")
_AN_EXPRESSION = re.compile(r"[a-z]\s*[-+*/^]\s*[a-z]")

NO_REASONING = "no reasoning"
WRONG_ARITHMETIC = "wrong arithmetic"
IMPOSSIBLE_STEP = "a step that cannot be made"
OTHER_VALUE = "another value is derived"
OTHER_CHOICE = "only another choice is spoken of"
GUESS = "the answer is guessed"


def wrong_step(thought: Thought) -> tuple[str, str] | None:
    """A step that cannot be made or does not hold, and is not taken back: (reason, words)."""
    if (step := _standing(thought, thought.sums.impossible)) and not IMAGINARY.search(thought.text):
        return IMPOSSIBLE_STEP, step.text
    step = _standing(thought, list({one.left: one for one in thought.sums.wrong}.values()))
    return (WRONG_ARITHMETIC, step.text) if step else None


def objection(thought: Thought, conclusion: Conclusion) -> tuple[str, str] | None:
    """Why the thought does not hold though it ends in the answer: (reason, words), or None."""
    if contradiction := _contradiction(thought, conclusion):
        return TWO_CONCLUSIONS, contradiction
    if not _reasons(thought):
        return NO_REASONING, ""
    if guess := _guess(thought, conclusion):
        return GUESS, guess
    if other := other_choice(thought, conclusion):
        return OTHER_CHOICE, other
    if other := _other_value(thought, conclusion):
        return OTHER_VALUE, other
    return None


def _standing(thought: Thought, wrong: Sequence[Wrong]) -> Wrong | None:
    """The first of them that is no question or hypothesis, is not done anew, and not taken back right after."""
    for one in wrong:
        at = thought.sentence_of(one.start)
        here, after = thought.sentences[at], thought.sentences[at + 1 : at + 2]
        if here.text.endswith("?") or HYPOTHETICAL.search(here.text):
            continue
        later = (term for term in thought.sums.terms if term.start > one.end)
        if any("".join(term.text.split()) == one.left for term in later):
            continue
        if not (after and TAKEN_BACK.search(after[0].text)):
            return one
    return None


def _reasons(thought: Thought) -> bool:
    """Is there anything but the statement of the answer?"""
    content = ENOUGH_CONTENT * ("```" in thought.raw)
    if not content and thought.wanted.quantity is not None and _values_count(thought) and not any(_valued(thought)):
        return False
    for one in thought.sentences:
        text = thought.before_statement(one)
        if _only_announces(text) or thought.wanted.is_all_of(text):
            continue
        for found in WORD_OR_MARK.finditer(_NO_CONTENT.sub("", text)):
            content += _weight(thought, found.group().lower())
            if content >= ENOUGH_CONTENT:
                return True
    return content >= ENOUGH_CONTENT


def _valued(thought: Thought) -> Iterator[Sentence]:
    """The sentences with a number, or a letter for one, besides the answer."""
    spoken = [term.start for term in thought.sums.terms if term.text.isalpha()]
    for one in reversed(thought.sentences):
        text = thought.before_statement(one)
        has_value = _has_value(text) or any(one.start <= start < one.start + len(text) for start in spoken)
        if has_value and not thought.wanted.is_all_of(text):
            yield one


def _weight(thought: Thought, word: str) -> int:
    """What a word, number or sign adds to the content."""
    if word[0].isdigit() or is_number(word):
        return 1 if _is_answer(thought, word) else 3
    if word in "=+√π^":
        return 3
    if "\u4e00" <= word <= "\u9fff":
        return word not in CHINESE_BOILERPLATE
    return 2 * (word not in BOILERPLATE and len(word) > 1)


def _has_value(text: str) -> bool:
    is_written = _A_NUMBER.search(text) is not None
    return is_written or (_AN_OPERATOR.search(text) is not None and _AN_EXPRESSION.search(text) is not None)


def _only_announces(text: str) -> bool:
    """Does a sentence say what shall be done, without a number that is there already?"""
    return ANNOUNCES.search(text) is not None and not any(map(str.isdigit, text))


def _is_answer(thought: Thought, word: str) -> bool:
    value = value_in(word)
    return bool(value and thought.wanted.quantity and close(value, thought.wanted.quantity))


def _contradiction(thought: Thought, conclusion: Conclusion) -> str:
    """Another answer that is stated before and never taken back."""
    earlier = [one for one in thought.stated if one.to <= conclusion.at and one.right is False]
    if not earlier:
        return ""
    until = conclusion.at if conclusion.stated else conclusion.to
    takings_back = [found.start() for found in CORRECTION.finditer(thought.text, 0, until)]
    last = takings_back[-1] if takings_back else -1
    return next((one.text for one in earlier if last < one.to and not _is_part(thought, one)), "")


def _is_part(thought: Thought, stated: Conclusion) -> bool:
    """A box or label within a longer chain that goes on computing with its value is a part of the way."""
    value = value_in(stated.text)
    if value is None:
        return False
    later = [term for term in thought.sums.terms if term.start >= stated.to and term.operand]
    return any(close(value, term.quantity) for term in later)


def _guess(thought: Thought, conclusion: Conclusion) -> str:
    guesses = list(GUESSED.finditer(thought.text))
    if not guesses or any(GUESSED.finditer(thought.wanted.content)):
        return ""
    last = guesses[-1]
    if CORRECTION.search(thought.text, last.end(), max(last.end(), conclusion.at)) and conclusion.at - last.end() > 200:
        return ""
    return last.group() if conclusion.at - last.end() < 400 or len(thought.text) < 600 else ""


def _other_value(thought: Thought, conclusion: Conclusion) -> str:
    """The value derived just before the conclusion, where that is not what is concluded."""
    wanted = thought.wanted
    if wanted.quantity is None or conclusion.derived or not _values_count(thought):
        return ""
    before = [term for term in thought.sums.terms if term.end <= conclusion.at]
    derived = [term for term in before if term.result or (term.computed and not term.operand)]
    here = thought.sentence_of(conclusion.at)
    near = [term for term in derived if term.start >= thought.sentences[max(0, here - FARTHEST_VALUE)].start]
    is_new = not any(wanted.is_term(term, False) for term in before)
    if (
        not wanted.is_choice
        and (conclusion.stated or is_new)
        and (other := _concluded_before(thought, here, conclusion))
    ):
        return other
    if wanted.is_choice and conclusion.stated:
        other = _other_named(thought, here, derived, conclusion)
        if other:
            return other
    if not near or not (conclusion.stated or _is_weighty(thought, near[-1], conclusion)):
        return ""
    about = is_about(thought.text[near[0].start : conclusion.to + 40])
    if any(wanted.is_term(term, about) for term in before):
        return ""
    if wanted.in_words(thought.text[: conclusion.at]):
        return ""
    if _combines(thought, derived, near[-1], conclusion) or is_scaled(near[-1], wanted.quantity):
        return ""
    if any(wanted.quantity.value in (floor(term.value), ceil(term.value)) for term in derived[-MOST_ROUNDED:]):
        return ""
    return near[-1].text


def _concluded_before(thought: Thought, here: int, conclusion: Conclusion) -> str:
    """The one value that the sentence before concludes, where another is stated and nothing is said between."""
    if here == 0 or thought.text[thought.sentences[here].start : conclusion.at].strip():
        return ""
    before = thought.sentences[here - 1]
    concludes = list(CONCLUDES.finditer(before.text))
    if not concludes:
        return ""
    start = before.start + concludes[-1].end()
    values = [term for term in thought.terms_in(before) if term.start >= start and not term.operand]
    about = is_about(before.text)
    said = [term for term in values if term.result] or values
    right = any(thought.wanted.is_term(term, about) for term in thought.terms_in(before))
    return "" if len(said) != 1 or right or len(content_words(before.text)) > MOST_WORDS else before.text


def _other_named(thought: Thought, here: int, derived: Sequence[Term], conclusion: Conclusion) -> str:
    """The value of another choice that the last sentence with values comes to, where nothing leads on from there."""
    wanted = thought.wanted
    nowhere = not any(wanted.is_term(term, True) for term in thought.sums.terms if term.end <= conclusion.at)
    for sentence in reversed(thought.sentences[max(0, here - FARTHEST_VALUE) : here + 1]):
        until = min(sentence.end, conclusion.at)
        concludes = list(CONCLUDES.finditer(thought.text, sentence.start, until))
        start = concludes[-1].end() if concludes else sentence.start
        terms = [term for term in thought.sums.terms if start <= term.start < until and not term.operand]
        terms = [term for term in terms if term.text.lower() != "one"]  # which is mostly nobody in particular
        if not terms:
            continue
        letters = {letter for term in terms if (letter := wanted.choice_of(term, is_about(sentence.text)))}
        comes_to = len(letters) == 1 and (concludes or any(term.result for term in terms) or nowhere)
        if not comes_to or wanted.letter in letters or DENIAL.search(sentence.text):
            return ""
        return "" if _combines(thought, derived, terms[-1], conclusion) else sentence.text
    return ""


def _values_count(thought: Thought) -> bool:
    """Are all choices values, so that a derived one must be among them?"""
    if not thought.wanted.is_choice:
        return True
    values = thought.wanted.values
    return bool(values) and sum(value is not None for value in values) >= len(values) - 1


def _is_weighty(thought: Thought, term: Term, conclusion: Conclusion) -> bool:
    """Does a value that is only named stand against the one that is derived? A choice or a count may be of others."""
    wanted = thought.wanted
    is_count = (
        wanted.quantity is not None and wanted.quantity.value.denominator == 1 and wanted.quantity.value <= MOST_COUNTED
    )
    return not (wanted.is_choice or is_count) or _is_of_the_same(thought, term, conclusion)


def _is_of_the_same(thought: Thought, term: Term, conclusion: Conclusion) -> bool:
    """Does a sentence that only names the answer speak of what was just derived? A count after sums does not."""
    here = thought.sentences[thought.sentence_of(term.start)]
    shared = frozenset(stems(here.text)) & frozenset(stems(conclusion.text))
    return bool(shared) and CONCLUDES.search(conclusion.text) is not None and here.end <= conclusion.at


def _combines(thought: Thought, derived: Sequence[Term], last: Term, conclusion: Conclusion) -> bool:
    """Does one more step, which the last sentence has in words, lead from what was derived to the answer?"""
    wanted = thought.wanted.quantity
    here = thought.sentences[thought.sentence_of(conclusion.at)]
    until = conclusion.at if conclusion.stated else conclusion.to
    said = thought.text[last.end : until]
    if wanted is None or len(content_words(said)) < 2:
        return False
    between = (term for term in thought.sums.terms if last.end <= term.start and term.end <= until)
    new = [term.value for term in between if not thought.wanted.is_term(term, False)]
    pairs = [(last.value, value) for value in new]
    if here.start >= last.end:
        pairs += combinations([term.value for term in derived[-4:]], 2)
    return any(close(wanted, Quantity(value)) for first, second in pairs for value in _steps(first, second))


def _steps(first: Fraction, second: Fraction) -> Iterator[Fraction]:
    """What one operation makes of two numbers."""
    yield first + second
    yield first - second
    yield second - first
    yield first * second
    if second:
        yield first / second
    if first:
        yield second / first
