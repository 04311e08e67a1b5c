"""A verifier that leaves out too much is told of, once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from specs_data.measure.verifier_score import score_verifiers
from specs_data.recipe import Recipe
from specs_data.records import Judged, Judgement, Problem, Response, Sample, Verdict
from specs_data.rollouts.watch import ENOUGH, Watch
from specs_data.services.opening import open_budget
from specs_data.verifiers import calibration_of, open_verifier
from specs_data.verifiers.calibration import SCORES, Calibration
from specs_data.verifiers.none import NoVerifier
from specs_data.verifiers.rules import RulesVerifier

ONE = Judged(Sample(Problem("p-7", "?", "5", "numeric"), 2, Response("")), Judgement(True, "number", "5"))
KEPT = Verdict(True, "fine")


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ([f"reason {n}" for n in range(ENOUGH)], ["leaves out"]),
        (["no conclusion found"] * ENOUGH, ["leaves out", "for one reason, 'no conclusion found'"]),
    ],
)
def test_it_is_told_once_with_examples(reasons: list[str], words: list[str], caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch("rules")
    with caplog.at_level(logging.WARNING):
        for reason in [*reasons, *reasons]:
            watch.see(ONE, Verdict(False, reason, "\x1b[31m7"))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(words)
    for said, message in zip(words, told, strict=True):
        assert said in message and "p-7 (2): " in message and "was found" in message and "\x1b" not in message


def test_a_strict_verifier_is_let_be(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch("rules")
    for number in range(400):
        watch.see(ONE, KEPT if number % 4 else Verdict(False, f"reason {number % 3}"))
    assert not caplog.records


def test_a_verifier_is_held_to_its_calibration(caplog: pytest.LogCaptureFixture) -> None:
    strict, lax = Calibration(recall=0.4, caught=0.9), Calibration(recall=0.99, caught=0.4)
    for calibration, told in ((strict, False), (lax, True)):
        caplog.clear()
        watch = Watch("rules", calibration)
        for number in range(2 * ENOUGH):
            watch.see(ONE, KEPT if number % 2 else Verdict(False, f"reason {number}", f"{number} apples"))
        assert bool(caplog.messages) is told
    (warning,) = caplog.messages
    assert "on labelled ones it keeps 99% of the sound and leaves out 40% of the unsound" in warning
    assert warning.count("apples") == 3


def test_a_score_with_a_cache_is_what_a_build_with_it_goes_by(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    sound = {"thought": "2 + 3 = 5.", "answer": "5", "sound": True}
    cases.write_text("\n".join(json.dumps(one) for one in (sound, {**sound, "answer": "6", "sound": False})))
    recipe = Recipe(verifier="rules", cache=tmp_path / "cache")
    score_verifiers([recipe], cases=str(cases))
    verifier = open_verifier(recipe, open_budget(recipe))
    assert calibration_of(verifier, recipe.cache) == Calibration(1.0, 1.0)
    assert calibration_of(verifier, tmp_path / "another") == calibration_of(verifier, None) == RulesVerifier.calibration
    assert calibration_of(NoVerifier(), recipe.cache) is None
    (tmp_path / "cache" / SCORES).write_bytes(b"{")
    assert calibration_of(verifier, recipe.cache) == RulesVerifier.calibration
