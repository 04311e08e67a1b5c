"""From a pilot to the whole job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from specs_data.build.fates import Fates, Served
from specs_data.rollouts.store import Store
from specs_data.rollouts.tables import Stage
from specs_data.services.prices import Prices

_LOGS: dict[str, Stage] = {"generate": "samples", "judge": "judgements", "verify": "verdicts", "pair": "pairs"}


class Measured(Struct, frozen=True):
    """What a pilot gave and took. `read` are the rows of the source, those left out as well. `rounds` are the
    responses and the pairs of each round of the agenda. Cost is in US dollars, of judging services; None where a
    price is not known. `why` says what was left out, and why."""

    read: int
    counts: Mapping[str, int]
    rounds: Sequence[tuple[int, int]]
    tokens: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float]
    cost: float | None
    why: str = ""


class Forecast(Struct, frozen=True):
    """What the whole job is expected to give and take. `problems` are rows of the source, None where it does
    not say how many it has; the figures are then per 1,000 problems. `cost` is None where a price is not known."""

    pilot: Measured
    problems: int | None
    pairs: float
    samples: float
    tokens: dict[str, float]
    seconds: dict[str, float]
    cost: float | None

    def __str__(self) -> str:
        counts = self.pilot.counts
        tried = (
            f"pilot: {counts['problems']} problems, {counts['sampled']} responses, {counts['right']} right, "
            f"{counts['well_formed']} well formed, {counts['verified']} verified, {counts['pairs']} pairs"
        )
        whole = "per 1,000 problems" if self.problems is None else f"for {self.problems:,} problems"
        tokens = ", ".join(f"{stage} {count:,.0f}" for stage, count in self.tokens.items() if count)
        seconds = ", ".join(f"{stage} {_time(spent)}" for stage, spent in self.seconds.items() if spent)
        cost = "the price is not known; give it in a file with --prices" if self.cost is None else f"${self.cost:,.2f}"
        return "\n".join((
            tried,
            *((self.pilot.why,) if not counts["pairs"] and self.pilot.why else ()),
            f"expected {whole}: {self.pairs:,.0f} pairs from {self.samples:,.0f} responses",
            f"tokens: {tokens or 'none'}",
            f"time, at the pilot's speed (a longer run fills the model better): {seconds}",
            f"judging services: {cost}",
        ))  # fmt: skip


def measure(
    store: Store, fates: Fates, before: Mapping[str, float], prices: Prices, *, batch: bool, why: str = ""
) -> Measured:
    """What a pilot gave and took. `before` are the seconds of earlier calls by stage; with `batch`, verdicts count
    at the price of batch jobs. `why` says what was left out, and why."""
    return Measured(
        read=fates.read,
        counts=fates.counts(),
        rounds=[(round_.responses, round_.pairs) for round_ in fates.rounds()],
        tokens={"generation": fates.tokens(), **_judging_tokens(fates.served)},
        seconds=_seconds(store, fates, before),
        cost=_judging_cost(fates.served, prices, batch),
        why=why,
    )


def _seconds(store: Store, fates: Fates, before: Mapping[str, float]) -> dict[str, float]:
    """The seconds that the results for this run's problems take, by stage: at the speed of this call, or of all
    calls for a stage that did nothing in this one."""
    spent, found = store.seconds(), {}
    for stage, log in _LOGS.items():
        made, seconds = store.appended[log], spent.get(stage, 0.0) - before.get(stage, 0.0)
        if not made:
            made, seconds = store.count(log), spent.get(stage, 0.0)
        found[stage] = seconds / made * fates.logged[log] if made else 0.0
    return found


def scale(pilot: Measured, total: int | None, target: int | None) -> Forecast:
    """The pilot's yields for `total` problems, or for as much of them as `target` pairs need."""
    tried = max(1, pilot.read)
    share = (1000 if total is None else total) / tried
    sampled, pairs = pilot.counts["sampled"] * share, pilot.counts["pairs"] * share
    problems, yields = total, [kept for _, kept in pilot.rounds if kept]
    if target is not None and yields:
        if total is None:  # no end of problems: the first round that gives pairs will do
            share = target / yields[0]
            problems = round(share * tried)
        sampled, pairs = _until(target, share, pilot.rounds)
    by_response = sampled / max(1, pilot.counts["sampled"])
    by_pair = pairs / pilot.counts["pairs"] if pilot.counts["pairs"] else by_response
    late = ("verification", "verify", "pair")  # stages that only right responses reach
    factor = {stage: by_pair if stage in late else by_response for stage in (*pilot.tokens, *pilot.seconds)}
    return Forecast(
        pilot=pilot,
        problems=problems,
        pairs=pairs,
        samples=sampled,
        tokens={stage: (used["prompt"] + used["completion"]) * factor[stage] for stage, used in pilot.tokens.items()},
        seconds={stage: spent * factor[stage] for stage, spent in pilot.seconds.items()},
        cost=None if pilot.cost is None else pilot.cost * max(by_response, by_pair),
    )


def _until(target: int, share: float, rounds: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The responses and the pairs of `share` times these rounds, one after the other until the target."""
    responses = pairs = 0.0
    for sampled, kept in rounds:
        part = min(1.0, (target - pairs) / (kept * share)) if kept else 1.0
        responses += sampled * share * part
        pairs += kept * share * part
        if pairs >= target:
            break
    return responses, pairs


def _judging_tokens(served: Served) -> dict[str, Mapping[str, int]]:
    """Prompt and completion tokens of the answers of judging services, by stage."""
    return {
        stage: {"prompt": sum(row[3] for row in rows), "completion": sum(row[4] for row in rows)}
        for stage, rows in served.items()
    }


def _judging_cost(served: Served, prices: Prices, batch: bool) -> float | None:
    """What these answers cost today, in US dollars: the verdicts in batch jobs, if so wished. None where a
    price is not known."""
    costs = [
        prices.paid(asked, by, prompt, completion, batch and stage == "verification")
        for stage, rows in served.items()
        for asked, by, _, prompt, completion in rows
    ]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
