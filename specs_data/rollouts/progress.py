"""Progress on the terminal: problems done, pairs, yield and time left."""

from __future__ import annotations

import sys

from tqdm import tqdm

from specs_data.inert import visible
from specs_data.rollouts.store import Position


def say(text: str) -> None:
    """A line for the user, above the bar if there is one."""
    tqdm.write(visible(text), file=sys.stderr)


class Progress:
    """One bar over problems. `total` is their number, None if it is not known."""

    def __init__(self, label: str, total: int | None, quiet: bool) -> None:
        self.done = 0
        self.pairs = 0
        self._bar = tqdm(
            total=total, desc=label, unit=" problems", disable=quiet or None, mininterval=0.5, dynamic_ncols=True
        )

    def step(self, position: Position, pairs: int) -> None:
        """The problem at `position` is done and has that many pairs."""
        self.done += 1
        self.pairs += pairs
        if self._bar.update():
            self._bar.set_postfix_str(f"{self.pairs} pairs, yield {self.pairs / self.done:.0%}", refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
