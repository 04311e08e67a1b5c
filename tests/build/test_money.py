"""What judging services cost: every payment is on record once, whatever became of the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.gemini_server import GOOD, item_of
from fakes.gemini_server import Service as Server
from fakes.sums import policy, recipe, write_sums

from specs_data import build
from specs_data.build.run import Built
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import UserError
from specs_data.recipe import Recipe
from specs_data.rollouts.store import Store
from specs_data.services.prices import load_prices

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

MODEL = "gemini-3.8-flash"
PRICE = load_prices().cost(MODEL, 1000, 200) or 0.0  # of one call to the server


def gemini(problems: Path, **settings: Any) -> Recipe:
    return recipe(problems, **{"verifier": "gemini", "verifier_model": MODEL, **settings})


def judged(problems: Path, server: Server, **settings: Any) -> Recipe:
    """Open-ended answers, judged by a model behind an OpenAI-compatible server."""
    settings = {"judge_model": "openai:gpt-4o", "judge_base_url": server.url, "verifier": "none", **settings}
    return recipe(problems, **settings)


def write_open(folder: Path, count: int) -> Path:
    file = write_sums(folder, count)
    rows = [{**json.loads(line), "answer_type": "open"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(settings: Recipe, out: Path) -> Built:
    return build(settings, out, engine=policy(), quiet=True)


def cost(out: Path, stage: str = "verification") -> float:
    found: float = json.loads((out / "manifest.json").read_text())["cost_usd"][stage]
    return found


def test_all_calls_are_on_record_and_a_second_run_adds_none(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 10)
    server.faults.extend(["broken JSON", "500", "MAX_TOKENS"])
    for _ in range(2):
        manifest = run(gemini(problems), tmp_path / "run").manifest
        calls = len(server.calls) - 1  # nothing is paid for the 500
        assert manifest["cost_usd"] == {"verification": pytest.approx(calls * PRICE)}
        assert manifest["tokens"]["verification"] == {"prompt": 1000 * calls, "completion": 200 * calls}


def test_questions_that_stay_undecided_are_paid_for(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 8)
    server.answer = lambda _, text, __: (
        "no JSON" if "What is 3 " in text else json.dumps({**GOOD, "item": item_of(text)})
    )
    for _ in range(2):
        manifest = run(gemini(problems), tmp_path / "run").manifest
        assert manifest["dropped"]["verify"]["undecided: broken answer"]
        assert cost(tmp_path / "run") == pytest.approx(len(server.calls) * PRICE)


def test_the_limit_holds_across_runs_that_are_stopped(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 40)
    server.answer = lambda *_: "no JSON"
    for _ in range(4):
        with pytest.raises(UserError):
            run(gemini(problems, max_cost=0.05), tmp_path / "run")
    assert 0.03 < len(server.calls) * PRICE <= 0.05


def test_what_is_spent_stays_spent_whatever_is_asked_next(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 12)
    run(gemini(problems), tmp_path / "run")
    paid = cost(tmp_path / "run")
    run(gemini(problems, limit=2), tmp_path / "run")
    assert cost(tmp_path / "run") == paid
    with pytest.raises(UserError, match=f"have cost \\${paid:.4f}"):
        run(gemini(problems, verifier_model="gemini-2.5-flash", max_cost=paid), tmp_path / "run")


def test_an_answer_for_several_rows_is_paid_for_once(server: Server, tmp_path: Path) -> None:
    problems = write_open(tmp_path, 6)
    for name in ("first", "second"):
        run(judged(problems, server, samples=4, cache=tmp_path / "cache"), tmp_path / name)
    calls = len(server.calls)
    assert cost(tmp_path / "first", "judging") == pytest.approx(calls * (load_prices().cost("gpt-4o", 1000, 200) or 0))
    assert json.loads((tmp_path / "second" / "manifest.json").read_text())["cost_usd"] is None  # all were known


def test_the_judging_of_a_rival_is_paid_for(server: Server, tmp_path: Path) -> None:
    problems = write_open(tmp_path, 6)
    settings = judged(problems, server, rejected_from="base-model", samples=4)
    build(settings, tmp_path / "run", engine=policy(), rival=policy(), quiet=True)
    price = load_prices().cost("gpt-4o", 1000, 200) or 0.0
    assert cost(tmp_path / "run", "judging") == pytest.approx(len(server.calls) * price)
    served = json.loads((tmp_path / "run" / "manifest.json").read_text())["models"]["judge"]["served"]
    with Store(tmp_path / "run" / "store.sqlite") as store:
        query = """SELECT count(*) FROM judgements WHERE CAST(record AS TEXT) LIKE '%"served":"gpt-4o"%'"""
        rows = next(store.select(query))[0]
    assert served == {"gpt-4o": rows}


def test_live_verdicts_stay_priced_as_such_when_batch_jobs_are_asked_for(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 6)
    run(gemini(problems), tmp_path / "run")
    run(gemini(problems, gemini_batch=True), tmp_path / "run")
    assert cost(tmp_path / "run") == pytest.approx(len(server.calls) * PRICE)


def test_an_unknown_model_that_serves_is_priced_like_the_one_asked_for(server: Server, tmp_path: Path) -> None:
    server.served = "gemini-3.8-flash-secret"
    problems = write_sums(tmp_path, 6)
    run(gemini(problems, allow_model_mismatch=True), tmp_path / "run")
    assert cost(tmp_path / "run") == pytest.approx(len(server.calls) * PRICE)


def test_a_cost_without_a_price_is_not_known(server: Server, tmp_path: Path) -> None:
    settings = judged(write_open(tmp_path, 4), server, judge_model="openai:my-model")
    manifest = run(settings, tmp_path / "run").manifest
    assert manifest["cost_usd"] is None and manifest["tokens"]["judging"]["prompt"] == 1000 * len(server.calls)


def test_a_payment_keeps_the_price_of_its_day(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 6)
    run(gemini(problems), tmp_path / "run")
    file = tmp_path / "prices.toml"
    file.write_text(f'["{MODEL}"]\nprices = [{{ since = 2026-01-01, prompt = 99, completion = 99 }}]\n')
    run(gemini(problems, prices=file), tmp_path / "run")
    assert cost(tmp_path / "run") == pytest.approx(len(server.calls) * PRICE)


def test_identical_questions_that_meet_are_asked_once(server: Server, tmp_path: Path) -> None:
    server.latency = 0.1
    problems = write_sums(tmp_path, 4)
    same = ScriptedEngine(lambda _: "<think>Yes.</think>\n<answer>1</answer>")
    built = build(
        gemini(problems, samples=4, samples_upfront=4, pairs_per_problem=4), tmp_path / "run", engine=same, quiet=True
    )
    assert built.manifest["counts"]["verified"] == 4
    assert len(server.calls) == 1


def test_those_who_wait_for_one_answer_share_its_failure(server: Server, tmp_path: Path) -> None:
    server.latency = 0.1
    server.faults.extend(["MAX_TOKENS"] * 4)
    problems = write_sums(tmp_path, 1)
    same = ScriptedEngine(lambda _: "<think>Yes.</think>\n<answer>1</answer>")
    built = build(gemini(problems, samples=4, samples_upfront=4), tmp_path / "run", engine=same, quiet=True)
    assert built.manifest["dropped"]["verify"] == {"undecided: cut off": 4}
    assert cost(tmp_path / "run") == pytest.approx(2 * PRICE) and len(server.calls) == 2
