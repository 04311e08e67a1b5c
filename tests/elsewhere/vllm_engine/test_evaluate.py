"""An evaluation says the same whoever samples: transformers, vLLM in process, and a vLLM server."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs_data.measure.estimate import Estimate
from specs_data.measure.evaluate import evaluate
from specs_data.measure.evaluation import Evaluation
from specs_data.mini.world import write_problems
from specs_data.recipe import Recipe

PROBLEMS, SAMPLES = 60, 4


def agree(one: Estimate | None, other: Estimate | None) -> bool:
    """Do the intervals overlap?"""
    assert one is not None and other is not None
    assert one.low is not None and one.high is not None and other.low is not None and other.high is not None
    return one.low <= other.high and other.low <= one.high


def branching(found: Evaluation) -> Estimate:
    assert found.rbf is not None and found.rbf.value is not None, found.rbf
    return Estimate(found.rbf.value, found.rbf.low, found.rbf.high)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("problems"), PROBLEMS, seed=23)


def measured(folder: Path, problems: Path, **engine: object) -> Evaluation:
    shared = {"problems": str(problems), "samples": SAMPLES, "max_tokens": 64, "max_model_len": 512, "dtype": "float32"}
    return evaluate(Recipe.model_validate({**shared, **engine}), out=folder / "evaluation.json", quiet=True)


@pytest.fixture(scope="module")
def by_transformers(checkpoint: str, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return measured(tmp_path_factory.mktemp("transformers"), problems, policy=checkpoint, engine="transformers")


def test_vllm_agrees_with_transformers(
    checkpoint: str, problems: Path, by_transformers: Evaluation, tmp_path: Path
) -> None:
    found = measured(tmp_path, problems, policy=checkpoint, engine="vllm")
    assert agree(found.format, by_transformers.format) and agree(found.accuracy, by_transformers.accuracy)
    assert agree(branching(found), branching(by_transformers))


def test_a_server_agrees_with_transformers(
    server: str, problems: Path, by_transformers: Evaluation, tmp_path: Path
) -> None:
    found = measured(tmp_path, problems, engine="openai", base_url=[server], model="mini")
    assert agree(found.format, by_transformers.format) and agree(found.accuracy, by_transformers.accuracy)
    assert agree(branching(found), branching(by_transformers))
