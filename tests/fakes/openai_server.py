"""A chat-completions server on the loopback that answers at once, or fails on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import msgspec
from aiohttp import web
from msgspec import Struct


class Reply(Struct, frozen=True):
    """One answer. `choice` adds to the JSON of the choice, as `{"stop_reason": "</answer>"}`, `body` to the whole; a
    `status` other than 200 answers with `text` as the error; `drop` breaks the connection instead."""

    text: str = ""
    finish_reason: str = "stop"
    choice: dict[str, Any] = {}
    body: dict[str, Any] = {}
    status: int = 200
    headers: dict[str, str] = {}
    drop: bool = False
    delay: float = 0.0


class OpenAIServer:
    """Serves what `answer` makes of each request body, and remembers the bodies and their headers.

        async with OpenAIServer(lambda body: "four") as server:
            ... server.url ...

    `models` that is a status lists none. `die` breaks all connections and closes the port; `start` opens it again.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any]], str | Reply], *, models: tuple[str, ...] | int = ("tiny",)
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.port = 0
        self._answer = answer
        self._models = models
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The base URL, without /v1."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def start(self) -> None:
        """Open the port (the same as before, if there was one)."""
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._list)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def die(self) -> None:
        """Break all connections and close the port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _list(self, _: web.Request) -> web.Response:
        if isinstance(self._models, int):
            return web.json_response({"error": "no list for you"}, status=self._models)
        return web.json_response({"object": "list", "data": [{"id": name} for name in self._models]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = self._answer(body)
            reply = Reply(answer) if isinstance(answer, str) else answer
            if reply.delay:
                await asyncio.sleep(reply.delay)
        finally:
            self.in_flight -= 1
        if reply.drop:
            assert request.transport is not None
            request.transport.abort()
        if reply.status != 200:
            error = {"error": {"message": reply.text, "type": "server", "code": reply.status}}
            return web.json_response(error, status=reply.status, headers=reply.headers)
        return web.Response(body=completion(reply, body["model"]), content_type="application/json")


def completion(reply: Reply, model: str) -> bytes:
    """A chat completion as JSON, with one token counted per word."""
    message = {"role": "assistant", "content": reply.text}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason, **reply.choice}
    usage = {"prompt_tokens": 5, "completion_tokens": len(reply.text.split()), "total_tokens": 5}
    return msgspec.json.encode(
        {"id": "chatcmpl-1", "object": "chat.completion", "model": model, "choices": [choice], "usage": usage}
        | reply.body
    )
