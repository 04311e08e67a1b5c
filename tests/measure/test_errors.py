"""The distribution of format errors, and the mix that matches it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from specs_data.cli import app
from specs_data.format import THINK_ANSWER
from specs_data.measure import errors
from specs_data.measure.errors import FormatErrors, sort_errors
from specs_data.recipe import Recipe

OPERATORS = ("remove_all_tags", "drop_think_close")
GOOD = THINK_ANSWER.render("2 + 3 = 5.", "5")
RESPONSES = [
    *[(GOOD, "stop")] * 10,
    *[("2 + 3 = 5", "stop")] * 3,
    ("<think>2 + 3 = 5.<answer>5</answer>", "stop"),
    *[("<think>2 + 3 and so on", "length")] * 4,
]


def test_the_distribution_and_the_mix() -> None:
    found = sort_errors(RESPONSES, THINK_ANSWER, OPERATORS, policy="base")
    assert (found.responses, found.malformed) == (18, 8)
    assert {name: one.count for name, one in found.classes.items()} == {
        "cut_off": 4, "remove_all_tags": 3, "drop_think_close": 1,
    }  # fmt: skip
    assert found.classes["cut_off"].share == 0.5 and not found.classes["cut_off"].operator
    assert found.mix == {"remove_all_tags": 0.75, "drop_think_close": 0.25}
    assert found.covered == 0.5


@pytest.mark.parametrize("more", [0, 30_000])
def test_a_build_takes_the_mix_as_it_is_printed(more: int) -> None:
    found = sort_errors([*RESPONSES, *[("5", "stop")] * more], THINK_ANSWER, OPERATORS)
    flags = found.flags.split()
    assert flags[::2] == ["--corruption"] * 2
    assert Recipe.model_validate({"corruption": flags[1::2]}).corruption == found.mix


def test_the_terminal_sees_examples_and_no_escape_codes() -> None:
    found = str(sort_errors([("red \x1b[31m text\nand more", "stop")], THINK_ANSWER, OPERATORS))
    assert "remove_all_tags" in found and "and more" in found and "\x1b" not in found
    assert "--corruption remove_all_tags=1" in found


@pytest.mark.parametrize("responses", [[], [(GOOD, "stop")] * 3])
def test_without_errors_there_is_no_mix(responses: list[tuple[str, str]]) -> None:
    found = sort_errors(responses, THINK_ANSWER, OPERATORS)
    assert found.mix == {} and found.covered == 0 and "keep the format" in str(found)


@pytest.mark.parametrize(
    ("given", "wanted"), [((), "json"), (("--format", "plain"), "plain"), (("--recipe", "paper"), "think-answer")]
)
def test_the_format_is_the_recipe_s_unless_another_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], wanted: str
) -> None:
    asked = []

    def measured(recipe: Recipe, response_format: str, out: Path | None) -> FormatErrors:
        asked.append(response_format)
        return sort_errors(RESPONSES, THINK_ANSWER, OPERATORS)

    monkeypatch.setattr(errors, "natural_errors", measured)
    monkeypatch.chdir(tmp_path)
    Path("specs-data.toml").write_text('format = "json"\n')
    assert CliRunner().invoke(app, ["errors", *given]).exit_code == 0
    assert asked == [wanted]
