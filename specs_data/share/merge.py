"""Several preference datasets into one.

A problem (its question and its pictures) belongs to the first dataset that has it: the later ones'
pairs for it are left out. So are a later dataset's pairs whose picture an earlier one has in another
split, so that train and test stay apart. The manifest says which rows came from where.

All the shards of one run become what one run gives: see `shards`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from specs_data.errors import UserError
from specs_data.files import staged
from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.pairs.card import write_card
from specs_data.pairs.language import language
from specs_data.pairs.manifest import Counts, Manifest, Origin, Shard, describe_data, write_manifest
from specs_data.pairs.parquet import write_pairs
from specs_data.pairs.rows import Dataset, interleaved, open_dataset, open_whole, rows
from specs_data.pairs.sides import SidesTally, format_of
from specs_data.records import Pair, Picture
from specs_data.share.shards import join, shards_of

logger = logging.getLogger(__name__)

DUPLICATE = "duplicate problem"
OTHER_SPLIT = "picture in another split"
_EXAMPLES = 50

Reasons = dict[str, list[str | None]]  # by split, for each row why it is left out; None: it is kept


def merge(datasets: Sequence[str | Path], out: str | Path, images: Path | None = None) -> tuple[Origin, ...]:
    """Merge `datasets` (runs, dataset folders, files or Hub ids), in this order, into the new folder `out`.

    It is laid out like a run: dataset/, manifest.json, dropped.jsonl. The same datasets give the same
    bytes. `images` is the folder of the pictures that rows name, if it is not their dataset's own. Returns what each
    of them gave. Raises UserError.
    """
    out = Path(out)
    if len(datasets) < 2:
        raise UserError("merge needs at least two datasets")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists and is not empty; give another folder with --out")
    if (parts := shards_of(datasets)) is not None:
        return join(parts, out)
    opened = [open_whole(dataset, images) for dataset in datasets]
    names = _names(opened, datasets)
    reasons, blocks = _choose(opened)
    with suppress(OSError):  # an empty one is replaced in one step, unless something holds it
        out.rmdir()
    with staged(out) as part:
        with (part / "dropped.jsonl").open("wb") as dropped:
            told = [format_of(dataset.manifest or Manifest()) for dataset in opened]
            _tell_formats(names, told)
            writer = _Writer(opened, names, reasons, dropped, told[0] or THINK_ANSWER)
            splits = {split: writer.write(split, part / "dataset", blocks) for split in writer.splits}
        splits = {split: shards for split, shards in splits.items() if shards}
        if not splits:
            raise UserError(f"{' and '.join(names)} have no rows to merge")
        origins = tuple(_origin(opened[n], names[n], reasons, n) for n in range(len(opened)))
        manifest = _manifest(out.name, opened, origins, splits, writer)
        write_manifest(manifest, part / "manifest.json")
        write_card(part / "dataset", manifest, list(islice(rows(open_dataset(part)), _EXAMPLES)))
    return origins


def describe_merge(origins: Sequence[Origin]) -> str:
    """What each dataset gave, as text."""
    lines = []
    for origin in origins:
        left_out = "; ".join(f"{count:,} left out: {reason}" for reason, count in origin.left_out.items())
        lines.append(f"{origin.source}: {origin.kept:,} rows kept" + (f" ({left_out})" if left_out else ""))
    return "\n".join(lines)


def _choose(opened: Sequence[Dataset]) -> tuple[list[Reasons], bool]:
    """Which rows are kept, and whether one of them needs its prompt in blocks: walks over every dataset once, and
    keeps hashes alone."""
    blocks = False
    owners: dict[bytes, int] = {}
    places: dict[bytes, tuple[int, str]] = {}
    found: list[Reasons] = []
    for number, dataset in enumerate(opened):
        found.append({split: [] for split in dataset.splits})
        for split in dataset.splits:
            for pair in rows(dataset, split):
                pictures = _digests(pair.images)
                seen = [places.setdefault(picture, (number, split)) for picture in pictures]
                if owners.setdefault(_problem(pair, pictures), number) != number:
                    found[number][split].append(DUPLICATE)
                elif any(owner != number and place != split for owner, place in seen):
                    found[number][split].append(OTHER_SPLIT)
                else:
                    found[number][split].append(None)
                    blocks = blocks or interleaved(pair)
    return found, blocks


class _Writer:
    """Writes the kept rows split by split, notes the others, and gives every row and problem a name of its own."""

    def __init__(
        self,
        opened: Sequence[Dataset],
        names: Sequence[str],
        reasons: Sequence[Reasons],
        dropped: BinaryIO,
        fmt: ResponseFormat,
    ) -> None:
        self.splits = list(dict.fromkeys(split for dataset in opened for split in dataset.splits))
        self.corruptions: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.sides = SidesTally(fmt)
        self._opened, self._names, self._reasons, self._dropped = opened, names, reasons, dropped
        self._ids: set[str] = set()
        self._problem_ids: set[str] = set()
        self._problems: dict[tuple[int, str], str] = {}

    def write(self, split: str, folder: Path, blocks: bool) -> list[Shard]:
        return write_pairs(self._kept(split), folder, split, blocks=blocks)

    def _kept(self, split: str) -> Iterator[Pair]:
        for number, dataset in enumerate(self._opened):
            if split not in dataset.splits:
                continue
            for pair, reason in zip(rows(dataset, split), self._reasons[number][split], strict=True):
                if reason is None:
                    self.corruptions[pair.kind] += 1
                    self.languages[language(pair.question)] += 1
                    self.sides.see(pair)
                    yield self._named(pair, number)
                else:
                    note = {"stage": "merge", "reason": reason, "problem_id": pair.problem_id}
                    self._dropped.write(msgspec.json.encode({**note, "source": self._names[number]}) + b"\n")

    def _named(self, pair: Pair, number: int) -> Pair:
        problem = pair.problem_id or _problem(pair, _digests(pair.images)).hex()[:16]
        if (number, problem) not in self._problems:
            self._problems[number, problem] = _free(problem, self._problem_ids)
            self._problem_ids.add(self._problems[number, problem])
        said = "\0".join((problem, pair.chosen, pair.rejected))
        name = _free(pair.id or hashlib.sha256(said.encode()).hexdigest()[:16], self._ids)
        self._ids.add(name)
        return msgspec.structs.replace(pair, id=name, problem_id=self._problems[number, problem])


def _digests(images: Sequence[Picture]) -> list[bytes]:
    return [hashlib.sha256(image.content).digest() for image in images]


def _problem(pair: Pair, pictures: Sequence[bytes]) -> bytes:
    """What makes a problem the same: the words of its question, and its pictures."""
    asked = " ".join(message.content for message in pair.prompt if message.role != "system")
    return hashlib.sha256(b"\0".join((" ".join(asked.split()).encode(), *pictures))).digest()


def _free(name: str, taken: set[str]) -> str:
    """`name`, or the first of name-2, name-3, ... that is not taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def _tell_formats(names: Sequence[str], formats: Sequence[ResponseFormat | None]) -> None:
    """Say where the datasets do not teach one format."""
    taught = {fmt.name: name for name, fmt in zip(names, formats, strict=True) if fmt is not None}
    if len(taught) > 1:
        told = ", ".join(f"{name} {fmt}" for fmt, name in taught.items())
        logger.warning("the datasets teach different formats (%s): check proves the merged one against one alone", told)


def _names(opened: Sequence[Dataset], given: Sequence[str | Path]) -> list[str]:
    """The runs' names, or the last parts of what the user gave: never a path of this machine. Where two runs have one
    name, it is told with where they are."""
    places = [Path(path).name for path in given]
    names = [(dataset.manifest or Manifest()).name or place for dataset, place in zip(opened, places, strict=True)]
    return [
        f"{name} ({place})" if names.count(name) > 1 and place != name else name
        for name, place in zip(names, places, strict=True)
    ]


def _origin(dataset: Dataset, name: str, reasons: Sequence[Reasons], number: int) -> Origin:
    manifest = dataset.manifest or Manifest()
    mine = reasons[number]
    places = {}
    for split in mine:
        first = sum(other.get(split, []).count(None) for other in reasons[:number])
        places[split] = (first, first + mine[split].count(None))
    return Origin(
        source=name,
        fingerprint=manifest.dataset.fingerprint or None,
        recipe_fingerprint=manifest.recipe_fingerprint or None,
        kept=sum(split.count(None) for split in mine.values()),
        left_out=dict(Counter(reason for split in mine.values() for reason in split if reason is not None)),
        rows=places,
        models=manifest.models,
    )


def _manifest(
    name: str, opened: Sequence[Dataset], origins: Sequence[Origin], splits: dict[str, list[Shard]], writer: _Writer
) -> Manifest:
    """The merged dataset's manifest: where its rows come from, and the recipes and models they share."""
    manifests = [dataset.manifest or Manifest() for dataset in opened]
    dropped: Counter[str] = Counter()
    for origin in origins:
        dropped.update(origin.left_out)
    shared = {
        field: value
        for field in ("recipe", "recipe_fingerprint", "response_format", "models", "prompts")
        for value in [getattr(manifests[0], field)]
        if all(getattr(manifest, field) == value for manifest in manifests)
    }
    return Manifest(
        name=name,
        dataset=describe_data(splits),
        counts=Counts(pairs=sum(origin.kept for origin in origins)),
        dropped={"merge": dict(dropped)} if dropped else {},
        corruptions=dict(sorted(writer.corruptions.items())),
        languages=dict(writer.languages.most_common()),
        sides=writer.sides.told(),
        merged=list(origins),
        **shared,
    )
