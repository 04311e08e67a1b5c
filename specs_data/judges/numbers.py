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
  answer is wrong.
- A percent sign is a unit that only one side may have, and it is also a factor: 50% is 0.5, and
  5% is 5 as well as 0.05. Two percentages are compared as they stand.
- A comma or a space before groups of three digits separates thousands; a decimal comma is not read.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache, lru_cache
from itertools import takewhile
from typing import Any

from msgspec import Struct

from specs_data.judges.answers import plain

LONGEST = 120
NOISE = Fraction(1, 10**9)
ENOUGH_DIGITS = 3
MOST_DIGITS = 400
MOST_BITS = 20_000


class Quantity(Struct, frozen=True):
    """A number. `places` counts the decimal places it shows, None where it is written exactly;
    `digits` counts its significant digits; `name` is the variable it is assigned to (x = 5)."""

    value: Fraction
    places: int | None = None
    digits: int = 0
    unit: str = ""
    name: str = ""


_INTEGER = re.compile(r"[+-]?\d{1,15}")
_NUMBER = (
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?![\d/])|\d+)?(?:(?<=\d)\.\d+|(?<![\d.])\.\d+|(?<=\d)\.(?!\d))?"
)
_HEAD = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>[$€£¥]?)\s*(?P<number>(?=[\d.]){_NUMBER})"
    r"(?:[eE](?P<e>[+-]?\d{1,4})(?![\d.])|\s*[*x]\s*10\s*\^\s*(?:\{\s*(?P<p>[+-]?\d{1,4})\s*\}|(?P<q>[+-]?\d{1,4})))?"
    r"(?:\s*/\s*(?P<over>\d{1,30})(?![\d.,^(])|\s+(?P<top>\d{1,9})\s*/\s*(?P<below>\d{1,9})(?![\d.,^(])"
    r"|\s*\\frac\s*(?:\{\s*(?P<ftop>\d{1,9})\s*\}\s*\{\s*(?P<fbelow>\d{1,9})\s*\}|(?P<ft>\d)\s*(?P<fb>\d)))?"
)
_FRACTION = re.compile(r"([+-]?)\s*\\frac\s*(?:\{\s*([+-]?\d{1,30})\s*\}\s*\{\s*([+-]?\d{1,30})\s*\}|(\d)\s*(\d))")
_NAME = re.compile(
    r"(?P<name>(?:m\s*)?(?:\\angle|\\triangle|∠|△)?\s*[A-Za-z]+(?:_\{?\w{1,8}\}?)?(?: [A-Za-z]+){0,3})\s*[=≈](?!=)\s*"
)
_NO_NAME = re.compile(r"[a-z]{2}|.*(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt)\b.*")
_ABOUT = re.compile(r"(?:≈|~|=|approximately|approx\.?|about|around|roughly|nearly|exactly|only)\s*", re.IGNORECASE)
_SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion|dozen)s?\b", re.IGNORECASE)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

_ARITHMETIC = re.compile(r"[\d.+\-*/^(){}\s]+")
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|(\*\*|[-+*/^()]))")
_SIMPLE_FRACTION = re.compile(r"\\frac\s*\{([^{}\\]*)\}\s*\{([^{}\\]*)\}|\\frac\s*(\d)\s*(\d)")

_UNIT = re.compile(
    r"(?:[A-Za-zμΩÅ°$€£¥¢]+\.?(?:\s*\^?\s*\{?-?[1-4]\}?)?(?![\d.]))(?:\s*[/*\s]\s*[A-Za-zμΩÅ°]+\.?(?:\s*\^?\s*\{?-?[1-4]\}?)?(?![\d.])){0,5}"
)
# One letter after a number is a unit only where it is one of these: 5x is algebra.
_LETTER_UNITS = frozenset("mgsLlAVWNJKCFHhTΩ")
_NO_UNIT = re.compile(
    r"\b(?:or|and|to|not|but|minus|plus|times|than|less|more|if|is|are|was|were|of|over|at|least|most|either|nor|by|the|half"
    r"|mod|squared|cubed|pi|sqrt|sin|cos|tan|log|ln|frac|infty|cup|cap|leq|geq|le|ge|lt|gt|neq|ne|[abeiknxyz])\b",
    re.IGNORECASE,
)
_SAME_UNIT = {
    "percent": "%",
    "pct": "%",
    "°": "degree",
    "deg": "degree",
    "degrees": "degree",
    "$": "dollar",
    "usd": "dollar",
    "cent": "us_cent",
    "cents": "us_cent",
    "¢": "us_cent",
    "€": "euro",
    "eur": "euro",
    "£": "pound_sterling",
    "gbp": "pound_sterling",
    "¥": "yen",
    "sec": "second",
    "secs": "second",
    "s": "second",
    "hr": "hour",
    "hrs": "hour",
    "min": "minute",
    "mins": "minute",
    "rad": "radian",
    "cc": "cm^3",
    "°c": "degC",
    "°f": "degF",
    "degreec": "degC",
    "degreef": "degF",
    "in": "inch",
    "feet": "foot",
    "lbs": "lb",
    "units": "",
    "unit": "",
}

_GAP = re.compile(r"(?<=[\w})])\s+(?=[A-Za-zμΩ])")
_MACRO = re.compile(r"\\[A-Za-z]+|(?<![A-Za-z])(?:pi|sqrt|e)(?![A-Za-z])")
_VARIABLE = re.compile(r"[A-Za-z=<>]")

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: value for value, word in enumerate(_ONES.split())} | {
    word: 10 * tens for tens, word in enumerate(_TENS.split(), start=2)
}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fifth": 5, "fifths": 5}
_SPOKEN = frozenset((*_WORDS, *_SCALES, *_PARTS, "and", "a", "an"))
_WORD = re.compile(r"[A-Za-z]+")


def read_quantity(text: str, letters: bool = True) -> Quantity | None:
    """The number that `text` is, all of it, or None. Without `letters`, 5m is algebra and only 5 m is metres."""
    if _INTEGER.fullmatch(text):
        return Quantity(Fraction(int(text)))
    if len(text) > LONGEST:
        return None
    return _remembered(text, letters)


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Is `answer` the number `gold`? Not symmetric: see the policy above."""
    if gold.name and answer.name and gold.name != answer.name:
        return False
    if gold.unit == answer.unit:
        return same_number(gold, answer)
    if "%" in (gold.unit, answer.unit) and not (gold.unit and answer.unit):
        return same_number(gold, answer) or same_number(_without_percent(gold), _without_percent(answer))
    if not gold.unit or not answer.unit:
        return same_number(gold, answer)
    factors = conversion(answer.unit, gold.unit)
    if factors is None:
        return False
    scale, offset = factors
    # A converted number shows no decimal place of its own: only the gold's precision counts.
    places = None if answer.places is None and gold.places is None else 10 * MOST_DIGITS
    return same_number(gold, Quantity(answer.value * scale + offset, places, answer.digits))


def same_number(gold: Quantity, answer: Quantity) -> bool:
    """Are the numbers the same, units aside?"""
    difference = abs(answer.value - gold.value)
    if not difference:
        return True
    if gold.places is None and answer.places is None:
        return False
    if difference <= NOISE * min(Fraction(1), abs(gold.value)):
        return True
    if gold.places is not None:
        return (answer.places is None or answer.places > gold.places) and rounds_to(answer.value, gold)
    return answer.places is not None and not _terminates(gold.value) and rounds_to(gold.value, answer)


def rounds_to(value: Fraction, shown: Quantity) -> bool:
    """Does `value` round to the decimal `shown`, and does that show digits enough to tell?"""
    if shown.places is None or shown.digits < ENOUGH_DIGITS:
        return False
    return 2 * abs(value - shown.value) <= Fraction(10) ** -shown.places


def conversion(unit: str, wanted: str) -> tuple[Fraction, Fraction] | None:
    """(scale, offset) that take a number of `unit` to `wanted`, or None where there is no such thing.
    Units are as `read_unit` gives them."""
    if _singular(unit).lower() == _singular(wanted).lower():
        return Fraction(1), Fraction(0)
    return _converted(unit, wanted)


@lru_cache(maxsize=4096)
def _remembered(text: str, letters: bool) -> Quantity | None:
    return _read(plain(text), letters)


def _read(text: str, letters: bool) -> Quantity | None:
    name = ""
    named = _NAME.match(text) if "=" in text or "≈" in text else None
    if named and "=" not in text[named.end() :] and not _NO_NAME.fullmatch(named["name"]):
        name = "".join(named["name"].split()).lower()
        text = text[named.end() :]
    about = None if text[:1].isdigit() else _ABOUT.match(text)
    if about:
        text = text[about.end() :]
    found = _read_literal(text, letters) or _read_words(text) or _read_arithmetic(text)
    return found if found is None or not name else Quantity(found.value, found.places, found.digits, found.unit, name)


def _read_literal(text: str, letters: bool) -> Quantity | None:
    text = text.strip()
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
    return _with_unit(-value if part["sign"] == "-" else value, places, digits, part["currency"], rest, letters)


def _with_unit(
    value: Fraction, places: int | None, digits: int, currency: str, rest: str, letters: bool
) -> Quantity | None:
    unit = read_unit(rest, letters)
    if unit is None or (unit and currency):
        return None
    return Quantity(value, places, digits, unit or (_SAME_UNIT[currency] if currency else ""))


def _ratio(top: str, below: str) -> Fraction | None:
    return Fraction(int(top), int(below)) if int(below) else None


def read_unit(text: str, letters: bool = True) -> str | None:
    """The unit that `text` is, in one spelling; empty for none; None where it is not a unit."""
    attached = text[:1].isalpha()
    text = text.strip().rstrip(".")
    if text in ("", "%"):
        return text
    if not _UNIT.fullmatch(text):
        return None
    words = _WORD.findall(text)
    if _NO_UNIT.search(text) or any(word.lower() in _WORDS for word in words):
        return None
    if len(text) == 1 and text.isalpha() and text not in _LETTER_UNITS:
        return None
    if attached and not letters and len(words[0]) < 2:
        return None
    folded = "".join(text.lower().split())
    if folded in _SAME_UNIT:
        return _SAME_UNIT[folded]
    return re.sub(r"\s*([\^/*])\s*", r"\1", " ".join(text.replace("{", "").replace("}", "").split()))


def split_unit(text: str) -> tuple[str, str]:
    """A constant such as 25\\pi cm^2 without its unit, and the unit; ("text", "") where there is none."""
    for gap in _GAP.finditer(text):
        unit = read_unit(text[gap.end() :])
        if unit and not _VARIABLE.search(_MACRO.sub("", text[: gap.start()])):
            return text[: gap.start()], unit
    return text, ""


def _singular(unit: str) -> str:
    if len(unit) <= 3 or not unit.endswith("s") or unit.endswith("ss"):
        return unit
    return unit[:-2] if unit.endswith(("xes", "ches", "shes", "sses")) else unit[:-1]


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
    unit = None if value is None else read_unit(" ".join(words[len(spoken) :]))
    return None if value is None or unit is None else Quantity(value, unit=unit)


def _spoken(words: list[str]) -> Fraction | None:
    part = _PARTS.get(words[-1])
    if part is None:
        return _cardinal(words)
    before = words[:-1]
    if not before:
        return Fraction(1, 2) if words[-1] == "half" else None
    if "and" not in before:
        count = Fraction(1) if before in (["a"], ["an"]) else _cardinal(before)
        return count and count / part
    at = len(before) - 1 - before[::-1].index("and")
    whole = _cardinal(before[:at])
    count = Fraction(1) if before[at + 1 :] == ["a"] else _cardinal(before[at + 1 :])
    return None if whole is None or count is None else whole + count / part


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


def _read_arithmetic(text: str) -> Quantity | None:
    """The exact value of + - * / ^ over numbers, where it is rational and small enough."""
    while "\\frac" in text:
        text, changed = _SIMPLE_FRACTION.subn(_as_division, text)
        if not changed:
            return None
    if not _ARITHMETIC.fullmatch(text):
        return None
    tokens = _tokens(text.replace("{", "(").replace("}", ")"))
    if tokens is None:
        return None
    try:
        value, end = _sum(tokens, 0, 0)
    except (ArithmeticError, ValueError):
        return None
    return Quantity(value) if end == len(tokens) else None


def _as_division(match: re.Match[str]) -> str:
    top, below = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    return f"(({top})/({below}))"


def _tokens(text: str) -> list[str] | None:
    tokens: list[str] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        tokens.append("^" if token[2] == "**" else token[1] or token[2])
        position = token.end()
    return tokens


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        term, after = _product(tokens, at + 1, depth)
        value, at = (value + term if tokens[at] == "+" else value - term), after
    return value, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _signed(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "*/":
        factor, after = _signed(tokens, at + 1, depth)
        value, at = (value * factor if tokens[at] == "*" else value / factor), after
        _bounded(value)
    return value, at


def _signed(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    sign = 1
    while at < len(tokens) and tokens[at] in "+-":
        sign = -sign if tokens[at] == "-" else sign
        at += 1
    value, at = _power(tokens, at, depth)
    return sign * value, at


def _power(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    base, at = _atom(tokens, at, depth)
    if at == len(tokens) or tokens[at] != "^":
        return base, at
    exponent, at = _signed(tokens, at + 1, depth + 1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * bits > MOST_BITS:
        raise ValueError
    return base ** int(exponent), at


def _atom(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    if at >= len(tokens) or depth > 20:
        raise ValueError
    if tokens[at] == "(":
        value, at = _sum(tokens, at + 1, depth + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise ValueError
        return value, at + 1
    if not tokens[at][0].isdigit():
        raise ValueError
    return Fraction(tokens[at]), at + 1


def _bounded(value: Fraction) -> None:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise ValueError


@lru_cache(maxsize=4096)
def _converted(unit: str, wanted: str) -> tuple[Fraction, Fraction] | None:
    registry = _registry()
    try:
        one, zero = (
            registry.Quantity(Fraction(number), _spelled(unit)).to(_spelled(wanted)).magnitude for number in (1, 0)
        )
        return Fraction(one) - Fraction(zero), Fraction(zero)
    except Exception:  # the units are hostile text, and pint raises many kinds
        return None


def _spelled(unit: str) -> str:
    for written, meant in (("square ", "sq_"), ("sq. ", "sq_"), ("sq ", "sq_"), ("cubic ", "cu_"), ("cu ", "cu_")):
        if unit.lower().startswith(written):
            power = "^2" if meant == "sq_" else "^3"
            return f"({_spelled(unit[len(written) :])}){power}"
    unit = re.sub(r"(?<=[A-Za-zμΩ])([2-4])", r"^\1", unit.replace("{", "").replace("}", ""))
    return unit.replace("°C", "degC").replace("°F", "degF").replace(" per ", "/").replace("°", "degree")


@cache
def _registry() -> Any:
    # Half a second: loaded only once two different units meet.
    from pint import UnitRegistry

    registry: Any = UnitRegistry(non_int_type=Fraction)
    for name in ("dollar", "euro", "pound_sterling", "yen"):
        registry.define(f"{name} = [{name}_currency]")
    registry.define("us_cent = dollar / 100")
    return registry
