"""How good the shipped judge and verifiers were found to be, for the card. `benchmarks/RESULTS.md` has the commands,
and a test measures again what takes no model.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from specs_data.pairs.manifest import Manifest
from specs_data.recipe import named_verifiers


class Measured(Struct, frozen=True):
    """What one judge or verifier let pass: `passed` of the `cases`, of which `truly` were right (or sound), and the
    right ones that it `missed`."""

    material: str
    cases: int
    passed: int
    truly: int
    missed: int

    @property
    def precision(self) -> float:
        """The share of what it let pass that was truly so."""
        return self.truly / self.passed

    def __str__(self) -> str:
        return (
            f"precision {self.precision:.1%} on {self.cases:,} {self.material}: {self.truly:,} of the {self.passed:,} "
            f"that it let pass, {self.missed:,} missed"
        )


UNSEEN = "by writers who had not seen the rules, at first sight"
JUDGE = (
    Measured("labelled answers (real golds and their variants, all answer types)", 2203, 1390, 1390, 1),
    Measured(f"answers {UNSEEN}", 1213, 540, 540, 60),
)
PROSE = "labelled thoughts in prose, half of them sound"
WORLD = "responses about pictures of the miniature world, half of them sound"
VERIFIERS = {
    "rules": (
        Measured(f"labelled thoughts in prose, 314 of them sound, {UNSEEN}", 491, 304, 277, 37),
        Measured(WORLD, 1000, 578, 500, 0),
    ),
    "policy": (
        Measured(f"{WORLD}, checked by the world's own policy of 1.3 M parameters", 400, 251, 155, 45),
        Measured(f"{PROSE}, checked by SmolLM2-135M-Instruct", 281, 149, 93, 51),
    ),
}


def describe_measured(manifest: Manifest) -> Iterator[str]:
    """What was measured of whoever judged and verified the dataset, in sentences; not on this dataset."""
    if manifest.recipe is None:
        return
    yield f"Answers were judged by rule: {'; '.join(map(str, JUDGE))}."
    if manifest.setting("judge_model"):
        yield "Open-ended answers were judged by a model, whose precision nobody measured here."
    for name in named_verifiers(manifest.setting("verifier") or "none"):
        if name in VERIFIERS:
            yield f"Reasoning was checked by {name}: {'; '.join(map(str, VERIFIERS[name]))}."
        elif name != "none":
            yield (
                "Reasoning was checked by a verifier whose precision was not measured: `specs-data verifier-score` "
                "measures it on the same cases."
            )
