"""Move one tag away from its place.

<think>2 + 3 = 5.</think>          <think>2 + 3</think> = 5.
<answer>\\boxed{5}</answer>   ->    <answer>\\boxed{5}</answer>

<think>图中有3块，答案是3。</think>          <think>图中有3块，</think>答案是3。
<answer>\\boxed{3}</answer>          ->    <answer>\\boxed{3}</answer>
"""

from __future__ import annotations

import random
import re

from specs_data.format import ResponseFormat

# Where one word ends and the next begins. Chinese writes no blanks: there it is behind punctuation, and where
# a number, a Latin word or a formula follows; inside other Chinese a word might be cut.
_GAP = re.compile(r"\s+|[。，；：！？、](?!\s)|(?<=[\u4e00-\u9fff])(?=[0-9A-Za-z$]|\\[(\[A-Za-z])")


def move_tags(text: str, fmt: ResponseFormat, rng: random.Random) -> str | None:
    """Move one tag to another place between two words."""
    if not fmt.markers:
        return None
    marker = rng.choice(fmt.markers)
    rest = fmt.without(text, marker)
    places = [0, *(gap.end() for gap in _GAP.finditer(rest)), len(rest)]
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
