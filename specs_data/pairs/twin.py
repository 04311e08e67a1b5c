"""Pairs: a rejected twin for a chosen response, by an operator whose every result is checked."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from specs_data.format import ResponseFormat
from specs_data.judges.answers import last_stated, plain
from specs_data.plugins import Corruption
from specs_data.records import Rejected, Twin


def make_twin(
    text: str,
    answer: str | None,
    fmt: ResponseFormat,
    corruptions: Mapping[str, Corruption],
    weights: Mapping[str, float],
    seed: str,
    origin: str = "chosen",
) -> Twin:
    """Corrupt the well-formed response `text`, whose final answer is `answer`, with an operator drawn by `weights`.

    Where the operator does not apply or its result is not a format-only change that keeps the final
    answer, the next one is drawn. The same `seed` gives the same twin.
    """
    rng = random.Random(int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest()))
    # Weighted order without replacement (Efraimidis and Spirakis 2006), in whichever order they were named.
    order = sorted(sorted(corruptions), key=lambda name: rng.random() ** (1 / weights.get(name, 1.0)), reverse=True)
    refused: list[tuple[str, str]] = []
    for name in order:
        result = corruptions[name].apply(text, fmt, rng)
        if result is None:
            continue
        reason = fault(text, result, fmt)
        # Without typography: what follows a label has lost its full stop.
        if reason is None and plain(last_stated(result, fmt) or "") != plain(answer or ""):
            reason = "answer lost"
        if reason is None:
            return Twin(Rejected(result, name, origin), tuple(refused))
        refused.append((name, reason))
    return Twin(None, tuple(refused))


def fault(original: str, corrupted: str, fmt: ResponseFormat) -> str | None:
    """Why `corrupted` is not a format-only corruption of `original`; None if it is one. That the
    answer is still found is for a judge to say."""
    if fmt.check(corrupted) is None:
        return "format not broken"
    if fmt.content(corrupted) != fmt.content(original):
        return "content changed"
    return None
