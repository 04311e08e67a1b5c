"""How good is a verifier? Its verdicts on responses of which it is known whether the reasoning holds.

The responses are about pictures of the miniature world. All of them are well formed and give the
right answer; half reason soundly, the others go wrong in one of the ways named in WRONG.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from msgspec import Struct

from specs_data.errors import Undecided
from specs_data.format import THINK_ANSWER, ResponseFormat, load_format
from specs_data.loop import run
from specs_data.mini.world import Puzzle, as_problem, conclude, count, draw, picture, thought
from specs_data.recipe import Recipe
from specs_data.records import Judged, Judgement, Response, Sample
from specs_data.services.opening import open_budget
from specs_data.verifiers import Verifier, open_verifier

_SEED = 7919  # not one of the worlds that the miniature models are trained on


class Labelled(Struct, frozen=True):
    """A right and well-formed response, and whether its reasoning holds. `kind` says how it was made."""

    kind: str
    consistent: bool
    judged: Judged
    image: bytes


class KindScore(Struct, frozen=True):
    """Of `responses` of one kind, how many the verifier called consistent and how many it left undecided."""

    consistent: bool
    responses: int
    kept: int
    undecided: int


class Score(Struct, frozen=True):
    """`precision`: of the kept responses, the share that is sound. `recall`: of the sound ones, the
    share that is kept. `caught`: of the unsound ones, the share that is not kept. Undecided ones
    count in none. None where there is nothing to divide by."""

    settings: dict[str, str]
    precision: float | None
    recall: float | None
    caught: float | None
    undecided: int
    kinds: dict[str, KindScore]

    def __str__(self) -> str:
        shares = {"precision": self.precision, "recall": self.recall, "caught": self.caught}
        lines = [", ".join(f"{name} {value:.3f}" for name, value in shares.items() if value is not None)]
        lines += [
            f"  {'sound  ' if score.consistent else 'unsound'}  {kind:<28} kept {score.kept:>4} of {score.responses}"
            for kind, score in self.kinds.items()
        ]
        return "\n".join([*lines, f"  undecided {self.undecided}"])


def score_verifier(recipe: Recipe, pairs: int = 500) -> Score:
    """Score the verifier that `recipe` names, in the recipe's format. Raises UserError."""

    async def scored() -> Score:
        verifier = open_verifier(recipe, open_budget(recipe))
        try:
            return await verifier_score(verifier, pairs, fmt=load_format(recipe.format))
        finally:
            await verifier.close()

    return run(scored())


async def verifier_score(
    verifier: Verifier, pairs: int = 500, seed: int = _SEED, fmt: ResponseFormat = THINK_ANSWER
) -> Score:
    """Score `verifier` on `pairs` sound and as many unsound responses; the same ones for one seed."""
    labelled = [one for index in range(pairs) for one in labelled_pair(seed, index, fmt)]
    free = asyncio.Semaphore(max(1, verifier.concurrency))

    async def keeps(one: Labelled) -> bool | None:
        async with free:
            try:
                return (await verifier.verify(one.judged, (one.image,))).consistent
            except Undecided:
                return None

    return _score(dict(verifier.settings), labelled, await asyncio.gather(*map(keeps, labelled)))


def labelled_pair(seed: int, index: int, fmt: ResponseFormat = THINK_ANSWER) -> tuple[Labelled, Labelled]:
    """A sound and an unsound response to the puzzle number `index` of the world `seed`."""
    random = Random(f"labelled/{seed}/{index}")
    puzzle = draw(seed, index)
    sound = random.choice(list(SOUND))
    texts = {sound: SOUND[sound](puzzle, random)}
    for kind in random.sample(list(WRONG), len(WRONG)):
        text = WRONG[kind](puzzle, random)
        if text is not None:
            texts[kind] = text
            break
    good, bad = (_labelled(puzzle, kind, text or "", f"{seed}-{index}", fmt) for kind, text in texts.items())
    return good, bad


def _labelled(puzzle: Puzzle, kind: str, text: str, name: str, fmt: ResponseFormat) -> Labelled:
    response = Response(fmt.render(text, rf"\boxed{{{puzzle.answer}}}"))
    sample = Sample(as_problem(puzzle, name), 0, response)
    judged = Judged(sample, Judgement(True, "exact", puzzle.answer))
    return Labelled(kind, kind in SOUND, judged, picture(puzzle.things))


def _score(settings: dict[str, str], labelled: Sequence[Labelled], kept: Sequence[bool | None]) -> Score:
    def number(consistent: bool, verdict: bool) -> int:
        return sum(one.consistent is consistent and keep is verdict for one, keep in zip(labelled, kept, strict=True))

    sound, unsound = number(True, True), number(False, True)
    kinds = {}
    for kind in (*SOUND, *WRONG):
        verdicts = [keep for one, keep in zip(labelled, kept, strict=True) if one.kind == kind]
        kinds[kind] = KindScore(kind in SOUND, len(verdicts), verdicts.count(True), verdicts.count(None))
    return Score(
        settings,
        _share(sound, sound + unsound),
        _share(sound, sound + number(True, False)),
        _share(number(False, False), unsound + number(False, False)),
        list(kept).count(None),
        kinds,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# How sound reasoning is written


def _as_taught(puzzle: Puzzle, random: Random) -> str:
    return thought(puzzle)


def _concluded(puzzle: Puzzle, random: Random) -> str:
    said = random.choice(("The answer is", "So the final answer is", "Therefore, the answer is"))
    return f"Let me look at the picture. {thought(puzzle)} {said} {puzzle.answer}."


def _self_corrected(puzzle: Puzzle, random: Random) -> str:
    return f"{thought(puzzle, result=_other_answer(puzzle, random))} Wait, let me count again. {thought(puzzle)}"


# How it goes wrong, None where it cannot in this puzzle


def _other_conclusion(puzzle: Puzzle, random: Random) -> str:
    return thought(puzzle, result=_other_answer(puzzle, random))


def _wrong_count(puzzle: Puzzle, random: Random) -> str | None:
    """A wrong look at the picture, then sound steps: to another answer."""
    counts = _other_counts(puzzle, random)
    return thought(puzzle, counts) if counts else None


def _two_mistakes(puzzle: Puzzle, random: Random) -> str | None:
    """A wrong look at the picture and a wrong last step: to the right answer."""
    counts = _other_counts(puzzle, random)
    return thought(puzzle, counts, puzzle.answer) if counts and puzzle.kind != "count" else None


def _slip(puzzle: Puzzle, random: Random) -> str | None:
    if puzzle.kind not in ("sum", "subtract"):
        return None
    return f"{_other_conclusion(puzzle, random)} So the answer is {puzzle.answer}."


def _other_picture(puzzle: Puzzle, random: Random) -> str | None:
    """Sound reasoning about another picture, to the same answer."""
    first = random.randrange(10**6)
    for index in range(first, first + 300):
        other = draw(-1, index)
        if (other.kind, other.answer) == (puzzle.kind, puzzle.answer) and thought(other) != thought(puzzle):
            return thought(other)
    return None


def _truncated(puzzle: Puzzle, random: Random) -> str:
    """Cut off within a sentence, before the conclusion."""
    words = thought(puzzle).split()
    cuts = [at for at in range(1, len(words) * 2 // 3 + 1) if not words[at - 1].endswith(".")]
    return " ".join(words[: random.choice(cuts)])


def _taken_back(puzzle: Puzzle, random: Random) -> str:
    return f"{thought(puzzle)} No, that is wrong. The answer is {_other_answer(puzzle, random)}."


def _two_answers(puzzle: Puzzle, random: Random) -> str:
    return f"The answer is {_other_answer(puzzle, random)}. {thought(puzzle)}"


def _no_reasoning(puzzle: Puzzle, random: Random) -> str:
    return random.choice(("I look at the picture and answer.", "Let me think.", "The picture shows some shapes."))


Writer = Callable[[Puzzle, Random], str | None]

SOUND: dict[str, Writer] = {
    "as taught": _as_taught,
    "conclusion repeated": _concluded,
    "corrects itself": _self_corrected,
}
WRONG: dict[str, Writer] = {
    "other conclusion": _other_conclusion,
    "wrong count, other answer": _wrong_count,
    "wrong count, right answer": _two_mistakes,
    "arithmetic slip": _slip,
    "about another picture": _other_picture,
    "truncated": _truncated,
    "taken back": _taken_back,
    "two answers": _two_answers,
    "no reasoning": _no_reasoning,
}


def _other_answer(puzzle: Puzzle, random: Random) -> str:
    if puzzle.kind == "compare":
        return "no" if puzzle.answer == "yes" else "yes"
    if puzzle.choices:
        return random.choice([letter for letter in "ABCD"[: len(puzzle.choices)] if letter != puzzle.answer])
    return random.choice(
        [str(n) for n in range(int(puzzle.answer) - 2, int(puzzle.answer) + 3) if n >= 0 and str(n) != puzzle.answer]
    )


def _other_counts(puzzle: Puzzle, random: Random) -> tuple[int, ...] | None:
    """Wrong counts that lead to another answer."""
    counts: list[Any] = list(count(puzzle.things, puzzle.about))
    for _ in range(20):
        wrong = list(counts)
        wrong[random.randrange(len(wrong))] += random.choice((-2, -1, 1, 2))
        try:
            answer = conclude(puzzle.kind, wrong, puzzle.choices)
        except ValueError:
            continue
        if min(wrong) >= 0 and answer != puzzle.answer and not answer.startswith("-"):
            return tuple(wrong)
    return None
