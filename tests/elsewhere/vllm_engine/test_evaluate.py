"""An evaluation says the same whoever samples: transformers, vLLM in process, and a vLLM server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specs_data.measure.estimate import Estimate
from specs_data.measure.evaluate import evaluate
from specs_data.measure.evaluation import Evaluation
from specs_data.mini.world import write_problems
from specs_data.recipe import Recipe

PROBLEMS, SAMPLES = 60, 4
SMOLLM = Path(__file__).parents[3] / ".cache" / "smollm2"


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


def measured(folder: Path, problems: Path, formats: tuple[str, ...] = (), **engine: object) -> Evaluation:
    shared = {"problems": str(problems), "samples": SAMPLES, "max_tokens": 64, "max_model_len": 512, "dtype": "float32"}
    return evaluate(Recipe.model_validate({**shared, **engine}), formats, out=folder / "evaluation.json", quiet=True)


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


@pytest.mark.skipif(not SMOLLM.exists(), reason="tests/elsewhere/smollm/make.py makes it")
def test_they_agree_on_a_real_pretrained_model(tmp_path: Path) -> None:
    """Sums in two formats that a model of 135 M parameters sometimes keeps."""
    sums = [(one, other) for one in range(2, 8) for other in range(1, 6)]
    rows = [{"question": f"What is {one} + {other}?", "answer": str(one + other)} for one, other in sums]
    problems, formats = tmp_path / "problems.jsonl", ("plain", "final-answer")
    problems.write_text("\n".join(map(json.dumps, rows)))
    settings = {"policy": str(SMOLLM), "samples": 2, "max_tokens": 32, "batch_size": 60}
    here = measured(tmp_path / "t", problems, formats, engine="transformers", **settings)
    there = measured(tmp_path / "v", problems, formats, engine="vllm", **settings)
    for name in formats:
        one, other = here.by_format[name], there.by_format[name]
        print(name, one, other, sep="\n")  # noqa: T201 - the figures of benchmarks/RESULTS.md
        assert agree(one.format, other.format) and agree(one.accuracy, other.accuracy)
        # vLLM tells the 20 likeliest tokens: its factor is a lower bound.
        assert one.rbf is not None and other.rbf is not None and other.rbf.beyond > 0 == one.rbf.beyond
        assert other.rbf.low is not None and one.rbf.high is not None and other.rbf.low <= one.rbf.high
    assert here.accuracy is not None and here.accuracy.value > 0
