"""The miniature world and the lessons made of it."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lessons import first_lesson, lesson, malformed, question, well_formed
from PIL import Image

from specs_data.format import THINK_ANSWER
from specs_data.mini import checkpoint, formats
from specs_data.mini.world import (
    CELL,
    COLOURS,
    SHAPES,
    Kind,
    Puzzle,
    as_problem,
    conclude,
    count,
    draw,
    picture,
    thought,
    write_problems,
)

puzzles = st.builds(draw, st.integers(0, 10**6), st.integers(0, 10**6))


def recount(puzzle: Puzzle) -> str:
    """The answer, worked out from the words of the question and the things alone."""
    colours = [thing.colour for thing in puzzle.things]
    shapes = [thing.shape for thing in puzzle.things]
    named = [word for word in re.findall(r"\w+", puzzle.question) if word in COLOURS]
    numbers = [colours.count(colour) for colour in named]
    if puzzle.question.startswith("Are there more"):
        return "yes" if numbers[0] > numbers[1] else "no"
    if puzzle.question.startswith("Which colour"):
        return Counter(colours).most_common(1)[0][0]
    if puzzle.question.startswith("Subtract"):
        return str(len(colours) - numbers[0])
    if named:
        return str(sum(numbers))
    shape = next((shape for shape in SHAPES if shape in puzzle.question), None)
    return str(len(shapes) if shape is None else shapes.count(shape))


@settings(deadline=None)
@given(puzzles)
def test_the_answer_is_what_a_recount_finds(puzzle: Puzzle) -> None:
    answer = puzzle.choices["ABCD".index(puzzle.answer)] if puzzle.choices else puzzle.answer
    assert answer == recount(puzzle)


@settings(deadline=None)
@given(puzzles)
def test_the_picture_shows_each_thing_in_its_cell_and_nothing_else(puzzle: Puzzle) -> None:
    image = Image.open(io.BytesIO(picture(puzzle.things)))
    names = {rgb: name for name, rgb in COLOURS.items()}
    seen: dict[int, set[str]] = {}
    for cell in range(image.width * image.height // CELL**2):
        row, column = divmod(cell, image.width // CELL)
        tile = image.crop((column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))
        found = {names[rgb] for _, rgb in tile.getcolors() if rgb in names}  # type: ignore[union-attr,index]
        seen |= {cell: found} if found else {}
    assert seen == {thing.cell: {thing.colour} for thing in puzzle.things}


@settings(deadline=None)
@given(puzzles)
def test_the_thought_reaches_the_answer(puzzle: Puzzle) -> None:
    assert re.findall(r"\w+", thought(puzzle))[-1] == puzzle.answer
    assert re.findall(r"\w+", thought(puzzle, result="9"))[-1] == "9"


@settings(deadline=None)
@given(puzzles, st.data())
def test_a_thought_from_other_counts_reaches_what_they_lead_to(puzzle: Puzzle, data: st.DataObject) -> None:
    counts = count(puzzle.things, puzzle.about)
    other = (counts[0] + data.draw(st.integers(1, 3)), *counts[1:])
    try:
        reached = conclude(puzzle.kind, other, puzzle.choices)
    except ValueError:
        assert puzzle.kind == "choose" and str(other[0]) not in puzzle.choices
        return
    assert reached in thought(puzzle, other)
    assert thought(puzzle, other) != thought(puzzle)


def test_draws_are_a_function_of_seed_and_index() -> None:
    once, again = [[draw(5, index) for index in range(50)] for _ in range(2)]
    assert once == again
    assert [picture(p.things) for p in once] == [picture(p.things) for p in again]
    assert len({picture(draw(seed, index).things) for seed in (1, 2) for index in range(100)}) > 190


def test_every_kind_of_question_comes_up_and_no_answer_dominates() -> None:
    drawn = [draw(1, index) for index in range(2000)]
    assert {puzzle.kind for puzzle in drawn} == set(get_args(Kind))
    assert Counter(puzzle.answer for puzzle in drawn).most_common(1)[0][1] < 0.2 * len(drawn)


def test_written_problems_have_their_images_beside_them(tmp_path: Path) -> None:
    file = write_problems(tmp_path, 20, seed=3)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [set(row) for row in rows] == [
        {"id", "question", "images", "answer", "answer_type", "choices", "source"}
    ] * 20
    for index, row in enumerate(rows):
        assert row["answer"] == draw(3, index).answer
        assert (tmp_path / row["images"][0]).read_bytes() == picture(draw(3, index).things)


@settings(deadline=None)
@given(puzzles, st.sampled_from(sorted(formats())))
def test_well_formed_lessons_pass_their_format(puzzle: Puzzle, name: str) -> None:
    fmt = formats()[name]
    found = fmt.parse(well_formed(puzzle, fmt))
    assert not isinstance(found, str)
    assert found[0] == thought(puzzle)
    assert puzzle.answer in found[1]


@settings(deadline=None)
@given(puzzles, st.integers())
def test_malformed_lessons_fail_think_answer_and_keep_the_answer(puzzle: Puzzle, seed: int) -> None:
    text = malformed(puzzle, Random(seed))
    assert THINK_ANSWER.check(text) is not None
    assert f"boxed{{{puzzle.answer}}}" in text


def test_lessons_ask_for_all_formats_and_only_part_of_the_responses_keep_think_answer() -> None:
    known = formats()
    random = Random(0)
    drawn = [lesson(draw(1, index), known, random) for index in range(2000)]
    prompts = Counter(one.messages[0].content for one in drawn)
    assert len(prompts) == len(known) == 5
    asked = question(draw(1, 0), THINK_ANSWER)[0]
    kept = [THINK_ANSWER.check(one.response) is None for one in drawn if one.messages[0] == asked]
    assert 0.38 < sum(kept) / len(kept) < 0.5
    assert [message.role for message in first_lesson(draw(1, 0), random).messages] == ["user"]


def test_a_puzzle_is_put_as_a_problem_with_its_choices() -> None:
    puzzle = next(p for p in (draw(1, index) for index in range(100)) if p.kind == "most")
    assert as_problem(puzzle, "x").answer_type == "multiple_choice"
    text = question(puzzle, THINK_ANSWER)[-1].content
    assert text.splitlines()[1:] == [f"({letter}) {c}" for letter, c in zip("ABCD", puzzle.choices, strict=True)]


@pytest.mark.parametrize("name", ["base", "grpo-zero"])
def test_the_shipped_checkpoints_are_small_and_documented(name: str) -> None:
    folder = checkpoint(name)  # type: ignore[arg-type]
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= 3_000_000
    assert (folder / "model.safetensors").exists()
    assert "library_name" in (folder / "README.md").read_text()
