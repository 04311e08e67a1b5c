"""Leave the thought unclosed.

<think>2 + 3 = 5.</think>          <think>2 + 3 = 5.
<answer>\\boxed{5}</answer>   ->    <answer>\\boxed{5}</answer>
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


def drop_think_close(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Remove the marker that closes the thought, and no other."""
    if fmt.thought is None or fmt.thought.close not in fmt.markers:
        return None
    return fmt.without(text, fmt.thought.close) if fmt.thought.close in text else None
