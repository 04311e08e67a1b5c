"""The way of one response through the stages: sampled, judged, verified, paired.

Every stage looks into the store first and appends to it after; what a stage leaves out carries its
reason there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import msgspec

from specs_data.build.fates import FORMAT, WRONG
from specs_data.build.listing import Listing
from specs_data.build.search import Outcome
from specs_data.engines import Engine
from specs_data.errors import PromptRefused, Undecided, UserError
from specs_data.judges.answers import final_answer
from specs_data.judges.model import ModelJudge
from specs_data.judges.rules import RuleJudge
from specs_data.pairs.twin import make_twin
from specs_data.records import Judged, Judgement, Problem, Rejected, Response, Sample, Twin, Verdict
from specs_data.rollouts.plan import Parts, Plan, Source
from specs_data.rollouts.sample import make_request
from specs_data.rollouts.store import Answers, Index, Number, Position, Stage, Store, digest
from specs_data.verifiers import is_paid

logger = logging.getLogger(__name__)

# So many refusals without one response are no fault of the prompts.
MOST_REFUSALS = 64

_response = msgspec.json.Decoder(Response).decode
_judgement = msgspec.json.Decoder(Judgement).decode
_verdict = msgspec.json.Decoder(Verdict).decode


T = TypeVar("T")
Log = Callable[[Stage, int, Number, Index], tuple[str | None, bytes] | None]


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


class Choosing:
    """What the first search is for: chosen responses, at most so many of a problem; and where no rival is to answer
    as well, their pairs."""

    def __init__(self, flow: Flow, listing: Listing, engine: Engine | None, most: int) -> None:
        self._flow = flow
        self._listing = listing
        self._engine = engine
        self._most = most

    def wanted(self, position: Position) -> int:
        """How many chosen responses the problem is to have."""
        return self._most

    def attempt(self, position: Position, index: Index, kept: int) -> Awaitable[Outcome]:
        """Try whether this response becomes a chosen one."""
        return self._flow.choose(self._engine, self._listing.number(position), index)


class Rejecting:
    """What the second search is for: a rival's response as the rejected side of each of these chosen ones."""

    def __init__(
        self, flow: Flow, listing: Listing, engine: Engine | None, chosen: Mapping[Position, Sequence[Index]]
    ) -> None:
        self._flow = flow
        self._listing = listing
        self._engine = engine
        self._chosen = chosen

    def wanted(self, position: Position) -> int:
        """How many rejected responses the problem is to have."""
        return len(self._chosen[position])

    def attempt(self, position: Position, index: Index, kept: int) -> Awaitable[Outcome]:
        """Try whether this response of the rival fits the first chosen one that has no rejected side yet."""
        return self._flow.reject(self._engine, self._listing.number(position), self._chosen[position][kept], index)


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
        self.written = asyncio.Event()  # something is in the store that is not committed yet
        self._unseen: dict[Number, Problem] = {}
        self._refused: defaultdict[int, list[tuple[Number, Index, PromptRefused]]] = defaultdict(
            list
        )  # not on record yet
        self._answered = {source.samples for source in (plan.policy, plan.rival) if source and _has_any(store, source)}

    def expect(self, number: Number, problem: Problem) -> None:
        """A problem that the store did not know before: its first responses need not be looked up."""
        self._unseen[number] = problem

    async def choose(self, engine: Engine | None, number: Number, index: Index) -> Outcome:
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

    async def reject(self, engine: Engine | None, number: Number, chosen: Index, index: Index) -> Outcome:
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
        right = reason is None or reason.startswith(FORMAT)
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
        self, log: Log, engine: Engine | None, source: Source, problem: Problem, number: Number, index: Index
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

    async def _judged(self, log: Log, source: Source, sample: Sample, number: Number) -> Judgement | str:
        """The judgement of a right and well-formed response, or why the response is left out."""
        row = log("judgements", source.judgements, number, Index(sample.index))
        if row is not None:
            return row[0] or _judgement(row[1])
        problem, text = sample.problem, sample.response.text
        with self.clocks["judge"]:
            if problem.answer_type == "open" and self._judge is not None:
                try:
                    judgement = await self._by_model(self._judge, problem, text)
                except Undecided as undecided:
                    return self._undecided("judgements", number, Index(sample.index), undecided.reason)
            else:
                judgement = await self._rules.ajudge(
                    text, problem.answer, problem.answer_type, problem.choices, self._plan.fmt
                )
            reason = self._fault(judgement, text)
        self._put("judgements", source.judgements, number, Index(sample.index), reason, judgement)
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
        return fault and f"{FORMAT}{fault}"

    async def _verified(self, log: Log, judged: Judged, number: Number) -> bool:
        index = Index(judged.sample.index)
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
        if not is_paid(verifier):  # by rule: nothing to pay for, nothing to wait for
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

    def _paired(
        self, log: Log, sample: Sample, answer: str | None, number: Number, chosen: Index, origin: str
    ) -> Outcome:
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
    def _nothing(stage: Stage, settings: int, problem: Number, index: Index) -> None:
        """The log of a problem that the store has just met."""

    def _images(self, problem: Problem) -> tuple[bytes, ...]:
        return tuple(map(self._store.image, problem.images))

    def _undecided(self, stage: Stage, number: Number, index: Index, reason: str) -> str:
        self._store.leave_undecided(stage, number, index, reason)
        self.written.set()
        return "undecided"

    def _put(self, stage: Stage, settings: int, number: Number, index: Index, reason: str | None, record: Any) -> None:
        self._store.put(stage, settings, number, index, reason, record)
        self.written.set()


def _has_any(store: Store, source: Source) -> bool:
    """Is there a response of this policy on record?"""
    return any(store.select("SELECT 1 FROM samples WHERE settings = ? AND reason IS NULL LIMIT 1", (source.samples,)))
