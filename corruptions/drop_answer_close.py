"""Leave the answer unclosed.

<think>2 + 3 = 5.</think>          <think>2 + 3 = 5.</think>
<answer>\\boxed{5}</answer>   ->    <answer>\\boxed{5}
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


def drop_answer_close(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Remove the marker that closes the answer, and no other."""
    if fmt.answer.close not in fmt.markers:
        return None
    return fmt.without(text, fmt.answer.close) if fmt.answer.close in text else None
