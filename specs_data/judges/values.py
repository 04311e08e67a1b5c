r"""Answers as values: what a text says is read once, and like is compared with like.

Worked example:

    500 cm, 3\sqrt2, AB = 5     a number, with its unit and its name
    16-20, 10 to 15             a range: never a subtraction
    2020-01-05, 3:45, 2:3       a date, a clock time, a ratio
    (1, 2), [1, 2, 3], {1, 2}   ordered values, and a set
    2 or -2, ±2, x = 2, x = -2  one list of values, in any order
    1 < x <= 2, (-\infty, 3)    intervals; x < 1 or x > 2 a union of them
    yes, no real solution       words that have a meaning, in one spelling
    red blocks                  words, without case and punctuation
    2x + 1, y = 2x              formulas: only these are asked of math-verify
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

from msgspec import Struct
from msgspec.structs import replace

from specs_data.judges.answers import plain, without_indices
from specs_data.judges.constants import rewritten, spelled, tower
from specs_data.judges.numbers import Quantity, names_differ, read_plain_quantity, read_quantity, same_quantity
from specs_data.judges.units import unit_end

MOST_ITEMS = 64
_MOST_SHOWN = 1_000  # bits of a number that is written out; Python refuses some thousands of digits

FormulasAgree = Callable[["Formula", "Formula"], bool | None]


class Range(Struct, frozen=True):
    """From one number to another: 16-20. `3 to 2` may be a ratio as well."""

    low: Quantity
    high: Quantity
    said: bool = False


class Digits(Struct, frozen=True):
    """A date, a clock time, a ratio, or a scale, of which each term counts: nothing but its numbers counts, and the
    half of the day where both have it."""

    kind: str
    numbers: tuple[Fraction, ...]
    half: str = ""


class Meaning(Struct, frozen=True):
    """Words with a meaning of their own: yes, no, true, false, the empty set, all real numbers."""

    said: str


class Words(Struct, frozen=True):
    """Words without case, punctuation and a leading article."""

    folded: str


class Formula(Struct, frozen=True):
    """What only math-verify can compare. `spelling` is the same for two that differ in typography only."""

    text: str
    spelling: str
    unit: str = ""


class Items(Struct, frozen=True):
    """Several values and the brackets around them ("" for none). `names` are the variables they belong to; `joint`
    is the sign between them where that says more than a comma: "or" where each of them will do, ";" for an order,
    ".." for the ends of an interval, which is open "(" or closed "[" at each of them, "∪" for several intervals."""

    brackets: str
    values: tuple[Value, ...]
    names: tuple[str, ...] = ()
    joint: str = ""


Value = Quantity | Range | Digits | Meaning | Words | Formula | Items

_WORDS = re.compile(r"(?=.*[^\W\d_]{3})[^\W\d_]+(?:[\s',.-]+[^\W\d_]+)*[.!?]?")
_SHORT_WORD = re.compile(r"am|an|as|at|be|by|do|go|he|if|in|is|it|me|my|no|of|ok|on|or|so|to|up|us|we", re.IGNORECASE)
_MATH_WORD = re.compile(r"\b(?:pi|sin|cos|tan|cot|sec|csc|log|exp|sqrt|inf|infinity|infty)\b", re.IGNORECASE)
_FOLDED = re.compile(r"[\s_,;:'\"`]+|(?<=\w)-(?=[^\W\d])")
_EDGES = " .!?()[]{}*"
_NONE = (
    r"(?:there (?:is|are) |(?:the |this )?(?:\w+ )?(?:equation|inequality|system) has )?"
    r"no (?:real |such |possible |valid )?(?:solutions?|roots?|values?)(?: exists?)?"
    r"|(?:the )?empty set|does not exist|DNE|∅"
    r"|(?:原|该|此)?(?:方程组?|不等式组?)?(?:无|没有)(?:实数)?[解根]|空集|\\?\{\s*\\?\}"
)
_REALS = (
    r"(?:the set of )?all real numbers|all reals?|the real numbers"
    r"|(?:[a-z]\s*∈\s*)?(?:\\(?:mathbb|mathbf|Bbb)\s*\{?\s*R\s*\}?|ℝ)"
)
_FIRST_ARTICLE = re.compile(r"\A(?:the|an?) (?=.)", re.DOTALL)
_ARTICLE = re.compile(r"(?:the|an|a)\s+(?=\S)")
_MEANING = re.compile(
    rf"(?:(?P<none>{_NONE})|(?P<reals>{_REALS})|(?P<yes>yes)|(?P<no>no)|(?P<true>true)|(?P<false>false)"
    r"|(?P<none_of_these>none of (?:the )?(?:above|these|them|others?|(?:given |other )?(?:options|choices))))[.!]*",
    re.IGNORECASE,
)
_REASONED = re.compile(r"(yes|no|true|false)\s*[,.;:-]\s*(.*)", re.IGNORECASE | re.DOTALL)
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
_NUMBER = r"(?:US)?[$€£¥]?\s*\d+(?:,\d{3})*(?:\.\d+)?\s*(?:[%°]|[a-zA-Z]{1,12}(?:\^\d)?)?"
_RANGE = re.compile(rf"(?:from |(between ))?({_NUMBER})\s*(?:-|~|\bto\b|(?(1)\band\b|-))\s*({_NUMBER})", re.IGNORECASE)
_DATE = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAY, _MONTH = r"(\d{1,2})(?:st|nd|rd|th)?", rf"({'|'.join(_MONTHS)})[a-z]{{0,6}}\.?"
_NAMED_DATE = re.compile(rf"(?:{_DAY} (?:of )?{_MONTH}|{_MONTH} {_DAY}),? (\d{{4}})", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s*([AaPp])?\.?(?:[Mm]\.?)?")
_SIDE = r"[A-Za-z∠△]\w{0,5}(?:_\{\w{1,6}\})?\s*"
_RATIO = re.compile(rf"(?:(?:{_SIDE}:\s*)+{_SIDE}=\s*)?(\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+)")
_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Value | None]], ...] = (
    (_DATE, lambda date: _digits("date", *date.groups())),  # before 2018/6/28 is a division
    (_NAMED_DATE, lambda date: _digits("date", date[5], _month(date[2] or date[3]), date[1] or date[4])),
    (_MEANING, lambda meaning: Meaning((meaning.lastgroup or "").replace("_", " "))),
    (_CLOCK, lambda time: replace(_digits("clock", *time.groups()[:3]), half=(time[4] or "").lower())),
    (_RATIO, lambda ratio: _digits("ratio", *ratio[1].split(":"))),
    (_RANGE, lambda ends: _range(ends[2], ends[3], " to " in ends[0])),
)
_BETWEEN = re.compile(r"\s*(?:[,;]\s*(?:and|or)\b|[,;]|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))\s*", re.IGNORECASE)
_AND = re.compile(r"\band\b|∧", re.IGNORECASE)
_OR = re.compile(r"\bor\b|∨", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!,?\d)")
_APART = re.compile(r",\s|;|\b(?:and|or)\b", re.IGNORECASE)
_OPEN, _CLOSE = "([{", ")]}"
_OF = r"\s*[=∈]\s*(?=[^=])"
_ITEMS_NAME = re.compile(
    rf"\s*(?:([A-Za-z]\w{{0,3}}){_OF}|\(\s*((?:\\?[a-z]+)(?:\s*,\s*\\?[a-z]+){{1,3}})\s*\)\s*=|([A-Z]'*(?:_\d)?)\s*=?\s*(?=\())"
)
_ITEM_NAME = re.compile(r"\s*([A-Za-z](?:_\{?\w\}?)?)\s*=\s*([^=]+)")
_BUILDER = re.compile(
    r"(?:[A-Z](?:\s*(?:∪|\\cap)\s*[A-Z])?\s*=\s*)?\{\s*([A-Za-z])\s*(?:∈\s*\S+\s*)?(?:\||:|\\mid(?![A-Za-z]))(.*)\}",
    re.DOTALL,
)
_RELATIONS_IN_WORDS = (
    ("", re.compile(r"(?:is )?(?:greater|more|larger) than or equal to|is at least|is (?:not|no) less than"), "≥"),
    ("", re.compile(r"(?:is )?(?:less|smaller) than or equal to|is at most|is (?:not|no) (?:more|greater) than"), "≤"),
    ("than", re.compile(r"(?:is )?(?:strictly )?(?:greater|more|larger) than"), ">"),
    ("than", re.compile(r"(?:is )?(?:strictly )?(?:less|smaller) than"), "<"),
)
_RELATION = re.compile(r"([<≤>≥])")
_TURNED = {">": "<", "≥": "≤"}
_EXCEPT = re.compile(
    r"\s*(?:([A-Za-z])\s*≠|(?:all )?real numbers (?:except|other than)(?: for)?)\s*(.+)", re.IGNORECASE
)
_PRODUCT = re.compile(r"\s*\d+(?:\.\d+)?\s*(?:\*\s*\d+(?:\.\d+)?\s*)+")
_VARIABLE = re.compile(r"\s*[A-Za-z]\s*")
_BASED = re.compile(r"\(?(\w+)\)?_\{?\s*(\w+)\s*\}?")  # 1010_2
_INFINITE = re.compile(r"\s*([+-]?)\s*(?:\\infty|infinity|inf|oo)\s*", re.IGNORECASE)
# What math-verify passes over: a prime, a base, dots, and marks that it does not know.
_UNSEEN = re.compile(r"[\w)\]}]'+|\\prime|(?<=[\d)])_\w+|(\\[lc]?dots|\.\.\.|…)|^!|[?¬~#@&;]|\\l?not(?![a-z])|\\neg")
_UNBRACED = str.maketrans("", "", "{ }")
_LEFT_SIDE = re.compile(r"[^=]*=")
_INEQUALITY = re.compile(r"[<>≤≥≠]|\\n[lg]eq?(?![a-z])")
_ROOT = r"(?:\\sqrt|√|(?<![A-Za-z])sqrt)\s*(?:\{\s*(\w+)\s*\}|\(\s*(\w+)\s*\)|(?<=t)\s*(\w)|(?<=√)\s*(\d+|[A-Za-z]))"
_SIMPLE = (
    ("", re.compile(_ROOT), r"√(\1\2\3\4)"),
    ("\\frac", re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    ("pi", re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), "π"),
    ("{", re.compile(r"(?<=[_^])\{\s*(\w)\s*\}(?!\d)"), r"\1"),
    (" ", re.compile(r"(?<=\d)\s+(?=\d)"), ","),
    ("", re.compile(r"(?<!\d)\s*\*|\*\s*(?!\d|\s)|\s"), ""),
)
_QUOTES = str.maketrans("", "", "\"'`")
_TYPESET = re.compile(r"[\\√^_*<>]|pi|sqrt|\d\s+\d")  # what has none of these is only rid of its blanks
_PROSE = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sin|cos|tan|log|exp|arc|inf)[A-Za-z]?[a-z]{3}")
_SIGN = re.compile(r"[=+^/*{}\\<>|]")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_SENTENCE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}|\b(?:because|since|so)\b|[\u4e00-\u9fff]")


def fold(text: str) -> str:
    """A word or phrase without case, punctuation and a leading article: what makes two the same. A minus
    sign stays, and so does what makes a number another one."""
    return _FIRST_ARTICLE.sub("", _FOLDED.sub(" ", without_indices(plain(text)).casefold()).strip(_EDGES))


def spelling(text: str) -> str:
    """A formula or a phrase in one spelling; letters keep their case, but for those of a phrase."""
    text = without_indices(plain(text))
    if _SIGN.search(text):
        text = _WORD.sub(lambda word: word[0].casefold(), text)
    elif _PROSE.search(text):
        text = _ARTICLE.sub("", text.casefold().translate(_QUOTES).strip(" .!?"))
    if not _TYPESET.search(text):
        return "".join(text.split())
    return rewritten(text, _SIMPLE)


def read_value(text: str, letters: bool = False) -> Value:
    """What `text` says. Never fails: what is nothing else is a formula. With `letters`, 5m is five metres."""
    return read_plain(plain(text), letters)


@lru_cache(maxsize=4096)
def read_plain(text: str, letters: bool = False) -> Value:
    """`read_value` of a text that is `plain`."""
    number = read_plain_quantity(text, letters)
    if number and "/" not in text:
        return replace(number, text=text)
    for form, made in _FORMS:
        if (found := form.fullmatch(text)) and (value := made(found)):
            return value
    if number:
        return replace(number, text=text)
    return _read_set(text.replace("\\{", "{").replace("\\}", "}")) or _read_words(text) or _formula(text)


def is_structured(value: Value) -> bool:
    """Is this more than words or a formula?"""
    return not isinstance(value, Words | Formula)


def shown(value: Value) -> str:
    """`value` as a person reads it."""
    match value:
        case Quantity(places=None, surd=False, name="", unit=""):
            return str(value.value)
        case Quantity():
            if value.value.numerator.bit_length() + value.value.denominator.bit_length() > _MOST_SHOWN:
                return "a number of too many digits"
            number = str(value.value) if not value.surd else f"{float(value.value):.12g}..."
            if value.places is not None:
                number = f"{float(value.value):.{max(value.places, 0)}f}"
            return f"{value.name} = " * bool(value.name) + f"{number} {value.unit}".strip()
        case Range():
            return f"from {shown(value.low)} to {shown(value.high)}"
        case Digits("ratio" | "scale"):
            return " : ".join(map(str, value.numbers))
        case Digits():
            sign = "-" if value.kind == "date" else ":"
            return f"{value.kind} {sign.join(f'{int(n):02}' for n in value.numbers)} {value.half}".rstrip()
        case Meaning():
            return value.said
        case Words():
            return value.folded
        case Formula():
            return f"{value.text} {value.unit}".strip()
        case Items():
            each = len(value.names) == len(value.values)
            named = [(f"{value.names[at]} = " if each else "") + shown(item) for at, item in enumerate(value.values)]
            inside = (" or " if value.joint == "∪" else ", ").join(named)
            name = f"{value.names[0]} {'in' if value.joint == '..' else '='} " if value.names and not each else ""
            return name + value.brackets[:1] + inside + value.brackets[1:]


def same_value(gold: Value, answer: Value, agree: FormulasAgree = lambda *_: None) -> bool | None:
    """Does the answer say the gold? `agree` compares (gold, answer) formulas; None where it cannot tell."""
    match gold, answer:
        case (Quantity(), Quantity()):
            return same_quantity(gold, answer) and not _differ_in_factors(gold.text, answer.text)
        case (Items(), Items()):
            return _same_items(gold, answer, agree)
        case (Items(), Quantity()) if "," in answer.text and (found := _read_items(answer.text)):
            return same_value(gold, found, agree)  # of a list of values, 55,104 is two
        case (Items(brackets="" | "{}"), Quantity()) | (Quantity(), Items(brackets="" | "{}")):
            golds, answers = (one.values if isinstance(one, Items) else (one,) for one in (gold, answer))
            return bool(_same_set(golds, answers, agree))  # 4 or 4
        case (Meaning("reals"), Items(joint="..") as line) | (Items(joint="..") as line, Meaning("reals")):
            return all(map(_is_infinite, line.values))
        case (Digits("ratio" | "scale"), Range(said=True)):
            return gold.numbers == (answer.low.value, answer.high.value) and not answer.high.unit
        case (Digits("ratio") as ratio, Quantity() as number) | (Quantity() as number, Digits("ratio") as ratio):
            top, *below = ratio.numbers
            return len(below) == 1 and not number.unit and number.value * below[0] == top != 0
        case (Digits(), Digits()):
            return _same_digits(gold, answer)
        case (Range(), Range()):
            return same_quantity(gold.low, answer.low) and same_quantity(gold.high, answer.high)
        case (Formula(), Formula()):
            return _same_formula(gold, answer, agree)
        case (Formula() as one, Quantity()) | (Quantity(), Formula() as one) if _is_infinite(one) or _tower(one):
            return False  # a number that can be written down is not as large
        case (Formula() | Quantity(), Formula() | Quantity()):
            return _same_formula(_as_formula(gold), _as_formula(answer), agree)
        case _:
            return gold == answer


# Reading


def reasoned(text: str) -> Meaning | None:
    """`Yes, because ...`: a yes or no with its reason, which must not say the opposite."""
    found = _REASONED.match(text)
    if not found:
        return None
    said = found[1].lower()
    opposite = r"no(?=\s*(?:[,.;!]|$))" if said == "yes" else _OPPOSITES[said]
    unsure = re.search(rf"\b(?:{opposite}|wait|actually|maybe)\b", found[2], re.IGNORECASE)
    return None if unsure else Meaning(said)


def _digits(kind: str, *numbers: str | None) -> Digits:
    return Digits(kind, tuple(Fraction(number) for number in numbers if number))


def _month(name: str) -> str:
    return str(_MONTHS.index(name.lower()) + 1)


def _range(first: str, last: str, said: bool) -> Range | None:
    low, high = read_quantity(first.strip(), True), read_quantity(last.strip(), True)
    return Range(replace(low, unit=low.unit or high.unit), high, said) if low and high else None


def _read_words(text: str) -> Words | None:
    if _SHORT_WORD.fullmatch(text) or (_WORDS.fullmatch(text) and not _MATH_WORD.search(text)):
        return Words(fold(text))
    return None


def _formula(text: str) -> Formula:
    end = unit_end(text)
    return Formula(text[:end].strip(), spelling(text[:end]), text[end:].strip())


def _read_set(text: str) -> Value | None:
    builder = _BUILDER.fullmatch(text)
    if builder:
        text = builder[2].strip().rstrip(",")
    return _read_except(text) or _read_union(text) or (None if builder else _read_items(text))


def _read_items(text: str) -> Items | None:
    names: tuple[str, ...] = ()
    named = _ITEMS_NAME.match(text)
    if named and "=" not in text[named.end() :]:
        names = tuple(named[2].replace(" ", "").split(",")) if named[2] else (named[1] or named[3],)
        text = text[named.end() :]
    text = text.strip()
    brackets = _outer_brackets(text)
    values = _split(text[1:-1] if brackets else text)
    if values is None:
        return None
    values = [value.replace("±", sign) for value in values for sign in ("+-" if value.count("±") == 1 else "±")]
    if len(values) < 2 and brackets != "{}":
        return None
    if not brackets and not names:
        names, values = _item_names(values)
    elif not brackets and len(names) > 1:  # (x, y) = (1, 2) or (2, 1)
        names = ()
    if brackets in ("(]", "[)") or (len(values) == 2 and any(_INFINITE.fullmatch(value) for value in values)):
        return _interval(brackets, values, names[0] if names else "") if brackets and len(values) == 2 else None
    read = tuple(map(read_value, values))
    if not brackets and any(isinstance(value, Words) for value in read) and any(map(is_structured, read)):
        return None
    if not brackets and any(isinstance(value, Formula) and _SENTENCE.search(value.text) for value in read):
        return None
    several = not brackets and len(names) != 1
    joint = "or" if several and _OR.search(text) else ";" if several and ";" in text and "," not in text else ""
    return Items(brackets, read, names, joint)


def _item_names(values: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """The names in `x = 1, y = 2` or `x_1 = 1, x_2 = 2` (which number one variable's values) and what they name."""
    found = [named.groups() for value in values if (named := _ITEM_NAME.fullmatch(value))]
    if len(found) < len(values):
        return (), values
    names = [name.replace("{", "").replace("}", "") for name, _ in found]
    bare = {name.partition("_")[0] for name in names}
    return tuple(bare if len(bare) == 1 else names), [named for _, named in found]


def _split(text: str) -> list[str] | None:
    """The values between commas, semicolons, `and` and `or` outside brackets; None for too many."""
    if _APART.search(text):
        text = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
    depths = _depths(text)
    cuts = [cut.span() for cut in _BETWEEN.finditer(text) if not depths[cut.start()]]
    if len(cuts) >= MOST_ITEMS or any(depths[-1:]):
        return None
    edges = [0, *(edge for cut in cuts for edge in cut), len(text)]
    values = [text[start:end].strip() for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return None if "" in values else values


def _outer_brackets(text: str) -> str:
    """The pair of brackets around all of `text`, or nothing. Half-open intervals are pairs, too."""
    if len(text) < 2 or text[0] not in _OPEN or text[-1] not in _CLOSE:
        return ""
    *within, last = _depths(text)
    return text[0] + text[-1] if all(within) and not last else ""


def _depths(text: str) -> list[int]:
    """How many brackets are open after each sign of `text`."""
    return list(accumulate((mark in _OPEN) - (mark in _CLOSE) for mark in text))


def _read_except(text: str) -> Items | None:
    """`x \\ne 4` and `all real numbers except 4`: all below it and all above."""
    found = _EXCEPT.fullmatch(text)
    if not found or _BETWEEN.search(found[2]):
        return None
    ends = (("-\\infty", found[2]), (found[2], "\\infty"))
    return Items("", tuple(_interval("()", pair, found[1] or "") for pair in ends), joint="∪")


def _read_inequality(text: str) -> Items | None:
    """`1 < x <= 2` and `2 >= x > 1` as (1, 2], `x > 1` as (1, ∞)."""
    if " is " in text or " than " in text:
        text = rewritten(text, _RELATIONS_IN_WORDS)
    parts = [part.strip() for part in _RELATION.split(text, maxsplit=2)]
    if ">" in parts or "≥" in parts:
        parts = [_TURNED.get(part, ">" if part in ("<", "≤") else part) for part in reversed(parts)]
    if len(parts) == 3:
        parts = ["-\\infty", "<", *parts] if _VARIABLE.fullmatch(parts[0]) else [*parts, "<", "\\infty"]
    if len(parts) < 5 or not {parts[1], parts[3]} <= {"<", "≤"}:
        return None
    low, left, name, right, high = parts
    if [bool(_VARIABLE.fullmatch(part)) for part in (low, name, high)] != [False, True, False]:
        return None
    if any(mark in low + high for mark in ",;=<≤>≥") or _OR.search(low + high) or _AND.search(low + high):
        return None
    return _interval(("[" if left == "≤" else "(") + ("]" if right == "≤" else ")"), [low, high], name)


def _interval(brackets: str, ends: Sequence[str], name: str = "") -> Items:
    usual = ("-" * ("-" in end) + "\\infty" if _INFINITE.fullmatch(end) else end for end in ends)
    return Items(brackets, tuple(map(read_value, usual)), (name,) if name else (), "..")


def _read_between(text: str) -> Items | None:
    """`-1 < x and x <= 3` as (-1, 3]."""
    sides = _AND.split(text, maxsplit=2)
    found = [interval for side in sides if (interval := _read_inequality(side))]
    if len(found) < len(sides) or len({side.names for side in found}) > 1 or len(sides) > 2:
        return None
    if len(sides) == 1:
        return found[0]
    low, high = found if _is_infinite(found[0].values[1]) else found[::-1]
    if not _is_infinite(low.values[1]) or not _is_infinite(high.values[0]):
        return None
    return replace(low, brackets=low.brackets[0] + high.brackets[1], values=(low.values[0], high.values[1]))


def _read_union(text: str) -> Items | None:
    """`x < 2 or x > 3` and `(-∞, 2) ∪ (3, ∞)`, where each part is an interval of the same variable."""
    named = _ITEMS_NAME.match(text)
    if named and named[1] and not _INEQUALITY.search(text):
        text = text[named.end() :]
    cups = "∪" in text
    sides = text.split("∪", MOST_ITEMS) if cups or not _INEQUALITY.search(text) else _OR.split(text, MOST_ITEMS)
    found = [_read_between(side) or (_read_items(side) if cups else None) for side in sides[:MOST_ITEMS]]
    parts = tuple(part for part in found if part and _is_interval(part))
    if len(parts) < len(sides) or len({part.names for part in parts}) > 1:
        return None
    return Items("", parts, joint="∪") if len(parts) > 1 else parts[0]


# Comparing


def _same_formula(gold: Formula, answer: Formula, agree: FormulasAgree) -> bool | None:
    if _is_infinite(gold) or _is_infinite(answer):
        return gold.spelling.lstrip("+") == answer.spelling.lstrip("+")
    if (number := _based(gold.text)) and (other := _based(answer.text)):
        return number == other
    if gold.spelling == answer.spelling and not (gold.unit and answer.unit and gold.unit != answer.unit):
        return True
    if len({_tower(gold), _tower(answer)} - {None}) == 2:
        return False
    if _unseen(gold.text, answer.text) != _unseen(answer.text, gold.text) or _signs(gold.text) != _signs(answer.text):
        return False
    return agree(gold, answer)


def _based(text: str) -> tuple[str, Quantity | None] | None:
    """The digits of a number and the base that stands below them, in digits or in a word."""
    found = _BASED.fullmatch(text)
    return (found[1], read_quantity(found[2])) if found and found[1][:1].isdigit() else None


def _unseen(text: str, other: str) -> frozenset[str]:
    """The marks in `text` that math-verify passes over; a left side that the other has not is only a name."""
    if "=" in text and "=" not in other:
        text = _LEFT_SIDE.sub("", text, count=1)
    bars = {"|"} if text.count("|") % 2 else set()
    text = text.translate(_UNBRACED)
    return frozenset("…" if mark[1] else mark[0] for mark in _UNSEEN.finditer(text)) | bars


def _differ_in_factors(gold: str, answer: str) -> bool:
    """Sizes such as 4 x 8 x 12 are told by their numbers, not by their product."""
    if "*" not in gold or "*" not in answer or not (_PRODUCT.fullmatch(gold) and _PRODUCT.fullmatch(answer)):
        return False
    return sorted(map(Fraction, gold.split("*"))) != sorted(map(Fraction, answer.split("*")))


def _tower(value: Value) -> tuple[int, Decimal] | None:
    return tower(spelled(value.text)) if isinstance(value, Formula) and value.text[:1].isdigit() else None


def _same_digits(gold: Digits, answer: Digits) -> bool:
    """The same date, time or ratio: 3:45 may be 3:45 PM, 15:45 is; and a ratio may look like a time."""
    if gold.kind != answer.kind:
        other = {"ratio": "clock", "scale": "ratio"}.get(gold.kind)
        return answer.kind == other and gold.numbers == answer.numbers and not answer.half
    if gold.kind == "ratio":
        return len(gold.numbers) == len(answer.numbers) and _in_lowest(gold) == _in_lowest(answer)
    return _in_hours(gold) == _in_hours(answer) or (gold.numbers == answer.numbers and "" in (gold.half, answer.half))


def _in_hours(time: Digits) -> tuple[Fraction, ...]:
    hour, *rest = time.numbers
    return (hour % 12 + 12 * (time.half == "p") if time.half else hour, *rest)


def _signs(text: str) -> list[str]:
    """The relation signs of a text, in order, each with what it turns into when its sides are swapped."""
    return sorted("<" if sign in "<>" else "≤" for sign in _INEQUALITY.findall(text))


def _same_items(gold: Items, answer: Items, agree: FormulasAgree) -> bool | None:
    if "∪" in (gold.joint, answer.joint):
        return _same_union(gold, answer, agree)
    if gold.brackets != answer.brackets and not _may_be_bare(gold, answer):
        return False
    gold, answer = _by_name(gold, answer)
    if len(gold.names) == len(answer.names) and any(map(names_differ, gold.names, answer.names)):
        return False
    if gold.names and answer.names and (gold.joint == "or") != (answer.joint == "or"):
        return False  # x = 2 or y = 3 is not both
    if not gold.brackets and not answer.brackets and {len(gold.names), len(answer.names)} == {1, len(gold.values)}:
        return False  # x = 3, y = 4 are no two values of x
    ordered = gold.joint == ";" and all(isinstance(value, Quantity) for value in gold.values)
    sides = (gold, answer)
    loose = not ordered and all(side.brackets in ("", "{}") and len(side.names) < 2 for side in sides)
    bare = all(not side.brackets and not side.names for side in sides)
    if len(gold.values) != len(answer.values) and (bare or not loose):
        return False  # 3, 3, 4 is not 3, 4: only sets and roots have each value once
    if loose:
        return _same_set(gold.values, answer.values, agree)
    return _all(same_value(one, other, agree) for one, other in zip(gold.values, answer.values, strict=True))


def _may_be_bare(gold: Items, answer: Items) -> bool:
    """May the one that has no brackets say the other? Never an interval, and values of one variable never a tuple."""
    bare, other = (gold, answer) if not gold.brackets else (answer, gold)
    if bare.brackets or other.joint == ".." or (other.brackets == "[]" and len(other.values) == 2):
        return False
    return other.brackets == "{}" or (len(bare.names) != 1 and bare.joint != "or")


def _by_name(gold: Items, answer: Items) -> tuple[Items, Items]:
    """Both in the order of their names, where the names are several."""
    bare = len(gold.names) > 1 and not answer.names and not answer.brackets
    unlike = len(gold.names) != len(answer.names) and not set(gold.names + answer.names) <= set("xyz")
    return (gold, answer) if bare or unlike else (_sorted(gold), _sorted(answer))


def _sorted(items: Items) -> Items:
    if len(items.names) != len(items.values) or len(set(items.names)) < 2:
        return items
    pairs = sorted(zip(items.names, items.values, strict=True), key=lambda pair: pair[0])
    return replace(items, names=tuple(name for name, _ in pairs), values=tuple(value for _, value in pairs))


def _is_interval(items: Items) -> bool:
    """Is this one, or a pair that may be one?"""
    return items.joint == ".." or (items.brackets in ("()", "[]") and len(items.values) == 2)


def _is_infinite(end: Value) -> bool:
    return isinstance(end, Formula) and end.spelling.endswith("\\infty")


def _same_union(gold: Items, answer: Items, agree: FormulasAgree) -> bool | None:
    """The same parts. Other intervals may have the same union, which math-verify tells."""
    golds, answers = (one.values if one.joint == "∪" else (one,) if _is_interval(one) else () for one in (gold, answer))
    if not golds or not answers:
        return False
    if _same_set(golds, answers, agree):
        return True
    return agree(*(_formula(" ∪ ".join(map(formula_text, parts))) for parts in (golds, answers)))


def formula_text(value: Value) -> str:
    """`value` as math-verify is to read it, without its unit."""
    if isinstance(value, Items):
        return value.brackets[:1] + ", ".join(map(formula_text, value.values)) + value.brackets[1:]
    return _as_formula(value).text if isinstance(value, Quantity | Formula) else shown(value)


def _as_formula(value: Quantity | Formula) -> Formula:
    return value if isinstance(value, Formula) else _formula(value.text or str(value.value))


def _in_lowest(ratio: Digits) -> tuple[Fraction, ...]:
    last = ratio.numbers[-1]
    return tuple(term / last for term in ratio.numbers) if last else ratio.numbers


def _same_set(golds: Sequence[Value], answers: Sequence[Value], agree: FormulasAgree) -> bool | None:
    rows = [[same_value(gold, answer, agree) for answer in answers] for gold in golds]
    lines = (*rows, *zip(*rows, strict=True))
    return _all(True if True in line else None if None in line else False for line in lines)


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = set(verdicts)
    if False in found:
        return False
    return None if None in found else True
