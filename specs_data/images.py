"""Image files as bytes: what kind they are, whether they are whole, and what everybody sees in them. They are hostile
until checked."""

from __future__ import annotations

import io
import re
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from typing import cast

from PIL import Image, ImageOps

MAX_BYTES = 50_000_000
MAX_PIXELS = 89_000_000  # Pillow, and so every loader, warns of more

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
}
# What every reader opens, in the modes that every reader makes the same pixels of.
_READ_BY_ALL = {"image/png", "image/jpeg", "image/webp"}
_PLAIN_MODES = {"RGB", "L", "1", "P", "RGBA", "LA"}
_ORIENTATION, _TURNED = 0x0112, range(2, 9)
_PNG_DEPTH = 24  # the byte of a PNG that says how many bits a sample has
_WHITE_16 = (1 << 16) - 1
# Of a JPEG: the byte before a marker's own, the markers of a frame (those in plain order, and tables that lie among
# them), of a scan, and of the end. In a scan the first is followed by 0, or by the marker of a restart.
_MARKER, _JPEG_SCAN, _JPEG_END = 0xFF, 0xDA, b"\xff\xd9"
_JPEG_FRAMES, _JPEG_PLAIN = range(0xC0, 0xD0), {0xC0, 0xC1, 0xC4}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_recent: deque[tuple[bytes, bytes | str]] = deque(maxlen=8)  # files, and what `settle` made of them


class Unusable(Exception):
    """Why an image file cannot be used."""


def media_type(data: bytes) -> str | None:
    """The media type of an image file, by its first bytes; None for an unknown one."""
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def suffix(data: bytes) -> str:
    """The suffix of a file with these bytes, without its dot; "bin" for an unknown kind."""
    return (media_type(data) or "image/bin").removeprefix("image/").replace("jpeg", "jpg")


def settle(data: bytes) -> bytes:
    """The image file in which everybody sees the same: policy, verifier and trainer.

    A PNG, JPEG or WebP file of one frame in 8 bits, that is opaque and not to be turned, is so already and stays as
    it is. Of any other the first frame is written anew, in RGB: turned as its EXIF orientation says, transparency on
    white, as transformers' processors have it, and 16 bits scaled to 8; a JPEG stays one, the rest become PNG. A file
    that was settled stays as it is. Raises Unusable.
    """
    settled = _settled(data)
    if isinstance(settled, str):
        raise Unusable(settled)
    return settled


def image_fault(data: bytes) -> str | None:
    """Why an image file cannot be used, None if it can. It is decoded once, so that none that would
    break a loader goes further."""
    settled = _settled(data)
    return settled if isinstance(settled, str) else None


def to_rgb(image: Image.Image) -> Image.Image:
    """The first frame of an opened image as everybody should see it; see `settle`."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _settled(data: bytes) -> bytes | str:
    """The settled file, or why there is none. Neighbouring questions often share a picture, so the last results are
    remembered, with their bytes: pictures that differ do so near their beginning, and to hash one takes longer."""
    for seen, settled in tuple(_recent):
        if seen == data:
            return settled
    settled = _settle(data)
    _recent.append((data, settled))
    return settled


def _settle(data: bytes) -> bytes | str:
    if len(data) > MAX_BYTES:
        return f"too large: {len(data)} bytes"
    kind = media_type(data)
    if kind is None:
        return "not an image"
    if kind == "image/jpeg" and _is_plain_before_scan(data):
        return data
    try:
        with _opened(data, kind) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return f"too large: {width} x {height} pixels"
            return data if _is_plain(image, kind, data) else _written(to_rgb(image), kind)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"too large: a picture in {len(data)} bytes"
    except Exception as error:  # Pillow's decoders raise many kinds on hostile bytes
        return f"broken: {type(error).__name__}"


@contextmanager
def _opened(data: bytes, kind: str) -> Iterator[Image.Image]:
    with (
        warnings.catch_warnings(action="ignore"),  # a file's blemishes are no concern of the user's terminal
        Image.open(io.BytesIO(data), formats=[kind.removeprefix("image/")]) as image,
    ):
        yield image


def _is_plain_before_scan(data: bytes) -> bool:
    """Whether this is plainly a JPEG in which everybody sees the same. Most of the time that one takes goes into its
    scan, about which decoders do not complain as long as it ends where it should: it is looked at without it."""
    if not (head := _before_scan(data)):
        return False
    with suppress(Exception), _opened(head + _JPEG_END, "image/jpeg") as image:
        return image.width * image.height <= MAX_PIXELS and _is_plain(image, "image/jpeg", data)
    return False


def _is_plain(image: Image.Image, kind: str, data: bytes) -> bool:
    """Whether everybody sees the same in this file. What is not ruled out by its head is decoded."""
    if kind not in _READ_BY_ALL or image.mode not in _PLAIN_MODES:
        return False
    if kind == "image/png" and data[_PNG_DEPTH] > 8:
        return False
    # The second frame of a JPEG is a camera's preview, which nobody shows.
    if kind != "image/jpeg" and getattr(image, "is_animated", False):
        return False
    if image.getexif().get(_ORIENTATION) in _TURNED:
        return False
    image.draft("L", (image.width // 8, image.height // 8))  # a JPEG is decoded at an eighth of its size
    image.load()
    return not image.has_transparency_data or image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def _before_scan(data: bytes) -> bytes:
    """The part of a JPEG file before its scan; nothing where it has not exactly one in plain order, or where that does
    not run to the end of the image."""
    at = len(b"\xff\xd8")
    while at + 4 <= len(data) and data[at] == _MARKER:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if _JPEG_FRAMES.start <= marker < _JPEG_FRAMES.stop and marker not in _JPEG_PLAIN:
            return b""
        at += 2 + size
        if marker == _JPEG_SCAN:
            end = _NEXT_MARKER.search(data, at)
            return data[:at] if end is not None and end[0] == _JPEG_END else b""
    return b""


def _written(image: Image.Image, kind: str) -> bytes:
    image.info = {}  # a profile or a note of the old file would say something else to some readers
    file = io.BytesIO()
    if kind == "image/jpeg":
        image.save(file, "JPEG", quality=95, subsampling=0)
    else:
        image.save(file, "PNG")
    return file.getvalue()


def _grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits in 8. 16 bits have a white; of whole numbers and fractions without one, the lowest is
    black and the highest is white."""
    values = image.convert("I") if image.mode.startswith("I;") else image
    ends = (0, _WHITE_16) if image.mode.startswith("I;16") else values.getextrema()
    low, high = cast(tuple[float, float], ends)
    if not isfinite(high - low):
        raise ValueError("no numbers")
    step = 255 / ((high - low) or 1)
    grey = values.point(lambda value: value * step + (0.5 - low * step)).convert("L")
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # the one value of a PNG that is transparent
        import numpy as np

        grey.paste(255, mask=Image.fromarray(np.asarray(values) == clear))
    return grey
