"""The nucleus of a distribution over tokens: what the Rollout Branching Factor counts.

The nucleus of mass p is the smallest set of tokens whose chances sum to p (arXiv 2508.07534, section 2.2).
Five tokens with chances .5 .3 .1 .06 .04 have a nucleus of 4 at p = 0.95, and of 1 at p = 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specs_data.records import Nuclei

P = 0.95


def nucleus_size_at_top(logprobs: Sequence[float], p: float = P) -> int | None:
    """The size of the nucleus from the log-probabilities of the likeliest tokens alone, of the distribution that
    was sampled from; None where they do not reach the mass p, so that it is larger than their number."""
    chances = np.sort(np.exp(np.asarray(logprobs, dtype=np.float64)))[::-1]
    reached = np.cumsum(chances) >= p
    return int(reached.argmax()) + 1 if reached.any() else None


def nuclei_at_top(tokens: Sequence[Sequence[float]]) -> Nuclei:
    """The nuclei of a response, from the log-probabilities of the likeliest tokens at each of its own. A nucleus that
    they do not reach is at least one token larger than their number, and counts as that."""
    sizes = list(map(nucleus_size_at_top, tokens))
    least = sum(len(logprobs) + 1 if size is None else size for size, logprobs in zip(sizes, tokens, strict=True))
    return Nuclei(P, len(sizes), least, sizes.count(None))
