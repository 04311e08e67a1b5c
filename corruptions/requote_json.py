"""Write single quotes, as a Python dictionary has them.

{"reasoning": "2 + 3 = 5.",          {'reasoning': '2 + 3 = 5.',
 "answer": "5"}                ->     'answer': '5'}
"""

from __future__ import annotations

import json
import random

from specs_data.format import ResponseFormat


def requote_json(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Write single quotes for double ones, as a Python dictionary has them."""
    members = [f"{_quoted(key)}: {_quoted(value)}" for key, value in fmt.members(text)]
    return f"{{{', '.join(members)}}}" if members else None


def _quoted(text: str) -> str:
    body = json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"')
    return "'" + body.replace("'", "\\'") + "'"
