"""Replace the answer tags by a plain-text label.

<think>2 + 3 = 5.</think>          <think>2 + 3 = 5.</think>
<answer>\\boxed{5}</answer>   ->    Answer: \\boxed{5}
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


def replace_answer_tags(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Replace the answer tags by a plain-text label such as `Answer:`."""
    if not fmt.tagged(fmt.answer) or not fmt.labels:
        return None
    before, found, after = text.partition(fmt.answer.open)
    if not found:
        return None
    gap = "\n" if before[-1:].strip() else ""
    return fmt.without(f"{before}{gap}{rng.choice(fmt.labels)} {after.lstrip()}", fmt.answer.close)
