"""Several preference datasets into one.

A problem (its question and its pictures) belongs to the first dataset that has it: the later ones'
pairs for it are left out. So are a later dataset's pairs whose picture an earlier one has in another
split, so that train and test stay apart. The manifest says which rows came from where.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from numbers import Number
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from specs_data.errors import UserError
from specs_data.pairs.card import render_card
from specs_data.pairs.parquet import TEXT_COLUMNS, Row, Shard, fingerprint, write_shards
from specs_data.pairs.rows import Dataset, open_dataset, rows

DUPLICATE = "duplicate problem"
OTHER_SPLIT = "picture in another split"
_EXAMPLES = 50

Reasons = dict[str, list[str | None]]  # by split, for each row why it is left out; None: it is kept


class Origin(Struct, frozen=True):
    """What one dataset gave: its name, its own fingerprints (None: unknown), how many of its rows were
    kept and left out, and, by split, where its rows lie in the merged dataset: [first, last + 1]."""

    source: str
    fingerprint: str | None
    recipe_fingerprint: str | None
    kept: int
    left_out: dict[str, int]
    rows: dict[str, tuple[int, int]]


def merge(datasets: Sequence[str | Path], out: Path) -> tuple[Origin, ...]:
    """Merge `datasets` (runs, dataset folders, files or Hub ids), in this order, into the new folder `out`.

    It is laid out like a run: dataset/, manifest.json, dropped.jsonl. The same datasets give the same
    bytes. Raises UserError.
    """
    if len(datasets) < 2:
        raise UserError("merge needs at least two datasets")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists and is not empty; give another folder with --out")
    opened = [open_dataset(dataset) for dataset in datasets]
    names = [_name(dataset, given) for dataset, given in zip(opened, datasets, strict=True)]
    reasons = _choose(opened)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with (part / "dropped.jsonl").open("wb") as dropped:
        writer = _Writer(opened, names, reasons, dropped)
        splits = {split: writer.write(split, part / "dataset") for split in writer.splits}
    splits = {split: shards for split, shards in splits.items() if shards}
    if not splits:
        raise UserError(f"{' and '.join(names)} have no rows to merge")
    origins = tuple(_origin(opened[n], names[n], reasons, n) for n in range(len(opened)))
    manifest = _manifest(out.name, opened, origins, splits, writer)
    (part / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    card = render_card(manifest, list(islice(rows(open_dataset(part)), _EXAMPLES)))
    (part / "dataset" / "README.md").write_text(card, encoding="utf-8")
    if out.exists():
        out.rmdir()
    part.rename(out)
    return origins


def describe_merge(origins: Sequence[Origin]) -> str:
    """What each dataset gave, as text."""
    lines = []
    for origin in origins:
        left_out = "; ".join(f"{count:,} left out: {reason}" for reason, count in origin.left_out.items())
        lines.append(f"{origin.source}: {origin.kept:,} rows kept" + (f" ({left_out})" if left_out else ""))
    return "\n".join(lines)


def _choose(opened: Sequence[Dataset]) -> list[Reasons]:
    """Which rows are kept: walks over every dataset once, and keeps hashes alone."""
    owners: dict[bytes, int] = {}
    places: dict[bytes, tuple[int, str]] = {}
    found: list[Reasons] = []
    for number, dataset in enumerate(opened):
        found.append({split: [] for split in dataset.splits})
        for split in dataset.splits:
            for row in rows(dataset, split):
                pictures = _digests(row)
                seen = [places.setdefault(picture, (number, split)) for picture in pictures]
                if owners.setdefault(_problem(row, pictures), number) != number:
                    found[number][split].append(DUPLICATE)
                elif any(owner != number and place != split for owner, place in seen):
                    found[number][split].append(OTHER_SPLIT)
                else:
                    found[number][split].append(None)
    return found


class _Writer:
    """Writes the kept rows split by split, notes the others, and gives every row and problem a name of its own."""

    def __init__(
        self, opened: Sequence[Dataset], names: Sequence[str], reasons: Sequence[Reasons], dropped: BinaryIO
    ) -> None:
        self.splits = list(dict.fromkeys(split for dataset in opened for split in dataset.splits))
        self.corruptions: Counter[str] = Counter()
        self._opened, self._names, self._reasons, self._dropped = opened, names, reasons, dropped
        self._ids: set[str] = set()
        self._problem_ids: set[str] = set()
        self._problems: dict[tuple[int, str], str] = {}

    def write(self, split: str, folder: Path) -> list[Shard]:
        return write_shards(self._kept(split), folder, split)

    def _kept(self, split: str) -> Iterator[Row]:
        for number, dataset in enumerate(self._opened):
            reasons = self._reasons[number].get(split)
            if reasons is None:
                continue
            for row, reason in zip(rows(dataset, split), reasons, strict=True):
                if reason is None:
                    self.corruptions[_text(row.get("corruption")) or "none"] += 1
                    yield self._named(row, number)
                else:
                    note = {"stage": "merge", "reason": reason, "problem_id": row.get("problem_id")}
                    self._dropped.write(msgspec.json.encode({**note, "source": self._names[number]}) + b"\n")

    def _named(self, row: Row, number: int) -> Row:
        problem = str(row.get("problem_id") or _problem(row, _digests(row)).hex()[:16])
        if (number, problem) not in self._problems:
            self._problems[number, problem] = _free(problem, self._problem_ids)
            self._problem_ids.add(self._problems[number, problem])
        said = "\0".join((problem, row["chosen"][-1]["content"], row["rejected"][-1]["content"]))
        name = _free(str(row.get("id") or hashlib.sha256(said.encode()).hexdigest()[:16]), self._ids)
        self._ids.add(name)
        images = [
            {"bytes": image["bytes"], "path": Path(image["path"]).name if image["path"] else None}
            for image in row["images"]
        ]
        changed = {"id": name, "problem_id": self._problems[number, problem], "images": images}
        sides = {side: row[side] for side in ("prompt", "chosen", "rejected")}
        return {column: _text(row.get(column)) for column in TEXT_COLUMNS} | sides | changed


def _text(value: object) -> str | None:
    """What a row of somebody else says in a column of texts: a number in its digits, None for what is neither."""
    return str(value) if isinstance(value, str | Number) else None


def _digests(row: Row) -> list[bytes]:
    return [hashlib.sha256(image["bytes"]).digest() for image in row["images"]]


def _problem(row: Row, pictures: Sequence[bytes]) -> bytes:
    """What makes a problem the same: the words of its question, and its pictures."""
    asked = " ".join(message["content"] for message in row["prompt"] if message["role"] != "system")
    return hashlib.sha256(b"\0".join((" ".join(asked.split()).encode(), *pictures))).digest()


def _free(name: str, taken: set[str]) -> str:
    """`name`, or the first of name-2, name-3, ... that is not taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def _name(dataset: Dataset, given: str | Path) -> str:
    """The run's name, or the last part of what the user gave: never a path of this machine."""
    return str((dataset.manifest or {}).get("name") or Path(given).name)


def _origin(dataset: Dataset, name: str, reasons: Sequence[Reasons], number: int) -> Origin:
    manifest = dataset.manifest or {}
    mine = reasons[number]
    places = {}
    for split in mine:
        first = sum(other.get(split, []).count(None) for other in reasons[:number])
        places[split] = (first, first + mine[split].count(None))
    return Origin(
        source=name,
        fingerprint=manifest.get("dataset", {}).get("fingerprint"),
        recipe_fingerprint=manifest.get("recipe_fingerprint"),
        kept=sum(split.count(None) for split in mine.values()),
        left_out=dict(Counter(reason for split in mine.values() for reason in split if reason is not None)),
        rows=places,
    )


def _manifest(
    name: str, opened: Sequence[Dataset], origins: Sequence[Origin], splits: dict[str, list[Shard]], writer: _Writer
) -> dict[str, Any]:
    """The merged dataset's manifest: where its rows come from, and the recipes and models they share."""
    manifests = [dataset.manifest or {} for dataset in opened]
    dropped: Counter[str] = Counter()
    for origin in origins:
        dropped.update(origin.left_out)
    described = {
        split: {"rows": sum(s.rows for s in shards), "bytes": sum(s.bytes for s in shards), "shards": shards}
        for split, shards in splits.items()
    }
    shared = {
        key: manifests[0][key]
        for key in ("recipe", "recipe_fingerprint", "response_format", "models", "prompts")
        if key in manifests[0] and all(manifest.get(key) == manifests[0][key] for manifest in manifests)
    }
    merged = [
        {**msgspec.to_builtins(origin), "models": m.get("models")} for origin, m in zip(origins, manifests, strict=True)
    ]
    built: dict[str, Any] = msgspec.to_builtins(
        {
            "name": name,
            **shared,
            "merged": merged,
            "dataset": {"fingerprint": fingerprint(splits), "splits": described},
            "counts": {"pairs": sum(origin.kept for origin in origins)},
            "dropped": {"merge": dict(dropped)} if dropped else {},
            "corruptions": dict(sorted(writer.corruptions.items())),
        }
    )
    return built
