"""The way of one response of a build: through the stages that all pass, and into a pair."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence

from specs_data.build.listing import Listing
from specs_data.build.tally import Tally
from specs_data.engines import Engine
from specs_data.judges.answers import final_answer
from specs_data.judges.rules import RuleJudge
from specs_data.pairs.twin import make_twin
from specs_data.records import Judged, Judgement, Problem, Rejected, Sample, Twin
from specs_data.rollouts.answers import Answers
from specs_data.rollouts.demand import OnDemand
from specs_data.rollouts.plan import STRUCK, Parts, Plan, Source, outside_window, pair_id
from specs_data.rollouts.sample import without_pictures
from specs_data.rollouts.search import Outcome, Turn
from specs_data.rollouts.stages import FORMAT, WRONG, Clock, Log, Stages, pass_rate, why_left
from specs_data.rollouts.store import Index, Number, Position, Store
from specs_data.rollouts.tables import Stage

logger = logging.getLogger(__name__)


class Choosing:
    """What the first search is for: chosen responses, at most so many of a problem; and where no rival is to answer
    as well, their pairs."""

    def __init__(
        self, flow: Flow, listing: Listing, engine: Engine | None, most: int, turn: Turn = Turn.POLICY
    ) -> None:
        self._flow = flow
        self._listing = listing
        self._engine = engine
        self._most = most
        self._turn = turn

    def wanted(self, position: Position) -> int:
        """How many chosen responses the problem is to have."""
        return self._most

    def attempt(self, position: Position, index: Index, kept: int) -> Awaitable[Outcome]:
        """Try whether this response becomes a chosen one."""
        return self._flow.choose(self._engine, self._listing.number(position), index, self._turn)


class Rejecting:
    """What the second search is for: a rival's response as the rejected side of each of these chosen ones."""

    def __init__(
        self,
        flow: Flow,
        listing: Listing,
        engine: Engine | None,
        chosen: Mapping[Position, Sequence[Index]],
        turn: Turn = Turn.POLICY,
    ) -> None:
        self._flow = flow
        self._listing = listing
        self._engine = engine
        self._chosen = chosen
        self._turn = turn

    def wanted(self, position: Position) -> int:
        """How many rejected responses the problem is to have."""
        return len(self._chosen[position])

    def attempt(self, position: Position, index: Index, kept: int) -> Awaitable[Outcome]:
        """Try whether this response of the rival fits the first chosen one that has no rejected side yet."""
        number, chosen = self._listing.number(position), self._chosen[position]
        return self._flow.reject(self._engine, number, chosen, kept, index, self._turn)


class Blind:
    """What the pass without pictures is for: the policy's answers to the text alone, each of them judged."""

    def __init__(self, flow: Flow, listing: Listing, engine: Engine | None, turn: Turn = Turn.POLICY) -> None:
        self._flow = flow
        self._listing = listing
        self._engine = engine
        self._turn = turn

    def wanted(self, position: Position) -> int:
        """None of them is kept as anything."""
        return 1

    def attempt(self, position: Position, index: Index, kept: int) -> Awaitable[Outcome]:
        """Ask for this response, and have it judged."""
        return self._flow.answer_blind(self._engine, self._listing.number(position), index, self._turn)


class Asking:
    """Whom a search asks ahead of time for responses of `source`."""

    def __init__(self, flow: Flow, listing: Listing, engine: OnDemand, source: Source) -> None:
        self._flow = flow
        self._listing = listing
        self._engine = engine
        self._source = source

    @property
    def idle(self) -> int:
        """How many responses more the policy can work on without any other waiting for it."""
        return self._engine.idle

    @property
    def typical(self) -> float:
        """The seconds that a response takes on average, as far as that is known."""
        return self._flow.took / max(1, self._flow.generated)

    def since(self, position: Position, indices: range) -> float | None:
        """When the policy was asked for the first of these responses that it has not given yet; None where it has been
        asked for none of them."""
        number, asked = self._listing.number(position), self._flow.asked_since
        times = (asked.get((self._source.samples, number, Index(index))) for index in indices)
        return min((time for time in times if time is not None), default=None)

    def ask(self, position: Position, index: Index) -> Awaitable[None]:
        """Put this response on record, if there is one."""
        return self._flow.sample_ahead(self._engine, self._source, self._listing.number(position), index)


class Flow(Stages):
    """The stages of one build. Attempts name a problem by its number in the store and a response by its index."""

    def __init__(
        self, plan: Plan, parts: Parts, store: Store, answers: Answers, rules: RuleJudge, loading: Clock, tally: Tally
    ) -> None:
        super().__init__(plan, parts, store, answers, rules, loading)
        self.tally = tally
        self._repeated = Tally(go_on=True)  # is told what has been told before, and nobody asks it
        self._corruptions = parts.corruptions
        self._weights = parts.weights
        self._unseen: dict[Number, Problem] = {}
        # The first responses of problems whose pass rate is wanted before any of them goes on.
        self._first = plan.recipe.samples_upfront if plan.recipe.pass_rate and plan.recipe.samples_upfront > 1 else 0
        self._meetings: dict[Number, tuple[asyncio.Barrier, list[Outcome | None]]] = {}

    def expect(self, number: Number, problem: Problem) -> None:
        """A problem that the store did not know before: its first responses need not be looked up."""
        self._unseen[number] = problem

    async def choose(self, engine: Engine | None, number: Number, index: Index, turn: Turn = Turn.POLICY) -> Outcome:
        """Try whether this response becomes a chosen one; with no rival, make its pair as well."""
        if self._plan.recipe.blind_check == "drop" and self._is_solved_blind(number):
            return Outcome.OVER
        found = await self._right(engine, number, index, turn)
        if index < self._first:
            outcomes = await self._meet(number, found if isinstance(found, Outcome) else None)
            if Outcome.TO_JUDGE in outcomes:
                return Outcome.TO_JUDGE
            if self._is_outside(number):
                if not isinstance(found, Outcome):
                    found[-1].leave(outside_window(self._plan.recipe.pass_rate))
                return Outcome.OVER
        if isinstance(found, Outcome):
            return found
        log, sample, judgement, tally = found
        waits = self.needs_verifier(log, number, index)
        if turn is Turn.VERIFIER:
            tally = self._told(waits)
        elif waits:
            return Outcome.TO_VERIFY
        verdict = await self.verify(log, Judged(sample, judgement), number)
        if verdict is None:
            return self._left(number, "undecided", tally)
        words = verdict.reason if verdict.answer is None else f"{verdict.reason} (concludes {verdict.answer})"
        reason = why_left(verdict)
        tally.verified(reason, sample.problem.id, words)
        if reason is not None:
            return self._left(number, reason, tally)
        if self._plan.rival is not None:
            return Outcome.KEPT
        return self._paired(log, sample, judgement.answer, number, index, "chosen", tally)

    async def _right(
        self, engine: Engine | None, number: Number, index: Index, turn: Turn
    ) -> Outcome | tuple[Log, Sample, Judgement, Tally]:
        """The response, if it is right and well-formed, and whom to tell what becomes of it; else what does."""
        unseen = self._unseen.pop(number, None)
        log = self._nothing if unseen else self._store.get
        problem = unseen or self._store.problem(number)
        policy = self._plan.policy
        sample = await self.sample(log, None if turn else engine, policy, problem, number, index)
        if sample is None:
            return Outcome.OVER
        if turn is Turn.POLICY:
            self.tally.tried += 1
        waits = self.needs_judge(log, policy, sample, number)
        if waits and turn is Turn.POLICY:
            return Outcome.TO_JUDGE
        tally = self._told(turn is Turn.POLICY or (turn is Turn.JUDGE and waits))
        if waits and turn is Turn.VERIFIER:  # who judges has been asked in its turn, and could not tell
            return self._left(number, "undecided", tally)
        reason, judgement = await self.judge(log, policy, sample, number) or ("undecided", None)
        if judgement is not None and engine is not None:
            fault = reason.removeprefix(FORMAT) if reason and reason.startswith(FORMAT) else judgement.malformed
            cut = sample.response.finish_reason == "length"
            tally.formatted(fault, problem.id, sample.response.text, cut)
        if reason is not None or judgement is None:
            return self._left(number, reason or "undecided", tally)
        return log, sample, judgement, tally

    def _told(self, news: bool) -> Tally:
        """Whom to tell what becomes of a response. A round of several goes through all of them again when one has
        waited for a service: what was decided before is no `news`."""
        return self.tally if news else self._repeated

    async def _meet(self, number: Number, outcome: Outcome | None) -> Sequence[Outcome | None]:
        """Wait until all first responses to the problem have come so far; what became of each."""
        barrier, outcomes = self._meetings.setdefault(number, (asyncio.Barrier(self._first), []))
        outcomes.append(outcome)
        await barrier.wait()
        self._meetings.pop(number, None)
        return outcomes

    def _is_outside(self, number: Number) -> bool:
        """Do the first responses say that the problem is too hard or too easy?"""
        low, high = self._plan.recipe.pass_rate or (0.0, 1.0)
        rate = self._rate(self._plan.policy, number, self._first)
        return rate is None or not low <= rate <= high

    def _is_solved_blind(self, number: Number) -> bool:
        """Is it on record that the policy solves the problem without its picture? Some of the responses to the text
        alone, of a build that was killed or asked for fewer, do not say."""
        blind, log = self._plan.blind, self._store.get
        if blind is None:
            return False
        judged = [log("judgements", blind.judgements, number, Index(index)) for index in range(blind.most)]
        if (pass_rate(row[0] for row in judged if row is not None) or 0.0) <= 0.5:
            return False
        unjudged = (Index(index) for index, row in enumerate(judged) if row is None)
        sampled = (log("samples", blind.samples, number, index) for index in unjudged)
        return all(row is not None and row[0] for row in sampled)

    def _rate(self, source: Source, number: Number, first: int) -> float | None:
        rows = (self._store.get("judgements", source.judgements, number, Index(index)) for index in range(first))
        return pass_rate(row[0] for row in rows if row is not None)

    async def answer_blind(self, engine: Engine | None, number: Number, index: Index, turn: Turn) -> Outcome:
        """Ask for this response to the problem as text alone, and have it judged."""
        blind, log = self._plan.blind, self._store.get
        if blind is None:
            raise ValueError("this run has no pass without pictures")
        problem = without_pictures(self._store.problem(number))
        sample = await self.sample(log, None if turn else engine, blind, problem, number, index)
        if sample is None:
            return Outcome.OVER
        if not turn and self.needs_judge(log, blind, sample, number):
            return Outcome.TO_JUDGE
        await self.judge(log, blind, sample, number)
        return Outcome.LEFT

    async def reject(
        self,
        engine: Engine | None,
        number: Number,
        chosen: Sequence[Index],
        kept: int,
        index: Index,
        turn: Turn = Turn.POLICY,
    ) -> Outcome:
        """Try whether the rival's response becomes the rejected side of the first of the `chosen` ones after those that
        are `kept`: a right one for decoupled pairs, a wrong one for coupled pairs, malformed or made so."""
        rival = self._plan.rival
        if rival is None:
            raise ValueError("this run has no rival")
        if rival.samples == self._plan.policy.samples and index in chosen:  # of itself it would be a twin
            return Outcome.LEFT
        log = self._store.get
        problem = self._store.problem(number)
        sample = await self.sample(log, None if turn else engine, rival, problem, number, index)
        if sample is None:
            return Outcome.OVER
        if not turn and self.needs_judge(log, rival, sample, number):
            return Outcome.TO_JUDGE
        reason, _ = await self.judge(log, rival, sample, number) or ("undecided", None)
        right = reason is None or reason.startswith(FORMAT)
        wanted = reason == WRONG if self._plan.recipe.pairing == "coupled" else right
        if not wanted:
            return Outcome.LEFT
        answer = final_answer(sample.response.text, self._plan.fmt)
        return self._paired(log, sample, answer, number, chosen[kept], rival.name, self.tally)

    def _left(self, number: Number, reason: str, tally: Tally) -> Outcome:
        tally.leave(reason)
        logger.debug("a response to %r is left out: %s", self._store.problem(number).id, reason)
        return Outcome.OVER if self.is_hopeless(number) else Outcome.LEFT

    def _paired(
        self,
        log: Log,
        sample: Sample,
        answer: str | None,
        number: Number,
        chosen: Index,
        origin: str,
        tally: Tally,
    ) -> Outcome:
        # One with a rival takes up its response all the same: or the others' would be others than before.
        if origin == "chosen" and pair_id(sample.problem.id, chosen) in self._plan.struck:
            tally.leave(STRUCK)
            return Outcome.LEFT
        row = log("pairs", self._plan.pairs, number, chosen) if origin == "chosen" else None
        if row is not None:
            return self._corrupted(row[0], sample, tally)
        with self.clocks["pair"]:
            twin = self._twin(sample, answer, origin)
        self._drawn(twin, sample)
        # A row does not say which of a rival's responses made it: on a resumed run they are tried again.
        if twin.rejected is not None or origin == "chosen":
            reason = None if twin.rejected else "no corruption applies"
            self._put("pairs", self._plan.pairs, number, chosen, reason, twin)
        refused = ", ".join(f"{operator}: {why}" for operator, why in twin.refused)
        return self._corrupted(None if twin.rejected else refused or "no corruption applies", sample, tally)

    def _drawn(self, twin: Twin, sample: Sample) -> None:
        taken = [(twin.rejected.corruption, None)] if twin.rejected and twin.rejected.corruption else []
        for operator, reason in (*twin.refused, *taken):
            self.tally.drawn(operator, reason, sample.problem.id, sample.response.text)

    def _corrupted(self, reason: str | None, sample: Sample, tally: Tally) -> Outcome:
        tally.corrupted(reason, sample.problem.id, sample.response.text)
        if reason is None:
            return Outcome.KEPT
        tally.leave(reason)
        return Outcome.LEFT

    def _twin(self, sample: Sample, answer: str | None, origin: str) -> Twin:
        text, fmt, recipe = sample.response.text, self._plan.fmt, self._plan.recipe
        as_it_is = Rejected(text, None, origin) if origin != "chosen" and fmt.check(text) is not None else None
        if as_it_is and recipe.natural_rejected:
            return Twin(as_it_is)
        seed = f"{recipe.seed}/{sample.problem.id}/{sample.index}"
        twin = make_twin(text, answer, fmt, self._corruptions, self._weights, seed, origin)
        # One that has nothing to take away, or to which no operator applies, breaks the format by itself.
        made = as_it_is if as_it_is and twin.rejected and twin.rejected.text == text else twin.rejected
        return Twin(made or as_it_is, twin.refused)

    @staticmethod
    def _nothing(stage: Stage, settings: int, problem: Number, index: Index) -> None:
        """The log of a problem that the store has just met."""
