r"""What is a unit: the symbols and names that may follow a number, and what one unit is in another.

Worked example: in `5 kN`, `5m/s^2` and `5 red blocks` what follows the number is a unit (a counted
noun is one, too); in `6xy`, `2 sinx`, `9 C 2`, `3 tenths` and `5 fewer` it is not. 5 cm are 1/20 m.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from functools import cache, lru_cache

from msgspec import Struct

from specs_data.judges.constants import PARTS, SCALES, WORDS

# Names of a unit, the first as it is shown = what one is: a dimension of its own, or so much of other units (+ where
# its zero lies) : the prefixes that its first name takes. What has no size is known to be a unit, no more.
_TABLE = """
m meter metre = length : k c d m n p μ u; Å = 1e-10 m; ly = 9460730472580800 m
inch in inches = 0.0254 m; foot ft feet = 12 inch; yard yd = 3 foot; mi mile = 1760 yard; Km KM = 1 km; Kg KG = 1 kg
ha hectare = 10000 m^2; acre = 4840 yard^2
L l liter litre = 1/1000 m^3 : k m c d μ; ml = 1/1000 L; dl = 1/10 L; cl = 1/100 L; cc = 1 cm^3
gal gallon = 231 inch^3; qt quart = 1/4 gal; pt pint = 1/8 gal
g gram = mass : k m μ u; lb lbs pound = 453.59237 g; oz ounce = 1/16 lb; amu = 1.66053906660e-27 kg
s sec secs second = time : m μ u n; min mins minute = 60 s; h hr hrs hour = 3600 s; day = 24 h
week = 7 day; year = 365.25 day; month = 1/12 year; Hz hertz = 1 /s : k M G; Bq becquerel = 1 /s
mph = 1 mi/h; km/h kmh kmph kph = 1000 m/h
rad radian = angle; arcmin = 1/60 degree
degree deg ° = 0.0174532925199432957692369076848861271344287188854172545609719144 rad
% percent pct percentage = percent
K kelvin = temperature : m; degC °C celsius degreec degreecelsius degreescelsius = 1 K + 273.15
degF °F fahrenheit degreef degreefahrenheit degreesfahrenheit = 5/9 K + 45967/180
N newton = 1 kg*m/s^2 : k m M; Pa pascal = 1 N/m^2 : k M h; bar = 100000 Pa : m; atm = 101325 Pa
mmHg = 133.322387415 Pa; psi = 6894.757293168 Pa
J joule = 1 N*m : k m M; W watt = 1 J/s : k m M G; Wh = 3600 J : k; hp = 745.69987158227022 W
eV electronvolt = 1.602176634e-19 J : k M G; cal calorie = 4.184 J : k; Gy gray = 1 J/kg; Sv sievert = 1 J/kg : m
A amp ampere = current : m μ k; C coulomb = 1 A*s : m μ u n; V volt = 1 W/A : k m M; Ω ohm = 1 V/A : k m M
F farad = 1 C/V : m μ u n p; Wb weber = 1 V*s; H henry = 1 Wb/A : m μ; T tesla = 1 Wb/m^2 : m
mol mole = amount : m; lm lumen = light; lx lux = 1 lm/m^2
bit = information; byte = 8 bit; kB KB = 1000 byte; MB = 1000 kB; GB = 1000 MB; TB = 1000 GB; bps = 1 bit/s : k M
dollar $ USD US$ usdollar usdollars = dollars; us_cent cent ¢ = 1/100 dollar; euro EUR € = euros
pound_sterling GBP £ = sterling; yen ¥ = yens; rupee ₹ = rupees
unit square sq cubic cu am pm AM PM CD CDs TV TVs dB rpm fps bpm ppm cd =
"""
_PREFIXES = {
    **{"G": ("giga", "1e9"), "M": ("mega", "1e6"), "k": ("kilo", "1e3"), "h": ("hecto", "1e2"), "d": ("deci", "1e-1")},
    **{"c": ("centi", "1e-2"), "m": ("milli", "1e-3"), "μ": ("micro", "1e-6"), "u": ("micro", "1e-6")},
    **{"n": ("nano", "1e-9"), "p": ("pico", "1e-12")},
}
# What is written alike, of two kinds: pounds may be money, and C is a degree, too.
_EITHER = [{"yen", "yuan"}, {"pound_sterling", "lb"}]
_EITHER += [{"degC", "C"}, {"degF", "F"}, {"degC", "degree"}, {"degF", "degree"}]

_GAP = re.compile(r"(?<=[\w})π])\s+(?=[A-Za-zμΩ])|(?<=[})π])(?=[A-Za-zμΩ])")
_SIGNS = "A-Za-zμΩÅ°$€£¥₹¢"
_POWER = r"(?:\s*\^\s*\{?-?[1-4]\}?|-?[1-4])?(?![\d.])"
_UNIT = re.compile(rf"[{_SIGNS}]+\.?{_POWER}(?:\s*[/*\s]\s*[A-Za-zμΩÅ°]+\.?{_POWER}){{0,5}}")
_WORD = re.compile(rf"[{_SIGNS}]+")
_NEXT = re.compile(rf"(?:\s*[/*]\s*|\s+|^)([{_SIGNS}]+){_POWER}")
_FACTOR = re.compile(
    rf"\s*(?:([*/])\s*|(per)\s+)?(?:(square|sq|cubic|cu)\.?\s+)?([{_SIGNS}%_]+)\.?(?:\s*\^?\s*\{{?(-?[1-4])\}}?)?",
    re.IGNORECASE,
)
_RAISED = {"": 1, "square": 2, "sq": 2, "cubic": 3, "cu": 3}
_BARE = re.compile(r"(?:(?:square|cubic|sq\.?|cu\.?)\s+)?units?(?:\s*\^?\s*\{?[23]\}?)?", re.IGNORECASE)
_ENGLISH = frozenset(("A", "in", "am", "us"))  # words as well: 5 in, but not: 5 in the picture
# In algebra, letters that stand right after a number are more likely a product.
_PRODUCTS = frozenset(("pt", "ha", "hp", "ly", "pm", "am", "cd", "cl", "dl", "cc", "cu", "sq", "us", "ns", "um", "ug"))
_NOUN = re.compile(r"(?=.*[aeiouyAEIOUY])[A-Za-z]{3,}")
_NO_UNIT = re.compile(
    r"(?<![A-Za-z])(?:or|and|to|not|but|minus|plus|times(?=\s*\S)|than|less|more|fewer|if|is|are|was|were|of|over|at|least|most"
    r"|either|nor|by|the|below|above|under|before|after|short|greater|larger|smaller|bigger|higher|lower|negative|without"
    r"|choose|factorial|remainder|rem|mod|modulo|squared|cubed|double|twice|infty|cap|frac|pi"
    rf"|{'|'.join((*WORDS, *PARTS))}|(?:{'|'.join(SCALES)})s?|psi(?=\s*[/*^])"
    r"|alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|phi|(?:sqrt|sin|cos|tan|cot|csc|log|ln|exp)[abntxyzθ]?|sec[abntxyzθ])(?![A-Za-z])",
    re.IGNORECASE,
)
_COMBINATION = re.compile(r"(?<![A-Za-z])[A-Z]-?\d")  # 9C2
_CHINESE = {
    **{"千米/时": "km/h", "米/秒": "m/s", "千米": "km", "公里": "km"},
    **{"厘米": "cm", "毫米": "mm", "分米": "dm", "米": "m"},
    **{"千克": "kg", "公斤": "kg", "克": "g", "毫升": "mL", "升": "L"},
    **{"小时": "h", "分钟": "min", "秒": "s", "天": "days", "元": "yuan", "度": "°"},
}
_CHINESE_POWERS = {None: "", "平方": "^2", "立方": "^3"}
_COUNTERS = "个只人条块岁名辆本张次种件棵页支把位头台双根朵倍"  # 23个 counts 23 of something
_CHINESE_UNIT = re.compile(
    rf"(?<=[\dπ}})$^A-Za-z 万亿])(平方|立方)?({'|'.join(_CHINESE)})(?![\u4e00-\u9fff])|(?<=\d) ?[{_COUNTERS}](?!\w)"
)


class _Measure(Struct, frozen=True):
    """How much of which dimensions a unit is, each to its power, and where its zero lies."""

    size: Fraction
    powers: tuple[tuple[str, int], ...]
    zero: Fraction = Fraction(0)


def _read_table() -> tuple[dict[str, str], dict[str, str]]:
    """The shown name of each name, and what each shown name is."""
    names: dict[str, str] = {}
    sizes: dict[str, str] = {}
    for entry in _TABLE.strip().replace("\n", ";").split(";"):
        written, _, meant = entry.partition("=")
        size, _, prefixes = meant.partition(":")
        first, *others = written.split()
        sizes[first] = size.strip()
        names |= {name: first if sizes[first] else name for name in (first, *others)}
        for sign in prefixes.split():
            word, factor = _PREFIXES[sign]
            sizes[sign + first] = f"{factor} {first}"
            names |= dict.fromkeys((sign + first, *(word + name for name in others if len(name) > 2)), sign + first)
    return names, sizes


_NAMES, _SIZES = _read_table()


def read_unit(text: str, letters: bool = True) -> str | None:
    """The unit that `text` is, in one spelling; empty for none; None where it is not a unit. Without
    `letters`, a letter that stands right after the number is algebra."""
    attached = text[:1].isalpha()
    text = text.strip().rstrip(".")
    if text in ("", "%"):
        return text
    if not _UNIT.fullmatch(text) or _NO_UNIT.search(text) or _COMBINATION.search(text):
        return None
    words = _WORD.findall(text)
    if attached and not (is_known(words[0]) and (letters or (len(words[0]) > 1 and words[0] not in _PRODUCTS))):
        return None
    if "nit" in text and _BARE.fullmatch(text):
        return ""
    if name := _name(text) or (" " in text and _name("".join(text.split()))):
        return name
    if not all(is_known(word) or _NOUN.fullmatch(word) for word in words):
        return None
    return re.sub(r"\s*([\^/*])\s*", r"\1", " ".join(text.replace("{", "").replace("}", "").split()))


@lru_cache(maxsize=4096)
def conversion(unit: str, wanted: str) -> tuple[Fraction, Fraction] | None:
    """(scale, offset) that take a number of `unit` to `wanted`, or None where there is no such thing.
    Units are as `read_unit` gives them."""
    if {unit, wanted} in _EITHER or _singular(unit.lower()) == _singular(wanted.lower()):
        return Fraction(1), Fraction(0)
    one, other = _measure(unit), _measure(wanted)
    if one is None or other is None or one.powers != other.powers:
        return None
    return one.size / other.size, (one.zero - other.zero) / other.size


def _measure(unit: str) -> _Measure | None:
    """What `unit` is in dimensions, None for what has no size."""
    size, zero, at = Fraction(1), Fraction(0), 0
    powers: Counter[str] = Counter()
    while at < len(unit) and (factor := _FACTOR.match(unit, at)):
        sign, per, raised, word, power = factor.groups(default="")
        one = _defined(_name(word) or "")
        if one is None:
            return None
        exponent = int(power or 1) * _RAISED[raised.lower()] * (-1 if sign == "/" or per else 1)
        size, zero, at = size * one.size**exponent, one.zero, factor.end()
        powers.update({kind: count * exponent for kind, count in one.powers})
    kinds = tuple(sorted((kind, count) for kind, count in powers.items() if count))
    return _Measure(size, kinds, zero if kinds == (("temperature", 1),) else Fraction(0)) if at == len(unit) else None


@cache
def _defined(name: str) -> _Measure | None:
    size = _SIZES.get(name, "")
    number, _, unit = size.partition(" ")
    if not unit:
        return _Measure(Fraction(1), ((size, 1),)) if size else None
    unit, _, zero = unit.partition(" + ")
    one = _measure(unit)
    return one and _Measure(Fraction(number) * one.size, one.powers, Fraction(zero or 0))


def _name(word: str) -> str | None:
    """The shown name of the unit that is called so, also in the plural and in capitals."""
    folded = word.lower() if len(word) > 2 else ""
    return _NAMES.get(word) or _NAMES.get(folded) or _NAMES.get(_singular(folded))


def _singular(unit: str) -> str:
    if len(unit) <= 3 or not unit.endswith("s") or unit.endswith("ss"):
        return unit
    return unit[:-2] if unit.endswith(("xes", "ches", "shes", "sses")) else unit[:-1]


def in_latin(text: str) -> str:
    """`text` with its Chinese units in symbols: 5平方厘米 is 5 cm^2."""
    return _CHINESE_UNIT.sub(
        lambda unit: f" {_CHINESE[unit[2]]}{_CHINESE_POWERS[unit[1]]}" if unit[2] else " units ", text
    )


def is_known(word: str) -> bool:
    """Is this one word the symbol or the name of a unit, and not only a counted noun?"""
    return _name(word) is not None


def adjoining_unit(text: str) -> str:
    """The known unit that `text` begins with, as it is written there, or nothing."""
    text = text.lstrip()
    if text[:1] == "%":
        return "%"
    end = 0
    while (found := _NEXT.match(text, end)) and is_known(found[1]):
        end = found.end()
    written = text[:end]
    return "" if written in _ENGLISH and text[end:].lstrip()[:1].isalpha() else written


def unit_end(text: str) -> int:
    """Where the unit at the end of a formula begins: the length of `text` where it has none."""
    for gap in _GAP.finditer(text):
        unit = text[gap.end() :]
        words = _WORD.findall(unit)
        if words and all(len(word) > 1 and is_known(word) and word not in _PRODUCTS for word in words):
            return gap.end() if read_unit(" " + unit) is not None else len(text)
    return len(text)
