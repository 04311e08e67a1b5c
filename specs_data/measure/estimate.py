"""Estimates with intervals, and pass@k.

A response says little about another response to the same problem: it is problems that are drawn from a
population. Intervals are therefore bootstrapped over problems.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
OUTSIDE = 0.05  # the share of resamples that lies outside an interval, both ends together
_AT_ONCE = 1 << 22  # numbers drawn together

Floats = NDArray[np.float64]


class Estimate(Struct, frozen=True):
    """A value and its 95 % interval; without ends where the interval is not known."""

    value: float
    low: float | None = None
    high: float | None = None


def estimate(
    values: ArrayLike, weights: ArrayLike | None = None, *, share: bool = True, seed: int = 0
) -> Estimate | None:
    """The sum of `values` over the sum of `weights` (one of each per problem; by default every weight is 1:
    the mean), with the percentile bootstrap's 95 % interval. None where the weights sum to nothing.

    Where it is a `share` of which every problem says exactly 0 or exactly 1, resampling knows no doubt, and the
    interval is the exact one (Clopper and Pearson 1934). One problem tells nothing of others: its interval is not
    known.
    """
    sums = np.asarray(values, dtype=np.float64)
    sizes = np.ones_like(sums) if weights is None else np.asarray(weights, dtype=np.float64)
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    if not sums.size:
        return None
    value = float(sums.sum() / sizes.sum())
    if share and value in (0.0, 1.0) and np.array_equal(sums, value * sizes):
        bound = (OUTSIDE / 2) ** (1 / sums.size)
        return Estimate(value, bound if value else 0.0, 1.0 if value else 1 - bound)
    if sums.size == 1:
        return Estimate(value)
    low, high = np.quantile(_resampled(sums, sizes, seed), (OUTSIDE / 2, 1 - OUTSIDE / 2))
    return Estimate(value, float(low), float(high))


def _resampled(sums: Floats, sizes: Floats, seed: int) -> Floats:
    """The ratio in each resample. A resample is how often each problem was drawn; equal problems are drawn
    together, so that ten thousand of them cost no more than the few values that they have."""
    random = np.random.default_rng(seed)
    kinds, counts = np.unique(np.column_stack((sums, sizes)), axis=0, return_counts=True)
    chances = counts / counts.sum()
    parts = [random.multinomial(sums.size, chances, size=rows) @ kinds for rows in _rows(len(kinds))]
    drawn = np.concatenate(parts)
    return np.asarray(drawn[:, 0] / drawn[:, 1])


def _rows(width: int) -> Iterator[int]:
    """RESAMPLES in parts that memory has room for."""
    most = max(1, _AT_ONCE // width)
    for start in range(0, RESAMPLES, most):
        yield min(most, RESAMPLES - start)


def pass_at_k(samples: ArrayLike, right: ArrayLike, k: int) -> Floats:
    """The unbiased chance that one of `k` responses is right, 1 - C(n - c, k) / C(n, k), for each problem with
    n `samples` of which c are `right` (Chen et al. 2021, equation 1). Raises ValueError where n < k or c > n.

    The quotient of the binomials is a product of k shares, so that nothing overflows or cancels.
    """
    n, c = np.asarray(samples, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if k < 1 or (n < k).any() or (c > n).any() or (c < 0).any():
        raise ValueError(f"pass@{k} needs at least {k} responses to every problem")
    missed = np.ones(np.broadcast(n, c).shape)
    for drawn in range(k):
        missed *= np.maximum(n - c - drawn, 0) / (n - drawn)
    return np.asarray(1 - missed)


def ks(samples: int) -> list[int]:
    """The k of pass@k that are worth a line: 1, 2, 4 ... up to `samples`."""
    return [1 << power for power in range(samples.bit_length())]
