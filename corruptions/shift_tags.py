"""Remove the answer tags and close the thought at the very end: all of it is thought.

<think>2 + 3 = 5.</think>          <think>2 + 3 = 5.
<answer>\\boxed{5}</answer>   ->    \\boxed{5}</think>
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat, strip_stop_tokens


def shift_tags(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Remove the answer tags and move the end of the thought to the end of the response."""
    if fmt.thought is None or not fmt.tagged(fmt.thought) or not fmt.tagged(fmt.answer):
        return None
    text = strip_stop_tokens(text)
    for marker in (fmt.answer.open, fmt.answer.close, fmt.thought.close):
        text = fmt.without(text, marker)
    return f"{text.rstrip()}{fmt.thought.close}"
