"""What is known of how good a verifier is, so that one that goes wrong can be told from one that is strict.

Worked example: of sound responses a verifier keeps 0.97, of unsound ones it leaves out 0.90. Of responses of which a
quarter is unsound it leaves out 0.03 * 0.75 + 0.90 * 0.25 = 0.25; one that leaves out 0.60 of them is not what was
measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from specs_data.files import write_whole

SCORES = "verifier-scores.json"  # in the folder that several runs share
MOST_UNSOUND = 0.25  # of right and well-formed responses; of those to public benchmarks it is about one in ten
UNKNOWN = 0.35  # the share that a verifier of which nothing is known may leave out


class Calibration(Struct, frozen=True):
    """Of labelled responses, the share of the sound ones that a verifier keeps, and of the unsound ones that it
    leaves out, as `verifier-score` measures them."""

    recall: float
    caught: float

    @property
    def most_left_out(self) -> float:
        """The share of right and well-formed responses that it leaves out where a quarter of them is unsound."""
        return (1 - self.recall) * (1 - MOST_UNSOUND) + self.caught * MOST_UNSOUND

    def __str__(self) -> str:
        return f"keeps {self.recall:.0%} of the sound and leaves out {self.caught:.0%} of the unsound ones"


def keep(folder: Path, settings: Mapping[str, str], calibration: Calibration) -> None:
    """Put on record in `folder` how good the verifier of these settings is."""
    known = _read(folder) | {_key(settings): calibration}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / SCORES, msgspec.json.format(msgspec.json.encode(known)))


def known(folder: Path | None, settings: Mapping[str, str]) -> Calibration | None:
    """What is on record in `folder` of the verifier of these settings."""
    return _read(folder).get(_key(settings)) if folder else None


def _read(folder: Path) -> dict[str, Calibration]:
    try:
        return msgspec.json.decode((folder / SCORES).read_bytes(), type=dict[str, Calibration])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}  # nothing is known then, which costs no more than an earlier warning


def _key(settings: Mapping[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode(sorted(settings.items()))).hexdigest()
