"""What a manifest says in figures."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs_data.pairs.manifest import (
    Counts,
    Lengths,
    Manifest,
    describe_lengths,
    encode_manifest,
    funnel,
    read_manifest,
)

COUNTS = {"problems": 9, "sampled": 100, "right": 50, "well_formed": 40, "verified": 30, "pairs": 30}


@pytest.mark.parametrize(
    "foreign",
    [
        [],
        "v2",
        {"dataset": "my-set", "recipe": "v2"},
        {"dataset": None},
        {"dataset": {"splits": ["train"]}},
        {"name": 5},
        {"counts": [1]},
        {"models": {"policy": "some-lab/some-model"}},
        {"response_format": "json"},
    ],
)
def test_somebody_else_s_manifest_is_none(foreign: Any) -> None:
    assert read_manifest(json.dumps(foreign).encode()) is None


def test_our_manifest_is_read_whole() -> None:
    ours = {"name": "tiny", "counts": COUNTS, "recipe": {"format": "think-answer", "samples": 8}, "merged": []}
    found = read_manifest(json.dumps(ours).encode())
    assert found is not None
    assert dict(found) == ours == json.loads(encode_manifest(found))
    assert found["counts"] == COUNTS and (found.name, found.setting("samples")) == ("tiny", 8)


def test_a_price_that_is_not_known_is_told_and_what_is_not_told_is_left_out() -> None:
    assert json.loads(encode_manifest(Manifest(cost_usd=None))) == {"cost_usd": None}
    assert json.loads(encode_manifest(Manifest())) == {}


@pytest.mark.parametrize("broken", [b"", b"{", b'{"recipe": "v2", ', b"\xff"])
def test_what_is_not_json_is_no_manifest(broken: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_manifest(broken)


def test_each_stage_and_its_share_of_the_one_before() -> None:
    stages = funnel(Manifest(counts=Counts(**COUNTS)))
    assert [(stage.count, stage.share) for stage in stages] == [
        (100, None),
        (50, 0.5),
        (40, 0.8),
        (30, 0.75),
        (30, 1.0),
    ]


def test_responses_that_nobody_looked_at_are_no_failures() -> None:
    stages = funnel(Manifest(counts=Counts(**COUNTS), dropped={"judge": {"wrong answer": 10}}))
    assert [stage.count for stage in stages[:3]] == [100, 60, 50]


def test_without_a_verifier_nothing_is_verified() -> None:
    stages = funnel(Manifest(counts=Counts(**COUNTS), recipe={"verifier": "none"}))
    assert "with verified reasoning" not in [stage.name for stage in stages]


def test_what_is_not_counted_is_left_out() -> None:
    assert funnel(Manifest()) == []
    assert [stage.share for stage in funnel(Manifest(counts=Counts(sampled=0, pairs=0)))] == [None, None]


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_lengths(lengths: list[int]) -> None:
    told = describe_lengths(lengths)
    assert (told.min, told.max) == (min(lengths), max(lengths))
    assert told.min <= told.median <= told.p95 <= told.max
    assert sum(count for _, count in told.histogram) == len(lengths)
    lower = 0
    for upper, count in told.histogram:
        assert count == sum((lower < length or lower == 0) and length <= upper for length in lengths)
        lower = upper


def test_no_lengths() -> None:
    assert describe_lengths([]) == Lengths()
