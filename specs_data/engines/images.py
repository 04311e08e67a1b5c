"""Image files as the policy sees them: the same for every engine that opens them itself."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from specs_data.engines.refusals import BROKEN_IMAGE
from specs_data.errors import PromptRefused


def open_image(data: bytes) -> Image.Image:
    """The image as RGB, turned as its EXIF orientation says (as `datasets` does for training).
    Raises PromptRefused where it is broken or absurdly large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file's blemishes are no concern of the user's terminal
            return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    except Exception as error:  # decoders of broken files raise whatever they like
        raise PromptRefused(BROKEN_IMAGE, _detail(error)) from None


def _detail(error: Exception) -> str:
    # Pillow's message names the address of the buffer, which says nothing and is never the same.
    return "not an image file" if isinstance(error, UnidentifiedImageError) else str(error)
