"""From a pilot to the whole job."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class Measured(Struct, frozen=True):
    """What a pilot gave and took. Cost is in US dollars, of judging services."""

    counts: Mapping[str, int]
    tokens: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float]
    cost: float


class Forecast(Struct, frozen=True):
    """What the whole job is expected to give and take. `problems` is None where the source does not
    say how many it has; the figures are then per 1,000 problems."""

    pilot: Measured
    problems: int | None
    pairs: float
    samples: float
    tokens: dict[str, float]
    seconds: dict[str, float]
    cost: float

    def __str__(self) -> str:
        counts = self.pilot.counts
        tried = (
            f"pilot: {counts['problems']} problems, {counts['sampled']} responses, {counts['right']} right, "
            f"{counts['well_formed']} well formed, {counts['verified']} verified, {counts['pairs']} pairs"
        )
        whole = "per 1,000 problems" if self.problems is None else f"for {self.problems:,} problems"
        tokens = ", ".join(f"{stage} {count:,.0f}" for stage, count in self.tokens.items() if count)
        seconds = ", ".join(f"{stage} {_time(spent)}" for stage, spent in self.seconds.items() if spent)
        return "\n".join((
            tried,
            f"expected {whole}: {self.pairs:,.0f} pairs from {self.samples:,.0f} responses",
            f"tokens: {tokens}",
            f"time, at the pilot's speed (a longer run fills the model better): {seconds}",
            f"judging services: ${self.cost:,.2f}",
        ))  # fmt: skip


def scale(pilot: Measured, total: int | None, target: int | None) -> Forecast:
    """The pilot's yields for `total` problems, or for as many as `target` pairs need."""
    tried = max(1, pilot.counts["problems"])
    problems = total
    if target is not None and pilot.counts["pairs"]:
        needed = round(target * tried / pilot.counts["pairs"])
        problems = needed if total is None else min(total, needed)
    factor = (1000 if problems is None else problems) / tried
    stages = {stage: spent for stage, spent in pilot.seconds.items() if stage != "load"}
    return Forecast(
        pilot=pilot,
        problems=problems,
        pairs=pilot.counts["pairs"] * factor,
        samples=pilot.counts["sampled"] * factor,
        tokens={stage: (used["prompt"] + used["completion"]) * factor for stage, used in pilot.tokens.items()},
        seconds={stage: spent * factor for stage, spent in stages.items()},
        cost=pilot.cost * factor,
    )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
