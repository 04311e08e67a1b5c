"""Files that data name are hostile; what is written appears whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specs_data.errors import FileRefused, UserError
from specs_data.files import put_in_place, read_inside, read_rows, staged, whole_file, write_whole

MOST = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "data"
    (inside / "images").mkdir(parents=True)
    (inside / "images" / "a.png").write_bytes(b"a picture")
    (tmp_path / "secret").write_bytes(b"a secret")
    return inside


def reason(folder: Path, name: str) -> str:
    with pytest.raises(FileRefused) as refused:
        read_inside(folder, name, MOST)
    return refused.value.reason


def test_a_file_inside_is_read_by_any_of_its_names(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to("images/a.png")
    (tmp_path / "other").symlink_to(folder)
    for place, name in [
        (folder, "images/a.png"),
        (folder, "images/../images/a.png"),
        (folder, "link.png"),
        (folder, str(folder / "images" / "a.png")),
        (tmp_path / "other", "images/a.png"),
        (folder / "images", "a.png"),
    ]:
        assert read_inside(place, name, MOST) == b"a picture"


def test_what_lies_outside_is_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "out.png").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to("..")
    for name in ("../secret", str(tmp_path / "secret"), "out.png", "up/secret", "images/../../secret", "/etc/passwd"):
        assert reason(folder, name) == "outside", name
    assert reason(folder, "/proc/self/environ") in ("outside", "not found", "not readable")


def test_what_is_no_regular_file_is_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
        assert reason(folder, "fifo") == "not a file"
        assert reason(folder, "socket") == "not readable"
    assert reason(folder, "images") == "not a file"
    for name in ("nothing", "a\0b", "images/a.png/b", "\udcff"):
        assert reason(folder, name) == "not found", name
    (folder / "ring").symlink_to("ring")
    assert reason(folder, "ring") == "not readable"
    assert reason(folder, "x" * 5000) == "not readable"


def test_a_large_file_is_not_read(folder: Path) -> None:
    (folder / "edge").write_bytes(b"x" * MOST)
    assert len(read_inside(folder, "edge", MOST)) == MOST
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert reason(folder, "huge") == "too large"
    assert reason(Path("/dev"), "zero") == "not a file"
    assert reason(Path("/proc/self"), "status") == "too large"  # it says that it is empty


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, b"one")
    with pytest.raises(RuntimeError), whole_file(file) as target:
        target.write(b"tw")
        raise RuntimeError
    assert file.read_bytes() == b"one"
    write_whole(file, b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_bytes() == b"two"


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", b"new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "mine"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    put_in_place(tmp_path / "new", tmp_path / "old")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "old"]


@pytest.mark.parametrize("there", [True, False])
def test_what_is_staged_comes_at_its_end_or_not_at_all(tmp_path: Path, there: bool) -> None:
    place = tmp_path / "place"
    if there:
        place.mkdir()
        (place / "mine").write_text("mine")
    with pytest.raises(RuntimeError), staged(place) as part:
        (part / "index").write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == (["place", "mine"] if there else [])
    with staged(place) as part:
        (part / "deep").mkdir()
        (part / "index").write_text("all")
        (part / "deep" / "file").write_text("deep")
        assert not (place / "index").exists()
    found = {path.relative_to(place).as_posix(): path.read_text() for path in place.rglob("*") if path.is_file()}
    assert found == {"index": "all", "deep/file": "deep"} | ({"mine": "mine"} if there else {})
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.skipif(os.name == "nt", reason="there are other locks")
def test_a_place_that_another_writes_is_left_to_it(tmp_path: Path) -> None:
    with staged(tmp_path / "place") as part:
        (part / "file").write_text("first")
        with pytest.raises(UserError, match="another process is writing .*place"), staged(tmp_path / "place"):
            raise AssertionError
        assert (part / "file").exists()
    assert (tmp_path / "place" / "file").read_text() == "first"


def test_of_those_that_write_a_file_one_comes_after_the_other(tmp_path: Path) -> None:
    file, contents = tmp_path / "file", [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(write_whole, [file] * 8, contents):
            assert file.read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_without_a_name_gets_that_of_the_place(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full") as caught, whole_file(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.filename == str(tmp_path / "file")


def test_of_large_rows_few_are_in_memory_at_once(tmp_path: Path) -> None:
    table = pa.table({"picture": [bytes(4_000_000)] * 24})
    pq.write_table(table, tmp_path / "p.parquet", use_dictionary=False, compression="none")
    rows = read_rows(tmp_path / "p.parquet")
    tracemalloc.start()
    try:
        assert isinstance(next(rows), dict)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 50_000_000
    assert sum(1 for _ in rows) == 23
