"""Result files in the shapes that VLMEvalKit and lmms-eval write them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from specs_data.errors import UserError
from specs_data.measure.evaluation import read_evaluation
from specs_data.measure.gf import gf


def write_csv(file: Path, rows: Sequence[dict[str, Any]], mark: str = ",") -> Path:
    """As VLMEvalKit's dump does: every cell quoted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), delimiter=mark, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_json(file: Path, value: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, ensure_ascii=False))
    return file


MATHVISTA = [
    {"Task&Skill": "Overall", "tot": 1000, "prefetch": 700, "hit": 759, "prefetch_rate": 70.0, "acc": 75.9},
    {"Task&Skill": "geometry", "tot": 208, "prefetch": 100, "hit": 150, "prefetch_rate": 48.0, "acc": 72.1},
]  # fmt: skip


def test_counts_by_skill_of_vlmevalkit(tmp_path: Path) -> None:
    file = tmp_path / "SPECS-7B" / "T20260101_Gabc" / "SPECS-7B_MathVista_MINI_gpt-4o-mini_score.csv"
    found = read_evaluation(write_csv(file, MATHVISTA))
    assert (found.policy, found.problems) == ("SPECS-7B", "MathVista_MINI_gpt-4o-mini")
    assert found.n == 1000 and found.accuracy is not None
    assert found.accuracy.value == pytest.approx(0.759)
    assert found.accuracy.low == pytest.approx(0.759 - 0.0265, abs=0.004)
    assert found.by_type["geometry"].n == 208


def test_the_same_as_json(tmp_path: Path) -> None:
    file = write_json(tmp_path / "m_MathVista_MINI_score.json", MATHVISTA)
    assert read_evaluation(file).accuracy == read_evaluation(write_csv(tmp_path / "m.csv", MATHVISTA)).accuracy


def test_shares_by_split_of_vlmevalkit(tmp_path: Path) -> None:
    rows = [
        {"split": "dev", "Overall": 0.4, "Art & Design": 0.5},
        {"split": "validation", "Overall": 0.5678, "Art & Design": 0.61},
    ]
    found = read_evaluation(write_csv(tmp_path / "m_MMMU_DEV_VAL_acc.csv", rows))
    assert found.accuracy is not None and found.accuracy.value == pytest.approx(0.5678)
    assert found.by_type["Art & Design"].accuracy is not None
    assert found.by_type["Art & Design"].accuracy.value == pytest.approx(0.61)


def test_mathverse_of_vlmevalkit(tmp_path: Path) -> None:
    rows = [
        {"accuracy": 48.73, "correct": 384, "total": 788, "Vision Only": ""},
        {"accuracy": "", "correct": "", "total": "",
         "Vision Only": "{'accuracy': '48.73', 'correct': 384, 'total': 788}"},
    ]  # fmt: skip
    found = read_evaluation(write_csv(tmp_path / "m_MathVerse_MINI_Vision_Only_score.csv", rows))
    assert found.n == 788 and found.accuracy is not None
    assert found.accuracy.value == pytest.approx(384 / 788)
    assert found.by_type["Vision Only"].n == 788


@pytest.mark.parametrize(("column", "yes", "no"), [("hit", 1, 0), ("score", "True", "False")])
def test_a_row_per_problem_of_vlmevalkit(tmp_path: Path, column: str, yes: object, no: object) -> None:
    rows = [{"index": n, "prediction": "A\nB", "category": "ab"[n % 2], column: yes if n < 3 else no} for n in range(8)]
    found = read_evaluation(write_csv(tmp_path / "m_X_result.tsv", rows, "\t"))
    assert found.n == 8 and found.accuracy is not None and found.accuracy.value == 3 / 8
    assert found.by_type["a"].accuracy is not None and found.by_type["a"].accuracy.value == 2 / 4


def lmms(results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"results": results, "configs": {}, "model_name": "org/model", **more}


def test_results_of_lmms_eval(tmp_path: Path) -> None:
    results = {
        "mathvista_testmini_format": {
            "alias": "mathvista_testmini_format",
            "llm_as_judge_eval,none": 72.9,
            "llm_as_judge_eval_stderr,none": "N/A",
            "submission,none": None,
        },
        "mmmu_val": {
            "alias": "mmmu_val",
            "mmmu_acc,none": 0.5433,
            "mmmu_acc_stderr,none": 0.016,
            "mmmu_acc_pass_at_k,none": 0.9,
        },
    }
    sizes = {"mathvista_testmini_format": {"original": 1000, "effective": 1000}}
    found = read_evaluation(write_json(tmp_path / "20260101_results.json", lmms(results, **{"n-samples": sizes})))
    assert found.policy == "org/model" and list(found.by_format) == list(results)
    vista, mmmu = (found.by_format[task].accuracy for task in results)
    assert vista is not None and vista.value == pytest.approx(0.729) and vista.low is not None
    assert vista.low == pytest.approx(0.729 - 0.0275, abs=0.004)
    assert mmmu is not None and (mmmu.value, mmmu.low) == (0.5433, pytest.approx(0.5433 - 1.96 * 0.016))


@pytest.mark.parametrize(
    "metric",
    [
        [{"gpt_eval_score": 1}, {"gpt_eval_score": 0}],
        [{"llm_as_judge_eval": {"true_false": True, "answer": "5"}}, {"llm_as_judge_eval": {"true_false": False}}],
        [{"mathvision_standard_eval": {"scores": [True]}}, {"mathvision_standard_eval": {"scores": [False]}}],
        [{"mmmu_judge_acc": {"score": ["1"], "pred": ["5"]}}, {"mmmu_judge_acc": {"score": ["0"]}}],
        [{"exact_match": 1.0}, {"exact_match": 0.0}],
    ],
)  # fmt: skip
def test_samples_of_lmms_eval(tmp_path: Path, metric: list[dict[str, Any]]) -> None:
    file = tmp_path / "org__model" / "20260101_samples_some_task.jsonl"
    file.parent.mkdir()
    rows = [{"doc_id": n, "target": "5", "filtered_resps": ["5"], **metric[n % 2]} for n in range(6)]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    found = read_evaluation(file)
    assert (found.policy, found.problems, found.n) == ("org__model", "some_task", 6)
    assert found.accuracy is not None and found.accuracy.value == 0.5


def test_samples_without_a_verdict_name_what_has_one(tmp_path: Path) -> None:
    file = tmp_path / "x_samples_mmmu_val.jsonl"
    file.write_text(json.dumps({"doc_id": 0, "mmmu_acc": {"id": "v", "answer": "A", "parsed_pred": ["A"]}}))
    with pytest.raises(UserError, match=r"row 0 .* give the \*_results.json"):
        read_evaluation(file)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m_X.xlsx", "PK", "EVAL_FORMAT=csv"),
        ("m_X.csv", '"index","prediction"\n"0","A"\n', "does not say what was right"),
        ("m_X_score.csv", "", "does not say what was right"),
        ("m_X_score.csv", '"tot","hit"\n"0","0"\n', "overall"),
        ("m_X.csv", '"index","score"\n"0","7"\n"1","1"\n', "score is a mark, up to 7"),
        ("x_samples_a.jsonl", '{"gpt_eval_score": {"scores": [8, 7]}}\n', "does not say whether it is right"),
        ("x_results.json", '{"results": {"a": {"alias": "a"}}}', "no accuracy of any task"),
        ("x_samples_a.jsonl", "", "no samples"),
        ("x_samples_a.jsonl", "[1]\n", "not a JSON object"),
        ("x_samples_a.jsonl", "{\n", "not JSON"),
    ],
)
def test_what_tells_nothing_is_refused_in_a_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_evaluation(tmp_path / name)


def test_gf_from_a_harness(tmp_path: Path) -> None:
    """Tasks that differ in the answer's format only, as mathvista_testmini_format, _cot and _solution do."""

    def results(name: str, *shares: float) -> Path:
        tasks = {f"mathvista_testmini_{n}": {"llm_as_judge_eval,none": 100 * share} for n, share in enumerate(shares)}
        return write_json(tmp_path / f"{name}_results.json", lmms(tasks))

    found = gf(results("base", 0.6, 0.5, 0.4), [(25, str(results("late", 0.7, 0.6, 0.6)))], "accuracy")
    assert found.steps["25"].id == pytest.approx(0.7) and found.steps["25"].ood == pytest.approx(0.6)
