"""What the two sides of the pairs of a dataset are to each other: whose the rejected ones are, how many texts are
equal, and how far the others lie apart. What the paper did is said as the paper's, and nothing else.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from rapidfuzz.distance import Levenshtein

from specs_data.format import THINK_ANSWER, ResponseFormat, load_format
from specs_data.inert import one_line
from specs_data.pairs.manifest import Manifest, Sides, describe_lengths
from specs_data.records import Pair

_FIVE = frozenset({"remove_all_tags", "remove_answer_tags", "remove_think_tags", "replace_answer_tags", "shift_tags"})
_PAPERS_FORMATS = ("think-answer", "boxed")
# A tag, a word, or any other sign that is no white space. Chinese parts no words: each of its signs is one.
_WORD = re.compile(r"</?\w[\w:.-]{0,63}>|[^\W\u3000-\u9fff\uff00-\uffef]+|\S")
_MOST = 20_000  # words of a side that are compared
_LONG_PART = 50  # characters of a part that is not remembered
_MEASURED = 500  # pairs are enough for a median


def distance(one: str, other: str) -> int:
    """Levenshtein's edit distance in words: the fewest that must be put in, taken away or exchanged. A tag is one, any
    other sign is one, white space is none. Of longer texts the first 20,000 words count.
    """
    return Levenshtein.distance(_words(one), _words(other))


def _words(text: str) -> list[str]:
    """The first words of a text. What stands between white space is mostly one word, or is met again."""
    words: list[str] = []
    for part in text.split():
        if part.isascii() and part.isalnum():
            words.append(part)
        else:
            words += _apart(part) if len(part) < _LONG_PART else _WORD.findall(part)
    return words[:_MOST]


@lru_cache(maxsize=4096)
def _apart(part: str) -> list[str]:
    return _WORD.findall(part)


class SidesTally:
    """What is counted of the sides, pair by pair. `fmt` says what is no content; memory holds a number a pair. Where it
    is told how many pairs there are in `total`, the distance is that of some 500 of them, evenly spread."""

    def __init__(self, fmt: ResponseFormat, total: int = 0) -> None:
        self._fmt = fmt
        self._every = -(-total // _MEASURED) | 1  # odd: of what alternates, it meets both kinds
        self._pairs = self._same = 0
        self._origins: Counter[str] = Counter()
        self._distances: Any = array("I")

    def see(self, pair: Pair, same: bool | None = None) -> bool:
        """Count a pair; whether its sides say the same but for the format (`same`, where that is known)."""
        if same is None:
            same = self._fmt.content(pair.chosen) == self._fmt.content(pair.rejected)
        self._pairs += 1
        self._same += same
        self._origins[pair.rejected_from or ""] += 1
        if self._pairs % self._every == 1 % self._every:
            self._distances.append(distance(pair.chosen, pair.rejected))
        return same

    def told(self) -> Sides:
        """What they add up to."""
        origins = dict(sorted(self._origins.items(), key=lambda one: (-one[1], one[0])))
        return Sides(self._pairs, self._same, origins, describe_lengths(self._distances))


def format_of(manifest: Manifest) -> ResponseFormat | None:
    """The format that the dataset teaches: the one in its manifest, else think-answer; None for one that is not valid.
    A run from before it was kept there names the file alone. Raises UserError where that is not there."""
    if manifest.response_format is None:
        name = manifest.setting("format")
        return load_format(name) if name else THINK_ANSWER
    try:
        return ResponseFormat.model_validate(manifest.response_format)
    except ValidationError:
        return None


def what_it_is(manifest: Manifest) -> list[str]:
    """What a dataset is, in sentences, as far as its manifest tells: its sides, then how it differs from the paper's.
    Names are as they stand in the rows."""
    if manifest.sides is None or not manifest.sides.pairs:
        return []
    return [*describe_sides(manifest.sides, manifest.setting("pairing")), *_against_paper(manifest, manifest.sides)]


def describe_sides(sides: Sides, pairing: str | None = None) -> Iterator[str]:
    """Whose the rejected side is, how many texts are equal, how far they lie apart."""
    kind = "wrong" if pairing == "coupled" else "right"
    for origin, count in _named(sides).items():
        part = "" if count == sides.pairs else f" in {count:,} of {sides.pairs:,} rows"
        if origin == "chosen":
            yield f"Twins{part}: the rejected response is the chosen one with its format broken by an operator."
        elif origin:
            yield f"The rejected response is a {kind} answer of {origin}{part}, malformed by itself or made so."
        else:
            yield f"Whose the rejected response is, is not stated{part}."
    apart = sides.distance
    yield (
        f"Markers, labels and white space aside, both sides say the same in {sides.same:,} of {sides.pairs:,} rows; "
        f"their edit distance in words is {apart.median:,} in the median, {apart.p95:,} in the 95th percentile "
        f"({apart.min:,} to {apart.max:,}{_of_some(sides)})."
    )


def _of_some(sides: Sides) -> str:
    measured = sum(count for _, count in sides.distance.histogram)
    return f", of {measured:,} rows" if measured < sides.pairs else ""


def _named(sides: Sides) -> dict[str, int]:
    """The origins, as one may print them: rows of anybody's may name anything."""
    return {one_line(origin, 80): count for origin, count in sides.origins.items()}


def _against_paper(manifest: Manifest, sides: Sides) -> Iterator[str]:
    others = list(_departures(manifest)) if manifest.recipe else []
    if "chosen" in sides.origins:
        yield "Twins are specs-data's own variant, not the paper's, which corrupts right answers of the base model."
    elif "" not in sides.origins and manifest.setting("pairing") != "coupled":
        yield (
            f"This is the paper's way if {' and '.join(_named(sides))} is the base model of the policy that wrote the "
            "chosen ones."
        )
    if others:
        yield f"Other than in the paper: {'; '.join(others)}."


def _departures(manifest: Manifest) -> Iterator[str]:
    """Where the recipe is not the paper's, the rejected side aside."""
    said = manifest.setting
    if said("pairing") == "coupled":
        yield "the rejected side is wrong as well (one of its ablations)"
    if said("natural_rejected"):
        yield "a rejected response that is malformed by itself is left as it is, where the paper corrupts it too"
    if said("verifier") in (None, "none"):
        yield "nobody checked the reasoning (one of its ablations)"
    elif said("verifier") != "gemini":
        yield "the reasoning was not checked by Gemini"
    weights = said("corruption") or {}
    if weights and (weights.keys() != _FIVE or len(set(weights.values())) > 1):
        yield "the operators are not its five, drawn uniformly"
    name = (manifest.response_format or {}).get("name") or said("format")
    if name not in (None, *_PAPERS_FORMATS):
        yield f"the response format is {name}"
