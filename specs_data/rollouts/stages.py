"""The stages that a response passes whatever is made of it: sampled, judged, verified.

Every stage looks into the store first and appends to it after, under the plan's settings: whoever goes through
these stages with the same settings finds what is there already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from specs_data.engines import Engine
from specs_data.errors import PromptRefused, Undecided, UserError
from specs_data.judges.answers import final_answer
from specs_data.judges.model import ModelJudge
from specs_data.judges.rules import RuleJudge
from specs_data.records import Judged, Judgement, Problem, Response, Sample, Verdict
from specs_data.rollouts.plan import Plan
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

T = TypeVar("T")


class Stages:
    """The stages of one plan, with the services they use. A problem is named by its number in the store and a
    response by its index."""

    def __init__(self, plan: Plan, parts: Parts, store: Store, answers: Answers, rules: RuleJudge) -> None:
        self._plan = plan
        self._store = store
        self._answers = answers
        self._rules = rules
        self._judge = parts.judge
        self._verifier = parts.verifier
        self._verifying = asyncio.Semaphore(parts.verifier.concurrency)
        self._judging = asyncio.Semaphore(parts.judge.concurrency if parts.judge else 1)
        self._asked: dict[bytes, asyncio.Future[Any]] = {}
        self._refused: list[tuple[int, int, PromptRefused]] = []  # not on record yet
        self._answered = _has_any(store, plan.policy.samples)
        self._commit_is_due = False

    async def sample(
        self, engine: Engine, problem: Problem, number: int, index: int, nuclei: bool = False
    ) -> Sample | None:
        """This response of the policy, asked for unless it is on record; None where the prompt is refused or the
        engine gave it up. With `nuclei`, the engine is asked to count those as well."""
        settings = self._plan.policy.samples
        row = self._store.get("samples", settings, number, index)
        if row is not None:
            return Sample(problem, index, _response(row[1])) if row[0] is None else None
        images = tuple(map(self._store.image, problem.images))
        request = make_request(problem, index, images, self._plan.system, self._plan.recipe.seed, nuclei)
        try:
            response = await engine.generate(request)
        except PromptRefused as refusal:
            self._refused.append((number, index, refusal))
            if self._answered or len(self._refused) >= MOST_REFUSALS:
                self.settle()
            return None
        except Undecided as failure:
            logger.warning("response %d to %r is left out until the next run: %s", index, problem.id, failure.detail)
            self._undecided("samples", number, index, failure.reason)
            return None
        if not self._answered:
            self._answered = True
            self.settle()
        self._put("samples", settings, number, index, None, response)
        return Sample(problem, index, response)

    def settle(self) -> None:
        """Put on record which prompts were refused. Raises UserError for a policy that has answered none: that is
        no fault of the prompts."""
        refused, self._refused = self._refused, []
        if refused and not self._answered:
            number, _, refusal = refused[-1]
            raise UserError(
                f"the policy {self._plan.policy.name} refuses every prompt, as with "
                f"{self._store.problem(number).id!r}: {refusal}; "
                "nothing is on record: mend its settings or the problems"
            )
        for number, index, refusal in refused:
            self._put("samples", self._plan.policy.samples, number, index, f"refused: {refusal.reason}", refusal.detail)

    async def judge(self, sample: Sample, number: int) -> Judgement | None:
        """Whether the response is right; None where a service gave no usable judgement."""
        settings = self._plan.policy.judgements
        row = self._store.get("judgements", settings, number, sample.index)
        if row is not None:
            return _judgement(row[1])
        problem, text = sample.problem, sample.response.text
        if problem.answer_type == "open" and self._judge is not None:
            try:
                judgement = await self._by_model(self._judge, problem, text)
            except Undecided as undecided:
                self._undecided("judgements", number, sample.index, undecided.reason)
                return None
        else:
            judgement = await self._rules.ajudge(
                text, problem.answer, problem.answer_type, problem.choices, self._plan.fmt
            )
        self._put("judgements", settings, number, sample.index, self._fault(judgement, text), judgement)
        return judgement

    async def verify(self, judged: Judged, number: int) -> Verdict | None:
        """Whether the reasoning leads to the answer; None where the verifier gave no usable verdict."""
        index = judged.sample.index
        row = self._store.get("verdicts", self._plan.verdicts, number, index)
        if row is not None:
            return _verdict(row[1])
        try:
            verdict = await self._verdict(judged)
        except Undecided as undecided:
            self._undecided("verdicts", number, index, undecided.reason)
            return None
        reason = None if verdict.consistent else "cannot tell" if verdict.undecided else "inconsistent"
        self._put("verdicts", self._plan.verdicts, number, index, reason, verdict)
        return verdict

    async def _by_model(self, judge: ModelJudge, problem: Problem, text: str) -> Judgement:
        answer = final_answer(text, self._plan.fmt) or ""
        key = digest((judge.settings, problem.question, problem.answer, problem.images, answer))
        return await self._answer(
            key, Judgement, self._judging, lambda: judge.judge(problem, answer, self._images(problem))
        )

    def _fault(self, judgement: Judgement, text: str) -> str | None:
        """Why a build would leave the response out."""
        if judgement.right is None:
            return f"cannot be judged: {judgement.rule}"
        if not judgement.right:
            return WRONG
        fault = self._plan.fmt.check(text)
        return fault and f"format: {fault}"

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

    def _images(self, problem: Problem) -> tuple[bytes, ...]:
        return tuple(map(self._store.image, problem.images))

    def _undecided(self, stage: Stage, number: int, index: int, reason: str) -> None:
        self._store.leave_undecided(stage, number, index, reason)
        self._commit_soon()

    def _put(self, stage: Stage, settings: int, number: int, index: int, reason: str | None, record: Any) -> None:
        self._store.put(stage, settings, number, index, reason, record)
        self._commit_soon()

    def _commit_soon(self) -> None:
        """Commit once all that is ready now has been handled."""
        if not self._commit_is_due:
            self._commit_is_due = True
            asyncio.get_running_loop().call_soon(self._commit)

    def _commit(self) -> None:
        self._commit_is_due = False
        self._store.commit()


def _has_any(store: Store, settings: int) -> bool:
    """Is there a response under these settings on record?"""
    return any(store.select("SELECT 1 FROM samples WHERE settings = ? AND reason IS NULL LIMIT 1", (settings,)))
