"""Two checkpoints are evaluated, and every figure counted again from their texts by other means.

The base keeps the format about 40 % of the time, GRPO-zero above 90 %. The count knows the miniature's answers and the
two formats by expressions of its own, pass@k by trying all draws, and intervals by drawing problems in plain Python.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
from msgspec import Struct
from typer.testing import CliRunner

from specs_data.cli import app
from specs_data.engines import ModelOptions
from specs_data.engines.transformers import TransformersEngine
from specs_data.measure.evaluate import evaluate
from specs_data.measure.evaluation import write_evaluation
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.recipe import Recipe
from specs_data.records import Request, Response, Sampling

pytestmark = pytest.mark.slow

PROBLEMS, SAMPLES = 80, 3
FIRST = "think-answer"
FORMATS = {"think-answer": ("think", "answer"), "reasoning-solution": ("reasoning", "solution")}


class Heard(Struct):
    """A response with what it answers."""

    form: str
    problem: dict[str, Any]
    response: Response

    @property
    def formed(self) -> bool:
        """Its format's tags, each once and in this order, with something between them and nothing around."""
        first, second = FORMATS[self.form]
        text, whole = self.response.text, rf"\s*<{first}>(.*\S.*)</{first}>\s*<{second}>(.*\S.*)</{second}>\s*"
        tags = re.findall(rf"</?(?:{first}|{second})>", text)
        return len(tags) == 4 and re.fullmatch(whole, text, re.DOTALL) is not None

    @property
    def right(self) -> bool:
        """What is answered is the gold: the letter or the content of a choice."""
        gold, choices = self.problem["answer"], self.problem["choices"]
        accepted = {gold, choices[ord(gold) - ord("A")]} if choices else {gold}
        return self.said.strip().casefold() in {one.casefold() for one in accepted}

    @property
    def said(self) -> str:
        """What is in the last box, or else after the last "answer is"."""
        text = self.response.text
        found = re.findall(r"\\boxed\{([^{}]*)\}", text) or re.findall(r"answer is (\w+)", text)
        return found[-1] if found else ""


class Recording:
    """The real engine; every response is kept."""

    def __init__(self, folder: Path, problems: Path) -> None:
        self.engine = TransformersEngine(folder, Sampling(max_tokens=64), ModelOptions(batch_size=64))
        self.concurrency = self.engine.concurrency
        rows = list(map(json.loads, problems.read_text().splitlines()))
        self.problems = {(problems.parent / row["images"][0]).read_bytes(): row for row in rows}
        assert len(self.problems) == len(rows)  # a picture tells its problem
        self.heard: list[Heard] = []

    async def generate(self, request: Request) -> Response:
        response = await self.engine.generate(request)
        form = next(name for name, (tag, _) in FORMATS.items() if f"<{tag}>" in request.messages[0].content)
        self.heard.append(Heard(form, self.problems[request.images[0]], response))
        return response

    async def close(self) -> None:
        await self.engine.close()


class Measured(Struct):
    """An evaluation as it stands on disk, and what the policy said."""

    file: Path
    written: dict[str, Any]
    heard: list[Heard]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("problems"), PROBLEMS, seed=77)


@pytest.fixture(scope="module")
def measured(problems: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    found = {}
    for name in ("base", "grpo-zero"):
        engine = Recording(checkpoint(name), problems)
        recipe = Recipe(policy=str(checkpoint(name)), problems=str(problems), samples=SAMPLES, max_tokens=64)
        file = tmp_path_factory.mktemp(name) / "evaluation.json"
        write_evaluation(evaluate(recipe, list(FORMATS), out=file, engine=engine, quiet=True), file)
        found[name] = Measured(file, json.loads(file.read_text()), engine.heard)
    return found


def by_problem(heard: Iterable[Heard]) -> list[list[Heard]]:
    grouped: dict[str, list[Heard]] = {}
    for one in heard:
        grouped.setdefault(one.problem["id"], []).append(one)
    return list(grouped.values())


def share(values: Iterable[bool]) -> float:
    return fmean(map(float, values))


def check_interval(estimate: dict[str, float], groups: Sequence[Sequence[bool]]) -> None:
    """The value, and ends within a few hundredths of those of another bootstrap over problems; where there is no
    exception, the low end is a share that would give none in one of 40 samples."""
    assert estimate["value"] == pytest.approx(share(one for group in groups for one in group))
    if all(map(all, groups)):
        assert estimate["high"] == 1 and estimate["low"] ** len(groups) == pytest.approx(1 / 40)
        return
    # A share moves in steps of one response, and two bootstraps may end a step apart.
    near = 0.03 + 1 / sum(map(len, groups))
    drawn = random.Random(5)
    means = sorted(share(one for group in drawn.choices(groups, k=len(groups)) for one in group) for _ in range(1000))
    assert estimate["low"] == pytest.approx(means[24], abs=near)
    assert estimate["high"] == pytest.approx(means[975], abs=near)


def check_slice(part: dict[str, Any], heard: Sequence[Heard]) -> None:
    """n, format, accuracy and pass_at over these responses."""
    groups = by_problem(heard)
    assert part["n"] == len(groups)
    check_interval(part["format"], [[one.formed for one in group] for group in groups])
    check_interval(part["accuracy"], [[one.right for one in group] for group in groups])
    assert list(part["pass_at"]) == ["1", "2"]
    for k, value in part["pass_at"].items():
        draws = [share(any(one.right for one in draw) for draw in combinations(group, int(k))) for group in groups]
        assert value == pytest.approx(fmean(draws))
        low, high = part["pass_at_interval"][k]
        assert low <= value <= high


@pytest.mark.parametrize("name", ["base", "grpo-zero"])
def test_every_figure_is_that_of_an_independent_count(measured: dict[str, Measured], problems: Path, name: str) -> None:
    written, heard = measured[name].written, measured[name].heard
    assert len(heard) == PROBLEMS * SAMPLES * len(FORMATS)
    assert (written["policy"], written["problems"]) == (str(checkpoint(name)), str(problems))
    assert (written["n"], written["samples"], written["left_out"]) == (PROBLEMS, SAMPLES, {})
    assert list(written["by_format"]) == list(FORMATS)
    for form, part in written["by_format"].items():
        own = [one for one in heard if one.form == form]
        check_slice(part, own)
        lengths = [one.response.completion_tokens for one in own]
        assert part["lengths"]["mean"] == pytest.approx(fmean(lengths))
        assert part["lengths"]["median"] == median(lengths)
        cut = share(one.response.finish_reason == "length" for one in own)
        assert part["lengths"]["cut_off"] == pytest.approx(cut)
        assert sum(part["format_errors"].values()) == sum(not one.formed for one in own)
        check_branching(part["rbf"], own)
    first = [one for one in heard if one.form == FIRST]
    assert {key: written[key] for key in written["by_format"][FIRST]} == written["by_format"][FIRST]
    for field, key in (("by_type", "answer_type"), ("by_source", "source")):
        kinds = {one.problem[key] for one in first}
        assert set(written[field]) == kinds
        for kind in kinds:
            check_slice(written[field][kind], [one for one in first if one.problem[key] == kind])


def check_branching(rbf: dict[str, Any], heard: Sequence[Heard]) -> None:
    """Over all responses, and over the first 120: the first to each problem before a second one."""
    told = [one.response.nuclei for one in heard if one.response.nuclei is not None]
    assert len(told) == len(heard)  # fewer than 480
    assert (rbf["p"], rbf["temperature"], rbf["beyond"]) == (0.95, 1.0, 0.0)
    assert rbf["tokens"] == sum(one.response.completion_tokens for one in heard)
    assert rbf["value"] == pytest.approx(sum(nuclei.sizes for nuclei in told) / rbf["tokens"])
    assert rbf["low"] <= rbf["value"] <= rbf["high"] and set(rbf["by_size"]) == {"120", "240"}
    assert rbf["by_size"]["240"] == pytest.approx(rbf["value"])


def test_the_two_are_what_they_are_said_to_be(measured: dict[str, Measured]) -> None:
    assert 0.3 < measured["base"].written["format"]["value"] < 0.55
    assert measured["grpo-zero"].written["format"]["value"] > 0.9


def test_gf_is_that_of_the_counts(measured: dict[str, Measured]) -> None:
    base, step = measured["base"], measured["grpo-zero"]
    arguments = ["gf", "--base", str(base.file), "--step", f"50={step.file}", "--json"]
    found = json.loads(CliRunner().invoke(app, arguments).stdout)["steps"]["50"]
    before, after = (
        [share(one.formed for one in policy.heard if one.form == form) for form in FORMATS] for policy in (base, step)
    )
    assert (found["id"], found["ood"]) == pytest.approx(tuple(after))
    assert found["gf_scores"] == pytest.approx(5 * after[0] * after[1] / (4 * after[0] + after[1]))
    gains = [new - old for new, old in zip(after, before, strict=True)]
    expected = 5 * gains[0] * gains[1] / (4 * gains[0] + gains[1]) if min(gains) > 0 else min(gains)
    assert found["gf_gains"] == pytest.approx(expected)
