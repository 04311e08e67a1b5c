"""Fifty pictures that are none, or lie where none may be read from: at once, in one sentence, nothing of them shown."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from specs_data.errors import UserError
from specs_data.images import image_fault
from specs_data.look.report import report
from specs_data.look.show import show
from specs_data.pairs.parquet import write_shards
from specs_data.pairs.rows import open_dataset
from specs_data.share.export import export
from specs_data.share.merge import merge
from specs_data.share.private import refuse_private

SECRET = "-----a secret of this machine-----"
BOUND = 5.0  # seconds for any of them


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size).save(data, "PNG")
    return data.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def cut_of(kind: str, share: float) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((64, 64), 40).convert("RGB").save(data, kind)
    return data.getvalue()[: int(len(data.getvalue()) * share)]


BYTES = {
    "nothing": b"",
    "text": SECRET.encode(),
    "html": b"<html><script>alert(1)</script>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "zeros": bytes(1000),
    "signature alone": b"\x89PNG\r\n\x1a\n",
    "jpeg signature": b"\xff\xd8\xff",
    "gif signature": b"GIF89a",
    "bmp signature": b"BM" + bytes(60),
    "tiff signature": b"II*\x00" + b"\xff" * 60,
    "webp signature": b"RIFF\x00\x00\x00\x00WEBP",
    "bomb": claimed(100_000, 100_000),
    "tall bomb": claimed(1, 2**31 - 1),
    "no pixels": claimed(0, 0),
    "pixels that are not there": claimed(5000, 5000),
    "another format inside": b"\x89PNG\r\n\x1a\n%PDF-1.7",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    **{f"cut {kind} {share}": cut_of(kind, share) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
       for share in (0.1, 0.5)},
}  # fmt: skip
NAMES = [
    "../secret", "../../etc/passwd", "/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/self/maps",
    "/proc/kcore", "/dev/zero", "/dev/random", "/dev/stdin", "/dev/tty", "/dev/full", "link.png", "chain.png",
    "folder/../../secret", "up/secret", "fifo.png", "socket.png", "folder", ".", "..", "", "ring.png", "a\0b.png",
    "x" * 5000, "\u202egnp.exe", "file:///etc/passwd", "http://127.0.0.1:1/a.png", "~/.ssh/id_rsa", "huge.png",
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with traps in it."""
    (tmp_path / "secret").write_text(SECRET)
    folder = tmp_path / "data"
    (folder / "folder").mkdir(parents=True)
    (folder / "link.png").symlink_to("../secret")
    (folder / "chain.png").symlink_to("link.png")
    (folder / "up").symlink_to("..")
    (folder / "ring.png").symlink_to("ring.png")
    os.mkfifo(folder / "fifo.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket.png"))
    with (folder / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    return folder


def row(image: object) -> dict[str, object]:
    return {"prompt": "Q", "chosen": "<think>a</think><answer>1</answer>", "rejected": "1", "images": [image]}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_a_name_in_a_row_leads_nowhere_else(place: Path, tmp_path: Path, name: str, tally: Callable) -> None:
    file = place / "p.jsonl"
    file.write_text(json.dumps(row(name)) + "\n")
    for verb, out in (
        (lambda: merge([file, file], tmp_path / "m"), tmp_path / "m"),
        (lambda: export(file, "llamafactory", tmp_path / "e"), tmp_path / "e"),
        (lambda: report(file, tmp_path / "r.html"), tmp_path / "r.html"),
        (lambda: show(file), tmp_path / "none"),
    ):
        begun = time.monotonic()
        with pytest.raises(UserError) as caught:
            verb()
        assert time.monotonic() - begun < BOUND
        assert SECRET not in str(caught.value) and "root:" not in str(caught.value)
        assert not out.exists()
    tally("names refused")


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_that_are_no_picture(tmp_path: Path, kind: str, tally: Callable) -> None:
    begun = time.monotonic()
    assert image_fault(BYTES[kind]) is not None
    assert time.monotonic() - begun < BOUND
    embedded = {
        "id": "1", "images": [{"bytes": BYTES[kind], "path": "a.png"}],
        **{side: [{"role": role, "content": text}] for side, role, text in
           (("prompt", "user", "Q"), ("chosen", "assistant", "a"), ("rejected", "assistant", "b"))},
    }  # fmt: skip
    write_shards([embedded], tmp_path / "d", "train")
    with pytest.raises(UserError, match="cannot be used"):
        refuse_private(open_dataset(tmp_path / "d"), {})
    with pytest.raises(UserError, match="can take none"):
        export(tmp_path / "d", "ms-swift", tmp_path / "out")
    page = report(tmp_path / "d", tmp_path / "r.html").read_text()
    assert "data:image/webp" not in page and SECRET not in page
    tally("bytes refused")
