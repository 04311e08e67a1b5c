"""What was finished is not lost: datasets and cards."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.sums import dataset_bytes, policy, recipe, write_sums

from specs_data import build
from specs_data.build.run import default_out
from specs_data.errors import UserError
from specs_data.recipe import Recipe


def test_a_finished_dataset_does_not_give_way_to_an_empty_one(tmp_path: Path) -> None:
    run, problems = tmp_path / "run", write_sums(tmp_path, 6)
    build(recipe(problems), run, engine=policy(), quiet=True)
    first = dataset_bytes(run)
    problems.write_text("")
    with pytest.raises(UserError, match="no pairs came of it.*stays as it is.*--overwrite"):
        build(recipe(problems), run, engine=policy(), quiet=True)
    assert dataset_bytes(run) == first
    assert build(recipe(problems), run, engine=policy(), quiet=True, overwrite=True).count == 0
    assert not (run / "dataset").exists()


def test_a_finished_dataset_does_not_give_way_to_one_of_other_problems(tmp_path: Path) -> None:
    run, engine = tmp_path / "run", policy()
    build(recipe(write_sums(tmp_path / "a", 6)), run, engine=engine, quiet=True)
    first, calls, other = dataset_bytes(run), engine.calls, recipe(write_sums(tmp_path / "b", 9))
    with pytest.raises(UserError, match=r"of other problems \(.*a/problems.jsonl -> .*b/problems.jsonl\); use another"):
        build(other, run, engine=engine, quiet=True)
    assert dataset_bytes(run) == first and engine.calls == calls
    assert build(other, run, engine=engine, quiet=True, overwrite=True).count > 6


def test_the_same_weights_in_another_folder_are_the_same_policy(tmp_path: Path) -> None:
    problems, run = write_sums(tmp_path, 4), tmp_path / "run"
    for name, weights in (("a", "1"), ("moved", "1"), ("b", "2")):
        (tmp_path / name / "policy").mkdir(parents=True)
        (tmp_path / name / "policy" / "weights").write_text(weights)
    build(recipe(problems, policy=str(tmp_path / "a/policy")), run, engine=policy(), quiet=True)
    build(recipe(problems, policy=str(tmp_path / "moved/policy")), run, engine=policy(), quiet=True)
    with pytest.raises(UserError, match="of other policy"):
        build(recipe(problems, policy=str(tmp_path / "b/policy")), run, engine=policy(), quiet=True)


def test_checkpoints_of_one_name_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    problems = write_sums(tmp_path, 4)
    for name in ("a/checkpoint-500", "b/checkpoint-500", "one/zero", "two/zero", "one/final/hf"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "weights").write_text(name)
    assert default_out(Recipe(policy="a/checkpoint-500")) == Path("runs/a--checkpoint-500")
    assert default_out(Recipe(policy="b/checkpoint-500")) == Path("runs/b--checkpoint-500")
    assert default_out(Recipe(policy="one/final/hf")) == Path("runs/one--final--hf")
    assert default_out(Recipe(policy="org/checkpoint-500")) == Path("runs/org--checkpoint-500")
    one, two = (recipe(problems, policy=f"{name}/zero") for name in ("one", "two"))
    assert default_out(one) == default_out(two) == Path("runs/zero")
    assert build(one, engine=policy(), quiet=True).out == Path("runs/zero")
    assert build(two, engine=policy(), quiet=True).out == Path("runs/two--zero")
    assert build(one, engine=policy(), quiet=True).out == Path("runs/zero")


def test_an_edited_card_survives(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, problems = tmp_path / "run", write_sums(tmp_path, 8)
    card = run / "dataset" / "README.md"
    build(recipe(problems), run, engine=policy(), quiet=True)
    made = card.read_text()
    card.write_text(made + "\nMy own words.\n")
    build(recipe(problems), run, engine=policy())
    assert card.read_text() == made + "\nMy own words.\n"
    assert "stays as it is" in capfd.readouterr().err
    build(recipe(problems, target=2), run, engine=policy())
    assert "My own words" not in card.read_text()
    assert (run / "README.edited.md").read_text() == made + "\nMy own words.\n"
    assert "README.edited.md" in capfd.readouterr().err
    build(recipe(problems, target=3), run, engine=policy())
    assert "card was edited" not in capfd.readouterr().err
