"""An engine that plays a script: for tests, benchmarks and rehearsals without a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from specs_data.records import Request, Response


class ScriptedEngine:
    """Answers each request with what `script` returns for it, `delay` seconds later.

    The script may raise PromptRefused, Undecided or EngineFailed, as a real engine would.

        engine = ScriptedEngine(lambda request: f"<think>...</think>\n<answer>{request.seed}</answer>")
    """

    def __init__(
        self, script: Callable[[Request], str | Response], *, concurrency: int = 64, delay: float = 0.0
    ) -> None:
        self.concurrency = concurrency
        self.calls = 0
        self._script = script
        self._delay = delay

    async def generate(self, request: Request) -> Response:
        """The script's response to `request`; a plain string is a response that ended by itself."""
        self.calls += 1
        if self._delay:
            await asyncio.sleep(self._delay)
        response = self._script(request)
        return Response(response) if isinstance(response, str) else response

    async def close(self) -> None:
        """Nothing to release."""
