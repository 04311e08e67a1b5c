"""The dataset is a function of the recipe and the responses, whatever was built in its folder before."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fakes.sums import dataset_bytes, policy, recipe, respond, write_sums
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from specs_data import build
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import ItemRefused, PromptRefused, Undecided, UserError
from specs_data.records import Judged, Request, Verdict
from specs_data.rollouts.sample import edges_fingerprint, sample_seed

OPERATORS = ["remove_all_tags", "remove_think_tags", "shift_tags"]


SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "samples": st.sampled_from([2, 3, 5]),
    "samples_upfront": st.integers(1, 2),
    "pairs_per_problem": st.integers(1, 2),
    "corruption": st.lists(st.sampled_from(OPERATORS), min_size=1, unique=True),
    "verifier": st.sampled_from(["rules", "none"]),
    "pairing": st.sampled_from(["decoupled", "coupled"]),
    "target": st.none() | st.integers(1, 8),
    "limit": st.none() | st.integers(1, 9),
    "holdout": st.sampled_from([0.0, 0.4]),
    "shuffle": st.sampled_from([None, True, False]),
    "balance": st.sampled_from([None, "source"]),
    "pass_rate": st.sampled_from([None, (0.2, 0.8)]),
    "blind_check": st.sampled_from([None, "flag", "drop"]),
    "seed": st.integers(0, 1),
}


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Builds of which each differs from the next in a setting or two; one response makes no pass rate."""
    builds = [{name: draw(values) for name, values in SETTINGS.items()}]
    for _ in range(draw(st.integers(0, 2))):
        changed = draw(st.lists(st.sampled_from(list(SETTINGS)), min_size=1, max_size=2))
        builds.append({**builds[-1], **{name: draw(SETTINGS[name]) for name in changed}})
    return [each if each["samples_upfront"] > 1 else {**each, "pass_rate": None} for each in builds]


def rows(run: Path) -> dict[str, bytes]:
    return {name: data for name, data in dataset_bytes(run).items() if name.endswith(".parquet")}


@settings(max_examples=15, deadline=None, phases=[Phase.generate])  # a build is too slow to shrink
@given(histories(), st.integers(1, 9))
def test_no_earlier_build_shows(builds: list[dict[str, Any]], concurrency: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems = write_sums(folder, 10, pictures=True)
        for each in builds:
            build(
                recipe(problems, **each),
                folder / "used",
                engine=policy(concurrency=concurrency),
                quiet=True,
                overwrite=True,
            )
        build(recipe(problems, **builds[-1]), folder / "fresh", engine=policy(), quiet=True)
        assert rows(folder / "used") == rows(folder / "fresh")


@pytest.mark.parametrize(
    ("before", "last"),
    [
        ({"pairs_per_problem": 2}, {}),
        ({"samples_upfront": 4}, {}),
        ({"samples": 8}, {"samples": 2}),
        ({"samples": 8, "pairing": "coupled"}, {"samples": 1, "pairing": "coupled"}),
        (
            {"verifier": "none", "pairing": "coupled", "pairs_per_problem": 2},
            {"pairing": "coupled", "pairs_per_problem": 2},
        ),
        ({"corruption": OPERATORS}, {"corruption": OPERATORS[::-1]}),
        ({}, {"target": 5}),
        ({"pairing": "coupled"}, {"pairing": "coupled", "target": 5, "samples": 2}),
        ({"limit": 30}, {"limit": 20, "holdout": 0.4}),
    ],
)
def test_an_earlier_build_that_made_more_does_not_show(
    tmp_path: Path, before: dict[str, Any], last: dict[str, Any]
) -> None:
    problems = write_sums(tmp_path, 30, pictures=True)
    for each in (before, last):
        build(recipe(problems, **each), tmp_path / "used", engine=policy(), quiet=True, overwrite=True)
    build(recipe(problems, **last), tmp_path / "fresh", engine=policy(), quiet=True)
    assert rows(tmp_path / "used") == rows(tmp_path / "fresh")


@pytest.mark.parametrize(("seed", "target"), [(1, 6), (2, 3), (5, 3)])
def test_pairs_of_an_earlier_build_do_not_reach_a_target_before_others_are_tried(
    tmp_path: Path, seed: int, target: int
) -> None:
    """The earlier build asked a rival for one chosen response of each problem: further on than this one has come."""
    problems = write_sums(tmp_path, 10, pictures=True)
    before = {
        "pairing": "coupled",
        "samples": 5,
        "samples_upfront": 2,
        "verifier": "none",
        "seed": seed,
        "holdout": 0.4,
    }
    last = {**before, "pairs_per_problem": 2, "target": target}
    for each in (before, last):
        build(recipe(problems, **each), tmp_path / "used", engine=policy(), quiet=True)
    build(recipe(problems, **last), tmp_path / "fresh", engine=policy(), quiet=True)
    assert rows(tmp_path / "used") == rows(tmp_path / "fresh")


def test_a_pair_that_is_struck_out_changes_no_other(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    each = {"pairing": "coupled", "samples": 6, "pairs_per_problem": 2, "verifier": "none"}
    before = build(recipe(problems, **each), tmp_path / "used", engine=policy(), quiet=True)
    pairs = {pair.id: pair for pair in before.pairs()}
    by_problem = [name for name, count in Counter(pair.problem_id for pair in pairs.values()).items() if count == 2]
    struck = next(name for name, pair in pairs.items() if pair.problem_id == by_problem[0])
    for run in ("used", "fresh"):
        (tmp_path / run).mkdir(exist_ok=True)
        (tmp_path / run / "struck.txt").write_text(struck + "\n")
        built = build(recipe(problems, **each), tmp_path / run, engine=policy(), quiet=True)
        assert {pair.id: pair for pair in built.pairs()} == {name: pairs[name] for name in pairs if name != struck}


@pytest.mark.parametrize("other", [False, True])
def test_a_target_counts_pairs_also_where_some_chosen_responses_find_no_rejected_one(
    tmp_path: Path, other: bool
) -> None:
    problems = write_sums(tmp_path, 50)
    each: dict[str, Any] = {"samples": 2, "corruption": ["shift_tags"]}
    each |= {"rejected_from": "base-model"} if other else {"pairing": "coupled"}
    pairs = {}
    for target in (None, 1, 4, 7, 99):
        settings_ = recipe(problems, **each, target=target)
        run = tmp_path / str(target)
        pairs[target] = build(settings_, run, engine=policy(), rival=policy(), quiet=True).count
    assert pairs[None] > 7
    assert pairs == {None: pairs[None], 1: 1, 4: 4, 7: 7, 99: pairs[None]}


def checkpoint(folder: Path) -> str:
    """A checkpoint whose weights begin and end as those of any other, as one with an adapter merged into its layers."""
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(2 << 20) + folder.name[:1].encode() * (2 << 20) + bytes(2 << 20))
    return str(folder)


@pytest.mark.parametrize("settings", [{}, {"pairing": "coupled"}])
def test_a_checkpoint_with_other_layers_is_another_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    run, engine, again, other = tmp_path / "run", policy(), policy(), policy()
    mine = recipe(write_sums(tmp_path, 12), policy=checkpoint(tmp_path / "a"), **settings)
    with monkeypatch.context() as before:  # a release that looked at the edges of files alone
        before.setattr("specs_data.rollouts.plan.policy_fingerprint", edges_fingerprint)
        build(mine, run, engine=engine, quiet=True)
    first = rows(run)
    build(mine, run, engine=again, quiet=True)  # has all that is on record from then
    theirs = mine.model_copy(update={"policy": checkpoint(tmp_path / "b")})
    with pytest.raises(UserError, match="of other policy"):
        build(theirs, run, engine=other, quiet=True)
    assert rows(run) == first and again.calls == other.calls == 0
    build(theirs, run, engine=other, quiet=True, overwrite=True)
    assert other.calls == engine.calls


def test_a_base_with_other_layers_is_asked(tmp_path: Path) -> None:
    settings = {"policy": checkpoint(tmp_path / "a"), "rejected_from": checkpoint(tmp_path / "b")}
    base, run = policy(), tmp_path / "run"
    built = build(recipe(write_sums(tmp_path, 12), **settings), run, engine=policy(), rival=base, quiet=True)
    assert base.calls >= built.count > 0


class Absent:
    """A verifier that gives no verdict on some responses while it is `away`."""

    concurrency = 1
    settings: ClassVar = {"verifier": "absent"}

    def __init__(self, away: bool = False) -> None:
        self._away = away

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        if self._away and judged.sample.index < 2:
            raise Undecided("timeout")
        return Verdict(True, "seen")

    async def close(self) -> None:
        pass


def number(request: Request) -> str:
    """A right response of its own for each seed."""
    return f"<think>I thought {request.seed} times.</think> {respond(request)}".replace("</think> <think>", " ")


def test_verdicts_that_came_late_make_no_pair_with_the_rejected_side_of_another(tmp_path: Path) -> None:
    each = recipe(write_sums(tmp_path, 20), rejected_from="base", samples=6, pairs_per_problem=2)
    for run, away in (("used", True), ("used", False), ("fresh", False)):
        engine, rival = ScriptedEngine(number), ScriptedEngine(number)
        build(each, tmp_path / run, engine=engine, rival=rival, verifier=Absent(away), quiet=True, go_on=True)
    assert rows(tmp_path / "used") == rows(tmp_path / "fresh")


def test_a_policy_that_is_its_own_rival_rejects_another_response_than_the_chosen_one(tmp_path: Path) -> None:
    each = recipe(write_sums(tmp_path, 20), policy="base", rejected_from="base", verifier="none", pairs_per_problem=2)
    engine, rival = ScriptedEngine(number), ScriptedEngine(number)
    built = build(each, tmp_path / "run", engine=engine, rival=rival, quiet=True)
    seeds = [[re.findall(r"\d+ times", side) for side in (pair.chosen, pair.rejected)] for pair in built.pairs()]
    assert built.count > 20 and not any(chosen == rejected for chosen, rejected in seeds)
    chosen, rejected = ({one for found in side for one in found} for side in zip(*seeds, strict=True))
    assert chosen.isdisjoint(rejected)


class Refusing:
    """A verifier that will not answer about the second response to any problem."""

    concurrency, paid = 1, True
    settings: ClassVar = {"verifier": "refusing"}

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        if judged.sample.index == 1:
            raise ItemRefused("blocked")
        return Verdict(True, "seen")

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("by", ["policy", "verifier"])
@pytest.mark.parametrize("rival", [{}, {"rejected_from": "base"}])
def test_no_pair_of_an_earlier_build_comes_after_a_refusal(tmp_path: Path, by: str, rival: dict[str, str]) -> None:
    """A round of several had asked for what a search one by one never comes to."""
    refused = {sample_seed(0, f"sum-{n}", 1) for n in range(6)} if by == "policy" else set()

    def right(request: Request) -> str:
        if request.seed in refused:
            raise PromptRefused("blocked")
        answer = int(request.messages[-1].content.split()[2]) + 1
        return f"<think>{answer}, {request.seed}.</think>\n<answer>\\boxed{{{answer}}}</answer>"

    problems = write_sums(tmp_path, 6)
    each: dict[str, Any] = {"samples": 4, "pairs_per_problem": 2, **rival}
    ids = {}
    for run, upfront in (("used", 4), ("used", 1), ("fresh", 1)):
        settings_ = recipe(problems, **each, samples_upfront=upfront)
        built = build(
            settings_,
            tmp_path / run,
            engine=ScriptedEngine(right),
            rival=ScriptedEngine(number),
            verifier=Refusing() if by == "verifier" else Absent(),
            quiet=True,
        )
        ids[run, upfront] = [pair.id for pair in built.pairs()]
    assert ids["used", 4] and ids["used", 1] == ids["fresh", 1] == [f"sum-{n}-0" for n in range(6)]
    assert rows(tmp_path / "used") == rows(tmp_path / "fresh")
