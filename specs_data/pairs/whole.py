"""A dataset that is to be used and not only looked at."""

from __future__ import annotations

from pathlib import Path

from specs_data.errors import UserError
from specs_data.pairs.rows import Dataset, open_dataset


def open_whole(path: str | Path, images: Path | None = None) -> Dataset:
    """The dataset at `path`, as `open_dataset` has it. Raises UserError as well for a run that has been tried by a dry
    run and never built: the few pairs that this found are there to be looked at, and for who asks for them by name."""
    dataset = open_dataset(path, images)
    pilot = Path(path) / "pilot"
    if dataset.root.parent == pilot:
        raise UserError(f"{path} has only what a dry run has found: build it first, or give {pilot} for just that")
    return dataset
