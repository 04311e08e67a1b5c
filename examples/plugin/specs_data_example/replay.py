"""A policy that has answered already: `--policy` is a JSON file of responses by question."""

from __future__ import annotations

import json
from pathlib import Path

from specs_data.errors import PromptRefused, UserError
from specs_data.plugins import ModelOptions
from specs_data.records import Request, Response, Sampling


class Replay:
    """Answers each question with the response that the file has for it."""

    concurrency = 64

    def __init__(self, policy: str, sampling: Sampling, options: ModelOptions) -> None:
        try:
            self._responses: dict[str, str] = json.loads(Path(policy).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--policy {policy} is no JSON file of responses: {error}") from None

    async def generate(self, request: Request) -> Response:
        """The response in the file. Raises PromptRefused for a question that it lacks."""
        question = request.messages[-1].content
        if question not in self._responses:
            raise PromptRefused("question unknown")
        return Response(self._responses[question])

    async def close(self) -> None:
        """Nothing to release."""
