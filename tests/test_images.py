"""What is seen is what is trained on: one picture for policy, verifier and trainer, whatever the file."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from fakes.openai_server import OpenAIServer
from fakes.sums import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from specs_data.engines import ModelOptions
from specs_data.engines.images import open_image
from specs_data.engines.openai import OpenAIEngine
from specs_data.images import Unusable, image_fault, media_type, settle
from specs_data.pairs.parquet import write_pairs
from specs_data.problems import Incoming, read_problems
from specs_data.records import Message, Pair, Picture, Request, Sampling
from specs_data.services import Form, ask_about
from specs_data.services.gemini import GeminiClient
from specs_data.services.openai import OpenAIClient

CASES = Path(__file__).parent / "cases" / "pictures"
WIDTH, HEIGHT = 40, 24
LOSSLESS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}  # nearly
Pixels = Any  # height x width x 3, of 0 to 255


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def drawn(mode: str = "RGB") -> Image.Image:
    image = Image.linear_gradient("L").resize((WIDTH, HEIGHT)).convert("RGB")
    ImageDraw.Draw(image).rectangle((3, 2, 12, 9), fill=(200, 30, 60))
    return image.convert(mode)


def clear(mode: str = "RGBA", level: int | None = None) -> Image.Image:
    """A black line on nothing."""
    image = Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0))
    ImageDraw.Draw(image).line((0, 0, WIDTH, HEIGHT), fill=(0, 0, 0, 255), width=3)
    if level is not None:
        image.putalpha(level)
    return image.convert(mode)


def clear_palette() -> Image.Image:
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([0, 0, 0, 10, 20, 30])
    ImageDraw.Draw(image).line((0, 0, WIDTH, HEIGHT), fill=1, width=3)
    return image


def on_white(image: Image.Image) -> Pixels:
    """By hand: the colours as far as they cover, white elsewhere."""
    layer = np.asarray(image.convert("RGBA")).astype(float)
    cover = layer[..., 3:] / 255
    return layer[..., :3] * cover + 255 * (1 - cover)


def steps(most: int) -> Any:
    return np.linspace(0, most, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)


def deep_grey() -> Image.Image:
    return Image.fromarray(steps(65535).astype(np.uint16))


def png(depth: int, interlaced: bool, lines: bytes) -> bytes:
    """A PNG in colour, as Pillow does not write it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, 2, 0, 0, interlaced)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_rgb() -> bytes:
    values = np.repeat(steps(65535).astype(">u2")[..., None], 3, axis=2)
    return png(16, False, b"".join(b"\0" + line.tobytes() for line in values))


def interlaced() -> bytes:
    """Adam7: seven passes, each every so many columns and rows from a start on."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    whole = np.asarray(drawn())
    rows = [row for x, y, right, down in passes for row in whole[y::down, x::right]]
    return png(8, True, b"".join(b"\0" + row.tobytes() for row in rows))


def grey_of(values: Any) -> Pixels:
    return np.repeat(np.asarray(values)[..., None], 3, axis=2)


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(drawn(), kind, exif=exif, **LOSSLESS.get(kind, {}))


def upright(orientation: int) -> Pixels:
    """What EXIF's table says: where the first row and the first column belong."""
    pixels = np.asarray(drawn()).astype(float)
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        2: np.fliplr, 3: lambda of: of[::-1, ::-1], 4: np.flipud, 5: lambda of: of.swapaxes(0, 1),
        6: lambda of: np.rot90(of, -1), 7: lambda of: of[::-1, ::-1].swapaxes(0, 1), 8: np.rot90,
    }  # fmt: skip
    return turns[orientation](pixels)


def rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB")).astype(float)


BOX = int(np.asarray(drawn("L"))[5, 5])
# A file, what should be seen in it, and how far a pixel may be off (JPEG, rounding).
FILES: dict[str, tuple[bytes, Pixels, float]] = {
    "PNG RGBA": (saved(clear(), "PNG"), on_white(clear()), 1),
    "PNG RGBA, half clear": (saved(clear(level=100), "PNG"), on_white(clear(level=100)), 1),
    "PNG LA": (saved(clear("LA"), "PNG"), on_white(clear("LA")), 1),
    "PNG P with tRNS": (saved(clear_palette(), "PNG", transparency=0),
                        np.where(rgb(clear_palette()) == 0, 255, rgb(clear_palette())), 0),
    "PNG L with tRNS": (saved(drawn("L"), "PNG", transparency=BOX),
                        np.where(rgb(drawn("L")) == BOX, 255, rgb(drawn("L"))),
                        0),
    "PNG RGB with tRNS": (saved(Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
                          np.full((HEIGHT, WIDTH, 3), 255.0), 0),
    "PNG of 16 bits": (saved(deep_grey(), "PNG"), grey_of(steps(255)), 1),
    "PNG of 16 bits with tRNS": (saved(deep_grey(), "PNG", transparency=0),
                                 np.where(grey_of(steps(65535)) < 1, 255, grey_of(steps(255))), 1),
    "PNG of 16 bits in colour": (deep_rgb(), grey_of(steps(255)), 1),
    "animated PNG": (saved(drawn(), "PNG", save_all=True, append_images=[clear("RGB")]), rgb(drawn()), 0),
    "PNG turned": (turned(6, "PNG"), upright(6), 0),
    "GIF": (saved(drawn("P"), "GIF"), rgb(drawn("P")), 0),
    "GIF, clear": (saved(clear_palette(), "GIF", transparency=0),
                   np.where(rgb(clear_palette()) == 0, 255, rgb(clear_palette())), 0),
    "animated GIF": (saved(drawn("P"), "GIF", save_all=True, append_images=[clear("RGB").convert("P")]),
                     rgb(drawn("P")), 0),
    "WebP RGBA": (saved(clear(), "WEBP", lossless=True), on_white(clear()), 1),
    "animated WebP": (saved(drawn(), "WEBP", lossless=True, save_all=True, append_images=[clear("RGB")]),
                      rgb(drawn()), 0),
    "WebP turned": (turned(8, "WEBP"), upright(8), 0),
    "BMP": (saved(drawn(), "BMP"), rgb(drawn()), 0),
    "BMP of two colours": (saved(drawn("1"), "BMP"), rgb(drawn("1")), 0),
    "TIFF": (saved(drawn(), "TIFF"), rgb(drawn()), 0),
    "TIFF of 16 bits": (saved(deep_grey(), "TIFF"), grey_of(steps(255)), 1),
    "TIFF of 32 bits": (saved(Image.fromarray(steps(70_000).astype(np.int32)), "TIFF"), grey_of(steps(255)), 1),
    "TIFF of fractions": (saved(Image.fromarray(steps(1).astype(np.float32)), "TIFF"), grey_of(steps(255)), 1),
    "TIFF RGBA": (saved(clear(), "TIFF"), on_white(clear()), 1),
    "TIFF CMYK": (saved(drawn("CMYK"), "TIFF"), rgb(drawn("CMYK")), 0),
    "JPEG CMYK": (saved(drawn("CMYK"), "JPEG", **LOSSLESS["JPEG"]), rgb(drawn("CMYK")), 20),
    **{f"JPEG turned, {number}": (turned(number), upright(number), 20) for number in range(2, 9)},
}  # fmt: skip
# Files in which everybody sees the same already.
PLAIN = {
    "PNG": saved(drawn(), "PNG"),
    "PNG L": saved(drawn("L"), "PNG"),
    "PNG 1": saved(drawn("1"), "PNG"),
    "PNG P": saved(drawn("P"), "PNG"),
    "PNG, interlaced": interlaced(),
    "PNG RGBA, opaque": saved(drawn("RGBA"), "PNG"),
    "PNG LA, opaque": saved(drawn("LA"), "PNG"),
    "JPEG": saved(drawn(), "JPEG"),
    "JPEG L": saved(drawn("L"), "JPEG"),
    "JPEG, progressive": saved(drawn(), "JPEG", progressive=True),
    "JPEG of several pictures": saved(drawn(), "MPO", save_all=True, append_images=[drawn()]),
    "JPEG, upright": turned(1),
    "WebP": saved(drawn(), "WEBP"),
    "WebP, lossless": saved(drawn(), "WEBP", lossless=True),
}


class Anything(Form):
    """A form without questions."""


def pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return rgb(image)


def of_url(url: str) -> bytes:
    head, _, data = url.partition(";base64,")
    content = base64.b64decode(data)
    assert head == f"data:{media_type(content)}"
    return content


async def sent(images: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> dict[str, list[bytes]]:
    """The image files that reach servers: from the policy's engine, and from both services."""
    monkeypatch.setenv("GOOGLE_API_KEY", "key")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    found = {}
    question = ask_about("Say.", {"QUESTION": "What?"}, images, Anything)
    async with OpenAIServer(lambda body: "{}") as server:
        engine = OpenAIEngine("tiny", Sampling(), ModelOptions(base_url=(server.url,)))
        client = OpenAIClient("tiny", server.url)
        await engine.generate(Request((Message("user", "What?"),), images, 1))
        await client.ask(question)
        for name, body in zip(("policy", "openai"), server.bodies, strict=True):
            parts = body["messages"][-1]["content"]
            found[name] = [of_url(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
        await engine.close()
        await client.close()
    parts = GeminiClient().request(question)["contents"][0]["parts"]
    data = [part["inlineData"] for part in parts if "inlineData" in part]
    found["gemini"] = [base64.b64decode(one["data"]) for one in data]
    assert {one["mimeType"] for one in data} <= {"image/png", "image/jpeg", "image/webp"}
    return found


def problems(folder: Path, files: dict[str, bytes]) -> list[Incoming]:
    """The files as problems, as a build reads them."""
    rows = []
    for number, (name, data) in enumerate(files.items()):
        (folder / f"{number}.bin").write_bytes(data)
        rows.append({"id": name, "question": "What?", "answer": "5", "images": [f"{number}.bin"]})
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(read_problems(str(folder / "p.jsonl")))
    assert all(isinstance(item, Incoming) for item in found), found
    return [item for item in found if isinstance(item, Incoming)]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Each file as the door lets it in."""
    files = {name: data for name, (data, _, _) in FILES.items()} | PLAIN
    found = problems(tmp_path_factory.mktemp("in"), files)
    return {item.problem.id: item.images[0] for item in found}


@pytest.mark.parametrize("name", FILES)
def test_every_file_shows_what_it_should(read: dict[str, bytes], name: str) -> None:
    data, wanted, off = FILES[name]
    assert pixels(read[name]).shape == wanted.shape
    assert np.abs(pixels(read[name]) - wanted).max() <= off
    with Image.open(io.BytesIO(read[name])) as image:
        assert (image.mode, image.format) == ("RGB", "JPEG" if name.startswith("JPEG") else "PNG")
        assert not image.getexif() and "icc_profile" not in image.info
    assert read[name] != data and settle(read[name]) == read[name] and settle(data) == read[name]
    if not name.startswith("JPEG"):  # an engine that is given the file itself sees no other picture
        assert np.array_equal(rgb(open_image(data)), pixels(read[name]))


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_file_stays_as_it_is(read: dict[str, bytes], name: str) -> None:
    assert read[name] == PLAIN[name]
    assert hashlib.sha256(read[name]).hexdigest() == hashlib.sha256(PLAIN[name]).hexdigest()


async def test_everybody_sees_the_same(read: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines that open images, the one that sends them, both services, and what datasets gives TRL."""
    names, images = list(read), tuple(read.values())
    wanted = [rgb(open_image(image)) for image in images]
    for files in (await sent(images, monkeypatch)).values():
        assert [np.array_equal(pixels(file), seen) for file, seen in zip(files, wanted, strict=True)] == [True] * len(
            names
        )
    pairs = [
        Pair(name, (Picture(image, "a.png"),), (Message("user", "What?"),), "good", "bad")
        for name, image in zip(names, images, strict=True)
    ]
    write_pairs(pairs, tmp_path, "train")
    loaded = load_dataset(str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["id"] == names
    for row, seen in zip(loaded, wanted, strict=True):
        assert np.array_equal(rgb(row["images"][0]), seen), row["id"]
        assert np.array_equal(processed(row["images"][0]), seen), row["id"]


@pytest.mark.parametrize("name", ["GIF", "GIF, clear", "BMP", "TIFF"])
async def test_services_are_sent_what_they_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by who did not read the problem here."""
    data, wanted, _ = FILES[name]
    for (file,) in (await sent((settle(data),), monkeypatch)).values():
        assert media_type(file) == "image/png"
    assert [media_type(file) for file in ask_about("Say.", {}, (data,), Anything).images] == ["image/png"]
    assert np.abs(pixels(ask_about("Say.", {}, (data,), Anything).images[0]) - wanted).max() <= 1


def processed(image: Image.Image) -> Pixels:
    """The pixels that transformers' processors take from an image that datasets has decoded."""
    from transformers.image_transforms import convert_to_rgb

    return np.asarray(convert_to_rgb(image, return_numpy=True)).astype(float)


def test_the_lines_in_the_transparent_cases_are_seen() -> None:
    for row in (json.loads(line) for line in (CASES / "problems.jsonl").read_text().splitlines()):
        if row["id"].startswith("transparent"):
            seen = pixels(settle((CASES / row["images"][0]).read_bytes()))
            assert seen.min() < 60 and np.median(seen) > 200


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_damage_does_more_than_a_fault(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([case[0] for case in FILES.values()] + [picture(1)]))
    place = data.draw(st.integers(0, len(whole)))
    damaged = whole[:place] + data.draw(st.binary(max_size=8)) + whole[place + data.draw(st.integers(0, 8)) :]
    try:
        assert settle(settle(damaged)) == settle(damaged) and image_fault(damaged) is None
    except Unusable as fault:
        assert image_fault(damaged) == str(fault)


def a_photo(**options: Any) -> bytes:
    """A JPEG with something in each of its blocks."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return saved(Image.fromarray(noise), "JPEG", **options)


PHOTOS = [a_photo(), a_photo(subsampling=0, quality=95), a_photo(progressive=True), a_photo(restart_marker_blocks=2)]


@settings(max_examples=300, deadline=None)
@given(
    photo=st.sampled_from(PHOTOS),
    places=st.lists(st.tuples(st.floats(0, 0.999), st.sampled_from([0, 1, 0xC2, 0xD9, 0xDA, 0xFF])), max_size=4),
    end=st.floats(0.1, 1),
    closed=st.booleans(),
)
def test_a_jpeg_that_is_taken_can_be_decoded(
    photo: bytes, places: list[tuple[float, int]], end: float, closed: bool
) -> None:
    """Whatever is broken about it: bytes, its end, or only what comes before its end."""
    broken = bytearray(photo[: round(end * len(photo))])
    for place, value in places:
        broken[int(place * len(broken))] = value
    data = bytes(broken) + (b"\xff\xd9" if closed else b"")
    if image_fault(data) is None:
        with Image.open(io.BytesIO(settle(data))) as image:
            image.load()


@pytest.mark.parametrize("photo", PHOTOS)
def test_a_jpeg_that_is_cut_off_is_broken(photo: bytes) -> None:
    assert image_fault(photo) is None and settle(photo) == photo
    assert image_fault(photo[: len(photo) // 2]) == "broken: OSError"
    assert image_fault(photo[:-2]) in (None, "broken: OSError")
