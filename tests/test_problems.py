"""Problems in: from every kind of source, with every preset, and whatever is wrong with a row."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.hub_server import File, Hub, Repo
from fakes.sums import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from PIL import Image

from specs_data.errors import UserError
from specs_data.files import read_rows
from specs_data.images import media_type
from specs_data.pairs.parquet import IMAGES, make_schema
from specs_data.presets import shipped_presets
from specs_data.problems import MAX_TEXT, Dropped, Incoming, Source, count_all, infer_answer_type, read_problems
from specs_data.records import Policy, Problem, Response
from specs_data.rollouts.responses import read_responses
from specs_data.texts import chat

RED, BLUE, GREEN = picture(1), picture(2), picture(3)
GOOD = {"id": "good", "question": "How many?", "answer": "5"}


def jsonl(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file


def read(source: Path, **options: Any) -> list[Incoming | Dropped]:
    return list(read_problems(str(source), **options))


def one(source: Path, **options: Any) -> Incoming:
    (found,) = read(source, **options)
    assert isinstance(found, Incoming), found
    return found


def fate(tmp_path: Path, row: Any) -> str:
    """What becomes of a row that follows a good one: its problem's id, or why it is left out."""
    found = read(jsonl(tmp_path / "rows.jsonl", [GOOD, row]))
    assert len(found) == 2 and found[1].position == 1
    return found[1].reason if isinstance(found[1], Dropped) else found[1].problem.id


# Where rows come from


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_a_file(tmp_path: Path, write: Any) -> None:
    row = {"id": "a", "question": "Which?", "answer": "B", "answer_type": "multiple_choice", "source": "exam"}
    found = one(write(tmp_path / f"p.{write.__name__}", [{**row, "choices": ["red", "blue"], "other": 1}]))
    assert found.position == 0 and found.images == ()
    assert found.problem == Problem("a", "Which?", "B", "multiple_choice", ("red", "blue"), (), "exam")


def test_hidden_files_of_a_folder_are_no_problems(tmp_path: Path) -> None:
    """An editor keeps an older copy beside its file, and macOS puts what it knows of a file into a zip."""
    jsonl(tmp_path / "problems.jsonl", [GOOD])
    (tmp_path / "._problems.jsonl").write_bytes(b"\x00\x05\x16\x07\n")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    jsonl(tmp_path / ".ipynb_checkpoints" / "problems-checkpoint.jsonl", [{**GOOD, "answer": "6"}])
    assert one(tmp_path).problem.answer == "5"
    assert count_all([Source(str(tmp_path))]) == 1


def test_a_folder_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "x.parquet").mkdir()  # as Spark writes them
    parquet(tmp_path / "x.parquet" / "part-0.parquet", [{"question": "five", "answer": "5"}])
    jsonl(tmp_path / "b.jsonl", [{"question": "two", "answer": "2"}, "{", {"question": "three", "answer": "3"}])
    parquet(tmp_path / "a.parquet", [{"question": "one", "answer": "1"}])
    jsonl(tmp_path / "deep" / "a.jsonl", [{"question": "four", "answer": "4", "images": ["four.png"]}])
    (tmp_path / "deep" / "four.png").write_bytes(RED)
    (tmp_path / "notes.txt").write_text("no problem")
    found = read(tmp_path)
    assert [item.position for item in found] == list(range(6))
    assert [item.problem.answer if isinstance(item, Incoming) else item.reason for item in found] == [
        "1", "2", "not JSON", "3", "4", "5",
    ]  # fmt: skip
    assert count_all([Source(str(tmp_path))]) == 6 and count_all([Source(str(tmp_path))], 4) == 4


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "p.jsonl", ["{", *({"question": "q", "answer": n} for n in range(9))])
    assert [type(item) for item in read(file, limit=3)] == [Dropped, Incoming, Incoming]
    assert len(read(file, limit=99)) == 10


@pytest.mark.parametrize("text", ["", "{}\n", "{}", "\n{}\n \n{}", '\ufeff{"question":"q","answer":"1"}\r\n'])
def test_rows_are_counted_as_they_are_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_bytes(text.encode())
    assert count_all([Source(str(file))]) == len(list(read_rows(file)))
    assert all(isinstance(row, dict) for row in read_rows(file))


def test_what_is_no_source_is_said(tmp_path: Path) -> None:
    for name in ("nowhere", "no/where.jsonl", str(tmp_path / "p.jsonl"), "a/b/c"):
        with pytest.raises(UserError, match="no problems at"):
            read(Path(name))
    with pytest.raises(UserError, match="holds no .jsonl or .parquet"):
        read(tmp_path)
    (tmp_path / "p.csv").write_text("question,answer\n")
    with pytest.raises(UserError, match=r"should be a \.jsonl or \.parquet"):
        read(tmp_path / "p.csv")


def test_a_broken_parquet_file_is_said(tmp_path: Path) -> None:
    file = parquet(tmp_path / "p.parquet", [{"question": f"q{n}", "answer": str(n)} for n in range(1000)])
    whole = file.read_bytes()
    for broken in (b"", b"PAR1", whole[:-9], b"{}\n", whole[:40] + b"\xff" * 60 + whole[100:]):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=r"p\.parquet is not a readable Parquet file: [^\n]*$"):
            read(file)


def test_parquet_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    texts = pa.StringArray.from_buffers(
        3, pa.py_buffer(struct.pack("<4i", 0, 2, 4, 8)), pa.py_buffer(b"ok\xff\xfefine")
    )
    pq.write_table(pa.table({"question": texts, "answer": ["1", "2", "3"]}), tmp_path / "p.parquet")
    found = read(tmp_path / "p.parquet")
    assert [item.reason if isinstance(item, Dropped) else item.problem.question for item in found] == [
        "ok", "not UTF-8", "fine",
    ]  # fmt: skip


# Columns and presets


def test_columns_are_mapped(tmp_path: Path) -> None:
    row = {
        "Q": "How many?",
        "solution": "<answer> 3 </answer>",
        "pic": {"file": "a.png"},
        "meta": {"set": {"name": "s"}},
    }
    (tmp_path / "a.png").write_bytes(RED)
    columns = {"question": "Q", "answer": "solution", "images": "pic.file", "source": "meta.set.name"}
    found = one(jsonl(tmp_path / "p.jsonl", [row]), columns=columns)
    assert (found.problem.answer, found.problem.source, found.images) == ("3", "s", (RED,))


def test_a_wrong_column_is_said(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "p.jsonl", [{"prompt": "q", "answer": "1"}])
    with pytest.raises(UserError, match="no column 'question' for the question; it has prompt, answer; use --columns"):
        read(file)
    with pytest.raises(UserError, match="no column 'gold' for the answer"):
        read(file, columns={"question": "prompt", "answer": "gold"})
    with pytest.raises(UserError, match="--columns knows no field 'quest'; the fields are id, question"):
        read(file, columns={"quest": "prompt"})
    with pytest.raises(
        UserError, match=r"no preset is called 'orca'; there are geometry3k, .*; did you mean 'orsta'\?"
    ):
        read(file, preset="orca")
    assert one(file, columns={"question": "prompt"}).problem.question == "q"


def test_a_column_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    rows = [{"data.q": "flat", "data": {"q": "nested", "a": "3"}, "answer": "4"}]
    assert one(jsonl(tmp_path / "p.jsonl", rows), columns={"question": "data.q"}).problem.question == "flat"
    alone = [{"data.q": "flat", "answer": "4"}]
    assert one(jsonl(tmp_path / "alone.jsonl", alone), columns={"question": "data.q"}).problem.question == "flat"
    assert one(jsonl(tmp_path / "p.jsonl", rows), columns={"question": "data.a"}).problem.question == "3"


def image(data: bytes, name: str | None = None) -> dict[str, Any]:
    """An image as datasets writes it."""
    return {"bytes": data, "path": name}


# One row of each data set in its own schema, and the problem that becomes of it.
ROWS: dict[str, tuple[dict[str, Any], Problem]] = {
    "orsta": (
        {
            "data_source": "chart",
            "images": [image(RED)],
            "prompt": [{"content": "<image>How many bars?", "role": "user"}],
            "ability": "math",
            "reward_model": {
                "answer": "\\boxed{7}", "ground_truth": "\\boxed{7}", "accuracy_ratio": 1.0, "format_ratio": 0.0,
                "verifier": "mathverify", "verifier_parm": {"det_verifier_normalized": False},
            },
            "extra_info": {"id": "chart-1", "image_path": "a/b.png"},
        },
        Problem("chart-1", "How many bars?", "7", "numeric", (), (), "chart"),
    ),
    "virl39k": (
        {
            "question": "What is $x$?\n<image>", "answer": "\\boxed{\\frac{1}{2}}", "PassRate_32BTrained": 0.5,
            "PassRate_7BBase": -1.0, "category": "(GradeSchool) Math", "source": "MMMath", "qid": "MMMath-17",
            "image": ["images/17.png"],
        },
        Problem("MMMath-17", "What is $x$?\n<image>", "\\frac{1}{2}", "math", (), (), "MMMath"),
    ),
    "mmk12": (
        {
            "id": "2f", "question": "Which is it? <image>\nA. red\nB. blue", "answer": "B", "subject": "physics",
            "image": image(RED),
        },
        Problem("2f", "Which is it? <image>\nA. red\nB. blue", "B", "multiple_choice", ("red", "blue"), (), "physics"),
    ),
    "geometry3k": (
        {
            "images": [image(RED, "img_1.png")], "problem": "<image>Find x.", "answer": "48", "id": 2401,
            "choices": ["48", "52", "60", "71"], "ground_truth": "A",
        },
        Problem("2401", "Find x.", "48", "numeric"),
    ),
    "mathvista": (
        {
            "pid": "5", "question": "Which colour?", "image": "images/5.jpg", "decoded_image": image(RED),
            "choices": ["red", "blue"], "unit": None, "precision": 1.0, "answer": "blue",
            "question_type": "multi_choice", "answer_type": "text",
            "metadata": {"category": "general-vqa", "source": "IconQA"}, "query": "Hint: ...",
        },
        Problem("5", "Which colour?", "blue", "multiple_choice", ("red", "blue"), (), "IconQA"),
    ),
    "mathverse": (
        {
            "sample_index": "5", "problem_index": "1", "problem_version": "Vision Only", "question": "",
            "image": image(RED), "answer": "B", "question_type": "multi-choice", "query_wo": "Directly answer.",
            "metadata": {"split": "testmini", "source": "GeoQA", "subject": "Plane Geometry", "subfield": "Angle"},
            "query_cot": "First reason, then answer the question shown in the image.", "question_for_eval": "?",
        },
        Problem(
            "5", "First reason, then answer the question shown in the image.", "B", "multiple_choice", (), (),
            "Plane Geometry",
        ),
    ),
    "mathvision": (
        {
            "id": "4", "question": "Which is it?\n<image1>", "options": ["A", "B", "C"], "image": "images/4.jpg",
            "decoded_image": image(RED), "answer": "C", "solution": None, "level": 2, "subject": "counting",
        },
        Problem("4", "Which is it?\n<image1>", "C", "multiple_choice", ("A", "B", "C"), (), "counting"),
    ),
    "mmmu": (
        {
            "id": "validation_Art_1", "question": "<image 1> Who?", "options": "['Goya', \"O'Keeffe\"]", "answer": "B",
            "explanation": "", "image_1": image(RED), "image_2": None, "img_type": "['Paintings']",
            "topic_difficulty": "Easy", "question_type": "multiple-choice", "subfield": "Drawing",
        },
        Problem("validation_Art_1", "Who?", "B", "multiple_choice", ("Goya", "O'Keeffe"), (), "Drawing"),
    ),
    "mega-bench": (
        {
            "id": "17", "task_name": "counting", "task_description": "Count them.", "global_media": "[]",
            "example_text": "", "example_media": "[]", "query_text": "<image> How many?", "answer": "{'answer': '7'}",
            "query_media": "['images/17.png']", "eval_context": "{}",
            "metric_info": "{'field_score_function': {'answer': 'exact_str_match'}, 'aggregation': {}}",
        },
        Problem("17", "Count them.\n<image> How many?", "7", "numeric", (), (), "counting"),
    ),
}  # fmt: skip


def test_a_preset_whose_rows_cannot_be_told_is_refused(tmp_path: Path) -> None:
    row, _ = ROWS["mathverse"]
    file = parquet(tmp_path / "p.parquet", [{name: value for name, value in row.items() if name != "problem_version"}])
    with pytest.raises(UserError, match="no column 'problem_version', by which the preset mathverse tells its rows"):
        read(file, preset="mathverse")


@pytest.mark.parametrize("preset", shipped_presets())
def test_presets(tmp_path: Path, preset: str) -> None:
    row, wanted = ROWS[preset]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "17.png").write_bytes(RED)
    found = one(parquet(tmp_path / "p.parquet", [row]), preset=preset)
    assert found.images == (RED,)
    fields = {name: getattr(wanted, name) for name in Problem.__struct_fields__}
    assert found.problem == Problem(**{**fields, "images": (hashlib.sha256(RED).hexdigest(),)})


def test_what_mathvista_says_of_its_numbers(tmp_path: Path) -> None:
    row, _ = ROWS["mathvista"]
    asked = {"choices": None, "answer": "1.2", "question_type": "free_form", "precision": 1.0, "unit": "$"}
    found = one(parquet(tmp_path / "p.parquet", [row | asked]), preset="mathvista").problem
    assert (found.answer, found.answer_type, found.policy) == ("1.2", "numeric", Policy(precision=1, unit="$"))
    plain = asked | {"precision": None, "unit": None}
    assert one(parquet(tmp_path / "p.parquet", [row | plain]), preset="mathvista").problem.policy is UNSET
    bad = jsonl(tmp_path / "p.jsonl", [GOOD | {"places": "many"}])
    (dropped,) = read(bad, columns={"precision": "places"})
    assert isinstance(dropped, Dropped) and dropped.reason == "precision or tolerance is no number"


def test_a_benchmark_is_its_own_rows(tmp_path: Path) -> None:
    verse, _ = ROWS["mathverse"]
    others = [{**verse, "sample_index": str(n), "problem_version": "Text Lite"} for n in range(3)]
    found = read(parquet(tmp_path / "v.parquet", [*others, verse]), preset="mathverse", limit=1)
    assert [item.problem.id for item in found if isinstance(item, Incoming)] == ["5"]
    mega, _ = ROWS["mega-bench"]
    boxes = {**mega, "metric_info": "{'field_score_function': {'a': 'nbbox_iou_tuple'}}"}
    fields = {**mega, "metric_info": "{'field_score_function': {'a': 'exact_str_match', 'b': 'exact_str_match'}}"}
    assert read(parquet(tmp_path / "m.parquet", [boxes, fields]), preset="mega-bench") == []


@pytest.mark.parametrize(
    ("answer", "gold", "kind"), [("['7.5', '7,5']", "7.5", "numeric"), ("red", "red", "text"), ("[", "[", "text")]
)
def test_open_questions_of_mmmu(tmp_path: Path, answer: str, gold: str, kind: str) -> None:
    row = {**ROWS["mmmu"][0], "options": "[]", "question_type": "open", "answer": answer}
    found = one(parquet(tmp_path / "p.parquet", [row]), preset="mmmu").problem
    assert (found.answer, found.choices, found.answer_type) == (gold, (), kind)


def test_free_form_questions_of_mathverse(tmp_path: Path) -> None:
    row = {**ROWS["mathverse"][0], "question_type": "free-form", "answer": "60°"}
    assert one(parquet(tmp_path / "p.parquet", [row]), preset="mathverse").problem.answer_type == "numeric"


def test_a_preset_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[columns]\nquestion = "q.text"\nanswer = "gold"\n')
    file = jsonl(tmp_path / "p.jsonl", [{"q": {"text": "What?"}, "gold": "5"}])
    found = one(file, preset=str(tmp_path / "mine.toml"))
    assert (found.problem.question, found.problem.answer) == ("What?", "5")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("columns = ", "is not valid TOML"),
        ("columns = 5", r"is wrong: .*it should have a table \[columns\]"),
        ("[colums]\n", "is wrong: .*colums"),
        ('[columns]\nqestion = "q"', "knows no field 'qestion'; the fields are id, question"),
    ],
)
def test_a_file_that_is_no_preset_is_said(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        read(jsonl(tmp_path / "p.jsonl", [GOOD]), preset=str(file))
    with pytest.raises(UserError, match="cannot read the preset file nowhere.toml"):
        read(jsonl(tmp_path / "p.jsonl", [GOOD]), preset="nowhere.toml")


def test_rows_of_known_data_sets_that_cannot_be_used(tmp_path: Path) -> None:
    orsta, virl = ROWS["orsta"][0], ROWS["virl39k"][0]
    boxes = {
        **orsta,
        "reward_model": {**orsta["reward_model"], "verifier": "detection", "ground_truth": "[[0, 1, 2, 3]]"},
    }
    assert read(parquet(tmp_path / "o.parquet", [boxes]), preset="orsta") == [
        Dropped(0, "answer type not supported", "detection")
    ]
    (text_only,) = read(parquet(tmp_path / "v.parquet", [{**virl, "image": []}]), preset="virl39k")
    assert isinstance(text_only, Incoming) and text_only.images == ()


def test_clevr_by_columns(tmp_path: Path) -> None:
    row = {"image": image(RED), "problem": "How many items?", "solution": "<answer> 3 </answer>"}
    assert one(parquet(tmp_path / "p.parquet", [row]), columns={"answer": "solution"}).problem.answer == "3"


# Images


def test_images_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(RED)
    url = "data:image/png;base64," + base64.b64encode(RED).decode()
    texts = ["sub/a.png", ["sub/a.png"], url, [url], {"path": "sub/a.png"}, [{"bytes": None, "path": "sub/a.png"}]]
    texts.append(url.partition(",")[2])  # bare, as in VLMEvalKit's tables
    found = read(jsonl(tmp_path / "p.jsonl", [{**GOOD, "id": n, "images": value} for n, value in enumerate(texts)]))
    for value in (RED, [RED], image(RED), [image(RED, "elsewhere.png")]):
        found += read(parquet(tmp_path / "p.parquet", [{**GOOD, "images": value}]))
    digest = hashlib.sha256(RED).hexdigest()
    assert len(found) == 11
    for item in found:
        assert isinstance(item, Incoming) and item.images == (RED,) and item.problem.images == (digest,), item


@pytest.mark.parametrize("none", [None, [], ""])
def test_no_image(tmp_path: Path, none: Any) -> None:
    assert one(jsonl(tmp_path / "p.jsonl", [{**GOOD, "image": none}])).images == ()


def test_several_images_keep_their_order(tmp_path: Path) -> None:
    found = one(parquet(tmp_path / "p.parquet", [{**GOOD, "images": [BLUE, RED, BLUE]}]))
    assert found.images == (BLUE, RED, BLUE)
    assert found.problem.images == tuple(hashlib.sha256(data).hexdigest() for data in (BLUE, RED, BLUE))


def png(width: int, height: int, body: bytes) -> bytes:
    """A PNG that claims this size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 48), 90).convert("RGB").save(file, kind, **options)
    return file.getvalue()


HOSTILE = {
    "image not an image": [b"", b"\x00", b"<svg/>", b"%PDF-1.7", b"GIF", RED[1:], b"x" * 1000],
    "image broken": [
        RED[:40], RED[:-30], saved("JPEG")[:-400], saved("GIF")[:300], saved("WEBP")[:-100], saved("BMP")[:-100],
        saved("TIFF")[:500], b"\xff\xd8\xff" + b"\x00" * 100, b"BM" + b"\xff" * 60,
        png(64, 64, b"not deflated"), png(64, 64, zlib.compress(b"")), png(0, 0, b""),
    ],
    "image too large": [png(40_000, 40_000, zlib.compress(b"")), png(10_000, 10_001, b""), png(9_500, 9_500, b"")],
}  # fmt: skip


@pytest.mark.parametrize("reason", HOSTILE)
def test_hostile_images_are_bad_rows(tmp_path: Path, reason: str) -> None:
    rows = [{**GOOD, "images": [RED, data]} for data in HOSTILE[reason]]
    found = read(parquet(tmp_path / "p.parquet", rows))
    assert [item.reason if isinstance(item, Dropped) else item for item in found] == [reason] * len(rows)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_whole_images_of_every_kind_are_taken(tmp_path: Path, kind: str) -> None:
    data = saved(kind)
    found = one(parquet(tmp_path / "p.parquet", [{**GOOD, "images": [data]}]))
    (taken,) = found.images
    assert found.problem.images == (hashlib.sha256(taken).hexdigest(),)
    if kind in ("PNG", "JPEG", "WEBP"):
        assert taken == data
    else:  # not every reader knows these
        assert media_type(taken) == "image/png"
    with Image.open(io.BytesIO(taken)) as new, Image.open(io.BytesIO(data)) as old:
        assert new.convert("RGB").tobytes() == old.convert("RGB").tobytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_to_an_image_stops_the_stream(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([RED, SMALL_JPEG]))
    place = data.draw(st.integers(0, len(whole)))
    damaged = whole[:place] + data.draw(st.binary(max_size=8)) + whole[place + data.draw(st.integers(0, 8)) :]
    url = "data:image/png;base64," + base64.b64encode(damaged).decode()
    (found,) = read(jsonl(tmp_path_factory.getbasetemp() / "damaged.jsonl", [{**GOOD, "images": url}]))
    assert isinstance(found, Incoming) or found.reason in HOSTILE


SMALL_JPEG = saved("JPEG")


# Rows


BAD = [
    ("{", "not JSON"),
    ("\x00", "not JSON"),
    ('{"question": "\\ud800"}', "not JSON"),
    ("[" * 5000, "not JSON"),
    ("[1]", "not a JSON object"),
    ("null", "not a JSON object"),
    ({"question": None}, "no question"),
    ({"question": 5}, "no question"),
    ({"question": " \n"}, "no question"),
    ({"question": " <image>\n<image>"}, "no question"),
    ({"question": []}, "no question"),
    ({"question": [{"role": "system", "content": "Be good."}]}, "no question"),
    ({"question": [{"role": "user", "content": [{"type": "text"}]}]}, "no question"),
    ({"question": "q" * (MAX_TEXT + 1)}, "question too long"),
    ({"answer": None}, "no answer"),
    ({"answer": ""}, "no answer"),
    ({"answer": []}, "no answer"),
    ({"answer": "\\boxed{ }"}, "no answer"),
    ({"answer": "<answer></answer>"}, "no answer"),
    ({"answer": True}, "answer not supported"),
    ({"answer": [1, 2]}, "answer not supported"),
    ({"answer": {"a": 1}}, "answer not supported"),
    ({"answer": "1" * (MAX_TEXT + 1)}, "answer too long"),
    ({"answer_type": "detection"}, "answer type not supported"),
    ({"answer_type": ["math"]}, "answer type not supported"),
    ({"choices": "red, blue"}, "choices are not a list of texts"),
    ({"choices": {"A": "red"}}, "choices are not a list of texts"),
    ({"choices": ["red", None]}, "choices are not a list of texts"),
    ({"choices": [str(n) for n in range(27)]}, "more choices than letters"),
    ({"images": "missing.png"}, "image not found"),
    ({"images": "."}, "image not found"),
    ({"images": "/dev/zero"}, "image not found"),
    ({"images": "a\x00b"}, "image not found"),
    ({"images": "a" * 5000}, "image not found"),
    ({"images": "rows.jsonl"}, "image not an image"),
    ({"images": "http://127.0.0.1:9/a.png"}, "image not local"),
    ({"images": "data:image/png;base64,@@"}, "image broken"),
    ({"images": "iVBORw0KGgo" + "@" * 60}, "image broken"),
    ({"images": "iVBORw0KGgo" + "A" * 60 + ".png"}, "image not found"),
    ({"images": "data:image/png;base64,é"}, "image broken"),
    ({"images": "data:,"}, "image not an image"),
    ({"images": [7]}, "image not supported"),
    ({"images": [None]}, "image not supported"),
    ({"images": [{}]}, "image not supported"),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_row_is_left_out_with_its_reason(tmp_path: Path, row: Any, reason: str) -> None:
    assert fate(tmp_path, row if isinstance(row, str) else {**GOOD, "id": "bad", **row}.copy()) == reason


def test_a_row_that_lacks_a_field_is_a_bad_row(tmp_path: Path) -> None:
    assert fate(tmp_path, {"question": "q"}) == "no answer"
    assert fate(tmp_path, {"answer": "5"}) == "no question"


def test_a_bad_first_row_does_not_stop_the_stream(tmp_path: Path) -> None:
    bad = [{"question": "no answer"}, {"note": "nothing at all"}]
    found = read(jsonl(tmp_path / "p.jsonl", [*bad, GOOD]))
    assert [type(item).__name__ for item in found] == ["Dropped", "Dropped", "Incoming"]
    rows = [{"question": "q", "answer": n} for n in range(120)]
    pictured = jsonl(tmp_path / "late.jsonl", [*rows, {"question": "q", "answer": "1", "pic": []}])
    assert len(read(pictured, columns={"images": "pic"})) == 121  # a late row may have what the first ones lack
    with pytest.raises(UserError, match="no column 'pic' for the images"):
        read(parquet(tmp_path / "p.parquet", rows), columns={"images": "pic"})
    with pytest.raises(UserError, match="no column 'question' for the question; it has q, answer"):
        read(jsonl(tmp_path / "q.jsonl", [{"q": "q", "answer": n} for n in range(120)] + [GOOD]))


def test_a_huge_file_is_no_image(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    assert fate(tmp_path, {**GOOD, "images": "huge.png"}) == "image too large"


WORDS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.sampled_from(["role", "content"]), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
FIELDS = ["id", "question", "images", "answer", "answer_type", "choices", "source"]


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=7) | VALUES, max_size=4))
def test_every_row_comes_out_once_and_in_order(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    found = read(jsonl(tmp_path_factory.getbasetemp() / "any.jsonl", [GOOD, *map(json.dumps, rows), GOOD]))
    assert [item.position for item in found] == list(range(len(rows) + 2))
    for item in (found[0], found[-1]):
        assert isinstance(item, Incoming) and item.problem.id == "good"
    for item in found:
        if isinstance(item, Dropped):
            assert item.reason
        else:
            assert item.problem.question.strip() and item.problem.answer.strip() and item.problem.id


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (" 5 ", "5"),
        (5, "5"),
        (2.5, "2.5"),
        ("\\boxed{5}", "5"),
        ("$\\boxed{5}$", "5"),
        ("$$ \\boxed{\\frac{1}{2}} $$", "\\frac{1}{2}"),
        ("<answer> 3 </answer>", "3"),
        ("<answer>\\boxed{3}</answer>", "3"),
        ("\\boxed{3} or \\boxed{4}", "\\boxed{3} or \\boxed{4}"),
        ("<answer>3</answer> <answer>4</answer>", "<answer>3</answer> <answer>4</answer>"),
        ("x = \\boxed{3}", "x = \\boxed{3}"),
        ("\\boxed{", "\\boxed{"),
        ("$5", "$5"),
    ],
)
def test_answers_are_unwrapped(tmp_path: Path, given: Any, wanted: str) -> None:
    assert one(jsonl(tmp_path / "p.jsonl", [{**GOOD, "answer": given}])).problem.answer == wanted


@pytest.mark.parametrize(
    ("given", "pictures", "wanted"),
    [
        ("<image>\nHow many?", 1, "How many?"),
        ("<image><image>\nCompare.", 2, "Compare."),
        (" <image> \n <image>Compare.", 2, "Compare."),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "<image>Q"}], 1, "Q"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}], 1, "Q"),
        ("How many?", 2, "How many?"),
        ("How many? <image>", 1, "How many? <image>"),
        ("In <image> the angle", 1, "In <image> the angle"),
        ("<image> or\n<image>?", 2, "<image> or\n<image>?"),
        ([{"role": "user", "content": [{"type": "text", "text": "Is"}, {"type": "image"}]}], 1, "Is<image>"),
        ("a <image2> b", 1, "a <image2> b"),
        ("What does `<image>` mean?", 1, "What does `<image>` mean?"),
        ('<image>Does "<image>" mean this?', 1, 'Does "<image>" mean this?'),
        ("What does the tag <image> mean?", 0, "What does the tag <image> mean?"),
        ("`<image>` is what?", 0, "`<image>` is what?"),
    ],
)
def test_a_placeholder_is_where_its_picture_stands(tmp_path: Path, given: Any, pictures: int, wanted: str) -> None:
    found = one(parquet(tmp_path / "p.parquet", [{**GOOD, "question": given, "images": [RED] * pictures}]))
    assert found.problem.question == wanted and found.images == (RED,) * pictures


@pytest.mark.parametrize(
    ("question", "pictures", "counts"),
    [
        ("<image><image>Which?", 1, "2 placeholders, 1 picture"),
        ("<image>Which?", 2, "1 placeholder, 2 pictures"),
        ("<image>Which?", 0, "1 placeholder, 0 pictures"),
        ("Which, <image> or <image> or <image>?", 2, "3 placeholders, 2 pictures"),
        ("See <image 1>.", 2, "placeholders of 1 picture, 2 pictures"),
        ("See <image 3>.", 1, "placeholders of 1 picture, 1 picture"),
    ],
)
def test_places_and_pictures_must_agree(tmp_path: Path, question: str, pictures: int, counts: str) -> None:
    row = {**GOOD, "question": question, "images": [RED] * pictures}
    wanted = Dropped(0, "placeholders and pictures differ in number", f"good: {counts}")
    assert read(parquet(tmp_path / "p.parquet", [row])) == [wanted]


def test_numbered_places_bring_the_pictures_in_their_order(tmp_path: Path) -> None:
    """As MMMU writes them: out of order, twice, in the choices, and where columns are left empty."""
    pictures = {"image_1": image(RED), "image_2": image(BLUE), "image_3": None}

    def found(question: str, **more: Any) -> tuple[str, tuple[bytes, ...]]:
        item = one(parquet(tmp_path / "p.parquet", [{**GOOD, **pictures, "question": question, **more}]))
        return chat(item.problem, None)[-1].content, item.images

    assert found("<image 1> <image 2> Which?") == ("Which?", (RED, BLUE))
    assert found("Is <image_2> more than <image_1>?") == ("Is <image> more than <image>?", (BLUE, RED))
    assert found("What does `<image_2>` mean?") == ("What does `<image_2>` mean?", (RED, BLUE))
    assert found("Is <image 2> more than <image 1>?") == ("Is <image> more than <image>?", (BLUE, RED))
    assert found("<image 1> and <image 2>, <image 1>?") == ("<image> and <image>, <image>?", (RED, BLUE, RED))
    choices = {"choices": ["<image 1>", "<image 2>"], "answer": "A"}
    assert found("Which?", **choices) == ("Which?\n(A) <image>\n(B) <image>", (RED, BLUE))
    assert found("Which?") == ("Which?", (RED, BLUE))


def test_the_shared_cases(tmp_path: Path) -> None:
    """Transparent pictures, an interleaved question, a missing picture and an `image_path`."""
    cases = Path(__file__).parent / "cases" / "pictures"
    found = {item.problem.id: item for item in read(cases / "problems.jsonl") if isinstance(item, Incoming)}
    assert [*found] == ["transparent", "transparent-palette", "interleaved", "unused-column"]
    assert found["interleaved"].problem.question.startswith("Picture A: <image>\nPicture B: <image>\nIn which")
    assert found["unused-column"].problem.question == "How many shapes are there?"
    assert len(found["unused-column"].images) == 1


def test_without_gold_an_answer_is_not_needed(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "p.jsonl", [{"question": "q"}, {"question": "r", "answer": [1]}])
    assert [item.problem.answer for item in read(file, gold=False) if isinstance(item, Incoming)] == ["", ""]


def test_an_id_is_made_from_the_content(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "A", "choices": ["x", "y"], "images": [RED]}
    changes: list[dict[str, Any]] = [
        {}, {"source": "elsewhere"}, {"question": "r"}, {"answer": "B"}, {"choices": ["x", "z"]}, {"images": [BLUE]},
    ]  # fmt: skip
    found = [one(parquet(tmp_path / "p.parquet", [{**row, **change}])).problem.id for change in changes]
    assert found[0] == found[1] and len(set(found)) == 5
    assert one(parquet(tmp_path / "q.parquet", [{**row, "id": ""}])).problem.id == found[0]
    assert one(parquet(tmp_path / "q.parquet", [{**row, "id": 0}])).problem.id == "0"


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("5", "numeric"), ("-5", "numeric"), ("\u22125", "numeric"), ("1,234.5", "numeric"), ("1e3", "numeric"),
        ("50%", "numeric"), ("60°", "numeric"), ("$5", "numeric"), ("14 cm", "numeric"), ("3 m²", "numeric"),
        ("$$6$$", "numeric"), ("18.", "numeric"), ("25°.", "numeric"), (r"$25^{\circ}$", "numeric"),
        (r"8 \text{ cm}", "numeric"), ("45度", "numeric"), ("2x", "math"), ("3,4", "math"), (r"$\sqrt{3}$", "math"),
        ("1/2", "math"), ("2 1/2", "math"), ("\\frac{1}{2}", "math"), ("x=3", "math"), ("3x+4y", "math"),
        ("±2", "math"),
        ("(1, 2)", "math"), ("[0, 1)", "math"), ("1<x<2", "math"), ("2^{10}", "math"), ("π", "math"),
        ("red", "text"), ("A", "text"), ("New York", "text"), ("well-known", "text"), ("(left, I think)", "math"),
        ("The light comes from the left side of it", "open"),
    ],
)  # fmt: skip
def test_answer_types_are_inferred(answer: str, wanted: str) -> None:
    assert infer_answer_type("What is it?", answer) == wanted


@pytest.mark.parametrize(
    ("question", "answer", "choices", "wanted"),
    [
        ("Which?\nA. red\nB. blue", "B", (), "multiple_choice"),
        ("Which? (A) red (B) blue", "(B)", (), "multiple_choice"),
        ("Which? A: red B: blue", "A.", (), "multiple_choice"),
        ("A) red B) blue", "A", (), "multiple_choice"),
        ("Which? (A) red (B) blue", "red", (), "text"),
        ("Which? (B) red (A) blue", "A", (), "text"),
        ("Point A. Where?", "B", (), "text"),
        ("Which?", "red", ("red", "blue"), "multiple_choice"),
        ("Which?", "5", ("5", "6"), "multiple_choice"),
    ],
)
def test_multiple_choice_is_inferred(question: str, answer: str, choices: tuple[str, ...], wanted: str) -> None:
    assert infer_answer_type(question, answer, choices) == wanted


@pytest.mark.parametrize(
    "row",
    [
        {"question": "A) " * 33_000, "answer": "A"},
        {"question": "A" + " " * 99_000, "answer": "A"},
        {"question": "x" + " " * 99_000 + "y"},
        {"question": "<image>" + "\t" * 99_000 + "x"},
        {"answer": "(" + "," * 99_000},
        {"answer": "[" * 99_000},
        {"answer": "1 " * 49_000},
        {"answer": "1" + "," * 99_000 + "x"},
        {"answer": "<answer>" * 12_000},
        {"answer": "\\boxed{" * 14_000},
    ],
    ids=range(10),
)
def test_hostile_texts_take_no_time(tmp_path: Path, row: dict[str, str]) -> None:
    started = time.perf_counter()
    fate(tmp_path, {**GOOD, **row})
    assert time.perf_counter() - started < 2


# What the policy is asked


@pytest.mark.parametrize(
    ("question", "choices", "wanted"),
    [
        ("Which?", ("red", "blue"), "Which?\n(A) red\n(B) blue"),
        ("Red or blue?", ("Red", "blue"), "Red or blue?\n(A) Red\n(B) blue"),
        ("The sides are 12 and 5.", ("1", "5", "12"), "The sides are 12 and 5.\n(A) 1\n(B) 5\n(C) 12"),
        ("Which? (A) red (B) blue", ("red", "blue"), "Which? (A) red (B) blue"),
        ("Which?\nA. 1.5\nB: -2", ("1.5", "-2"), "Which?\nA. 1.5\nB: -2"),
        ("Which? (A) reddish (B) blue", ("red", "blue"), "Which? (A) reddish (B) blue\n(A) red\n(B) blue"),
        ("How many?", (), "How many?"),
    ],
)  # fmt: skip
def test_the_policy_sees_every_choice_with_its_letter(question: str, choices: tuple[str, ...], wanted: str) -> None:
    (message,) = chat(Problem("p", question, "A", "multiple_choice", choices), None)
    assert (message.role, message.content) == ("user", wanted)


# Responses


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_responses(tmp_path: Path, write: Any) -> None:
    rows = [
        {"problem_id": "a", "response": "one"},
        {"problem_id": "b", "response": None},
        {"problem_id": "a", "response": ""},
    ]
    found = list(read_responses(write(tmp_path / f"r.{write.__name__}", rows)))
    texts = [item if isinstance(item, str) else (item[0], item[1].text) for item in found]
    assert texts == [("a", "one"), "not a problem_id and a response", ("a", "")]


def test_a_bad_first_response_does_not_stop_the_others(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "r.jsonl", [{"problem_id": "a"}, {"problem_id": "b", "response": "x"}])
    assert list(read_responses(file)) == ["not a problem_id and a response", ("b", Response("x"))]


def test_bad_responses_are_said(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "r.jsonl", [{"problem_id": 3, "response": "x"}, "{", [], {"problem_id": "a"}])
    found = list(read_responses(file))
    assert not isinstance(found[0], str) and found[0][0] == "3"
    assert found[1:] == ["not JSON", "not a JSON object", "not a problem_id and a response"]
    with pytest.raises(UserError, match="no column 'response'; it has problem_id, text"):
        list(read_responses(jsonl(file, [{"problem_id": "a", "text": "x"}])))
    with pytest.raises(UserError, match="no responses at"):
        list(read_responses(tmp_path / "nowhere.jsonl"))


# The Hub

READER = """
import json, sys
from specs_data.errors import UserError
from specs_data.problems import Incoming, read_problems
for source in sys.argv[1:]:
    try:
        found = [
            [item.problem.id, item.problem.question, [data.hex() for data in item.images]]
            if isinstance(item, Incoming) else [item.reason, item.detail]
            for item in read_problems(source)
        ]
    except UserError as error:
        found = f"UserError: {error}"
    print(json.dumps(found))
"""


def read_hub(hub: Hub, folder: Path, *sources: str) -> list[Any]:
    """What READER finds in datasets of `hub`, which knows nothing of them yet."""
    env = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_OFFLINE": "0", "USE_TORCH": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", READER, *sources], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_dataset(tmp_path: Path) -> None:
    def table(*questions: str) -> File:
        schema = make_schema({"id": pa.string(), "question": pa.string(), "answer": pa.string(), "images": IMAGES})
        rows = [{**GOOD, "id": name, "question": f"{name}?", "images": [image(RED)]} for name in questions]
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "t.parquet")
        return File((tmp_path / "t.parquet").read_bytes(), lfs=True)

    card = """---
configs:
- config_name: easy
  data_files: [{split: train, path: easy.parquet}, {split: test, path: test.parquet}]
  default: true
- config_name: hard
  data_files: [{split: train, path: hard.parquet}]
---
"""
    with Hub() as hub:
        repo = hub.repos["lab/Problems-1.5-v2"] = Repo(private=False)
        readme = File(card.encode(), lfs=False)
        old = {
            "README.md": readme,
            "easy.parquet": table("old"),
            "hard.parquet": table("old"),
            "test.parquet": table("old"),
        }
        repo.tags["v1.0.0"] = repo.commit(old, "first")
        new = {
            "README.md": readme,
            "easy.parquet": table("a", "b"),
            "hard.parquet": table("h"),
            "test.parquet": table("t"),
        }
        repo.commit(new, "second")
        name = "lab/Problems-1.5-v2"
        sources = [name, f"{name}#test", f"{name}:hard", f"{name}:hard@v1.0.0#train", f"{name}#nosplit", "lab/nothing"]
        found = read_hub(hub, tmp_path, *sources)
    ids = [[item[0] for item in rows] for rows in found[:4]]
    assert ids == [["a", "b"], ["t"], ["h"], ["old"]]
    assert found[0][0] == ["a", "a?", [RED.hex()]]
    for sentence, source in zip(found[4:], sources[4:], strict=True):
        assert sentence.startswith(f"UserError: cannot read the Hub dataset {source}: ") and "\n" not in sentence
    assert "'test'" in found[4] and found[4].endswith("; one is given as lab/Problems-1.5-v2#SPLIT")


def test_a_hub_dataset_of_which_one_has_to_choose(tmp_path: Path) -> None:
    line = File(b'{"question": "q?", "answer": "1"}', lfs=False)
    card = "---\nconfigs:\n- {config_name: a, data_files: a.jsonl}\n- {config_name: b, data_files: b.jsonl}\n---\n"
    with Hub() as hub:
        repo = hub.repos["lab/several"] = Repo(private=False)
        repo.commit({"README.md": File(card.encode(), lfs=False), "a.jsonl": line, "b.jsonl": line}, "first")
        [told] = read_hub(hub, tmp_path, "lab/several")
    assert "['a', 'b']" in told and told.endswith("one is given as lab/several:CONFIG")


def test_pictures_that_a_hub_dataset_names_are_fetched(tmp_path: Path) -> None:
    """By the path in the repository, by the end of one, in a zip file (ViRL39K's), and as datasets names them."""
    names = ["images/red.png", "green.png", "pictures/in_zip.png", "missing.png", "../../../etc/passwd", "/etc/passwd"]
    names += ["https://example.org/a.png", "broken.png"]
    rows = [{"id": f"{n}", "question": "What?", "answer": "5", "image": [name]} for n, name in enumerate(names)]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("in_zip.png", BLUE)
    files = {
        "data/train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "images/red.png": RED, "data/pictures/green.png": GREEN, "pictures.zip": packed.getvalue(),
        "broken.png": b"no picture",
    }  # fmt: skip
    with Hub() as hub:
        repo = hub.repos["lab/named"] = Repo(private=False)
        repo.commit({name: File(content, lfs=not name.endswith("jsonl")) for name, content in files.items()}, "first")
        found = read_hub(hub, tmp_path, "lab/named")
        hub.faults["resolve"] = [500] * 99
        (broken,) = read_hub(hub, tmp_path / "anew", "lab/named")
    assert [item[2] if len(item) == 3 else item for item in found[0]] == [
        [RED.hex()],
        [GREEN.hex()],
        [BLUE.hex()],
        ["image not found", "3: missing.png"],
        ["image not found", "4: ../../../etc/passwd (it lies outside of lab/named)"],
        ["image not found", "5: /etc/passwd (it lies outside of lab/named)"],
        ["image not local", "6: https://example.org/a.png"],
        ["image not an image", "7: broken.png"],
    ]
    assert broken.startswith("UserError: cannot ") and "lab/named" in broken and "\n" not in broken
