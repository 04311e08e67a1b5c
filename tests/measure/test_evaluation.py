"""An evaluation is written exactly and read tolerantly."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs_data.errors import UserError
from specs_data.measure.estimate import Estimate
from specs_data.measure.evaluation import (
    Evaluation,
    FormatSlice,
    Lengths,
    Rbf,
    Slice,
    as_evaluation,
    encode,
    read_evaluation,
    write_evaluation,
)
from specs_data.measure.table import table

FORMAT = FormatSlice(
    n=600,
    format=Estimate(0.427, 0.399, 0.455),
    accuracy=Estimate(0.85, 0.82, 0.88),
    pass_at={"1": 0.85, "8": 0.98},
    pass_at_interval={"1": (0.82, 0.88), "8": (0.96, 0.99)},
    rbf=Rbf(1.73, 1.7, 1.76, 0.95, 1.0, 53211, by_size={"120": 1.7}),
    consistency=Estimate(0.9, 0.8, 0.95),
    lengths=Lengths(41.5, 40, 60, 0.01),
    format_errors={"drop_think_close": 3},
    unjudged=2,
)
WHOLE = Evaluation(
    policy="ckpt/base",
    problems="test.jsonl",
    samples=8,
    by_type={"numeric": Slice(n=400, accuracy=Estimate(0.8))},
    by_source={"geometry": Slice(n=200)},
    by_format={"think-answer": FORMAT, "json": FormatSlice(n=600, rbf=Rbf(reason="the server tells no chances"))},
    verifier="rules",
    settings={"temperature": 1.0},
    **{name: getattr(FORMAT, name) for name in FORMAT.__struct_fields__},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "new" / "eval.json"
    write_evaluation(WHOLE, file)
    assert read_evaluation(file) == WHOLE
    assert [path.name for path in file.parent.iterdir()] == ["eval.json"]


def test_the_table_tells_of_responses_that_nobody_judged() -> None:
    assert "in no share of right ones: 2 responses" in table(WHOLE)


def test_the_object_is_that_of_the_contract() -> None:
    found = json.loads(encode(WHOLE))
    assert list(found)[:4] == ["policy", "problems", "n", "samples"]
    assert found["format"] == {"value": 0.427, "low": 0.399, "high": 0.455}
    assert found["pass_at"] == {"1": 0.85, "8": 0.98}
    assert found["rbf"].items() >= {"value": 1.73, "p": 0.95, "temperature": 1.0, "tokens": 53211}.items()
    assert list(found["by_format"]) == ["think-answer", "json"]


def test_it_is_read_tolerantly() -> None:
    found = as_evaluation(
        {
            "policy": "base",
            "accuracy": 0.5,
            "format": {"value": 0.4, "unit": "share"},
            "pass_at": {"1": {"value": 0.5}, "4": None, "8": 1},
            "rbf": None,
            "by_type": None,
            "by_format": [{"name": "think-answer", "format": 0.4}, {"format": 0.1, "rbf": 1.5}],
            "from_another_tool": [1, 2],
        },
        "it",
    )
    assert found.accuracy == Estimate(0.5) and found.format == Estimate(0.4)
    assert found.pass_at == {"1": 0.5, "8": 1.0}
    assert list(found.by_format) == ["think-answer", "1"]
    assert found.by_format["1"].rbf == Rbf(1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not JSON", "not JSON"),
        ("[]", "not an evaluation"),
        ("{}", "no accuracy, format or by_format"),
        ('{"accuracy": "high"}', "'high' and not a number"),
        ('{"accuracy": 73.5}', "not a share between 0 and 1"),
        ('{"accuracy": true}', "not a number"),
        ('{"accuracy": 0.5, "n": "many"}', "n"),
        ('{"accuracy": 0.5, "pass_at": {"best": 0.5}}', "'best' and not a number of responses"),
        ('{"accuracy": 0.5, "pass_at": {"8": 75}}', "not a share between 0 and 1"),
    ],
)
def test_what_is_no_evaluation_is_told_in_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "eval.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_evaluation(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_evaluation(tmp_path / "eval.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["accuracy", "format", "by_format", "by_type", "rbf", "pass_at", "value", "n"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_whatever_stands_there_it_is_an_evaluation_or_a_sentence(found: object) -> None:
    with contextlib.suppress(UserError):
        as_evaluation(found, "it")  # type: ignore[arg-type]
