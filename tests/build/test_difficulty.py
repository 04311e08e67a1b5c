"""How difficult a problem is: pass rates, windows of them, and what is solved without its picture."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from fakes.gemini_server import GOOD, Service, item_of
from fakes.sums import dataset_bytes, policy, recipe, respond, write_sums

from specs_data import build
from specs_data.build.run import Built, forecast
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import EngineFailed, UserError
from specs_data.look.report import report
from specs_data.pairs.manifest import Tokens
from specs_data.records import Request, Response


def by_problem(built: Built, of: int) -> dict[str, float]:
    """The share of right answers among the first `of` responses to each problem, as the run's logs have them."""
    frame = built.frame("responses").filter(pl.col("index") < of, role="chosen")
    right = (pl.col("stage") != "judge") & (pl.col("stage") != "sample")
    return dict(frame.group_by("problem_id").agg(rate=right.mean()).iter_rows())


def test_the_pass_rate_is_a_column_of_rows_and_frames(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 30)
    built = build(recipe(problems, samples=4, samples_upfront=4), tmp_path / "run", engine=policy(), quiet=True)
    rates = by_problem(built, 4)
    pairs = {pair.problem_id: pair.pass_rate for pair in built.pairs()}
    assert pairs == {name: rates[name] for name in pairs} and len({*pairs.values()}) > 2
    assert dict(built.frame("pairs").select("problem_id", "pass_rate").iter_rows()) == pairs
    told = built.frame("responses").select("problem_id", "pass_rate").unique()
    assert dict(told.iter_rows()) == rates
    schema = pq.read_schema(next((built.out / "dataset").rglob("*.parquet")))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["pass_rate"] == {"dtype": "float64", "_type": "Value"}
    assert features["solved_blind"] == {"dtype": "bool", "_type": "Value"}
    page = report(built.out).read_text()
    assert (
        "Pass rate" in page and "90-100%" in page and page.count("pass rate 100%") == [*pairs.values()].count(1.0) > 0
    )


def test_what_else_is_on_record_makes_no_difference_to_a_row(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 30)
    for settings in ({"samples": 8, "samples_upfront": 6}, {"samples": 8}):
        build(recipe(problems, **settings), tmp_path / "used", engine=policy(), quiet=True)
    build(recipe(problems, samples=8), tmp_path / "fresh", engine=policy(), quiet=True)
    parquet = "data/train-00000-of-00001.parquet"
    assert dataset_bytes(tmp_path / "used")[parquet] == dataset_bytes(tmp_path / "fresh")[parquet]


def test_a_window_keeps_problems_by_their_first_responses(tmp_path: Path) -> None:
    problems, every, some = write_sums(tmp_path, 60), policy(), policy()
    settings: dict[str, Any] = {"samples": 8, "samples_upfront": 4}
    whole = build(recipe(problems, **settings), tmp_path / "whole", engine=every, quiet=True)
    built = build(recipe(problems, **settings, pass_rate="0.3..0.8"), tmp_path / "run", engine=some, quiet=True)
    rates = by_problem(whole, 4)
    inside = {name for name, rate in rates.items() if 0.3 <= rate <= 0.8}
    assert {pair.problem_id for pair in built.pairs()} == {
        pair.problem_id for pair in whole.pairs() if pair.problem_id in inside
    }
    assert 0 < built.count < whole.count
    # Nothing more is asked about a problem that is outside.
    outside = built.frame("responses").filter(~pl.col("problem_id").is_in([*inside]))
    assert outside["index"].max() == 3 and some.calls < every.calls
    told = built.manifest.dropped or {}
    assert told["difficulty"]["pass rate outside 0.3..0.8"] > 0
    counts = built.manifest.counts
    assert counts is not None and counts.well_formed == built.frame("responses").filter(
        pl.col("stage").is_in(["difficulty", "verify", "pair"])
    ).height  # fmt: skip
    again = build(recipe(problems, **settings, pass_rate="0..1"), tmp_path / "run", engine=policy(), quiet=True)
    assert again.count == whole.count


def test_a_source_may_tell_its_own_pass_rates(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    told = [{**row, "PassRate_7BBase": -1.0 if n > 15 else n / 15} for n, row in enumerate(rows)]
    virl = tmp_path / "virl.jsonl"
    virl.write_text("".join(json.dumps({**row, "qid": row["id"]}) + "\n" for row in told))
    engine, settings = policy(), {"preset": "virl39k", "pass_rate": "0.2..0.8", "samples": 8}
    built = build(recipe(virl, **settings), tmp_path / "run", engine=engine, quiet=True)
    assert {pair.problem_id for pair in built.pairs()} <= {f"sum-{n}" for n in range(3, 13)}
    assert (built.manifest.dropped or {})["input"] == {"pass rate outside 0.2..0.8": 6, "pass rate not known": 4}
    both = build(recipe(virl, **settings, samples_upfront=4), tmp_path / "both", engine=policy(), quiet=True)
    assert (both.manifest.dropped or {})["input"] == {"pass rate outside 0.2..0.8": 6}
    with pytest.raises(UserError, match="no column 'pass_rate' .* or measure it by --samples-upfront 4"):
        build(recipe(problems, pass_rate="0.2..0.8"), tmp_path / "none", engine=policy(), quiet=True)


def see(request: Request) -> str:
    """The right answer; without a picture only to every third sum."""
    number = int(request.messages[-1].content.split()[2])
    answer = number + 1 + (not request.images and number % 3 > 0)
    return f"<think>{number} + 1 = {answer}.</think>\n<answer>\\boxed{{{answer}}}</answer>"


def test_what_was_asked_without_pictures_is_counted(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 12, pictures=True)
    engine = ScriptedEngine(lambda request: Response(see(request), "stop", 10, 3))
    settings: dict[str, Any] = {"blind_check": "flag", "verifier": "none"}
    built = build(recipe(problems, **settings), tmp_path / "run", engine=engine, quiet=True)
    assert engine.calls == 24 and built.manifest.tokens is not None
    assert built.manifest.tokens["generation"] == Tokens(24 * 10, 24 * 3)
    told = forecast(recipe(problems, **settings), tmp_path / "pilot", 6, engine=engine, quiet=True)
    assert told.tokens["generation"] == pytest.approx(24 * 13)


@pytest.mark.parametrize("rival", [None, "base-model"])
def test_problems_solved_without_their_picture_are_flagged(tmp_path: Path, rival: str | None) -> None:
    problems = write_sums(tmp_path, 12, pictures=True)
    with problems.open("a") as lines:
        lines.write('{"id": "text", "question": "What is 90 + 1?", "answer": "91"}\n')
    settings: dict[str, Any] = {"blind_check": "flag", "verifier": "none"} | ({"rejected_from": rival} if rival else {})
    engine, other = ScriptedEngine(see), ScriptedEngine(see)
    built = build(recipe(problems, **settings), tmp_path / "run", engine=engine, rival=other, quiet=True)
    solved = {pair.problem_id: pair.solved_blind for pair in built.pairs()}
    assert solved == {f"sum-{n}": n % 3 == 0 for n in range(12)} | {"text": None}
    assert engine.calls == 13 + 12
    counts = built.manifest.counts
    assert counts is not None and (counts.blind_checked, counts.blind_solved) == (12, 4)
    page = report(built.out).read_text()
    assert "solved by the text alone" in page and page.count("solved without its picture") == 4
    assert "4 of 12 problems with pictures are solved" in (built.out / "dataset" / "README.md").read_text()
    idle = ScriptedEngine(see)
    changed = {**settings, "holdout": 0.2}
    build(recipe(problems, **changed), tmp_path / "run", engine=idle, rival=ScriptedEngine(see), quiet=True)
    assert idle.calls == 0
    plain = build(recipe(problems, verifier="none"), tmp_path / "run", engine=idle, quiet=True)
    assert idle.calls == 0 and {pair.solved_blind for pair in plain.pairs()} == {None}


@pytest.mark.parametrize("rival", [None, "base-model"])
def test_problems_solved_without_their_picture_give_way_to_others(tmp_path: Path, rival: str | None) -> None:
    problems = write_sums(tmp_path, 30, pictures=True)
    settings: dict[str, Any] = {"blind_check": "drop", "target": 8, "shuffle": False, "verifier": "none"}
    settings |= {"rejected_from": rival} if rival else {}

    def engine() -> ScriptedEngine:
        return ScriptedEngine(see)

    built = build(recipe(problems, **settings), tmp_path / "run", engine=engine(), rival=engine(), quiet=True)
    assert [pair.problem_id for pair in built.pairs()] == [f"sum-{n}" for n in (1, 2, 4, 5, 7, 8, 10, 11)]
    assert all(pair.solved_blind is False for pair in built.pairs())
    assert (built.manifest.dropped or {})["difficulty"]["solved without its picture"] >= 4
    # Whatever was built there before.
    whole = {**settings, "target": None, "blind_check": None}
    for each in (whole, {**whole, "blind_check": "flag", "limit": 5}, settings):
        build(recipe(problems, **each), tmp_path / "used", engine=engine(), rival=engine(), quiet=True)
    parquet = "data/train-00000-of-00001.parquet"
    assert dataset_bytes(tmp_path / "used")[parquet] == dataset_bytes(tmp_path / "run")[parquet]


def test_given_responses_cannot_be_asked_again(tmp_path: Path) -> None:
    problems, file = write_sums(tmp_path, 2), tmp_path / "responses.jsonl"
    file.write_text(json.dumps({"problem_id": "sum-1", "response": "2"}) + "\n")
    with pytest.raises(UserError, match="--blind-check asks the policy"):
        build(recipe(problems, responses=file, blind_check="flag"), tmp_path / "run", quiet=True)


def test_a_policy_without_pictures_is_shown_no_places_for_them(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 2, pictures=True)
    problems.write_text(problems.read_text().replace("What is", "<image> and what is").replace("+ 1?", "+ 1? <image>"))
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    problems.write_text("".join(json.dumps({**row, "images": row["images"] * 2}) + "\n" for row in rows))
    asked: list[str] = []

    def script(request: Request) -> str:
        if not request.images:
            asked.append(request.messages[-1].content)
        return respond_to(request)

    def respond_to(request: Request) -> str:
        text = request.messages[-1].content.replace("<image>", "").replace("and what", "What").strip()
        message = request.messages[-1].__class__("user", text)
        return respond(Request((message,), (), request.seed))

    build(
        recipe(problems, blind_check="flag", verifier="none"),
        tmp_path / "run",
        engine=ScriptedEngine(script),
        quiet=True,
    )
    assert asked and all("<image>" not in text for text in asked)


@pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")
@pytest.mark.parametrize("settings", [{"pass_rate": "0.3..0.8"}, {"blind_check": "flag"}])
def test_a_judge_model_is_waited_for(server: Service, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Every other problem is open-ended: what a model says of its answers counts as what a rule says."""
    file = write_sums(tmp_path, 40, pictures=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "".join(json.dumps({**row, "answer_type": ("open", "")[n % 2]}) + "\n" for n, row in enumerate(rows))
    )

    def verdict(system: str, text: str, images: list[Any]) -> str:
        said = text.replace(item_of(text), "")
        return json.dumps({**GOOD, "item": item_of(text), "right": hashlib.sha256(said.encode()).digest()[0] % 2 == 0})

    server.answer = verdict
    judged: dict[str, Any] = {"judge_model": "openai:gpt-4o", "judge_base_url": server.url, "verifier": "none"}
    judged |= {"samples": 4, "samples_upfront": 4}
    whole = build(recipe(file, **judged), tmp_path / "whole", engine=policy(), quiet=True)
    built = build(recipe(file, **judged, **settings), tmp_path / "run", engine=policy(), quiet=True)
    asked = len(server.calls)
    engine = policy()
    again = build(recipe(file, **judged, **settings, license="mit"), tmp_path / "run", engine=engine, quiet=True)
    assert (engine.calls, len(server.calls)) == (0, asked) and again.count == built.count
    rates = {pair.problem_id: pair.pass_rate for pair in whole.pairs()}
    if "blind_check" in settings:
        assert {pair.problem_id: pair.pass_rate for pair in built.pairs()} == rates
        assert {pair.solved_blind for pair in built.pairs()} == {True, False}
    else:
        inside = {name for name, rate in rates.items() if rate is not None and 0.3 <= rate <= 0.8}
        assert {pair.problem_id for pair in built.pairs()} == inside and 0 < len(inside) < len(rates)


@pytest.mark.parametrize("before", [{"samples_upfront": 1}, {}], ids=["asked for fewer", "broke down"])
def test_some_of_the_responses_without_pictures_do_not_say_that_a_problem_is_solved(
    tmp_path: Path, before: dict[str, Any]
) -> None:
    """The first of three responses without the picture is right, the others are wrong."""
    answered: set[str] = set()

    def script(request: Request) -> str:
        number, question = int(request.messages[-1].content.split()[2]), request.messages[-1].content
        answer = number + 1 + (not request.images and question in answered)
        answered.update((question,) if not request.images else ())
        return f"<think>{number} + 1 = {answer}.</think>\n<answer>\\boxed{{{answer}}}</answer>"

    def break_down(request: Request) -> str:
        if not request.images and len(answered) > 3:
            raise EngineFailed("it broke down")
        return script(request)

    problems = write_sums(tmp_path, 10, pictures=True)
    settings: dict[str, Any] = {"blind_check": "drop", "verifier": "none", "samples": 3, "samples_upfront": 3}
    engine = ScriptedEngine(script if before else break_down, concurrency=1)
    with suppress(EngineFailed):
        build(recipe(problems, **settings | before), tmp_path / "run", engine=engine, quiet=True, overwrite=True)
    again = ScriptedEngine(script, concurrency=1)
    assert build(recipe(problems, **settings), tmp_path / "run", engine=again, quiet=True).count == 10
