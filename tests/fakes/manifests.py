"""Files called manifest.json that are somebody else's."""

from __future__ import annotations

from typing import Any

FOREIGN: list[Any] = [
    {"dataset": "my-set", "recipe": "v2"},
    ["a", "list"],
    {"recipe": {"corruption": 5}},
    {"recipe": {"corruption": ["shift_tags"]}},
    {"recipe": {"format": 5}},
    {"recipe": {"verifier": ["rules"]}},
]
