"""Exports, line by line. What other trainers' loaders make of them is tested in loaders/."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from specs_data.errors import UserError
from specs_data.pairs.parquet import write_shards
from specs_data.recipe import Recipe
from specs_data.records import Problem
from specs_data.share.export import describe_export, export, export_problems
from specs_data.share.prompt_sets import export_prompts
from specs_data.texts import Text

MARK = "a literal <image> in a response, which the loader would take for a picture"


def picture(kind: str = "PNG", shade: int = 0) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (16, 12), (shade, 0, 0)).save(file, kind)
    return {"bytes": file.getvalue(), "path": "a.bin"}


def row(number: int = 0, pictures: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "images": [picture(shade=number + n) for n in range(pictures)],
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "What?"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
        **changes,
    }


def said(text: str, role: str = "assistant") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def exported(tmp_path: Path, to: str, *rows: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    write_shards(rows, tmp_path / "pairs", "train")
    done = export(tmp_path / "pairs", to, tmp_path / "out")
    return [json.loads(line) for line in (tmp_path / "out/pairs.jsonl").read_text().splitlines()], done.left_out


def test_llamafactory(tmp_path: Path) -> None:
    [line], _ = exported(tmp_path, "llamafactory", row(pictures=2))
    turns = [(turn["from"], turn["value"]) for turn in line["conversations"]]
    assert turns == [("system", "Think."), ("human", "<image><image>What?")]
    assert (line["chosen"], line["rejected"]) == ({"from": "gpt", "value": "good"}, {"from": "gpt", "value": "bad"})
    contents = [(tmp_path / "out" / path).read_bytes() for path in line["images"]]
    assert contents == [image["bytes"] for image in row(pictures=2)["images"]]
    assert json.loads((tmp_path / "out/dataset_info.json").read_text()) == {
        "pairs": {
            "file_name": "pairs.jsonl",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
        }
    }


def test_swift(tmp_path: Path) -> None:
    [line], _ = exported(tmp_path, "ms-swift", row())
    assert line["messages"] == [*said("Think.", "system"), *said("<image>What?", "user"), *said("good")]
    assert line["rejected_response"] == "bad"
    assert line["images"][0].startswith("images/")


def test_openrlhf_takes_text_alone(tmp_path: Path) -> None:
    [line], left_out = exported(tmp_path, "openrlhf", row(pictures=0), row(1))
    assert line == {side: row()[side] for side in ("prompt", "chosen", "rejected")}
    assert left_out == {"it has pictures, and OpenRLHF's DPO is for text alone": 1}
    with pytest.raises(UserError, match=r"can take none of the rows .* \(1\)"):
        exported(tmp_path, "openrlhf", row())


@pytest.mark.parametrize("to", ["llamafactory", "ms-swift"])
@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"chosen": said("an <image>")}, MARK),
        ({"rejected": said("an <image>")}, MARK),
        ({"rejected": said("good")}, "chosen and rejected are the same"),
        ({"rejected": said("a <video>")}, "a literal <video>, which the loader would not take for text"),
        (
            {"prompt": said("<image> and <image>", "user")},
            "<image> stands in the prompt another number of times than there are pictures",
        ),
        ({"prompt": said("You", "system")}, "the prompt's turns do not alternate and end with the user"),
        ({"prompt": said("a", "user") * 2}, "the prompt's turns do not alternate and end with the user"),
        ({"chosen": said("a") * 2}, "more than one response turn"),
        ({"images": [{"bytes": b"no picture", "path": None}]}, "a picture that cannot be opened"),
    ],
)
def test_rows_a_loader_would_misread_are_left_out(
    tmp_path: Path, to: str, spoiled: dict[str, Any], reason: str
) -> None:
    lines, left_out = exported(tmp_path, to, row(0, **spoiled), row(1))
    assert len(lines) == 1
    assert left_out == {reason: 1}


def test_swift_would_read_local_files_named_in_a_response(tmp_path: Path) -> None:
    _, left_out = exported(tmp_path, "ms-swift", row(0, chosen=said("<img>/etc/passwd</img>")), row(1))
    assert left_out == {"a literal <img>, which the loader would not take for text": 1}


def test_marks_that_are_there_already_stay(tmp_path: Path) -> None:
    [line], _ = exported(tmp_path, "ms-swift", row(prompt=said("See <image> here.", "user")))
    assert line["messages"][0]["content"] == "See <image> here."


def test_the_same_picture_is_one_file_named_by_its_kind(tmp_path: Path) -> None:
    pictures = [picture("JPEG"), picture("WEBP"), picture("PNG")]
    lines, _ = exported(tmp_path, "llamafactory", row(images=pictures), row(images=pictures))
    assert lines[0]["images"] == lines[1]["images"]
    assert sorted(path.suffix for path in (tmp_path / "out/images").iterdir()) == [".jpg", ".png", ".webp"]


def test_splits_are_files_of_their_own(tmp_path: Path) -> None:
    write_shards([row(0)], tmp_path / "pairs", "train")
    write_shards([row(1)], tmp_path / "pairs", "test")
    done = export(tmp_path / "pairs", "llamafactory", tmp_path / "out")
    assert [file.name for file in done.files] == ["dataset_info.json", "pairs.jsonl", "pairs_test.jsonl"]
    assert done.rows == {"train": 1, "test": 1}
    assert list(json.loads(done.files[0].read_text())) == ["pairs", "pairs_test"]


def test_other_data_sets_that_llamafactory_knows_stay(tmp_path: Path) -> None:
    write_shards([row(0)], tmp_path / "pairs", "train")
    (tmp_path / "data").mkdir()
    info = tmp_path / "data" / "dataset_info.json"
    info.write_text('{"identity": {"file_name": "identity.json"}, "pairs": {"file_name": "old.jsonl"}}')
    export(tmp_path / "pairs", "llamafactory", tmp_path / "data")
    known = json.loads(info.read_text())
    assert known["identity"] == {"file_name": "identity.json"} and known["pairs"]["file_name"] == "pairs.jsonl"
    info.write_text("[]")
    with pytest.raises(UserError, match=r"dataset_info\.json is no list of LLaMA-Factory's data sets"):
        export(tmp_path / "pairs", "llamafactory", tmp_path / "data")
    assert info.read_text() == "[]"


def test_an_export_that_takes_the_place_of_another_is_told_of(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shards([row(0, chosen=said(name))], tmp_path / name / "pairs", "train")
    done = [export(tmp_path / name / "pairs", "ms-swift", tmp_path / "out") for name in ("a", "a", "b")]
    told = [any("took the place of another one" in note for note in each.notes) for each in done]
    assert told == [False, False, True]


def test_a_dataset_is_not_overwritten_by_its_own_export(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    line = json.dumps({"prompt": "What?", "chosen": "good", "rejected": "bad", "more": 1}) + "\n"
    (folder / "pairs.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"pairs\.jsonl is the dataset itself"):
        export(folder, "openrlhf", folder)
    assert (folder / "pairs.jsonl").read_text() == line


def test_prompts_take_no_place_but_that_of_earlier_ones(tmp_path: Path) -> None:
    """The problems of a Hub repository lie where an export would put its prompts."""
    source = tmp_path / "data" / "train-00000-of-00001.parquet"
    source.parent.mkdir()
    pq.write_table(pa.table({"question": ["2 + 3?"], "answer": ["5"]}), source)
    settings = Recipe(problems=str(tmp_path))
    with pytest.raises(UserError, match="train-00000-of-00001.parquet is not of an earlier export like this one"):
        export_prompts(settings, "trl", tmp_path)
    assert pq.read_schema(source).names == ["question", "answer"]
    for _ in range(2):
        assert export_prompts(settings, "trl", tmp_path / "out").rows == {"train": 1}


def test_columns_of_others(tmp_path: Path) -> None:
    file = tmp_path / "theirs.jsonl"
    file.write_text(json.dumps({"prompt": "What?", "preferred": "good", "rejected": "bad"}) + "\n")
    export(file, "openrlhf", tmp_path / "out", columns={"chosen": "preferred"})
    [line] = (tmp_path / "out").glob("*.jsonl")
    assert json.loads(line.read_text())["chosen"] == said("good")


@pytest.mark.parametrize(
    ("to", "warnings"),
    [
        ("llamafactory", ["qwen3_vl puts an empty thought", "cutoff_len is 2048"]),
        ("ms-swift", ["--add_non_thinking_prefix false", "ROOT_IMAGE_DIR"]),
        ("openrlhf", ["--apply_chat_template", "--max_len is 512"]),
    ],
)
def test_what_a_target_would_spoil_is_said(tmp_path: Path, to: str, warnings: list[str]) -> None:
    write_shards([row(pictures=0, chosen=said("x" * 30_000))], tmp_path / "pairs", "train")
    text = describe_export(export(tmp_path / "pairs", to, tmp_path / "out"))
    for warning in [*warnings, "the longest row has 30,011 characters (about 10,003 tokens"]:
        assert warning in text


def test_a_command_that_is_told_can_be_pasted(tmp_path: Path) -> None:
    write_shards([row(pictures=0)], tmp_path / "pairs", "train")
    out = tmp_path / "my exports"
    for to in ("ms-swift", "openrlhf"):
        assert f"--dataset '{out}/pairs.jsonl'" in describe_export(export(tmp_path / "pairs", to, out))


def test_unknown_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="choose from: llamafactory, ms-swift, openrlhf; problems go to trl, easyr1, verl"
    ):
        export(tmp_path, "verl", tmp_path)
    with pytest.raises(UserError, match="choose from: trl, easyr1, verl"):
        export_problems([], None, "openrlhf", tmp_path)
    with pytest.raises(UserError, match="can take none of the problems"):
        export_problems([], None, "trl", tmp_path)


def test_problems_that_cannot_be_read_say_why_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"question": "How many?", "answer": "5", "images": ["gone.png"]}\n')
    with pytest.raises(UserError, match=r"none of the problems: image not found \(1\)"):
        export_prompts(Recipe(problems=str(tmp_path / "p.jsonl")), "trl", tmp_path / "out")


PICTURE = picture()["bytes"]
PROBLEMS = [
    (Problem("p1", "Which?", "B", "multiple_choice", ("red", "blue"), ("digest",), "shapes"), (PICTURE,)),
    (Problem("p2", "What is 2+3?", "5", "numeric"), ()),
]
SYSTEM = Text("format", "Think in {{ tags }} first.", "0" * 64)


def prompts(tmp_path: Path, to: str, system: Text | None = SYSTEM) -> Any:
    done = export_problems(iter(PROBLEMS), system, to, tmp_path / "out")
    assert done.rows == {"train": 2}
    return load_dataset(str(tmp_path / "out/data"), split="train", cache_dir=str(tmp_path / "cache"))


def test_prompts_for_trl(tmp_path: Path) -> None:
    found = prompts(tmp_path, "trl")
    assert found[0]["prompt"] == [*said(SYSTEM.body, "system"), *said("Which?\n(A) red\n(B) blue", "user")]
    assert found[0]["images"][0].size == (16, 12)
    assert found[1]["images"] == []
    assert (found[1]["answer"], found[0]["choices"]) == ("5", ["red", "blue"])


def test_prompts_for_easyr1(tmp_path: Path) -> None:
    found = prompts(tmp_path, "easyr1")
    assert [row["problem"] for row in found] == ["<image>Which?\n(A) red\n(B) blue", "What is 2+3?"]
    assert [row["answer"] for row in found] == ["B", "5"]
    from jinja2 import Template

    template = Template((tmp_path / "out/format_prompt.jinja").read_text())
    assert template.render(content=" Q ") == "Q Think in {{ tags }} first."


def test_prompts_for_verl(tmp_path: Path) -> None:
    found = prompts(tmp_path, "verl")
    assert found[0]["prompt"] == [*said(SYSTEM.body, "system"), *said("<image>Which?\n(A) red\n(B) blue", "user")]
    assert found[0]["reward_model"] == {"style": "rule", "ground_truth": "B"}
    assert found[0]["data_source"] == "shapes"
    assert found[1]["extra_info"] == {"id": "p2", "answer_type": "numeric", "choices": []}


def test_a_problem_with_stray_marks_is_left_out(tmp_path: Path) -> None:
    stray = (Problem("p3", "<image> and <image>?", "1", "numeric", (), ("digest",)), (PICTURE,))
    done = export_problems([stray, *PROBLEMS], None, "easyr1", tmp_path / "out")
    assert done.left_out == {"<image> stands in the prompt another number of times than there are pictures": 1}
