"""Numbers as people write them, read exactly, and when two of them are the same.

Worked example:

    −2 1/2      -> -5/2
    1.5 million -> 1500000, shown to no decimal place
    500 cm      -> 500, unit cm; equal to 5 m

The policy, in full:

- Whole numbers and fractions are compared exactly. 0 is not 0.0000001.
- Decimals are compared exactly up to floating-point noise (1e-9 of the gold, and 1e-9 at most).
- A gold written as a decimal with at least three significant digits is met by an answer that is
  more precise and rounds to it (gold 3.14, answer 3.1416). An answer less precise than the gold is
  wrong.
- An exact gold that has no finite decimal (1/3) is met by a decimal of at least three significant
  digits that rounds it correctly (0.333).
- A unit that only one side has is forgiven. Two units are converted; where they cannot be, the
  answer is wrong. What is a unit is told in `units`; 3 h 30 min is one quantity, 3.5 h.
- A part in words is a factor (3 tenths is 0.3), and a number may be said twice (8 (eight)).
- A percent sign is a unit that only one side may have, and it is also a factor: 50% is 0.5, and
  5% is 5 as well as 0.05. Two percentages are compared as they stand.
- A comma or a space before groups of three digits separates thousands; a decimal comma is not read.
- A root or pi makes a number, too (3\\sqrt2, 16\\pi cm^2): it is known to 60 digits and the same where 40 agree.
- `a - b` of two plain numbers is a range, a score or a date and no number (see `values`).
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import takewhile

from msgspec import Struct
from msgspec.structs import replace

from specs_data.judges.answers import plain
from specs_data.judges.constants import agree, read_constant, spelled
from specs_data.judges.units import conversion, read_unit, unit_of

LONGEST = 120
NOISE = Fraction(1, 10**9)
ENOUGH_DIGITS = 3
MOST_DIGITS = 400


class Quantity(Struct, frozen=True):
    """A number. `places` counts the decimal places it shows, None where it is written exactly;
    `digits` counts its significant digits; `name` is the variable it is assigned to (x = 5). A `surd` is
    irrational: `value` is within 1e-50 of it. `also` is the same number as it is rounded (2√7 ≈ 5.29)."""

    value: Fraction
    places: int | None = None
    digits: int = 0
    unit: str = ""
    name: str = ""
    surd: bool = False
    also: Quantity | None = None
    text: str = ""


_INTEGER = re.compile(r"[+-]?\d{1,15}")
_NUMBER = (
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?![\d/])|\d+)?(?:(?<=\d)\.\d+|(?<![\d.])\.\d+|(?<=\d)\.(?!\d))?"
)
_HEAD = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>(?:(?:USD? ?)?\$|USD(?= ?\d)|[€£¥₹])?)\s*(?P<number>(?=[\d.]){_NUMBER})"
    r"(?:[eE](?P<e>[+-]?\d{1,4})(?![\d.])|\s*[*x]\s*10\s*\^\s*(?:\{\s*(?P<p>[+-]?\d{1,4})\s*\}|(?P<q>[+-]?\d{1,4})))?"
    r"(?:\s*/\s*(?P<over>\d{1,30})(?![\d.,^(])|\s+(?P<top>\d{1,9})\s*/\s*(?P<below>\d{1,9})(?![\d.,^(])"
    r"|\s*\\frac\s*(?:\{\s*(?P<ftop>\d{1,9})\s*\}\s*\{\s*(?P<fbelow>\d{1,9})\s*\}|(?P<ft>\d)\s*(?P<fb>\d)))?"
)
_FRACTION = re.compile(r"([+-]?)\s*\\frac\s*(?:\{\s*([+-]?\d{1,30})\s*\}\s*\{\s*([+-]?\d{1,30})\s*\}|(\d)\s*(\d))")
_REPEATING = re.compile(r"([+-]?)\s*(\d{0,20})\.(\d{0,20})\\(?:overline|dot|bar)\s*(?:\{\s*(?=\d)|(?=\d))(\d{1,20})\}?")
_NAME = re.compile(
    r"\s*(?:(?:m\s*)?[∠△]?\s*[A-Za-z]+'*(?:_\{?[\w△]{1,8}\}?)?(?: [A-Za-z]+){0,3}|[A-Za-z]\([A-Za-z0-9]\)|\|[A-Z]{2}\|"
    r"|\\frac\s*\{[A-Z]{2}\}\s*\{[A-Z]{2}\}|[A-Z]{2}\s*/\s*[A-Z]{2}|\\(?:sin|cos|tan)\s*∠?\s*[A-Z]{1,3})\s*"
)
_NO_NAME = re.compile(r"[a-z]{2}|(?!\\).*(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt)\b.*")
_SIDES = re.compile(r"(=|≈)")
_FORMULA = re.compile(r"(?:\\(?:frac|sqrt|sin|cos|tan)|[A-Z]{1,3}|(?<![a-z])[a-z](?![a-z])|[\d.+\-*/^(){}\sπ∠])+")
_MOST_SIDES = 8
_RANGE = re.compile(r"\d[\d.,]*\s*[%°]?\s*-\s*\d[\d.,]*(?:\s*-\s*\d[\d.,]*)?\s*(?:[%°]|[A-Za-z][A-Za-z ^\d]*)?")
_ABOUT = re.compile(r"(?:≈|~|=|approximately|approx\.?|about|around|roughly|nearly|exactly|only)\s*", re.IGNORECASE)
_SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion|dozen)s?\b", re.IGNORECASE)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

_CONSTANT_ENDS = re.compile(r"\s*(?:[A-Za-zμΩ°%$€£]|$)")
_RAISED = re.compile(r"\^\((\d)\)")
_ALGEBRA = re.compile(r"\s*[A-Za-ln-zΩ](?![A-Za-z]).*")  # also of 2π h, where h may well be a height

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: value for value, word in enumerate(_ONES.split())} | {
    word: 10 * tens for tens, word in enumerate(_TENS.split(), start=2)
}
_ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth"
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4} | {
    part + plural: value
    for value, part in (
        *enumerate(_ORDINALS.split(), start=3),
        (12, "twelfth"),
        (100, "hundredth"),
        (1000, "thousandth"),
    )
    for plural in ("", "s")
}
_SPOKEN = frozenset((*_WORDS, *_SCALES, *_PARTS, "and", "a", "an", "point"))
_PART = re.compile(rf"\s+({'|'.join(_PARTS)})(?![A-Za-z])", re.IGNORECASE)

_LEAD = re.compile(r"(?:so|thus|therefore|hence|then|finally)\b\s*,?\s*", re.IGNORECASE)
_MINUS = re.compile(r"(?:minus|negative)\s+", re.IGNORECASE)
_AGAIN = re.compile(r"\s*\(([^()]{1,60})\)")
_COMPOUND = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\.?(?:\s+(?:and\s+)?|$)")


def read_quantity(text: str, letters: bool = True) -> Quantity | None:
    """The number that `text` is, all of it, or None. Without `letters`, 5m is algebra and only 5 m is metres."""
    if _INTEGER.fullmatch(text):
        return Quantity(Fraction(int(text)))
    if len(text) > LONGEST:
        return None
    return _remembered(text, letters)


def read_plain_quantity(text: str, letters: bool = True) -> Quantity | None:
    """`read_quantity` of a text that is `plain`."""
    return _read(text, letters) if len(text) <= LONGEST else None


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Is `answer` the number `gold`? Not symmetric: see the policy above."""
    if names_differ(gold.name, answer.name):
        return False
    wanted = [gold, gold.also] if gold.also else [gold]
    found = [answer, answer.also] if answer.also else [answer]
    return any(_same_form(one, other) for one in wanted for other in found)


def names_differ(gold: str, answer: str) -> bool:
    """Are these the names of two different things? `Area` and `A` may be one."""
    if not gold or not answer or gold == answer:
        return False
    short, long = sorted((gold, answer), key=len)
    is_word = len(long) > 2 and long.isalpha() and not long.isupper()
    return not (
        is_word and long[:1].lower() == short[:1].lower() and (len(short) == 1 or long.lower() == short.lower())
    )


def _same_form(gold: Quantity, answer: Quantity) -> bool:
    if gold.unit == answer.unit:
        return same_number(gold, answer)
    if "%" in (gold.unit, answer.unit) and not (gold.unit and answer.unit):
        return same_number(gold, answer) or same_number(_without_percent(gold), _without_percent(answer))
    if not gold.unit or not answer.unit:
        return same_number(gold, answer) or _same_angle(gold, answer)
    factors = conversion(answer.unit, gold.unit)
    if factors is None:
        return False
    scale, offset = factors
    # A converted number shows no decimal place of its own: only the gold's precision counts.
    places = None if answer.places is None and gold.places is None else 10 * MOST_DIGITS
    return same_number(gold, Quantity(answer.value * scale + offset, places, answer.digits, surd=answer.surd))


def _same_angle(gold: Quantity, answer: Quantity) -> bool:
    """One in degrees and one in parts of pi, which needs no unit to be radians."""
    if gold.unit == "degree" and answer.surd and "π" in spelled(answer.text):
        return _same_form(gold, replace(answer, unit="rad"))
    return (
        answer.unit == "degree"
        and gold.surd
        and "π" in spelled(gold.text)
        and _same_form(replace(gold, unit="rad"), answer)
    )


def same_number(gold: Quantity, answer: Quantity) -> bool:
    """Are the numbers the same, units aside?"""
    difference = abs(answer.value - gold.value)
    if not difference or ((gold.surd or answer.surd) and agree(gold.value, answer.value)):
        return True
    if gold.places is None and answer.places is None:
        return False
    if difference <= NOISE * min(Fraction(1), abs(gold.value)):
        return True
    if gold.places is not None:
        return (answer.places is None or answer.places > gold.places) and rounds_to(answer.value, gold)
    return answer.places is not None and (gold.surd or not _terminates(gold.value)) and rounds_to(gold.value, answer)


def rounds_to(value: Fraction, shown: Quantity) -> bool:
    """Does `value` round to the decimal `shown`, and does that show digits enough to tell?"""
    if shown.places is None or shown.digits < ENOUGH_DIGITS:
        return False
    return 2 * abs(value - shown.value) <= Fraction(10) ** -shown.places


@lru_cache(maxsize=4096)
def _remembered(text: str, letters: bool) -> Quantity | None:
    return read_plain_quantity(plain(text), letters)


def _read(text: str, letters: bool) -> Quantity | None:
    if _INTEGER.fullmatch(text):
        return Quantity(Fraction(int(text)))
    lead = _LEAD.match(text) if text[:1].isalpha() else None
    if lead:
        text = text[lead.end() :]
    about = None if text[:1].isdigit() else _ABOUT.match(text)
    if about:
        text = text[about.end() :]
    if "=" in text or "≈" in text:
        return _read_chain(text, letters)
    return None if _RANGE.fullmatch(text) else _read_value(text, letters)


def _read_chain(text: str, letters: bool) -> Quantity | None:
    """`x = 5`, `AB = 2√7 ≈ 5.29`, `3 + 9 = 12`: a name and sides that are all the same, or nothing."""
    first, *rest = _SIDES.split(text, maxsplit=_MOST_SIDES)
    signs, sides = rest[::2], rest[1::2]
    if _NAME.fullmatch(first) and not _NO_NAME.fullmatch(first.strip()) and read_quantity(first, letters) is None:
        name = "".join(first.split())
        if len(sides) == 1 and _RANGE.fullmatch(sides[0].strip()):
            return None
    elif len(sides) == 1 and _NAME.fullmatch(sides[0]) and len(sides[0].strip()) == 1:
        name, sides = sides[0].strip(), [first]  # 3 = x
    else:
        name, sides, signs = "", [first, *sides], ["=", *signs]
    values = [_read_value(side.strip(), letters) for side in sides]
    if name:  # the formula in S = ab/2 = 12 says nothing that could be wrong
        known = [
            at for at, side in enumerate(sides) if values[at] or at == len(sides) - 1 or not _FORMULA.fullmatch(side)
        ]
        values, signs = [values[at] for at in known], [signs[at] for at in known]
    value, *others = (read for read in values if read) if all(values) else (None,)
    if value is None or not all(_follows(value, other, sign) for other, sign in zip(others, signs[1:], strict=True)):
        return None
    unit = next((other.unit for other in (value, *others) if other.unit), "")
    last = replace(others[-1], unit=unit) if others else None
    if last and last.places is None:  # the exact one that is written last
        value, last = last, None
    return replace(value, unit=unit, name=name, also=last)


def _follows(value: Quantity, other: Quantity, sign: str) -> bool:
    """Is the next side of a chain the same number, or near it where it says so?"""
    if value.unit and other.unit and value.unit != other.unit:
        return False
    if same_number(value, other) or same_number(other, value):
        return True
    near = other if other.places is not None else value
    return sign == "≈" and near.places is not None and abs(value.value - other.value) <= Fraction(10) ** -near.places


def _read_value(text: str, letters: bool) -> Quantity | None:
    minus = _MINUS.match(text) if text[:1].isalpha() else None
    if minus:
        found = _read_value(text[minus.end() :], letters) if text[minus.end() :][:1].isalnum() else None
        return found and Quantity(-found.value, found.places, found.digits, found.unit)
    return (
        _read_literal(text, letters)
        or _read_words(text)
        or _read_constant(text, letters)
        or _read_twice(text, letters)
        or _read_compound(text)
    )


def _read_twice(text: str, letters: bool) -> Quantity | None:
    """`5 (five) blocks` and `five (5) blocks`: a number in words and in digits."""
    again = _AGAIN.search(text)
    if again is None or text[:1].isalpha() == again[1][:1].isalpha():
        return None
    first, second = _read_value(text[: again.start()] + text[again.end() :], letters), _read_value(again[1], letters)
    return first if first and second and first.value == second.value and not second.unit else None


def _read_compound(text: str) -> Quantity | None:
    """`3 h 30 min`: each unit smaller than the one before, all of it in the first one."""
    parts: list[tuple[Fraction, str]] = []
    end = 0
    while (part := _COMPOUND.match(text, end)) and len(parts) < 4:
        parts.append((Fraction(part[1]), read_unit(" " + part[2]) or ""))
        end = part.end()
    if end < len(text) or len(parts) < 2 or not all(unit for _, unit in parts):
        return None
    total, unit = parts.pop()
    for number, larger in reversed(parts):
        factors = conversion(unit, larger) if unit != larger else None
        if factors is None or factors[1] or total * factors[0] >= 1:
            return None
        total, unit = number + total * factors[0], larger
    return Quantity(total, unit=unit)


def _read_literal(text: str, letters: bool) -> Quantity | None:
    text = text.strip()
    if "\\" in text and (repeating := _REPEATING.match(text)):
        sign, whole, decimals, again = repeating.groups()
        nines = 10 ** len(decimals) * (10 ** len(again) - 1)
        value = Fraction(int(whole + decimals or 0)) / 10 ** len(decimals) + Fraction(int(again), nines)
        return _with_unit(-value if sign == "-" else value, None, 0, "", text[repeating.end() :], letters)
    fraction = _FRACTION.match(text) if "\\frac" in text else None
    if fraction:
        sign, top, below, short_top, short_below = fraction.groups()
        number = _ratio(top or short_top, below or short_below)
        if number is None:
            return None
        return _with_unit(-number if sign == "-" else number, None, 0, "", text[fraction.end() :], letters)
    head = _HEAD.match(text)
    if not head:
        return None
    part = head.groupdict()
    written = part["number"].replace(",", "").replace(" ", "")
    exponent = int(part["e"] or part["p"] or part["q"] or 0)
    if written in ("", ".") or abs(exponent) > MOST_DIGITS:
        return None
    whole, point, decimals = written.partition(".")
    shift = exponent - len(decimals)
    value = Fraction(int(whole + decimals) * 10 ** max(0, shift), 10 ** max(0, -shift))
    places = -shift if point else None
    digits = len(written.replace(".", "").lstrip("0"))
    top, below = part["top"] or part["ftop"] or part["ft"], part["below"] or part["fbelow"] or part["fb"]
    if part["over"] or below:
        if places is not None or exponent:
            return None
        ratio = _ratio(top or written, part["over"] or below)
        if ratio is None:
            return None
        value = value + ratio if top else ratio
    rest = text[head.end() :]
    scale = _SCALE.match(rest) if rest else None
    if scale:
        factor = _SCALES[scale[1].lower()]
        value *= factor
        places = None if places is None or value.denominator == 1 else places
        rest = rest[scale.end() :]
    share = _PART.match(rest) if rest else None
    if share and places is None:
        value /= _PARTS[share[1].lower()]
        rest = rest[share.end() :]
    return _with_unit(-value if part["sign"] == "-" else value, places, digits, part["currency"], rest, letters)


def _with_unit(
    value: Fraction, places: int | None, digits: int, currency: str, rest: str, letters: bool
) -> Quantity | None:
    unit = read_unit(rest, letters)
    if unit is None or (unit and currency):
        return None
    return Quantity(value, places, digits, unit or unit_of(currency[-1:]))


def _ratio(top: str, below: str) -> Fraction | None:
    return Fraction(int(top), int(below)) if int(below) else None


def _without_percent(number: Quantity) -> Quantity:
    if number.unit != "%":
        return number
    places = None if number.places is None else number.places + 2
    return Quantity(number.value / 100, places, number.digits)


def _terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _read_words(text: str) -> Quantity | None:
    """`twenty-one`, `one hundred and five`, `two and a half`, `three quarters`, `two thousand cm`."""
    if not text[:1].isalpha():
        return None
    words = text.replace("-", " ").split()
    spoken = [word.lower() for word in takewhile(lambda word: word.lower() in _SPOKEN, words)]
    value = _spoken(spoken) if spoken else None
    unit = None if value is None else read_unit(" " + " ".join(words[len(spoken) :]))
    return None if value is None or unit is None else Quantity(value, unit=unit)


def _spoken(words: list[str]) -> Fraction | None:
    if "point" in words:
        return _decimal(words)
    part = _PARTS.get(words[-1])
    if part is None:
        return _cardinal(words)
    before = words[:-1]
    if not before:
        return Fraction(1, 2) if words[-1] == "half" else None
    if "and" not in before:
        count = Fraction(1) if before in (["a"], ["an"]) else _cardinal(before)
        # Twenty-fifth is a place in a row.
        return count / part if count and (count < 20 or words[-1].endswith("s")) else None
    at = len(before) - 1 - before[::-1].index("and")
    whole = _cardinal(before[:at])
    count = Fraction(1) if before[at + 1 :] == ["a"] else _cardinal(before[at + 1 :])
    return None if whole is None or count is None else whole + count / part


def _decimal(words: list[str]) -> Fraction | None:
    """`three point one four`: each digit is said alone."""
    at = words.index("point")
    whole = _cardinal(words[:at]) if at else Fraction(0)
    decimals = [_WORDS.get(word, 10) for word in words[at + 1 :]]
    if whole is None or not decimals or max(decimals) > 9:
        return None
    return whole + sum(Fraction(digit, 10**place) for place, digit in enumerate(decimals, start=1))


def _cardinal(words: list[str]) -> Fraction | None:
    """The whole number that the words say, None where they say none: "two three" is not five."""
    total, group, last = 0, 0, "and"
    for word in words:
        if word == "and":
            if last == "and":
                return None
        elif word in ("a", "an"):
            if len(words) == 1 or last != "and" or total or group:
                return None
            group = 1
        elif word in _WORDS:
            number = _WORDS[word]
            low = group % 100
            if low and (number >= 10 or low < 20 or low % 10):
                return None
            group += number
        elif word == "hundred":
            group *= 100
        elif word in _SCALES:
            total, group = total + group * _SCALES[word], 0
        else:
            return None
        last = word
    return None if last == "and" else Fraction(total + group)


def _read_constant(text: str, letters: bool) -> Quantity | None:
    """A constant with or without a unit: 2+3, 3√2 cm, 9πcm^2."""
    if text.count("°") > 1:  # 120° - 50°
        found = _read_constant(text.replace("°", " "), letters)
        return found and replace(found, unit="degree") if not found or not found.unit else None
    line = spelled(text)
    start = _CONSTANT_ENDS.search(line)
    value = read_constant(line[: start.start()] if start else line)
    if value is None:
        return None
    rest = line[start.start() :] if start else ""
    rest = _RAISED.sub(r"^\1", rest)
    unit = read_unit(rest, letters) if letters or not _ALGEBRA.fullmatch(rest) else None
    return None if unit is None else Quantity(Fraction(value), unit=unit, surd=isinstance(value, Decimal))
