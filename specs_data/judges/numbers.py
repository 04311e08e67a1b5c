"""Numbers as people write them, read exactly, and when two of them are the same.

Worked example:

    −2 1/2      -> -5/2
    1.5 million -> 1500000, shown to no decimal place
    500 cm      -> 500, unit cm; equal to 5 m

What is a unit is told in `units`; 3 h 30 min is one quantity, 3.5 h. A part in words is a factor (3 tenths is 0.3), and
a number may be said twice (8 (eight)). When two are the same is the policy in `judges`.
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
from specs_data.judges.constants import PARTS, SCALES, WORDS, agree, read_constant, spelled
from specs_data.judges.units import conversion, is_known, read_unit

LONGEST = 120
NOISE = Fraction(1, 10**9)
ENOUGH_DIGITS = 3
MOST_DIGITS = 400


class Quantity(Struct, frozen=True):
    """A number. `places` counts the decimal places it shows, None where it is written exactly;
    `digits` counts its significant digits; `name` is the variable it is assigned to (x = 5). A `surd` is
    irrational: `value` is within 1e-50 of it. `also` is the same number as it is rounded (2√7 ≈ 5.29). Of a gold,
    `asked` is the number of decimal places to round to, `within` the share of it that an answer may differ by."""

    value: Fraction
    places: int | None = None
    digits: int = 0
    unit: str = ""
    name: str = ""
    surd: bool = False
    also: Quantity | None = None
    text: str = ""
    asked: int | None = None
    within: Fraction = Fraction(0)


_INTEGER = re.compile(r"[+-]?\d{1,15}")
_NUMBER = (
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?![\d/])|\d+)?(?:(?<=\d)\.\d+|(?<![\d.])\.\d+|(?<=\d)\.(?!\d))?"
)
_HEAD = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>(?:(?:USD? ?)?\$|USD(?= ?\d)|[€£¥₹])?)\s*(?P<number>(?=[\d.]){_NUMBER})"
    r"(?:[eE](?P<e>[+-]?\d{1,4})(?![\d.])|\s*[*x]\s*10\s*\^\s*(?:\{\s*(?P<p>[+-]?\d{1,4})\s*\}|(?P<q>[+-]?\d{1,4})))?"
)
_NAME = re.compile(
    r"\s*(?:(?:\\(?:alpha|beta|gamma|delta|theta|(?:var)?phi|lambda|omega|rho)|(?:m\s*)?(?:[∠△]?\s*[A-Za-z]+|∠\s*\d))"
    r"'*(?:_\{?[\w△]{1,8}\}?)?(?: [A-Za-z]+){0,3}|[A-Za-z]\(-?[A-Za-z0-9]{1,3}\)|\|[A-Z]{2}\|"
    r"|\\frac\s*\{[A-Z]{2}\}\s*\{[A-Z]{2}\}|[A-Z]{2}\s*/\s*[A-Z]{2}|\\(?:sin|cos|tan)\s*∠?\s*[A-Z]{1,3})\s*"
)
_NO_NAME = re.compile(
    r"[a-z]{2}|(?!\\|(?:sin|cos|tan)\s*∠?\s*[A-Z]+$).*(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt)\b.*"
    r"|(?i:.*\b(?:not|no|never|neither|nor|or|except|but|if|than|least|most|up to|under|over|almost|maybe|twice|thrice"
    r"|half|third|double|triple|minus|negative|plus|opposite|reciprocal|(?:square|cube|root|power) of)\b.*)"
)
_SIDES = re.compile(r"(=|≈)")
_MOST_SIDES = 8
_RANGE = re.compile(r"\d[\d.,]*\s*[%°]?\s*-\s*\d[\d.,]*(?:\s*-\s*\d[\d.,]*)?\s*(?:[%°]|[A-Za-z][A-Za-z ^\d]*)?")
_LEAD = re.compile(
    r"\A(?:(?:so|thus|therefore|hence|then|finally)\b\s*,?\s*)?"
    r"(?:(?:≈|~|=|approximately|approx\.?|about|around|roughly|nearly|exactly|only|大?约[是为]?)\s*)?",
    re.IGNORECASE,
)
_SCALE = re.compile(r"\s*(?:(hundred|thousand|million|billion|trillion|dozen)s?\b|([万亿]))", re.IGNORECASE)

_FRACTION = re.compile(r"([+-]?\d{1,30})/(\d{1,30})|\\frac\{([+-]?\d{1,30})\}\{([+-]?\d{1,30})\}")
_CONSTANT_ENDS = re.compile(r"\s*(?:[A-Za-zμΩ°%$€£]|$)")
_RAISED = re.compile(r"\^\((\d)\)")
_ALGEBRA = re.compile(r"\s*[A-Za-ln-zΩ](?![A-Za-z]).*")  # also of 2π h, where h may well be a height

_SCALES_DOWN = sorted(SCALES.items(), key=lambda scale: -scale[1])
_SPOKEN = frozenset((*WORDS, *SCALES, *PARTS, "and", "a", "an", "point"))
_PART = re.compile(rf"\s+({'|'.join(PARTS)})(?![A-Za-z])", re.IGNORECASE)

_MINUS = re.compile(r"(?:minus|negative)\s+(?=\w)", re.IGNORECASE)
_AGAIN = re.compile(r"\s*\(([^()]{1,60})\)")
_COMPOUND = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\.?(?:\s+(?:and\s+)?|$)")
_ARC = re.compile(r"°\s*(\d+(?:\.\d+)?)\s*(?:'|\^?\{?\\prime\}?)$")  # 15°30'


@lru_cache(maxsize=4096)
def read_quantity(text: str, letters: bool = True) -> Quantity | None:
    """The number that `text` is, all of it, or None. Without `letters`, 5m is algebra and only 5 m is metres."""
    return read_plain_quantity(plain(text), letters) if len(text) <= LONGEST else None


def read_plain_quantity(text: str, letters: bool = True) -> Quantity | None:
    """`read_quantity` of a text that is `plain`."""
    if _INTEGER.fullmatch(text):
        return Quantity(Fraction(int(text)))
    if len(text) > LONGEST:
        return None
    if not text[:1].isdigit():
        text = _LEAD.sub("", text)
    if "=" in text or "≈" in text:
        return _read_chain(text, letters)
    return None if _RANGE.fullmatch(text) else _read_value(text, letters)


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Is `answer` the number `gold`? Not symmetric: see the policy in `judges`."""
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
    return not is_word or long.lower() not in (short.lower(), short.lower() + long[1:].lower())


def _same_form(gold: Quantity, answer: Quantity) -> bool:
    if gold.unit == answer.unit:
        return same_number(gold, answer)
    if "%" in (gold.unit, answer.unit) and not (gold.unit and answer.unit):
        as_written = (gold.unit or abs(gold.value) >= 1) and same_number(gold, answer)
        return bool(as_written) or same_number(_without_percent(gold), _without_percent(answer))
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
    sides = (gold, answer)
    one, other = (replace(it, unit=it.unit or "rad") if it.surd and "π" in spelled(it.text) else it for it in sides)
    return {one.unit, other.unit} == {"degree", "rad"} and _same_form(one, other)


def same_number(gold: Quantity, answer: Quantity) -> bool:
    """Are the numbers the same, units aside?"""
    if gold.value == answer.value or ((gold.surd or answer.surd) and agree(gold.value, answer.value)):
        return True
    if gold.places is None and answer.places is None and gold.asked is None and not gold.within:
        return False
    difference = abs(answer.value - gold.value)
    if gold.asked is not None and 2 * difference <= Fraction(10) ** -gold.asked:
        return True
    if gold.within and difference <= gold.within * abs(gold.value):
        return True
    if gold.places is None and answer.places is None:
        return False
    if difference <= NOISE * min(Fraction(1), abs(gold.value)):
        return True
    if gold.places is not None:
        return (answer.places is None or answer.places > gold.places) and rounds_to(answer.value, gold)
    below = gold.value.denominator
    endless = gold.surd or pow(10, below.bit_length(), below) != 0  # as a decimal
    return answer.places is not None and endless and rounds_to(gold.value, answer)


def rounds_to(value: Fraction, shown: Quantity) -> bool:
    """Does `value` round to the decimal `shown`, and does that show digits enough to tell?"""
    if shown.places is None or shown.digits < ENOUGH_DIGITS:
        return False
    return 2 * abs(value - shown.value) <= Fraction(10) ** -shown.places


def _read_chain(text: str, letters: bool) -> Quantity | None:
    """`x = 5`, `AB = 2√7 ≈ 5.29`, `3 + 9 = 12`: a name and sides that are all the same, or nothing."""
    first, *rest = _SIDES.split(text, maxsplit=_MOST_SIDES)
    signs, sides = rest[::2], rest[1::2]
    if _NAME.fullmatch(first) and not _NO_NAME.fullmatch(first.strip()) and read_quantity(first, letters) is None:
        name = "".join(first.split()).replace("m∠", "∠")
        if len(sides) == 1 and _RANGE.fullmatch(sides[0].strip()):
            return None
    elif len(sides) == 1 and _NAME.fullmatch(sides[0]) and len(sides[0].strip()) == 1:
        name, sides = sides[0].strip(), [first]  # 3 = x
    else:
        name, sides, signs = "", [first, *sides], ["=", *signs]
    values = [_read_value(side.strip(), letters) for side in sides]
    value, *others = (read for read in values if read) if all(values) else (None,)
    if value is None or not all(_follows(value, other, sign) for other, sign in zip(others, signs[1:], strict=True)):
        return None
    unit = next((other.unit for other in (value, *others) if other.unit), "")
    value, *others = (replace(side, unit=side.unit or unit) for side in (value, *others))  # 2.5 km = 2500 m has two
    last = others[-1] if others else None
    if last and last.places is None:  # the exact one that is written last
        value, last = last, None
    return replace(value, name=name, also=last)


def _follows(value: Quantity, other: Quantity, sign: str) -> bool:
    """Is the next side of a chain the same number, or near it where it says so?"""
    if _same_form(value, other) or _same_form(other, value):
        return True
    near = other if other.places is not None else value
    return sign == "≈" and near.places is not None and abs(value.value - other.value) <= Fraction(10) ** -near.places


def _read_value(text: str, letters: bool) -> Quantity | None:
    if minus := _MINUS.match(text):
        found = _read_value(text[minus.end() :], letters)
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
    if again is None or not (text[:1].isalpha() or again[1][-1:].isalpha()):
        return None
    first, second = _read_value(text[: again.start()] + text[again.end() :], letters), _read_value(again[1], letters)
    twice = text[:1].isalpha() != again[1][:1].isalpha() or (first and second and first.unit and second.unit)
    return first if twice and first and second and _same_form(first, second) else None


def _read_compound(text: str) -> Quantity | None:
    """`3 h 30 min`: each unit smaller than the one before, all of it in the first one."""
    parts: list[tuple[Fraction, str]] = []
    text, end = _ARC.sub(r" degree \1 arcmin", text), 0
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
    head = _HEAD.match(text)
    if not head:
        return None
    part = head.groupdict()
    written = part["number"].replace(",", "").replace(" ", "")
    exponent = int(part["e"] or part["p"] or part["q"] or 0)
    if written in ("", ".") or abs(exponent) > MOST_DIGITS:
        return None
    signed = part["sign"] + written
    value = Fraction(f"{signed}e{exponent}") if "." in written or exponent else Fraction(int(signed))
    places = len(written.partition(".")[2]) - exponent if "." in written else None
    digits = len(written.replace(".", "").lstrip("0"))
    rest = text[head.end() :]
    scale = _SCALE.match(rest) if rest else None
    if scale:
        value *= SCALES[(scale[1] or scale[2]).lower()]
        places = None if value.denominator == 1 else places
        rest = rest[scale.end() :]
    share = _PART.match(rest) if rest else None
    if share and places is None:
        value /= PARTS[share[1].lower()]
        rest = rest[share.end() :]
    unit, currency = read_unit(rest, letters), part["currency"].rpartition(" ")[2]
    if unit is None or (unit and currency and is_known(unit)):
        return None
    return Quantity(value, places, digits, (currency and read_unit(currency)) or unit)


def _without_percent(number: Quantity) -> Quantity:
    places = None if number.places is None else number.places + 2
    return Quantity(number.value / 100, places, number.digits) if number.unit == "%" else number


def _read_words(text: str) -> Quantity | None:
    """`twenty-one`, `one hundred and five`, `two and a half`, `three quarters`, `two thousand cm`."""
    if not text[:1].isalpha():
        return None
    words = text.replace("-", " ").split()
    spoken = [word.lower() for word in takewhile(lambda word: word.lower() in _SPOKEN, words)]
    value = _spoken(spoken) if spoken else None
    unit = read_unit(" " + " ".join(words[len(spoken) :]))
    return None if value is None or unit is None else Quantity(value, unit=unit)


def _spoken(words: list[str]) -> Fraction | None:
    if "point" in words:
        return _decimal(words)
    if words[0] == "half" and words[1:] in (["a"], ["an"]):
        return Fraction(1, 2)
    part = PARTS.get(words[-1])
    if part is None:
        return _cardinal(words)
    before = words[:-1]
    if not before:
        return Fraction(1, 2) if words[-1] == "half" else None
    if "and" not in before:
        count = _counted(before)
        # Twenty-fifth is a place in a row.
        return count / part if count and (count < 20 or words[-1].endswith("s")) else None
    at = len(before) - 1 - before[::-1].index("and")
    whole, count = _cardinal(before[:at]), _counted(before[at + 1 :])
    return None if whole is None or count is None else whole + count / part


def _decimal(words: list[str]) -> Fraction | None:
    """`three point one four`: each digit is said alone."""
    at = words.index("point")
    whole = _cardinal(words[:at]) if at else Fraction(0)
    decimals = [WORDS.get(word, 10) for word in words[at + 1 :]]
    enough = whole is not None and decimals and max(decimals) <= 9
    return Fraction(f"{whole}.{''.join(map(str, decimals))}") if enough else None


def _counted(words: list[str]) -> Fraction | None:
    return Fraction(1) if words in (["a"], ["an"]) else _cardinal(words)


def _cardinal(words: list[str]) -> Fraction | None:
    """The whole number that the words say, None where they say none: "two three" is not five."""
    for scale, size in _SCALES_DOWN:
        if scale in words:
            at = words.index(scale)
            before, after = words[:at], words[at + 1 :]
            count = _counted(before)
            rest = _cardinal(after[after[0] == "and" :]) if after else Fraction(0)
            return count * size + rest if count and rest is not None and rest < size else None
    numbers = [WORDS.get(word, -1) for word in words]
    tens = len(numbers) == 2 and numbers[0] >= 20 and 0 < numbers[1] < 10
    return Fraction(sum(numbers)) if tens or (len(numbers) == 1 and numbers[0] >= 0) else None


def _read_constant(text: str, letters: bool) -> Quantity | None:
    """A constant with or without a unit: 2+3, 3√2 cm, 9πcm^2."""
    if text.count("°") > 1:  # 120° - 50°
        found = _read_constant(text.replace("°", " "), letters)
        return replace(found, unit="degree") if found and not found.unit else None
    if simple := _FRACTION.fullmatch(text):  # so most constants are, and this reads them fast
        top, below = int(simple[1] or simple[3]), int(simple[2] or simple[4])
        return Quantity(Fraction(top, below)) if below else None
    line = spelled(text)
    start = _CONSTANT_ENDS.search(line)
    value = read_constant(line[: start.start()] if start else line)
    if value is None:
        return None
    rest = line[start.start() :] if start else ""
    rest = _RAISED.sub(r"^\1", rest)
    unit = read_unit(rest, letters) if letters or not _ALGEBRA.fullmatch(rest) else None
    return None if unit is None else Quantity(Fraction(value), unit=unit, surd=isinstance(value, Decimal))
