"""Verification by rule, offline: the conclusion that the thought reaches must be the final answer.

Worked example:

    There are 2 red and 3 blue shapes. 2 + 3 = 5.   answer 5   consistent
    There are 2 red and 3 blue shapes. 2 + 3 = 5.   answer 6   the conclusion is not the answer
    There are 2 red and 3 blue shapes. 2 + 3 = 6.   answer 6   wrong arithmetic
    There are 2 red and                             answer 2   breaks off

What it cannot see: the picture, so a wrong count that is used rightly; whether one sentence follows
from another; and conclusions in words other than a number, a choice or the answer itself. A model
sees these: use one where it matters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.judges.answers import READ_AT_MOST, final_answer, plain, stated_answers
from specs_data.judges.choices import chosen_letters, fold
from specs_data.judges.numbers import Quantity, read_quantity, read_term, same_quantity
from specs_data.judges.rules import same_answer
from specs_data.records import Judged, Problem, Verdict
from specs_data.verifiers import VerifierOptions

CONSISTENT = "the conclusion is the answer (the picture and the steps were not checked)"
OTHER_CONCLUSION = "the conclusion is not the answer"
NO_CONCLUSION = "no conclusion found"
NO_THOUGHT = "the format has no thought"
WRONG_ARITHMETIC = "wrong arithmetic"
TWO_CONCLUSIONS = "two conclusions"
OTHER_CHOICE = "only another choice is spoken of"
BREAKS_OFF = "the thought breaks off"

_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_EQUATION = re.compile(
    rf"(-?{_NUMBER}(?:\s*[-+*/]\s*{_NUMBER}){{1,12}})\s*=\s*(-?{_NUMBER})(?!\s*[-+*/^%(]\s*[\w(\\]|\s*[%^]|\w|\.\d)"
)
_RESULT = re.compile(rf"=\s*\$?(-?{_NUMBER}(?:/\d+)?\s*[%°]?)(?=[\s.,;!?)$]|$)(?!\s*[-+*/^=]\s*\w)")
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/"})
_UNFINISHED = re.compile(
    r"(?:[-+*/=,;:(<>&]|\b(?:and|or|the|a|an|of|is|are|so|to|with|then|because|therefore|we|that|in|for))$", re.I
)
_ENDINGS = tuple(".!?:)]}$\"'*`")
_SENTENCE_END = re.compile(r"(?<!\d)[.!?]+(?=\s)|(?<=\d)[.!?]+(?=\s)|\n+")
_IN_TEXT = re.compile(
    rf"(?<![\w.])-?{_NUMBER}(?:/\d+)?(?![\w/])|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|half)\b",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\b(?:wait|no|actually|check|recheck|recount|correct|correction|mistake|wrong|instead|but|hmm|again|rather|sorry|however)\b",
    re.I,
)
_DENIAL = re.compile(r"\bnot\b|n't\b|\bcannot\b|\bneither\b|\bexcept\b", re.IGNORECASE)
_OPPOSITE = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


class RulesVerifier:
    """Compares the conclusion of the thought with the final answer, and checks plain arithmetic.

    A response is consistent only where its thought is seen to reach the answer: what the rules
    cannot read is not kept.
    """

    concurrency = 1
    paid = False

    def __init__(self, fmt: ResponseFormat = THINK_ANSWER) -> None:
        self.settings: Mapping[str, str] = {"verifier": "rules", "version": "2", "format": fmt.model_dump_json()}
        self._fmt = fmt

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        """Judge one sample by its text; `images` are not looked at."""
        sample = judged.sample
        parsed = self._fmt.parse(sample.response.text)
        if isinstance(parsed, str):
            return Verdict(False, f"format: {parsed}")
        if self._fmt.thought is None:
            return Verdict(True, NO_THOUGHT)
        answer = judged.judgement.answer or final_answer(sample.response.text, self._fmt) or ""
        return verify_thought(parsed[0], answer, sample.problem)

    async def close(self) -> None:
        """Nothing to release."""


def verify_thought(thought: str, answer: str, problem: Problem) -> Verdict:
    """Does `thought` reach `answer`? `Verdict.answer` is the conclusion that was found."""
    thought = thought[-READ_AT_MOST:].translate(_SIGNS)
    if _UNFINISHED.search(thought[-20:]):
        return Verdict(False, BREAKS_OFF)
    results: list[tuple[int, str]] = []
    if "=" in thought:
        if not _adds_up(thought):
            return Verdict(False, WRONG_ARITHMETIC)
        if problem.answer_type != "text":
            results = [(found.start(1), found[1]) for found in _RESULT.finditer(thought)]
    stated = stated_answers(thought)
    if not stated and not results:
        return _from_last_sentence(thought, answer, problem)
    place, conclusion = max([*stated[-1:], *results[-1:]])
    if not _same(conclusion, answer, problem):
        return Verdict(False, OTHER_CONCLUSION, conclusion)
    if _contradicts(thought, [one for one in stated if one[0] < place], place, answer, problem):
        return Verdict(False, TWO_CONCLUSIONS, conclusion)
    if _speaks_of_another(thought[: stated[-1][0]] if stated else thought, answer, problem):
        return Verdict(False, OTHER_CHOICE, conclusion)
    return Verdict(True, CONSISTENT, conclusion)


def _same(conclusion: str, answer: str, problem: Problem) -> bool:
    if problem.answer_type == "multiple_choice":
        letters = chosen_letters(conclusion, problem.choices)
        if letters is not None:
            return letters == chosen_letters(answer, problem.choices)
    elif same_answer(answer, conclusion, problem.answer_type):
        return True
    wanted = read_quantity(answer)
    numbers = _numbers(conclusion) if wanted else []
    if wanted and numbers:
        return all(same_quantity(wanted, number) for number in numbers)
    return bool(fold(answer)) and fold(conclusion) == fold(answer)


def _from_last_sentence(thought: str, answer: str, problem: Problem) -> Verdict:
    """Without an explicit conclusion, the last sentence must name the answer and no other one."""
    if not thought.endswith(_ENDINGS):
        return Verdict(False, BREAKS_OFF)
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(thought)]
    last = next((sentence for sentence in reversed(sentences) if sentence), "")
    if problem.answer_type == "multiple_choice" and problem.choices:
        named = _named(last, problem.choices)
        found = chosen_letters(answer, problem.choices) or frozenset()
    elif wanted := read_quantity(answer):
        numbers = _numbers(last)
        named = frozenset("yes" if same_quantity(wanted, number) else "no" for number in numbers)
        # A sentence may tell the answer beside what it was found from: "5 of the 8 shapes".
        named = named & {"yes"} or named
        found = frozenset({"yes"})
    else:
        named, found = _words(last, fold(answer)), frozenset({fold(answer)})
    if not named:
        return Verdict(False, NO_CONCLUSION)
    return Verdict(True, CONSISTENT, last) if named == found else Verdict(False, OTHER_CONCLUSION, last)


def _words(sentence: str, answer: str) -> frozenset[str]:
    """Which of the answer and its opposite the sentence says."""
    said = f" {fold(sentence)} "
    return frozenset(word for word in (answer, _OPPOSITE.get(answer, "")) if word and f" {word} " in said)


def _named(text: str, choices: Sequence[str]) -> frozenset[str]:
    """The letters of the choices whose content is spoken of in `text`."""
    found = (
        chr(ord("A") + number)
        for number, choice in enumerate(choices)
        if choice and re.search(rf"(?<![\w.]){re.escape(choice)}(?!\w|\.\d)", text, re.IGNORECASE)
    )
    return frozenset(found)


def _speaks_of_another(thought: str, answer: str, problem: Problem) -> bool:
    if problem.answer_type != "multiple_choice" or not problem.choices or _DENIAL.search(thought):
        return False
    named = _named(thought, problem.choices)
    return len(named) == 1 and named != chosen_letters(answer, problem.choices)


def _contradicts(
    thought: str, earlier: Sequence[tuple[int, str]], concluded: int, answer: str, problem: Problem
) -> bool:
    """Is another answer stated before the conclusion, and never taken back?"""
    if not earlier:
        return False
    takings_back = [found.start() for found in _CORRECTION.finditer(thought, 0, concluded)]
    last = takings_back[-1] if takings_back else -1
    return any(last < place + len(other) and not _same(other, answer, problem) for place, other in earlier)


def _adds_up(thought: str) -> bool:
    """Is the arithmetic written out in plain numbers right? The last word on each sum counts."""
    sums: dict[str, bool] = {}
    for found in _EQUATION.finditer(thought):
        before = thought[max(0, found.start() - 2) : found.start()].rstrip()[-1:]
        if before and before in "+-*/^)}=\\":  # the end of a longer expression
            continue
        value, result = read_term(found[1]), read_term(found[2])
        if value and result:
            sums["".join(found[1].split())] = _rounds(value, result)
    return all(sums.values())


def _rounds(value: Quantity, shown: Quantity) -> bool:
    """Is `shown` the value, or the value rounded or cut to the places that it shows?"""
    if value.value == shown.value:
        return True
    return shown.places is not None and abs(value.value - shown.value) * 10**shown.places < 1


def _numbers(text: str) -> list[Quantity]:
    found = (read_quantity(number[0]) for number in _IN_TEXT.finditer(plain(text)))
    return [number for number in found if number]


def open_rules(options: VerifierOptions) -> RulesVerifier:
    """The rules, for responses in the recipe's format."""
    return RulesVerifier(options.fmt)
