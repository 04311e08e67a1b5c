r"""The arithmetic that a thought writes out: what it comes to, and whether it is right.

Worked example:

    12 / 4 = 3, and 3 + 5 = 8    right; its results are 3 and 8
    2 + 3 = 6                    wrong
    b + 40 = 55, 2 AB^2 = 50     not checked: a part of it is unknown
    \sqrt{16 - 25} = 3           impossible

An equation is a chain `a = b = c` of constants (numbers, fractions, roots, pi). Two neighbours are
compared where both can be computed and one of them has something to compute. Rounding is allowed for
as far as the digits show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import islice

from msgspec import Struct

from specs_data.judges.constants import read_constant
from specs_data.judges.numbers import Quantity, read_quantity, same_quantity
from specs_data.judges.units import is_known
from specs_data.verifiers.rules.words import starts_of

LONGEST = 160  # characters of one side of an equation
SCALES = (7, 10, 12, 24, 60, 100, 1000, 3600, 1_000_000)  # between units of one kind, percent among them
MOST = 2_000  # stretches of mathematics that are read

_WORD = r"[A-Za-zμΩ]{1,14}(?:\^[23])?(?![A-Za-z])"
_UNIT = re.compile(
    rf"(?<=[\d)⟩π])(?:\s?[%°]|\s?(?P<word>{_WORD}(?:/[A-Za-z]{{1,8}}(?:\^[23])?(?![A-Za-z]))?))(?=\s*(?:[-+*=≈)]|/(?!\s?[A-Za-z])))(?!\s*\()"
)
_SIGNS = frozenset("0123456789.+-*/^()⟨⟩√π=≈%°,; ")
_RUN = re.compile(rf"[{re.escape(''.join(_SIGNS))}]*")
_NUMBER = re.compile(r"[\dπ]")
_APART = re.compile(r"[,;.](?=\s|$)|;|(?<=[^\s(+\-*/^=≈])\s+(?=\()(?=\([^()]*=)")
_SIDE = re.compile(r"([=≈])")
_ATTACHED = re.compile(r"(?:[A-Za-zα-ορ-ωΑ-Ω]|\d:)$")
_NEGATIVE = re.compile(r"[a-z]{2} -[\d.]+$")  # "the minimum is -4", but not "x -4"
_MEASURED = re.compile(r"\d\s?([A-Za-z]{1,3})\s?$")  # 3 m (2 + 1)
_OPERATED = re.compile(r"[\d)⟩π%°]\s*[-+*/^]\s*[\d(⟨√π-]|√|π|\)\s*\(|\d\(")
_UNCLEAN_BEFORE = re.compile(
    r"(?:[_!|\[\]{}\\<>≤≥∠△…]|\.\.|\\[a-z]+|\b(?:of|sin|cos|tan|log|ln|mod|root|than|and a))\s*$"
)
_PART_OF = re.compile(r"(?:[\d%)⟩]|half|quarter|third|fourth|fifth|percent|out|one|double|twice) of $")
_ENDS_WORDS = re.compile(r"=[^=.\n]*[A-Za-z]\s*$")  # area = square with side 6 = 36
_DECIMAL = re.compile(r"\d+\.(\d+)")
_IMPOSSIBLE = re.compile(r"√\s*(?:(-\s*\d+(?:\.\d+)?)|\(([^()√]{1,60})\))")
_ABOUT = re.compile(
    r"≈|\b(?:about|approx\w*|around|round\w*|roughly|nearly|nearest|closest|close)\b|约|近似|最接近", re.I
)
_CONVERTED = re.compile(
    r"(?:milli|centi|kilo|deci)?(?:met(?:er|re)|gram|lit(?:er|re))s?|[kcdm]?[mgl]|ml|kg|h|hr|hrs|min|s|sec|"
    r"(?:hour|minute|second|day|week|month|year|dozen|foot|inch|yard|mile|pound|ounce|cent|dollar|quarter)s?|feet|ft|in|lb|oz",
    re.IGNORECASE,
)
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred half"
)
_NUMBER_NAMES = frozenset(_NUMBER_WORDS.split())
_SPOKEN = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS.split())})(?:[- ](?:{'|'.join(_NUMBER_WORDS.split())}))*\b", re.I)
_CHINESE = {mark: value for value, mark in enumerate("零一二三四五六七八九十")} | {"两": 2}
_COUNTED = re.compile(r"([零一二两三四五六七八九十])(?=[个条只件块本位名种次项倍])")


class Term(Struct, frozen=True):
    """A value that the text names. `result`: an equation ends in it; `computed`: it is written as something to
    compute; `operand`: an equation is made of it; `places` as in a Quantity."""

    start: int
    end: int
    text: str
    value: Fraction
    places: int | None = None
    unit: str = ""
    result: bool = False
    computed: bool = False
    operand: bool = False

    @property
    def quantity(self) -> Quantity:
        """It as the judge compares it."""
        digits = len(self.text.strip("-0.").replace(".", "")) if self.places is not None else 0
        return Quantity(self.value, self.places, digits, "%" if self.unit == "%" else "")


class Wrong(Struct, frozen=True):
    """An equation that does not hold, or a step that cannot be made."""

    start: int
    end: int
    text: str
    left: str


class Sums(Struct, frozen=True):
    """All that was read, in order."""

    terms: tuple[Term, ...]
    wrong: tuple[Wrong, ...]
    impossible: tuple[Wrong, ...]


def read_sums(text: str) -> Sums:
    """Read the arithmetic of a `clean` text."""
    terms: list[Term] = []
    wrong: list[Wrong] = []
    without_units = _UNIT.sub(_blank, text)
    for run in islice(_runs(without_units), MOST):
        start = run.start()
        for chain_start, chain in _chains(run.group()):
            _read_chain(text, without_units, start + chain_start, chain, terms, wrong)
    terms += _spoken(text)
    impossible = [
        Wrong(found.start(), found.end(), found.group(), "")
        for found in _IMPOSSIBLE.finditer(text)
        if _is_negative(found)
    ]
    return Sums(tuple(sorted(terms, key=lambda term: term.end)), tuple(wrong), tuple(impossible))


def value_of(text: str) -> Quantity | None:
    """The number or constant that `text` is, all of it."""
    found = read_quantity(text)
    if found is None and (constant := _constant(text.strip(" .,;:!?$"))) is not None:
        found = Quantity(constant)
    return found


def close(value: Quantity, other: Quantity, about: bool = False) -> bool:
    """Are they the same but for rounding to the places that one of them shows? `about`: to whole ones, too."""
    if value.value == other.value or _equal(value.value, other.value):
        return True
    if same_quantity(value, other) or same_quantity(other, value):
        return True
    for exact, shown in ((value, other), (other, value)):
        places = shown.places if shown.places is not None else (0 if about else None)
        finer = places is not None and (exact.places is None or places < exact.places)
        if finer and abs(exact.value - shown.value) * 10 ** (places or 0) <= Fraction(1, 2):
            return True
    return False


def is_scaled(one: Term | Quantity, other: Term | Quantity) -> bool:
    """Is it the same in another unit?"""
    ratios = (one.value / other.value, other.value / one.value) if one.value and other.value else ()
    return any(ratio in SCALES for ratio in ratios)


def is_number(word: str) -> bool:
    """Is it a number in a word?"""
    return word in _NUMBER_NAMES


def is_about(text: str) -> bool:
    """Does `text` say that it rounds?"""
    return _ABOUT.search(text) is not None


def _blank(unit: re.Match[str]) -> str:
    """Spaces in place of a unit or a counted noun; a letter may be an unknown."""
    word = re.split(r"[/^]", unit["word"] or "")[0]
    spaced = unit.group()[0] == " "
    is_unit = (
        not word or (len(word) > 2 and spaced and word.islower()) or (is_known(word) and (spaced or len(word) > 1))
    )
    return " " * len(unit.group()) if is_unit else unit.group()


def _runs(text: str) -> Iterator[re.Match[str]]:
    """The stretches of mathematical signs with a number among them."""
    end = 0
    while number := _NUMBER.search(text, end):
        start = number.start()
        while start > end and text[start - 1] in _SIGNS:
            start -= 1
        if not (run := _RUN.match(text, start)):
            return
        yield run
        end = max(run.end(), number.end())


def _chains(run: str) -> Iterator[tuple[int, str]]:
    start = 0
    for gap in _APART.finditer(run):
        yield start, run[start : gap.start()]
        start = gap.end()
    yield start, run[start:]


def _read_chain(text: str, plain: str, start: int, chain: str, terms: list[Term], wrong: list[Wrong]) -> None:
    pieces = _SIDE.split(chain)
    sides, signs = pieces[::2], pieces[1::2]
    at = start
    before: tuple[str, Fraction, int] | None = None
    for number, side in enumerate(sides):
        first, last = number == 0, number == len(sides) - 1
        inner = _balanced(side, first, last)
        place = at + (side.find(inner) if inner else 0)
        value = _constant(inner) if inner else None
        clean = value is not None
        if clean and first:
            clean = _clean_before(plain, place, inner, len(sides) == 1)
        if clean and first and not last and _ENDS_WORDS.search(text[max(0, place - LONGEST) : place]):
            clean = bool(_OPERATED.search(inner))
        if clean and last:
            clean = _clean_after(text, place + len(inner))
        if value is not None and clean:
            operated = bool(_OPERATED.search(inner))
            ends = last and not first
            unit = _unit_after(text, place + len(inner))
            if inner.endswith("%") or "%" in text[place : place + len(inner) + 2][-2:]:
                unit = "%"
            terms.append(
                Term(place, place + len(inner), inner, value, _places(inner), unit,
                     ends, operated, (not last) and len(sides) > 1)
            )  # fmt: skip
            if before is not None and (operated or _OPERATED.search(before[0])):
                about = signs[number - 1] == "≈" or is_about(text[max(0, at - 60) : at + len(side) + 40])
                if not _holds(before, (inner, value), about, text[before[2] : place + len(inner) + 12]):
                    wrong.append(
                        Wrong(before[2], place + len(inner), f"{before[0]} = {inner}", "".join(before[0].split()))
                    )
            before = (inner, value, place)
        else:
            before = None
        at += len(side) + 1


def _holds(left: tuple[str, Fraction, int], right: tuple[str, Fraction], about: bool, written: str) -> bool:
    (expression, value, _), (shown, result) = left, right
    if _equal(value, result):
        return True
    if "%" in written and any(_near(scaled, result, shown, expression, about) for scaled in (value * 100, value / 100)):
        return True
    if _near(value, result, shown, expression, about) or _near(result, value, expression, shown, about):
        return True
    if _mixes_units(written):
        return True
    first = re.match(r"\s*\(?\s*(-?\d+(?:\.\d+)?)\s*[-+*/]", shown)  # 3 + 4 = 7 * 2 = 14, as some write
    return bool(first and _equal(Fraction(first[1]), value))


def _near(exact: Fraction, shown: Fraction, written: str, expression: str, about: bool) -> bool:
    """Is `shown` what `exact` is when it is rounded or cut to the places written?"""
    places = _places(written)
    if places is None and about:
        places = 0
    if exact == shown or (places is not None and abs(exact - shown) * 10**places < 1):
        return True
    # What it is computed from may have been rounded before.
    decimals = [len(decimal[1]) for decimal in _DECIMAL.finditer(expression)]
    if places is None and _OPERATED.search(written) and _DECIMAL.search(written):
        decimals, places = [*decimals, 2], 2  # a step on the way, or a power of ten: 92.25/977.5, 1.26 * 10^(-3)
    slack = Fraction(1, 200) if decimals and max(decimals) >= 2 else Fraction(1, 50) if about else Fraction(0)
    return places is not None and abs(exact - shown) <= slack * abs(exact)


def _mixes_units(written: str) -> bool:
    """Units that are converted on the way are not followed."""
    if "°" in written and "π" in written:
        return True
    units = {
        unit[1].lower().rstrip("s")
        for unit in re.finditer(rf"[\d)]\s?({_WORD})", written)
        if _CONVERTED.fullmatch(unit[1])
    }
    return len(units) > 1


@lru_cache(4096)  # most are small numbers
def _constant(text: str) -> Fraction | None:
    text = text.strip()
    text = re.sub(r"[%°]", "", text).strip()
    if not text or len(text) > LONGEST or text.startswith(("*", "/", "^", ")")):
        return None
    value = read_constant(text)
    if isinstance(value, Decimal):
        return Fraction(value)
    return value


def _balanced(side: str, first: bool, last: bool) -> str:
    """The side without a bracket that opens before the equation or closes after it."""
    side = side.strip(" ,;").rstrip(".")
    side = side.rstrip(" (") if last else side
    surplus = side.count("(") - side.count(")")
    if surplus > 0 and first and side.startswith("("):
        return side[1:].strip()
    if surplus < 0 and last and side.endswith(")"):
        return side[:-1].strip()
    return side


def _clean_before(text: str, place: int, side: str, alone: bool) -> bool:
    before = text[max(0, place - 12) : place]
    if side[0] in "+*/^":
        return False
    if side[0] == "-" and re.search(r"[\w)\]}]\s*$", before):
        return _NEGATIVE.search(before + side) is not None
    measured = _MEASURED.search(before) if side[0] == "(" else None
    if _ATTACHED.search(before) or (measured and is_known(measured[1])):
        return False
    stripped = before.rstrip()
    if stripped and stripped[-1] in "+-*/^=√":
        return False
    if alone and before.endswith(" of "):
        return not _PART_OF.search(before)
    return not _UNCLEAN_BEFORE.search(before)


def _clean_after(text: str, end: int) -> bool:
    after = text[end : end + 20]
    found = re.match(r"(\s*)([A-Za-zμΩ]+)", after)
    if found:
        word = found[2]
        if after[found.end() :].startswith("("):  # a factor
            return False
        if is_known(word) or _CONVERTED.fullmatch(word):
            return True
        return bool(found[1]) and len(word) > 1 and (word.islower() or word[1:].islower())
    return not re.match(r"\s*[\\^!_{√∠△]|\s*[*/+]\s*[\w\\(]|\s+-\s+[\w\\(]|\s*[<>≤≥≡]|\s?:\s?\d", after)


def _unit_after(text: str, end: int) -> str:
    found = re.match(r"\s?(%|[A-Za-zμΩ]+(?:/[A-Za-z]+)?)", text[end : end + 24])
    return found[1] if found else ""


def _places(text: str) -> int | None:
    found = re.fullmatch(r"\s*-?\d+\.(\d+)\s*[%°]?\s*", text)
    return len(found[1]) if found else None


def _equal(value: Fraction, other: Fraction) -> bool:
    # In whole numbers: a Fraction is brought to its lowest terms at each step.
    one, two = value.numerator * other.denominator, other.numerator * value.denominator
    return abs(one - two) * 10**12 <= abs(one)


def _is_negative(root: re.Match[str]) -> bool:
    value = _constant(root[1] or root[2])
    return value is not None and value < 0


def _spoken(text: str) -> list[Term]:
    found = []
    end = 0
    for start in starts_of(sorted(_NUMBER_NAMES), text):
        if start < end or not (spoken := _SPOKEN.match(text, start)):
            continue
        end = spoken.end()
        if quantity := read_quantity(spoken.group().lower()):
            found.append(Term(start, end, spoken.group(), quantity.value))
    found += [Term(one.start(), one.end(), one[1], Fraction(_CHINESE[one[1]])) for one in _COUNTED.finditer(text)]
    return found
