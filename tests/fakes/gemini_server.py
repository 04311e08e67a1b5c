"""A judging service on the loopback: Gemini's wire format with its batch API, and OpenAI's chat completions.

It answers what it is told to, and fails how it is told to: `faults` are used up one per call, in
order. As a program it is the far end of benchmarks/verifier_throughput.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Self

import uvloop
from aiohttp import web

Body = dict[str, Any]
_DAY = "GenerateRequestsPerDayPerProjectPerModel"
GOOD = {"item": "", "reason": "It adds up.", "answer": "5", "consistent": True, "right": True}


def item_of(text: str) -> str:
    """The item's id in a question."""
    return re.findall(r"^Item (\w+)", text, re.MULTILINE)[-1]


def agree(system: str, text: str, images: list[Body]) -> str:
    """The answer by default: consistent, right."""
    return json.dumps({**GOOD, "item": item_of(text)})


class Service:
    """A loopback server in a thread of its own: `with Service() as service: ... service.url`.

    Calls are in `calls` (path, headers, body), `answer(system, text, images)` makes the model's text."""

    def __init__(self, answer: Callable[[str, str, list[Body]], str] = agree, port: int = 0) -> None:
        self.answer = answer
        self.faults: deque[str] = deque()
        self.fault_of: Callable[[str], str] = lambda text: ""  # by what is asked, once the queue is used up
        self.calls: list[tuple[str, dict[str, str], Body]] = []
        self.served = ""
        self.latency = 0.0
        self.share_429 = 0.0
        self.retry_delay = 0.5
        self.in_flight = 0
        self.most_in_flight = 0
        self.refused_options: tuple[str, ...] = ()
        self.complaints: dict[str, str] = {}  # what is said of a type of response_format
        # Batch jobs: label -> job; what `finish` does to each entry of a finished job's answers.
        self.jobs: dict[str, Body] = {}
        self.files: dict[str, bytes] = {}
        self.finished = threading.Event()
        self.finished.set()
        self.state = "BATCH_STATE_SUCCEEDED"
        self.finish: Callable[[list[Body]], list[Body]] = lambda entries: entries
        self.create_faults: deque[str] = deque()
        self.get_faults: deque[str] = deque()
        self._port = port
        self._loop = uvloop.new_event_loop()
        self._random = random.Random(0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._up = threading.Event()
        self._leaving = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join()

    @property
    def texts(self) -> list[str]:
        """The item text of each live call."""
        return [_question(body)[1] if "contents" in body else _chat(body)[1] for _, _, body in self.calls]

    def _serve(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/{version}/models/{model}:generateContent", self._generate)
        app.router.add_post("/{version}/models/{model}:batchGenerateContent", self._create_job)
        app.router.add_get("/{version}/batches", self._list_jobs)
        app.router.add_get("/{version}/batches/{name}", self._get_job)
        app.router.add_post("/upload/{version}/files", self._start_upload)
        app.router.add_post("/upload/data/{name}", self._upload)
        app.router.add_get("/{version}/files/{name}:download", self._download)
        app.router.add_post("/v1/chat/completions", self._complete)

        async def start() -> None:
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self._port, backlog=1024)
            await site.start()
            self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            self.url = f"http://127.0.0.1:{self._port}"
            self._runner = runner
            self._up.set()

        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(start())
        self._loop.run_until_complete(self._leaving.wait())
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    # Live calls

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        due = self._loop.time() + self.latency
        body = await request.json()
        self.calls.append((request.path, dict(request.headers), body))
        fault = self.faults.popleft() if self.faults else self.fault_of(_question(body)[1])
        if not fault and self._random.random() < self.share_429:
            fault = f"429 {self.retry_delay}"
        if fault and (response := await self._fail(request, fault)) is not None:
            return response
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(due - self._loop.time())
        finally:
            self.in_flight -= 1
        return web.json_response(self._response(request.match_info["model"], body, fault))

    def _response(self, model: str, body: Body, fault: str = "") -> Body:
        text = self.answer(*_question(body))
        candidate: Body = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}
        response: Body = {
            "candidates": [candidate],
            "usageMetadata": {
                "promptTokenCount": 1000,
                "candidatesTokenCount": 50,
                "thoughtsTokenCount": 150,
                "totalTokenCount": 1200,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1000}],
                "someNewField": 1,
            },
            "modelVersion": self.served or model,
            "responseId": "r1",
        }
        match fault:
            case "blocked":
                del response["candidates"]
                response["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
            case "no candidates":
                del response["candidates"]
            case "no parts":
                candidate["content"] = {"role": "model"}
            case "thoughts only":
                candidate["content"]["parts"] = [{"text": text, "thought": True}]
            case "MAX_TOKENS":
                candidate["finishReason"] = "MAX_TOKENS"
                candidate["content"]["parts"] = [{"text": text[: len(text) // 2]}]
            case "SAFETY":
                candidate["finishReason"] = "SAFETY"
                del candidate["content"]
            case "fenced":
                candidate["content"]["parts"] = [{"text": f"```json\n{text}\n```"}]
            case "broken JSON":
                candidate["content"]["parts"] = [{"text": text[:-3]}]
            case "two verdicts":
                candidate["content"]["parts"] = [{"text": text + text}]
            case "wrong form":
                candidate["content"]["parts"] = [{"text": '{"verdict": "fine"}'}]
            case "no usage":
                response["usageMetadata"] = {"promptTokenCount": None}
        return response

    async def _fail(self, request: web.Request, fault: str) -> web.StreamResponse | None:
        """The response to a call that fails before the model is asked."""
        kind, _, detail = fault.partition(" ")
        match kind:
            case "429":
                info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{detail}s"}
                headers = {"Retry-After": detail} if detail else {}
                return _error(429, "RESOURCE_EXHAUSTED", "Slow down.", [info] if detail else [], headers)
            case "day":
                violation = {"quotaMetric": "generate_content_free_tier_requests", "quotaId": f"{_DAY}-FreeTier"}
                spent = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}
                info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}
                return _error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", [spent, info])
            case "500" | "502" | "503" | "504":
                headers = {"Retry-After": detail} if detail else {}
                return _error(int(kind), "INTERNAL", "Something broke.", [], headers)
            case "html":
                return web.Response(status=502, text="<html>Bad gateway</html>", content_type="text/html")
            case "badkey":
                reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
                return _error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", [reason])
            case "400" | "402" | "451":
                return _error(int(kind), "INVALID_ARGUMENT", detail or "Unable to process input image.")
            case "401" | "403":
                return _error(int(kind), "PERMISSION_DENIED", "The caller does not have permission.")
            case "404":
                return _error(404, "NOT_FOUND", "models/nothing is not found.")
            case "quota":
                return web.json_response({"error": {"code": "insufficient_quota", "message": "Pay."}}, status=429)
            case "hang":
                await self._leaving.wait()
            case "body":
                return web.Response(text=detail, content_type="application/json")
            case "truncated":
                response = web.StreamResponse(headers={"Content-Length": "5000", "Content-Type": "application/json"})
                await response.prepare(request)
                await response.write(b'{"candidates": [')
                request.transport and request.transport.close()
                return response
            case "reset":
                request.transport and request.transport.abort()
                return web.Response()
        return None

    # Batch jobs

    async def _create_job(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        batch = body["batch"]
        fault = self.create_faults.popleft() if self.create_faults else ""
        if fault and fault != "created, then 503":
            response = await self._fail(request, fault)
            assert response is not None
            return response
        source = batch["inputConfig"]
        if "fileName" in source:
            lines = self.files[source["fileName"].removeprefix("files/")].splitlines()
            entries = [json.loads(line) for line in lines]
        else:
            entries = source["requests"]["requests"]
        name = f"batches/job{len(self.jobs)}"
        model = request.match_info["model"]
        self.jobs[name] = {
            "label": batch["displayName"],
            "model": model,
            "entries": entries,
            "file": "fileName" in source,
            "polls": 0,
        }
        if fault:
            return _error(503, "UNAVAILABLE", "Try again.")
        return web.json_response(self._job(name))

    def _job(self, name: str) -> Body:
        job = self.jobs[name]
        metadata: Body = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "model": f"models/{job['model']}",
            "displayName": job["label"],
            "state": self.state if self.finished.is_set() and job["polls"] else "BATCH_STATE_RUNNING",
            "name": name,
        }
        done = metadata["state"] != "BATCH_STATE_RUNNING"
        if done and self.state == "BATCH_STATE_SUCCEEDED":
            job.setdefault("output", self._output(name))
            metadata["output"] = job["output"]
        return {"name": name, "metadata": metadata, "done": done}

    def _output(self, name: str) -> Body:
        job = self.jobs[name]
        answers = []
        for entry in job["entries"]:
            tag = {"key": entry["key"]} if job["file"] else {"metadata": entry["metadata"]}
            answers.append({**tag, "response": self._response(job["model"], entry["request"])})
        answers = self.finish(answers)
        if not job["file"]:
            return {"inlinedResponses": {"inlinedResponses": answers}}
        out = f"batch-{name.removeprefix('batches/')}"
        self.files[out] = b"".join(
            answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n" for answer in answers
        )
        return {"responsesFile": f"files/{out}"}

    async def _list_jobs(self, request: web.Request) -> web.Response:
        return web.json_response({"operations": [self._job(name) for name in self.jobs]})

    async def _get_job(self, request: web.Request) -> web.StreamResponse:
        name = f"batches/{request.match_info['name']}"
        if self.get_faults and (response := await self._fail(request, self.get_faults.popleft())) is not None:
            return response
        if name not in self.jobs:
            return _error(404, "NOT_FOUND", "No such batch.")
        self.jobs[name]["polls"] += 1
        return web.json_response(self._job(name))

    async def _start_upload(self, request: web.Request) -> web.Response:
        name = f"file{len(self.files)}"
        self.files[name] = b""
        return web.json_response({}, headers={"x-goog-upload-url": f"{self.url}/upload/data/{name}"})

    async def _upload(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.files[name] += await request.read()
        if "finalize" in request.headers["X-Goog-Upload-Command"]:
            file = {"file": {"name": f"files/{name}", "state": "ACTIVE"}}
            return web.json_response(file, headers={"X-Goog-Upload-Status": "final"})
        return web.Response(headers={"X-Goog-Upload-Status": "active"})

    async def _download(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["name"]])

    # OpenAI

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append((request.path, dict(request.headers), body))
        for option in self.refused_options:
            if option in body:
                message = f"Unsupported parameter: '{option}' is not supported with this model."
                return web.json_response({"error": {"message": message, "param": option}}, status=400)
        if complaint := self.complaints.get((body.get("response_format") or {}).get("type", "")):
            return web.json_response({"error": {"message": complaint}}, status=400)
        fault = self.faults.popleft() if self.faults else self.fault_of(_chat(body)[1])
        if fault and (response := await self._fail(request, fault)) is not None:
            return response
        message: Body = {"role": "assistant", "content": self.answer(*_chat(body))}
        finish = "stop"
        match fault:
            case "MAX_TOKENS":
                message["content"], finish = message["content"][:10], "length"
            case "blocked":
                message["content"], finish = None, "content_filter"
            case "refusal":
                message = {"role": "assistant", "content": None, "refusal": "No."}
            case "no parts":
                message["content"] = None
            case "fenced":
                message["content"] = f"```json\n{message['content']}\n```"
            case "thought aloud":
                message["content"] = f"<think>{{}} hm</think>\n{message['content']}"
            case "blocks":
                thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
                message["content"] = [thought, {"type": "text", "text": message["content"]}]
            case "broken JSON":
                message["content"] = message["content"][:-3]
        choices = [] if fault == "no candidates" else [{"index": 0, "message": message, "finish_reason": finish}]
        usage = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}
        return web.json_response({"model": self.served or body["model"], "choices": choices, "usage": usage})


def _error(
    code: int, status: str, message: str, details: list[Body] | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    error = {"code": code, "status": status, "message": message, "details": details or []}
    return web.json_response({"error": error}, status=code, headers=headers)


def _question(body: Body) -> tuple[str, str, list[Body]]:
    parts = body["contents"][-1]["parts"]
    texts = [part["text"] for part in parts if "text" in part]
    system = body["systemInstruction"]["parts"][0]["text"]
    return system, "\n".join(texts), [part["inlineData"] for part in parts if "inlineData" in part]


def _chat(body: Body) -> tuple[str, str, list[Body]]:
    system, user = body["messages"]
    texts = [part["text"] for part in user["content"] if part["type"] == "text"]
    images = [part["image_url"] for part in user["content"] if part["type"] == "image_url"]
    return system["content"], "\n".join(texts), images


def main() -> None:
    """Serve until killed; the first line printed is the URL."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--share-429", type=float, default=0.05)
    parser.add_argument("--retry-delay", type=float, default=0.5)
    options = parser.parse_args()
    with Service() as service:
        service.latency = options.latency
        service.share_429 = options.share_429
        service.retry_delay = options.retry_delay
        print(service.url, flush=True)  # noqa: T201
        while True:
            time.sleep(1)
            service.calls.clear()  # nobody asks for them, and they are large


if __name__ == "__main__":
    main()
