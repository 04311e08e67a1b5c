"""Put the object in a code fence.

{"reasoning": "2 + 3 = 5.",          ```json
 "answer": "5"}                ->    {"reasoning": "2 + 3 = 5.",
                                      "answer": "5"}
                                     ```
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat, strip_stop_tokens


def fence_json(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Put the object in a code fence, as in Markdown."""
    return f"```json\n{strip_stop_tokens(text)}\n```" if fmt.members(text) else None
