"""A format that demands the box that its prompt asks for, from the responses to the exports."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from specs_data import build, check
from specs_data.engines.scripted import ScriptedEngine
from specs_data.format import load_format
from specs_data.records import Request
from specs_data.share.export import export
from tests.fakes.sums import recipe, write_sums

NO_BOX = r"no \boxed{} in the answer"


def respond(request: Request) -> str:
    """Right and with both parts; the box that the prompt asks for is forgotten half of the time."""
    number = int(request.messages[-1].content.split()[2])
    boxed = hashlib.sha256(str(request.seed).encode()).digest()[0] % 2
    answer = rf"\boxed{{{number + 1}}}" if boxed else number + 1
    return f"<think>{number} + 1 = {number + 1}.</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize("rejected_from", ["chosen", "base"])
def test_a_chosen_one_has_the_box_that_its_prompt_asks_for(tmp_path: Path, rejected_from: str) -> None:
    problems = write_sums(tmp_path, 20)
    settings = recipe(problems, format="boxed", samples=6, rejected_from=rejected_from)
    engine, rival = ScriptedEngine(respond), ScriptedEngine(respond)
    built = build(settings, tmp_path / "run", engine=engine, rival=rival, quiet=True)
    dropped = built.manifest.dropped or {}
    assert dropped["format"][NO_BOX] > 0
    assert built.count == 20
    assert all(r"\boxed{" in pair.chosen for pair in built.pairs())
    if rejected_from == "base":  # one that lacks the box alone is corrupted as any other
        assert any(r"\boxed{" not in pair.rejected for pair in built.pairs())
        assert all(pair.corruption for pair in built.pairs())
    result = check(built.out)
    assert result.ok, str(result)
    for to in ("llamafactory", "ms-swift", "openrlhf"):
        assert export(built.out, to, tmp_path / to).rows == {"train": 20}


def test_check_holds_a_dataset_to_the_box(tmp_path: Path) -> None:
    built = build(recipe(write_sums(tmp_path, 20)), tmp_path / "run", engine=ScriptedEngine(respond), quiet=True)
    assert check(built.out).ok
    result = check(built.out, load_format("boxed"))
    without = sum(r"\boxed{" not in pair.chosen for pair in built.pairs())
    assert result.reasons == {f"chosen breaks the format: {NO_BOX}": without} and without > 0
