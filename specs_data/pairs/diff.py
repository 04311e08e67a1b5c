"""What differs between the two sides of a pair, in tags and words."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import groupby, takewhile
from operator import itemgetter
from typing import Literal

Op = Literal["keep", "drop", "add"]
Difference = list[tuple[Op, str]]
_Steps = Iterator[tuple[Op, list[str]]]

# A tag, a word, or any other character.
_TOKEN = re.compile(r"</?\w[\w:.-]{0,63}>|\w+|.", re.DOTALL)
# difflib is quadratic and worse: it gets at most so many tokens a side, and longer texts are cut at their anchors.
_SHORT = 200
_DEEPEST = 20
_AHEAD = 8


def difference(chosen: str, rejected: str) -> Difference:
    """The steps from `chosen` to `rejected`: (op, text) with op "keep", "drop" (only in chosen) or
    "add" (only in rejected).

    The texts of keep and drop join to `chosen`, those of keep and add to `rejected`. Neighbours
    have different ops, and no text is empty. A tag that was moved is dropped in one place and
    added in another. Long texts take little more than linear time, whatever is in them.
    """
    left, right = _TOKEN.findall(chosen), _TOKEN.findall(rejected)
    steps = _marker_steps(left, right) or _steps(left, right, _DEEPEST)
    return _joined((op, "".join(tokens)) for op, tokens in steps)


def marked(chosen: str, rejected: str) -> str:
    """The difference as one text that needs no colour: [-dropped-] and {+added+}."""
    signs = {"keep": ("", ""), "drop": ("[-", "-]"), "add": ("{+", "+}")}
    return "".join(signs[op][0] + text + signs[op][1] for op, text in difference(chosen, rejected))


def _marker_steps(left: list[str], right: list[str]) -> list[tuple[Op, list[str]]] | None:
    """The steps where nothing but tags and white space differs, None where more does. However
    repetitive the rest is, this finds what a format-only change changed."""
    steps: list[tuple[Op, list[str]]] = []
    i = k = 0
    while i < len(left) or k < len(right):
        if i < len(left) and k < len(right) and left[i] == right[k]:
            steps.append(("keep", [left[i]]))
            i, k = i + 1, k + 1
        elif i < len(left) and _is_marker(left[i]) and left[i] not in _markers_ahead(right, k):
            steps.append(("drop", [left[i]]))
            i += 1
        elif k < len(right) and _is_marker(right[k]):
            steps.append(("add", [right[k]]))
            k += 1
        else:
            return None
    return steps


def _markers_ahead(tokens: list[str], place: int) -> list[str]:
    return list(takewhile(_is_marker, tokens[place : place + _AHEAD]))


def _is_marker(token: str) -> bool:
    return token.isspace() or (token[0] == "<" and len(token) > 1)


def _steps(left: list[str], right: list[str], depth: int) -> _Steps:
    start = _shared(left, right)
    end = _shared(left[start:][::-1], right[start:][::-1])
    yield "keep", left[:start]
    yield from _middle(left[start : len(left) - end], right[start : len(right) - end], depth)
    yield "keep", left[len(left) - end :]


def _shared(left: list[str], right: list[str]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(left), len(right))
    return next((n for n in range(shorter) if left[n] != right[n]), shorter)


def _middle(left: list[str], right: list[str], depth: int) -> _Steps:
    """The steps between two texts that neither begin nor end alike."""
    if left and right and max(len(left), len(right)) <= _SHORT:
        yield from _short_steps(left, right)
        return
    anchors = _anchors(left, right) if left and right and depth else []
    if not anchors:
        yield "drop", left
        yield "add", right
        return
    i = k = 0
    for j, m in [*anchors, (len(left), len(right))]:
        yield from _steps(left[i:j], right[k:m], depth - 1)
        i, k = j, m  # the anchor itself is the next part's shared beginning


def _anchors(left: list[str], right: list[str]) -> list[tuple[int, int]]:
    """Positions of tokens that both texts have exactly once, as many as stand in the same order
    (patience diff: the longest increasing subsequence)."""
    here, there = Counter(left), Counter(right)
    places = {token: place for place, token in enumerate(right) if there[token] == 1}
    pairs = [(place, places[token]) for place, token in enumerate(left) if here[token] == 1 and token in places]
    ends: list[int] = []  # the smallest right end of a subsequence of each length
    links: list[tuple[tuple[int, int], int]] = []  # each pair, and where its predecessor is in `links`
    tops: list[int] = []  # where the pair of each of `ends` is in `links`
    for pair in pairs:
        length = bisect_left(ends, pair[1])
        ends[length : length + 1] = [pair[1]]
        tops[length : length + 1] = [len(links)]
        links.append((pair, tops[length - 1] if length else -1))
    chain: list[tuple[int, int]] = []
    link = tops[-1] if tops else -1
    while link >= 0:
        pair, link = links[link]
        chain.append(pair)
    return chain[::-1]


def _short_steps(left: list[str], right: list[str]) -> _Steps:
    for op, i, j, k, m in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if op == "equal":
            yield "keep", left[i:j]
            continue
        yield "drop", left[i:j]
        yield "add", right[k:m]


def _joined(steps: Iterable[tuple[Op, str]]) -> Difference:
    said = (step for step in steps if step[1])
    return [(op, "".join(text for _, text in run)) for op, run in groupby(said, key=itemgetter(0))]
