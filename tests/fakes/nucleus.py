"""The nucleus of a distribution, counted by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence


def nucleus_by_hand(logits: Sequence[float], p: float, temperature: float = 1.0) -> int:
    """Take the likeliest token, again and again, until the mass is p."""
    weights = [math.exp(logit / temperature - max(logits) / temperature) for logit in logits]
    chances = sorted((weight / math.fsum(weights) for weight in weights), reverse=True)
    taken = 0
    while taken < len(chances) and math.fsum(chances[:taken]) < p:
        taken += 1
    return taken
