"""Leave the object unclosed.

{"reasoning": "2 + 3 = 5.",          {"reasoning": "2 + 3 = 5.",
 "answer": "5"}                ->     "answer": "5"
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat, strip_stop_tokens


def unclose_json(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Forget the brace that closes the object."""
    text = strip_stop_tokens(text)
    return text[:-1].rstrip() if fmt.members(text) and text.endswith("}") else None
