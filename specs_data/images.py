"""Image files as bytes: what kind they are, and whether they are whole. They are hostile until checked."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image

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


def media_type(data: bytes) -> str | None:
    """The media type of an image file, by its first bytes; None for an unknown one."""
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


# Neighbouring questions often share a picture, so the last results are remembered, with their bytes.
@lru_cache(maxsize=8)
def image_fault(data: bytes) -> str | None:
    """Why an image file cannot be used, None if it can. It is decoded once, so that none that would
    break a loader goes further."""
    if len(data) > MAX_BYTES:
        return f"too large: {len(data)} bytes"
    kind = media_type(data)
    if kind is None:
        return "not an image"
    try:
        with Image.open(io.BytesIO(data), formats=[kind.removeprefix("image/")]) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return f"too large: {width} x {height} pixels"
            # A JPEG is decoded at an eighth of its size: enough to see that it is whole.
            image.draft("L", (width // 8, height // 8))
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"too large: a picture in {len(data)} bytes"
    except Exception as error:  # Pillow's decoders raise many kinds on hostile bytes
        return f"broken: {type(error).__name__}"
    return None
