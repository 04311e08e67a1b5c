"""Write the values as plain text, without keys, quotes and braces.

{"reasoning": "2 + 3 = 5.",          2 + 3 = 5.
 "answer": "5"}                ->    5
"""

from __future__ import annotations

import random

from specs_data.format import ResponseFormat


def unwrap_json(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Take keys, quotes and braces away; the values stand on lines of their own."""
    plain = "\n".join(value for _, value in fmt.members(text))
    # At an edge, a fence of the values' own would be taken for one around the object, which is no content.
    return None if not plain or plain.strip().startswith("```") or plain.strip().endswith("```") else plain
