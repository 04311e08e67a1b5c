"""Trials of what nobody hopes for. A few of each kind run with all tests, the rest with `make test-hard`; what they
found is printed as a table."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

FOUND: Counter[tuple[str, str]] = Counter()


def some(count: int, first: int) -> list[Any]:
    """The numbers of `count` trials; those after the `first` ones are slow."""
    return [pytest.param(n, marks=() if n < first else pytest.mark.slow) for n in range(count)]


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
