"""In which order problems are asked about: that of their sources, or a seeded sample of them.

A target is reached before a source ends. Of a source that is sorted, by subject or by where its problems come from, its
beginning is no sample; of one that is shuffled every beginning is. What is shuffled are numbers: rows are read as they
are wanted, some at a time.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence

from msgspec import Struct

# Rows that are read together, and the bytes that these are to have about: in another order than the file's, each look
# into a Parquet file reads all groups of rows that have some of them.
_MOST_TOGETHER = 1024
_LEAST_TOGETHER = 64
_BYTES_TOGETHER = 64_000_000


class Order(Struct, frozen=True):
    """How problems are put in order. `shuffle`: at random, as the `seed` has it. `balance`: one of each source in turn.
    `shard` is (I, N): of the order of all those problems alone that are the I-th of N machines'."""

    shuffle: bool = False
    balance: bool = False
    seed: int = 0
    shard: tuple[int, int] | None = None

    @property
    def moves(self) -> bool:
        """Whether it is another order than that of the sources."""
        return self.shuffle or self.balance

    def has(self, name: str) -> bool:
        """Whether the problem of this id belongs to the shard."""
        if self.shard is None:
            return True
        number, of = self.shard
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % of == number - 1


class Index:
    """The rows that there are, by source and number: what an order is made of. Some twenty bytes of each are kept."""

    def __init__(self) -> None:
        self.sources = array("H")
        self.numbers = array("I")  # in their source
        self.rows = array("I")  # of those of their source that count
        self._groups = array("I")
        self._names: dict[tuple[int, str], int] = {}

    def add(self, source: int, number: int, row: int, group: str) -> None:
        """A row of this source more; `group` is the name of what it came from, empty where it does not say."""
        self.sources.append(source)
        self.numbers.append(number)
        self.rows.append(row)
        # What names no group of its own is one with its source.
        self._groups.append(self._names.setdefault((-1 if group else source, group), len(self._names)))

    def ordered(self, order: Order, limit: int | None) -> Sequence[int]:
        """The places of the rows in the index, in this order: the first `limit` of it."""
        import numpy as np

        keys = np.array(array("Q", self._keys(order.seed)) if order.shuffle else range(len(self.rows)), dtype=np.uint64)
        found = np.argsort(keys, kind="stable")
        if order.balance and len(found):
            groups = np.array(self._groups)[found]
            by_group = np.argsort(groups, kind="stable")
            starts = np.searchsorted(groups[by_group], groups[by_group], "left")
            turns = np.empty(len(found), dtype=np.int64)
            turns[by_group] = np.arange(len(found)) - starts  # the how manieth of its group
            found = found[np.argsort(turns, kind="stable")]
        return array("I", found[:limit].astype(np.uint32).tobytes())

    def _keys(self, seed: int) -> Iterator[int]:
        """A number for each row that does not depend on the others: in a source that grows, what was drawn first
        stays first."""
        for source, row in zip(self.sources, self.rows, strict=True):
            yield int.from_bytes(hashlib.blake2b(f"{seed}/{source}/{row}".encode(), digest_size=8).digest())


def together(rows: int, size: int) -> int:
    """How many rows are read together, where so many have this size in bytes."""
    return max(_LEAST_TOGETHER, min(_MOST_TOGETHER, _BYTES_TOGETHER * rows // max(1, size)))
