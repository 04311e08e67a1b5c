"""A model as verifier: does the reasoning lead to the final answer? (Paper: Gemini-2.5-flash filters reasoning paths.)

The model sees the picture, the question and the whole response, and not the gold answer: a verifier
that knows it tends to excuse reasoning that went elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specs_data.records import Judged, Verdict
from specs_data.services import Asker, Form, Words, ask_about, form_sha256
from specs_data.texts import Text, chat, load_prompt
from specs_data.verifiers import VerifierOptions


class Consistency(Form):
    """The verdict, in the order in which it should be thought through."""

    reason: Words = ""
    answer: Words = ""
    consistent: bool


class ModelVerifier:
    """Verifies through a service. `model` was asked for; `prompt` is the rubric."""

    paid = True

    def __init__(self, asker: Asker, prompt: Text | None = None) -> None:
        self._asker = asker
        self.prompt = prompt or load_prompt("verify")
        self.model = asker.settings["model"]

    @property
    def concurrency(self) -> int:
        """How many `verify` calls may be waiting at once."""
        return self._asker.concurrency

    @property
    def settings(self) -> Mapping[str, str]:
        """The service, the model and its options, and the hashes of rubric and form."""
        return {**self._asker.settings, "prompt": self.prompt.sha256, "form": form_sha256(Consistency)}

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        """Judge one sample. Raises Undecided with a services.Reason, and UserError where the run must stop."""
        sample = judged.sample
        parts = {"QUESTION": chat(sample.problem, None)[-1].content, "RESPONSE": sample.response.text}
        answer = await self._asker.ask(ask_about(self.prompt.body, parts, images, Consistency))
        return Verdict(
            consistent=answer.filled.consistent,
            reason=answer.filled.reason,
            answer=answer.filled.answer or None,
            model=self.model,
            served=answer.served,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )

    async def close(self) -> None:
        """Release connections."""
        await self._asker.close()


def open_gemini(options: VerifierOptions) -> ModelVerifier:
    """A Gemini model as verifier."""
    return ModelVerifier(options.asker("gemini"))


def open_openai(options: VerifierOptions) -> ModelVerifier:
    """A model at an OpenAI-compatible server as verifier."""
    return ModelVerifier(options.asker("openai"))
