"""Requests that an engine must refuse, between two that it must serve."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image

from specs_data.records import Request


def bad_among_good(ask: Callable[..., Request], picture: bytes) -> list[Request]:
    """The first and the last can be served; between them a text too long, too many images, and images that
    are none, cut short, and too thin."""
    thin = io.BytesIO()
    Image.new("RGB", (1, 900)).save(thin, "PNG")
    return [
        ask(0, picture),
        ask(1, text="very " * 2000),
        ask(2, picture, picture, picture),
        ask(3, b"no image"),
        ask(4, picture[: len(picture) // 2]),
        ask(5, thin.getvalue()),
        ask(6, picture),
    ]
