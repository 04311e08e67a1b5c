"""Image files as the policy sees them: the same for every engine that opens them itself."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from specs_data.engines.refusals import BROKEN_IMAGE
from specs_data.errors import PromptRefused
from specs_data.images import to_rgb


def open_image(data: bytes) -> Image.Image:
    """The image as RGB, as `images.settle` has it. Raises PromptRefused where it is broken or absurdly large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file's blemishes are no concern of the user's terminal
            return to_rgb(Image.open(io.BytesIO(data)))
    except Exception as error:  # decoders of broken files raise whatever they like
        raise PromptRefused(BROKEN_IMAGE, _detail(error)) from None


def _detail(error: Exception) -> str:
    # Pillow's message names the address of the buffer, which says nothing and is never the same.
    return "not an image file" if isinstance(error, UnidentifiedImageError) else str(error)
