"""A verifier that leaves out too much is told of, once."""

from __future__ import annotations

import logging

import pytest

from specs_data.records import Judged, Judgement, Problem, Response, Sample, Verdict
from specs_data.rollouts.watch import ENOUGH, Watch

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
