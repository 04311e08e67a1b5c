"""What only a dry run has found is looked at, and used for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.sums import policy, recipe, write_sums

from specs_data import build
from specs_data.build.run import forecast
from specs_data.errors import UserError
from specs_data.look.check import check
from specs_data.share.export import export
from specs_data.share.merge import merge
from specs_data.share.push import push

USES: dict[str, Callable[[Path, Path], object]] = {
    "export": lambda run, out: export(run, "openrlhf", out),
    "merge": lambda run, out: merge([run, run], out),
    "push": lambda run, out: push(run, "me/pairs", tag="v1.0.0"),
}


@pytest.mark.parametrize("use", USES)
def test_a_run_that_was_only_tried_is_not_used_as_if_it_were_built(tmp_path: Path, use: str) -> None:
    problems, run = write_sums(tmp_path, 12), tmp_path / "run"
    forecast(recipe(problems), run, 4, engine=policy(), quiet=True)
    assert check(run).rows == 4
    with pytest.raises(UserError, match="only what a dry run has found: build it first, or give .*pilot for just that"):
        USES[use](run, tmp_path / "out")
    if use == "push":
        return
    USES[use](run / "pilot", tmp_path / "pilot")
    build(recipe(problems), run, engine=policy(), quiet=True)
    USES[use](run, tmp_path / "out")
