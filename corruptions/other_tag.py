"""Write another tag in the place of one marker, or of a part's two.

<think>2 + 3 = 5.</think>          <think>2 + 3 = 5.</reasoning>
<answer>\\boxed{5}</answer>   ->    <answer>\\boxed{5}</answer>
"""

from __future__ import annotations

import random

from specs_data.format import ANSWER_TAGS, THOUGHT_TAGS, ResponseFormat


def other_tag(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Write another tag, such as `</reasoning>`, in the place of one marker or of a part's two."""
    parts = [part for part in fmt.parts if fmt.tagged(part)]
    if not parts:
        return None
    part = rng.choice(parts)
    names = ANSWER_TAGS if part == fmt.answer else THOUGHT_TAGS
    name = rng.choice([name for name in names if f"<{name}>" not in fmt.markers])
    pairs = ((part.open, f"<{name}>"), (part.close, f"</{name}>"))
    for marker, tag in rng.choice((pairs[:1], pairs[1:], pairs)):
        text = text.replace(marker, tag)
    return text
