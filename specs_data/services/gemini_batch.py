"""Gemini's batch jobs: the same questions at half the price, answered within a day or so.

Questions gather until no more come for a while, and then go out as one job: inside the request where
they are small, otherwise as an uploaded JSONL file. A job goes into a durable log before it is
submitted, so that a run that was killed finds it again: its questions come again with the same keys
and are attached to the job instead of being paid for twice. Answers are matched by key, never by
order; what failed or expired is submitted again.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msgspec import Struct

from specs_data import wire
from specs_data.errors import UserError, require
from specs_data.services import TWICE, Answer, F, Failed, Question, Reason, Refusals, Reply, fill, json_schema
from specs_data.services.gemini import GeminiClient, read_response
from specs_data.services.limits import Budget, Health, Spending
from specs_data.services.service import answer, check_served, client_settings

if TYPE_CHECKING:
    from google.genai import types

# A request may have 20 MB; a job's file is put together in memory.
INLINE_BYTES = 15_000_000
JOB_BYTES = 200_000_000
# For one call about a job; uploads and downloads are large.
CALL_SECONDS = 600.0

_OPEN = {"JOB_STATE_UNSPECIFIED", "JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_CANCELLING"}
_INVALID = {3, 400}  # INVALID_ARGUMENT as a gRPC and as an HTTP code

T = TypeVar("T")
Outcome = Reply | Failed | UserError


class Job(Struct, frozen=True):
    """A batch job: its label, which is unique, the keys of its questions, and the name the service
    gave it, empty until it is known to be submitted."""

    label: str
    keys: tuple[str, ...]
    name: str = ""


class _Unread(Failed):
    """The job could not be asked about. It is still there: its questions must not be submitted a second time."""


class JobLog(Refusals, Protocol):
    """Where jobs are kept across runs, and what was refused."""

    def jobs(self) -> Sequence[Job]:
        """All jobs, the oldest first."""
        ...

    def put_job(self, job: Job) -> None:
        """Keep a job, in place of an earlier one with the same label. Durable on return."""
        ...


class GeminiBatch:
    """Gets questions answered through batch jobs of up to `size`, submitted when no question has come
    for `idle` seconds or the first has waited for `longest`. Jobs are looked at every `poll` seconds.
    Each question goes into at most `attempts` jobs. `stage` is what the questions are for; it goes on
    record with what they cost."""

    def __init__(
        self,
        client: GeminiClient,
        budget: Budget,
        log: JobLog,
        *,
        stage: str = "verification",
        allow_mismatch: bool = False,
        size: int = 1000,
        idle: float = 20.0,
        longest: float = 600.0,
        poll: float = 30.0,
        attempts: int = 3,
        pause: float = 2.0,
    ) -> None:
        self._client = client
        self._spending = Spending(client, budget, stage, batch=True)
        self._health = Health(f"Gemini's batch jobs ({client.model})", log)
        self._log = log
        self._allow_mismatch = allow_mismatch
        self._size = size
        self._idle = idle
        self._longest = longest
        self._poll = poll
        self._attempts = attempts
        self._pause = pause
        self._outcomes: dict[str, asyncio.Future[Outcome]] = {}
        self._waiting: dict[str, Question[Any]] = {}
        self._arrived = asyncio.Event()
        self._job_of = {key: job for job in log.jobs() for key in job.keys}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def settings(self) -> Mapping[str, str]:
        """The service, the model and its options; a verdict is the same whether it came in a batch or not."""
        return client_settings(self._client)

    @property
    def concurrency(self) -> int:
        """One job that runs and one that gathers."""
        return 2 * self._size

    async def ask(self, question: Question[F]) -> Answer[F]:
        """The answer, hours later. Raises Undecided with a Reason, and UserError where the run must stop."""
        key = self._key(question)
        paid: list[Reply] = []
        of_the_item = 0
        for attempt in range(1, self._attempts + 1):
            self._health.check()
            async with self._spending.call(question) as replies:
                future = self._outcome(key, question)
                outcome = await asyncio.shield(future)
                replies.append(_paid(outcome))
            paid.extend(replies)
            try:
                filled = self._fill(question, outcome)
            except UserError as error:
                self._health.stop(error)
            except Failed as failure:
                if self._outcomes.get(key) is future:
                    del self._outcomes[key]
                    if not isinstance(failure, _Unread):
                        self._release(key)
                of_the_item += failure.of_the_item
                if failure.final or attempt == self._attempts or of_the_item == TWICE:
                    self._health.undecided(failure, question.item)
            else:
                self._health.decided()
                return answer(filled, paid)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Release connections. Jobs go on by themselves, and the next run finds them."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._client.close()

    def _key(self, question: Question[Any]) -> str:
        content = [dict(self.settings), question.rubric, json_schema(question.form)]
        return f"{question.item}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"

    def _fill(self, question: Question[F], outcome: Outcome) -> F:
        if not isinstance(outcome, Reply):
            raise outcome
        if not self._allow_mismatch:
            check_served(self._client, outcome.served)
        filled = fill(question.form, outcome.text, question.item)
        if filled.item not in ("", question.item):
            raise Failed("broken answer", "the answer is to another item")
        return filled

    # From questions to jobs

    def _outcome(self, key: str, question: Question[Any]) -> asyncio.Future[Outcome]:
        if key not in self._outcomes:
            self._outcomes[key] = asyncio.get_running_loop().create_future()
            if key in self._job_of:
                self._follow(self._job_of[key])
            else:
                self._waiting[key] = question
                self._arrived.set()
                self._start("gather", self._gather)
        return self._outcomes[key]

    def _release(self, key: str) -> None:
        """Take a question out of its job, for good: its answer is of no use, and is not to be paid for again."""
        job = self._job_of.pop(key, None)
        if job is not None:
            keys = (other for other in job.keys if other in self._job_of and self._job_of[other].label == job.label)
            self._log.put_job(Job(job.label, tuple(keys), job.name))

    def _start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        if name not in self._tasks or self._tasks[name].done():
            self._tasks[name] = asyncio.ensure_future(work())

    def _follow(self, job: Job) -> None:
        async def finish() -> None:
            self._settle(job.keys, await self._finish(job))

        self._start(job.label, finish)

    def _settle(self, keys: Sequence[str], outcomes: Mapping[str, Outcome]) -> None:
        """Give every one of these keys its outcome; a key without one is owed again."""
        for key in keys:
            future = self._outcomes.setdefault(key, asyncio.get_running_loop().create_future())
            if not future.done():
                future.set_result(outcomes.get(key, Failed("job failed")))

    async def _gather(self) -> None:
        while self._waiting:
            await self._until_quiet()
            batch = self._take()
            try:
                self._follow(await self._submit(batch))
            except (Failed, UserError) as error:
                self._settle(tuple(batch), dict.fromkeys(batch, error))

    async def _until_quiet(self) -> None:
        last = asyncio.get_running_loop().time() + self._longest
        while len(self._waiting) < self._size and sum(map(_size, self._waiting.values())) < JOB_BYTES:
            self._arrived.clear()
            patience = min(self._idle, last - asyncio.get_running_loop().time())
            try:
                await asyncio.wait_for(self._arrived.wait(), patience)
            except TimeoutError:
                return

    def _take(self) -> dict[str, Question[Any]]:
        batch: dict[str, Question[Any]] = {}
        total = 0
        for key, question in islice(self._waiting.items(), self._size):
            total += _size(question)
            if batch and total > JOB_BYTES:
                break
            batch[key] = question
        for key in batch:
            del self._waiting[key]
        return batch

    async def _submit(self, batch: Mapping[str, Question[Any]]) -> Job:
        job = Job(f"specs-data-{uuid.uuid4().hex}", tuple(batch))
        self._log.put_job(job)
        source = await self._source(job.label, batch)
        job = Job(job.label, job.keys, await self._create(job.label, source))
        self._log.put_job(job)
        self._job_of.update(dict.fromkeys(job.keys, job))
        return job

    async def _source(self, label: str, batch: Mapping[str, Question[Any]]) -> Any:
        sdk = require("google.genai", "gemini").types
        requests = ((key, self._client.request(question)) for key, question in batch.items())
        if sum(map(_size, batch.values())) < INLINE_BYTES:
            return [
                sdk.InlinedRequest(contents=_contents(request), config=_config(request), metadata={"key": key})
                for key, request in requests
            ]
        lines = b"".join(json.dumps({"key": key, "request": request}).encode() + b"\n" for key, request in requests)
        config = sdk.UploadFileConfig(mime_type="jsonl", display_name=label)
        upload = self._client.sdk.aio.files.upload
        file = await self._patiently(lambda: upload(file=io.BytesIO(lines), config=config))
        return file.name

    async def _create(self, label: str, source: Any) -> str:
        """Submit the job, once: when it is not clear whether that worked, the service's list decides."""
        attempted = False

        async def create() -> str:
            nonlocal attempted
            name = await self._find(label) if attempted else ""
            attempted = True
            if not name:
                create = self._client.sdk.aio.batches.create
                job = await create(model=self._client.model, src=source, config={"display_name": label})
                name = job.name or ""
            return name

        return await self._patiently(create)

    # From jobs to answers

    async def _finish(self, job: Job) -> Mapping[str, Outcome]:
        """Wait for the job's end and read its answers."""
        try:
            name = job.name
            if not name:
                name = await self._patiently(partial(self._find, job.label))
            found = await self._get(name) if name else None
            while found is not None and (found.state is None or found.state.value in _OPEN):
                await asyncio.sleep(self._poll)
                found = await self._get(name)
            return await self._read(found, job) if found is not None else {}
        except Failed as failure:
            return dict.fromkeys(job.keys, _Unread(failure.reason, failure.detail, final=True))
        except UserError as error:
            return dict.fromkeys(job.keys, error)

    async def _unless_gone(self, call: Awaitable[T], *signs: int) -> T | None:
        """What a call about a job or a file returns, None if the service says with one of these codes that it
        has no such thing."""
        errors = require("google.genai.errors", "gemini")
        try:
            return await call
        except errors.ClientError as error:
            if error.code in signs:
                return None
            raise

    def _get(self, name: str) -> Awaitable[types.BatchJob | None]:
        # With 403 the job is there, for another key: to submit its questions again would pay for them twice.
        return self._patiently(lambda: self._unless_gone(self._client.sdk.aio.batches.get(name=name), 404))

    async def _find(self, label: str) -> str:
        """The name of the job with this label, empty if the service has none."""
        async for job in await self._client.sdk.aio.batches.list(config={"page_size": 100}):
            if job.display_name == label:
                return str(job.name)
        return ""

    async def _read(self, found: types.BatchJob, job: Job) -> Mapping[str, Outcome]:
        if found.dest is None:
            return {}
        outcomes: dict[str, Outcome] = {}
        if found.dest.file_name:
            file, download = found.dest.file_name, self._client.sdk.aio.files.download
            # A file that has expired is answered with 403.
            data = await self._patiently(lambda: self._unless_gone(download(file=file), 403, 404))
            # As bytes: a text would also end a line at a U+2028 or U+0085 that a model wrote.
            entries = [_entry(line.decode(errors="replace")) for line in (data or b"").splitlines()]
        else:
            dump = {"mode": "json", "by_alias": True, "exclude_none": True}
            entries = [response.model_dump(**dump) for response in found.dest.inlined_responses or []]
        for entry in entries:
            outcome = _outcome(entry)
            key = _key_of(entry, outcome, job.keys)
            if key is not None:
                outcomes[key] = outcome
        return outcomes

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call to the service, repeated for some minutes. Raises Failed in the end."""
        for attempt in range(1, 11):
            try:
                with self._client.failures():
                    async with asyncio.timeout(CALL_SECONDS):
                        return await call()
            except Failed as failure:
                if failure.final or attempt == 10:
                    raise
                await asyncio.sleep(wire.pause(attempt, failure.wait, self._pause))
        raise AssertionError("unreachable")


def _paid(outcome: Outcome) -> Reply:
    if isinstance(outcome, Reply):
        return outcome
    return outcome.paid if isinstance(outcome, Failed) else Reply()


def _size(question: Question[Any]) -> int:
    return sum(map(len, question.images)) * 4 // 3 + len(question.rubric) + len(question.text) + 1000


def _config(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rubric, form and options of a request as the client takes them; it knows the names in wire format."""
    return {"systemInstruction": request["systemInstruction"], **request["generationConfig"]}


def _contents(request: Mapping[str, Any]) -> list[types.Content]:
    """The item of a request as the client takes it: from JSON, where its bytes are base64."""
    content = require("google.genai.types", "gemini").Content
    return [content.model_validate_json(json.dumps(item)) for item in request["contents"]]


def _entry(line: str) -> Mapping[str, Any]:
    """A line of a job's answers; a broken one is like a missing one."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _outcome(entry: Mapping[str, Any]) -> Reply | Failed:
    error = entry.get("error")
    if isinstance(error, dict):
        refused = error.get("code") in _INVALID
        reason: Reason = "refused" if refused else "service error"
        return Failed(reason, str(error.get("message") or "")[:200], final=refused)
    try:
        return read_response(entry.get("response") or {})
    except Failed as failure:
        return failure


def _key_of(entry: Mapping[str, Any], outcome: Reply | Failed, keys: Sequence[str]) -> str | None:
    """Which question an answer belongs to: by its key, or else by the item's id that it repeats."""
    metadata = entry.get("metadata")
    key = entry.get("key") or (metadata.get("key") if isinstance(metadata, dict) else None)
    if key is None and isinstance(outcome, Reply):
        item = _entry(outcome.text).get("item")
        return next((key for key in keys if item and key.startswith(f"{item}-")), None)
    return key if key in keys else None
