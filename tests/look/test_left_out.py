"""Looking at what a run left out, and at what a dry run found."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fakes.sums import policy, recipe, write_sums
from rich.console import Console

from specs_data import build
from specs_data.build.run import forecast
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import UserError
from specs_data.look.report import report
from specs_data.look.show import show, show_left_out
from specs_data.pairs.rows import count_rows, open_dataset
from specs_data.rollouts.leftout import left_out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left")
    build(recipe(write_sums(folder, 40, pictures=True)), folder / "run", engine=policy(), quiet=True)
    return folder / "run"


def printed(path: Path, **options: str) -> str:
    console = Console(file=io.StringIO(), width=100)
    show_left_out(path, 2, console=console, **options)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_what_decided_is_shown(run: Path) -> None:
    shown = printed(run, stage="judge")
    (one, _) = left_out(run, 2, stage="judge")
    number = int(one.problem.id.removeprefix("sum-"))
    for words in (f"sum-{number}-", "judge: wrong answer", f"What is {number} + 1?", "1 picture, not drawn here"):
        assert words in shown
    assert f"gold      {number + 1}" in shown and f"found     {number + 2}" in shown
    assert f"judged    by number: {number + 2} against {number + 1}" in shown


def test_reasons_take_turns_and_can_be_asked_for(run: Path) -> None:
    assert {one.stage for one in left_out(run, 2)} == {"judge", "format"}
    assert {one.reason for one in left_out(run, 9, reason="think")} == {"no <think>"}
    with pytest.raises(
        UserError, match=r"left out no response of this stage and reason; it has judge: wrong answer \("
    ):
        printed(run, stage="verify")
    for other in (run.parent, run / "recipe.toml"):
        with pytest.raises(UserError, match="no finished run"):
            printed(other)


def test_the_dataset_of_a_run_stands_for_the_run(run: Path) -> None:
    assert printed(run / "dataset", stage="judge") == printed(run, stage="judge")


def test_rows_that_are_no_problems_are_told_of(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "Whole?",\n"answer": "5"}\n')
    build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    with pytest.raises(UserError, match=r"left out without one: input: not JSON \(2, first row 0\); .*dropped.jsonl"):
        printed(tmp_path / "run")


def test_choices_are_shown_with_their_question(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "Which?", "answer": "B", "choices": ["red", "blue"]}\n')
    wrong = ScriptedEngine(lambda request: "<think>It is A.</think>\n<answer>A</answer>")
    build(recipe(problems), tmp_path / "run", engine=wrong, quiet=True)
    assert "(A) red" in printed(tmp_path / "run") and "(B) blue" in printed(tmp_path / "run")


def test_a_dry_run_can_be_looked_at(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 30)
    forecast(recipe(problems), tmp_path / "run", 20, engine=policy(), quiet=True)
    assert sum(count_rows(open_dataset(tmp_path / "run")).values()) >= 15
    assert "wrong answer" in printed(tmp_path / "run", stage="judge")
    page = report(tmp_path / "run").read_text()
    assert "judge: wrong answer" in page and "sum-0-" in page
    build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    assert not (tmp_path / "run" / "pilot").exists()


def test_a_dry_run_without_pairs_can_be_looked_at(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda request: "no idea")
    forecast(recipe(write_sums(tmp_path, 5), samples=2), tmp_path / "run", engine=engine, quiet=True)
    with pytest.raises(UserError, match="--dropped shows what it left out"):
        show(tmp_path / "run")
    assert "no idea" in printed(tmp_path / "run")
