"""What the base learns to imitate: for each puzzle an instruction and a response to it.

Under the think-answer instruction only part of the responses keep the format, as with the paper's
base model (41.62 %, section on GRPO-zero); the others are malformed in the ways that models are.
Under each other instruction most keep theirs, so that an instruction means something.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random

from msgspec import Struct

from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.mini.world import COLOURS, SHAPES, Puzzle, answer_type, count, plural, thought
from specs_data.records import Message, Problem
from specs_data.texts import Text, chat, system_prompt

KEPT = {THINK_ANSWER.name: 0.44}  # share of responses that keep the format asked for
KEPT_ELSEWHERE = 0.75
THINK_ANSWER_SHARE = 0.45  # of all lessons

Malformed = Callable[[str, str], str]

MALFORMED: dict[Malformed, float] = {
    lambda thought, answer: f"{thought}\nThe answer is {answer}.": 5,
    lambda thought, answer: f"<think>{thought}</think>\n{answer}": 4,
    lambda thought, answer: f"<think>{thought}</think>\nAnswer: {answer}": 4,
    lambda thought, answer: f"{thought}\n<answer>{answer}</answer>": 4,
    lambda thought, answer: f"<think>{thought}\n<answer>{answer}</answer>": 2,
    lambda thought, answer: f"<answer>{answer}</answer>": 1,
    lambda thought, answer: answer: 1,
}


class Lesson(Struct, frozen=True):
    """A prompt and the response to imitate."""

    messages: tuple[Message, ...]
    response: str


def first_lesson(puzzle: Puzzle, random: Random) -> Lesson:
    """A lesson in looking: several counts of the things in the picture, asked for at once. It
    teaches a new model to count several times faster than questions do."""
    words = random.sample([*COLOURS, *SHAPES, "shape"], 5)
    counts = zip(words, count(puzzle.things, words), strict=True)
    response = ", ".join(f"{plural(word)} {number}" for word, number in counts)
    return Lesson((Message("user", f"Count {', '.join(map(plural, words))}."),), f"I count {response}.")


def lesson(puzzle: Puzzle, formats: dict[str, ResponseFormat], random: Random) -> Lesson:
    """A lesson about `puzzle`, under the instruction of one of the `formats`."""
    others = [fmt for fmt in formats.values() if fmt != THINK_ANSWER]
    fmt = THINK_ANSWER if random.random() < THINK_ANSWER_SHARE else random.choice(others)
    prompt = question(puzzle, fmt)
    if random.random() < KEPT.get(fmt.name, KEPT_ELSEWHERE):
        return Lesson(prompt, well_formed(puzzle, fmt))
    return Lesson(prompt, malformed(puzzle, random))


def question(puzzle: Puzzle, fmt: ResponseFormat) -> tuple[Message, ...]:
    """The puzzle as it is put to a policy."""
    problem = Problem("", puzzle.question, puzzle.answer, answer_type(puzzle.kind), puzzle.choices)
    return chat(problem, _system(fmt.instruction))


@cache
def _system(instruction: str) -> Text | None:
    return system_prompt(None, instruction)


def well_formed(puzzle: Puzzle, fmt: ResponseFormat) -> str:
    """The right response in the format `fmt`. The answer is boxed where the instruction says so."""
    boxed = r"\boxed" in fmt.instruction or fmt == THINK_ANSWER
    return fmt.render(thought(puzzle), box(puzzle.answer) if boxed else puzzle.answer)


def malformed(puzzle: Puzzle, random: Random) -> str:
    """The right response in one of the ways that break think-answer."""
    (write,) = random.choices(list(MALFORMED), list(MALFORMED.values()))
    return write(thought(puzzle), box(puzzle.answer))


def box(answer: str) -> str:
    """The answer in LaTeX's \\boxed{}."""
    return rf"\boxed{{{answer}}}"
