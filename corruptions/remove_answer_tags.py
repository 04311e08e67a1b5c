"""Remove the answer tags only.

<think>2 + 3 = 5.</think>          <think>2 + 3 = 5.</think>
<answer>\\boxed{5}</answer>   ->    \\boxed{5}
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


def remove_answer_tags(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Remove the answer tags; the thought keeps its own."""
    if not fmt.tagged(fmt.answer):
        return None
    return fmt.without(fmt.without(text, fmt.answer.open), fmt.answer.close)
