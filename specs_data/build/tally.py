"""What has become of the responses of a running build, and whether going on is in vain."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict

from specs_data.errors import InVain
from specs_data.inert import one_line

# A policy that keeps the format one time in ten would give so many malformed responses in a row once in 850 runs; a
# verifier that lets one response in five pass would let at most 4 of so many pass once in 400.
ENOUGH = 64
_FEW = 4
_EXAMPLE = 160  # characters

logger = logging.getLogger(__name__)


class Trial:
    """How often something was tried, how often it succeeded, and two of the failures."""

    def __init__(self) -> None:
        self.tried = self.passed = 0
        self.reasons: Counter[str] = Counter()
        self.examples: list[str] = []

    def note(self, reason: str | None, name: str, text: str) -> None:
        """One more was tried on a response to the problem `name`; no `reason` says that it succeeded."""
        self.tried += 1
        if reason is None:
            self.passed += 1
            return
        self.reasons[reason] += 1
        if len(self.examples) < 2:
            self.examples.append(f"{name!r}: {one_line(text, _EXAMPLE)}")

    @property
    def share(self) -> float:
        """How many of them succeeded, as a share."""
        return self.passed / self.tried if self.tried else 1.0

    def failing(self, few: int = 0) -> bool:
        """Has it been tried often enough, and succeeded `few` times at most?"""
        return self.tried >= ENOUGH and self.passed <= few

    def __str__(self) -> str:
        return f"{most_frequent(self.reasons)}; for example {' and '.join(self.examples)}"


class Tally:
    """What has become of the responses so far, those of this call and those on record. `reasons` says why responses
    were left out. Raises InVain, unless told to `go_on`, where what is tried cannot succeed."""

    def __init__(self, go_on: bool = False) -> None:
        self._operators: defaultdict[str, Trial] = defaultdict(Trial)
        self._go_on = go_on
        self.begin()

    def begin(self) -> None:
        """All responses are gone through from the first: those on record are counted anew."""
        self.tried = 0
        self.reasons: Counter[str] = Counter()
        self.format = Trial()
        self._cut = 0  # malformed responses that end at the limit of tokens
        self.verifying = Trial()
        self.corrupting = Trial()

    def leave(self, reason: str) -> None:
        """A response was left out."""
        self.reasons[reason] += 1

    def formatted(self, fault: str | None, name: str, text: str, cut: bool) -> None:
        """A response to the problem `name` keeps the format, or breaks it; it may have been `cut` off."""
        self.format.note(fault, name, text)
        self._cut += cut and fault is not None
        if self.format.failing():
            said = f"none of the first {self.format.tried} responses keeps the format"
            if 2 * self._cut > self.format.tried:
                self._stop(f"{said}, and {self._cut} were cut off ({self.format})", "raise --max-tokens")
            self._stop(
                f"{said} ({self.format})", "mend the prompt or the format, or take a policy that was trained to it"
            )

    def verified(self, reason: str | None, name: str, words: str) -> None:
        """A verdict on a response to the problem `name`, in the verifier's `words`."""
        self.verifying.note(reason, name, words)
        # Later on the share is known well enough not to stop for one bad stretch.
        if self.verifying.tried == ENOUGH and self.verifying.failing(_FEW):
            self._stop(
                f"the verifier kept {self.verifying.passed} of {self.verifying.tried} right responses "
                f"({self.verifying})",
                "look at them with specs-data show RUN --dropped --stage verify, or take another --verifier",
            )

    def corrupted(self, reason: str | None, name: str, text: str) -> None:
        """The operators made a rejected twin of a response to the problem `name`, or none."""
        self.corrupting.note(reason, name, text)
        if self.corrupting.failing():
            self._stop(
                f"no operator made a rejected response of the first {self.corrupting.tried} ({self.corrupting})",
                "mend the operator, see specs-data corruptions ./FILE.py, or take another --corruption",
            )

    def drawn(self, operator: str, reason: str | None, name: str, text: str) -> None:
        """An operator was drawn for a response to the problem `name`: for no `reason` its result was taken. One of
        which none is taken stops no run, as the others do its work, and is told once."""
        trial = self._operators[operator]
        trial.note(reason, name, text)
        if trial.tried == ENOUGH and trial.failing():
            logger.warning(
                "the operator %s made a rejected response of none of %d (%s); the others take its share: mend it, or "
                "leave it out with --corruption",
                operator, ENOUGH, str(trial),
            )  # fmt: skip

    def why(self) -> str:
        """Why nothing, or little, came of the responses, with two examples; empty where nothing was left out."""
        if not self.reasons:
            return ""
        lacking = self.format.tried - self.format.passed
        malformed = f"; {lacking:,} of {self.format.tried:,} lacked the format" if lacking else ""
        worst = min((self.format, self.verifying, self.corrupting), key=lambda trial: (not trial.tried, trial.share))
        examples = f"; for example {' and '.join(worst.examples)}" if worst.examples else ""
        return f"left out: {most_frequent(self.reasons)}{malformed}{examples}"

    def _stop(self, what: str, advice: str) -> None:
        if not self._go_on:
            raise InVain(f"stopped, because going on is in vain: {what}; {advice}; --go-on goes on all the same")


def most_frequent(reasons: Counter[str], most: int = 3) -> str:
    """The most frequent reasons, with their numbers."""
    return ", ".join(f"{one_line(reason, 80)} {count:,}" for reason, count in reasons.most_common(most))
