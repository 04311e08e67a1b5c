"""The policy never waits for a judge, however slow that one is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fakes.sums import dataset_bytes, policy, recipe, respond, write_sums

from specs_data import build
from specs_data.engines.scripted import ScriptedEngine
from specs_data.recipe import Recipe
from specs_data.records import Judged, Request, Response, Sampling, Verdict
from specs_data.rollouts.store import Store

PROBLEMS = 400
AT_ONCE = 4


class Slow:
    """A verifier that answers nothing before the policy has been asked for `until` responses."""

    concurrency = AT_ONCE
    settings = {"verifier": "slow"}

    def __init__(self, engine: ScriptedEngine | None = None, until: int = 0) -> None:
        self.engine = engine
        self.until = until
        self.asked: list[tuple[str, int]] = []
        self.busy = self.most = 0

    async def verify(self, judged: Judged, images: object) -> Verdict:
        sample = judged.sample
        self.asked.append((sample.problem.id, sample.index))
        self.busy += 1
        self.most = max(self.most, self.busy)
        while self.engine is not None and self.engine.calls < self.until:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        self.busy -= 1
        return Verdict(len(sample.response.text) % 3 > 0, "seen", model=self.settings.get("model", ""))

    async def close(self) -> None:
        pass


class SlowModel(Slow):
    paid = True
    settings = {"verifier": "slow", "model": "slow-1"}


@pytest.mark.parametrize("kind", [Slow, SlowModel])
@pytest.mark.parametrize("settings", [{}, {"samples_upfront": 2}, {"samples_upfront": 2, "pairs_per_problem": 2}])
def test_first_responses_are_asked_for_before_any_verdict(
    tmp_path: Path, kind: type[Slow], settings: dict[str, Any]
) -> None:
    wanted = recipe(write_sums(tmp_path, PROBLEMS), samples=3, **settings)
    engine, quick = policy(concurrency=8), policy()
    slow, fast = kind(engine, PROBLEMS * wanted.samples_upfront), kind()
    slow_run = build(wanted, tmp_path / "slow", engine=engine, verifier=slow, quiet=True)
    fast_run = build(wanted, tmp_path / "fast", engine=quick, verifier=fast, quiet=True)
    assert slow_run.count > PROBLEMS / 4 and engine.calls == quick.calls
    assert len(slow.asked) == len(set(slow.asked)) and sorted(slow.asked) == sorted(fast.asked)
    assert slow.most == AT_ONCE
    assert (
        dataset_bytes(slow_run.out)["data/train-00000-of-00001.parquet"]
        == (dataset_bytes(fast_run.out)["data/train-00000-of-00001.parquet"])
    )
    assert slow_run.manifest.counts == fast_run.manifest.counts


def test_no_verdict_is_asked_for_that_cannot_belong_to_the_target(tmp_path: Path) -> None:
    engine = policy(concurrency=64)
    slow = Slow()
    wanted = recipe(write_sums(tmp_path, PROBLEMS), samples=1, target=20)
    built = build(wanted, tmp_path / "run", engine=engine, verifier=slow, quiet=True)
    assert built.count == 20 and len(slow.asked) < 80


@pytest.mark.parametrize(("samples", "released"), [(1, True), (4, False)])
def test_the_model_is_released_while_the_last_verdicts_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, released: bool
) -> None:
    events: list[str] = []

    class Loud(ScriptedEngine):
        async def generate(self, request: Request) -> Response:
            events.append("response")
            return await super().generate(request)

        async def close(self) -> None:
            events.append("closed")

    class Late(Slow):
        async def verify(self, judged: Judged, images: object) -> Verdict:
            await asyncio.sleep(0.005)
            events.append("verdict")
            return Verdict(True, "seen")

    async def opened(settings: Recipe, sampling: Sampling) -> Loud:
        return Loud(respond)

    monkeypatch.setattr("specs_data.engines.open_engine", opened)
    wanted = recipe(write_sums(tmp_path, 50), policy="zero", engine="openai", model="zero", samples=samples)
    build(wanted, tmp_path / "run", verifier=Late(), quiet=True)
    assert events.count("closed") == 1
    assert ("verdict" in events[events.index("closed") :]) is released


def test_what_waited_when_the_run_died_is_asked_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    class Dying(Slow):
        async def verify(self, judged: Judged, images: object) -> Verdict:
            if len(self.asked) >= 20:
                raise RuntimeError("the service died")
            return await super().verify(judged, images)

    wanted = recipe(write_sums(tmp_path, 100), samples=2)
    first, second, whole = policy(), policy(), policy()
    dying, late, every = Dying(), Slow(), Slow()
    with pytest.raises(RuntimeError, match="the service died"):
        build(wanted, tmp_path / "run", engine=first, verifier=dying, quiet=True)
    with Store(tmp_path / "run" / "store.sqlite") as store:
        on_record = store.count("samples")
    with_rest = build(wanted, tmp_path / "run", engine=second, verifier=late, quiet=True)
    at_once = build(wanted, tmp_path / "whole", engine=whole, verifier=every, quiet=True)
    assert second.calls == whole.calls - on_record
    assert len(late.asked) <= len(every.asked) - 20 + AT_ONCE
    rows = "data/train-00000-of-00001.parquet"
    assert dataset_bytes(with_rest.out)[rows] == dataset_bytes(at_once.out)[rows]


def test_a_verifier_that_asks_the_policy_keeps_it_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    class Loud(ScriptedEngine):
        async def close(self) -> None:
            closed.append(self.calls)

    async def opened(settings: Recipe, sampling: Sampling) -> Loud:
        return Loud(respond, delay=0.001)

    monkeypatch.setattr("specs_data.engines.open_engine", opened)
    wanted = recipe(write_sums(tmp_path, 50), policy="zero", engine="openai", model="zero", samples=1)
    build(wanted.model_copy(update={"verifier": "policy"}), tmp_path / "run", quiet=True)
    assert len(closed) == 1 and closed[0] > 50


@pytest.mark.parametrize("settings", [{}, {"pass_rate": "0.5..1"}, {"blind_check": "drop"}])
def test_what_is_left_out_is_told_once_however_often_a_round_is_gone_through(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    wanted = recipe(write_sums(tmp_path, 60, pictures=True), samples=3, samples_upfront=3, **settings)
    built = build(wanted, tmp_path / "run", engine=policy(), verifier=SlowModel(), quiet=True)
    told = [line for line in (tmp_path / "run" / "run.log").read_text().splitlines() if " pairs: " in line][-1]
    dropped, counts = built.manifest["dropped"], built.manifest["counts"]
    asked = counts["sampled"] - 3 * counts.get("blind_solved", 0)  # what is solved blind is passed over the second time
    assert f" {counts['pairs']} pairs from {asked} responses " in told
    if not settings.get("blind_check"):
        assert f"wrong answer {dropped['judge']['wrong answer']}" in told
    if "pass_rate" in settings:
        assert f"pass rate outside 0.5..1 {dropped['difficulty']['pass rate outside 0.5..1']}" in told
