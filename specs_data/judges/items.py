"""Several values in one answer: lists, sets, tuples, intervals, ± and "or".

Worked example: `±2`, `2 or -2`, `{-2, 2}` and `x = 2, x = -2` are one set; `(1, 2)` is ordered and
is not `(2, 1)`; `1 < x < 2` is the interval `(1, 2)`; "3 or 4" is never 4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from specs_data.judges.answers import plain

MOST_ITEMS = 64

Same = Callable[[str, str], bool | None]


class Items(Struct, frozen=True):
    """Values and the brackets around them ("" where there are none). Braces and bare lists have no
    order; other brackets do. `name` is the variable they belong to (x = 2, 3)."""

    brackets: str
    values: tuple[str, ...]
    name: str = ""

    @property
    def ordered(self) -> bool:
        """Whether (1, 2) and (2, 1) differ."""
        return self.brackets not in ("", "{}")


_WORDS_BETWEEN = re.compile(
    r"\s*(?:[,;]\s*(?:and|or)\b|[,;]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z]))\s*", re.I
)
_OPEN = {"(": ")", "[": "]", "{": "}"}
_CLOSE = frozenset(_OPEN.values())
_LIST_NAME = re.compile(r"\s*([A-Za-z]\w{0,3})\s*(?:=|\\in(?![A-Za-z])|∈)\s*(?=[^=])")
_LESS = re.compile(r"<=|≤|\\leqslant|\\leq|\\le(?![a-z])|<|\\lt(?![a-z])")
_MORE = re.compile(r">=|≥|\\geqslant|\\geq|\\ge(?![a-z])|>|\\gt(?![a-z])")
_VARIABLE = re.compile(r"\s*[A-Za-z]\s*")


def read_items(text: str) -> Items | None:
    """The several values that `text` states, or None where it states one (or is too long to tell)."""
    text = plain(text).replace("\\{", "{").replace("\\}", "}").replace("\\lbrace", "{").replace("\\rbrace", "}")
    interval = _read_inequality(text)
    if interval:
        return interval
    named = _LIST_NAME.match(text)
    name = named[1] if named and "=" not in text[named.end() :] else ""
    if named and name:
        text = text[named.end() :]
    text = text.strip()
    brackets = _outer_brackets(text)
    values = _split(text[1:-1] if brackets else text)
    if values is None:
        return None
    values = [sign for value in values for sign in _both_signs(value)]
    if len(values) < 2 and brackets != "{}":
        return None
    return Items(brackets, tuple(values), name)


def same_items(gold: Items, answer: Items, same: Same) -> bool | None:
    """Do the items agree, one by one? `same` compares (gold, answer) values, None where it cannot tell."""
    if gold.brackets and answer.brackets and gold.brackets != answer.brackets:
        return False
    if gold.name and answer.name and gold.name != answer.name:
        return False
    if gold.ordered or answer.ordered:
        if len(gold.values) != len(answer.values):
            return False
        return _all(same(a, b) for a, b in zip(gold.values, answer.values, strict=True))
    return _same_set(gold.values, answer.values, same)


def _same_set(golds: Sequence[str], answers: Sequence[str], same: Same) -> bool | None:
    told = {(gold, answer): same(gold, answer) for gold in golds for answer in answers}
    rows = [[told[gold, answer] for answer in answers] for gold in golds]
    columns = [[told[gold, answer] for gold in golds] for answer in answers]
    if all(True in line for line in (*rows, *columns)):
        return True
    return None if all(True in line or None in line for line in (*rows, *columns)) else False


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = set(verdicts)
    if False in found:
        return False
    return None if None in found else True


def _split(text: str) -> list[str] | None:
    """The values between commas, semicolons, `and` and `or` outside brackets; None for too many."""
    cuts = []
    depth = 0
    breaks = {match.start(): match.end() for match in _WORDS_BETWEEN.finditer(text)}
    position = 0
    while position < len(text):
        mark = text[position]
        if depth == 0 and position in breaks:
            cuts.append((position, breaks[position]))
            position = breaks[position]
            continue
        depth += (mark in _OPEN) - (mark in _CLOSE)
        position += 1
    if len(cuts) >= MOST_ITEMS or depth:
        return None
    edges = [0, *(edge for cut in cuts for edge in cut), len(text)]
    values = [text[start:end].strip() for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return None if "" in values else values


def _both_signs(value: str) -> tuple[str, ...]:
    return (value.replace("±", "+"), value.replace("±", "-")) if value.count("±") == 1 else (value,)


def _outer_brackets(text: str) -> str:
    """The pair of brackets around all of `text`, or nothing. Half-open intervals are pairs, too."""
    if len(text) < 2 or text[0] not in _OPEN or text[-1] not in _CLOSE:
        return ""
    depth = 0
    for position, mark in enumerate(text):
        depth += (mark in _OPEN) - (mark in _CLOSE)
        if depth == 0:
            return text[0] + text[-1] if position == len(text) - 1 else ""
    return ""


def _read_inequality(text: str) -> Items | None:
    """`1 < x <= 2` as (1, 2], `x > 1` as (1, ∞)."""
    for sign, flip in ((_LESS, False), (_MORE, True)):
        marks = list(sign.finditer(text))
        if not 1 <= len(marks) <= 2 or (_MORE if sign is _LESS else _LESS).search(text):
            continue
        edges = [0, *(edge for mark in marks for edge in mark.span()), len(text)]
        sides = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
        closed = [mark.group() not in ("<", ">", "\\lt", "\\gt") for mark in marks]
        if flip:
            sides, closed = sides[::-1], closed[::-1]
        return _interval(sides, closed)
    return None


def _interval(sides: list[str], closed: list[bool]) -> Items | None:
    variables = [bool(_VARIABLE.fullmatch(side)) for side in sides]
    if variables == [False, True, False]:
        name, low, high, left, right = sides[1], sides[0], sides[2], closed[0], closed[1]
    elif variables == [True, False]:
        name, low, high, left, right = sides[0], "-\\infty", sides[1], False, closed[0]
    elif variables == [False, True]:
        name, low, high, left, right = sides[1], sides[0], "\\infty", closed[0], False
    else:
        return None
    if any(mark in low + high for mark in ",;"):
        return None
    return Items(("[" if left else "(") + ("]" if right else ")"), (low.strip(), high.strip()), name.strip())
