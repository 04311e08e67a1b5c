r"""The value of a constant: + - * / ^ with numbers, fractions, roots and pi.

Worked example: `2+3` is 5 and `\frac{6}{4}` is 3/2, both exactly; `3\sqrt{2}` and `\frac{6}{\sqrt2}` are
4.2426..., a Decimal of 60 digits. Two such values are the same where `agree` says so. What has a letter,
a logarithm or an imaginary part is not read here.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from fractions import Fraction
from math import isqrt

MOST_BITS = 20_000
MOST_POWER = 10_000
DEEPEST = 20
LONGEST = 200
_SAME_DIGITS = 40

Real = Fraction | Decimal

_CONTEXT = Context(prec=60, Emax=10**5, Emin=-(10**5))
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534")
_SPELLED = (
    (re.compile(r"\\pi(?![A-Za-z])|(?<![A-Za-z])pi(?![A-Za-z])"), "π"),
    (re.compile(r"\\sqrt\s*(\d)(?![\d.])"), r"√(\1)"),
    (re.compile(r"(?:\\sqrt|(?<![A-Za-z\\])sqrt)(?=\s*[({π])"), "√"),
    (re.compile(r"\*\*"), "^"),
)
_BRACED = (
    (re.compile(r"√\s*\{([^{}\\]*)\}"), r"√(\1)"),
    (re.compile(r"\\sqrt\s*\[\s*(\d+)\s*\]\s*(?:\{([^{}\\]*)\}|(\d)(?!\d))"), r"((\2\3)^(1/\1))"),
    # The brackets tell a fraction from a factor: 2⟨(1)/(2)⟩ is a mixed number and no product.
    (re.compile(r"\\frac\s*\{([^{}\\]*)\}\s*\{([^{}\\]*)\}"), r"⟨(\1)/(\2)⟩"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"⟨(\1)/(\2)⟩"),
    (re.compile(r"\\frac\s*(\d)\s*\{([^{}\\]*)\}|\\frac\s*\{([^{}\\]*)\}\s*(\d)"), r"⟨(\1\3)/(\2\4)⟩"),
    (re.compile(r"\^\s*\{([^{}\\]*)\}"), r"^(\1)"),
)
_CONSTANT = re.compile(r"(?=.*[\dπ])[\d.+\-*/^()⟨⟩\s√π]+")
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|([-+*/^()⟨⟩√π]))")


class _NoConstant(Exception):
    """The text is none, or too large to compute."""


def spelled(text: str) -> str:
    """`text` with its roots, fractions and powers on one line: √(2), ⟨(1)/(2)⟩, ^(3)."""
    for pattern, plainly in _SPELLED:
        text = pattern.sub(plainly, text)
    before = ""
    while before != text:
        before = text
        for pattern, plainly in _BRACED:
            text = pattern.sub(plainly, text)
    return text


def read_constant(line: str) -> Real | None:
    """The value of a constant that is `spelled`, or None: a Fraction where it is rational, else a Decimal."""
    if len(line) > LONGEST or not _CONSTANT.fullmatch(line):
        return None
    tokens = _tokens(line)
    if tokens is None:
        return None
    try:
        value, end = _sum(tokens, 0, 0)
    except (ArithmeticError, ValueError, _NoConstant):
        return None
    return value if end == len(tokens) else None


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


def _tokens(text: str) -> list[str] | None:
    tokens: list[str] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        tokens.append(token[1] or token[2])
        position = token.end()
    return tokens


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Real, int]:
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        term, after = _product(tokens, at + 1, depth)
        value, at = _applied(tokens[at], value, term), after
    return value, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Real, int]:
    value, at = _signed(tokens, at, depth)
    sign = "*"
    while at < len(tokens):
        if tokens[at] in "*/":
            sign = tokens[at]
            factor, at = _signed(tokens, at + 1, depth)
            value = _applied(sign, value, factor)
        elif tokens[at] in "√π(⟨":
            if sign == "/":
                raise _NoConstant  # 1/2π is read in two ways
            factor, at = _power(tokens, at, depth)
            value = _applied("*", value, factor)
        else:
            break
    return value, at


def _signed(tokens: list[str], at: int, depth: int) -> tuple[Real, int]:
    sign = 1
    while at < len(tokens) and tokens[at] in "+-":
        sign = -sign if tokens[at] == "-" else sign
        at += 1
    value, at = _power(tokens, at, depth)
    return (value if sign > 0 else value.copy_negate() if isinstance(value, Decimal) else -value), at


def _power(tokens: list[str], at: int, depth: int) -> tuple[Real, int]:
    base, at = _atom(tokens, at, depth)
    if at == len(tokens) or tokens[at] != "^":
        return base, at
    exponent, at = _signed(tokens, at + 1, depth + 1)
    return _raised(base, exponent), at


def _atom(tokens: list[str], at: int, depth: int) -> tuple[Real, int]:
    if at >= len(tokens) or depth > DEEPEST:
        raise _NoConstant
    mark = tokens[at]
    if mark == "√":
        value, at = _atom(tokens, at + 1, depth + 1)
        return _raised(value, Fraction(1, 2)), at
    if mark == "π":
        return _PI, at + 1
    if mark in "(⟨":
        value, at = _sum(tokens, at + 1, depth + 1)
        if at >= len(tokens) or tokens[at] != (")" if mark == "(" else "⟩"):
            raise _NoConstant
        return value, at + 1
    if not mark[0].isdigit() and mark[0] != ".":
        raise _NoConstant
    number, at = Fraction(mark), at + 1
    if at < len(tokens) and tokens[at] == "⟨":
        part, at = _atom(tokens, at, depth + 1)
        if number.denominator != 1 or not isinstance(part, Fraction) or not 0 < part < 1:
            raise _NoConstant
        number += part
    return number, at


def _applied(sign: str, value: Real, other: Real) -> Real:
    if isinstance(value, Fraction) and isinstance(other, Fraction):
        exact = {"+": value.__add__, "-": value.__sub__, "*": value.__mul__, "/": value.__truediv__}[sign](other)
        if max(exact.numerator.bit_length(), exact.denominator.bit_length()) > MOST_BITS:
            raise _NoConstant
        return exact
    left, right = _decimal(value), _decimal(other)
    return {"+": _CONTEXT.add, "-": _CONTEXT.subtract, "*": _CONTEXT.multiply, "/": _CONTEXT.divide}[sign](left, right)


def _raised(base: Real, exponent: Real) -> Real:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * bits > MOST_BITS:
                raise _NoConstant
            return Fraction(base ** int(exponent))
        if exponent == Fraction(1, 2) and base >= 0:
            top, below = isqrt(base.numerator), isqrt(base.denominator)
            if top * top == base.numerator and below * below == base.denominator:
                return Fraction(top, below)
    power = _decimal(exponent)
    if base < 0 or abs(power) > MOST_POWER:
        raise _NoConstant
    return _CONTEXT.power(_decimal(base), power)


def _decimal(value: Real) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return _CONTEXT.divide(Decimal(value.numerator), Decimal(value.denominator))
