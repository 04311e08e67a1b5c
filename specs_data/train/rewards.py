"""The reward of both GRPO stages: R = R_format + R_accuracy (paper, stage 3).

    R_format    0.5 if the response has the format, else 0
    R_accuracy  1.0 if its answer is right, else 0, whatever its format

and, where a weight is given for it (the paper has none: later work shows that RL on answers alone makes the
reasoning fit them less),

    R_consistent  the weight if a right and well-formed response reasons its way to its answer, as the verifier by
                  rule tells; nothing where that cannot tell

The first two come from the code that builds the data: ResponseFormat.check, the rule judge, and a judge model
for open-ended answers.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from specs_data.errors import Undecided
from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.judges.model import ModelJudge
from specs_data.judges.rules import RuleJudge, final_answer
from specs_data.records import Problem
from specs_data.verifiers.rules import verify_thought

FORMAT_REWARD = 0.5
ACCURACY_REWARD = 1.0
RIGHT = "right"  # the column of verdicts in TRL's logs
_PLAIN = THINK_ANSWER.render("plain", "x")


class Judge(Protocol):
    """Says whether the answer in a response is right; None where that cannot be judged. `images` are
    the problem's, as PIL images."""

    async def __call__(self, problem: Problem, response: str, images: Sequence[Any]) -> bool | None: ...


def judge_with(rules: RuleJudge, model: ModelJudge | None, format: ResponseFormat) -> Judge:
    """Open-ended answers judged by `model`, all others by rule."""
    places = asyncio.Semaphore(model.concurrency if model else 1)

    async def judge(problem: Problem, response: str, images: Sequence[Any]) -> bool | None:
        if model is None or problem.answer_type != "open":
            return await _by_rule(rules, response, problem, format)
        answer = final_answer(response, format) or ""
        try:
            async with places:
                return (await model.judge(problem, answer, list(map(_png, images)))).right
        except Undecided:
            return None

    return judge


async def _by_rule(rules: RuleJudge, response: str, problem: Problem, format: ResponseFormat) -> bool | None:
    """The verdict by rule; None where the gold cannot be judged, whatever the response.

    An answer that is too long, too large or takes too much time to compare is wrong, or a policy
    could escape the lower reward by what it writes. That the answer is the cause, not the gold, is
    seen from a plain answer in its place, which can be judged.
    """
    judged = await rules.ajudge(response, problem.answer, problem.answer_type, problem.choices, format, problem.policy)
    if judged.right is not None:
        return judged.right
    plain = await rules.ajudge(_PLAIN, problem.answer, problem.answer_type, problem.choices)
    return None if plain.right is None else False


def reward(well_formed: bool, right: bool | None, consistent: float = 0.0) -> float | None:
    """R, or None for a response whose answer was not judged: it is left out of its group, because a
    service that failed, or a gold that says nothing, has not said that the answer is wrong. `consistent` is
    what the response gets for its reasoning."""
    return None if right is None else FORMAT_REWARD * well_formed + ACCURACY_REWARD * right + consistent


def reward_function(
    format: ResponseFormat, judge: Judge, consistency_weight: float = 0.0, opened: str = ""
) -> Callable[..., Any]:
    """R as TRL calls it, once per batch of completions, each of which goes on from what the chat template has `opened`;
    logs the shares `format` and `accuracy`, with a
    `consistency_weight` also `consistency` (of those that are right and well formed), and each verdict as `right`."""

    async def specs_reward(
        completions: Sequence[Any],
        problem: Sequence[str],
        log_metric: Callable[[str, float], None],
        log_extra: Callable[[str, list[bool | None]], None],
        images: Sequence[Sequence[Any]] | None = None,
        **_: Any,
    ) -> list[float | None]:
        texts = [opened + completion[0]["content"] for completion in completions]
        problems = [msgspec.json.decode(text, type=Problem) for text in problem]
        right = await asyncio.gather(*map(judge, problems, texts, images or [()] * len(texts)))
        log_extra(RIGHT, right)
        well_formed = [format.check(text) is None for text in texts]
        log_metric("format", sum(well_formed) / len(texts))
        if judged := [verdict for verdict in right if verdict is not None]:
            log_metric("accuracy", sum(judged) / len(judged))
        if not consistency_weight:
            return list(map(reward, well_formed, right))
        good = [formed and bool(verdict) for formed, verdict in zip(well_formed, right, strict=True)]
        consistent = [one and is_consistent(*response) for one, *response in zip(good, problems, texts, strict=True)]
        if any(good):
            log_metric("consistency", sum(consistent) / sum(good))
        return list(map(reward, well_formed, right, (consistency_weight * one for one in consistent)))

    def is_consistent(problem: Problem, text: str) -> bool:
        parsed = format.parse(text)
        if isinstance(parsed, str) or format.thought is None:
            return False
        return verify_thought(parsed[0], final_answer(text, format) or "", problem).consistent

    return specs_reward


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()
