"""The forecast of a dry run: the pilot's yields, speed and prices, whatever was built in its folder before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fakes.gemini_server import Service as Server
from fakes.sums import policy, recipe, write_sums

from specs_data import build
from specs_data.build.forecast import Measured, scale
from specs_data.build.run import forecast
from specs_data.engines.scripted import ScriptedEngine
from specs_data.recipe import Recipe
from specs_data.records import Request
from specs_data.services.prices import load_prices

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

MODEL = "gemini-3.8-flash"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("GOOGLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", "k-secret")
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)
    with Server() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        yield server


def gemini(problems: Path, **settings: Any) -> Recipe:
    return recipe(problems, verifier="gemini", verifier_model=MODEL, **settings)


@pytest.mark.parametrize("built", [60, 20, 0])
def test_earlier_runs_do_not_lengthen_the_forecast(tmp_path: Path, built: int) -> None:
    problems, out = write_sums(tmp_path, 60), tmp_path / "run"
    slow = policy(delay=0.01, concurrency=1)
    if built:
        build(recipe(problems, limit=built), out, engine=slow, quiet=True)
    forecast(recipe(problems), out, 10, engine=slow, quiet=True)
    found = forecast(recipe(problems), out, 10, engine=slow, quiet=True)
    took = build(recipe(problems), out, engine=slow, quiet=True).manifest
    assert found.seconds["generate"] == pytest.approx(took["seconds"]["generate"], rel=0.6)
    assert found.samples == pytest.approx(took["counts"]["sampled"], rel=0.5)
    assert "load" not in found.seconds


def test_rows_that_are_left_out_give_no_pairs(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 40)
    lines = problems.read_text().splitlines()
    problems.write_text("".join(f"{lines[0] if number % 2 else line}\n" for number, line in enumerate(lines)))
    found = forecast(recipe(problems), tmp_path / "run", 20, engine=policy(), quiet=True)
    assert found.pilot.read == 20 and found.pilot.counts["problems"] == 10  # the others are duplicates
    assert found.problems == 40 and found.pairs <= 20
    assert found.pairs == pytest.approx(2 * found.pilot.counts["pairs"])


def test_a_pilot_waits_for_no_batch_job_and_counts_its_price(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    found = forecast(gemini(problems, gemini_batch=True), tmp_path / "run", 5, engine=policy(), quiet=True)
    assert server.calls and not server.jobs
    asked = len(server.calls)
    price = load_prices().cost(MODEL, 1000 * asked, 200 * asked, batch=True)
    assert price and found.cost == pytest.approx(price * 4)
    assert found.tokens["verification"] == 4 * 1200 * asked


def test_earlier_runs_do_not_raise_the_cost(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    manifest = build(gemini(problems), tmp_path / "run", engine=policy(), quiet=True).manifest
    found = forecast(gemini(problems), tmp_path / "run", 5, engine=policy(), quiet=True)
    assert found.cost == pytest.approx(manifest["cost_usd"]["verification"], rel=0.5)


def test_an_unknown_price_is_said_to_be_unknown(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 4)
    rows = [{**json.loads(line), "answer_type": "open"} for line in problems.read_text().splitlines()]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = recipe(problems, judge_model="openai:my-model", judge_base_url=server.url)
    found = forecast(settings, tmp_path / "run", 4, engine=policy(), quiet=True)
    assert found.cost is None
    assert "judging services: the price is not known" in str(found) and "$" not in str(found)
    by_rules = forecast(recipe(problems), tmp_path / "rules", 4, engine=policy(), quiet=True)
    assert "judging services: $0.00" in str(by_rules)


def test_a_target_is_filled_by_first_responses_before_second_ones(tmp_path: Path) -> None:
    """Half of the problems are always solved and half never, so that later rounds give nothing."""

    def half(request: Request) -> str:
        number = int(request.messages[-1].content.split()[2])
        answer = number + 1 if number % 2 else number
        return f"<think>One looks. So the answer is {answer}.</think>\n<answer>\\boxed{{{answer}}}</answer>"

    target = recipe(write_sums(tmp_path, 100), samples=8, target=40)
    found = forecast(target, tmp_path / "pilot", engine=ScriptedEngine(half), quiet=True)
    engine = ScriptedEngine(half)
    build(target, tmp_path / "whole", engine=engine, quiet=True)
    assert found.pairs == pytest.approx(40)
    assert found.samples == pytest.approx(engine.calls, rel=0.25)
    assert found.seconds["pair"] == pytest.approx(found.pilot.seconds["pair"] * 40 / found.pilot.counts["pairs"])


def test_a_pilot_ends_where_its_target_is_reached(tmp_path: Path) -> None:
    target = recipe(write_sums(tmp_path, 100), samples=8, target=5)
    pilot, whole = policy(), policy()
    found = forecast(target, tmp_path / "pilot", engine=pilot, quiet=True)
    build(target, tmp_path / "whole", engine=whole, quiet=True)
    assert pilot.calls <= whole.calls
    assert found.pairs == pytest.approx(5) and found.samples == pytest.approx(whole.calls, rel=0.5)


def test_where_the_end_of_the_source_is_not_known_a_target_takes_what_first_responses_need() -> None:
    counts = {"sampled": 40, "pairs": 16}
    pilot = Measured(read=20, counts=counts, rounds=[(20, 10), (10, 4), (10, 2)], tokens={}, seconds={}, cost=1.0)
    found = scale(pilot, None, 100)
    assert (found.pairs, found.samples, found.problems) == (100, 200, 200)
    assert found.cost == pytest.approx(100 / 16)
    everything = scale(pilot, 40, 100)
    assert (everything.pairs, everything.samples, everything.problems) == (32, 80, 40)
    in_vain = Measured(read=20, counts={**counts, "pairs": 0}, rounds=[(40, 0)], tokens={}, seconds={}, cost=0.0)
    assert scale(in_vain, None, 100).problems is None  # and the figures are those of 1,000


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_that_are_none_of_the_preset_s_are_not_counted(tmp_path: Path, suffix: str) -> None:
    problems = write_sums(tmp_path, 40)
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    frame = pl.DataFrame([{**row, "version": {"kind": "no" if n % 4 else "yes"}} for n, row in enumerate(rows)])
    file = tmp_path / f"some.{suffix}"
    frame.write_ndjson(file) if suffix == "jsonl" else frame.write_parquet(file)
    (tmp_path / "mine.toml").write_text('[where]\n"version.kind" = ["yes"]\n')
    wanted = recipe(file, preset=str(tmp_path / "mine.toml"))
    found = forecast(wanted, tmp_path / "run", 4, engine=policy(), quiet=True)
    assert (found.problems, found.pilot.counts["problems"]) == (10, 4)
    assert build(wanted, tmp_path / "run", engine=policy(), quiet=True).manifest["counts"]["problems"] == 10


def test_a_dry_run_leaves_the_texts_of_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def opened(*_: object) -> ScriptedEngine:
        return policy()

    monkeypatch.setattr("specs_data.engines.open_engine", opened)
    wanted = recipe(write_sums(tmp_path, 30), rejected_from="base", pairs_per_problem=2, verifier="none")
    built = build(wanted, tmp_path / "run", engine=policy(), rival=policy(), quiet=True)
    before = built.frame("responses")
    forecast(wanted, tmp_path / "run", 5, engine=policy(), quiet=True)
    assert built.frame("responses").equals(before) and before["rejected"].count() > 20
