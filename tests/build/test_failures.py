"""Every failure has one owner: the item, a setting, a passing state or a lasting one. Whatever happens, a run ends with
the dataset of all others, or with one sentence."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fakes.gemini_server import Service as Server
from fakes.openai_server import OpenAIServer, Reply
from fakes.sums import recipe, write_sums

from specs_data import build
from specs_data.build.run import Built
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import PromptRefused, UserError
from specs_data.records import Request, Response
from specs_data.rollouts import plan

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")


def number_in(text: str) -> int:
    found = re.search(r"What is (\d+) \+ 1", text)
    assert found is not None
    return int(found[1])


def right(request: Request) -> str:
    """Always right, and another text for each response."""
    number = number_in(request.messages[-1].content)
    return f"<think>{request.seed}: {number} + 1 = {number + 1}.</think>\n<answer>\\boxed{{{number + 1}}}</answer>"


def failing(fault: str, share: Callable[[int], bool]) -> Callable[[str], str]:
    return lambda text: fault if share(number_in(text)) else ""


REASONS = {"blocked": "blocked", "400": "refused"}


def left_out(run: Path) -> Counter[tuple[str, str]]:
    lines = (run / "dropped.jsonl").read_text().splitlines()
    return Counter((row["stage"], row["reason"]) for row in map(json.loads, lines))


def verified(problems: Path, out: Path, **settings: Any) -> tuple[Built, ScriptedEngine]:
    engine = ScriptedEngine(right)
    settings = {"verifier": "gemini", "verifier_model": "gemini-3.8-flash", **settings}
    return build(recipe(problems, **settings), out, engine=engine, quiet=True), engine


@pytest.mark.parametrize(
    ("fault", "reason", "times"),
    [
        ("blocked", "refused: blocked", 2),
        ("SAFETY", "refused: blocked", 2),
        ("400", "refused: refused", 1),
    ],
)
@pytest.mark.parametrize("share", [3, 15])  # 20 refused before anything is answered are the service's
def test_items_that_a_verifier_refuses_are_left_out_and_not_asked_about_again(
    server: Server, tmp_path: Path, fault: str, reason: str, times: int, share: int
) -> None:
    problems = write_sums(tmp_path, 64, pictures=True)
    server.fault_of = failing(fault, lambda number: number % 64 >= 64 - share)
    built, engine = verified(problems, tmp_path / "run", samples=8)
    assert built.count == 64 - share
    assert engine.calls == 64  # no second response of a problem that is refused
    calls = len(server.calls)
    assert calls <= 64 + share * times
    for _ in range(2):
        built, engine = verified(problems, tmp_path / "run", samples=8)
        assert built.count == 64 - share and not engine.calls
    assert len(server.calls) == calls  # also of those that were refused before the service had answered anything
    assert left_out(tmp_path / "run")["verify", reason] == share


@pytest.mark.parametrize("fault", ["blocked", "400"])
def test_what_was_refused_before_is_no_sign_of_illness(server: Server, tmp_path: Path, fault: str) -> None:
    """Nothing was ever answered, so that it may be the settings' fault; but not for ever."""
    problems = write_sums(tmp_path, 22)
    server.fault_of = lambda _: fault
    with pytest.raises(UserError, match="questions undecided"):
        verified(problems, tmp_path / "run")
    server.fault_of = failing(fault, lambda number: number < 20)
    built, _ = verified(problems, tmp_path / "run", rpm=3000)  # one after the other: the refused ones come first
    assert built.count == 2
    calls = len(server.calls)
    verified(problems, tmp_path / "run")
    assert len(server.calls) == calls and left_out(tmp_path / "run")["verify", "refused: " + REASONS[fault]] == 20


def test_an_account_that_runs_out_of_money_loses_nothing(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 64)
    server.fault_of = failing("402", lambda number: number % 64 >= 20)
    with pytest.raises(UserError, match="no quota left"):
        verified(problems, tmp_path / "run")
    server.fault_of = lambda _: ""
    assert verified(problems, tmp_path / "run")[0].count == 64


def test_a_response_that_is_too_long_to_verify_is_paid_for_twice_and_another_one_is_tried(
    server: Server, tmp_path: Path
) -> None:
    problems = write_sums(tmp_path, 30)
    server.fault_of = failing("MAX_TOKENS", lambda number: number == 29)
    built, engine = verified(problems, tmp_path / "run", samples=3)
    assert built.count == 29
    assert engine.calls == 29 + 3 and len(server.calls) == 29 + 3 * 2
    calls = len(server.calls)
    verified(problems, tmp_path / "run", samples=3)
    assert len(server.calls) == calls


def test_a_judge_that_refuses_an_item_leaves_it_out(server: Server, tmp_path: Path) -> None:
    file = write_sums(tmp_path, 30)
    rows = [{**json.loads(line), "answer_type": "open"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.fault_of = failing("blocked", lambda number: number >= 27)
    settings: dict[str, Any] = {"judge_model": "openai:gpt-4o", "judge_base_url": server.url, "verifier": "none"}
    for expected in (30, 0):
        built, engine = verified(file, tmp_path / "run", samples=4, **settings)
        assert built.count == 27 and engine.calls == expected


def test_where_nothing_was_ever_answered_the_settings_are_to_blame(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 64)
    server.fault_of = lambda _: "400"
    with pytest.raises(UserError, match="questions undecided"):
        verified(problems, tmp_path / "run")
    server.fault_of = lambda _: ""
    built, _ = verified(problems, tmp_path / "run")
    assert built.count == 64  # nothing was on record against an item


def test_the_quota_of_the_day_stops_at_once(server: Server, tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 40)
    server.fault_of = lambda _: "day"
    start = time.monotonic()
    with pytest.raises(UserError, match="no quota left for the key .*exceeded your current quota") as caught:
        verified(problems, tmp_path / "run")
    assert "\n" not in str(caught.value) and time.monotonic() - start < 5


# Settings


class Limited(ScriptedEngine):
    """A policy with a limit on its prompts, by the number that a problem is about."""

    def __init__(self, most: int, reason: str = "prompt too long") -> None:
        super().__init__(right)
        self.most = most
        self.reason = reason

    async def generate(self, request: Request) -> Response:
        response = await super().generate(request)
        if number_in(request.messages[-1].content) >= self.most:
            raise PromptRefused(self.reason, "the model's maximum context length is 512 tokens")
        return response


def within(problems: Path, out: Path, engine: ScriptedEngine, **settings: Any) -> tuple[Built, int]:
    before = engine.calls
    built = build(recipe(problems, **settings), out, engine=engine, quiet=True)
    return built, engine.calls - before


@pytest.mark.parametrize(
    ("setting", "reason"), [("max_model_len", "prompt too long"), ("limit_images", "too many images")]
)
def test_a_limit_that_is_raised_asks_again_only_for_what_was_refused(tmp_path: Path, setting: str, reason: str) -> None:
    problems = write_sums(tmp_path, 20)
    run, policy = tmp_path / "run", Limited(12, reason)
    built, calls = within(problems, run, policy, **{setting: 512})
    assert (built.count, calls) == (12, 20) and left_out(run)["sample", f"refused: {reason}"] == 8
    assert within(problems, run, policy, **{setting: 512})[1] == 0  # the same limit refuses the same
    policy.most = 17
    built, calls = within(problems, run, policy, **{setting: 1024})
    assert (built.count, calls) == (17, 8)
    policy.most = 100
    built, calls = within(problems, run, policy)
    assert (built.count, calls) == (20, 3)


def test_what_is_an_item_s_own_is_not_asked_again_with_another_limit(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    policy = Limited(12, "an image cannot be read")
    within(problems, tmp_path / "run", policy)
    assert within(problems, tmp_path / "run", policy, max_model_len=9999)[1] == 0


def test_a_store_whose_keys_had_limits_costs_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores of before had both limits in the settings of every stage."""
    problems = write_sums(tmp_path, 20)
    run, policy = tmp_path / "run", Limited(12)
    now = plan._generation

    def before(parts: Any, recipe: Any, engine: Any) -> dict[str, Any]:
        return {**now(parts, recipe, engine), "max_model_len": recipe.max_model_len}

    with monkeypatch.context() as patch:
        patch.setattr(plan, "_generation", before)
        assert within(problems, run, policy, max_model_len=512)[0].count == 12
    policy.most = 17
    built, calls = within(problems, run, policy, max_model_len=1024)
    assert (built.count, calls) == (17, 8)
    with closing(sqlite3.connect(run / "store.sqlite")) as store:
        for stage in ("judgements", "verdicts", "pairs"):
            (count,) = store.execute(f"SELECT count(*) FROM {stage}").fetchone()
            assert count == 17, stage  # nothing was done anew
    assert within(problems, run, policy, max_model_len=1024)[1] == 0


async def test_what_a_server_refuses_for_its_settings_is_asked_again_when_it_may_have_changed(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 12)
    most = 8

    def limited(body: dict[str, Any]) -> str | Reply:
        number = number_in(body["messages"][-1]["content"])
        if number >= most:
            return Reply("This model's maximum context length is 512 tokens", status=400)
        return f"<think>{number} + 1 = {number + 1}.</think>\n<answer>\\boxed{{{number + 1}}}</answer>"

    async with OpenAIServer(limited) as server:
        settings = recipe(problems, engine="openai", base_url=[server.url], model="tiny")
        built = await asyncio.to_thread(build, settings, tmp_path / "run", quiet=True)
        assert built.count == 8
        asked, most = len(server.bodies), 12
        built = await asyncio.to_thread(build, settings, tmp_path / "run", quiet=True)
        assert built.count == 12 and len(server.bodies) == asked + 4


def test_a_prefill_begins_every_response(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 5)
    engine = ScriptedEngine(lambda request: right(request).removeprefix(request.prefill))
    built, calls = within(problems, tmp_path / "run", engine, prefill="<think>")
    assert built.count == calls == 5
    assert all(pair.chosen.startswith("<think>") for pair in built.pairs())
    assert within(problems, tmp_path / "run", engine)[1] == 5  # other responses than without


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
@pytest.mark.parametrize("name", ["run.log", "manifest.json", "recipe.toml", "sources.jsonl", "store.sqlite"])
def test_a_fifo_in_the_run_s_folder_is_refused_at_once(tmp_path: Path, name: str) -> None:
    problems = write_sums(tmp_path, 3)
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(UserError, match=f"{name} is no regular file"):
        build(recipe(problems), tmp_path / "run", engine=ScriptedEngine(right), quiet=True)
