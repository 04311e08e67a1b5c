"""Agreement and time per answer of the rule judge, of math-verify alone and of a peer's grader, in one run.

    python benchmarks/judge.py [--answers 2000] [--math 300] [--cases tests/cases/judge.jsonl ...]

First the cases, real golds whose verdicts are known: how often each agrees, how many wrong answers it calls
right, and how many right ones it does not see. math-verify gets the whole response, mathruler (where it is
installed: `pip install --no-deps mathruler pylatexenc`) its box or its answer part, as their READMEs show. Then
the time.

No pair of gold and answer occurs twice, so nothing is remembered. For the time math-verify is called as its
README shows, gold parsed anew for each answer, in this process and without its own timeouts (which
would only slow it); it gets the boxed answer alone, the rule judge the whole response.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from math_verify import parse, verify

from specs_data.judges.rules import RuleJudge, final_answer
from specs_data.records import AnswerType, Judgement

T = TypeVar("T")
Case = tuple[str, str, tuple[str, ...], bool]  # answer, gold, choices, right
FILES = ("judge", "answers", "unseen")
FOLDER = Path(__file__).parent.parent / "tests" / "cases"
RESPONSE = "<think>There are 2 red and 3 blue shapes, so I add them. 2 + 3 = 5.</think>\n<answer>\\boxed{%s}</answer>"


def numeric(number: int, random: Random) -> Case:
    """A number in one of the ways people write it; one in three is wrong."""
    gold = 1000 + number
    answer = gold if random.random() < 0.67 else gold + random.randint(1, 9)
    written = random.choice((str, "{:,}".format, "{}.0".format, "{} cm".format, "{} apples".format, _halves, _power))
    return written(answer), str(gold), (), answer == gold


def choice(number: int, random: Random) -> Case:
    """A letter or the content of a choice; one in two is wrong."""
    choices = tuple(str(number + more) for more in range(4))
    answer, gold = random.choice("ABCD"), random.choice("ABCD")
    content = choices["ABCD".index(answer)]
    return random.choice((answer, f"({answer})", f"({answer}) {content}", content)), gold, choices, answer == gold


def math(number: int, random: Random) -> Case:
    """An expression, and the same one in other words or a wrong one."""
    a, b, c = number + 2, random.randint(2, 60), random.randint(2, 60)
    golds = (
        (rf"x^2+{a + b}x+{a * b}", f"(x+{a})(x+{b})", f"(x+{a})(x-{b})"),
        (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"\sqrt{{{a * a * b + 1}}}"),
        (rf"\frac{{{a}}}{{x+{b}}}", rf"\frac{{{a * c}}}{{{c}x+{b * c}}}", rf"\frac{{{a * c}}}{{{c}x+{b}}}"),
        (rf"y={a}x+{b}", rf"y-{b}={a}x", rf"y={a}x-{b}"),
        (rf"\frac{{{a}\pi}}{{{b}}}", rf"\frac{{{a * c}}}{{{b * c}}}\pi", rf"\frac{{{a * c + 1}}}{{{b * c}}}\pi"),
        (rf"({a},{b}]", rf"{a}<x\le {b}", rf"{a}\le x<{b}"),
        (rf"\{{{a},-{b}\}}", rf"-{b},{a}", rf"{a},{b}"),
        (rf"{a}+{b}i", rf"{b}i+{a}", rf"{a}-{b}i"),
    )
    gold, same, other = golds[number % len(golds)]
    right = random.random() < 0.67
    return (same if right else other), gold, (), right


def by_math_verify(cases: Sequence[Case]) -> list[bool]:
    """math-verify on each."""
    found = []
    for answer, gold, choices, _ in cases:
        wanted_text = choices["ABCD".index(gold)] if choices and answer.isdigit() else gold
        wanted, given = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (wanted_text, answer))
        found.append(bool(verify(wanted, given, timeout_seconds=None)))
    return found


def by_rules(judge: RuleJudge, kind: AnswerType, cases: Sequence[Case]) -> list[Judgement]:
    """The rule judge on each, many in flight as in a build."""

    async def all_of_them() -> list[Judgement]:
        return await asyncio.gather(*(judge.ajudge(RESPONSE % case[0], case[1], kind, case[2]) for case in cases))

    return asyncio.run(all_of_them())


def one_by_one(judge: RuleJudge, kind: AnswerType, cases: Sequence[Case]) -> list[Judgement]:
    """The rule judge on each, one after another."""
    return [judge.judge(RESPONSE % answer, gold, kind, choices) for answer, gold, choices, _ in cases]


def agreement(file: Path, judge: RuleJudge) -> None:
    """Print a table: agreement, wrong answers called right, and right ones not seen, of each judge on the same rows."""
    rows = [row for line in file.read_text().splitlines() for row in _rows(json.loads(line))]
    judges: dict[str, Callable[[dict[str, Any]], bool]] = {
        "rules": lambda row: bool(judge.judge(row["response"], row["gold"], row["type"], row["choices"]).right),
        "math-verify": _math_verify,
    }
    with suppress(ImportError):
        from mathruler.grader import grade_answer

        judges["mathruler"] = lambda row: bool(grade_answer(final_answer(row["response"]) or "", row["gold"]))
    print(f"{file.name}, {len(rows)} cases\n{'':15} agreement  wrong called right  right not seen")
    for name, told in judges.items():
        found = [told(row) for row in rows]
        wrong = sum(right and not row["right"] for right, row in zip(found, rows, strict=True))
        missed = sum(row["right"] and not right for right, row in zip(found, rows, strict=True))
        print(f"{name:14}{100 - 100 * (wrong + missed) / len(rows):12.2f}%{wrong:20}{missed:16}")


def _rows(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases of a line: one, or for one gold several ways to say it and several wrong answers."""
    line = {"choices": []} | line
    if "response" in line:
        return [line]
    dressed = "{}" if line.get("bare") else "<think>I work it out.</think><answer>{}</answer>"
    answers = [(text, True) for text in line.get("right", ())] + [(text, False) for text in line.get("wrong", ())]
    return [line | {"response": dressed.format(text), "right": right} for text, right in answers]


def _math_verify(row: dict[str, Any]) -> bool:
    gold = parse(f"\\boxed{{{row['gold']}}}")
    return bool(verify(gold, parse(row["response"])))


def main() -> None:
    """Print what agrees, and one line per answer type: microseconds per answer and the ratio."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--answers", type=int, default=2000)
    arguments.add_argument("--math", type=int, default=300)
    arguments.add_argument("--cases", type=Path, nargs="*", default=[FOLDER / f"{name}.jsonl" for name in FILES])
    options = arguments.parse_args()
    logging.disable(logging.WARNING)
    random = Random(0)
    with RuleJudge() as judge:
        for file in options.cases:
            agreement(file, judge)
        for warm in (by_math_verify, partial(by_rules, judge, "math")):
            warm([math(1000 + number, random) for number in range(16)])
        print(f"{'':16}{'math-verify':>14}{'rules':>10}{'ratio':>8}   us per answer")
        makers: tuple[tuple[AnswerType, Callable[[int, Random], Case], int], ...] = (
            ("numeric", numeric, options.answers),
            ("multiple_choice", choice, options.answers),
            ("math", math, options.math),
        )
        for kind, make, count in makers:
            cases = [make(number, random) for number in range(2 * count)]
            theirs, verdicts = _timed(by_math_verify, cases[:count])
            many, found = _timed(partial(by_rules, judge, kind), cases[:count])
            single, _ = _timed(partial(one_by_one, judge, kind), cases[count:])
            correct = (_correct(verdicts, cases), _correct([judgement.right for judgement in found], cases))
            print(f"{kind:16}{theirs:14.1f}{many:10.1f}{theirs / many:8.1f}   many in flight")
            print(f"{'':16}{'':14}{single:10.1f}{theirs / single:8.1f}   one by one")
            print(f"{'':16}{correct[0]:13.1f}%{correct[1]:9.1f}%           verdicts that are correct")


def _halves(number: int) -> str:
    return rf"\frac{{{2 * number}}}{{2}}"


def _power(number: int) -> str:
    return rf"{number / 1000} \times 10^3"


def _timed(judge: Callable[[Sequence[Case]], Sequence[T]], cases: Sequence[Case]) -> tuple[float, Sequence[T]]:
    """Microseconds per case, and the verdicts."""
    started = time.perf_counter()
    verdicts = judge(cases)
    return (time.perf_counter() - started) / len(cases) * 1e6, verdicts


def _correct(verdicts: Sequence[bool | None], cases: Sequence[Case]) -> float:
    return 100 * sum(verdict is case[3] for verdict, case in zip(verdicts, cases, strict=False)) / len(verdicts)


if __name__ == "__main__":
    main()
