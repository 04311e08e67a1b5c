"""A build that is watched: its log, its lines, and its stop where going on is in vain."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes.sums import policy, recipe, write_sums

from specs_data import build, load_run
from specs_data.build.run import done_line, forecast
from specs_data.build.tally import Tally
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import InVain, UserError
from specs_data.pairs.manifest import Counts, Manifest
from specs_data.records import Judged, Request, Verdict
from specs_data.rollouts import progress


def malformed(request: Request) -> str:
    number = int(request.messages[-1].content.split()[2])
    return f"{number} + 1 = \\boxed{{{number + 1 + number % 2}}}"


def test_the_log_says_how_the_run_went(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    built = build(recipe(write_sums(tmp_path, 60)), tmp_path / "run", engine=policy())
    counts = built.manifest["counts"]
    log = (tmp_path / "run" / "run.log").read_text()
    assert re.search(
        rf"pairs: 60 of 60 problems done; {built.count} pairs from {counts['sampled']} responses \(\d+%\); "
        r"[\d.,]+ responses/s, [\d,]+ tokens/s, 0 s left; left out: wrong answer \d+",
        log,
    )
    last = log.splitlines()[-1].partition(" ")[2]
    assert last.startswith(
        f"done: {built.count} pairs from {counts['sampled']} responses to 60 problems; {counts['malformed']} r"
    )
    assert last in capfd.readouterr().err


def test_a_reason_of_two_stages_is_counted_for_both() -> None:
    dropped = {"judge": {"wrong answer": 60}, "rejected": {"wrong answer": 38}, "pair": {"struck": 2}}
    told = done_line(Manifest(counts=Counts(pairs=9, sampled=99, problems=9), dropped=dropped))
    assert told.endswith("left out: wrong answer 60, rejected: wrong answer 38, struck 2")


def test_a_line_comes_as_time_goes_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.01)
    build(recipe(write_sums(tmp_path, 30)), tmp_path / "run", engine=policy(delay=0.01, concurrency=4), quiet=True)
    done = [int(count) for count in re.findall(r"pairs: (\d+) of 30 problems", (tmp_path / "run/run.log").read_text())]
    assert len(done) > 5 and done == sorted(done) and done[0] < 30 == done[-1]


def test_quiet_and_verbose(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    problems = write_sums(tmp_path, 30)
    build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    assert capfd.readouterr().err == ""
    build(recipe(problems), tmp_path / "loud", engine=policy(), verbose=True)
    assert re.search(r"a response to 'sum-\d+' is left out: wrong answer", capfd.readouterr().err)


def test_the_time_left_is_that_of_the_run_s_own_speed() -> None:
    now = progress.Figures(tried=400, responses=100, tokens=100, reasons=(), dollars=0.0)
    bar = progress.Progress("pairs", 300, True, lambda: now)
    bar.done, bar.pairs = 200, 150
    assert bar._left(now, 2.0) == 100  # 400 responses for 200 problems: 200 for the rest, two a second
    assert progress.Progress("pairs", None, True, lambda: now)._left(now, 2.0) is None


async def test_the_speed_does_not_count_the_time_in_which_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK", 0.001)
    looks, looked = 0, asyncio.Event()

    def figures() -> progress.Figures:
        nonlocal looks
        looks += 1
        if looks == 3:
            looked.set()
        return progress.Figures(tried=0, responses=0, tokens=0, reasons=(), dollars=0.0)

    bar = progress.Progress("pairs", 300, True, figures)
    begun = bar._since
    async with bar:
        await looked.wait()
        assert bar._since > begun


def test_a_policy_that_never_keeps_the_format_is_stopped(tmp_path: Path) -> None:
    engine, run = ScriptedEngine(malformed, concurrency=8), tmp_path / "run"
    vain = recipe(write_sums(tmp_path, 200))
    with pytest.raises(
        InVain,
        match=r"none of the first 64 responses keeps the format \(.* 64; for example 'sum-0': 0 \+ 1 = .* and 'sum-.*"
        r"--go-on goes on",
    ):
        build(vain, run, engine=engine, quiet=True)
    assert 64 <= engine.calls < 120
    calls = engine.calls
    with pytest.raises(InVain):  # what is on record says it already
        build(vain, run, engine=engine, quiet=True)
    assert engine.calls - calls < 60
    few = recipe(write_sums(tmp_path / "few", 100), samples=1)
    built = build(few, tmp_path / "on", engine=ScriptedEngine(malformed), quiet=True, go_on=True)
    assert built.manifest["counts"]["malformed"] == 100  # half of them are wrong as well, and are counted as wrong
    assert built.manifest["dropped"]["judge"] == {"wrong answer": 50}


def test_responses_that_are_all_cut_off_ask_for_more_tokens() -> None:
    tally = Tally()
    with pytest.raises(InVain, match="first 64 responses keeps the format, and 64 were cut off .* raise --max-tokens"):
        for number in range(64):
            tally.formatted("no </think>", str(number), "<think>I count", cut=True)


def test_a_verifier_that_drops_nearly_all_is_stopped(tmp_path: Path) -> None:
    class Strict:
        settings = {"name": "strict"}
        concurrency = 4
        calls = 0

        async def verify(self, judged: Judged, images: tuple[bytes, ...]) -> Verdict:
            self.calls += 1
            return Verdict(self.calls == 20, "too short for me", "nine")

        async def close(self) -> None: ...

    with pytest.raises(InVain, match=r"kept 1 of 64 right responses \(inconsistent 63; .*too short for me \(conclu"):
        build(recipe(write_sums(tmp_path, 300)), tmp_path / "run", engine=policy(), verifier=Strict(), quiet=True)


def test_a_verdict_that_is_none_is_not_called_inconsistent(tmp_path: Path) -> None:
    class Unsure:
        settings = {"name": "unsure"}
        concurrency = 4

        async def verify(self, judged: Judged, images: tuple[bytes, ...]) -> Verdict:
            return Verdict(judged.judgement.answer != "3", "who knows", undecided=judged.judgement.answer == "3")

        async def close(self) -> None: ...

    build(recipe(write_sums(tmp_path, 8)), tmp_path / "run", engine=policy(), verifier=Unsure(), quiet=True)
    lines = (tmp_path / "run" / "run.log").read_text().splitlines()
    assert len(lines) == 2 and all("cannot tell" in line and "inconsistent" not in line for line in lines)


def test_operators_whose_every_result_is_refused_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "lazy.py").write_text("def lazy(text, fmt, rng):\n    return text\n")
    engine = policy(concurrency=8)
    lazy = recipe(write_sums(tmp_path, 300), corruption=[str(tmp_path / "lazy.py")])
    with pytest.raises(InVain, match="no operator made a rejected response of the first 64 .*lazy: format not broken"):
        build(lazy, tmp_path / "run", engine=engine, quiet=True)
    assert engine.calls < 320


def test_an_operator_that_is_always_refused_among_good_ones_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lazy.py").write_text("def lazy(text, fmt, rng):\n    return text\n")
    both = [str(tmp_path / "lazy.py"), "remove_all_tags"]
    built = build(
        recipe(write_sums(tmp_path, 200), corruption=both), tmp_path / "run", engine=policy(concurrency=8), quiet=True
    )
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1 and built.count > 150
    assert (
        "the operator lazy made a rejected response of none of 64 (format not broken 64; for example 'sum-" in told[0]
    )


def test_a_dry_run_without_pairs_says_why(tmp_path: Path) -> None:
    told = str(forecast(recipe(write_sums(tmp_path, 50)), tmp_path / "run", engine=ScriptedEngine(malformed)))
    assert "none of the first 64 responses keeps the format" in told and "0 pairs" in told
    few = recipe(write_sums(tmp_path, 5), samples=1)
    told = str(forecast(few, tmp_path / "few", engine=ScriptedEngine(malformed), quiet=True))
    assert "left out: format: " in told and "5 of 5 lacked the format; for example 'sum-" in told


def test_what_decided_stands_in_dropped_jsonl(tmp_path: Path) -> None:
    build(recipe(write_sums(tmp_path, 40)), tmp_path / "run", engine=policy(), quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "dropped.jsonl").read_text().splitlines()]
    wrong = next(row for row in rows if row["reason"] == "wrong answer")
    number = int(wrong["problem_id"].removeprefix("sum-"))
    assert wrong["detail"] == f"number: found {number + 2}, gold {number + 1}"
    frame = load_run(tmp_path / "run").frame("responses")
    assert wrong["detail"] in frame["detail"].to_list()


def test_struck_pairs_are_left_out_and_replaced(tmp_path: Path) -> None:
    run, problems = tmp_path / "run", write_sums(tmp_path, 20)
    ids = [pair.id for pair in build(recipe(problems), run, engine=policy(), quiet=True).pairs()]
    (run / "struck.txt").write_text(f"{ids[0]}\r\n\n {ids[3]} \n")
    built = build(recipe(problems), run, engine=policy(), quiet=True)
    left = [pair.id for pair in built.pairs()]
    assert not {ids[0], ids[3]} & set(left) and set(ids) - set(left) == {ids[0], ids[3]}
    assert built.manifest["dropped"]["pair"]["struck out"] == 2
    problem = ids[0].rpartition("-")[0]
    assert [name for name in left if name.startswith(f"{problem}-")]  # a later response took its place


def test_trackers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    fake = SimpleNamespace(
        init=lambda **settings: told.append(settings["name"]),
        log=told.append,
        finish=lambda: told.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    built = build(recipe(write_sums(tmp_path, 10), report_to="wandb"), tmp_path / "run", engine=policy(), quiet=True)
    assert told[0] == "run" and told[-1] == "finished"
    assert told[-2]["build/pairs"] == built.count
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match="trackio is not installed; run: pip install trackio"):
        build(recipe(write_sums(tmp_path, 10), report_to="trackio"), tmp_path / "b", engine=policy(), quiet=True)
    with pytest.raises(UserError, match="no tracker is called 'wanbd'.*did you mean 'wandb'"):
        build(recipe(write_sums(tmp_path, 10), report_to="wanbd"), tmp_path / "c", engine=policy(), quiet=True)


def test_a_tracker_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        raise RuntimeError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(UserError, match=r"--report-to wandb: wandb does not start: No API key .*`wandb login`"):
        build(recipe(write_sums(tmp_path, 10), report_to="wandb"), tmp_path / "run", engine=policy(), quiet=True)


def test_a_tracker_that_fails_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def log(figures: object) -> None:
        raise OSError("no network")

    fake = SimpleNamespace(init=lambda **settings: None, log=log, finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert build(
        recipe(write_sums(tmp_path, 10), report_to="wandb"), tmp_path / "run", engine=policy(), quiet=True
    ).count
    assert "a tracker of --report-to fails and is told no more: no network" in caplog.text


def test_tensorboard_reads_what_a_build_wrote(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    problems = write_sums(tmp_path, 10)
    built = build(recipe(problems, report_to="tensorboard"), tmp_path / "run", engine=policy(), quiet=True)
    events = accumulators.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("build/pairs")][-1] == built.count
