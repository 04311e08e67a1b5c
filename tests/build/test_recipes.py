"""Every recipe that is shipped builds in the miniature, and gives what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_data import UserError, build, check, make_recipe
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.recipe import shipped_recipes

pytest.importorskip("torch")

SMALL = {"engine": "transformers", "samples": 3, "max_tokens": 96, "batch_size": 16, "target": 5}


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("world"), 12, seed=5)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_builds(tmp_path: Path, problems: Path, name: str) -> None:
    shipped = make_recipe({}, Path(name))
    policy = "base" if name == "chosen-from-base" else "grpo-zero"
    smaller = SMALL | {"problems": str(problems), "policy": str(checkpoint(policy))}
    if shipped.rejected_from != "chosen":
        smaller["rejected_from"] = str(checkpoint("base"))
    if shipped.verifier == "gemini":
        smaller["verifier"] = "rules"
    built = build(make_recipe(smaller, Path(name)), tmp_path / "run", quiet=True)
    assert built.count > 0
    result = check(built.out)
    assert result.ok is (name != "coupled"), str(result)
    assert ("coupled on purpose" in str(result)) is (name == "coupled")
    assert {pair.rejected_from == "chosen" for pair in built.pairs()} == {name == "twins"}


def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(UserError, match="no recipe is called 'papr'; there are .*did you mean 'paper'"):
        make_recipe({}, Path("papr"))
