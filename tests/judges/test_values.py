"""Values, made by a grammar: each printed form of a value is equal to it, and no other value is.

Every kind makes a gold, another spelling of the same value, and a value that is near and different:
one with another sign, digit, letter, bound, unit, order or bracket."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from random import Random

import pytest

from specs_data.judges.rules import RuleJudge, final_answer, same_answer
from specs_data.judges.values import read_value, shown
from specs_data.records import AnswerType

CASES = Path(__file__).parent.parent / "cases"
EACH = 20_000
Made = tuple[str, AnswerType, str, str]  # gold, type, the same, another


def number(random: Random) -> Made:
    """A whole number, with another sign, one more, ten times, half or a letter more."""
    n = random.choice((-1, 1)) * random.randint(1, 10 ** random.randint(1, 7))
    same = random.choice(
        (
            f"{n:,}",
            f"{n}.0",
            f"${n}$",
            f"{n} °",
            f"x = {n}",
            f"{n}°",
            rf"{n}\text{{ units}}",
            f"({n})",
            f"{n}.",
            f"The answer is {n}.",
            f"{n} apples",
            f"答案是{n}",
            rf"\frac{{{2 * n}}}{{2}}",
            f"{n - 1} + 1 = {n}",
            f"**{n}**",
            f"{n:,}".replace(",", r",\!"),
            f"{n:,}".replace(",", "{,}"),
            rf"\text{{{n}}}",
            rf"\large {n}",
            f"So x is {n}.",
        )
    )
    other = random.choice(
        (
            f"{-n}",
            f"{n + 1}",
            f"{n}0",
            f"{n}x",
            f"{n}/2",
            f"{n}, {n + 1}",
            f"{n} or {n + 2}",
            f"{n}.5",
            f"not {n}",
            f"x > {n}",
            rf"\sqrt{{{abs(n) + 1}}}",
            f"{n} out of {abs(n) + 5}",
            f"({n}, 0)",
            f"{n} + 1",
            rf"{n}\pi",
            f"{n - 1} + 1 = {n + 1}",
            f"{abs(n)}-{abs(n) + 5}",
            f"at least {n}",
        )
    )
    return str(n), "numeric", same, other


def fraction(random: Random) -> Made:
    """A fraction, upside down, with another sign or digit, or its digits in a row."""
    top, below = random.randint(1, 400), random.randint(2, 400)
    value = Fraction(top, below)
    if value.denominator == 1 or value.numerator == 1:
        return fraction(random)
    a, b, k = value.numerator, value.denominator, random.randint(2, 9)
    same = random.choice(
        (
            f"{a}/{b}",
            rf"\dfrac{{{a}}}{{{b}}}",
            rf"\frac{{{a * k}}}{{{b * k}}}",
            rf"{{{a} \over {b}}}",
            f"x = {a}/{b}",
            rf"$\frac{{{a}}}{{{b}}}$",
            rf"\frac{{{-a}}}{{{-b}}}",
            f"{a} / {b}",
        )
    )
    other = random.choice(
        (
            f"{b}/{a}",
            f"-{a}/{b}",
            f"{a}{b}",
            f"{a + 1}/{b}",
            rf"\frac{{{a}}}{{{b + 1}}}",
            f"{a}.{b}",
            rf"-\frac{{{a}}}{{{b}}}",
            f"({a}, {b})",
            f"{a}, {b}",
            f"{a} - {b}",
            f"{a}/{b}x",
        )
    )
    return rf"\frac{{{a}}}{{{b}}}", "math", same, other


def quantity(random: Random) -> Made:
    """A length, in another unit of the same or of another size."""
    n = random.randint(2, 900)
    same = random.choice(
        (f"{100 * n} cm", f"{n} meters", rf"{n}\,\text{{m}}", f"{n}米", f"{n} m", f"AB = {n} m", f"{n}")
    )
    other = random.choice((f"{n} cm", f"{n} m^2", f"-{n} m", f"{n} s", f"{100 * n + 1} cm", f"{n} kg", f"{n}厘米"))
    return f"{n} m", "numeric", same, other


def surd(random: Random) -> Made:
    """A root or a multiple of pi, with another factor, root or sign."""
    a, b = random.randint(2, 60), random.choice((2, 3, 5, 6, 7, 10, 11, 13))
    if random.random() < 0.5:
        same = random.choice(
            (
                rf"\sqrt{{{a * a * b}}}",
                f"{a}√{b}",
                rf"AB = {a}\sqrt{{{b}}}",
                rf"{a}\sqrt{b}" if b < 10 else f"{a}√{b}",
                rf"\frac{{{a * b}}}{{\sqrt{{{b}}}}}",
                rf"{a}\sqrt{{{b}}}\text{{ cm}}",
                f"{a}sqrt({b})",
                rf"\sqrt{{{a * a * b}}} = {a}\sqrt{{{b}}}",
                rf"The length is ${a}\sqrt{{{b}}}$.",
            )
        )
        other = random.choice(
            (
                rf"-{a}\sqrt{{{b}}}",
                rf"{a}\sqrt{{{b + 15}}}",
                rf"{a + 1}\sqrt{{{b}}}",
                rf"{a}+\sqrt{{{b}}}",
                rf"\sqrt[3]{{{a * a * b}}}",
                rf"{a}{b}",
                rf"{a}\sqrt{{{b}}}x",
                rf"\frac{{{a}}}{{\sqrt{{{b}}}}}",
            )
        )
        return rf"{a}\sqrt{{{b}}}", "math", same, other
    same = random.choice(
        (f"{a}π", rf"{a} \pi", rf"\pi \cdot {a}", f"A = {a}π", rf"{a}\pi\text{{ square units}}", f"{a}*pi")
    )
    other = random.choice((f"{a + 1}π", rf"-{a}\pi", rf"{a}+\pi", rf"{a}\pi^2", rf"\frac{{{a}}}{{\pi}}", f"{a}"))
    return rf"{a}\pi", "math", same, other


def span(random: Random) -> Made:
    """A range, with another end, or what its subtraction would give."""
    low = random.randint(1, 80)
    high = low + random.randint(1, 30)
    same = random.choice((f"{low} - {high}", f"{low} to {high}", f"{low}–{high}", f"from {low} to {high}"))
    other = random.choice(
        (
            f"{low + 1}-{high + 1}",
            f"{high}-{low}",
            f"{low - high}",
            f"{low}-{high + 1}",
            f"{low}",
            f"{low}, {high}",
            f"{low}{high}",
            f"-{low}-{high}",
        )
    )
    return f"{low}-{high}", random.choice(("text", "math")), same, other


def date_or_time(random: Random) -> Made:
    """A date, a time or a score, with another number in it."""
    a, b = random.randint(1, 12), random.randint(13, 28)
    if random.random() < 0.5:
        other = random.choice(
            (f"2019-{a:02}-{b}", f"2018-{a % 12 + 1:02}-{b}", f"2018-{a:02}-{b + 1}", f"{2018 - a - b}")
        )
        return f"2018-{a:02}-{b}", "math", random.choice((f"2018/{a}/{b}", f"2018-{a}-{b}")), other
    other = random.choice(
        (f"{a + 1}:{b}", f"{a}:{b + 1}", f"{b}:{a}", f"{2 * a}:{2 * b}", f"{a}/{b}", f"{a}{b}", f"{a}.{b}")
    )
    return f"{a}:{b}", "text", random.choice((f"{a:02}:{b}", f"The time is {a}:{b}.")), other


def ratio(random: Random) -> Made:
    """A ratio, turned or with another term."""
    a, b = random.randint(2, 9), random.randint(2, 9)
    if Fraction(a, b).denominator in (1, a):
        return ratio(random)
    same = random.choice((f"{a} : {b}", rf"{a}\colon {b}", f"{a}∶{b}", f"{a}/{b}", f"The ratio is {a}:{b}."))
    other = random.choice(
        (f"{a + 1}:{b}", f"{a}, {b}", f"{a}:{b + 1}", f"({a},{b})", f"{a}-{b}", f"{a}.{b}", f"-{a}:{b}")
    )
    return f"{a}:{b}", "math", same, other


def angle(random: Random) -> Made:
    """An angle in degrees or in parts of pi, with another measure or sign."""
    top, below = random.randint(1, 11), random.choice((2, 3, 4, 5, 6, 9, 10, 12))
    degrees = 180 * top // below
    if random.random() < 0.5:
        same = random.choice(
            (
                f"{degrees}°",
                rf"\frac{{{top}\pi}}{{{below}}}",
                rf"\angle A = {degrees}^\circ",
                f"{degrees}度",
                f"{degrees}",
            )
        )
        other = random.choice(
            (f"{degrees + 1}°", f"-{degrees}°", rf"\frac{{{top}}}{{{below}}}", f"{degrees}0", rf"{degrees}\pi")
        )
        return rf"{degrees}^\circ", "math", same, other
    same = random.choice((f"{degrees} degrees", rf"\frac{{{2 * top}\pi}}{{{2 * below}}}", f"{top}π/{below}"))
    other = random.choice((f"{degrees}", f"{degrees + 1}°", rf"-\frac{{{top}\pi}}{{{below}}}", f"{top}/{below}"))
    return rf"\frac{{{top}\pi}}{{{below}}}", "math", same, other


def point(random: Random) -> Made:
    """A point, with another sign, order, number or bracket."""
    a, b = random.sample([n for n in range(-20, 20) if n], 2)
    x, y = random.choice(
        ((str(a), str(b)), (str(a), rf"{b}\sqrt{{3}}"), ("a", str(b)), (rf"\frac{{{a}}}{{23}}", str(b)))
    )
    minus = y[1:] if y.startswith("-") else f"-{y}"
    same = random.choice(
        (
            f"({x},{y})",
            rf"\left({x}, {y}\right)",
            f"P({x}, {y})",
            f"(x, y) = ({x}, {y})",
            f"$({x}, {y})$",
            f"The point is $({x}, {y})$.",
        )
    )
    other = random.choice(
        (
            f"({y}, {x})",
            f"({x}, {minus})",
            f"({x}, {y}]",
            f"[{x}, {y})",
            f"({x}, {y}, {y})",
            x,
            f"({x}, {y}0)",
            rf"\{{{x}, {y}\}}",
            f"(A, {y})" if x == "a" else f"({a - 1}, {y})",
        )
    )
    return f"({x}, {y})", "math", same, other


def several(random: Random) -> Made:
    """Roots, in any order, with another sign, one too many or too few."""
    a, b = random.sample([n for n in range(-30, 30) if n], 2)
    if a == -b:
        return several(random)
    gold = random.choice((f"{a}, {b}", rf"x = {a} \text{{ or }} x = {b}", rf"\{{{a}, {b}\}}"))
    same = random.choice(
        (
            f"{b}, {a}",
            f"x = {b} or x = {a}",
            f"x={a}或x={b}",
            f"x_1 = {a}, x_2 = {b}",
            rf"\{{{b}, {a}\}}",
            f"{a} and {b}",
            rf"x \in \{{{a}, {b}\}}",
            rf"x = {a} \lor x = {b}",
        )
    )
    other = random.choice(
        (
            f"{-a}, {-b}",
            f"{a}",
            f"{a}, {b}, 77",
            f"{a}, {b + 40}",
            f"({a}, {b}]",
            f"{a + b}",
            f"{a}{abs(b)}",
            f"x = {a}, y = {b + 1}",
            f"[{a}, {b}]",
        )
    )
    return gold, "math", same, other


def interval(random: Random) -> Made:
    """An interval, with another bound, end or direction."""
    a = random.randint(-30, 30)
    b = a + random.randint(1, 30)
    left, right = random.choice("(["), random.choice(")]")
    le = {"(": "<", "[": r"\le", ")": "<", "]": r"\leq"}
    flipped = {"(": "[", "[": "(", ")": "]", "]": ")"}
    if random.random() < 0.6:
        gold = f"{left}{a}, {b}{right}"
        same = random.choice(
            (
                f"{a} {le[left]} x {le[right]} {b}",
                f"x \\in {gold}",
                rf"\left{left}{a}, {b}\right{right}",
                rf"\{{x \mid {a} {le[left]} x {le[right]} {b}\}}",
            )
        )
        other = random.choice(
            (
                f"{flipped[left]}{a}, {b}{right}",
                f"{left}{a}, {b}{flipped[right]}",
                f"{left}{a - 1}, {b}{right}",
                f"x {le[right]} {b}",
                rf"\{{{a}, {b}\}}",
                f"{left}{b}, {a}{right}",
                f"{left}{a},\\infty)",
            )
        )
        return gold, "math", same, other
    gold = f"{left}{a}, \\infty)"
    same = random.choice((f"x > {a}" if left == "(" else rf"x \ge {a}", rf"{left}{a}, +\infty)", rf"{a} {le[left]} x"))
    other = random.choice(
        (
            rf"(-\infty, {a})",
            f"x < {a}",
            rf"{left}{a + 1}, \infty)",
            rf"{flipped[left]}{a}, \infty)",
            rf"{left}{a}, -\infty)",
            f"{a}",
            f"x {'>=' if left == '(' else '>'} {a}",
        )
    )
    return gold, "math", same, other


def words(random: Random) -> Made:
    """Words, negated or with a word more or less."""
    kind, colour = random.choice(("ball", "box", "cat")), random.choice(("red", "blue", "dark green"))
    said = f"{colour} {kind}"
    same = random.choice(
        (f"The {said}", said.upper(), f"{said}.", f"It is a {said}.", rf"\text{{{said}}}", f"a {said}")
    )
    other = random.choice(
        (f"not a {said}", kind, f"{said} and a dog", f"{said} or a dog", f"yellow {kind}", f"{said}x", f"-{said}")
    )
    return said, "text", same, other


def formula(random: Random) -> tuple[str, str, str]:
    """A formula for math-verify, with another sign, letter, case, order, relation or number: gold, same, another."""
    x, y = random.sample("xyabctk", 2)
    a, b = random.sample(range(2, 10), 2)
    golds: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
        (
            f"{a}{x}+{b}{y}",
            (f"{b}{y}+{a}{x}", f"{a}*{x} + {b}*{y}"),
            (
                f"{a}{x}-{b}{y}",
                f"-{a}{x}+{b}{y}",
                f"{a}{y}+{b}{x}",
                f"{a}{x.upper()}+{b}{y}",
                f"{a}{x}{b}{y}",
                f"{a}{x}+{b}",
            ),
        ),
        (
            f"{x}^{a}",
            (f"{x}^{{{a}}}", "*".join(x * a)),
            (f"{x}^{a + 1}", f"{x}_{a}", f"{a}{x}", f"{x.upper()}^{a}", f"-{x}^{a}"),
        ),
        (
            rf"\frac{{{a}{x}}}{{{b}{y}+1}}",
            (f"{a}{x}/({b}{y}+1)", rf"\dfrac{{{a}{x}}}{{1+{b}{y}}}"),
            (rf"\frac{{{b}{y}+1}}{{{a}{x}}}", rf"\frac{{{a}{x}}}{{{b}{y}-1}}", rf"-\frac{{{a}{x}}}{{{b}{y}+1}}"),
        ),
        (
            f"y={a}x+{b}",
            (f"{a}x-y+{b}=0", f"y-{b}={a}x", f"{a}x+{b}=y"),
            (f"y={a}x-{b}", f"x={a}y+{b}", f"y={b}x+{a}", f"y>{a}x+{b}", f"y={a}x+{b + 1}", f"{a}x+{b}=0"),
        ),
        (
            f"{a}+{b}i",
            (f"{b}i+{a}", rf"\sqrt{{-{b * b}}}+{a}"),
            (f"{a}-{b}i", f"-{a}+{b}i", f"{b}+{a}i", f"{a + b}i", f"{a}+{b}"),
        ),
        (
            f"({x}+{a})({x}-{b})",
            (f"({x}-{b})({x}+{a})",),
            (f"({x}-{a})({x}+{b})", f"-({x}+{a})({x}-{b})", f"({y}+{a})({y}-{b})"),
        ),
        (f"{x}<{a}{y}+{b}", (f"{x} < {a}{y} + {b}",), (rf"{x}\le {a}{y}+{b}", f"{x}>{a}{y}+{b}", f"{x}<{a}{y}-{b}")),
        (rf"\log_{a} {b}", (rf"\log_{{{a}}}{{{b}}}", rf"\log_{a}({b})"), (rf"\log_{b} {a}", rf"-\log_{a} {b}")),
        (
            f"{x}^2+{a}{x}+{a * a}=0",
            (f"{x}^2+{a}{x}={-a * a}",),
            (f"{x}^2-{a}{x}+{a * a}=0", f"{x}^2+{a}{x}+{a * a + 1}=0"),
        ),
        (rf"{a}{x}^2\text{{ cm}}^2", (f"{a}{x}^2", f"{a}{x}^2 cm^2"), (rf"{a}{x}^2\text{{ m}}^2", f"-{a}{x}^2")),
    )
    gold, same, other = random.choice(golds)
    return gold, random.choice(same), random.choice(other)


KINDS: tuple[Callable[[Random], Made], ...] = (
    number,
    fraction,
    quantity,
    surd,
    span,
    date_or_time,
    ratio,
    angle,
    point,
    several,
    interval,
    words,
)


def answered(answer: str) -> str:
    return f"<think>I work it out.</think><answer>{answer}</answer>"


def made(seed: int) -> Iterator[Made]:
    random = Random(seed)
    for turn in range(EACH):
        yield KINDS[turn % len(KINDS)](random)


def test_every_printed_form_of_a_value_is_equal_to_it() -> None:
    missed = [(gold, same) for gold, kind, same, _ in made(1) if same_answer(gold, same, kind) is not True]
    assert not missed, (len(missed), missed[:40])


def test_no_other_value_is_equal_to_it() -> None:
    poison = [(gold, other) for gold, kind, _, other in made(2) if same_answer(gold, other, kind) is True]
    assert not poison, (len(poison), poison[:40])


def test_formulas_of_the_same_value_and_of_another() -> None:
    random = Random(3)
    with RuleJudge(workers=2) as judge:
        for gold, same, other in (formula(random) for _ in range(150)):
            assert judge.judge(answered(same), gold, "math").right is True, (gold, same)
            assert not judge.judge(answered(other), gold, "math").right, (gold, other)


def choice(random: Random) -> tuple[str, tuple[str, ...], str, str]:
    """A choice by its letter, its content or both; and another letter, another content, or both."""
    contents = random.choice(
        (
            ("5", "-5", "6", "-6"),
            (r"\frac{1}{2}", r"\frac{2}{3}", r"\sqrt{3}", r"2\sqrt{3}"),
            ("30°", "45°", "60°", "90°"),
            ("2:3", "3:2", "3:4", "4:3"),
            ("12 cm", "12 m", "15 cm", "15 m"),
            ("a cat", "a dog", "a horse", "no animal"),
            ("x = 2", "x = -2", "y = 2", "y = -2"),
            ("(1, 2)", "(2, 1)", "(-1, 2)", "(1, -2)"),
            ("16-20", "21-25", "26-30", "31-35"),
            (r"$2\pi$", r"$4\pi$", r"$-2\pi$", "$2$"),
            ("I and II only", "II and III only", "I only", "III only"),
        )
    )
    right, wrong = random.sample(range(4), 2)
    letter, content, no, other = "ABCD"[right], contents[right], "ABCD"[wrong], contents[wrong]
    same = random.choice(
        (
            letter,
            f"({letter})",
            f"{letter}. {content}",
            f"({letter}) {content}",
            f"{letter}: {content}",
            f"**{letter}**",
            content,
            f"The answer is {letter}.",
            f"Therefore, the correct option is ({letter}).",
            f"Option {letter} is correct.",
            f"故选{letter}",
            f"答案：{letter}",
            f"The correct answer is ({letter}) {content}",
            f"{content} ({letter})",
            f"=> {letter}",
            f"It is not {no}, it is {letter}.",
            rf"\boxed{{\text{{{letter}}}}}",
            f"{letter}. Because {no} is wrong.",
        )
    )
    different = random.choice(
        (
            no,
            f"({no})",
            f"{no}. {other}",
            f"{letter}. {other}",
            f"({letter}) {other}",
            f"{no}. {content}",
            other,
            f"故选{no}",
            f"The answer is {no}.",
            f"{letter} or {no}",
            f"{letter}, {no}",
            f"{letter}{no}",
            f"not {letter}",
            f"{letter}. No, {no}.",
            f"The answer is {letter}. Wait, it is {no}.",
            f"Option {letter} is wrong.",
            f"It is not {letter}, it is {no}.",
            f"{other} ({letter})",
            f"{letter}, which is {other}",
            f"-{content}x",
            "E",
            f"{letter}: The correct option is {no}.",
        )
    )
    return letter, contents, same, different


def test_choices_by_letter_and_content() -> None:
    random = Random(4)
    with RuleJudge(workers=1) as judge:
        for _ in range(EACH):
            letter, contents, same, different = choice(random)
            gold = random.choice((letter, contents["ABCD".index(letter)]))
            assert judge.judge(answered(same), gold, "multiple_choice", contents).right is True, (
                same,
                letter,
                contents,
            )
            assert not judge.judge(answered(different), gold, "multiple_choice", contents).right, (
                different,
                letter,
                contents,
            )


def test_cases_of_others() -> None:
    """Real golds and their variants: no wrong answer is called right, and few right ones are missed."""
    rows = [json.loads(line) for line in (CASES / "judge.jsonl").read_text().splitlines()]
    with RuleJudge(workers=2) as judge:
        found = [judge.judge(row["response"], row["gold"], row["type"], row["choices"]) for row in rows]
    told = Counter((row["right"], judgement.right is True) for row, judgement in zip(rows, found, strict=True))
    assert told[False, True] == 0
    assert told[True, False] <= 5


def changed(answer: str) -> Iterator[str]:
    """A number with another digit, another sign or in another place."""
    for digit in re.finditer(r"\d", answer):
        yield answer[: digit.start()] + str((int(digit[0]) + 1) % 10) + answer[digit.end() :]
    for start in re.finditer(r"(?<![\d.\w\\-])(?=[1-9]|\\d?frac|\\sqrt)", answer):
        yield answer[: start.start()] + "-" + answer[start.start() :]
    for minus in re.finditer("-", answer):
        yield answer[: minus.start()] + answer[minus.end() :]
    for part in re.finditer(r"\\d?frac\{(\d+)\}\{(\d+)\}", answer):
        yield answer[: part.start()] + rf"\frac{{{part[2]}}}{{{part[1]}}}" + answer[part.end() :]


def test_a_real_answer_that_is_changed_is_another_one() -> None:
    rows = [json.loads(line) for line in (CASES / "judge.jsonl").read_text().splitlines()]
    plain = re.compile(r"(?:[\d\s.,+\-/(){}\[\]^]|\\d?frac|\\sqrt|\\left|\\right|\\pi)+")
    answers = [(row, final_answer(row["response"]) or "") for row in rows if row["right"] and not row["choices"]]
    tried = [(row, text) for row, answer in answers if plain.fullmatch(answer) for text in changed(answer)]
    assert len(tried) > 1_000
    same = [(row["gold"], text) for row, text in tried if same_answer(row["gold"], text, row["type"])]
    assert not same, same


@pytest.mark.slow
@pytest.mark.parametrize(("file", "most"), [("answers", 20), ("unseen", 3)])
def test_answers_and_what_is_near_them(file: str, most: int) -> None:
    """For each gold, ways to say it, and answers that are near it and say another thing. The `unseen` ones were
    written without sight of the rules."""
    missed = []
    with RuleJudge(workers=2) as judge:
        for line in (CASES / f"{file}.jsonl").read_text().splitlines():
            row = json.loads(line)
            for right, text in [*product([True], row.get("right", ())), *product([False], row.get("wrong", ()))]:
                response = text if row.get("bare") else answered(text)
                judgement = judge.judge(response, row["gold"], row["type"], row.get("choices", ()))
                assert right or not judgement.right, (row["gold"], text)
                missed += [(row["gold"], text)] if right and not judgement.right else []
    assert len(missed) <= most, missed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("500 cm", "500 cm"),
        (r"x = -1 \text{ or } x = 2", "x = -1, 2"),
        ("16–20", "from 16 to 20"),
        ("3:45 PM", "clock 03:45 p"),
        ("(2, 5]", "(2, 5]"),
        (r"x \ge 1", r"x in [1, \infty)"),
        ("No solution", "none"),
        (r"3\sqrt{2}", "4.24264068712..."),
        ("A red ball.", "red ball"),
        ("2:3", "2 : 3"),
        ("x < 1 or x > 2", r"x in (-\infty, 1) or x in (2, \infty)"),
    ],
)
def test_a_value_is_shown_as_it_was_read(text: str, said: str) -> None:
    assert shown(read_value(text)) == said
