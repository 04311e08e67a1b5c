"""Remove the think tags only.

<think>2 + 3 = 5.</think>          2 + 3 = 5.
<answer>\\boxed{5}</answer>   ->    <answer>\\boxed{5}</answer>
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


def remove_think_tags(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Remove the think tags; the answer keeps its own."""
    if fmt.thought is None or not fmt.tagged(fmt.thought):
        return None
    return fmt.without(fmt.without(text, fmt.thought.open), fmt.thought.close)
