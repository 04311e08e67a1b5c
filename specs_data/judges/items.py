"""Several values in one answer: lists, sets, tuples, intervals, ± and "or".

Worked example: `±2`, `2 or -2`, `{-2, 2}` and `x = 2, x = -2` are one set; `(1, 2)` is ordered and
is not `(2, 1)`; `1 < x < 2` is the interval `(1, 2)`; `x < 1 or x > 2` is a union of two; "3 or 4" is
never 4; `1,000, 2,000` is two numbers, and `1,000,2,000` is four.
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
    order; other brackets do. A union of intervals has the brackets "∪". `name` is the variable
    they belong to (x = 2, 3)."""

    brackets: str
    values: tuple[str, ...]
    name: str = ""

    @property
    def ordered(self) -> bool:
        """Whether (1, 2) and (2, 1) differ."""
        return self.brackets not in ("", "{}", "∪")


_WORDS_BETWEEN = re.compile(
    r"\s*(?:[,;]\s*(?:and|or)\b|[,;]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z]))\s*", re.I
)
_AND = re.compile(r"\band\b|\\(?:land|wedge)(?![A-Za-z])|∧", re.IGNORECASE)
_OR = re.compile(r"\bor\b|\\(?:lor|vee)(?![A-Za-z])|∨", re.IGNORECASE)
_CUP = re.compile(r"\\cup(?![A-Za-z])|∪")
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!,?\d)")
_APART = re.compile(r",\s|;|\b(?:and|or)\b", re.IGNORECASE)
_OPEN = {"(": ")", "[": "]", "{": "}"}
_CLOSE = frozenset(_OPEN.values())
_LIST_NAME = re.compile(r"\s*([A-Za-z]\w{0,3})\s*(?:=|\\in(?![A-Za-z])|∈)\s*(?=[^=])")
_LESS = re.compile(r"<=|≤|\\leqslant|\\leq|\\le(?![a-z])|<|\\lt(?![a-z])")
_MORE = re.compile(r">=|≥|\\geqslant|\\geq|\\ge(?![a-z])|>|\\gt(?![a-z])")
_VARIABLE = re.compile(r"\s*[A-Za-z]\s*")


def read_items(text: str) -> Items | None:
    """The several values that `text` states, or None where it states one (or is too long to tell)."""
    text = plain(text).replace("\\{", "{").replace("\\}", "}").replace("\\lbrace", "{").replace("\\rbrace", "}")
    interval = _read_inequality(text) or _read_between(text) or _read_union(text)
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
    if gold.brackets != answer.brackets and "∪" in (gold.brackets, answer.brackets):
        return None
    if gold.brackets and answer.brackets and gold.brackets != answer.brackets:
        return False
    if gold.name and answer.name and gold.name != answer.name:
        return False
    if gold.ordered or answer.ordered:
        if len(gold.values) != len(answer.values):
            return False
        return _all(same(a, b) for a, b in zip(gold.values, answer.values, strict=True))
    if gold.brackets == "∪":
        # Other intervals may have the same union.
        return _same_set(gold.values, answer.values, lambda one, other: _same_interval(one, other, same)) or None
    return _same_set(gold.values, answer.values, same)


def as_set(items: Items) -> str:
    """A union in the usual notation."""
    return r" \cup ".join(items.values)


def _same_interval(gold: str, answer: str, same: Same) -> bool | None:
    wanted, found = read_items(gold), read_items(answer)
    return same_items(wanted, found, same) if wanted and found else None


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
    if _APART.search(text):
        text = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
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


def _read_between(text: str) -> Items | None:
    """`-1 < x and x <= 3` as (-1, 3]."""
    sides = _AND.split(text, maxsplit=2)
    found = [_read_inequality(side) for side in sides] if len(sides) == 2 else []
    if len(found) != 2 or not found[0] or not found[1] or found[0].name != found[1].name:
        return None
    low, high = found if found[1].values[0] == "-\\infty" else found[::-1]
    if low is None or high is None or low.values[1] != "\\infty" or high.values[0] != "-\\infty":
        return None
    return Items(low.brackets[0] + high.brackets[1], (low.values[0], high.values[1]), low.name)


def _read_union(text: str) -> Items | None:
    """`x < 2 or x > 3` and `(-∞, 2) ∪ (3, ∞)`, where each part is an interval of the same variable."""
    named = _LIST_NAME.match(text)
    if named and not _LESS.search(text) and not _MORE.search(text):
        text = text[named.end() :]
    read = _read_interval if _CUP.search(text) else _read_inequality
    sides = (_CUP if read is _read_interval else _OR).split(text, maxsplit=MOST_ITEMS)
    if not 2 <= len(sides) < MOST_ITEMS:
        return None
    found = [read(side) for side in sides]
    parts = [part for part in found if part]
    if len(parts) < len(sides) or len({part.name for part in parts}) > 1:
        return None
    values = (f"{part.brackets[0]}{part.values[0]}, {part.values[1]}{part.brackets[1]}" for part in parts)
    return Items("∪", tuple(values), parts[0].name)


def _read_interval(text: str) -> Items | None:
    text = text.strip()
    brackets = _outer_brackets(text)
    values = _split(text[1:-1]) if brackets in ("()", "[]", "(]", "[)") else None
    return Items(brackets, tuple(values)) if values and len(values) == 2 else None


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
