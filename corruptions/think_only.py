"""Give the answer inside the thought, after a label: there is no answer part.

<think>2 + 3 = 5.</think>          <think>2 + 3 = 5.
<answer>\\boxed{5}</answer>   ->    Answer: \\boxed{5}</think>
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat, strip_stop_tokens


def think_only(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """State the answer in the thought, after a label such as `Answer:`, and give no answer part."""
    if fmt.thought is None or not fmt.tagged(fmt.thought) or not fmt.tagged(fmt.answer) or not fmt.labels:
        return None
    text = fmt.without(strip_stop_tokens(text), fmt.thought.close)
    before, found, after = text.partition(fmt.answer.open)
    if not found:
        return None
    after = fmt.without(after, fmt.answer.close).strip()
    return f"{before.rstrip()}\n{rng.choice(fmt.labels)} {after}{fmt.thought.close}"
