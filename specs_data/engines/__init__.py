"""The engine seam: whatever turns requests into responses.

An engine serves many `generate` calls at once and keeps its model busy with them; the caller keeps
about `concurrency` calls in flight. To add one, write a module here with a class that satisfies
Engine and name it in `open_engine`.
"""

from __future__ import annotations

from typing import Protocol

from specs_data.records import Request, Response


class Engine(Protocol):
    """A policy that can be sampled."""

    @property
    def concurrency(self) -> int:
        """How many `generate` calls in flight keep the model fully busy."""
        ...

    async def generate(self, request: Request) -> Response:
        """Sample one response. Raises PromptRefused where this one request cannot be served, and
        EngineFailed where the engine can serve none."""
        ...

    async def close(self) -> None:
        """Release the model. Calls still in flight may fail."""
        ...
