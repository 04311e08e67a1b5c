"""Why an engine refuses a request: the named reasons, by which refusals are counted."""

from __future__ import annotations

from specs_data.errors import PromptRefused

TOO_LONG = "prompt too long"
TOO_MANY_IMAGES = "too many images"
BROKEN_IMAGE = "an image cannot be read"
BLOCKED = "blocked"
NO_IMAGES = "the policy takes no images"
OTHER = "the engine cannot serve it"
# Those that may be otherwise with another setting, of the recipe or of a server: no prompt's own fault.
OF_A_SETTING = (TOO_LONG, TOO_MANY_IMAGES, NO_IMAGES, OTHER)

# Words by which vLLM, SGLang and hosted services tell what they refuse.
_TELL = (
    (TOO_LONG, ("context length", "context window", "too long", "maximum input length", "longer than the maximum")),
    (NO_IMAGES, ("not a multimodal model", "does not support image")),
    (TOO_MANY_IMAGES, ("at most", "too many images")),
    (BROKEN_IMAGE, ("cannot identify image", "image file is truncated", "failed to load image", "aspect ratio")),
)


def refusal(words: str) -> PromptRefused:
    """The refusal that a service's own `words` mean."""
    lower = words.lower()
    for reason, tell in _TELL:
        if any(each in lower for each in tell):
            return PromptRefused(reason, words)
    return PromptRefused(OTHER, words)


def check_images(count: int, limit: int | None) -> None:
    """Raise PromptRefused if there are more than `limit` images."""
    if limit is not None and count > limit:
        raise PromptRefused(TOO_MANY_IMAGES, f"{count}, and the limit is {limit}")
