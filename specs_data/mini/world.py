"""The miniature world: pictures of coloured shapes, and questions about them with known answers.

A picture has 3 x 2 cells of 28 pixels (one vision token each) and one to five things in them. Questions
are of the kinds in the paper's cases: counting, subtracting ("Subtract all yellow shapes. How many
shapes are left?"), comparing, and multiple choice. Everything is a pure function of (seed, index):

    >>> puzzle = draw(seed=1, index=0)
    >>> picture(puzzle.things)          # the bytes of a PNG
    >>> thought(puzzle), puzzle.answer  # ("I count red 2, blue 3. 2 + 3 = 5.", "5")
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Literal, get_args

from msgspec import Struct
from PIL import Image, ImageDraw

from specs_data.records import AnswerType, Problem

CELL = 28  # pixels: what one vision token sees
COLUMNS, ROWS = 3, 2
MOST_THINGS = 5

COLOURS = {"red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 87, 200), "yellow": (240, 200, 20)}
SHAPES = ("circle", "square", "triangle")

Kind = Literal["count", "sum", "subtract", "compare", "choose", "most"]
_TYPES: dict[Kind, AnswerType] = {"compare": "text", "choose": "multiple_choice", "most": "multiple_choice"}


class Thing(Struct, frozen=True):
    """One shape. `cell` counts from 0, row by row; the rest is in pixels, `left` and `top` within the cell."""

    colour: str
    shape: str
    cell: int
    left: int
    top: int
    size: int


class Puzzle(Struct, frozen=True):
    """A picture and a question about it. `about` are the colours or shapes to count; "shape" stands
    for all of them."""

    things: tuple[Thing, ...]
    kind: Kind
    about: tuple[str, ...]
    question: str
    answer: str
    choices: tuple[str, ...] = ()


def draw(seed: int, index: int) -> Puzzle:
    """The puzzle number `index` of the world `seed`."""
    random = Random(f"{seed}/{index}")
    kind: Kind = random.choice(get_args(Kind))
    while True:
        things = _things(random)
        about = _about(kind, random)
        counts = count(things, about)
        if kind not in ("compare", "most") or counts.count(max(counts)) == 1:  # these have no ties
            break
    choices = _choices(kind, counts)
    answer = conclude(kind, counts, choices)
    return Puzzle(things, kind, about, _question(kind, about), answer, choices)


def count(things: Sequence[Thing], about: Sequence[str]) -> tuple[int, ...]:
    """How many things there are of each colour or shape in `about`."""
    return tuple(sum(word in (thing.colour, thing.shape, "shape") for thing in things) for word in about)


def conclude(kind: Kind, counts: Sequence[int], choices: Sequence[str] = ()) -> str:
    """The answer that `counts` lead to. Raises ValueError if it is not among the choices."""
    if kind == "compare":
        return "yes" if counts[0] > counts[1] else "no"
    if kind == "most":
        return _letter(choices.index(list(COLOURS)[counts.index(max(counts))]))
    if kind == "choose":
        return _letter(choices.index(str(counts[0])))
    return str({"count": counts[0], "sum": sum(counts), "subtract": counts[0] - counts[-1]}[kind])


def thought(puzzle: Puzzle, counts: Sequence[int] | None = None, result: str | None = None) -> str:
    """Reasoning about the puzzle that reaches its answer.

    Other `counts` reason soundly from a wrong look at the picture; another `result` goes wrong in
    the last step. Both together can land on the right answer by two mistakes.
    """
    counts = count(puzzle.things, puzzle.about) if counts is None else counts
    result = conclude(puzzle.kind, counts, puzzle.choices) if result is None else result
    steps = {"sum": " {} + {} = {}.", "subtract": " {} - {} = {}."}
    seen = ", ".join(f"{plural(word)} {number}" for word, number in zip(puzzle.about, counts, strict=True))
    last = steps.get(puzzle.kind, " So the answer is {2}.")
    return f"I count {seen}.{last.format(*(*counts, 0)[:2], result)}"


def plural(word: str) -> str:
    """The word as thoughts use it: "red", "circles", "shapes"."""
    return word if word in COLOURS else f"{word}s"


def as_problem(puzzle: Puzzle, name: str) -> Problem:
    """The puzzle as the problem with the id `name`."""
    image = hashlib.sha256(picture(puzzle.things)).hexdigest()
    kind = puzzle.kind
    return Problem(name, puzzle.question, puzzle.answer, answer_type(kind), puzzle.choices, (image,), kind)


def answer_type(kind: Kind) -> AnswerType:
    """How answers to questions of this kind are judged."""
    return _TYPES.get(kind, "numeric")


def picture(things: Sequence[Thing]) -> bytes:
    """The picture as the bytes of a PNG, 84 x 56 pixels."""
    image = Image.new("RGB", (CELL * COLUMNS, CELL * ROWS), (245, 245, 240))
    pen = ImageDraw.Draw(image)
    for thing in things:
        row, column = divmod(thing.cell, COLUMNS)
        left, top = column * CELL + thing.left, row * CELL + thing.top
        right, bottom = left + thing.size - 1, top + thing.size - 1
        colour = COLOURS[thing.colour]
        if thing.shape == "circle":
            pen.ellipse((left, top, right, bottom), fill=colour)
        elif thing.shape == "square":
            pen.rectangle((left, top, right, bottom), fill=colour)
        else:
            pen.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=colour)
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def write_problems(folder: Path, count: int, seed: int) -> Path:
    """Write the first `count` puzzles of the world `seed` as problems.jsonl, with images/ beside it.

    Returns the file. Its columns: id, question, images (relative paths), answer, answer_type,
    choices, source (the kind of question).
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    file = folder / "problems.jsonl"
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        for index in range(count):
            puzzle = draw(seed, index)
            name = f"{seed}-{index:05d}"
            image = f"images/{name}.png"
            (folder / image).write_bytes(picture(puzzle.things))
            row = {
                "id": name,
                "question": puzzle.question,
                "images": [image],
                "answer": puzzle.answer,
                "answer_type": answer_type(puzzle.kind),
                "choices": puzzle.choices,
                "source": puzzle.kind,
            }
            lines.write(json.dumps(row) + "\n")
    return file


def _things(random: Random) -> tuple[Thing, ...]:
    palette = random.sample(list(COLOURS), 3)  # few colours, so that counts are not all 0 and 1
    cells = sorted(random.sample(range(COLUMNS * ROWS), random.randint(1, MOST_THINGS)))
    return tuple(_thing(cell, random.choice(palette), random) for cell in cells)


def _thing(cell: int, colour: str, random: Random) -> Thing:
    size = random.randint(15, 21)
    left, top = random.randint(2, CELL - 2 - size), random.randint(2, CELL - 2 - size)
    return Thing(colour, random.choice(SHAPES), cell, left, top, size)


def _about(kind: Kind, random: Random) -> tuple[str, ...]:
    if kind == "most":
        return tuple(COLOURS)
    if kind == "subtract":
        return ("shape", random.choice(list(COLOURS)))
    if kind in ("sum", "compare"):
        return tuple(random.sample(list(COLOURS), 2))
    return (random.choice([*COLOURS, *SHAPES, "shape"]),)


def _question(kind: Kind, about: Sequence[str]) -> str:
    match kind:
        case "sum":
            return f"How many {about[0]} and {about[1]} shapes are there together?"
        case "subtract":
            return f"Subtract all {about[1]} shapes. How many shapes are left?"
        case "compare":
            return f"Are there more {about[0]} than {about[1]} shapes?"
        case "most":
            return "Which colour has the most shapes?"
        case _:
            noun = f"{about[0]} shapes" if about[0] in COLOURS else plural(about[0])
            return f"How many {noun} are there?"


def _choices(kind: Kind, counts: Sequence[int]) -> tuple[str, ...]:
    if kind == "most":
        return tuple(COLOURS)
    if kind == "choose":
        return ("2", "3", "4", "5") if counts[0] > 3 else ("0", "1", "2", "3")
    return ()


def _letter(number: int) -> str:
    return chr(ord("A") + number)
