"""A verifier that goes wrong is noticed while it runs, and not when its pairs are missed.

Worked example: after 60 verdicts 40 were not kept, 38 of them for `no conclusion found`. On labelled responses the
verifier kept 97 % of the sound ones and left out 90 % of the others, so that 25 % were to be expected. One warning says
so, with three of the responses, what was found in them, and what to do.
"""

from __future__ import annotations

import logging
from collections import Counter

from specs_data.inert import one_line
from specs_data.records import Judged, Verdict
from specs_data.verifiers.calibration import UNKNOWN, Calibration

ENOUGH = 50  # verdicts before anything is said
MARGIN = 0.1  # by which more than is to be expected must be left out
ONE_REASON = 0.8  # of at least ENOUGH responses left out
EXAMPLES = 3

logger = logging.getLogger(__name__)


class Watch:
    """Counts verdicts, and warns once of each kind of trouble."""

    def __init__(self, verifier: str, calibration: Calibration | None = None) -> None:
        self._verifier = verifier
        self._calibration = calibration
        self._most = UNKNOWN if calibration is None else calibration.most_left_out + MARGIN
        self._seen = 0
        self._reasons: Counter[str] = Counter()
        self._examples: list[str] = []
        self._told: set[str] = set()

    def see(self, judged: Judged, verdict: Verdict) -> None:
        """Take note of a verdict that was just reached."""
        self._seen += 1
        if verdict.consistent:
            return
        self._reasons[verdict.reason] += 1
        problem, index = judged.sample.problem, judged.sample.index
        found = f", {verdict.answer!r} was found" if verdict.answer else ""
        self._examples = [*self._examples, f"{problem.id} ({index}): {verdict.reason}{found}"][-EXAMPLES:]
        left_out = self._reasons.total()
        if self._seen >= ENOUGH and left_out > self._most * self._seen:
            known = f", though on labelled ones it {self._calibration}" if self._calibration else ""
            self._warn("many", f"leaves out {left_out} of {self._seen} right and well-formed responses{known}")
        reason, times = self._reasons.most_common(1)[0]
        if left_out >= ENOUGH and times >= ONE_REASON * left_out:
            self._warn("one reason", f"leaves out {times} of {left_out} for one reason, {one_line(reason)!r}")

    def _warn(self, kind: str, what: str) -> None:
        if kind in self._told:
            return
        self._told.add(kind)
        examples = "; ".join(map(one_line, self._examples))
        logger.warning(
            "the verifier %s %s: see whether it is right, with show --dropped --stage verify, and measure it with "
            "verifier-score --cases; the last ones: %s",
            self._verifier, what, examples,
        )  # fmt: skip
