"""What the manifest of a run says in figures, for those who show it to a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

_STAGES = {
    "sampled": "responses sampled",
    "judged": "judged",
    "right": "with the right answer",
    "well_formed": "well formed as well",
    "verified": "with verified reasoning",
    "pairs": "kept as pairs",
}


class Stage(Struct, frozen=True):
    """One stage of the funnel: how many came through, and the share of the stage before (None for the first)."""

    name: str
    count: int
    share: float | None


def funnel(manifest: Mapping[str, Any]) -> list[Stage]:
    """The stages from responses to pairs that the manifest counts.

    Verifying is no stage where nothing verified. Where responses were given rather than sampled,
    those after a problem's pair are never looked at: then how many were judged is a stage of its own.
    """
    counts = dict(manifest.get("counts") or {})
    judged = counts.get("right", 0) + sum(((manifest.get("dropped") or {}).get("judge") or {}).values())
    if "dropped" in manifest and judged < counts.get("sampled", 0):
        counts["judged"] = judged
    if (manifest.get("recipe") or {}).get("verifier") == "none":
        counts.pop("verified", None)
    stages: list[Stage] = []
    for key, name in _STAGES.items():
        if key in counts:
            before = stages[-1].count if stages else 0
            stages.append(Stage(name, counts[key], counts[key] / before if before else None))
    return stages


def describe_lengths(lengths: Sequence[int]) -> dict[str, Any]:
    """Least, median, 95th percentile and greatest, and a histogram of (upper bound, count) by powers of two."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    last = len(ordered) - 1
    bins = Counter(1 << max(0, length - 1).bit_length() for length in ordered)
    return {
        "min": ordered[0],
        "median": ordered[last // 2],
        "p95": ordered[round(last * 0.95)],
        "max": ordered[last],
        "histogram": [list(bin) for bin in sorted(bins.items())],
    }
