"""Move one tag away from its place.

<think>2 + 3 = 5.</think>          <think>2 + 3</think> = 5.
<answer>\\boxed{5}</answer>   ->    <answer>\\boxed{5}</answer>
"""

from __future__ import annotations

import random
import re

from specs_data.format import ResponseFormat


def shift_tags(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Move one tag to another place between two words."""
    if not fmt.markers:
        return None
    marker = rng.choice(fmt.markers)
    rest = fmt.without(text, marker)
    places = [0, *(gap.end() for gap in re.finditer(r"\s+", rest)), len(rest)]
    while places:
        # Drawn one by one: the first place mostly does, and a long text has thousands.
        drawn = rng.randrange(len(places))
        places[drawn], places[-1] = places[-1], places[drawn]
        place = places.pop()
        if rest.count("{", 0, place) != rest.count("}", 0, place):
            continue  # inside braces it would cut a \\boxed{} in two
        moved = f"{rest[:place]}{marker}{rest[place:]}"
        if fmt.check(moved) is not None and fmt.content(moved) == fmt.content(text):
            return moved
    return None
