"""Judging by rule: every case that other judges get wrong, the policies, hostile text, and what is
left behind when a process is killed."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs_data.errors import UserError
from specs_data.format import THINK_ANSWER, Part, ResponseFormat
from specs_data.judges.choices import listed_choices
from specs_data.judges.rules import RuleJudge, final_answer, same_answer
from specs_data.measure.judge_file import judge_file
from specs_data.pairs.twin import make_twin
from specs_data.plugins import find_corruptions
from specs_data.problems import Incoming, read_problems
from specs_data.records import AnswerType, Policy
from specs_data.texts import chat

COLOURS = ("small", "big", "blue", "red")
THREE = ("red", "blue", "green")


@pytest.fixture(scope="module")
def judge() -> Iterator[RuleJudge]:
    with RuleJudge(workers=1) as judge:
        yield judge


def answered(answer: str) -> str:
    return f"<think>I look at the picture.</think>\n<answer>{answer}</answer>"


# The cases that other judges are known to get wrong (answer, gold, type, right).
KNOWN: list[tuple[str, str, AnswerType, bool | None]] = [
    ("<answer>5</answer>", "5", "numeric", True),
    ("red", "D", "multiple_choice", True),
    ("(A) 60°", "A", "multiple_choice", True),
    ("**C**", "C", "multiple_choice", True),
    ("B) because A is wrong", "B", "multiple_choice", True),
    ("A or B", "A", "multiple_choice", False),
    ("E", "E", "multiple_choice", True),
    ("no", "on", "text", False),
    ("no", "on", "math", False),
    ("listen", "silent", "text", False),
    ("listen", "silent", "math", False),
    ("red", "red", "text", True),
    ("Red.", "red", "text", True),
    ("50%", "0.5", "numeric", True),
    ("14 m", "14 cm", "numeric", False),
    ("500 cm", "5 m", "numeric", True),
    ("60°", "60", "numeric", True),
    ("\u22125", "-5", "numeric", True),
    ("2 1/2", "2.5", "numeric", True),
    ("1e3", "1000", "numeric", True),
    ("1.5 million", "1500000", "numeric", True),
    ("0", "0.0000001", "numeric", False),
    ("1/2^{99}", "1/2^{98}", "math", False),
    ("1+1/e", "1-1/e", "math", False),
    ("3x+4y+14=0", "3x-y+13=0", "math", False),
    ("±2", "2", "math", False),
    ("3 or 4", "4", "numeric", False),
    ("1<x<2", "(1,2)", "math", True),
    ("2/4", "1/2", "math", True),
    ("5", "", "numeric", None),
    ("I have looked at the whole picture and cannot say what it is that the question is about", "None", "text", False),
    ("5%", "5", "numeric", True),
]


@pytest.mark.parametrize("dressed", [str, answered], ids=["bare", "in tags"])
@pytest.mark.parametrize(("answer", "gold", "kind", "right"), KNOWN)
def test_known_cases(
    judge: RuleJudge, answer: str, gold: str, kind: AnswerType, right: bool | None, dressed: type[str]
) -> None:
    choices = COLOURS if answer == "red" and kind == "multiple_choice" else ()
    assert judge.judge(dressed(answer), gold, kind, choices).right is right


@pytest.mark.parametrize("kind", ["numeric", "math"])
@pytest.mark.parametrize(("answer", "gold", "right"), [case[:2] + case[3:] for case in KNOWN if case[2] == "numeric"])
def test_numbers_are_judged_alike_as_math(
    judge: RuleJudge, answer: str, gold: str, right: bool | None, kind: AnswerType
) -> None:
    assert judge.judge(answer, gold, kind).right is right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        # exact numbers
        ("5.0", "5", True), ("5.001", "5", False), ("+5", "5", True), ("5.", "5", True), ("2+3", "5", True),
        ("-2 1/2", "-2.5", True), (r"2\frac{1}{2}", "5/2", True), ("2½", "2.5", True), (r"\frac12", "0.5", True),
        ("6.02e23", r"6.02 \times 10^{23}", True), ("1.0e-3", "0.001", True), ("10^3", "1000", True),
        ("1,234", "1234", True), ("1 234", "1234", True), ("1{,}234", "1234", True), ("５", "5", True),
        # decimals: the answer may be more precise than the gold, and not less
        ("9.223", "9.22", True), ("9.22", "9.2", False), ("9.2", "9.22", False), ("9.226", "9.22", False),
        ("0.333", "1/3", True), ("0.33", "1/3", False), ("1/3", "0.333", True), ("0.334", "1/3", False),
        ("0.30000000000000004", "0.3", True), ("1.414", r"\sqrt{2}", True), ("1.4", r"\sqrt{2}", False),
        # a sign after a lead
        ("> 5 cm", "5 cm", False), ("The answer is > 5 cm", "5 cm", False), ("The answer is -5 cm", "5 cm", False),
        ("Clearly 5 cm", "5 cm", True), ("=> 5 cm", "5 cm", True),
        # percent
        ("5%", "0.05", True), ("50", "50%", True), ("0.5", "50%", True), ("0.5%", "50%", False),
        ("66.7%", "2/3", True), (".5%", "1/2", False), ("0.5", "0.5%", True),
        (r"5\%", "5", True), ("50%", "5", False),
        # units
        (r"5\mu m", "5 μm", True), (r"5\,\mu m", "0.000005 m", True), (r"3\,k\Omega", "3000 ohms", True),
        ("1 hour", "60 minutes", True), ("36 km/h", "10 m/s", True), ("32°F", "0°C", True), ("1 kg", "1000 g", True),
        ("1 square meter", "10000 cm²", True), ("5 inches", "5 in", True), ("5 apples", "5", True),
        ("5 apples", "5 pears", False), ("5 s", "5 m", False), ("50 cents", "$0.5", True), ("$5", "5 dollars", True),
        (r"14 \text{ cm}^2", "14 cm^2", True), (r"500\pi \text{ cm}", r"5\pi m", True),
        (r"5\pi m", r"5\pi cm", False),
        (r"25\pi", r"25\pi \text{ cm}^2", True),
        # words
        ("three", "3", True), ("twenty-one", "21", True), ("one hundred and five", "105", True),
        ("two three", "5", False),
        ("two and a half", "2.5", True), ("three quarters", "0.75", True), ("a dozen", "12", True),
        ("an", "1", False),
        # sentences
        ("There are 5 red blocks.", "5", True), ("There are not 5 blocks", "5", False), ("less than 5", "5", False),
        ("The answer is 5.", "5", True), ("x = 5", "5", True), ("AB = 5 cm", "5", True), ("about 5", "5", True),
        ("5 or more", "5", False), ("at least 5", "5", False), ("5x", "5", False), (r"\frac{x}{2} = 5", "5", False),
    ],
)  # fmt: skip
def test_numeric_policy(judge: RuleJudge, answer: str, gold: str, right: bool) -> None:
    assert judge.judge(answered(answer), gold, "numeric").right is right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("(2,1)", "(1,2)", False), ("2,1", "1,2", True), ("{2,1}", r"\{1,2\}", True), ("2 and 1", "1,2", True),
        ("x=2 or x=3", "2,3", True), ("x=2, y=3", "(2,3)", True), ("x=1, y=2", "x=2, y=1", False),
        ("4 or 4", "4", True), ("3, 3, 4", "3, 4", False), (r"\{3,3,4\}", "3, 4", True), ("4×6×16", "4×8×12", False),
        ("12×8×4", "4×8×12", True), ("3 to 2", "3:2", True), ("2:3", "3 to 2", False), ("10^6×2", r"2\times10^6", True),
        (r"\pm 2", "-2, 2", True), ("+/-2", "±2", True), (r"2\pm\sqrt{3}", r"2+\sqrt3, 2-\sqrt3", True),
        ("1", "1,2", False),
        ("x>1", r"(1,\infty)", True), (r"x\ge1", r"(1,\infty)", False), ("[1,2)", r"1\le x<2", True),
        ("[1,2]", "(1,2)", False),
        ("y>1", "x>1", False), ("55,104", "{104, 55}", True),
        ("55,104", "55104", True), ("(-∞, 1)∪(2, ∞)", r"(-\infty,1)\cup(2,\infty)", True),
        (r"(\sqrt2,1)", r"(\sqrt{3},1)", False), (r"(\sqrt2,1)", r"(\sqrt{2},1)", True), ("(2,1)", "(3,1)", False),
        (r"\boxed{3}, \boxed{4}", "3,4", True), (r"\boxed{3} or \boxed{4}", "4", False),
        (r"\boxed{4} and \boxed{4}", "4", True),
    ],
)  # fmt: skip
def test_several_values(judge: RuleJudge, answer: str, gold: str, right: bool) -> None:
    assert judge.judge(answered(answer), gold, "math").right is right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("x(x+3)", "x^2+3x", True), ("x^2+3x+1", "x^2+3x", False), (r"\sqrt{18}", r"3\sqrt{2}", True),
        ("5", "x=5", True),
        ("y=5", "x=5", False), (r"0.1\pi", r"\pi/10", True), ("0.1x", "x/10", True), ("0.333x", "x/3", False),
        ("pi/2", r"\frac{\pi}{2}", True), ("√2", r"\sqrt{2}", True), ("sqrt(2)/2", r"\frac{\sqrt{2}}{2}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
        ("y=1+2x", "y=2x+1", True),
        (r"\log_2 8", "3", True), ("3!", "6", True), ("x+1=3", "x=2", True), (r"\sin(x)", r"\sin x", True),
        (r"\sin x = 3", "3", False), (r"\ln x = 3", "3", False), ("sin A = 0.6", "0.6", True), ("f(2) = 3", "3", True),
        ("5 mod 11", r"5 \pmod{11}", True), (r"5 \pmod{11}", "5", False), ("6 mod 11", r"5 \pmod{11}", False),
    ],
)  # fmt: skip
def test_mathematics(judge: RuleJudge, answer: str, gold: str, right: bool) -> None:
    assert judge.judge(answered(answer), gold, "math").right is right


@pytest.mark.parametrize("kind", ["numeric", "math"])
@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("5", "5 N", True), ("300 K", "300", True), ("298.15 K", "25 °C", True), ("2000 mA", "2 A", True),
        ("12 newtons", "12 N", True), ("5000 N", "5 kN", True), ("20", "20 N/m", True), ("1 kg m/s^2", "1 N", True),
        ("5000 Ω", "5 kΩ", True), ("5", "5 kΩ", True), ("three tenths", "3/10", True), ("one eighth", "1/8", True),
        ("3 quarters", "3/4", True), ("1 half", "1/2", True), ("10²³", "10^23", True), ("10²³", "10^{23}", True),
        ("3×10⁸", "3×10^8", True), ("300000000", "3×10⁸", True), ("0.001", "10⁻³", True),
        ("0.0025", "2.5×10⁻³", True), ("10", r"10 \Omega", True), (r"10 \Omega", "10", True),
        (r"5 \Omega", "5 Ω", True), ("5 μm", r"5 \mu m", True), ("25 degrees Celsius", "25 °C", True),
        ("60 kmh", "60 km/h", True), ("3.5 h", "3 h 30 min", True), ("3 h 30 min", "3.5 h", True),
        ("1 hour 30 minutes", "1.5 hours", True), ("1 hour and 30 minutes", "90 minutes", True),
        ("5 pounds", "£5", True), ("5", "US$5", True), ("US$5", "5", True), ("US$5", "$5", True),
        ("500", "₹500", True), ("₹500", "500", True), ("minus five", "-5", True), ("negative 5", "-5", True),
        ("negative five", "-5", True), ("three point five", "3.5", True), ("8 (eight)", "8", True),
        ("5 (five) blocks", "5", True), ("five (5) blocks", "5", True), ("So, x = 5.", "5", True),
        ("So, x = 5.", "x=5", True), ("Therefore 5", "5", True), ("Therefore, 5.", "5", True), ("3+9=12", "12", True),
        ("3 × 4 = 12", "12", True), ("5 km", "5", True), ("5km", "5", True), ("5 red blocks", "5", True),
        ("5 square meters", "5", True), ("5 in", "5", True), ("5 seconds", "5", True), ("5 tanks", "5", True),
        ("12 pm", "12 PM", True), (r"$25^\circ\text{C}$", "25 °C", True), (r"$5\,\mathrm{m/s^2}$", "5", True),
        ("9.8", "9.8 m/s²", True), ("6", "6xy", False), ("6", "6ab", False), ("2", "2xy^2", False),
        ("4", "4pq", False), ("2xy", "2", False), ("2 sinx", "2", False), ("2 theta", "2", False),
        ("2 xy", "2", False), ("3 tenths", "3", False), ("one eighth", "1", False), ("1 third", "1", False),
        ("1 quarter", "1", False), ("5 thirds", "5", False), ("5 factorial", "5", False),
        ("5 remainder 2", "5", False), ("5 fewer", "5", False), ("5 below", "5", False), ("9 C 2", "9", False),
        ("9C2", "9", False), ("10 choose 2", "10", False), ("3+9=13", "13", False), ("minus 5", "5", False),
        ("-5", "5", False), ("2 m 5", "25", False), ("5 (6)", "5", False), ("twenty fifth", "30", False),
        ("2 h 30 km", "2.5", False), ("2 s", "2 m", False),
    ],
)  # fmt: skip
def test_units_and_words(judge: RuleJudge, answer: str, gold: str, right: bool, kind: AnswerType) -> None:
    assert judge.judge(answered(answer), gold, kind).right is right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("6yx", "6xy", True), ("4qp", "4pq", True), ("5nm", "5mn", True), ("5mn", "5nm", True), ("x^4", "x⁴", True),
        ("x*x*x*x", "x⁴", True), ("(-1,3]", "-1<x and x<=3", True), ("-1<x and x<=3", "(-1,3]", True),
        ("(-∞,2)∪(3,∞)", "x<2 or x>3", True), ("x<2 or x>3", "(-∞,2)∪(3,∞)", True),
        ("x>3 or x<2", "(-∞,2)∪(3,∞)", True), (r"(-\infty,2) \cup (3, \infty)", "(-∞,2)∪(3,∞)", True),
        ("x<2 or x>3", r"(-∞,2)∪(\sqrt{9},∞)", True), ("1000, 2000", "1,000, 2,000", True),
        ("1,000, 2,000", "1000, 2000", True), ("1,000 and 2,000", "1000, 2000", True), ("H2O", "H₂O", True),
        ("H₂O", "H2O", True), ("x₁", "x_1", True), ("H₂O", "H_2O", True), ("(0,2)∪[2,5)", "(0,5)", True),
        ("x<2 or x>4", "(-∞,2)∪(3,∞)", False), ("x<2", "(-∞,2)∪(3,∞)", False), ("x<=2 or x>3", "(-∞,2)∪(3,∞)", False),
        ("1,000, 2,000", "1000", False), ("-1<x or x<=3", "(-1,3]", False), ("-1<x and x<3", "(-1,3]", False),
        ("1, 0, 2, 0", "1,000, 2,000", False), ("6x", "6xy", False), ("5", "5mn", False),
    ],
)  # fmt: skip
def test_products_unions_and_indices(judge: RuleJudge, answer: str, gold: str, right: bool) -> None:
    assert judge.judge(answered(answer), gold, "math").right is right


@pytest.mark.parametrize("dressed", [str, answered], ids=["bare", "in tags"])
@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        (r"\boxed{5} cm", "5 m", False), (r"\boxed{500} cm", "5 m", True), (r"-\boxed{5}", "5", False),
        (r"-\boxed{5}", "-5", True), (r"$-\boxed{5}$", "-5", True), (r"$x = -\boxed{5}$", "-5", True),
        (r"so $x=- \boxed{5}$ m", "-5", True), (r"- \boxed{5}", "5", True),
        (r"$x=\boxed{3}, y=\boxed{4}$", "4", False), (r"\boxed{3} / \boxed{4}", "4", False),
        (r"\frac{\boxed{3}}{\boxed{4}}", "4", False), (r"\frac{\boxed{3}}{\boxed{4}}", "3/4", True),
        (r"x = 2\boxed{7}", "7", False), (r"x = 2\boxed{7}", "14", True), (r"2: \boxed{7}", "7", True),
        (r"\boxed{3} / \boxed{4}", "3/4", True), (r"\boxed{3} & \boxed{4}", "3,4", True),
        (r"$x=\boxed{3}, y=\boxed{4}$", "x=3, y=4", True), (r"$\boxed{5}\text{ cm}$", "5 m", False),
        (r"\(\boxed{500}\,\mathrm{cm}\).", "5 m", True), (r"\boxed{50}\%", "0.5", True),
        (r"\boxed{50}%", "0.5", True), (r"\boxed{5} blocks", "5", True), (r"\boxed{5} in the picture", "5 cm", True),
        (r"\boxed{60}^\circ", "60", True), (r"\$\boxed{5}", "$5", True), (r"\boxed{5}.", "5", True),
        (r"The answer is $\boxed{5}$ meters long.", "5 m", True), (r"\boxed{5 \text{ m}} cm", "5 m", True),
    ],
)  # fmt: skip
def test_what_stands_next_to_a_box(judge: RuleJudge, answer: str, gold: str, right: bool, dressed: type[str]) -> None:
    assert judge.judge(dressed(answer), gold, "math").right is right


@pytest.mark.parametrize(
    ("answer", "gold", "choices", "right"),
    [
        ("(B)", "B", (), True), ("b", "B", (), True), ("Option B", "B", (), True), ("B. 60", "B", (), True),
        ("The answer is B", "B", (), True), (r"\text{(C)}", "C", (), True), ("A fish", "A", (), False),
        ("A, B", "A", (), False), ("A/B", "A", (), False), ("A and C", "AC", (), True), ("A", "AC", (), False),
        ("60", "B", ("30°", "60°"), True), ("(A) 60°", "A", ("30°", "60°"), False),
        ("(A,b)", "A", COLOURS, False), ("0.5", "A", ("1/2", "2"), True),
        ("C", "A", ("30°", "60°"), False), ("B", "60°", ("30°", "60°"), True), ("big", "B", COLOURS, True),
        ("bigger", "B", COLOURS, False), ("red", "D", (), False), ("2", "2", ("1", "2", "3"), True),
        ("B", "2", ("1", "2", "3"), True), ("red", "D", ("(A) small", "(B) big", "(C) blue", "(D) red"), True),
        ("B", "green", COLOURS, None), ("B", "E", COLOURS, None), ("A", "A", ("B", "A"), None),
        # a letter and its content, however they are put together
        ("B (blue)", "B", THREE, True), ("**B** blue", "B", THREE, True), ("b) blue", "B", THREE, True),
        ("b. blue", "B", THREE, True), ("**B. blue**", "B", THREE, True), ("B is blue", "B", THREE, True),
        ("B (blue)", "B", (), True), ("**B** blue", "B", (), True), ("B。", "B", (), True),
        ("A (blue)", "B", THREE, False), ("**A** blue", "B", THREE, False), ("a) blue", "B", THREE, False),
        ("A is blue", "B", THREE, False), ("**A** or **B**", "B", THREE, False),
        # a statement
        ("It is blue", "B", THREE, True), ("The ball is blue", "B", THREE, True), ("the blue one", "B", THREE, True),
        ("It is red", "B", THREE, False), ("It is not blue", "B", THREE, False), ("the red one", "B", THREE, False),
        ("It is blue or red", "B", THREE, False),
        # formulas
        (r"2\sqrt{3}", "B", ("√3", "2√3", "3√2"), True), (r"$\frac{\sqrt{3}}{2}$", "C", ("√3", "2√3", "√3/2"), True),
        (r"\sqrt{3x}", "B", (r"√(3x)", r"√3x"), False), ("2π", "A", (r"2\pi", "3"), True),
    ],
)  # fmt: skip
def test_choices(judge: RuleJudge, answer: str, gold: str, choices: tuple[str, ...], right: bool | None) -> None:
    assert judge.judge(answered(answer), gold, "multiple_choice", choices).right is right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("Yes, it is.", "yes", True), ("Yes, no.", "yes", False), ("no", "yes", False),
        ("the red one", "red one", True),
        ("It is red", "red", True), ("It is not red", "red", False), ("red or blue", "red", False),
        ("3", "three", True), ("H2O", "H₂O", True),
        ("blue and red", "red and blue", True), ("New York", "new-york", True), ("", "red", False),
    ],
)  # fmt: skip
def test_words(judge: RuleJudge, answer: str, gold: str, right: bool) -> None:
    assert judge.judge(answered(answer), gold, "text").right is right


@pytest.mark.parametrize(
    ("gold", "kind", "rule"),
    [
        ("", "text", "empty gold"), ("  ", "math", "empty gold"), ("NaN", "numeric", "empty gold"),
        (r"\boxed{}", "math", "empty gold"), ("an apple", "numeric", "unparseable gold"),
        ("???", "math", "unparseable gold"),
        (r"\frac{", "math", "unparseable gold"), ("5", "open", "needs a judge model"),
        ("x" * 9999, "text", "too long"),
    ],
)  # fmt: skip
def test_a_gold_that_cannot_be_used_is_never_right(judge: RuleJudge, gold: str, kind: AnswerType, rule: str) -> None:
    for response in (answered("5"), answered(gold), gold, ""):
        judgement = judge.judge(response, gold, kind)
        assert (judgement.right, judgement.rule) == (None, rule)


def test_gold_in_a_box_or_tags(judge: RuleJudge) -> None:
    for gold in (r"\boxed{5}", "<answer>5</answer>", r"$\boxed{5}$", "$5$"):
        assert judge.judge(answered("5"), gold, "numeric").right is True
        assert judge.judge(answered("6"), gold, "numeric").right is False


def test_the_judgement_names_the_rule_and_the_answer(judge: RuleJudge) -> None:
    found = judge.judge(answered(r"\boxed{500 cm}"), "5 m", "numeric")
    assert (found.right, found.rule, found.answer) == (True, "unit", "500 cm")
    found = judge.judge(
        "I cannot see it.\n" + "So let me think about it once more, from the very beginning, and slowly", "5", "numeric"
    )
    assert (found.right, found.rule, found.answer) == (False, "no answer", None)


def test_awaited_and_blocking_judgements_agree(judge: RuleJudge) -> None:
    cases = [(answer, gold, kind) for answer, gold, kind, _ in KNOWN if answer != "red"]

    async def awaited() -> list[bool | None]:
        found = await asyncio.gather(*(judge.ajudge(answered(answer), gold, kind) for answer, gold, kind in cases))
        return [judgement.right for judgement in found]

    assert asyncio.run(awaited()) == [judge.judge(answered(answer), gold, kind).right for answer, gold, kind in cases]


def test_plain_rules_alone() -> None:
    assert same_answer("5", "5.0", "numeric") is True
    assert same_answer("5", "6", "numeric") is False
    assert same_answer("x^2", "x*x", "math") is None


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("10^{10^{10}}", "10^{10^{10}}", True), ("10^{10^{9}}", "10^{10^{10}}", False),
        ("10^{100}", "10^{10^{10}}", False),
        ("2^{3^{4^{5}}}", "2^{3^{4^{6}}}", False), ("5", "10^{10^{10}}", False), ("10^{10^{10}}", "5", False),
    ],
)  # fmt: skip
def test_towers_are_compared_by_size(judge: RuleJudge, answer: str, gold: str, right: bool) -> None:
    assert judge.judge(answered(answer), gold, "math").right is right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("答：12", "12", True), ("长度为5厘米", "5 cm", True), ("面积是 $9\\pi$", r"9\pi", True),
        ("长度不是5厘米", "5 cm", False),
        ("大于5", "5", False), ("无解", "no solution", True), ("x=3或x=4", "3, 4", True), ("12厘米", "12 m", False),
        ("30分钟", "0.5 h", True), ("23个", "23", True), ("解得 x=3", "x=3", True),
    ],
)  # fmt: skip
def test_chinese(judge: RuleJudge, answer: str, gold: str, right: bool) -> None:
    assert judge.judge(answered(answer), gold, "math").right is right


@pytest.mark.parametrize(
    ("answer", "gold", "policy", "right"),
    [
        ("1.24", "1.2", Policy(precision=1), True), ("1.26", "1.2", Policy(precision=1), False),
        ("1.24", "1.2", Policy(), False), ("1", "1.2", Policy(precision=1), False),
        (r"\frac{5}{4}", "1.25", Policy(precision=2), True), ("5.3", "5", Policy(precision=0), True),
        ("-1.24", "1.2", Policy(precision=1), False), ("1.2", "1.24", Policy(precision=2), False),
        ("920 cents", "9.2", Policy(precision=1, unit="$"), True), ("9.2", "9.2", Policy(unit="$"), True),
        ("9.2 m", "9.2", Policy(unit="cm"), False), ("0.092 m", "9.2", Policy(unit="cm"), True),
        ("104", "100", Policy(tolerance=0.05), True), ("106", "100", Policy(tolerance=0.05), False),
        ("-100", "100", Policy(tolerance=0.05), False), ("100.001", "100", Policy(), False),
    ],
)  # fmt: skip
def test_policy_of_a_source(judge: RuleJudge, answer: str, gold: str, policy: Policy, right: bool) -> None:
    assert judge.judge(answered(answer), gold, "numeric", policy=policy).right is right


# Choices that stand in the question


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("Which? (A) x (B) y", ("x", "y")), ("Which?\nA. red\nB. blue\nC. no", ("red", "blue", "no")),
        ("Which?\n(A)x\n(B)y\nTake one.", ("x", "y")), ("Which? A) 1.5 B) -2", ("1.5", "-2")),
        ("Which?", ()), ("Vitamin C. or D. is best", ()), ("Look at (A) and so on", ()), ("(B) y (A) x", ()),
    ],
)  # fmt: skip
def test_listed_choices(question: str, choices: tuple[str, ...]) -> None:
    assert listed_choices(question) == choices


@pytest.mark.parametrize(
    ("question", "gold", "choices"),
    [
        ("Which? (A) x (B) y", "B", ("x", "y")), ("Which? (A) x (B) y", "(B)", ("x", "y")),
        ("Which? (A) x (B) y", "y", ()), ("Which? (A) x (B) y", "C", ()), ("Which one is it?", "B", ()),
        ("Which? A.      x B.      y", "B", ()),  # too far apart to be sure that the policy sees them
    ],
)  # fmt: skip
def test_a_problem_knows_the_choices_that_its_question_lists(
    tmp_path: Path, judge: RuleJudge, question: str, gold: str, choices: tuple[str, ...]
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps({"id": "a", "question": question, "answer": gold, "answer_type": "multiple_choice"}))
    (found,) = read_problems(str(file))
    assert isinstance(found, Incoming)
    problem = found.problem
    assert problem.choices == choices
    assert [message.content for message in chat(problem, None)] == [question]
    if choices:
        assert judge.judge(answered("y"), problem.answer, problem.answer_type, problem.choices).right is True


# The final answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (answered(r"\boxed{5}"), "5"), (answered("The answer is 5."), "5"),
        (answered(r"so $\boxed{\frac{1}{2}}$ cm"), r"\frac{1}{2} cm"),
        (r"<think>It is \boxed{3}.</think><answer>5</answer>", "5"),
        (r"<think>It is \boxed{3}.</think>" + "\nAnswer: 5", "5"),
        (r"2 + 3 = 5. Answer: \boxed{5}", "5"), (r"\boxed{3} no, \boxed{4}", "4"), ("\\boxed{3}\n\\boxed{4}", "4"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"), (r"\boxed{\boxed{5}}", "5"), (r"\boxed{5", r"\boxed{5"),
        (r"\boxed{}", r"\boxed{}"),
        ("2 + 3 = 5.\nThe answer is 5. I am sure of it, because I counted everything twice and then once more.", "5"),
        ("red", "red"), ("so I add.\n**C**", "**C**"), ("<think>a</think> <answer>5", "5"),
        ("<answer>5</answer><think>a</think>", "5"),
        ("<think>a <answer>b c</think>\n5</answer>", "5"), ("Final answer: B", "B"), ("**Answer:** 5", "5"),
        ("", None),
        ("I looked at all of it and there was nothing at all to be seen there, which is why I stop", None),
    ],
)  # fmt: skip
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_final_answer_in_other_formats() -> None:
    label = ResponseFormat(name="l", thought=Part(), answer=Part(open="Final answer:"), labels=(), instruction="x")
    assert final_answer("2 + 3 = 5.\nFinal answer: 5", label) == "5"
    assert final_answer("Final answer: 5\nFinal answer: 6", label) == "6"
    keys = ResponseFormat(
        name="j", layout="json", thought=Part(open="why"), answer=Part(open="answer"), instruction="x"
    )
    assert final_answer(keys.render("because", r"\boxed{5}"), keys) == "5"
    assert final_answer('{"why": "because", "answer": 5}', keys) == "5"
    assert final_answer('```json\n{"why": "because", "answer": "\\\\frac{1}{2}"}\n```', keys) == r"\frac{1}{2}"


thoughts = st.lists(
    st.sampled_from(["There are 3.", "So we add.", "2 + 3 = 5", "Then it is red.", "x", "so"]), min_size=2
)
answers = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.sampled_from(["A", "red", r"\frac{1}{2}", r"\{1,2\}", "x^2", "1, 2", "500 cm", "-0.5"]),
)


@settings(max_examples=60, deadline=None)
@given(thought=thoughts, answer=answers, seed=st.integers(0, 10**6))
def test_no_operator_loses_a_boxed_answer(thought: list[str], answer: str, seed: int) -> None:
    text = THINK_ANSWER.render(" ".join(thought), rf"\boxed{{{answer}}}")
    for corruption in find_corruptions().values():
        corrupted = corruption.apply(text, THINK_ANSWER, Random(seed))
        if corrupted is not None:
            assert final_answer(corrupted) == answer


@pytest.mark.parametrize("answer", ["There are 5 blocks.", "5.", "It is red.", r"\boxed{5} cm."])
def test_an_answer_that_ends_in_a_full_stop_is_not_lost(answer: str) -> None:
    text = THINK_ANSWER.render("2 + 3 = 5.", answer)
    operators = {"replace_answer_tags": find_corruptions()["replace_answer_tags"]}
    found = [make_twin(text, final_answer(text), THINK_ANSWER, operators, {}, str(seed)) for seed in range(8)]
    assert all(twin.rejected for twin in found), [twin.refused for twin in found]
    other = make_twin(text, "6", THINK_ANSWER, operators, {}, "0")
    assert other.rejected is None and other.refused == (("replace_answer_tags", "answer lost"),)


# Properties


@settings(max_examples=300, deadline=None)
@given(number=st.fractions(), other=st.fractions())
def test_fractions_are_compared_exactly(number: object, other: object) -> None:
    assert same_answer(str(number), str(number), "numeric") is True
    assert same_answer(str(number), str(other), "numeric") is (number == other)


@settings(max_examples=300, deadline=None)
@given(number=st.integers(-(10**12), 10**12))
def test_integers_however_they_are_written(number: int) -> None:
    for written in (
        f"{number:,}",
        f"{number}.0",
        f"{number}e0",
        f"${number}$",
        f"{number} blocks",
        rf"\text{{{number}}}",
        f" {number}. ",
    ):
        assert same_answer(str(number), written, "numeric") is True
        assert same_answer(str(number + 1), written, "numeric") is False


# Hostile text

PIECES = [
    "{", "}", "{" * 50, "}" * 50, r"\boxed{", r"\frac{", "^{", "10^{10^{10}}", "9" * 60, "1e999999", "1/0", "0.0000",
    "!", "\\",
    "\\\\", "$", "<answer>", "</answer>", "<think>", "Answer:", "the answer is ", "\x00", "\x1b[31m", "\u202e",
    "\u200f", "\ud800",
    "é", "∞", "±", "−", "½", "%", " cm", " or ", " and ", ",", ";", "(", ")", "[", "]", "<", ">", "=", "x", "A",
    "B)", "5", "-",
    "+", "*", "/", r"\sqrt{", r"\int", r"\sum_{n=1}^{99}", r"\pm", " ", "\n", "\t", "three", "million",
    "__import__('os')", "%s",
    "{{", "|", "&", r"\begin{matrix}", "🙂", "'", '"', "`", "**", "5 m", "not", "is", "'''", "2 1/2", "0x10", "nan",
    "inf",
]  # fmt: skip
KINDS: tuple[AnswerType, ...] = ("multiple_choice", "numeric", "text")


def hostile(random: Random) -> str:
    text = "".join(random.choices(PIECES, k=random.randint(1, 25)))
    return text * random.choice((1, 1, 1, 1, 3, 40))


def test_ten_thousand_hostile_strings(judge: RuleJudge) -> None:
    random = Random(0)
    slowest = 0.0
    for number in range(10_000):
        answer = hostile(random)
        response = random.choice((answer, answered(answer), answered(rf"\boxed{{{answer}}}")))
        gold = random.choice(("5", "A", "red", "2.5 m", hostile(random)))
        started = time.process_time()
        found = judge.judge(response, gold, KINDS[number % 3], random.choice(((), COLOURS)))
        slowest = max(slowest, time.process_time() - started)
        assert found.right in (True, False, None)
    assert slowest < 1.0


@pytest.mark.slow
def test_ten_thousand_hostile_strings_as_math(judge: RuleJudge) -> None:
    random = Random(1)
    for _ in range(10_000):
        answer, gold = hostile(random), random.choice((hostile(random), "x+1", r"\sqrt{2}"))
        started = time.perf_counter()
        assert judge.judge(answered(answer), gold, "math").right in (True, False, None)
        assert time.perf_counter() - started < 5.0  # on the clock, of a busy machine


@pytest.mark.parametrize(
    "text",
    [
        "5" * 10**6, "{" * 10**6, r"\boxed{" * 10**5, r"\boxed{5}" * 10**5, "Answer: " * 10**5, "<answer>" * 10**5,
        " " * 10**6,
        "(" * 10**6, "a b " * 250_000, "1," * 500_000, "\x00" * 10**6, r"\text{" * 10**5, "the answer is " * 10**5,
        "\n" * 10**6,
        "1 1/" * 10**5, "1 h " * 10**5, r"\sqrt{" * 10**5, "x<1 or " * 10**5, r"-\boxed{1} cm, " * 10**5,
        "a" + " " * 10**6 + "x", "$" * 10**6, "-" * 10**6, "A or " * 10**5,
    ],
    ids=lambda text: text[:8].strip() or "blank",
)  # fmt: skip
def test_a_megabyte_takes_no_second(judge: RuleJudge, text: str) -> None:
    for response, kind in ((text, "numeric"), (answered(rf"\boxed{{{text}}}"), "math"), (text + answered("5"), "text")):
        started = time.process_time()
        judge.judge(response, "5", kind)
        assert time.process_time() - started < 1.0


@settings(max_examples=300, deadline=None)
@given(response=st.text(), gold=st.text(), kind=st.sampled_from(KINDS), choices=st.lists(st.text(), max_size=30))
def test_any_text_is_judged(judge: RuleJudge, response: str, gold: str, kind: AnswerType, choices: list[str]) -> None:
    assert judge.judge(response, gold, kind, choices).right in (True, False, None)


# Time limits and processes

ENDLESS = r"x^{99}+y^{98}>\sin(x y)"


def test_an_answer_that_takes_too_long_is_no_verdict_and_harms_no_other(judge: RuleJudge) -> None:
    found = judge.judge(answered(ENDLESS), r"x^{97}+y^{96}>\cos(x y)", "math")
    assert (found.right, found.rule) == (None, "out of time")
    assert judge.judge(answered("x(x+3)"), "x^2+3x", "math").right is True
    assert judge.judge(answered("10^{10^{10}}"), "x", "math").rule == "too large"


def test_a_worker_that_was_killed_is_replaced() -> None:
    with RuleJudge(workers=1) as judge:
        assert judge.judge(answered("x(x+3)"), "x^2+3x", "math").right is True
        for child in psutil.Process().children(recursive=True):
            child.kill()
        assert judge.judge(answered("x(x+4)"), "x^2+4x", "math").right is True


def test_closing_ends_the_workers_and_a_closed_judge_starts_new_ones() -> None:
    before = set(psutil.Process().children(recursive=True))
    judge = RuleJudge(workers=2)
    assert not set(psutil.Process().children(recursive=True)) - before  # none until one is needed
    assert judge.judge(answered("x(x+3)"), "x^2+3x", "math").right is True
    assert set(psutil.Process().children(recursive=True)) - before
    judge.close()
    assert not set(psutil.Process().children(recursive=True)) - before


@pytest.mark.parametrize("answer", ["x(x+3)", ENDLESS], ids=["idle", "at work"])
def test_kill_9_leaves_no_process_behind(answer: str) -> None:
    script = (
        "import sys\nfrom specs_data.judges.rules import RuleJudge\njudge = RuleJudge(workers=1)\n"
        "judge.judge('<answer>x+x</answer>', '2x', 'math')\nprint('ready', flush=True)\n"
        "while True: judge.judge(f'<think>a</think><answer>{sys.argv[1]}</answer>', r'x^{97}+y>\\cos(x y)', 'math')\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, answer], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert workers
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_a_script_without_a_main_guard_can_judge(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from specs_data.judges.rules import RuleJudge\n"
        "with RuleJudge() as judge:\n    print(judge.judge('<answer>x(x+3)</answer>', 'x^2+3x', 'math').right)\n"
    )
    (tmp_path / "math_verify.py").write_text("raise RuntimeError('the wrong module')\n")
    done = subprocess.run(
        [sys.executable, script], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_judging_plain_answers_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom specs_data.judges.rules import RuleJudge\njudge = RuleJudge()\n"
        "assert judge.judge('<answer>5 cm</answer>', '5', 'numeric').right\n"
        "print(sorted({'sympy', 'math_verify', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


# Files


def judged(file: Path) -> list[dict[str, object]]:
    out = io.BytesIO()
    judge_file(file, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_judge_file(tmp_path: Path) -> None:
    file = tmp_path / "responses.jsonl"
    rows: list[object] = [
        {"response": answered("500 cm"), "gold": "5 m", "type": "numeric", "id": "a"},
        {"response": "red", "gold": "D", "type": "multiple_choice", "choices": COLOURS},
        {"response": "5", "gold": 5, "type": "numeric"},
        {"response": answered("x(x+3)"), "gold": "x^2+3x", "type": "math"},
        {"response": "5", "gold": None, "type": "numeric"},
        {"response": 5, "gold": "5", "type": "numeric"},
        {"response": "5", "gold": "5", "type": "poem"},
        {"response": "5", "gold": "5", "type": "numeric", "choices": "abc"},
        ["no row"],
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{torn")
    found = judged(file)
    assert [row["row"] for row in found] == list(range(10))
    assert [row["right"] for row in found] == [True, True, True, True, None, None, None, None, None, None]
    assert (found[0]["id"], found[0]["rule"], found[0]["answer"]) == ("a", "unit", "500 cm")
    assert (found[0]["gold_read"], found[0]["answer_read"]) == ("5 m", "500 cm")
    assert found[4]["rule"] == "empty gold"
    assert all(str(row["rule"]).startswith("bad row: ") for row in found[5:])


def test_judge_file_uses_the_policy_of_a_row(tmp_path: Path) -> None:
    file = tmp_path / "responses.jsonl"
    row = {"response": "1.24", "gold": "1.2", "type": "numeric"}
    rows = [row, row | {"precision": 1}, row | {"precision": 1.0, "unit": None}, row | {"precision": "many"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = judged(file)
    assert [row["right"] for row in found] == [False, True, True, None]
    assert str(found[3]["rule"]).startswith("bad row: ")


def test_a_bad_first_row_gets_its_line_and_the_others_theirs(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"response": "5"}\n{"response": "\\\\boxed{5}", "gold": "5", "type": "numeric"}\n')
    tally = judge_file(file, io.BytesIO())
    assert (tally.right, tally.wrong, tally.unjudged) == (1, 0, 1)


def test_judge_file_reads_parquet_and_counts(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "responses.parquet"
    count = 600
    table = {
        "response": [answered(str(n % 3)) for n in range(count)],
        "gold": ["1"] * count,
        "type": ["numeric"] * count,
    }
    pq.write_table(pa.table(table), file)
    tally = judge_file(file, io.BytesIO())
    assert (tally.right, tally.wrong, tally.unjudged) == (200, 400, 0)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.jsonl", '{"response": "5", "type": "numeric"}', "has no column 'gold'"),
    ("a.csv", "", "should be a .jsonl or .parquet file"),
    ("a.parquet", "no parquet", "not a readable Parquet file"),
])  # fmt: skip
def test_a_file_of_another_kind_is_said(tmp_path: Path, name: str, content: str, said: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        judge_file(file, io.BytesIO())
