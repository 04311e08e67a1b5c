"""What differs between the two sides of a pair, in tags and words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Literal

Op = Literal["keep", "drop", "add"]
Difference = list[tuple[Op, str]]

# A tag, a word, or any other character.
_TOKEN = re.compile(r"</?\w[\w:.-]{0,63}>|\w+|.", re.DOTALL)
# From here on, tokens that make up more than 1 % of a text no longer anchor a match: quadratic otherwise.
_LONG = 4_000


def difference(chosen: str, rejected: str) -> Difference:
    """The steps from `chosen` to `rejected`: (op, text) with op "keep", "drop" (only in chosen) or
    "add" (only in rejected).

    The texts of keep and drop join to `chosen`, those of keep and add to `rejected`. Neighbours
    have different ops, and no text is empty. A tag that was moved is dropped in one place and
    added in another.
    """
    left, right = _TOKEN.findall(chosen), _TOKEN.findall(rejected)
    start = _shared(left, right)
    end = _shared(left[start:][::-1], right[start:][::-1])
    left_end, right_end = len(left) - end, len(right) - end
    steps: list[tuple[Op, list[str]]] = [("keep", left[:start])]
    steps += _steps(left[start:left_end], right[start:right_end])
    steps.append(("keep", left[left_end:]))
    return _joined((op, "".join(tokens)) for op, tokens in steps)


def marked(chosen: str, rejected: str) -> str:
    """The difference as one text that needs no colour: [-dropped-] and {+added+}."""
    signs = {"keep": ("", ""), "drop": ("[-", "-]"), "add": ("{+", "+}")}
    return "".join(signs[op][0] + text + signs[op][1] for op, text in difference(chosen, rejected))


def _shared(left: list[str], right: list[str]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(left), len(right))
    return next((n for n in range(shorter) if left[n] != right[n]), shorter)


def _steps(left: list[str], right: list[str]) -> Iterable[tuple[Op, list[str]]]:
    # White space only extends a match: two unrelated texts share nothing but their blanks.
    autojunk = len(left) + len(right) > _LONG
    for op, i, j, k, m in SequenceMatcher(str.isspace, left, right, autojunk).get_opcodes():
        if op == "equal":
            yield "keep", left[i:j]
            continue
        old, new = left[i:j], right[k:m]
        if old and new and (all(map(str.isspace, old)) or all(map(str.isspace, new))):
            yield from _blank_steps(old, new)
            continue
        yield "drop", old
        yield "add", new


def _blank_steps(left: list[str], right: list[str]) -> Iterable[tuple[Op, list[str]]]:
    """Like `_steps`, where one side is all white space: the blanks around a lost tag stayed."""
    for op, i, j, k, m in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if op == "equal":
            yield "keep", left[i:j]
            continue
        yield "drop", left[i:j]
        yield "add", right[k:m]


def _joined(steps: Iterable[tuple[Op, str]]) -> Difference:
    joined: Difference = []
    for op, text in steps:
        if not text:
            continue
        if joined and joined[-1][0] == op:
            joined[-1] = (op, joined[-1][1] + text)
        else:
            joined.append((op, text))
    return joined
