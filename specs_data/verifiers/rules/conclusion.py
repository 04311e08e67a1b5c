"""What a thought concludes: the last sentence that concludes anything.

A statement (after a label, in a box) outranks all before it; the end of an equation outranks what is only
named; checks, pleasantries and remarks are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property

from msgspec import Struct
from msgspec.structs import replace

from specs_data.format import boxes
from specs_data.verifiers.rules.prose import Sentence, sentences
from specs_data.verifiers.rules.sums import Sums, Term, close, is_about, is_scaled, read_sums, value_of
from specs_data.verifiers.rules.wanted import Wanted, named_choices, option_letters, says_yes
from specs_data.verifiers.rules.words import (
    ASIDE,
    ASKS,
    BUT,
    CHECK,
    CHECKS_FROM_HERE,
    COMES_TO,
    COMPARES,
    CONCLUDES,
    CONDITION,
    CORRECTION,
    COUNTERFACTUAL,
    CROSSED,
    DENIAL,
    EXCLUDES,
    HEDGE,
    HYPOTHESIS,
    IS,
    LABEL,
    NOT,
    NUMBERS,
    OPTION,
    OPTION_LINE,
    OR,
    RETRACTS,
    SO,
    STOP,
    SUPPOSED,
    TABLE_ROW,
)  # fmt: skip

MOST_STATED = 50
LONGEST_STATED = 400
FARTHEST_EQUAL = 16  # characters between two sides of an equation, unit included
FARTHEST = 8  # sentences from the end in which a conclusion is looked for where none is stated

TWO_CONCLUSIONS = "two conclusions"
SEVERAL_ANSWERS = "several answers are left open"


class Conclusion(Struct, frozen=True):
    """What a sentence concludes: `right` says whether it is the answer (None: cannot be told). `stated`: after
    a label or in a box; `derived`: as the end of an equation; `at` is where it starts and `to` where it ends."""

    right: bool | None
    text: str
    at: int
    to: int
    stated: bool = False
    derived: bool = False
    reason: str = ""


class Thought:
    """A clean thought, its sentences and its arithmetic."""

    def __init__(self, raw: str, text: str, wanted: Wanted, question: str = "") -> None:
        self.raw = raw
        self.question = question
        self.text = text
        self.wanted = wanted
        self.sums: Sums = read_sums(text)
        self.sentences = sentences(text)
        self.stated = list(_stated(text, wanted))

    @cached_property
    def aside_from(self) -> int:
        """Where it begins to check the answer that it has come to, or to speak of other things, up to its end. Before a
        last sentence that only says what is asked for, anything may be an aside."""
        if self.sentences and ASKS.search(self.sentences[-1].text) and not self.terms_in(self.sentences[-1]):
            return 0
        for opening in CHECKS_FROM_HERE.finditer(self.text):
            if self._is_reached(opening.start()) and not RETRACTS.search(self.text, opening.end()):
                return opening.start()
        return len(self.text)

    def _is_reached(self, place: int) -> bool:
        """Does one of the sentences before `place` come to the answer?"""
        before = [one for one in self.sentences if one.end <= place][-FARTHEST:]
        return any(found.right for one in before if (found := _concluded(self, one)))

    @cached_property
    def settled_from(self) -> int:
        """The end of the last sentence that concludes anything in so many words, where that is the answer and is not
        taken back later. What is only named or computed after it is a remark."""
        for one in reversed(self.sentences):
            if CONCLUDES.search(one.text) and not SUPPOSED.search(one.text) and (found := _concluded(self, one)):
                is_kept = found.right and not RETRACTS.search(self.text, one.end)
                return one.end if is_kept else len(self.text)
        return len(self.text)

    def goes_on(self, sentence: Sentence) -> bool:
        """Does a sentence compute with the answer?"""
        operands = (term.text for term in self.terms_in(sentence) if term.operand)
        numbers = (value_of(number) for operand in operands for number in NUMBERS.findall(operand))
        return any(self.wanted.quantity and number and close(self.wanted.quantity, number) for number in numbers)

    def terms_in(self, sentence: Sentence) -> list[Term]:
        """The values that a sentence, or a part of one, names."""
        return [term for term in self.sums.terms if sentence.start <= term.start < sentence.end]

    def before_statement(self, sentence: Sentence) -> str:
        """A sentence up to the clause that states an answer in it."""
        for one in self.stated:
            if sentence.start <= one.at < sentence.end:
                return self.text[sentence.start : max(sentence.start, _clause_start(self.text, sentence.start, one.at))]
        return sentence.text

    def sentence_of(self, place: int) -> int:
        """The number of the sentence at `place`."""
        return next((n for n, sentence in enumerate(self.sentences) if place < sentence.end), len(self.sentences) - 1)


def conclude(thought: Thought) -> Conclusion | None:
    """The last thing that is concluded, or None. A sentence that only names another value leaves a doubt: what is
    concluded before it may outweigh that."""
    doubt: Conclusion | None = None
    for number, sentence in enumerate(reversed(thought.sentences)):
        is_aside = ASIDE.match(sentence.text) or CROSSED.search(sentence.text)
        found = None if is_aside else _concluded(thought, sentence)
        is_meant = bool(found and (found.right or found.stated or (number == 0 and CONCLUDES.search(sentence.text))))
        if found is None or (not is_meant and sentence.start >= thought.aside_from):
            if number > FARTHEST and not thought.stated:
                break
        elif found.stated or found.right is not False:
            return _weighed(thought, found, doubt)
        elif _in_passing(thought, sentence, found):
            continue
        elif doubt is None:
            is_last = number == 0 or CONCLUDES.search(sentence.text)
            is_remark = sentence.start >= thought.settled_from and not (number == 0 and found.derived)
            if found.derived and is_remark and not thought.goes_on(sentence):
                continue
            if found.derived or (is_last and not (is_remark or _derived_before(thought, sentence))):
                return found
            is_end = _chooses(thought, sentence) or (number == 0 and _comes_to(thought, sentence))
            doubt = replace(found, right=None) if is_end else found
        elif doubt.right is False and SO.search(sentence.text):
            doubt = found
    return doubt


def _comes_to(thought: Thought, sentence: Sentence) -> bool:
    """Does a sentence end in what something is, a value or a choice?"""
    said = sentence.text.rstrip(" .!。").lower()
    ending = next((one for one in thought.wanted.short if said.endswith(one)), "")
    return bool(COMES_TO.search(sentence.text) or (ending and IS.search(said.removesuffix(ending))))


def _chooses(thought: Thought, sentence: Sentence) -> bool:
    """Does a sentence say of one choice, by its letter, that it is the one?"""
    is_other = DENIAL.search(sentence.text) or SUPPOSED.search(sentence.text)
    return len(option_letters(sentence.text, thought.wanted.choices)) == 1 and not is_other


def _weighed(thought: Thought, found: Conclusion, doubt: Conclusion | None) -> Conclusion:
    if doubt is None or not found.right:
        return found
    if doubt.reason or doubt.right is None:
        return doubt
    concludes = CONCLUDES.search(doubt.text)
    if concludes is None or (thought.wanted.quantity and not _names_after(thought, doubt, concludes.end())):
        return found
    return replace(doubt, right=None)


def _names_after(thought: Thought, doubt: Conclusion, place: int) -> bool:
    return any(doubt.at + place <= term.start < doubt.to for term in thought.sums.terms)


def _in_passing(thought: Thought, sentence: Sentence, found: Conclusion) -> bool:
    """Does a sentence name another value without taking back what is stated before it?"""
    if COUNTERFACTUAL.search(sentence.text) and not CONCLUDES.search(sentence.text):
        return True
    if found.derived:
        values = (term for term in thought.terms_in(sentence) if not term.operand)
        return bool(CHECK.search(sentence.text)) or any(thought.wanted.is_term(term, False) for term in values)
    is_after = any(one.at < sentence.start for one in thought.stated)
    return is_after and not CONCLUDES.search(sentence.text) and not CORRECTION.search(sentence.text)


def _derived_before(thought: Thought, sentence: Sentence) -> bool:
    """Does the equation before this sentence end in the answer?"""
    results = [term for term in thought.sums.terms if term.result and term.end <= sentence.start]
    return bool(results) and thought.wanted.is_term(results[-1], False)


def _concluded(thought: Thought, sentence: Sentence) -> Conclusion | None:
    stated = [one for one in thought.stated if sentence.start <= one.at < sentence.end]
    if stated:
        return stated[-1]
    text = sentence.text
    start = sentence.start
    but = list(BUT.finditer(text))
    if but and len(text) - but[-1].end() > 8:
        start, text = start + but[-1].end(), text[but[-1].end() :]
    if thought.wanted.is_choice:
        return _chosen(thought, Sentence(start, text)) or _valued(thought, Sentence(start, text))
    if thought.wanted.quantity is not None:
        return _valued(thought, Sentence(start, text))
    return _worded(thought, Sentence(start, text))


def _chosen(thought: Thought, sentence: Sentence) -> Conclusion | None:
    """The choice that a sentence names by letter or content."""
    text, wanted = sentence.text, thought.wanted
    letters = option_letters(text, wanted.choices)
    if letters and not (DENIAL.search(text) and len(letters) == 1 and letters != wanted.letters):
        return _named(thought, sentence, letters)
    if not wanted.choices or wanted.is_yes_no:
        said = says_yes(text, wanted) if wanted.is_yes_no else None
        return None if said is None else Conclusion(said, text, sentence.start, sentence.end)
    results = [term for term in thought.terms_in(sentence) if term.result or term.computed]
    if results and (chosen := wanted.choice_of(results[-1], is_about(text))):
        right = chosen == wanted.letter
        return Conclusion(right, text, sentence.start, sentence.end, derived=True)
    is_weighty = sentence.end == thought.sentences[-1].end or CONCLUDES.search(text)
    named = named_choices(text, wanted.choices) or (wanted.meant_by(text) if is_weighty else frozenset())
    is_denied = DENIAL.search(text) and (wanted.letter not in named or OPTION_LINE.match(text))
    if named and not is_denied:
        return _named(thought, sentence, named)
    return None


def _named(thought: Thought, sentence: Sentence, letters: frozenset[str]) -> Conclusion | None:
    """What a sentence that names choices says of the answer: with others, it may be compared with them. One that only
    lists them says nothing."""
    wanted, text = thought.wanted, sentence.text
    if len(letters) > 1 and wanted.letters and letters.isdisjoint(wanted.letters) and not OR.search(text):
        return None
    if wanted.letter not in letters or letters == wanted.letters:
        return Conclusion(letters == wanted.letters, text, sentence.start, sentence.end)
    if OR.search(text) or HEDGE.search(text) or OPTION.search(text):
        return Conclusion(False, text, sentence.start, sentence.end)
    return Conclusion(True, text, sentence.start, sentence.end) if COMPARES.search(text) else None


def _valued(thought: Thought, sentence: Sentence) -> Conclusion | None:
    """The value that a sentence ends in: of an equation, or named."""
    wanted, text, about = thought.wanted, sentence.text, is_about(sentence.text)
    terms = thought.terms_in(sentence)
    if wanted.quantity is None or not terms:
        if (not wanted.is_choice or len(wanted.folded) == 1) and wanted.in_words(text):
            return Conclusion(True, text, sentence.start, sentence.end)
        return None
    results = [term for term in terms if term.result or (term.computed and not term.operand)]
    results = [term for term in results if not CONDITION.search(text[: term.start - sentence.start][-24:])]
    after = results[-1].end if results else 0
    candidates = [*results, *(term for term in terms if term.start >= after and not (term.operand or term in results))]
    so = list(SO.finditer(text))
    if so and not wanted.is_choice:
        concluded = [term for term in candidates if term.start >= sentence.start + so[-1].end()]
        candidates = concluded or candidates
    right = [term for term in candidates if wanted.is_term(term, about)]
    right = right or [term for term in terms if _is_in_another_unit(term, results[-1:], wanted)]
    others = [term for term in candidates if term not in right]
    if not candidates or (not right and (HYPOTHESIS.search(text) or (wanted.is_choice and not results))):
        return None
    if _left_open(text, right, others, sentence):
        return Conclusion(False, text, sentence.start, sentence.end, reason=SEVERAL_ANSWERS)
    said = (right or others)[-1].text if results else text
    return Conclusion(bool(right), said, sentence.start, sentence.end, derived=bool(results))


def _is_in_another_unit(term: Term, result: Sequence[Term], wanted: Wanted) -> bool:
    """Is it the answer, and equated with the result: 42000 J = 42 kJ?"""
    is_bare = term.operand and not term.computed and wanted.is_term(term, False)
    return bool(is_bare and any(0 < one.start - term.end < FARTHEST_EQUAL and is_scaled(term, one) for one in result))


def _worded(thought: Thought, sentence: Sentence) -> Conclusion | None:
    """The words, or the formula, of the answer in a sentence."""
    wanted, text = thought.wanted, sentence.text
    if wanted.is_yes_no:
        said = says_yes(text, wanted)
        return None if said is None else Conclusion(said, text, sentence.start, sentence.end)
    if wanted.in_words(text) and not (TABLE_ROW.search(text) or EXCLUDES.search(text)):
        if OR.search(text) and HEDGE.search(text):
            return Conclusion(False, text, sentence.start, sentence.end, reason=SEVERAL_ANSWERS)
        return Conclusion(True, text, sentence.start, sentence.end)
    if CONCLUDES.search(text) and not CHECK.search(text):
        return Conclusion(None, text, sentence.start, sentence.end)
    return None


def _clause_start(text: str, start: int, at: int) -> int:
    """Where the clause that states something begins within its sentence."""
    clause = max(text.rfind(mark, start, at) for mark in (", ", "; ", ": ", "\n"))
    return clause + 1 if clause >= start else start


def _stated(text: str, wanted: Wanted) -> Iterator[Conclusion]:
    """What labels and boxes state, in order."""
    boxed = boxes(text)
    found = list(_labelled(text, wanted, boxed))
    for start, end, content in boxed[-MOST_STATED:]:
        if content := content.strip():
            found.append(Conclusion(_agrees(content, wanted), content, start, end, stated=True))
    yield from sorted(found, key=lambda one: one.at)


def _labelled(text: str, wanted: Wanted, boxed: Sequence[tuple[int, int, str]]) -> Iterator[Conclusion]:
    """What labels announce; of a box it is told there."""
    covered = 0
    for label in list(LABEL.finditer(text))[-MOST_STATED:]:
        stop = STOP.search(text, label.end())
        end = stop.start() if stop else len(text)
        content = text[label.end() : min(end, label.end() + LONGEST_STATED)].strip()
        is_box = any(label.end() <= start <= end for start, _, _ in boxed)
        if LABEL.match(content):  # the next one tells
            continue
        if label.end() < covered or not content or is_box or NOT.search(content) or text[end : end + 1] == "?":
            continue
        right = _agrees(content, wanted)
        if right is not None:
            at = label.start() + len(label.group()) - len(label.group().lstrip())
            yield Conclusion(right, content, at, end, stated=True)
            covered = end


def _agrees(content: str, wanted: Wanted) -> bool | None:
    """Does what a label announces, with the words around it, say the answer?"""
    about = is_about(content)
    whole = wanted.says(content, about)
    if whole is not None:
        return whole
    first = re.split(
        r"(?<=[^\d]),\s|,\s(?=[A-Za-z])|;\s|\s\(|\s-\s|\bbecause\b|\bsince\b|\bas\b|\bwhich\b|\bwhen\b",
        content,
        maxsplit=1,
    )[0]
    part = wanted.says(first, about)
    if part is not None:
        return part
    if wanted.is_choice:
        letters = option_letters(content, wanted.choices) or named_choices(content, wanted.choices)
        if letters:
            return letters == wanted.letters
    if wanted.is_yes_no:
        return says_yes(content, wanted)
    if wanted.in_words(content):
        return True
    if wanted.quantity is not None:
        terms = [term for term in read_sums(content).terms if not term.operand]
        told = terms if len(terms) < 3 else terms[-1:]
        return any(wanted.is_term(term, about) for term in told) if told else None
    if wanted.kind == "text" and len(content.split()) <= 6:
        return False
    return None


def _left_open(text: str, right: Sequence[Term], others: Sequence[Term], sentence: Sentence) -> bool:
    """Do `or` and its like stand between the answer and another value?"""
    for term in right:
        for other in others:
            low, high = sorted((term, other), key=lambda one: one.start)
            between = text[low.end - sentence.start : high.start - sentence.start]
            is_same = is_about(between) or is_scaled(term, other) or " or a" in between  # or an hour and a half
            if OR.search(between) and not (len(between) > 60 or is_same or any(map(str.isdigit, between))):
                return True
    return False
