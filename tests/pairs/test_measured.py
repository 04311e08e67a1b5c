"""Judge and verifier are at least as good today as the card says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specs_data.judges.rules import RuleJudge
from specs_data.measure.verifier_score import score_verifier
from specs_data.pairs.manifest import Manifest
from specs_data.pairs.measured import JUDGE, VERIFIERS, Measured, describe_measured
from specs_data.recipe import Recipe

CASES = Path(__file__).parent.parent / "cases" / "judge.jsonl"


@pytest.mark.slow
def test_the_judge_s_figures() -> None:
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    with RuleJudge() as judge:
        passed = [bool(judge.judge(r["response"], r["gold"], r["type"], r["choices"]).right) for r in rows]
    both = sum(right and row["right"] for right, row in zip(passed, rows, strict=True))
    missed = sum(row["right"] and not right for right, row in zip(passed, rows, strict=True))
    assert Measured(JUDGE[0].material, len(rows), sum(passed), both, missed) == JUDGE[0]


@pytest.mark.parametrize(("cases", "measured"), [*zip(("prose", None), VERIFIERS["rules"], strict=True)])
def test_the_rules_are_no_worse_than_the_card_says(cases: str | None, measured: Measured) -> None:
    score = score_verifier(Recipe(verifier="rules"), 500, cases)
    assert score.precision is not None and score.precision > measured.precision - 0.02
    assert score.recall is not None and score.recall > measured.truly / (measured.truly + measured.missed) - 0.02


def test_only_what_was_measured_is_stated() -> None:
    said = list(describe_measured(Manifest(recipe={"verifier": "rules,gemini", "judge_model": "gemini:x"})))
    assert [line.partition(":")[0] for line in said[:1]] == ["Answers were judged by rule"]
    assert "nobody measured" in said[1] and "checked by rules: precision 91.1%" in said[2]
    assert "not measured" in said[3]
    assert list(describe_measured(Manifest())) == []
    assert not any("Reasoning" in line for line in describe_measured(Manifest(recipe={"verifier": "none"})))
