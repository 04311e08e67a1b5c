"""The dataset is a function of the recipe and the responses, whatever was built in its folder before."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sums import dataset_bytes, policy, recipe, write_sums

from specs_data import build

OPERATORS = ["remove_all_tags", "remove_think_tags", "shift_tags"]


@st.composite
def settings_of_a_build(draw: st.DrawFn) -> dict[str, Any]:
    samples = draw(st.sampled_from([1, 3, 5]))
    return {
        "samples": samples,
        "samples_upfront": draw(st.integers(1, min(2, samples))),
        "pairs_per_problem": draw(st.integers(1, 2)),
        "corruption": draw(st.lists(st.sampled_from(OPERATORS), min_size=1, unique=True)),
        "verifier": draw(st.sampled_from(["rules", "none"])),
        "pairing": draw(st.sampled_from(["decoupled", "decoupled", "coupled"])),
        "target": draw(st.none() | st.integers(1, 8)),
        "limit": draw(st.none() | st.integers(1, 9)),
        "holdout": draw(st.sampled_from([0.0, 0.4])),
        "seed": draw(st.integers(0, 1)),
    }


def rows(run: Path) -> dict[str, bytes]:
    return {name: data for name, data in dataset_bytes(run).items() if name.endswith(".parquet")}


@settings(max_examples=10, deadline=None)
@given(st.lists(settings_of_a_build(), max_size=2), settings_of_a_build(), st.integers(1, 9))
def test_no_earlier_build_shows(earlier: list[dict[str, Any]], last: dict[str, Any], concurrency: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems = write_sums(folder, 10, pictures=True)
        for each in [*earlier, last]:
            build(recipe(problems, **each), folder / "used", engine=policy(concurrency=concurrency), quiet=True)
        build(recipe(problems, **last), folder / "fresh", engine=policy(), quiet=True)
        assert rows(folder / "used") == rows(folder / "fresh")


@pytest.mark.parametrize("other", [False, True])
def test_a_target_counts_pairs_also_where_some_chosen_responses_find_no_rejected_one(
    tmp_path: Path, other: bool
) -> None:
    problems = write_sums(tmp_path, 50)
    each: dict[str, Any] = {"samples": 2, "corruption": ["shift_tags"]}
    each |= {"rejected_from": "base-model"} if other else {"pairing": "coupled"}
    pairs = {}
    for target in (None, 1, 4, 7, 99):
        settings_ = recipe(problems, **each, target=target)
        run = tmp_path / str(target)
        pairs[target] = build(settings_, run, engine=policy(), rival=policy(), quiet=True).pairs
    assert pairs[None] > 7
    assert pairs == {None: pairs[None], 1: 1, 4: 4, 7: 7, 99: pairs[None]}
