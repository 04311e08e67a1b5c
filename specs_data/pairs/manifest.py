"""The manifest of a dataset: what went in, what came out, what it took. One definition, written and read.

A field that is None, or empty, is not told: by a dataset that was merged, by an older release, or because there was
nothing to tell. manifest.json leaves such fields out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from specs_data.errors import UserError, first_line
from specs_data.files import write_whole

_STAGES = {
    "sampled": "responses sampled",
    "judged": "judged",
    "right": "with the right answer",
    "well_formed": "well formed as well",
    "verified": "with verified reasoning",
    "pairs": "kept as pairs",
}


class Counts(Struct, frozen=True, omit_defaults=True):
    """How many problems there were, how many responses passed each stage, and the pairs of the dataset.
    `malformed` are all that lacked the format, the wrong ones as well; `blind_solved` are the problems that the policy
    solved without their pictures, of those with which that was tried."""

    problems: int | None = None
    sampled: int | None = None
    malformed: int | None = None
    right: int | None = None
    well_formed: int | None = None
    verified: int | None = None
    pairs: int | None = None
    blind_checked: int | None = None
    blind_solved: int | None = None


class Shard(Struct, frozen=True):
    """One Parquet file: its path inside the dataset, its rows, its size in bytes, its sha256 hex digest."""

    path: str
    rows: int
    bytes: int
    sha256: str


class Split(Struct, frozen=True, omit_defaults=True):
    """One split: its rows, its size in bytes, and its files in order."""

    rows: int = 0
    bytes: int = 0
    shards: list[Shard] = []


class Data(Struct, frozen=True, omit_defaults=True):
    """The files of a dataset, and the sha256 hex digest of their content."""

    fingerprint: str = ""
    splits: dict[str, Split] = {}

    @property
    def rows(self) -> dict[str, int]:
        """The rows of each split that tells them, train first."""
        ordered = sorted(self.splits, key=lambda name: (name != "train", name))
        return {name: self.splits[name].rows for name in ordered if self.splits[name].rows}


class Yield(Struct, frozen=True):
    """Of one kind of problem: how many there were, and the pairs they gave."""

    problems: int = 0
    pairs: int = 0


class Yields(Struct, frozen=True):
    """The problems and pairs of each answer type and of each source."""

    answer_type: dict[str, Yield] = {}
    source: dict[str, Yield] = {}


class Lengths(Struct, frozen=True):
    """Lengths in characters: least, median, 95th percentile and greatest, and a histogram of (upper bound, count)
    by powers of two."""

    min: float | int = 0
    median: float | int = 0
    p95: float | int = 0
    max: float | int = 0
    histogram: list[tuple[float | int, int]] = []


class Sides(Struct, frozen=True):
    """What the two sides of the pairs are to each other. `same` of them say the same, markers, labels and white space
    aside; `origins` counts the rejected by who wrote what was corrupted: "chosen" for twins of the chosen side, else
    the policy, "" where it is not stated; `distance` is the edit distance in words."""

    pairs: int = 0
    same: int = 0
    origins: dict[str, int] = {}
    distance: Lengths = Lengths()


class Tokens(Struct, frozen=True):
    """Tokens in prompts, and tokens written."""

    prompt: int = 0
    completion: int = 0


class Round(Struct, frozen=True):
    """One round of responses: each problem that had too few pairs before it was asked once more. How many responses
    there were, the tokens that they have, and the pairs that came of them."""

    responses: int = 0
    tokens: int = 0
    pairs: int = 0


class Model(Struct, frozen=True, omit_defaults=True):
    """A policy by name and fingerprint, or a judging service: the model asked for, and the rows that each served."""

    name: str | None = None
    fingerprint: str | None = None
    requested: str | None = None
    served: dict[str, int] | None = None

    @property
    def asked(self) -> str:
        """The name it was asked for by; empty where it is not told."""
        return self.requested or self.name or ""


class Prompt(Struct, frozen=True):
    """A prompt by name, and the sha256 hex digest of its text."""

    name: str
    sha256: str


class Operator(Struct, frozen=True, omit_defaults=True):
    """A corruption operator: where it comes from, what it does, the sha256 hex digest of its source file."""

    origin: str = ""
    summary: str = ""
    sha256: str = ""


class Origin(Struct, frozen=True):
    """What one dataset gave to a merged one: its name, its own fingerprints (None: unknown), how many of its rows were
    kept and left out, by split where its rows lie in the merged dataset ([first, last + 1]), and its models."""

    source: str
    fingerprint: str | None
    recipe_fingerprint: str | None
    kept: int
    left_out: dict[str, int]
    rows: dict[str, tuple[int, int]]
    models: dict[str, Model | None] | None = None


class _Settings(Struct, frozen=True):
    """The shapes of those settings of a recipe that are more than shown."""

    format: str | None = None
    verifier: str | None = None
    pairing: str | None = None
    corruption: dict[str, float] | None = None


class Manifest(Struct, frozen=True, omit_defaults=True):
    """What is known of a dataset. `manifest["dropped"]` gives a field as plain dicts and lists, as the JSON has it.

    `recipe` has the shape of its TOML, `response_format` that of a ResponseFormat; `dropped` counts by stage and
    reason, `corruptions` counts pairs by operator, `samples_per_pair` by how many responses their problem took.
    `lengths` are in characters, `token_lengths` in the policy's own tokens; `languages` counts pairs by the language of
    their question, as an ISO 639-1 code or "und"; `sides` says what the two sides are to each other.
    `card_sha256` is the digest of the card as it was made: one that somebody has edited since has another.
    `tokens`, `cost_usd` (US dollars) and `seconds` are by stage; a cost of None says that a price is not known.
    """

    name: str | None = None
    recipe: dict[str, Any] | None = None
    recipe_fingerprint: str = ""
    response_format: dict[str, Any] | None = None
    dataset: Data = Data()
    counts: Counts | None = None
    dropped: dict[str, dict[str, int]] | None = None
    yields: Yields | None = None
    corruptions: dict[str, int] | None = None
    operators: dict[str, Operator] | None = None
    samples_per_pair: dict[str, int] | None = None
    rounds: list[Round] | None = None
    lengths: dict[str, Lengths] | None = None
    token_lengths: dict[str, Lengths] | None = None
    languages: dict[str, int] | None = None
    sides: Sides | None = None
    verdicts: dict[str, int] | None = None
    tokens: dict[str, Tokens] | None = None
    cost_usd: dict[str, float] | None = {}
    seconds: dict[str, float] | None = None
    started: str | None = None
    finished: str | None = None
    models: dict[str, Model | None] | None = None
    prompts: dict[str, Prompt | None] | None = None
    versions: dict[str, str] | None = None
    merged: list[Origin] | None = None
    card_sha256: str | None = None

    def __getitem__(self, name: str) -> Any:
        return self._plain()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain())

    def keys(self) -> Collection[str]:
        """The fields that are told."""
        return self._plain().keys()

    def setting(self, name: str) -> Any:
        """A setting of the recipe; None where it is not told."""
        return (self.recipe or {}).get(name)

    def _plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain


class Stage(Struct, frozen=True):
    """One stage of the funnel: how many came through, and the share of the stage before (None for the first)."""

    name: str
    count: int
    share: float | None


def read_manifest(content: bytes) -> Manifest | None:
    """The manifest that a manifest.json holds; None for somebody else's, whose fields are not like ours.

    Raises msgspec.DecodeError for what is not JSON.
    """
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
        msgspec.convert(manifest.recipe or {}, _Settings)
        return manifest
    except msgspec.ValidationError:
        msgspec.json.decode(content)  # it may be broken further on
        return None


def load_manifest(file: Path, advice: str = "repair it, or take it away") -> Manifest | None:
    """The manifest in `file`; None for somebody else's. Raises OSError, and UserError with the `advice` for what is not
    JSON."""
    try:
        return read_manifest(file.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({first_line(error)}); {advice}") from None


def encode_manifest(manifest: Manifest) -> bytes:
    """The content of its manifest.json."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def write_manifest(manifest: Manifest, file: Path) -> None:
    """Write the manifest in one step: a reader sees the old one or the new one."""
    write_whole(file, encode_manifest(manifest))


def funnel(manifest: Manifest) -> list[Stage]:
    """The stages from responses to pairs that the manifest counts.

    Verifying is no stage where nothing verified. Where responses were given rather than sampled,
    those after a problem's pair are never looked at: then how many were judged is a stage of its own.
    """
    counts: dict[str, int] = msgspec.to_builtins(manifest.counts or Counts())
    if manifest.dropped is not None:
        judged = counts.get("right", 0) + sum(manifest.dropped.get("judge", {}).values())
        if judged < counts.get("sampled", 0):
            counts["judged"] = judged
    if manifest.setting("verifier") == "none":
        counts.pop("verified", None)
    stages: list[Stage] = []
    for key, name in _STAGES.items():
        if key in counts:
            before = stages[-1].count if stages else 0
            stages.append(Stage(name, counts[key], counts[key] / before if before else None))
    return stages


def describe_data(splits: Mapping[str, Sequence[Shard]]) -> Data:
    """The dataset's fingerprint, and its files by split."""
    described = {
        name: Split(sum(shard.rows for shard in shards), sum(shard.bytes for shard in shards), list(shards))
        for name, shards in splits.items()
    }
    return Data(fingerprint(splits), described)


def fingerprint(splits: Mapping[str, Sequence[Shard]]) -> str:
    """The sha256 hex digest of a dataset's content: its files' digests in order, split by split."""
    lines = (f"{split} {shard.rows} {shard.sha256}\n" for split in sorted(splits) for shard in splits[split])
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe_lengths(lengths: Sequence[int]) -> Lengths:
    """The figures of these lengths; all nought if there are none."""
    if not lengths:
        return Lengths()
    ordered = sorted(lengths)
    last = len(ordered) - 1
    bins = Counter(1 << max(0, length - 1).bit_length() for length in ordered)
    return Lengths(ordered[0], ordered[last // 2], ordered[round(last * 0.95)], ordered[-1], sorted(bins.items()))
