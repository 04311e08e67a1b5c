"""math-verify in processes of its own, each answer under a hard time limit.

A worker is a process that has loaded math-verify and forks a child that answers questions, one message
of JSON each. The child sets a timer before each question and the kernel ends it when the timer runs
out, whatever it computes; its parent then answers "out of time" in its place and forks the next one,
in milliseconds. A worker whose reader is gone ends by itself, also where that reader was killed.

(A process pool with pickled calls would import the user's script again in each worker, and would
load math-verify again, for a second, after each answer that took too long.)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import msgspec

from specs_data.judges.constants import Rewriting, rewritten
from specs_data.judges.numbers import Quantity, read_quantity, rounds_to, same_quantity
from specs_data.judges.values import Formula, is_structured, read_value, same_value

SECONDS = 0.5  # of processor time: a verdict must not depend on how busy the machine is
PATIENCE = 5.0  # seconds on the clock
LONGEST = 1_000
DEEPEST = 40
MOST_MEMORY = 4 * 2**30
QUESTIONS_PER_CHILD = 5_000
DIGITS = 50

_SPENT = 17
# None where the system has none: there no worker can be started, and that is said when one is needed.
_ALARMS = tuple(alarm for name in ("SIGPROF", "SIGALRM") if (alarm := getattr(signal, name, None)) is not None)
_PLAIN_MATH: Rewriting = (
    # An inverse is a function.
    ("", re.compile(r"(?<![A-Za-z\\])[a-z]\s*\^\s*\{?\s*-1\s*\}?\s*\(([a-z])\)(?=\s*=)"), r"h(\1)"),
    ("", re.compile(r"(?<![A-Za-z\\])(pi|infty|sqrt|alpha|beta|theta|sin|cos|tan|cot|ln|log)(?![A-Za-z])"), r"\\\1 "),
    ("", re.compile(r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])"), r"\\infty "),
    ("√", re.compile(r"√\s*(\d+|[A-Za-z]|(?=[({]))"), lambda found: "\\sqrt" + (f"{{{found[1]}}}" if found[1] else "")),
    ("", re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    ("", re.compile(r"(?:√|\\sqrt)\s*(\\frac\s*\{[^{}]*\}\s*\{[^{}]*\})"), r"\\sqrt{\1}"),
    ("**", re.compile(r"\*\*"), "^"),
    ("", re.compile(r"(\d+(?:\.\d+)?)\s*°"), r"(\1\\cdot\\frac{\\pi}{180})"),
    ("°", re.compile("°"), r"^\\circ"),
)
_MACROS = str.maketrans(
    {
        **{"≤": "\\le ", "≥": "\\ge ", "≠": "\\neq ", "∪": "\\cup ", "∈": "\\in ", "∅": "\\emptyset ", "±": "\\pm "},
        **{"π": "\\pi ", "μ": "\\mu ", "Ω": "\\Omega ", "∧": "\\wedge ", "%": "\\%"},
    }
)
_LOST_ROOT = re.compile(r"√|\\sqrt\s*(?:-|\\frac)")  # math-verify would read on without it
_OF_UNKNOWN = re.compile(r"(?:sin|cos|tan|cot|sec|csc|log|exp)\([a-z]\b")
_LETTER = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
# Powers of powers of numbers, and powers and factorials with many digits.
_LARGE = re.compile(r"\d[\s)}]*\^[\s({]*\d+[\s)}]*\^|\^[\s({]*-?\d{4,}|\d{4,}[\s)}]*!|!\s*\)*\s*!")
_WARMING = (
    ("3x-y+13=0", "3x+4y+14=0"),
    ("\\frac{x^2}{2}+\\sqrt{3}=\\pi", "\\sin x"),
    ("x(x+3)", "x^2+3x"),
    ("\\{1,\\sqrt{2}\\}", "\\sqrt[3]{2},1"),
    ("2\\pi", "6.28"),
)


class Question(msgspec.Struct, frozen=True):
    """Is `answer` the mathematical value of `gold`?"""

    gold: str
    answer: str


class Reply(msgspec.Struct, frozen=True):
    """`same` is None where it cannot be told; `rule` says what decided, or why nothing did."""

    same: bool | None
    rule: str


FAILED = Reply(None, "math-verify failed")


class SymbolicJudge:
    """A pool of workers, started when first asked. Thread-safe; close it, or use it as a context.

    Where a question cannot be answered in time the reply says so: it is never a verdict.
    """

    def __init__(self, workers: int) -> None:
        self._pool = partial(ThreadPoolExecutor, workers, thread_name_prefix="math")
        self._threads = self._pool()
        self._idle: deque[_Worker] = deque()

    def ask(self, question: Question) -> Future[Reply]:
        """The reply, in the future. Raises nothing but on a closed pool."""
        return self._threads.submit(self._ask, question)

    def close(self) -> None:
        """End the workers. Questions still waiting are answered first."""
        threads, self._threads = self._threads, self._pool()
        threads.shutdown()
        while self._idle:
            self._idle.pop().end()

    def _ask(self, question: Question) -> Reply:
        if refused := _refused(question.gold) or _refused(question.answer):
            return refused
        # No pipe can carry a lone surrogate.
        texts = (text.encode("utf-8", "replace").decode() for text in (question.gold, question.answer))
        line = msgspec.json.encode(Question(*texts))
        for again in (False, True):
            worker = None
            try:
                worker = self._idle.pop() if self._idle and not again else _Worker()
                reply = worker.ask(line)
            except (OSError, EOFError, ValueError, IndexError):
                # The worker itself is gone (killed from outside, out of memory): start another.
                if worker:
                    worker.end()
            else:
                self._idle.append(worker)
                return reply
        return FAILED


class _Worker:
    """A process that answers questions, and our end of the line to it."""

    def __init__(self) -> None:
        self._line, theirs = Pipe()
        # -P: a file in the user's folder must not stand in for a module. A fixed hash seed: sympy's
        # search order, and so what it manages in time, depends on it.
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", __name__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONHASHSEED": "0"},
                start_new_session=True,
            )

    def ask(self, question: bytes) -> Reply:
        self._line.send_bytes(question)
        return msgspec.json.decode(self._line.recv_bytes(), type=Reply)

    def end(self) -> None:
        self._line.close()
        try:
            self._process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _refused(text: str) -> Reply | None:
    """What would only run into the time limit."""
    if len(text) > LONGEST or any(text.count(mark) > DEEPEST for mark in "{([^!"):
        return Reply(None, "too long")
    return Reply(None, "too large") if _LARGE.search(text) else None


# What follows runs in the worker.


def _serve() -> NoReturn:
    """Fork children that answer, one after another, until the reader of the answers is gone."""
    _load()
    line = Connection(0)
    while True:
        child = os.fork()
        if child == 0:
            _answer_all(line)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            late = os.WTERMSIG(status) in _ALARMS
            with suppress(BrokenPipeError):
                line.send_bytes(msgspec.json.encode(Reply(None, "out of time") if late else FAILED))
        elif os.WEXITSTATUS(status) != _SPENT:
            os._exit(0)


def _load() -> None:
    """Import math-verify and let it parse once, so that a child need not."""
    import logging

    logging.disable(logging.CRITICAL)
    for gold, answer in _WARMING:
        _verified(gold, answer)


def _answer_all(line: Connection) -> NoReturn:
    import resource

    for alarm in _ALARMS:
        signal.signal(alarm, signal.SIG_DFL)  # the kernel ends the process, whatever it computes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > MOST_MEMORY:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, hard))
    with suppress(EOFError, OSError):
        for _ in range(QUESTIONS_PER_CHILD):
            question = msgspec.json.decode(line.recv_bytes(), type=Question)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            reply = _reply(question)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            line.send_bytes(msgspec.json.encode(reply))
        os._exit(_SPENT)
    os._exit(0)


def _reply(question: Question) -> Reply:
    try:
        return _verified(question.gold, question.answer)
    except BaseException:  # hostile text meets a large library, whose timeouts are BaseExceptions
        return FAILED


def _verified(gold: str, answer: str) -> Reply:
    wanted, found = read_value(gold), read_value(answer)
    if not is_structured(wanted) and _parsed(gold) is None:
        return Reply(None, "unparseable gold")
    rule = "items" if is_structured(wanted) and is_structured(found) else "math"
    return Reply(bool(same_value(wanted, found, _formulas_agree)), rule)


def _formulas_agree(formula: Formula, another: Formula) -> bool:
    if formula.unit and another.unit and formula.unit != another.unit:
        return False
    gold, answer = formula.text, another.text
    shown_gold, shown_answer = read_quantity(gold, letters=False), read_quantity(answer, letters=False)
    if shown_gold and shown_answer:
        return same_quantity(shown_gold, shown_answer)
    if gold == answer:
        return True
    value, other = map(_parsed, _cases_apart(gold, answer))
    if value is None or other is None:
        return False
    if _is_constant(value) and _is_constant(other):
        return _same_constant(value, other, shown_gold, shown_answer)
    if _is_equation(value) and _is_equation(other):
        return _same_equation(value, other)
    if _is_equation(value) != _is_equation(other):
        equation = value if _is_equation(value) else other
        named = equation.lhs.is_Symbol or equation.lhs.is_Function or equation.rhs.is_Symbol
        if not named or _OF_UNKNOWN.match(str(equation.lhs)):
            return False  # neither x/2 = 5 nor ln x = 5 is 5; f(2) = 5 and sin A = 5 are
    if _is_formula(value) and _is_formula(other):
        same = _same_formula(value, other)
        if same is not None:
            return same
    from math_verify import verify

    # Gold first: verify is not symmetric. Its own timeouts raise in threads; the timer here rules.
    return bool(verify(value, other, timeout_seconds=None, allow_set_relation_comp=True))


def _same_constant(gold: Any, answer: Any, shown_gold: Quantity | None, shown_answer: Quantity | None) -> bool:
    """Equal, or one rounds to the other as written. (math-verify would round both to six places.)"""
    if _close(gold, answer):
        return True
    if not gold.is_real or not answer.is_real:
        return False
    exact, decimal = (answer, shown_gold) if shown_answer is None else (gold, shown_answer)
    return decimal is not None and rounds_to(Fraction(str(exact.evalf(DIGITS))), decimal)


def _cases_apart(gold: str, answer: str) -> tuple[str, str]:
    """Both texts with another letter for a capital that is there in the other case, too: math-verify reads 2A as 2a."""
    letters = {found for found in _LETTER.findall(gold + " " + answer) if len(found) == 1}
    free = sorted(set("zwvutsrqkhgdcba") - {letter.lower() for letter in letters})
    twice = sorted(letter for letter in letters if letter.isupper() and letter.lower() in letters)
    others = dict(zip(twice, free, strict=False))
    apart = [_LETTER.sub(lambda found: others.get(found[0], found[0]), text) for text in (gold, answer)]
    return apart[0], apart[1]


def _same_equation(gold: Any, answer: Any) -> bool:
    """Is one equation the other times a number? Without an unknown, both are true and have the same sides."""
    names = [(side.is_Symbol, hasattr(side.func, "name") and side.is_Function) for side in (gold.lhs, answer.lhs)]
    if names in ([(True, False), (False, True)], [(False, True), (True, False)]):
        return bool(_same_formula(gold.rhs, answer.rhs))  # f(x) = 2x for y = 2x
    first, second = gold.lhs - gold.rhs, answer.lhs - answer.rhs
    if not first.free_symbols and not second.free_symbols:
        true = all(_close(one.lhs + 1, one.rhs + 1) for one in (gold, answer))
        return true and bool(_close(gold.rhs, answer.rhs))
    if first.free_symbols != second.free_symbols:
        return False
    one, *more = [(first / second).subs(point).evalf(DIGITS) for _, point in _points(first.free_symbols)]
    known = [one, *(ratio for ratio in more if ratio.is_real)]  # ln x^2 is 2 ln x where both are real
    return all(ratio.is_number and ratio.is_finite and ratio and _close(one, ratio) for ratio in known)


def _points(symbols: Any) -> Iterator[tuple[int, dict[Any, Fraction]]]:
    """Values for the symbols, all of one sign, which is given with them."""
    ordered = list(enumerate(sorted(symbols, key=str)))
    for first, sign in ((37, 1), (98, 1), (159, 1), (220, -1), (281, -1)):
        yield sign, {symbol: Fraction(sign * (first + 17 * at), 41 + 2 * at) for at, symbol in ordered}


def _is_equation(value: Any) -> bool:
    return getattr(value, "rel_op", "") == "=="


def _same_formula(gold: Any, answer: Any) -> bool | None:
    """Do two formulas have the same values? A tenth of the time that simplifying their difference
    takes, and it settles what simplifying may not. None where they agree for positive values only,
    as ln x^2 and 2 ln x do, or have no values that can be computed."""
    for sign, point in _points(gold.free_symbols | answer.free_symbols):
        same = _close(gold.subs(point), answer.subs(point))
        if same is None or (not same and sign < 0):
            return None
        if not same:
            return False
    return True


def _close(gold: Any, answer: Any) -> bool | None:
    """Do two constants agree in 12 digits? None where one is not a finite number."""
    value, other = gold.evalf(DIGITS), answer.evalf(DIGITS)
    if not (value.is_number and other.is_number) or not (value.is_finite and other.is_finite):
        return None
    return bool(abs(value - other) <= max(abs(value) / 10**12, Fraction(1, 10**40)))


def _is_formula(value: Any) -> bool:
    return hasattr(value, "as_numer_denom") and not getattr(value, "is_Matrix", False) and bool(value.free_symbols)


def _is_constant(value: Any) -> bool:
    return getattr(value, "is_number", False) is True and value.is_finite is not False


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Any:
    """The sympy object that `text` writes, its letter i the imaginary unit; or None."""
    from math_verify import LatexExtractionConfig, parse
    from sympy import I

    # Only the LaTeX reader: the other one hands text to sympy's parse_expr, which evaluates it.
    reader = LatexExtractionConfig(boxed_match_priority=0)
    # Units have been read before; math-verify would take the ab of 6ab for one.
    reader = replace(reader, normalization_config=replace(reader.normalization_config, units=False))
    latex = rewritten(text, _PLAIN_MATH).translate(_MACROS)
    if _LOST_ROOT.search(latex):
        return None
    found = parse(f"\\boxed{{{latex}}}", extraction_config=[reader], parsing_timeout=None)
    value: Any = next((value for value in found if not isinstance(value, str)), None)
    letters = {symbol: I for symbol in getattr(value, "free_symbols", ()) if str(symbol) == "i"}
    return value.subs(letters) if letters else value


if __name__ == "__main__":
    _serve()
