"""Estimates and pass@k against brute force."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs_data.measure.estimate import Estimate, estimate, ks, pass_at_k


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    share = sum(map(any, subsets)) / len(subsets)
    assert pass_at_k([n], [c], k)[0] == pytest.approx(share, abs=1e-12)


@given(st.integers(1, 20000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, min(n, 256)))))
def test_pass_at_k_is_exact_for_many_samples(case: tuple[int, int, int]) -> None:
    n, c, k = case
    assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-9)


def test_pass_at_1_is_the_accuracy() -> None:
    assert pass_at_k([8, 4], [2, 4], 1).tolist() == [0.25, 1.0]


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 5, 1), (4, -1, 1), (4, 2, 0)])
def test_pass_at_k_refuses_what_has_no_answer(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k([n], [c], k)


def test_ks_are_powers_of_two() -> None:
    assert [ks(1), ks(7), ks(8)] == [[1], [1, 2, 4], [1, 2, 4, 8]]


def test_the_interval_is_that_of_plain_resampling() -> None:
    random = np.random.default_rng(5)
    values = random.integers(0, 5, size=300) / 4
    plain = [random.choice(values, size=300).mean() for _ in range(4000)]
    found = estimate(values)
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]).tolist(), abs=0.008)


def test_weights_make_a_ratio_of_sums() -> None:
    random = np.random.default_rng(6)
    tokens = random.integers(1, 400, size=200)
    sizes = tokens * random.uniform(1, 3, size=200)
    found = estimate(sizes, tokens)
    rows = random.integers(0, 200, size=(4000, 200))
    plain = sizes[rows].sum(axis=1) / tokens[rows].sum(axis=1)
    assert found is not None
    assert found.value == pytest.approx(sizes.sum() / tokens.sum())
    assert [found.low, found.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]).tolist(), abs=0.02)


@given(st.lists(st.integers(0, 8).map(lambda c: c / 8), min_size=2, max_size=60))
def test_an_interval_holds_its_value_and_is_the_same_again(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None and found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found == estimate(values)


def test_one_problem_tells_nothing_of_others() -> None:
    assert estimate([0.25]) == Estimate(0.25)


def test_a_problem_without_weight_plays_no_part() -> None:
    assert estimate([3.0, 0.0], [4.0, 0.0]) == estimate([3.0], [4.0])
    assert estimate([], []) is None
    assert estimate([0.0], [0.0]) is None


@pytest.mark.parametrize("n", [1, 10, 300])
def test_a_share_without_exception_still_has_doubt(n: int) -> None:
    whole, none = estimate([1.0] * n), estimate([0.0] * n)
    assert whole is not None and none is not None and whole.low is not None
    assert whole.high == 1.0 and none.low == 0.0
    assert whole.low**n == pytest.approx(0.025)  # that chance, and all n would be right in one of forty cases
    assert none.high == pytest.approx(1 - whole.low)


def test_the_interval_covers() -> None:
    random = np.random.default_rng(7)
    covered = 0
    for seed in range(200):
        chances = random.beta(2, 1, size=150)
        found = estimate(random.binomial(4, chances) / 4, seed=seed)
        assert found is not None and found.low is not None and found.high is not None
        covered += found.low <= 2 / 3 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_many_distinct_values_need_little_memory() -> None:
    values = np.random.default_rng(8).normal(size=20_000)
    found = estimate(values)
    assert found is not None and found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(20_000), rel=0.1)
