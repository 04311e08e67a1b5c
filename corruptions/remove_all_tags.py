"""Remove every tag.

<think>2 + 3 = 5.</think>          2 + 3 = 5.
<answer>\\boxed{5}</answer>   ->    \\boxed{5}
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


def remove_all_tags(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Remove every tag; thought and answer run on as plain text."""
    for marker in fmt.markers:
        text = fmt.without(text, marker)
    return text if fmt.markers else None
