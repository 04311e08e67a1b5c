"""Leave the answer unclosed, as a model that stops too early does.

<answer>\\boxed{5}</answer>   ->    <answer>\\boxed{5}
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


class DropClosingTag:
    """Leave the answer unclosed."""

    def __call__(self, text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
        return fmt.without(text, fmt.answer.close) if fmt.tagged(fmt.answer) else None
