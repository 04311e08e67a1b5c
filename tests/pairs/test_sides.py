"""What the two sides of a dataset's pairs are to each other, and what is the paper's of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs_data.format import THINK_ANSWER
from specs_data.pairs.language import language
from specs_data.pairs.manifest import Manifest
from specs_data.pairs.sides import SidesTally, distance, what_it_is
from specs_data.records import Message, Pair

CHOSEN = "<think>2 + 3 = 5.</think>\n<answer>\\boxed{5}</answer>"
TWIN = "2 + 3 = 5.\n\\boxed{5}"
OTHER = "I count five: \\boxed{5}"
words = st.lists(st.sampled_from(["a", "b", "c", "<think>", "."]), max_size=12)


def levenshtein(left: list[str], right: list[str]) -> int:
    """The table, cell by cell."""
    above = list(range(len(right) + 1))
    for row, word in enumerate(left, 1):
        line = [row]
        for column, other in enumerate(right, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (word != other)))
        above = line
    return above[-1]


@given(words, words)
def test_the_distance_is_levenshtein_s_in_words(left: list[str], right: list[str]) -> None:
    assert distance(" ".join(left), "  ".join(right)) == levenshtein(left, right)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (CHOSEN, CHOSEN, 0),
        (CHOSEN, TWIN, 4),
        (CHOSEN, f"  {CHOSEN}\n\n", 0),
        ("", "a b", 2),
        ("图中有3块", "图中有4块", 1),
        ("the answer", "the Answer", 1),
    ],
)
def test_what_counts_as_a_word(one: str, other: str, apart: int) -> None:
    assert distance(one, other) == distance(other, one) == apart


def test_long_texts_take_no_second() -> None:
    started = time.process_time()
    distance(" ".join(map(str, range(6_000))), " ".join(map(str, range(6_000, 0, -1))))
    assert time.process_time() - started < 1.0


def pair(rejected: str, origin: str | None) -> Pair:
    return Pair("a", (), (Message("user", "?"),), CHOSEN, rejected, rejected_from=origin)


def told(*pairs: Pair, **recipe: Any) -> str:
    tally = SidesTally(THINK_ANSWER)
    for one in pairs:
        tally.see(one)
    return " ".join(what_it_is(Manifest(recipe=recipe or None, sides=tally.told())))


def test_of_a_large_dataset_some_distances_are_enough() -> None:
    tally = SidesTally(THINK_ANSWER, 5_000)
    for number in range(5_000):
        tally.see(pair(TWIN if number % 2 else OTHER, "base"))
    sides = tally.told()
    assert (sides.pairs, sides.same) == (5_000, 2_500)
    assert sum(count for _, count in sides.distance.histogram) == 455
    assert (sides.distance.min, sides.distance.max) == (4, distance(CHOSEN, OTHER))
    assert "of 455 rows" in " ".join(what_it_is(Manifest(sides=sides)))


PAPER = {"verifier": "gemini", "pairing": "decoupled", "rejected_from": "base"}


def test_twins_are_not_called_the_paper_s() -> None:
    said = told(pair(TWIN, "chosen"), pair(TWIN, "chosen"), **PAPER)
    assert said.startswith("Twins: the rejected response is the chosen one")
    assert "the same in 2 of 2 rows; their edit distance in words is 4 in the median" in said
    assert "not the paper's" in said and "This is the paper's way" not in said


def test_answers_of_the_base_are_the_paper_s_way() -> None:
    said = told(pair(OTHER, "base"), pair(TWIN, "base"), **PAPER)
    assert "a right answer of base" in said and "the same in 1 of 2 rows" in said
    assert "This is the paper's way if base is the base model" in said
    assert "Other than in the paper" not in said


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"pairing": "coupled"}, "the rejected side is wrong as well"),
        ({"natural_rejected": True}, "is left as it is"),
        ({"verifier": "none"}, "nobody checked the reasoning"),
        ({"verifier": "rules"}, "not checked by Gemini"),
        ({"corruption": {"shift_tags": 1.0}}, "not its five"),
        ({"format": "json"}, "the response format is json"),
    ],
)
def test_each_departure_from_the_paper_is_named(recipe: dict[str, Any], said: str) -> None:
    text = told(pair(OTHER, "base"), **(PAPER | recipe))
    assert said in text.partition("Other than in the paper: ")[2]
    assert ("This is the paper's way" in text) == ("pairing" not in recipe)


def test_of_anybody_s_rows_nothing_is_made_up() -> None:
    said = told(pair(OTHER, None))
    assert said.startswith("Whose the rejected response is, is not stated.")
    assert "paper" not in said and what_it_is(Manifest()) == []
    assert "\x1b" not in told(pair(OTHER, "\x1b[2J"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What is the area of the triangle?", "en"),
        ("图中有几块积木?", "zh"),
        ("みかんは何個ありますか", "ja"),
        ("몇 개입니까?", "ko"),
        ("Wie viele rote Kreise sind auf dem Bild?", "de"),
        ("Quelle est la valeur de x dans le triangle ?", "fr"),
        ("Find the angle θ, and then α + β.", "en"),
        ("x^2 + 3x = 5", "und"),
        ("", "und"),
    ],
)
def test_the_language_is_told_by_script_and_common_words(text: str, code: str) -> None:
    assert language(text) == code


@given(
    st.lists(st.sampled_from("abc"), max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abcd")), max_size=20),
)
def test_texts_a_few_words_apart_and_many_are_as_far_apart(words: list[str], changes: list[tuple[int, str]]) -> None:
    other = list(words)
    for place, word in changes:
        other[place : place + 1] = [word, word] if place % 3 else []
    assert distance(" ".join(words), " ".join(other)) == levenshtein(words, other)
