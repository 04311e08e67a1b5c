"""Verification by rule: what is seen, what is not, and the measure of any verifier."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs_data.errors import Undecided
from specs_data.format import THINK_ANSWER, Part, ResponseFormat
from specs_data.measure.verifier_score import SOUND, WRONG, labelled_pair, score_verifier, verifier_score
from specs_data.recipe import Recipe
from specs_data.records import AnswerType, Judged, Judgement, Problem, Response, Sample, Verdict
from specs_data.verifiers import rules
from specs_data.verifiers.none import NoVerifier
from specs_data.verifiers.rules import RulesVerifier

COLOURS = ("red", "blue", "green", "yellow")
NUMBERS = ("2", "5", "3", "4")


def judged(
    thought: str, answer: str, kind: AnswerType, choices: Sequence[str] = (), fmt: ResponseFormat = THINK_ANSWER
) -> Judged:
    problem = Problem("p", "Which?", answer, kind, tuple(choices))
    sample = Sample(problem, 0, Response(fmt.render(thought, rf"\boxed{{{answer}}}")))
    return Judged(sample, Judgement(True, "exact", answer))


@pytest.mark.parametrize(
    ("thought", "answer", "kind", "choices"),
    [
        ("There are 2 red and 3 blue shapes. 2 + 3 = 5.", "5", "numeric", ()),
        ("There are 3 red shapes.", "3", "numeric", ()),
        ("There are 5 of the 8 shapes.", "5", "numeric", ()),
        ("We count five.", "5", "numeric", ()),
        (r"So \(2 + 3 = 5\), hence \boxed{5}.", "5", "numeric", ()),
        ("2 × 3 = 6 and 6 − 1 = 5.", "5", "numeric", ()),
        ("The price is 1,000 + 250 = 1,250 dollars.", "1250", "numeric", ()),
        ("22/7 = 3.14", "3.14", "numeric", ()),
        ("x + 2 + 1 = 5, so x = 2.", "2", "numeric", ()),
        ("The answer is 4. Wait, I count again: 2 + 3 = 5.", "5", "numeric", ()),
        ("2 + 3 = 6. No, 2 + 3 = 5.", "5", "numeric", ()),
        ("There are 2 red and 1 blue shapes. So the answer is yes.", "yes", "text", ()),
        ("It has no wheels, so it is a sledge.", "sledge", "text", ()),
        ("There are 5 red shapes. So the answer is B.", "B", "multiple_choice", NUMBERS),
        ("2 + 3 = 5.", "B", "multiple_choice", NUMBERS),
        ("Most of them are blue.", "B", "multiple_choice", COLOURS),
        ("It is not red. So the answer is B.", "B", "multiple_choice", COLOURS),
        (r"The area is \frac{\sqrt{3}}{2}. The answer is \frac{\sqrt{3}}{2}.", r"\frac{\sqrt{3}}{2}", "math", ()),
        ("500 cm is what we need, so the answer is 500 cm.", "5 m", "numeric", ()),
        ("The answer is B. BECAUSE: Grass is blue in this picture.", "B", "multiple_choice", COLOURS),
        (
            r"The answer is B. BECAUSE: Look at the sky.\nThe colour of the sky is blue.",
            "B",
            "multiple_choice",
            COLOURS,
        ),
        ("The sky decides.\n\nTherefore, the answer is:\n\nAnswer: B", "B", "multiple_choice", COLOURS),
    ],
)
async def test_sound_reasoning_is_kept(thought: str, answer: str, kind: AnswerType, choices: Sequence[str]) -> None:
    verdict = await RulesVerifier().verify(judged(thought, answer, kind, choices), ())
    assert (verdict.consistent, verdict.reason) == (True, rules.CONSISTENT)


@pytest.mark.parametrize(
    ("thought", "answer", "kind", "choices", "reason"),
    [
        ("There are 2 red and 3 blue shapes. 2 + 3 = 5.", "6", "numeric", (), rules.OTHER_CONCLUSION),
        ("There are 2 red and 3 blue shapes. 2 + 3 = 6.", "6", "numeric", (), rules.WRONG_ARITHMETIC),
        ("There are 2 red and 3 blue shapes. 2 + 4 = 5.", "5", "numeric", (), rules.WRONG_ARITHMETIC),
        ("There are 2 red and", "2", "numeric", (), rules.BREAKS_OFF),
        ("There are 2", "2", "numeric", (), rules.BREAKS_OFF),
        ("2 + 3 =", "5", "numeric", (), rules.BREAKS_OFF),
        ("There are 4 red shapes.", "3", "numeric", (), rules.OTHER_CONCLUSION),
        ("I look at the picture and answer.", "3", "numeric", (), rules.NO_CONCLUSION),
        ("2 + 3 = 5. No, that is wrong. The answer is 4.", "5", "numeric", (), rules.OTHER_CONCLUSION),
        ("The answer is 4. 2 + 3 = 5.", "5", "numeric", (), rules.TWO_CONCLUSIONS),
        ("The answer is no. So the answer is yes.", "yes", "text", (), rules.TWO_CONCLUSIONS),
        ("So the answer is no.", "yes", "text", (), rules.OTHER_CONCLUSION),
        ("I see shapes.", "yes", "text", (), rules.NO_CONCLUSION),
        ("So the answer is B.", "C", "multiple_choice", NUMBERS, rules.OTHER_CONCLUSION),
        ("There are 5 red shapes. So the answer is A.", "A", "multiple_choice", NUMBERS, rules.OTHER_CHOICE),
        ("Most of them are blue.", "A", "multiple_choice", COLOURS, rules.OTHER_CONCLUSION),
        ("They are blue or red.", "A", "multiple_choice", COLOURS, rules.OTHER_CONCLUSION),
        (r"The answer is A. BECAUSE: Look up.\nThe sky is blue.", "A", "multiple_choice", COLOURS, rules.OTHER_CHOICE),
        (
            "The sky is wide and its colour is:\n- blue\n\nAnswer: A",
            "A",
            "multiple_choice",
            COLOURS,
            rules.OTHER_CHOICE,
        ),
    ],
)
async def test_unsound_reasoning_is_not_kept(
    thought: str, answer: str, kind: AnswerType, choices: Sequence[str], reason: str
) -> None:
    verdict = await RulesVerifier().verify(judged(thought, answer, kind, choices), ())
    assert (verdict.consistent, verdict.reason) == (False, reason)


async def test_the_conclusion_is_on_record() -> None:
    verdict = await RulesVerifier().verify(judged("2 + 3 = 5.", "6", "numeric"), ())
    assert verdict.answer == "5"


async def test_other_formats() -> None:
    bare = ResponseFormat(name="bare", answer=Part(open="<a>", close="</a>"), instruction="Answer.")
    verdict = await RulesVerifier(bare).verify(judged("", "5", "numeric", fmt=bare), ())
    assert (verdict.consistent, verdict.reason) == (True, rules.NO_THOUGHT)
    verdict = await RulesVerifier(bare).verify(judged("2 + 3 = 5.", "5", "numeric"), ())
    assert (verdict.consistent, verdict.reason[:7]) == (False, "format:")


async def test_a_wrong_look_at_the_picture_is_not_seen() -> None:
    """What the reason owns up to."""
    verdict = await RulesVerifier().verify(judged("There are 9 red shapes. 9 - 4 = 5.", "5", "numeric"), ())
    assert verdict.consistent
    assert "picture" in verdict.reason


async def test_none_keeps_everything_and_says_so() -> None:
    verifier = NoVerifier()
    assert await verifier.verify(judged("2 + 3 = 5.", "6", "numeric"), ()) == Verdict(True, "not verified")
    assert verifier.settings == {"verifier": "none", "version": "1"}
    assert RulesVerifier().settings.items() >= {"verifier": "rules", "version": "5"}.items()
    await verifier.close()


@settings(max_examples=300, deadline=None)
@given(
    thought=st.text(min_size=1).filter(str.strip),
    answer=st.text(max_size=20),
    kind=st.sampled_from(["numeric", "math", "text", "multiple_choice"]),
    choices=st.lists(st.text(max_size=5), max_size=4),
)
async def test_any_thought_gets_a_verdict(thought: str, answer: str, kind: AnswerType, choices: list[str]) -> None:
    verdict = await RulesVerifier().verify(judged(thought, answer, kind, choices), ())
    assert isinstance(verdict.consistent, bool)


@pytest.mark.parametrize(
    "piece",
    [
        "1+",
        "1 + 1 = 2 ",
        "the answer is 5 ",
        r"\boxed{5}",
        "= 5 ",
        "A. ",
        "{",
        " ",
        "1,1",
        "no ",
        "\n(1) ",
        "$$ ",
        "seven ",
    ],
)
async def test_a_long_thought_takes_no_second(piece: str) -> None:
    started = time.process_time()
    await RulesVerifier().verify(judged(f"x {piece * (200_000 // len(piece))}", "5", "numeric"), ())
    assert time.process_time() - started < 1.0


# The measure


class Fixed:
    """Keeps, leaves out, or cannot decide, whatever it is shown."""

    concurrency = 3
    paid = True
    settings: Mapping[str, str] = {"verifier": "fixed"}

    def __init__(self, keeps: bool | None) -> None:
        self._keeps = keeps

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        assert images[0].startswith(b"\x89PNG")
        if self._keeps is None:
            raise Undecided("busy")
        return Verdict(self._keeps, "fixed")

    async def close(self) -> None:
        pass


async def test_the_measure_of_verifiers_that_do_not_look() -> None:
    score = await verifier_score(Fixed(True), pairs=30)
    assert (score.precision, score.recall, score.caught, score.undecided) == (0.5, 1.0, 0.0, 0)
    score = await verifier_score(Fixed(False), pairs=30)
    assert (score.precision, score.recall, score.caught) == (None, 0.0, 1.0)
    score = await verifier_score(Fixed(None), pairs=30)
    assert (score.precision, score.recall, score.caught, score.undecided) == (None, None, None, 60)


async def test_the_measure_of_rules() -> None:
    score = await verifier_score(RulesVerifier(), pairs=300)
    assert sum(kind.responses for kind in score.kinds.values()) == 600
    assert score.recall == 1.0
    assert score.precision is not None and score.precision > 0.8
    for kind in ("other conclusion", "arithmetic slip", "truncated", "taken back", "two answers", "no reasoning"):
        assert score.kinds[kind].responses > 0
        assert score.kinds[kind].kept == 0, kind
    assert score.kinds["about another picture"].kept > 0  # what it cannot see, it does not claim to


def test_labelled_responses_are_right_well_formed_and_the_same_each_time() -> None:
    for index in range(40):
        good, bad = labelled_pair(1, index)
        assert (good, bad) == labelled_pair(1, index)
        assert good.consistent and good.kind in SOUND
        assert not bad.consistent and bad.kind in WRONG
        for one in (good, bad):
            sample = one.judged.sample
            assert THINK_ANSWER.check(sample.response.text) is None
            assert sample.problem.answer in sample.response.text


@pytest.mark.parametrize("fmt", ["think-answer", "reasoning-solution"])
def test_the_verifier_of_a_recipe_is_scored_in_its_format(fmt: str) -> None:
    formats = Path(str(files("specs_data.formats")))
    name = fmt if fmt == "think-answer" else str(formats / f"{fmt}.toml")
    score = score_verifier(Recipe(verifier="rules", format=name), pairs=60)
    assert score.recall == 1.0
    said = str(score)
    assert "recall 1.000" in said
    assert all(kind in said for kind in (*SOUND, *WRONG))
