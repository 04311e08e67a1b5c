"""Trials of what nobody hopes for. A few of each kind run with all tests, the rest with `make test-hard`; what they
found is printed as a table. Those that are drawn by chance are others with TRIALS_FROM=1000 in the environment."""

from __future__ import annotations

import os
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import pytest

from specs_data.inert import visible

FROM = int(os.environ.get("TRIALS_FROM", "0"))
FOUND: Counter[tuple[str, str]] = Counter()


def some(count: int, first: int) -> list[Any]:
    """The numbers of `count` trials; those after the `first` ones are slow."""
    return [pytest.param(FROM + n, marks=() if n < first else pytest.mark.slow) for n in range(count)]


def few(names: Iterable[str], first: int) -> list[Any]:
    """Trials by their names; all but `first` of them, evenly apart, are slow."""
    known = [*names]
    quick = {known[number * len(known) // first] for number in range(first)}
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in known]


def assert_sentence(error: BaseException | str, *words: str) -> None:
    """What is said is one line that a person can read, with these words in it."""
    said = visible(str(error))
    assert said.strip() and "\n" not in said.strip() and len(said) < 1000, said
    assert "Traceback" not in said and " at 0x" not in said and said.isprintable(), said
    assert all(word in said for word in words), said


def assert_no_secret(text: str, secret: str, part: int = 10) -> None:
    """No part of a secret is in a text, as it is or as JSON, JSON in JSON, a URL, hexadecimal digits or Base64 writes
    it."""
    for before in range(3):
        spelt = b64encode(bytes(before) + secret.encode()).decode()[4 * (before > 0) : -4]
        assert not any(spelt[n : n + part] in text for n in range(len(spelt) - part + 1)), "Base64 of the key is shown"
    assert secret.encode().hex()[part : 3 * part] not in text
    for _ in range(3):
        found = next(
            (secret[n : n + part] for n in range(len(secret) - part + 1) if secret[n : n + part] in text), None
        )
        assert found is None, f"{found!r} is shown: …{text[max(0, text.index(found) - 80) :][:200]}"
        text = unquote(text.replace("\\\\", "\\").replace('\\"', '"').replace("\\/", "/"))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Any:
    """Counts what came of a trial, by its kind."""
    kind = request.module.__name__.rpartition("test_")[2].replace("_", " ")

    def count(outcome: str, number: int = 1) -> None:
        FOUND[kind, outcome] += number

    return count


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table."""
    if FOUND:
        terminalreporter.write_sep("=", "hard trials")
    for (kind, outcome), number in sorted(FOUND.items()):
        terminalreporter.write_line(f"| {kind} | {outcome} | {number:,} |")
