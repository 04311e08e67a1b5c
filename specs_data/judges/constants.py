r"""The value of a constant: + - * / ^ with numbers, fractions, roots and pi.

Worked example: `2+3` is 5 and `\frac{6}{4}` is 3/2, both exactly; `3\sqrt{2}` and `\frac{6}{\sqrt2}` are
4.2426..., a Decimal of 60 digits. Two such values are the same where `agree` says so. What has a letter,
a logarithm or an imaginary part is not read here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from math import isqrt

MOST_BITS = 20_000
MOST_POWER = 10_000
DEEPEST = 20
LONGEST = 200
_SAME_DIGITS = 40

Real = Fraction | Decimal
# What a text must have for a pattern to match (which tells it fast), the pattern, and what is written for it.
Rewriting = Sequence[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]]]

_CONTEXT = Context(prec=60, Emax=10**5, Emin=-(10**5))
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534")
_SPELLED: Rewriting = (
    ("pi", re.compile(r"\\pi(?![A-Za-z])|(?<![A-Za-z])pi(?![A-Za-z])"), "π"),
    ("\\sqrt", re.compile(r"\\sqrt\s*(\d)(?![\d.])"), r"√(\1)"),
    ("sqrt", re.compile(r"(?:\\sqrt|(?<![A-Za-z\\])sqrt)(?=\s*(?:[({π]|\\frac))"), "√"),
    ("**", re.compile(r"\*\*"), "^"),
)
_BRACED: Rewriting = (
    ("√", re.compile(r"√\s*\{([^{}\\]*)\}"), r"√(\1)"),
    ("\\sqrt", re.compile(r"\\sqrt\s*\[\s*(\d+)\s*\]\s*(?:\{([^{}\\]*)\}|(\d)(?!\d))"), r"((\2\3)^(1/\1))"),
    # The brackets tell a fraction from a factor: 2⟨(1)/(2)⟩ is a mixed number and no product.
    ("\\frac", re.compile(r"\\frac\s*\{([^{}\\]*)\}\s*\{([^{}\\]*)\}"), r"⟨(\1)/(\2)⟩"),
    ("\\frac", re.compile(r"\\frac\s*(\d)\s*(\d)"), r"⟨(\1)/(\2)⟩"),
    ("\\frac", re.compile(r"\\frac\s*(\d)\s*\{([^{}\\]*)\}|\\frac\s*\{([^{}\\]*)\}\s*(\d)"), r"⟨(\1\3)/(\2\4)⟩"),
    ("^", re.compile(r"\^\s*\{([^{}\\]*)\}"), r"^(\1)"),
)
_REPEATING = re.compile(r"(\d{0,20})\.(\d{0,20})\\(?:overline|dot|bar)\s*(?:\{\s*(\d{1,20})\s*\}|(\d{1,20}))")
_CONSTANT = re.compile(r"(?=.*[\dπ])[\d.+\-*/^()⟨⟩\s√π]+")
# A constant as Python writes it: F(1/2) for a fraction, M(2, 1/2) for a mixed number, R(2) for a root, P for pi, and @
# for a product without a sign.
_PYTHON: Rewriting = (
    ("/", re.compile(r"(?<![\d.)])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.(√π])"), r"\1⟨\2/\3⟩"),
    ("√", re.compile(r"√\s*(\d+(?:\.\d+)?|π|⟨[^⟨⟩]*⟩)"), r"√(\1)"),
    ("", re.compile(r"(?<=[\d)π⟩])\s*(?=[(√π])|(?<=[)π⟩])\s*(?=⟨)"), "@"),
    (".", re.compile(r"(\d*)\.(\d*)(?<=\d)"), lambda number: f"({number[1]}{number[2]}/1{'0' * len(number[2])})"),
    ("0", re.compile(r"(?<!\d)0+(?=\d)"), ""),
    ("⟨", re.compile(r"(\d+)\s*⟨"), r"M(\1,"),
)
_NAMES = str.maketrans({"⟨": "F(", "⟩": ")", "√": "R", "π": "P", "^": "**"})
_TWO_WAYS = re.compile(r"/\s*-?(?:[RFM]?\((?:[^()]|\([^()]*\))*\)|\d+|P)(?:\*\*\(?-?\d+\)?)?\s*@")  # 1/2π
_SIGNS = {
    ast.Add: (Fraction.__add__, _CONTEXT.add),
    ast.Sub: (Fraction.__sub__, _CONTEXT.subtract),
    ast.Mult: (Fraction.__mul__, _CONTEXT.multiply),
    ast.MatMult: (Fraction.__mul__, _CONTEXT.multiply),
    ast.Div: (Fraction.__truediv__, _CONTEXT.divide),
}

# Number words, which are no units.
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS = dict(zip(_ONES.split(), range(20), strict=True)) | dict(zip(_TENS.split(), range(20, 100, 10), strict=True))
_NTHS = "third fourth fifth sixth seventh eighth ninth tenth"
_ORDINALS = dict(zip(_NTHS.split(), range(3, 11), strict=True))
_ORDINALS |= {"quarter": 4, "twelfth": 12, "hundredth": 100, "thousandth": 1000}
PARTS = {"half": 2, "halves": 2} | _ORDINALS | {f"{part}s": value for part, value in _ORDINALS.items()}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
SCALES |= {"万": 10**4, "亿": 10**8}


def spelled(text: str) -> str:
    """`text` with its roots, fractions and powers on one line: √(2), ⟨(1)/(2)⟩, ^(3)."""
    if "\\" in text:
        text = _REPEATING.sub(_periodic, text)
    before, text = "", rewritten(text, _SPELLED)
    while before != text:
        before, text = text, rewritten(text, _BRACED)
    return text


def rewritten(text: str, table: Rewriting) -> str:
    """`text` with each pattern of the table, in its order, replaced by what stands beside it."""
    for needed, pattern, meant in table:
        if needed in text:
            text = pattern.sub(meant, text)
    return text


def _periodic(number: re.Match[str]) -> str:
    whole, decimals, again = number[1], number[2], number[3] or number[4]
    nines = 10 ** len(decimals) * (10 ** len(again) - 1)
    return f"⟨{int(whole + decimals + again) - int(whole + decimals or 0)}/{nines}⟩"


def read_constant(line: str) -> Real | None:
    """The value of a constant that is `spelled`, or None: a Fraction where it is rational, else a Decimal."""
    if len(line) > LONGEST or not _CONSTANT.fullmatch(line):
        return None
    line = rewritten(line, _PYTHON).translate(_NAMES)
    if _TWO_WAYS.search(line):
        return None
    try:
        return _value(ast.parse(line.strip(), mode="eval").body)
    except (ArithmeticError, ValueError, LookupError, SyntaxError, MemoryError, RecursionError):
        return None


def tower(line: str) -> tuple[int, Decimal] | None:
    """How large a power is that is too large to compute: how often its logarithm must be taken, and what that
    gives. None for what is no such power. Two that differ in this are different numbers."""
    base, power, exponent = line.replace(" ", "").partition("^")
    if not power or not base.isdigit() or not int(base[:9]) >= 2 or read_constant(line) is not None:
        return None
    exponent = exponent[1:-1] if exponent[:1] == "(" and exponent[-1:] == ")" else exponent
    logarithm = _CONTEXT.ln(Decimal(base))
    value = read_constant(exponent)
    if value is not None:
        return (1, _CONTEXT.multiply(_decimal(value), logarithm)) if value > 0 else None
    higher = tower(exponent) if exponent.count("^") < DEEPEST else None
    if higher is None:
        return None
    return higher[0] + 1, _CONTEXT.add(higher[1], _CONTEXT.ln(logarithm)) if higher[0] == 1 else higher[1]


def agree(gold: Fraction, answer: Fraction) -> bool:
    """Are two values, one of them irrational, the same as far as they are known?"""
    return abs(gold - answer) <= abs(gold) / 10**_SAME_DIGITS or max(abs(gold), abs(answer)) < Fraction(1, 10**50)


def _value(node: ast.expr) -> Real:
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.Name(id="P"):
            return _PI
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _applied(ast.Sub(), Fraction(0), _value(operand))
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return _raised(_value(base), _value(exponent))
        case ast.BinOp(left=left, op=sign, right=right):
            return _applied(sign, _value(left), _value(right))
        case ast.Call(func=ast.Name(id="F"), args=[fraction]):
            return _value(fraction)
        case ast.Call(func=ast.Name(id="R"), args=[square]):
            return _raised(_value(square), Fraction(1, 2))
        case ast.Call(func=ast.Name(id="M"), args=[whole, part]):
            share = _value(part)
            if isinstance(share, Fraction) and 0 < share < 1:
                return _applied(ast.Add(), _value(whole), share)
    raise ValueError("no constant")


def _applied(sign: ast.operator, value: Real, other: Real) -> Real:
    exactly, nearly = _SIGNS[type(sign)]
    if isinstance(value, Fraction) and isinstance(other, Fraction):
        exact: Fraction = exactly(value, other)
        if max(exact.numerator.bit_length(), exact.denominator.bit_length()) > MOST_BITS:
            raise ValueError("too large to compute")
        return exact
    return nearly(_decimal(value), _decimal(other))


def _raised(base: Real, exponent: Real) -> Real:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * bits > MOST_BITS:
                raise ValueError("too large to compute")
            return Fraction(base ** int(exponent))
        if exponent == Fraction(1, 2) and base >= 0:
            top, below = isqrt(base.numerator), isqrt(base.denominator)
            if top * top == base.numerator and below * below == base.denominator:
                return Fraction(top, below)
    power = _decimal(exponent)
    if base < 0 or abs(power) > MOST_POWER:
        raise ValueError("too large to compute")
    return _CONTEXT.power(_decimal(base), power)


def _decimal(value: Real) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return _CONTEXT.divide(Decimal(value.numerator), Decimal(value.denominator))
