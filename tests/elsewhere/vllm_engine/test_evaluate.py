"""An evaluation says the same whoever samples: transformers, vLLM in process, and a vLLM server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specs_data.measure.estimate import Estimate
from specs_data.measure.evaluate import evaluate
from specs_data.measure.evaluation import Evaluation
from specs_data.measure.table import table
from specs_data.mini.world import write_problems
from specs_data.recipe import Recipe

PROBLEMS, SAMPLES = 60, 4
SMOLLM = Path(__file__).parents[3] / ".cache" / "smollm2"
real_model = pytest.mark.skipif(not SMOLLM.exists(), reason="tests/elsewhere/smollm/make.py makes it")


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


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """Sums of small numbers, some of which a model of 135 M parameters gets right."""
    pairs = [(one, other) for one in range(2, 8) for other in range(1, 6)]
    asked = "What is {} + {}? Reply with one short sentence: The answer is ..."
    rows = [{"question": asked.format(one, other), "answer": str(one + other)} for one, other in pairs]
    file = tmp_path / "problems.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def by_both(tmp_path: Path, problems: Path, **settings: object) -> tuple[Evaluation, ...]:
    """SmolLM2-135M as transformers and as vLLM sample it."""
    shared = {"policy": str(SMOLLM), "batch_size": 60, "system_prompt": "none", "max_tokens": 32, **settings}
    engines = ("transformers", "vllm")
    found = tuple(measured(tmp_path / name, problems, ("plain",), engine=name, **shared) for name in engines)
    for name, one in zip(engines, found, strict=True):
        print(name, table(one), one.rbf, sep="\n")  # noqa: T201 - the figures of benchmarks/RESULTS.md
    return found


@real_model
def test_they_agree_on_a_real_pretrained_model(tmp_path: Path, sums: Path) -> None:
    here, there = by_both(tmp_path, sums, samples=4)
    assert here.accuracy is not None and here.accuracy.value > 0
    assert agree(here.format, there.format) and agree(here.accuracy, there.accuracy)
    # vLLM tells the 20 likeliest tokens: where some nuclei are larger, its factor is a lower bound.
    one, other = branching(here), branching(there)
    assert other.low is not None and one.high is not None and other.low <= one.high
    assert agree(one, other) or (there.rbf is not None and there.rbf.beyond > 0)


@real_model
def test_greedily_they_say_the_same(tmp_path: Path, sums: Path) -> None:
    here, there = by_both(tmp_path, sums, samples=1, temperature=0.0)
    assert here.accuracy is not None and here.accuracy.value > 0
    assert agree(here.accuracy, there.accuracy) and agree(here.format, there.format)
    assert here.lengths is not None and there.lengths is not None
    assert here.lengths.mean == pytest.approx(there.lengths.mean, rel=0.05)
