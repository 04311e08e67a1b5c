"""Write one marker twice.

<think>2 + 3 = 5.</think>          <think>2 + 3 = 5.</think>
<answer>\\boxed{5}</answer>   ->    </think>
                                   <answer>\\boxed{5}</answer>
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


def repeat_marker(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Write one marker twice, on lines of their own."""
    present = [marker for marker in fmt.markers if marker in text]
    if not present:
        return None
    marker = rng.choice(present)
    return text.replace(marker, f"{marker}\n{marker}", 1)
