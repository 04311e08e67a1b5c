"""The nucleus, against counting by hand."""

from __future__ import annotations

import math

import pytest
from fakes.nucleus import nucleus_by_hand
from hypothesis import given
from hypothesis import strategies as st

from specs_data.engines.nucleus import nuclei_at_top, nucleus_size_at_top
from specs_data.records import Nuclei


def logprobs_of(logits: list[float], temperature: float) -> list[float]:
    """The log-probabilities at a temperature, the likeliest first."""
    scaled = [logit / temperature - max(logits) / temperature for logit in logits]
    norm = math.log(math.fsum(map(math.exp, scaled)))
    return sorted((logit - norm for logit in scaled), reverse=True)


@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=40),
    st.sampled_from([0.5, 0.9, 0.95, 0.97531]),
    st.sampled_from([0.3, 0.7, 1.0, 1.5]),
)
def test_the_size_is_that_by_hand(logits: list[float], p: float, temperature: float) -> None:
    size = nucleus_size_at_top(logprobs_of(logits, temperature), p)
    near = {nucleus_by_hand(logits, p + nudge, temperature) for nudge in (-1e-9, 0.0, 1e-9)}  # a tie of rounding
    assert size in near


def test_worked_example() -> None:
    chances = [math.log(chance) for chance in (0.06, 0.5, 0.1, 0.3, 0.04)]
    assert nucleus_size_at_top(chances) == 4
    assert nucleus_size_at_top(chances, 0.49) == 1
    assert nuclei_at_top([chances, chances[:2], [0.0]]) == Nuclei(0.95, 3, 4 + 3 + 1, 1)


def test_a_uniform_distribution_branches_most() -> None:
    assert nucleus_size_at_top([math.log(0.01)] * 100, 0.945) == 95


@given(st.lists(st.floats(-20, 0), min_size=3, max_size=40))
def test_the_likeliest_tokens_are_enough_where_they_reach_the_mass(logits: list[float]) -> None:
    whole = nucleus_by_hand(logits, 0.95)
    logprobs = logprobs_of(logits, 1.0)
    for known in range(1, len(logits) + 1):
        found = nucleus_size_at_top(logprobs[:known])
        mass = math.fsum(map(math.exp, logprobs[:known]))
        if abs(mass - 0.95) > 1e-9:
            assert found == (whole if mass > 0.95 else None)


@pytest.mark.parametrize("logprobs", [[], [math.log(0.5)]])
def test_a_nucleus_beyond_what_is_known_is_not_guessed(logprobs: list[float]) -> None:
    assert nucleus_size_at_top(logprobs) is None
