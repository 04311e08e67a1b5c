"""The stages that a response passes whatever is made of it: sampled, judged, verified.

Every stage looks into the store first and appends to it after, under the plan's settings; what a stage leaves out
carries its reason there. Whoever goes through these stages with the same settings finds what is there already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import msgspec
from msgspec.structs import replace

from specs_data.engines import Engine
from specs_data.engines.refusals import OF_A_SETTING
from specs_data.errors import ItemRefused, PromptRefused, Undecided, UserError, first_error
from specs_data.judges.answers import final_answer
from specs_data.judges.model import ModelJudge
from specs_data.judges.rules import RuleJudge
from specs_data.loop import asked_for
from specs_data.plugins import is_foreign
from specs_data.records import Judged, Judgement, Problem, Response, Sample, Verdict
from specs_data.rollouts.answers import Answers
from specs_data.rollouts.plan import REFUSED, Parts, Plan, Source
from specs_data.rollouts.sample import make_request
from specs_data.rollouts.search import Line, Outcome, Quest, Turn
from specs_data.rollouts.store import Index, Number, Store
from specs_data.rollouts.tables import Stage, digest
from specs_data.rollouts.watch import Watch
from specs_data.verifiers import calibration_of, is_paid

logger = logging.getLogger(__name__)

# Why a response is left out: these words stand in the store.
WRONG = "wrong answer"
FORMAT = "format: "
# A service refused it, perhaps for the response's own length.
CUT_OFF = f"{REFUSED}cut off"
# So many refusals without one response are no fault of the prompts.
MOST_REFUSALS = 64

_response = msgspec.json.Decoder(Response).decode
_judgement = msgspec.json.Decoder(Judgement).decode
_verdict = msgspec.json.Decoder(Verdict).decode

T = TypeVar("T")
Log = Callable[[Stage, int, Number, Index], tuple[str | None, bytes] | None]


def pass_rate(reasons: Iterable[str | None]) -> float | None:
    """The share of right answers among the judged, by the reasons why judging left responses out; None where none
    could be judged. A malformed response may be right."""
    right = [reason is None or reason.startswith(FORMAT) for reason in reasons if not _is_unjudged(reason)]
    return sum(right) / len(right) if right else None


def why_left(verdict: Verdict) -> str | None:
    """Why a response with this verdict is left out; None if it is not."""
    return None if verdict.consistent else "cannot tell" if verdict.undecided else "inconsistent"


def _is_unjudged(reason: str | None) -> bool:
    return reason is not None and reason != WRONG and not reason.startswith(FORMAT)


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


class Stages:
    """The stages of one plan, with the services they use. A problem is named by its number in the store and a
    response by its index. Each stage looks into a `log`: the store's own, or that of a problem that it has just met."""

    def __init__(
        self,
        plan: Plan,
        parts: Parts,
        store: Store,
        answers: Answers,
        rules: RuleJudge,
        loading: Clock | None = None,
    ) -> None:
        self.clocks = {stage: Clock() for stage in ("load", "generate", "judge", "verify", "pair")}
        self.clocks["load"] = loading or self.clocks["load"]
        self.written = asyncio.Event()  # something is in the store that is not committed yet
        self._plan = plan
        self._store = store
        self._answers = answers
        self._rules = rules
        self._judge = parts.judge
        self._verifier = parts.verifier
        self._watch = Watch(plan.verifier, calibration_of(parts.verifier, plan.recipe.cache))
        self._verifying = asyncio.Semaphore(parts.verifier.concurrency)
        # One by rule that takes one response at a time answers at once, or is waited for as a rule is.
        self._verifier_waits = is_paid(parts.verifier) or parts.verifier.concurrency > 1
        self._foreign = is_foreign(parts.verifier)
        self._judging = asyncio.Semaphore(parts.judge.concurrency if parts.judge else 1)
        self.generated = self.tokens = 0  # responses of this call, and what they have in tokens
        self.took = 0.0  # seconds, of all of them together
        self.asked_since: dict[tuple[int, Number, Index], float] = {}  # what an engine works on, since when
        self._asked: dict[bytes, asyncio.Future[Any]] = {}
        self._ahead: dict[tuple[int, Number, Index], asyncio.Event] = {}  # responses that were asked for ahead of time
        # By settings, as long as they are not on record.
        self._refused: defaultdict[int, list[tuple[Number, Index, PromptRefused]]] = defaultdict(list)
        self._answered = {source.samples for source in plan.sources if _has_any(store, source)}
        self._proved = _proved(store, plan)
        # By settings, as long as nothing is answered under them.
        self._given_up: defaultdict[int, list[tuple[Stage, Number, Index, ItemRefused]]] = defaultdict(list)
        self._hopeless: set[Number] = set()

    @property
    def policy(self) -> Source:
        """The policy of the plan."""
        return self._plan.policy

    @property
    def log(self) -> Log:
        """The store's own log."""
        return self._store.get

    def problem(self, number: Number) -> Problem:
        """The problem of this number."""
        return self._store.problem(number)

    def is_hopeless(self, number: Number) -> bool:
        """Does a service not answer about this problem, whatever the response?"""
        return number in self._hopeless

    async def sample(
        self,
        log: Log,
        engine: Engine | None,
        source: Source,
        problem: Problem,
        number: Number,
        index: Index,
        *,
        nuclei: bool = False,
    ) -> Sample | None:
        """This response of `source`; one that is not on record is asked of the engine, perhaps with its `nuclei`. None
        where there is none: the prompt was refused, or the engine gave it up."""
        if coming := self._ahead.get((source.samples, number, index)):
            await coming.wait()
        row = log("samples", source.samples, number, index)
        if row is not None:
            return Sample(problem, index, _response(row[1])) if row[0] is None else None
        if engine is None:
            return None
        try:
            response = await self._ask(engine, source, problem, number, index, nuclei)
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
        self._take(source, number, index, response)
        return Sample(problem, index, response)

    async def sample_ahead(self, engine: Engine, source: Source, number: Number, index: Index) -> None:
        """Put this response on record before it is known whether it is needed. If there is none nobody is told: who
        needs it will ask again."""
        key = source.samples, number, index
        if key in self._ahead or self._store.get("samples", *key) is not None:
            return
        self._ahead[key] = asyncio.Event()
        try:
            response = await self._ask(engine, source, self._store.problem(number), number, index)
            self._take(source, number, index, response)
        except (PromptRefused, Undecided) as failure:
            logger.debug("response %d was asked for ahead of time, in vain: %s", index, failure)
        finally:
            self._ahead.pop(key).set()

    async def _ask(
        self, engine: Engine, source: Source, problem: Problem, number: Number, index: Index, nuclei: bool = False
    ) -> Response:
        recipe, prefill = self._plan.recipe, self._plan.recipe.prefill or ""
        request = make_request(problem, index, self._images(problem), self._plan.system, recipe.seed, nuclei, prefill)
        key = source.samples, number, index
        begun = self.asked_since[key] = time.monotonic()
        try:
            with self.clocks["generate"]:
                response = await engine.generate(request)
        finally:
            del self.asked_since[key]
        self.took += time.monotonic() - begun
        return replace(response, text=prefill + response.text) if prefill else response

    def _take(self, source: Source, number: Number, index: Index, response: Response) -> None:
        self.generated += 1
        self.tokens += response.completion_tokens
        self._put("samples", source.samples, number, index, None, response)

    async def judge(
        self, log: Log, source: Source, sample: Sample, number: Number
    ) -> tuple[str | None, Judgement] | None:
        """Why a build leaves the response out, None where it is right and well-formed, and the judgement. None where
        a service gave no usable one."""
        row = log("judgements", source.judgements, number, Index(sample.index))
        if row is not None:
            return None if self._is_refused(number, row[0]) else (row[0], _judgement(row[1]))
        problem, text = sample.problem, sample.response.text
        with self.clocks["judge"]:
            if self._judge is not None and _is_open(problem):
                try:
                    judgement = await self._by_model(self._judge, problem, text)
                    self._prove(source.judgements)
                except Undecided as undecided:
                    self._give_up("judgements", source.judgements, number, Index(sample.index), undecided)
                    return None
            else:
                judgement = await self._rules.ajudge(
                    text, problem.answer, problem.answer_type, problem.choices, self._plan.fmt, problem.policy
                )
            reason = self._fault(judgement, text)
            if not judgement.right and (fault := self._plan.fmt.check(text)):
                judgement = msgspec.structs.replace(judgement, malformed=fault)
        self._put("judgements", source.judgements, number, Index(sample.index), reason, judgement)
        return reason, judgement

    def needs_judge(self, log: Log, source: Source, sample: Sample, number: Number) -> bool:
        """Whether a model would have to be asked for the judgement."""
        if self._judge is None or not _is_open(sample.problem):
            return False
        return log("judgements", source.judgements, number, Index(sample.index)) is None

    def needs_verifier(self, log: Log, number: Number, index: Index) -> bool:
        """Whether the verifier would have to be asked, and may take its time."""
        return self._verifier_waits and log("verdicts", self._plan.verdicts, number, index) is None

    def lines(self, quest: Callable[[Turn], Quest]) -> dict[Outcome, Line]:
        """The lines of the judging services, where `quest` gives what is searched for at each turn. Somewhat more
        rounds are at a service than it takes at once, so that it never waits for one to be looked up."""
        services = {Outcome.TO_JUDGE: (Turn.JUDGE, self._judge), Outcome.TO_VERIFY: (Turn.VERIFIER, self._verifier)}
        return {
            waits: Line(quest(turn), service.concurrency + service.concurrency // 4 + 1)
            for waits, (turn, service) in services.items()
            if service is not None
        }

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

    async def verify(self, log: Log, judged: Judged, number: Number) -> Verdict | None:
        """Whether the reasoning leads to the answer. None where a service gave no usable verdict."""
        index = Index(judged.sample.index)
        row = log("verdicts", self._plan.verdicts, number, index)
        if row is not None:
            return None if self._is_refused(number, row[0]) else _verdict(row[1])
        try:
            with self.clocks["verify"]:
                verdict = await self._verdict(judged)
        except Undecided as undecided:
            self._give_up("verdicts", self._plan.verdicts, number, index, undecided)
            return None
        self._prove(self._plan.verdicts)
        self._put("verdicts", self._plan.verdicts, number, index, why_left(verdict), verdict)
        self._watch.see(judged, verdict)
        return verdict

    async def _verdict(self, judged: Judged) -> Verdict:
        verifier, problem = self._verifier, judged.sample.problem
        if not self._verifier_waits:
            return await asked_for(verifier.verify(judged, ()), "the verifier", self._foreign)
        if not is_paid(verifier):  # nothing to pay for, nothing that another run should have of it
            async with self._verifying:
                return await asked_for(verifier.verify(judged, ()), "the verifier")
        shown = (verifier.settings, problem.question, problem.choices, problem.images, judged.sample.response.text)
        # Who is no service may compare answers, and go by their type. Earlier releases kept verdicts without these.
        key = digest((*shown, problem.answer, problem.answer_type, judged.judgement.answer))
        return await self._answer(
            key, Verdict, self._verifying, lambda: verifier.verify(judged, self._images(problem)), older=digest(shown)
        )

    async def _answer(
        self,
        key: bytes,
        kind: type[T],
        room: asyncio.Semaphore,
        ask: Callable[[], Awaitable[T]],
        older: bytes | None = None,
    ) -> T:
        """The answer that is on record under `key`, or an `older` one, or else the one that is asked for now, once for
        all who want it."""
        if key in self._asked:
            answer: T = await asyncio.shield(self._asked[key])
            return answer
        future = self._asked[key] = asyncio.get_running_loop().create_future()
        try:
            async with room:
                found = self._answers.get(key, kind)
                if found is None and older is not None:
                    found = self._answers.get(older, kind)
                if found is None:
                    found = await asked_for(ask(), "a judging service")
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

    def settle(self) -> None:
        """Put on record which prompts were refused. Raises UserError for a policy that has answered none: that is
        no fault of the prompts. What a service refused that has answered nothing is asked again."""
        for given_up in self._given_up.values():
            for stage, number, index, refused in given_up:
                self._undecided(stage, number, index, refused.reason)
        self._given_up.clear()
        for source in self._plan.sources:
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
            self._put("samples", source.samples, number, index, REFUSED + refusal.reason, refusal.detail)
            if source.served and refusal.reason in OF_A_SETTING:
                self._undecided("samples", number, index, refusal.reason)  # the run is not finished

    def _give_up(self, stage: Stage, settings: int, number: Number, index: Index, undecided: Undecided) -> None:
        """A service gave no usable answer. That it will not answer about this item is put on record, so that it is
        not paid for again; but where it never answered at all its settings may be to blame."""
        if not isinstance(undecided, ItemRefused):
            self._undecided(stage, number, index, undecided.reason)
            return
        self._is_refused(number, REFUSED + undecided.reason)
        self._given_up[settings].append((stage, number, index, undecided))
        if settings in self._proved:
            self._prove(settings)

    def _prove(self, settings: int) -> None:
        """A service answers under these settings: what it refused is the items' own fault."""
        self._proved.add(settings)
        for stage, number, index, refused in self._given_up.pop(settings, ()):
            self._put(stage, settings, number, index, REFUSED + refused.reason, {"reason": refused.detail})

    def _is_refused(self, number: Number, reason: str | None) -> bool:
        """Is this the reason of an item that a service does not answer about? Then no other response to the problem
        is worth its tokens; one that was cut off may be the response's fault."""
        refused = reason is not None and reason.startswith(REFUSED)
        if refused and reason != CUT_OFF:
            self._hopeless.add(number)
        return refused

    # The store

    def _images(self, problem: Problem) -> tuple[bytes, ...]:
        return tuple(map(self._store.image, problem.images))

    def _undecided(self, stage: Stage, number: Number, index: Index, reason: str) -> None:
        self._store.leave_undecided(stage, number, index, reason)
        self.written.set()

    def _put(self, stage: Stage, settings: int, number: Number, index: Index, reason: str | None, record: Any) -> None:
        self._store.put(stage, settings, number, index, reason, record)
        self.written.set()


def _is_open(problem: Problem) -> bool:
    return problem.answer_type == "open"


def _has_any(store: Store, source: Source) -> bool:
    """Is there a response of this policy on record?"""
    return any(store.select("SELECT 1 FROM samples WHERE settings = ? AND reason IS NULL LIMIT 1", (source.samples,)))


def _proved(store: Store, plan: Plan) -> set[int]:
    """The settings under which a judging service has answered anything."""
    by_model = "SELECT 1 FROM {} WHERE settings = ? AND json_extract(CAST(record AS TEXT), '$.model') != '' LIMIT 1"
    asked: list[tuple[Stage, int]] = [("verdicts", plan.verdicts)] if "verification" in plan.services else []
    if "judging" in plan.services:
        asked += [("judgements", source.judgements) for source in plan.sources]
    return {settings for stage, settings in asked if any(store.select(by_model.format(stage), (settings,)))}


@asynccontextmanager
async def durable(store: Store, written: asyncio.Event) -> AsyncIterator[None]:
    """Commit and sync while the block runs. A failure of either ends the block with its own error: a commit that
    only a log knows to have failed would let the policy go on generating for nothing."""
    try:
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(_commit(store, written)), tasks.create_task(_sync(store))]
            yield
            for task in beside:
                task.cancel()
    except BaseExceptionGroup as group:
        raise first_error(group) from None


async def _commit(store: Store, written: asyncio.Event) -> None:
    """Commit once all that is ready now has been handled: at once for a slow model, and many rows together for a
    fast one."""
    while True:
        await written.wait()
        written.clear()
        store.commit()


async def _sync(store: Store) -> None:
    """Make what is committed safe against a power failure, once a second."""
    while True:
        await asyncio.sleep(1)
        await asyncio.to_thread(store.sync)
