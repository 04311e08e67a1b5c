"""A model as judge of open-ended answers (the paper used GPT-4o): does the answer agree with the reference?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specs_data.errors import UserError
from specs_data.recipe import Recipe
from specs_data.records import Judgement, Problem
from specs_data.services import Asker, Form, Refusals, Words, ask_about, form_sha256
from specs_data.services.limits import Budget
from specs_data.services.opening import open_asker
from specs_data.texts import Text, chat, load_prompt


class Agreement(Form):
    """The judgement, in the order in which it should be thought through."""

    reason: Words = ""
    right: bool


class ModelJudge:
    """Judges through a service. `model` was asked for; `prompt` is the rubric."""

    def __init__(self, asker: Asker, prompt: Text | None = None) -> None:
        self._asker = asker
        self.prompt = prompt or load_prompt("judge-open")
        self.model = asker.settings["model"]

    @property
    def concurrency(self) -> int:
        """How many `judge` calls may be waiting at once."""
        return self._asker.concurrency

    @property
    def settings(self) -> Mapping[str, str]:
        """The service, the model and its options, and the hashes of rubric and form."""
        return {**self._asker.settings, "prompt": self.prompt.sha256, "form": form_sha256(Agreement)}

    async def judge(self, problem: Problem, answer: str, images: Sequence[bytes]) -> Judgement:
        """Judge the final answer of a response to `problem`. A blank answer is wrong, and a problem
        without a gold answer cannot be judged; nobody is asked about either.

        Raises Undecided with a services.Reason, and UserError where the run must stop."""
        if not problem.answer.strip():
            return Judgement(right=None, rule="no gold answer", answer=answer or None)
        if not answer.strip():
            return Judgement(right=False, rule="no answer")
        parts = {
            "QUESTION": chat(problem, None)[-1].content,
            "REFERENCE ANSWER": problem.answer,
            "ANSWER TO JUDGE": answer,
        }
        found = await self._asker.ask(ask_about(self.prompt.body, parts, images, Agreement))
        return Judgement(
            right=found.filled.right,
            rule="model",
            answer=answer,
            model=self.model,
            served=found.served,
            prompt_tokens=found.prompt_tokens,
            completion_tokens=found.completion_tokens,
        )

    async def close(self) -> None:
        """Release connections."""
        await self._asker.close()


def open_judge(recipe: Recipe, budget: Budget, refused: Refusals | None = None) -> ModelJudge | None:
    """The judge of open-ended answers that `recipe` names (gemini:MODEL, openai:MODEL), if it names one.

    `budget` is shared with the other judging services, and `refused` what earlier runs
    were refused. Raises UserError."""
    if recipe.judge_model is None:
        return None
    service, _, model = recipe.judge_model.partition(":")
    if service not in ("gemini", "openai") or not model:
        raise UserError(f"--judge-model {recipe.judge_model!r} should be gemini:MODEL or openai:MODEL")
    url = recipe.judge_base_url
    return ModelJudge(open_asker(service, model, url, recipe, budget, "judging", refused=refused))
