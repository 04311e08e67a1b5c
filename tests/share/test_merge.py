"""Several datasets into one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from specs_data.errors import UserError
from specs_data.pairs.manifest import Manifest, fingerprint
from specs_data.pairs.parquet import write_shards
from specs_data.pairs.rows import open_dataset, rows, to_row
from specs_data.share.merge import describe_merge, merge


def picture(shade: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": "a.png"}


def row(number: int, asked: str | None = None, shade: int | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"row-{number}",
        "images": [picture(number if shade is None else shade)],
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": asked or f"What is {number}?"}],
        "chosen": [{"role": "assistant", "content": f"<think>so</think><answer>{number}</answer>"}],
        "rejected": [{"role": "assistant", "content": f"so {number}"}],
        "problem_id": f"problem-{number}",
        "answer": str(number),
        "answer_type": "numeric",
        "corruption": "remove_all_tags",
        "rejected_from": "chosen",
        "policy": "tiny",
        "verifier": "rules",
        "pass_rate": 0.25,
        "solved_blind": True,
        **changes,
    }


def make_run(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]] | None = None) -> Path:
    splits = {"train": write_shards(train, folder / "dataset", "train")}
    if test:
        splits["test"] = write_shards(test, folder / "dataset", "test")
    manifest = {
        "name": folder.name,
        "recipe": {"samples": 8},
        "recipe_fingerprint": folder.name * 8,
        "dataset": {"fingerprint": fingerprint(splits)},
        "models": {"policy": {"name": "tiny"}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def merged(tmp_path: Path, *datasets: Path) -> tuple[list[dict[str, Any]], Manifest]:
    merge(datasets, tmp_path / "c")
    opened = open_dataset(tmp_path / "c")
    assert opened.manifest is not None
    return list(map(to_row, rows(opened))), opened.manifest


def test_runs_of_one_policy_are_told_apart(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / place / "zero", [row(number)]) for number, place in enumerate("ab"))
    c, d = a.rename(tmp_path / "first"), b.rename(tmp_path / "second")
    told = describe_merge(merge([c, d], tmp_path / "out"))
    assert told == "zero (first): 1 rows kept\nzero (second): 1 rows kept"


def test_different_formats_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [make_run(tmp_path / name, [row(number)]) for number, name in enumerate("abc")]
    merge(runs[:2], tmp_path / "same")
    assert not caplog.text
    manifest = json.loads((runs[2] / "manifest.json").read_text()) | {"recipe": {"format": "json"}}
    (runs[2] / "manifest.json").write_text(json.dumps(manifest))
    merge(runs, tmp_path / "mixed")
    assert "teach different formats (b think-answer, c json)" in caplog.text


def test_rows_of_both_in_order(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", [row(1), row(2)]), make_run(tmp_path / "b", [row(3)])
    found, manifest = merged(tmp_path, a, b)
    assert found == [row(1), row(2), row(3)]
    assert manifest["counts"] == {"pairs": 3}
    assert manifest["corruptions"] == {"remove_all_tags": 3}
    card = (tmp_path / "c/dataset/README.md").read_text()
    assert card.startswith("---\n") and "![The picture of the question](pair.png)" in card
    assert (tmp_path / "c/dataset/pair.png").read_bytes() == row(1)["images"][0]["bytes"]
    assert manifest["sides"]["origins"] == {"chosen": 3} and manifest["sides"]["same"] == 3


def test_a_problem_belongs_to_the_first_dataset_that_has_it(tmp_path: Path) -> None:
    """The same question on the same picture: all pairs of the first stay, the later ones go."""
    a = make_run(tmp_path / "a", [row(1), row(1, id="row-1b", chosen=[{"role": "assistant", "content": "other"}])])
    again = row(1, asked="What  is\n1?", id="x", problem_id="y", prompt=[{"role": "user", "content": "What is  1?"}])
    b = make_run(tmp_path / "b", [again, row(1, shade=77, id="z", problem_id="w"), row(1, asked="And now?", id="q")])
    found, _ = merged(tmp_path, a, b)
    assert [r["id"] for r in found] == ["row-1", "row-1b", "z", "q"]
    [dropped] = [json.loads(line) for line in (tmp_path / "c/dropped.jsonl").read_text().splitlines()]
    assert dropped == {"stage": "merge", "reason": "duplicate problem", "problem_id": "y", "source": "b"}


def test_train_and_test_stay_apart(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", [row(1)], [row(2)])
    b = make_run(tmp_path / "b", [row(2, id="x"), row(3, shade=2), row(4)], [row(5), row(6, shade=1)])
    found, manifest = merged(tmp_path, a, b)
    assert [pair.id for pair in rows(open_dataset(tmp_path / "c"), "train")] == ["row-1", "row-4"]
    assert [pair.id for pair in rows(open_dataset(tmp_path / "c"), "test")] == ["row-2", "row-5"]
    assert manifest["dropped"] == {"merge": {"duplicate problem": 1, "picture in another split": 2}}
    assert len(found) == 4


def test_where_rows_came_from_is_on_record(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", [row(1), row(2)], [row(3)])
    b = make_run(tmp_path / "b", [row(2, id="x"), row(4)])
    _, manifest = merged(tmp_path, a, b)
    first, second = manifest["merged"]
    assert first["source"] == "a"
    assert first["fingerprint"] == open_dataset(a).manifest.dataset.fingerprint  # type: ignore[union-attr]
    assert first["recipe_fingerprint"] == "a" * 8
    assert first["rows"] == {"train": [0, 2], "test": [0, 1]}
    assert second["rows"] == {"train": [2, 3]}
    assert (second["kept"], second["left_out"]) == (1, {"duplicate problem": 1})
    assert manifest["recipe"] == {"samples": 8}
    assert not manifest.recipe_fingerprint
    assert manifest["dataset"]["fingerprint"] not in (first["fingerprint"], second["fingerprint"])


def test_names_that_clash_are_told_apart(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", [row(1)])
    b = make_run(tmp_path / "b", [row(1, asked="Other?"), row(2, problem_id="problem-1")])
    found, _ = merged(tmp_path, a, b)
    assert [(r["id"], r["problem_id"]) for r in found] == [
        ("row-1", "problem-1"),
        ("row-1-2", "problem-1-2"),
        ("row-2", "problem-1-2"),
    ]


def test_the_same_datasets_give_the_same_bytes(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", [row(1), row(2)]), make_run(tmp_path / "b", [row(2), row(3)])
    contents = []
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        merge([a, b], tmp_path / place / "c")
        files = sorted(file for file in (tmp_path / place / "c").rglob("*") if file.is_file())
        contents.append([(file.name, file.read_bytes()) for file in files])
    assert contents[0] == contents[1]
    assert not list((tmp_path / "x").glob(".*"))


def test_foreign_rows_get_what_they_lack(tmp_path: Path) -> None:
    (tmp_path / "pic.png").write_bytes(picture(9)["bytes"])
    line = {"images": ["pic.png"], "prompt": "Q", "chosen": "good", "rejected": "bad"}
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({**line, "prompt": f"Q{n}"}) for n in range(2)))
    a = make_run(tmp_path / "a", [row(1)])
    found, _ = merged(tmp_path, a, tmp_path / "p.jsonl")
    assert len({r["id"] for r in found}) == len({r["problem_id"] for r in found}) == 3
    assert found[1]["images"] == [{"bytes": picture(9)["bytes"], "path": "pic.png"}]
    assert found[1]["policy"] is None


@pytest.mark.parametrize("column", ["answer", "answer_type", "corruption", "rejected_from", "policy", "verifier"])
def test_columns_of_texts_hold_texts(tmp_path: Path, column: str) -> None:
    """A number is its digits; what is neither text nor number is left out."""
    values = [5, 2.5, True, ["a"], {"a": 1}, None, "text"]
    lines = [{"prompt": f"Q{n}", "chosen": "good", "rejected": "bad", column: value} for n, value in enumerate(values)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found, manifest = merged(tmp_path, make_run(tmp_path / "a", [row(1)]), tmp_path / "p.jsonl")
    assert [r[column] for r in found[1:]] == ["5", "2.5", "True", None, None, None, "text"]
    if column == "corruption":
        assert manifest["corruptions"] == {"2.5": 1, "5": 1, "True": 1, "none": 3, "remove_all_tags": 1, "text": 1}


@pytest.mark.parametrize("manifest", [{"dataset": "my-set", "recipe": "v2"}, ["a", "list"]])
def test_somebody_else_s_manifest_is_as_none(tmp_path: Path, manifest: Any) -> None:
    a, b = make_run(tmp_path / "a", [row(1)]), make_run(tmp_path / "b", [row(2)])
    (b / "manifest.json").write_text(json.dumps(manifest))
    found, told = merged(tmp_path, a, b)
    assert found == [row(1), row(2)]
    assert (told["merged"][1]["source"], told["merged"][1]["fingerprint"]) == ("b", None)


def test_mistakes_are_said(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", [row(1)])
    with pytest.raises(UserError, match="at least two"):
        merge([a], tmp_path / "c")
    with pytest.raises(UserError, match="not empty"):
        merge([a, a], a)
    origins = merge([a, a], tmp_path / "c")
    assert describe_merge(origins) == "a: 1 rows kept\na: 0 rows kept (1 left out: duplicate problem)"
