"""Verification by rule, offline: the conclusion that the thought reaches must be the final answer.

Worked example:

    There are 2 red and 3 blue shapes. 2 + 3 = 5.   answer 5   consistent
    There are 2 red and 3 blue shapes. 2 + 3 = 5.   answer 6   the conclusion is not the answer
    There are 2 red and 3 blue shapes. 2 + 3 = 6.   answer 6   wrong arithmetic
    The mean is 7. So the answer is B.   (B) 9      answer B   another value is derived
    The answer is 5.                                answer 5   no reasoning
    There are 2 red and                             answer 2   breaks off
    We have to look at the shapes.                  answer 2   no conclusion found: it cannot be told

The conclusion is looked for from the end: the last sentence that concludes anything outranks all that
stands before it. What speaks against it is looked for in the rest.

What it cannot see: the picture, so a wrong count that is used rightly; whether one sentence follows
from another; and conclusions in words other than a number, a choice or the answer itself. A model
sees these: use one where it matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.judges.answers import READ_AT_MOST, final_answer
from specs_data.records import Judged, Problem, Verdict
from specs_data.verifiers import VerifierOptions
from specs_data.verifiers.calibration import Calibration
from specs_data.verifiers.rules.conclusion import SEVERAL_ANSWERS, TWO_CONCLUSIONS, Thought, conclude
from specs_data.verifiers.rules.objections import (
    GUESS,
    IMPOSSIBLE_STEP,
    NO_REASONING,
    OTHER_CHOICE,
    OTHER_VALUE,
    WRONG_ARITHMETIC,
    objection,
    wrong_step,
)
from specs_data.verifiers.rules.prose import breaks_off, clean, is_unfinished, without_end_marks
from specs_data.verifiers.rules.wanted import Wanted

__all__ = [
    "BREAKS_OFF",
    "CONSISTENT",
    "GUESS",
    "IMPOSSIBLE_STEP",
    "NO_CONCLUSION",
    "NO_REASONING",
    "NO_THOUGHT",
    "OTHER_CHOICE",
    "OTHER_CONCLUSION",
    "OTHER_VALUE",
    "SEVERAL_ANSWERS",
    "TWO_CONCLUSIONS",
    "WRONG_ARITHMETIC",
    "RulesVerifier",
    "verify_thought",
]

CONSISTENT = "the conclusion is the answer (the picture and the steps were not checked)"
OTHER_CONCLUSION = "the conclusion is not the answer"
NO_CONCLUSION = "no conclusion found"
NO_THOUGHT = "the format has no thought"
BREAKS_OFF = "the thought breaks off"
LONGEST_SAID = 200


class RulesVerifier:
    """Compares the conclusion of the thought with the final answer, and checks the arithmetic written out.

    A response is consistent only where its thought is seen to reach the answer. Where the rules find no
    conclusion, or cannot compare it, the verdict is `undecided`.
    """

    concurrency = 1
    paid = False
    calibration = Calibration(recall=0.85, caught=0.80)  # on prose that it was not made with, see the results

    def __init__(self, fmt: ResponseFormat = THINK_ANSWER) -> None:
        self.settings: Mapping[str, str] = {"verifier": "rules", "version": "5", "format": fmt.model_dump_json()}
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
    """Does `thought` reach `answer`? `Verdict.answer` is the conclusion that was found, or what speaks against it."""
    raw = without_end_marks(thought[-READ_AT_MOST:])
    text = clean(raw)
    if is_unfinished(raw, text):
        return Verdict(False, BREAKS_OFF)
    found = Thought(raw, text, Wanted(answer, problem), problem.question)
    if step := wrong_step(found):
        return Verdict(False, *step)
    conclusion = conclude(found)
    ends = not breaks_off(raw)
    if conclusion is None:
        return Verdict(False, NO_CONCLUSION, undecided=True) if ends else Verdict(False, BREAKS_OFF)
    said = conclusion.text[:LONGEST_SAID]
    if conclusion.right is False:
        return Verdict(False, conclusion.reason or OTHER_CONCLUSION, said)
    is_last = conclusion.to >= found.sentences[-1].start
    if not (ends or (is_last and (conclusion.stated or conclusion.derived))):
        return Verdict(False, BREAKS_OFF, said)
    if against := objection(found, conclusion):
        return Verdict(False, against[0], against[1][:LONGEST_SAID] or said)
    if conclusion.right is None:
        return Verdict(False, NO_CONCLUSION, said, undecided=True)
    return Verdict(True, CONSISTENT, said)


def open_rules(options: VerifierOptions) -> RulesVerifier:
    """The rules, for responses in the recipe's format."""
    return RulesVerifier(options.fmt)
