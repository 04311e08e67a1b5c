"""The way of one response through the stages, and the search that sends responses on it.

Every stage looks into the store first and appends to it after; what a stage leaves out carries its
reason there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum, auto
from typing import Any, Self, TypeVar

import msgspec

from specs_data.build.agenda import Agenda
from specs_data.engines import Engine
from specs_data.errors import PromptRefused, Undecided, UserError
from specs_data.judges.answers import final_answer
from specs_data.judges.model import ModelJudge
from specs_data.judges.rules import RuleJudge
from specs_data.pairs.twin import make_twin
from specs_data.records import Judged, Judgement, Problem, Rejected, Request, Response, Sample, Twin, Verdict
from specs_data.rollouts.plan import Plan, Source
from specs_data.rollouts.planning import Parts
from specs_data.rollouts.sample import make_request
from specs_data.rollouts.store import Answers, Stage, Store, digest

logger = logging.getLogger(__name__)

WRONG = "wrong answer"
# So many refusals without one response are no fault of the prompts.
MOST_REFUSALS = 64

_response = msgspec.json.Decoder(Response).decode
_judgement = msgspec.json.Decoder(Judgement).decode
_verdict = msgspec.json.Decoder(Verdict).decode


class Outcome(Enum):
    """What became of one response."""

    KEPT = auto()
    LEFT = auto()  # left out; another response to the same problem may do better
    OVER = auto()  # this problem gets no other response


T = TypeVar("T")
Log = Callable[[Stage, int, int, int], tuple[str | None, bytes] | None]
Attempt = Callable[[int, int, int], Awaitable[Outcome]]


class Clock:
    """The seconds during which at least one `with` block was open."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._open = 0
        self._since = 0.0

    def __enter__(self) -> Self:
        if not self._open:
            self._since = time.perf_counter()
        self._open += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._open -= 1
        if not self._open:
            self.seconds += time.perf_counter() - self._since


class Flow:
    """The stages of one run, with the services they use. Attempts name a problem by its number in
    the store and a response by its index."""

    def __init__(self, plan: Plan, parts: Parts, store: Store, answers: Answers, rules: RuleJudge) -> None:
        self.clocks = {stage: Clock() for stage in ("load", "generate", "judge", "verify", "pair")}
        self._plan = plan
        self._store = store
        self._answers = answers
        self._rules = rules
        self._judge = parts.judge
        self._verifier = parts.verifier
        self._corruptions = parts.corruptions
        self._weights = parts.weights
        self._verifying = asyncio.Semaphore(parts.verifier.concurrency)
        self._judging = asyncio.Semaphore(parts.judge.concurrency if parts.judge else 1)
        self._asked: dict[bytes, asyncio.Future[Any]] = {}
        self._commit_is_due = False
        self._unseen: dict[int, Problem] = {}
        self._refused: defaultdict[int, list[tuple[int, int, PromptRefused]]] = defaultdict(list)  # not on record yet
        self._answered = {source.samples for source in (plan.policy, plan.rival) if source and _has_any(store, source)}

    def expect(self, number: int, problem: Problem) -> None:
        """A problem that the store did not know before: its first responses need not be looked up."""
        self._unseen[number] = problem

    async def choose(self, engine: Engine | None, number: int, index: int) -> Outcome:
        """Try whether this response becomes a chosen one; with no rival, make its pair as well."""
        unseen = self._unseen.pop(number, None)
        log = self._nothing if unseen else self._store.get
        problem = unseen or self._store.problem(number)
        sample = await self._sample(log, engine, self._plan.policy, problem, number, index)
        if sample is None:
            return Outcome.OVER
        judgement = await self._judged(log, self._plan.policy, sample, number)
        if isinstance(judgement, str):
            return Outcome.LEFT
        if not await self._verified(log, Judged(sample, judgement), number):
            return Outcome.LEFT
        if self._plan.rival is not None:
            return Outcome.KEPT
        return self._paired(log, sample, judgement.answer, number, index, "chosen")

    async def reject(self, engine: Engine | None, number: int, chosen: int, index: int) -> Outcome:
        """Try whether the rival's response becomes the rejected side of response `chosen`: a right
        one for decoupled pairs, a wrong one for coupled pairs, malformed or made so."""
        rival = self._plan.rival
        if rival is None:
            raise ValueError("this run has no rival")
        log = self._store.get
        sample = await self._sample(log, engine, rival, self._store.problem(number), number, index)
        if sample is None:
            return Outcome.OVER
        judgement = await self._judged(log, rival, sample, number)
        reason = judgement if isinstance(judgement, str) else None
        right = reason is None or reason.startswith("format: ")
        wanted = reason == WRONG if self._plan.recipe.pairing == "coupled" else right
        if not wanted:
            return Outcome.LEFT
        answer = final_answer(sample.response.text, self._plan.fmt)
        return self._paired(log, sample, answer, number, chosen, rival.name)

    def settle(self) -> None:
        """Put on record which prompts were refused. Raises UserError for a policy that has answered none: that is
        no fault of the prompts."""
        for source in (self._plan.policy, self._plan.rival):
            if source is not None:
                self._settle(source)

    def _settle(self, source: Source) -> None:
        refused = self._refused.pop(source.samples, [])
        if refused and source.samples not in self._answered:
            number, _, refusal = refused[-1]
            name = self._store.problem(number).id
            raise UserError(
                f"the policy {source.name} refuses every prompt, as with {name!r}: {refusal}; "
                "nothing is on record: mend its settings or the problems"
            )
        for number, index, refusal in refused:
            self._put("samples", source.samples, number, index, f"refused: {refusal.reason}", refusal.detail)

    # The stages

    async def _sample(
        self, log: Log, engine: Engine | None, source: Source, problem: Problem, number: int, index: int
    ) -> Sample | None:
        row = log("samples", source.samples, number, index)
        if row is not None:
            return Sample(problem, index, _response(row[1])) if row[0] is None else None
        if engine is None:
            return None
        request = make_request(problem, index, self._images(problem), self._plan.system, self._plan.recipe.seed)
        try:
            with self.clocks["generate"]:
                response = await engine.generate(request)
        except PromptRefused as refusal:
            refused = self._refused[source.samples]
            refused.append((number, index, refusal))
            if source.samples in self._answered or len(refused) >= MOST_REFUSALS:
                self._settle(source)
            return None
        except Undecided as failure:
            logger.warning("response %d to %r is left out until the next run: %s", index, problem.id, failure.detail)
            self._undecided("samples", number, index, failure.reason)
            return None
        if source.samples not in self._answered:
            self._answered.add(source.samples)
            self._settle(source)
        self._put("samples", source.samples, number, index, None, response)
        return Sample(problem, index, response)

    async def _judged(self, log: Log, source: Source, sample: Sample, number: int) -> Judgement | str:
        """The judgement of a right and well-formed response, or why the response is left out."""
        row = log("judgements", source.judgements, number, sample.index)
        if row is not None:
            return row[0] or _judgement(row[1])
        problem, text = sample.problem, sample.response.text
        with self.clocks["judge"]:
            if problem.answer_type == "open" and self._judge is not None:
                try:
                    judgement = await self._by_model(self._judge, problem, text)
                except Undecided as undecided:
                    return self._undecided("judgements", number, sample.index, undecided.reason)
            else:
                judgement = await self._rules.ajudge(
                    text, problem.answer, problem.answer_type, problem.choices, self._plan.fmt
                )
            reason = self._fault(judgement, text)
        self._put("judgements", source.judgements, number, sample.index, reason, judgement)
        return reason or judgement

    async def _by_model(self, judge: ModelJudge, problem: Problem, text: str) -> Judgement:
        answer = final_answer(text, self._plan.fmt) or ""
        key = digest((judge.settings, problem.question, problem.answer, problem.images, answer))
        return await self._answer(
            key, Judgement, self._judging, lambda: judge.judge(problem, answer, self._images(problem))
        )

    def _fault(self, judgement: Judgement, text: str) -> str | None:
        if judgement.right is None:
            return f"cannot be judged: {judgement.rule}"
        if not judgement.right:
            return WRONG
        fault = self._plan.fmt.check(text)
        return fault and f"format: {fault}"

    async def _verified(self, log: Log, judged: Judged, number: int) -> bool:
        index = judged.sample.index
        row = log("verdicts", self._plan.verdicts, number, index)
        if row is not None:
            return row[0] is None
        try:
            with self.clocks["verify"]:
                verdict = await self._verdict(judged)
        except Undecided as undecided:
            self._undecided("verdicts", number, index, undecided.reason)
            return False
        reason = None if verdict.consistent else "cannot tell" if verdict.undecided else "inconsistent"
        self._put("verdicts", self._plan.verdicts, number, index, reason, verdict)
        return verdict.consistent

    async def _verdict(self, judged: Judged) -> Verdict:
        verifier, problem = self._verifier, judged.sample.problem
        if not verifier.paid:  # by rule: nothing to pay for, nothing to wait for
            return await verifier.verify(judged, ())
        text = judged.sample.response.text
        key = digest((verifier.settings, problem.question, problem.choices, problem.images, text))
        return await self._answer(key, Verdict, self._verifying, lambda: verifier.verify(judged, self._images(problem)))

    async def _answer(self, key: bytes, kind: type[T], room: asyncio.Semaphore, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer that is on record under `key`, or else the one that is asked for now, once for all who want it."""
        if key in self._asked:
            answer: T = await asyncio.shield(self._asked[key])
            return answer
        future = self._asked[key] = asyncio.get_running_loop().create_future()
        try:
            async with room:
                found = self._answers.get(key, kind)
                if found is None:
                    found = await ask()
                    self._answers.put(key, found)
            future.set_result(found)
            return found
        except Exception as error:
            future.set_exception(error)
            future.exception()  # perhaps nobody else wants it
            raise
        finally:
            future.cancel()
            del self._asked[key]

    def _paired(self, log: Log, sample: Sample, answer: str | None, number: int, chosen: int, origin: str) -> Outcome:
        row = log("pairs", self._plan.pairs, number, chosen) if origin == "chosen" else None
        if row is not None:
            return Outcome.KEPT if row[0] is None else Outcome.LEFT
        with self.clocks["pair"]:
            twin = self._twin(sample, answer, origin)
        # A row does not say which of a rival's responses made it: on a resumed run they are tried again.
        if twin.rejected is not None or origin == "chosen":
            reason = None if twin.rejected else "no corruption applies"
            self._put("pairs", self._plan.pairs, number, chosen, reason, twin)
        return Outcome.KEPT if twin.rejected else Outcome.LEFT

    def _twin(self, sample: Sample, answer: str | None, origin: str) -> Twin:
        text = sample.response.text
        if origin != "chosen" and self._plan.fmt.check(text) is not None:
            return Twin(Rejected(text, None, origin))  # malformed by itself
        seed = f"{self._plan.recipe.seed}/{sample.problem.id}/{sample.index}"
        return make_twin(text, answer, self._plan.fmt, self._corruptions, self._weights, seed, origin)

    # The store

    @staticmethod
    def _nothing(stage: Stage, settings: int, problem: int, index: int) -> None:
        """The log of a problem that the store has just met."""

    def _images(self, problem: Problem) -> tuple[bytes, ...]:
        return tuple(map(self._store.image, problem.images))

    def _undecided(self, stage: Stage, number: int, index: int, reason: str) -> str:
        self._store.leave_undecided(stage, number, index, reason)
        self._commit_soon()
        return "undecided"

    def _put(self, stage: Stage, settings: int, number: int, index: int, reason: str | None, record: Any) -> None:
        self._store.put(stage, settings, number, index, reason, record)
        self._commit_soon()

    def _commit_soon(self) -> None:
        """Commit once all that is ready now has been handled: at once for a slow model, and many
        rows together for a fast one."""
        if not self._commit_is_due:
            self._commit_is_due = True
            asyncio.get_running_loop().call_soon(self._commit)

    def _commit(self) -> None:
        self._commit_is_due = False
        self._store.commit()


def _has_any(store: Store, source: Source) -> bool:
    """Is there a response of this policy on record?"""
    return any(store.select("SELECT 1 FROM samples WHERE settings = ? AND reason IS NULL LIMIT 1", (source.samples,)))


class OnDemand:
    """An engine that is opened by its first request, so that a run which needs no new response loads
    no model. As many requests are in flight as keep it busy, and `room` (of `width`) is widened to that.
    An engine that is `lent` is not closed."""

    def __init__(
        self, opened: Callable[[], Awaitable[Engine]], room: asyncio.Semaphore, width: int, *, lent: bool
    ) -> None:
        self.concurrency = width
        self._opened = opened
        self._room = room
        self._lent = lent
        self._engine: Engine | None = None
        self._lock = asyncio.Lock()

    async def generate(self, request: Request) -> Response:
        """As the engine behind it."""
        if self._engine is None:
            async with self._lock:
                self._engine = self._engine or await self._open()
        async with self._slots:
            return await self._engine.generate(request)

    async def close(self) -> None:
        """Release the model; the next request opens it anew."""
        engine, self._engine = self._engine, None
        if engine is not None and not self._lent:
            await engine.close()

    async def _open(self) -> Engine:
        engine = await self._opened()
        self._slots = asyncio.Semaphore(engine.concurrency)
        # Somewhat more problems are under way than the model works on, so that it never waits for one.
        width = engine.concurrency + engine.concurrency // 4
        for _ in range(self.concurrency, width):
            self._room.release()
        self.concurrency = max(self.concurrency, width)
        return engine


async def search(
    agenda: Agenda,
    positions: AsyncIterator[int],
    attempt: Attempt,
    *,
    number: Callable[[int], int],
    wanted: Callable[[int], int],
    room: asyncio.Semaphore,
    done: Callable[[int, int], None],
) -> None:
    """Play the agenda's rounds, as many at once as `room` has places, until none is owed.

    `positions` gives the problems in the order of their source, `number` a problem's number in the
    store. `attempt` gets a problem's number, a response's index and how many responses of the
    problem are kept so far. A problem is done with `wanted(number)` kept responses, or when it can
    have no more; `done` then gets its position and how many it has.
    """
    kept: dict[int, int] = {}  # only of problems under way that have some of several
    running: set[int] = set()
    moved = asyncio.Event()

    async def play(position: int, indices: range) -> None:
        try:
            problem, count = number(position), kept.pop(position, 0)
            if len(indices) == 1:
                outcomes = [await attempt(problem, indices[0], count)]
            else:
                outcomes = list(await asyncio.gather(*(attempt(problem, index, count) for index in indices)))
            enough = wanted(problem)
            for index, outcome in zip(indices, outcomes, strict=True):
                if outcome is Outcome.KEPT and count < enough:
                    count += 1
                    agenda.keep(position, index)
            if count >= enough or Outcome.OVER in outcomes or not agenda.owe(position, indices.stop):
                done(position, count)
            elif count:
                kept[position] = count
        finally:
            running.discard(position)
            room.release()
            moved.set()

    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await room.acquire()
                if len(running) < agenda.worth:
                    position = await anext(positions, None) if agenda.open else None
                    following = agenda.next() if position is None else (position, agenda.first)
                    if following is not None:
                        running.add(following[0])
                        tasks.create_task(play(*following))
                        continue
                room.release()
                if not running:
                    return
                moved.clear()
                await moved.wait()
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
