"""What the manifest of a run says: whether it is one of ours, and its figures for those who show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

_STAGES = {
    "sampled": "responses sampled",
    "judged": "judged",
    "right": "with the right answer",
    "well_formed": "well formed as well",
    "verified": "with verified reasoning",
    "pairs": "kept as pairs",
}


class _Recipe(Struct, frozen=True):
    format: str | None = None


class _Split(Struct, frozen=True):
    rows: int = 0


class _Data(Struct, frozen=True):
    fingerprint: str = ""
    splits: dict[str, _Split] = {}


class _Yields(Struct, frozen=True):
    answer_type: dict[str, dict[str, int]] | None = None
    source: dict[str, dict[str, int]] | None = None


class _Lengths(Struct, frozen=True):
    min: float = 0
    median: float = 0
    p95: float = 0
    max: float = 0
    histogram: list[tuple[float, int]] = []


class _Model(Struct, frozen=True):
    served: dict[str, int] | None = None


class _Prompt(Struct, frozen=True):
    name: str
    sha256: str


class _Manifest(Struct, frozen=True):
    """The fields that somebody reads, as `manifest` and `merge` write them. Any may be missing."""

    name: str | None = None
    recipe: _Recipe | None = None
    recipe_fingerprint: str = ""
    response_format: dict[str, Any] | None = None
    dataset: _Data = _Data()
    counts: dict[str, int] | None = None
    dropped: dict[str, dict[str, int]] | None = None
    yields: _Yields | None = None
    corruptions: dict[str, int] | None = None
    operators: dict[str, dict[str, Any] | None] | None = None
    samples_per_pair: dict[str, int] | None = None
    lengths: dict[str, _Lengths | None] | None = None
    verdicts: dict[str, int] | None = None
    tokens: dict[str, dict[str, int] | None] | None = None
    cost_usd: dict[str, float] | None = None
    seconds: dict[str, float] | None = None
    models: dict[str, _Model | None] | None = None
    prompts: dict[str, _Prompt | None] | None = None
    versions: dict[str, Any] | None = None


class Stage(Struct, frozen=True):
    """One stage of the funnel: how many came through, and the share of the stage before (None for the first)."""

    name: str
    count: int
    share: float | None


def read_manifest(content: bytes) -> dict[str, Any] | None:
    """The manifest that a manifest.json holds; None for somebody else's, whose fields are not like ours.

    Raises msgspec.DecodeError for what is not JSON.
    """
    try:
        msgspec.json.decode(content, type=_Manifest)
    except msgspec.ValidationError:
        msgspec.json.decode(content)  # it may be broken further on
        return None
    return msgspec.json.decode(content, type=dict[str, Any])


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
