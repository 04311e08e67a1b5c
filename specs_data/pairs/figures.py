"""What the rows of a dataset add up to."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any, TypedDict

from specs_data.format import ResponseFormat
from specs_data.pairs.language import language
from specs_data.pairs.manifest import Lengths, Sides, describe_lengths
from specs_data.pairs.sides import SidesTally
from specs_data.records import Pair


class Told(TypedDict):
    """The fields of a manifest that the rows decide."""

    corruptions: dict[str, int]
    samples_per_pair: dict[str, int]
    lengths: dict[str, Lengths]
    token_lengths: dict[str, Lengths] | None
    languages: dict[str, int]
    sides: Sides


class Figures:
    """Counts pairs, `total` of them, one after the other, and keeps some numbers of each. `examples` has the first of
    each operator."""

    def __init__(self, fmt: ResponseFormat, total: int) -> None:
        self.pairs = 0
        self.examples: dict[str, Pair] = {}
        self._corruptions: Counter[str] = Counter()
        self._samples: Counter[int] = Counter()
        self._languages: Counter[str] = Counter()
        self._sides = SidesTally(fmt, total)
        self._lengths = {side: _numbers() for side in ("chosen", "rejected")}  # in characters
        self._tokens = {part: _numbers() for part in ("prompt", "chosen", "both")}

    def see(self, pair: Pair, index: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a pair whose chosen side is response `index`, with the tokens that the policy's engine told of it; 0
        where it told none."""
        self.pairs += 1
        self._corruptions[pair.kind] += 1
        self._samples[index + 1] += 1
        self._lengths["chosen"].append(len(pair.chosen))
        self._lengths["rejected"].append(len(pair.rejected))
        # What an operator makes of a chosen response says the same, or it is no pair.
        self._sides.see(pair, True if pair.rejected_from == "chosen" else None)
        self._languages[language(pair.question)] += 1
        if completion_tokens:
            lengths = (prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)
            for part, length in zip(self._tokens.values(), lengths, strict=True):
                part.append(length)
        self.examples.setdefault(pair.kind, pair)

    def told(self) -> Told:
        """What they add up to."""
        return Told(
            corruptions=dict(self._corruptions.most_common()),
            samples_per_pair={str(count): pairs for count, pairs in sorted(self._samples.items())},
            lengths={side: describe_lengths(found) for side, found in self._lengths.items()},
            token_lengths={part: describe_lengths(found) for part, found in self._tokens.items() if found} or None,
            languages=dict(self._languages.most_common()),
            sides=self._sides.told(),
        )


def _numbers() -> Any:
    return array("I")  # a million lengths in 4 MB
