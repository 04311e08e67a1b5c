"""How good is a verifier? Its verdicts on responses of which it is known whether the reasoning holds.

The responses are about pictures of the miniature world. All of them are well formed and give the
right answer; half reason soundly, the others go wrong in one of the ways named in WRONG. Or they are labelled
cases from a file: the shipped ones (PROSE) are written as models write, in many styles, without pictures.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from specs_data.errors import Undecided, UserError
from specs_data.format import THINK_ANSWER, ResponseFormat, load_format
from specs_data.loop import run
from specs_data.mini.world import Puzzle, as_problem, conclude, count, draw, picture, thought
from specs_data.recipe import Recipe
from specs_data.records import AnswerType, Judged, Judgement, Problem, Response, Sample
from specs_data.rollouts.checking import open_checker
from specs_data.services.opening import open_budget
from specs_data.verifiers import Verifier, open_verifier
from specs_data.verifiers.calibration import Calibration, keep

PROSE = "prose"  # the name of the shipped cases

_SEED = 7919  # not one of the worlds that the miniature models are trained on


class Labelled(Struct, frozen=True):
    """A right and well-formed response, and whether its reasoning holds. `kind` says how it was made."""

    kind: str
    consistent: bool
    judged: Judged
    image: bytes


class KindScore(Struct, frozen=True):
    """Of `responses` of one kind and label, how many the verifier called consistent and how many it left undecided."""

    consistent: bool
    responses: int
    kept: int
    undecided: int


class Score(Struct, frozen=True):
    """`precision`: of the kept responses, the share that is sound. `recall`: of the sound ones, the
    share that is kept. `caught`: of the unsound ones, the share that is not kept. None where there is nothing
    to divide by. `undecided` ones, of which no verdict was had, count in none; those of which the verifier
    `cannot_tell` count as what becomes of them."""

    settings: dict[str, str]
    precision: float | None
    recall: float | None
    caught: float | None
    undecided: int
    kinds: dict[str, KindScore]
    verdicts: tuple[bool | None, ...] = ()
    tokens: int = 0
    cannot_tell: int = 0

    def __str__(self) -> str:
        shares = {"precision": self.precision, "recall": self.recall, "caught": self.caught}
        lines = [", ".join(f"{name} {value:.3f}" for name, value in shares.items() if value is not None)]
        lines += [
            f"  {'sound  ' if score.consistent else 'unsound'}  {kind:<28} kept {score.kept:>4} of {score.responses}"
            for kind, score in self.kinds.items()
        ]
        lines += [f"  undecided {self.undecided}"]
        if self.cannot_tell:
            lines += [f"  cannot tell {self.cannot_tell}"]
        if self.tokens:
            lines += [f"  {self.tokens / len(self.verdicts):.0f} tokens a verdict"]
        return "\n".join(lines)


class Case(Struct, frozen=True):
    """A row of a file of labelled cases: a `thought` that ends in `answer`, which is right, and whether it is
    `sound`. `type` as in a problem; `kind` is what it is counted as."""

    thought: str
    answer: str
    sound: bool
    type: AnswerType = "text"
    choices: tuple[str, ...] = ()
    kind: str = ""
    question: str = "Which?"


def score_verifiers(recipes: Sequence[Recipe], pairs: int = 500, cases: str | None = None) -> list[Score]:
    """Score the verifiers that the recipes name, each in its recipe's format, on the same responses: `pairs` of the
    miniature world, or the labelled `cases` of a file. With a `cache` folder the scores are put on record there, and
    builds with that folder hold the verifier to them. Raises UserError."""

    async def scored(recipe: Recipe) -> Score:
        fmt = load_format(recipe.format)
        checker = open_checker(recipe)
        verifier = open_verifier(recipe, open_budget(recipe), checker=checker)
        try:
            labelled = read_cases(cases, fmt) if cases else labelled_pairs(pairs, fmt)
            score = await score_on(verifier, labelled, () if cases else (*SOUND, *WRONG))
        finally:
            await verifier.close()
            if checker is not None:
                await checker.engine.close()
        if recipe.cache and score.recall is not None and score.caught is not None:
            keep(recipe.cache, verifier.settings, Calibration(score.recall, score.caught))
        return score

    async def each() -> list[Score]:
        return [await scored(recipe) for recipe in recipes]

    return run(each())


def score_verifier(recipe: Recipe, pairs: int = 500, cases: str | None = None) -> Score:
    """`score_verifiers` for one."""
    return score_verifiers([recipe], pairs, cases)[0]


async def verifier_score(
    verifier: Verifier, pairs: int = 500, seed: int = _SEED, fmt: ResponseFormat = THINK_ANSWER
) -> Score:
    """Score `verifier` on `pairs` sound and as many unsound responses; the same ones for one seed."""
    return await score_on(verifier, labelled_pairs(pairs, fmt, seed), (*SOUND, *WRONG))


async def score_on(verifier: Verifier, labelled: Sequence[Labelled], kinds: Sequence[str] = ()) -> Score:
    """Score `verifier` on labelled responses; `kinds` are listed first, whether they occur or not."""
    free = asyncio.Semaphore(max(1, verifier.concurrency))
    tokens = cannot_tell = 0

    async def keeps(one: Labelled) -> bool | None:
        nonlocal tokens, cannot_tell
        async with free:
            try:
                verdict = await verifier.verify(one.judged, (one.image,) if one.image else ())
            except Undecided:
                return None
            tokens += verdict.prompt_tokens + verdict.completion_tokens
            cannot_tell += verdict.undecided
            return verdict.consistent

    verdicts = await asyncio.gather(*map(keeps, labelled))
    listed = list(dict.fromkeys((*kinds, *(one.kind for one in labelled))))
    score = _score(dict(verifier.settings), labelled, verdicts, listed)
    return replace(score, tokens=tokens, cannot_tell=cannot_tell)


def kappa(one: Sequence[bool | None], other: Sequence[bool | None]) -> float | None:
    """Cohen's kappa of two verifiers' verdicts on the same responses, of those that both decided: 1 where they
    always agree, 0 where they do so by chance only. None where chance leaves nothing to tell."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not both:
        return None
    agreed = sum(a == b for a, b in both) / len(both)
    kept, also = (sum(verdicts) / len(both) for verdicts in zip(*both, strict=True))
    chance = kept * also + (1 - kept) * (1 - also)
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def describe_scores(scores: Sequence[Score]) -> str:
    """The scores as text, and how far each two of them agree."""
    texts = [str(score) for score in scores]
    names = [_name(score) for score in scores]
    if len(scores) > 1:
        texts = [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
    for at, score in enumerate(scores):
        for further in range(at + 1, len(scores)):
            agreement = kappa(score.verdicts, scores[further].verdicts)
            shown = "not to be told" if agreement is None else f"{agreement:.2f}"
            texts.append(f"kappa of {names[at]} and {names[further]}: {shown}")
    return "\n".join(texts)


def scores_json(scores: Sequence[Score]) -> str:
    """The figures as JSON: a list of scores, without the single verdicts, and the kappa of the first two."""
    rows = [msgspec.to_builtins(replace(score, verdicts=())) for score in scores]
    agreement = kappa(scores[0].verdicts, scores[1].verdicts) if len(scores) > 1 else None
    return json.dumps({"scores": rows, "kappa": agreement}, indent=2)


def read_cases(file: str, fmt: ResponseFormat = THINK_ANSWER) -> list[Labelled]:
    """The labelled cases of a JSONL file, or the shipped ones for `prose`. Raises UserError."""
    path = files("specs_data.measure").joinpath("cases.jsonl") if file == PROSE else Path(file)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # U+2028 and its like end no line
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the cases {file}: {error}") from None
    if not any(line.strip() for line in lines):
        raise UserError(f"{file} has no labelled cases: a line of JSON for each, with thought, answer and sound")
    return [_read_case(line, number, file, fmt) for number, line in enumerate(lines, 1) if line.strip()]


def _read_case(line: str, number: int, file: str, fmt: ResponseFormat) -> Labelled:
    try:
        case = msgspec.convert(json.loads(line), Case)
    except (ValueError, msgspec.ValidationError) as error:
        raise UserError(
            f"{file}, line {number} is no labelled case ({error}): it needs thought, answer and sound"
        ) from None
    problem = Problem(f"case-{number}", case.question, case.answer, case.type, case.choices)
    response = Response(fmt.render(case.thought, rf"\boxed{{{case.answer}}}"))
    judged = Judged(Sample(problem, 0, response), Judgement(True, "exact", case.answer))
    return Labelled(case.kind or ("sound" if case.sound else "unsound"), case.sound, judged, b"")


def _name(score: Score) -> str:
    return score.settings.get("verifier") or score.settings.get("model") or "verifiers"


def labelled_pairs(pairs: int, fmt: ResponseFormat = THINK_ANSWER, seed: int = _SEED) -> list[Labelled]:
    """`pairs` sound and as many unsound responses of the miniature world; the same ones for one seed."""
    return [one for index in range(pairs) for one in labelled_pair(seed, index, fmt)]


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


def _score(
    settings: dict[str, str],
    labelled: Sequence[Labelled],
    kept: Sequence[bool | None],
    listed: Sequence[str],
) -> Score:
    def number(consistent: bool, verdict: bool) -> int:
        return sum(one.consistent is consistent and keep is verdict for one, keep in zip(labelled, kept, strict=True))

    sound, unsound = number(True, True), number(False, True)
    kinds = {}
    for kind in listed:
        labels = sorted({one.consistent for one in labelled if one.kind == kind}, reverse=True) or [kind in SOUND]
        for label in labels:
            of_kind = [
                keep for one, keep in zip(labelled, kept, strict=True) if (one.kind, one.consistent) == (kind, label)
            ]
            name = kind if len(labels) == 1 else f"{kind}, {'sound' if label else 'unsound'}"
            kinds[name] = KindScore(label, len(of_kind), of_kind.count(True), of_kind.count(None))
    return Score(
        settings,
        _share(sound, sound + unsound),
        _share(sound, sound + number(True, False)),
        _share(number(False, False), unsound + number(False, False)),
        list(kept).count(None),
        kinds,
        tuple(kept),
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
