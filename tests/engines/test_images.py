"""Image files as engines see them."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from specs_data.engines.images import open_image
from specs_data.engines.refusals import check_images, refusal
from specs_data.errors import PromptRefused


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    opened = open_image(encoded(Image.new(mode, (3, 2)), "TIFF"))
    assert (opened.mode, opened.size) == ("RGB", (3, 2))


def test_a_photo_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    assert open_image(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).size == (20, 40)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x89PNG\r\n\x1a\n" + tail))
def test_no_bytes_do_more_harm_than_a_refusal(data: bytes) -> None:
    try:
        assert open_image(data).mode == "RGB"
    except PromptRefused as refused:
        assert str(refused).startswith("an image cannot be read: ")
        assert "0x" not in str(refused)


WHOLE = encoded(Image.frombytes("RGB", (32, 32), random.Random(0).randbytes(32 * 32 * 3)), "PNG")


@settings(deadline=None)
@given(st.integers(0, len(WHOLE) // 2))
def test_a_cut_file_is_refused(length: int) -> None:
    with pytest.raises(PromptRefused, match="an image cannot be read"):
        open_image(WHOLE[:length])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("This model's maximum context length is 512 tokens.", "prompt too long"),
        ("At most 2 image(s) may be provided in one prompt.", "too many images"),
        ("cannot identify image file <_io.BytesIO object>", "an image cannot be read"),
        ("tiny is not a multimodal model", "the policy takes no images"),
        ("something else: with a colon", "the engine cannot serve it"),
    ],
)
def test_a_refusal_starts_with_a_named_reason(words: str, reason: str) -> None:
    assert str(refusal(words)) == f"{reason}: {words}"


def test_the_limit_itself_is_allowed() -> None:
    check_images(2, 2)
    check_images(99, None)
    with pytest.raises(PromptRefused, match="^too many images: 3, and the limit is 2$"):
        check_images(3, 2)
