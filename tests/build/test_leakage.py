"""Problems that also occur in an evaluation set."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from specs_data.build import leakage
from specs_data.build.leakage import HASH_SIDE, NEAR_BITS, Leakage, picture_hash

LONG = "a train leaves the town of Ulm at nine and meets a second train after eighty minutes of travel"


def drawing(seed: int) -> Image.Image:
    draw = random.Random(seed)
    picture = Image.new("RGB", (400, 300), "white")
    pen = ImageDraw.Draw(picture)
    corners = [(draw.randint(20, 380), draw.randint(20, 280)) for _ in range(4)]
    pen.polygon(corners, outline="black", width=3)
    for corner in corners:
        pen.text(corner, draw.choice("ABCDE"), fill="black")
    return picture


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def evaluation() -> Leakage:
    items = [(f"What is the length of side {n}?", [saved(drawing(n))]) for n in range(40)]
    items += [("Find x.", [saved(drawing(100 + n))]) for n in range(3)]
    items += [(f"Story {n}: {LONG}, number {n}.", []) for n in range(2)]
    items += [(f"Hint: {LONG[::-1]} {n * 'again '}", []) for n in range(12)]
    return Leakage(items)


def test_the_same_file(evaluation: Leakage) -> None:
    assert evaluation.match("Something else?", [saved(drawing(999)), saved(drawing(7))]) == "exact picture"


@pytest.mark.parametrize(
    "changed",
    [
        lambda picture: saved(picture, "JPEG", quality=50),
        lambda picture: saved(picture, "WEBP", quality=60),
        lambda picture: saved(picture.resize((200, 150))),
        lambda picture: saved(picture.resize((800, 600))),
        lambda picture: saved(picture.convert("L")),
        lambda picture: saved(picture.convert("P")),
        lambda picture: saved(picture.convert("RGBA")),
        lambda picture: saved(picture.point(lambda level: level * 0.9)),
    ],
    ids=["jpeg", "webp", "half", "double", "grey", "palette", "rgba", "darker"],
)
def test_the_same_picture_in_another_file(evaluation: Leakage, changed: Any) -> None:
    assert [evaluation.match("Something else?", [changed(drawing(n))]) for n in range(10)] == ["near picture"] * 10


def test_other_pictures_are_kept(evaluation: Leakage) -> None:
    assert [evaluation.match("Something else?", [saved(drawing(n))]) for n in range(500, 600)] == [None] * 100


@pytest.mark.parametrize(
    "question",
    [
        "What is the length of side 3?",
        "<image>what is the LENGTH of\n side 3",
        "What is the length of side ３?",
    ],
)
def test_the_same_question(evaluation: Leakage, question: str) -> None:
    assert evaluation.match(question, []) == "same question"
    assert evaluation.match(question, [saved(drawing(800))]) == "same question"


@pytest.mark.parametrize("question", ["What is the length of side 41?", "", "?!", LONG[:40]])
def test_other_questions_are_kept(evaluation: Leakage, question: str) -> None:
    assert evaluation.match(question, []) is None


def test_signs_make_a_difference() -> None:
    evaluation = Leakage([("Solve x + 1 = 3", [])])
    assert evaluation.match("Solve x - 1 = 3", []) is None
    assert evaluation.match("solve  x+1=3.", []) == "same question"


def test_a_question_asked_about_several_pictures_is_a_template(evaluation: Leakage) -> None:
    assert evaluation.match("Find x.", [saved(drawing(900))]) is None
    assert evaluation.match("Find x.", [saved(drawing(101))]) == "exact picture"


def test_thirteen_words_in_a_row(evaluation: Leakage) -> None:
    assert evaluation.match(f"Anna says: {LONG}. When was that?", []) == "near question"
    assert evaluation.match(" ".join(LONG.split()[:12]), []) is None


def test_boilerplate_is_no_leak(evaluation: Leakage) -> None:
    assert evaluation.match(f"A new question. Hint: {LONG[::-1]}", []) is None


def test_pictures_without_content_are_no_evidence() -> None:
    blank = saved(Image.new("RGB", (64, 64), "white"))
    evaluation = Leakage([("Q one", [blank]), ("Q two", [b"no picture"])])
    assert evaluation.match("Other", [blank]) is None
    assert evaluation.match("Other", [saved(Image.new("RGB", (80, 80), "white"))]) is None
    assert evaluation.match("Other", [b"no picture", saved(drawing(1))]) is None
    assert picture_hash(blank) is None
    assert picture_hash(saved(drawing(1))[:200]) is None


def test_an_empty_evaluation_set_excludes_nothing() -> None:
    assert Leakage([]).match("Q", [saved(drawing(1))]) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3 * NEAR_BITS))
def test_near_is_found_exactly_up_to_the_threshold(seed: int, distance: int) -> None:
    draw = np.random.default_rng(seed)
    rows = draw.integers(0, 2, (50, HASH_SIDE * HASH_SIDE), dtype=np.uint8)
    asked = rows[draw.integers(50)].copy()
    asked[draw.choice(asked.size, distance, replace=False)] ^= 1
    assert leakage._Near(rows).has(asked) == (distance <= NEAR_BITS)
