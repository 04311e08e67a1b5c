"""Write lines that begin with a key, without quotes and braces.

{"reasoning": "2 + 3 = 5.",          reasoning: 2 + 3 = 5.
 "answer": "5"}                ->    answer: 5
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


def label_json(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Take quotes and braces away; each key is a label before its value."""
    return "\n".join(f"{key}: {value}" for key, value in fmt.members(text)) or None
