r"""What is a unit: the symbols and names that may follow a number.

Worked example: in `5 kN`, `5m/s^2` and `5 red blocks` what follows the number is a unit (a counted
noun is one, too); in `6xy`, `2 sinx`, `9 C 2`, `3 tenths` and `5 fewer` it is not.
"""

from __future__ import annotations

import re

_GAP = re.compile(r"(?<=[\w})π])\s+(?=[A-Za-zμΩ])|(?<=[})π])(?=[A-Za-zμΩ])")
_SIGNS = "A-Za-zμΩÅ°$€£¥₹¢"
_POWER = r"(?:\s*\^\s*\{?-?[1-4]\}?|-?[1-4])?(?![\d.])"
_UNIT = re.compile(rf"[{_SIGNS}]+\.?{_POWER}(?:\s*[/*\s]\s*[A-Za-zμΩÅ°]+\.?{_POWER}){{0,5}}")
_WORD = re.compile(rf"[{_SIGNS}]+")
_NEXT = re.compile(rf"(?:\s*[/*]\s*|\s+|^)([{_SIGNS}]+){_POWER}")
_ENGLISH = frozenset(("A", "in", "am", "us"))  # words as well: 5 in, but not: 5 in the picture
_LATEX = ((re.compile(r"\\Omega(?![A-Za-z])\s*"), "Ω"), (re.compile(r"\\mu(?![A-Za-z])\s*"), "μ"))

# One letter after a number is a unit only where it is one of these: 5x is algebra.
_LETTERS = frozenset("mgsLlAVWNJKCFHhTΩ°Å$€£¥₹¢")
_SYMBOL_LIST = (
    "km cm mm dm nm pm μm um kg mg μg ug ms μs us ns hr hrs min mins sec secs mL ml dL dl cL cl kL μL mA μA kA kV mV "
    "MV kW mW MW GW kWh Wh kN mN MN kJ mJ MJ eV keV MeV GeV Pa kPa MPa hPa Hz kHz MHz GHz mK nF pF μF uF mF mC μC nC "
    "uC mH μH mT kΩ MΩ mΩ mol mmol Wb lm lx Bq Sv in ft yd mi oz lb lbs pt qt gal ha atm bar mbar mmHg psi rad deg rpm "
    "mph kph kmh kmph Mbps kbps KB kB MB GB TB dB cal kcal ly hp cc cu sq am pm AM PM °C °F USD EUR GBP CD CDs TV TVs "
    "fps bpm ppm Gy mSv cd degC degF amu"
)
_SYMBOLS = frozenset(_SYMBOL_LIST.split())
# In algebra, letters that stand right after a number are more likely a product.
_PRODUCTS = frozenset(("pt", "ha", "hp", "ly", "pm", "am", "cd", "cl", "dl", "cc", "cu", "sq", "us", "ns", "um", "ug"))
_NAMES = re.compile(
    r"(?:milli|centi|deci|kilo|micro|nano|mega|giga)?"
    r"(?:met(?:er|re)|gram|lit(?:er|re)|second|watt|volt|amp|ampere|ohm|newton|joule|kelvin|hertz|pascal|calorie|byte|bit)s?"
    r"|(?:minute|hour|day|week|month|year|degree|yard|mile|pound|ounce|gallon|dollar|cent|euro|unit|radian|acre|hectare)s?"
    r"|inch(?:es)?|foot|feet|celsius|fahrenheit|percent|square|cubic|kilowatt-?hours?",
    re.IGNORECASE,
)
_NOUN = re.compile(r"(?=.*[aeiouyAEIOUY])[A-Za-z]{3,}")
_NO_UNIT = re.compile(
    r"(?<![A-Za-z])(?:or|and|to|not|but|minus|plus|times|than|less|more|fewer|if|is|are|was|were|of|over|at|least|most"
    r"|either|nor|by|the|below|above|under|before|after|short|greater|larger|smaller|bigger|higher|lower|negative|without"
    r"|half|halves|(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth)s?"
    r"|choose|factorial|remainder|rem|mod|modulo|squared|cubed|double|twice|infty|cup|cap|leq|geq|le|ge|lt|gt|neq|ne|frac"
    r"|pi|alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|phi|psi(?=\s*[/*^])"
    r"|(?:sqrt|sin|cos|tan|cot|csc|log|ln|exp)[abntxyzθ]?|sec[abntxyzθ]|zero|one|two|three|four|five|six|seven|eight"
    r"|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty"
    r"|sixty|seventy|eighty|ninety)(?![A-Za-z])",
    re.IGNORECASE,
)
_COMBINATION = re.compile(r"(?<![A-Za-z])[A-Z]-?\d")  # 9C2
_CHINESE = {
    **{"千米": "km", "公里": "km", "厘米": "cm", "毫米": "mm", "分米": "dm", "米": "m"},
    **{"千克": "kg", "公斤": "kg", "克": "g", "毫升": "mL", "升": "L"},
    **{"小时": "h", "分钟": "min", "秒": "s", "天": "days", "元": "yuan", "度": "°"},
}
_COUNTERS = "个只人条块岁名辆本张次种件棵页支把位头台双根朵倍"  # 23个 counts 23 of something
_CHINESE_UNIT = re.compile(
    rf"(?<=[\dπ}})$^A-Za-z ])(平方|立方)?({'|'.join(_CHINESE)})(?![\u4e00-\u9fff])|(?<=\d)[{_COUNTERS}](?!\w)"
)
_SAME = {
    "percent": "%",
    "pct": "%",
    "°": "degree",
    "deg": "degree",
    "degrees": "degree",
    "$": "dollar",
    "usd": "dollar",
    "usdollar": "dollar",
    "usdollars": "dollar",
    "cent": "us_cent",
    "cents": "us_cent",
    "¢": "us_cent",
    "€": "euro",
    "eur": "euro",
    "£": "pound_sterling",
    "gbp": "pound_sterling",
    "¥": "yen",
    "₹": "rupee",
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
    "degreecelsius": "degC",
    "degreescelsius": "degC",
    "celsius": "degC",
    "degreefahrenheit": "degF",
    "degreesfahrenheit": "degF",
    "fahrenheit": "degF",
    "kmh": "km/h",
    "kph": "km/h",
    "kmph": "km/h",
    "in": "inch",
    "feet": "foot",
    "lbs": "lb",
    "units": "",
    "unit": "",
}


def read_unit(text: str, letters: bool = True) -> str | None:
    """The unit that `text` is, in one spelling; empty for none; None where it is not a unit. Without
    `letters`, a letter that stands right after the number is algebra."""
    attached = text[:1].isalpha()
    text = text.strip().rstrip(".")
    if text in ("", "%"):
        return text
    if "\\" in text:
        text = _without_latex(text)
    if not _UNIT.fullmatch(text) or _NO_UNIT.search(text) or _COMBINATION.search(text):
        return None
    words = _WORD.findall(text)
    if attached and not (is_known(words[0]) and (letters or (len(words[0]) > 1 and words[0] not in _PRODUCTS))):
        return None
    folded = "".join(text.lower().split())
    if folded in _SAME:
        return _SAME[folded]
    if not all(is_known(word) or _NOUN.fullmatch(word) for word in words):
        return None
    return re.sub(r"\s*([\^/*])\s*", r"\1", " ".join(text.replace("{", "").replace("}", "").split()))


def in_latin(text: str) -> str:
    """`text` with its Chinese units in symbols: 5平方厘米 is 5 cm^2."""
    return _CHINESE_UNIT.sub(_latin, text)


def _latin(unit: re.Match[str]) -> str:
    if not unit[2]:
        return " units "
    power = {"平方": "^2", "立方": "^3"}.get(unit[1] or "", "")
    return f" {_CHINESE[unit[2]]}{power}"


def is_known(word: str) -> bool:
    """Is this one word the symbol or the name of a unit, and not only a counted noun?"""
    return word in _LETTERS or word in _SYMBOLS or _NAMES.fullmatch(word) is not None


def adjoining_unit(text: str) -> str:
    """The known unit that `text` begins with, as it is written there, or nothing."""
    text = _without_latex(text).lstrip()
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


def unit_of(sign: str) -> str:
    """The unit that a currency sign stands for; empty for none."""
    return _SAME[sign] if sign else ""


def _without_latex(text: str) -> str:
    for pattern, sign in _LATEX:
        text = pattern.sub(sign, text)
    return text
