"""Which pictures a problem has: found where data sets put them, and never outside of the data set."""

from __future__ import annotations

import io
import json
import os
import socket
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.sums import picture

from specs_data.errors import UserError
from specs_data.images import MAX_BYTES, Unusable
from specs_data.pairs.shelf import HubShelf
from specs_data.problems import Dropped, Incoming, read_problems

RED, BLUE, GREEN = picture(1), picture(2), picture(3)
GOOD = {"id": "p7", "question": "How many?", "answer": "5"}


def jsonl(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file


def one(source: Path, **options: Any) -> Incoming:
    (found,) = read_problems(str(source), **options)
    assert isinstance(found, Incoming), found
    return found


def dropped(source: Path) -> Dropped:
    (found,) = read_problems(str(source))
    assert isinstance(found, Dropped), found
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set with a picture in it, and something that is nobody's business beside it."""
    (tmp_path / "secret.png").write_bytes(BLUE)
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "a.png").write_bytes(RED)
    (tmp_path / "set" / "a.png").write_bytes(RED)
    return tmp_path / "set"


# Where they are found


@pytest.mark.parametrize("column", ["images", "image", "image_path", "file_name"])
def test_the_usual_columns(folder: Path, column: str) -> None:
    assert one(jsonl(folder / "p.jsonl", [{**GOOD, column: "images/a.png"}])).images == (RED,)


def test_an_image_folder_of_the_hub(folder: Path) -> None:
    """metadata.jsonl beside the pictures, in the folder or below."""
    for part in ("", "train"):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "0001.png").write_bytes(RED)
        jsonl(folder / part / "metadata.jsonl", [{**GOOD, "id": part or "top", "file_name": "0001.png"}])
    found = list(read_problems(str(folder)))
    assert [item.images for item in found if isinstance(item, Incoming)] == [(RED,), (RED,)]


def test_a_file_name_may_be_another_s(folder: Path) -> None:
    assert one(jsonl(folder / "p.jsonl", [{**GOOD, "file_name": "exam.pdf"}])).images == ()


def test_an_empty_column_is_no_picture(folder: Path) -> None:
    for none in (None, "", []):
        row = {**GOOD, "images": none, "image_path": "a.png"}
        assert one(jsonl(folder / "p.jsonl", [row])).images == (RED,)


def test_numbered_columns(folder: Path) -> None:
    struct = [{"bytes": data, "path": "x.png"} for data in (RED, BLUE, GREEN)]
    empty = dict.fromkeys(f"image_{number}" for number in range(4, 8))
    row = {**GOOD, "image_2": struct[1], "image_1": struct[0], "image_10": struct[2], **empty}
    assert one(parquet(folder / "p.parquet", [row])).images == (RED, BLUE, GREEN)
    assert one(parquet(folder / "p.parquet", [row]), columns={"images": "image_2"}).images == (BLUE,)


@pytest.mark.parametrize("inner", ["images/17.png", "17.png"])
@pytest.mark.parametrize("name", ["images/17.png", "./images/17.png"])
def test_a_zip_beside_the_rows(folder: Path, inner: str, name: str) -> None:
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(inner, GREEN)
    row = {"question": "q?", "answer": "\\boxed{5}", "qid": "v-1", "image": [name]}
    file = parquet(folder / "39Krelease.parquet", [row])
    assert one(file, preset="virl39k").images == (GREEN,)
    assert one(folder, preset="virl39k").images == (GREEN,)


def test_a_file_goes_before_a_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.writestr("images/a.png", GREEN)
    assert one(jsonl(folder / "p.jsonl", [{**GOOD, "image": "images/a.png"}])).images == (RED,)


def test_broken_zips_are_bad_rows(folder: Path) -> None:
    file = jsonl(folder / "p.jsonl", [{**GOOD, "image": "b.png"}])
    (folder / "a.zip").write_bytes(b"PK no zip")
    assert dropped(file) == Dropped(0, "image not found", "p7: b.png")
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.writestr("b.png", GREEN)
    data = bytearray((folder / "b.zip").read_bytes())
    data[50] ^= 0xFF
    (folder / "b.zip").write_bytes(data)
    assert dropped(file) == Dropped(0, "image broken", "p7: b.png (BadZipFile in b.zip)")
    with zipfile.ZipFile(folder / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.png", bytes(MAX_BYTES + 1))
    assert dropped(file).reason == "image too large"
    (folder / "b.zip").unlink()
    os.mkfifo(folder / "b.zip")
    assert dropped(file).reason == "image not found"


def test_blobs_of_the_hub_s_cache_are_its_own(tmp_path: Path) -> None:
    cache = tmp_path / "datasets--lab--set"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / "0a").write_bytes(RED)
    snapshot = cache / "snapshots" / "c0ffee"
    (snapshot / "images").mkdir(parents=True)
    (snapshot / "images" / "a.png").symlink_to("../../../blobs/0a")
    file = jsonl(snapshot / "p.jsonl", [{**GOOD, "image": "images/a.png"}])
    assert one(file).images == one(snapshot).images == (RED,)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "0a").write_bytes(RED)
    (cache / "blobs" / "0a").unlink()
    (cache / "blobs").rmdir()
    (cache / "blobs").symlink_to(secret)
    assert dropped(file).reason == "image not found"


# Where they are not looked for


def test_a_path_stays_inside_the_data_set(folder: Path) -> None:
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "up").symlink_to(folder.parent)
    (folder / "circle.png").symlink_to("circle.png")
    for name in ("../secret.png", "images/../../secret.png", str(folder.parent / "secret.png"), "link.png",
                 "up/secret.png"):  # fmt: skip
        found = dropped(jsonl(folder / "p.jsonl", [{**GOOD, "image": name}]))
        assert found == Dropped(0, "image not found", f"p7: {name} (it lies outside of {folder})")
    assert dropped(jsonl(folder / "p.jsonl", [{**GOOD, "image": "circle.png"}])).reason == "image not found"
    inside = ("images/../a.png", str(folder / "a.png"), "up/set/a.png")
    for name in inside:
        assert one(jsonl(folder / "p.jsonl", [{**GOOD, "image": name}])).images == (RED,)


def test_a_folder_of_files_is_one_data_set(folder: Path) -> None:
    jsonl(folder / "data" / "p.jsonl", [{**GOOD, "image": "../images/a.png"}])
    assert one(folder).images == (RED,)
    assert dropped(folder / "data" / "p.jsonl").reason == "image not found"


def test_what_is_no_file_is_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as heard:
        with chdir(folder):  # the path of a socket must be short
            heard.bind("socket.png")
        started = time.perf_counter()
        for name in ("pipe.png", "socket.png", "images", "/dev/zero", "/dev/stdin", "a\0b.png", "x" * 5000):
            found = dropped(jsonl(folder / "p.jsonl", [{**GOOD, "image": name}]))
            assert found.reason == "image not found" and found.detail.startswith(f"p7: {name[:200]}"), found
    assert time.perf_counter() - started < 5


def test_the_size_is_known_before_a_file_is_read(folder: Path) -> None:
    with (folder / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    found = dropped(jsonl(folder / "p.jsonl", [{**GOOD, "image": "huge.png"}]))
    assert found == Dropped(0, "image too large", f"p7: huge.png (it has more than {MAX_BYTES:,} bytes)")


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("missing.png", "p7: missing.png"),
        ({"path": "missing.png"}, "p7: missing.png"),
        ("text.png", "p7: text.png"),
        ("torn.png", "p7: torn.png (UnidentifiedImageError)"),
        ("data:image/png;base64,@@", "p7: (data URL)"),
        ([7], "p7: (int)"),
    ],
)
def test_a_drop_names_the_row_and_the_picture(folder: Path, value: Any, detail: str) -> None:
    (folder / "text.png").write_text("no picture")
    (folder / "torn.png").write_bytes(RED[: len(RED) // 2])
    assert dropped(jsonl(folder / "p.jsonl", [{**GOOD, "images": value}])).detail == detail


# Those that nobody would see


@pytest.mark.parametrize(
    "value",
    [
        "a.png", ["a.png", "images/a.png"], "data:image/png;base64,iVBORw0KGgo=",
        {"bytes": None, "path": "a.png"},
    ],
)  # fmt: skip
def test_a_column_of_pictures_that_is_not_used_is_said(folder: Path, value: Any) -> None:
    rows = [{**GOOD, "note": "a.txt"}, {**GOOD, "note": "a.txt", "diagram": value}]
    file = jsonl(folder / "p.jsonl", rows)
    said = f"{file} has pictures in the column 'diagram', which is not used: use --columns images=diagram"
    with pytest.raises(UserError) as raised:
        list(read_problems(str(file)))
    assert str(raised.value) == said
    rows = [{**row, "image": "a.png"} for row in rows]
    with pytest.raises(UserError) as raised:
        list(read_problems(str(jsonl(file, rows))))
    assert str(raised.value) == f"{said}; images=image leaves it out"
    found = list(read_problems(str(file), columns={"images": "image"}))
    assert [item.images for item in found if isinstance(item, Incoming)] == [(RED,), (RED,)]


@pytest.mark.parametrize("value", [RED, {"bytes": RED, "path": None}, [RED]])
def test_bytes_that_are_not_used_are_said(folder: Path, value: Any) -> None:
    file = parquet(folder / "p.parquet", [{**GOOD, "diagram": value, "embedding": b"\0\1", "other": "gone.png"}])
    with pytest.raises(UserError, match="the column 'diagram', which is not used: use --columns images=diagram$"):
        list(read_problems(str(file)))
    assert one(file, columns={"images": "diagram"}).images == (RED,)


def test_what_only_looks_like_pictures_is_left_alone(folder: Path) -> None:
    row = {**GOOD, "image": "a.png", "url": "http://127.0.0.1/a.png", "gone": "gone.png", "hash": "aGk=", "n": 5}
    assert one(jsonl(folder / "p.jsonl", [row])).images == (RED,)


def test_an_evaluation_set_has_no_flags(folder: Path) -> None:
    file = jsonl(folder / "p.jsonl", [{"question": "q", "diagram": "a.png"}])
    assert isinstance(next(read_problems(str(file), gold=False)), Incoming)


def test_a_zip_of_zips_is_not_opened(folder: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("b.png", GREEN)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("b.png", inner.getvalue())
    assert dropped(jsonl(folder / "p.jsonl", [{**GOOD, "image": "b.png"}])).reason == "image not an image"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("images/a.png", "images/a.png"),
        ("a.png", "images/a.png"),
        ("./train/../images/a.png", "images/a.png"),
        ("hf://datasets/me/set@abc/images/a.png", "images/a.png"),
        ("one/b.png", "images/one/b.png"),
        ("b.png", None),  # there are two
        ("ages/a.png", None),
        ("../a.png", None),
        ("c.png", None),
    ],
)
def test_a_picture_of_a_repository_is_named_by_an_end_of_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, found: str | None
) -> None:
    files = ["images/a.png", "images/one/b.png", "images/two/b.png", "rows.jsonl"]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: files)

    def fetch(repo: str, file: str, **_: object) -> str:
        (tmp_path / "fetched").write_bytes(file.encode())
        return str(tmp_path / "fetched")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    if found is not None:
        assert HubShelf("me/set").read(name) == found.encode()
    else:
        with pytest.raises(Unusable, match="not found"):
            HubShelf("me/set").read(name)
