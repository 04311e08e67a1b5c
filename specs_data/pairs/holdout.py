"""Which problems of a dataset are its test split: whole groups of problems that share a picture or, without one, a
question, so that none is in both splits. Something always stays to train on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from specs_data.records import Problem


def keys_of(problem: Problem) -> list[bytes]:
    """What makes a problem one of a group."""
    return [bytes.fromhex(image) for image in problem.images] or [_hash(problem.question)]


def held_out(problems: Iterable[tuple[int, Sequence[bytes], int]], share: float, seed: int) -> list[int]:
    """The positions of the problems of the test split, of these (position, keys, number of pairs)."""
    groups: dict[bytes, bytes] = {}

    def root(key: bytes) -> bytes:
        # Union-find with path halving: each look shortens the way to the group's least key, its name.
        while groups.setdefault(key, key) != key:
            groups[key] = key = groups[groups[key]]
        return key

    members: list[tuple[int, bytes]] = []
    for position, keys, pairs in problems:
        for key in keys[1:]:
            low, high = sorted((root(keys[0]), root(key)))
            groups[high] = low
        members += [(position, keys[0])] * pairs
    by_group: defaultdict[bytes, list[int]] = defaultdict(list)
    for position, key in members:
        by_group[root(key)].append(position)
    wanted = min(max(1, round(len(members) * share)), len(members) - 1)
    held: list[int] = []
    # By a seeded hash of the group's name: which groups are held out does not depend on what else is in the dataset.
    for key in sorted(by_group, key=lambda key: _hash(f"{seed}/{key.hex()}")):
        if len(held) + len(by_group[key]) <= wanted:
            held += by_group[key]
    return held


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
