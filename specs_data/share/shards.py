"""The shards of one run, joined to what one run gives: the same rows in the same order, the same splits, the sum of
all figures. Nothing is sampled or judged for it.

A run with a target is the exception: each shard stops at its share, so that together they have the target, of a fair
sample; which pairs a single run stops at depends on all of them. So does after which round --enough ends it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from specs_data.errors import UserError
from specs_data.files import staged
from specs_data.format import THINK_ANSWER
from specs_data.pairs.card import write_card
from specs_data.pairs.figures import Figures
from specs_data.pairs.holdout import held_out
from specs_data.pairs.manifest import (
    Counts,
    Manifest,
    Model,
    Origin,
    Round,
    Tokens,
    Yield,
    Yields,
    describe_data,
    load_manifest,
    write_manifest,
)
from specs_data.pairs.manifest import Shard as File
from specs_data.pairs.parquet import write_pairs
from specs_data.pairs.rows import interleaved, open_dataset, rows
from specs_data.pairs.shard import SHARD, Place, read_places
from specs_data.pairs.sides import format_of
from specs_data.records import Pair
from specs_data.rollouts.tables import digest

T = TypeVar("T", int, float)
_MOST_VERDICTS = 20


class Shard(Struct, frozen=True):
    """A finished run of one part of the problems: its folder, its manifest, and its pairs' places by their ids."""

    out: Path
    manifest: Manifest
    places: dict[str, Place]

    @property
    def number(self) -> int:
        """Which of the parts it is, from 1."""
        return int(str(self.manifest.setting("shard")).partition("/")[0])

    @property
    def rows(self) -> Iterator[tuple[Place, Pair]]:
        """Its pairs with their places, in the order of the whole."""
        if not self.places:
            return iter(())
        dataset = open_dataset(self.out)
        splits = (((self.places[pair.id], pair) for pair in rows(dataset, split)) for split in dataset.splits)
        return heapq.merge(*splits, key=_order)


def shards_of(runs: Sequence[str | Path]) -> list[Shard] | None:
    """These runs as the shards of one, in order; None where they are not all shards. Raises UserError where shards
    are missing, or are not of one run."""
    manifests = [_manifest(Path(run)) for run in runs]
    told = [str(manifest.setting("shard")) for manifest in manifests if manifest and manifest.setting("shard")]
    if len(told) < len(runs):
        return None
    found = [
        Shard(Path(run), manifest, {place.id: place for place in read_places(Path(run) / SHARD)})
        for run, manifest in zip(runs, manifests, strict=True)
        if manifest is not None
    ]
    kinds = {digest([_whole(shard.manifest), *_came_of(shard.manifest)]) for shard in found}
    of = int(told[0].partition("/")[2])
    if len(kinds) > 1:
        raise UserError("these are shards of different runs: their recipes, policies or operators differ")
    if other := next((shard for shard in told if int(shard.partition("/")[2]) != of), None):
        raise UserError(f"{told[0]} and {other} are shards of different divisions, and are not parts of one whole")
    missing = sorted({*range(1, of + 1)} - {shard.number for shard in found})
    if missing or len(found) > of:
        which = ", ".join(f"{number}/{of}" for number in missing)
        raise UserError(f"of the {of} shards {which} is missing" if missing else "a shard is given twice")
    return sorted(found, key=lambda shard: shard.number)


def join(shards: Sequence[Shard], out: Path) -> tuple[Origin, ...]:
    """Join all shards of a run into the new folder `out`. Raises UserError."""
    first = shards[0].manifest
    recipe = _whole(first)
    places = sorted((place for shard in shards for place in shard.places.values()), key=lambda one: one.position)
    figures = Figures(format_of(first) or THINK_ANSWER, len(places))
    share, seed = float(recipe.get("holdout", 0.0)), int(recipe.get("seed", 0))
    test = {*held_out(_problems(places), share, seed)} if share else set[int]()
    with staged(out) as part:
        blocks = any(interleaved(pair) for shard in shards for _, pair in shard.rows)
        splits: dict[str, list[File]] = {}
        for split in ("train", "test"):
            pairs = _counted(shards, figures, test, split == "test")
            if files := write_pairs(pairs, part / "dataset", split, blocks=blocks):
                splits[split] = files
        if not figures.pairs:
            raise UserError("none of the shards has a pair")
        manifest = _joined([shard.manifest for shard in shards], recipe, splits, figures)
        examples = list(figures.examples.values())
        write_card(part / "dataset", manifest, examples, template=recipe["card"], license=recipe.get("license"))
        _join_dropped([shard.out / "dropped.jsonl" for shard in shards], part / "dropped.jsonl")
        write_manifest(manifest, part / "manifest.json")
    return tuple(
        Origin(
            source=shard.out.name,
            fingerprint=shard.manifest.dataset.fingerprint or None,
            recipe_fingerprint=shard.manifest.recipe_fingerprint or None,
            kept=len(shard.places),
            left_out={},
            rows={},
        )
        for shard in shards
    )


def _manifest(run: Path) -> Manifest | None:
    """The manifest of a shard's run; None for anything else."""
    if not (run / SHARD).is_file() or not (run / "manifest.json").is_file():
        return None
    return load_manifest(run / "manifest.json", "build that shard again")


def _whole(manifest: Manifest) -> dict[str, Any]:
    """The recipe of the run that it is a shard of."""
    return {name: value for name, value in (manifest.recipe or {}).items() if name != "shard"}


def _came_of(manifest: Manifest) -> tuple[object, ...]:
    policies = {role: (manifest.models or {}).get(role) for role in ("policy", "rejected")}
    return policies, manifest.operators, manifest.response_format, manifest.prompts


def _order(row: tuple[Place, Pair]) -> tuple[int, int]:
    return row[0].position, row[0].index


def _problems(places: Iterable[Place]) -> Iterator[tuple[int, Sequence[bytes], int]]:
    for position, pairs in groupby(places, key=lambda place: place.position):
        first, *others = pairs
        yield position, first.keys, 1 + len(others)


def _counted(shards: Sequence[Shard], figures: Figures, test: set[int], held: bool) -> Iterator[Pair]:
    """The pairs of a split, in the order of the whole."""
    for place, pair in heapq.merge(*(shard.rows for shard in shards), key=_order):
        if (place.position in test) == held:
            figures.see(pair, place.index, place.prompt_tokens, place.completion_tokens)
            yield pair


def _join_dropped(files: Sequence[Path], file: Path) -> None:
    """What the shards left out, by stage as one run has it."""
    with file.open("wb") as lines:
        by_stage: dict[str, list[bytes]] = {}
        for one in files:
            for line in one.read_bytes().splitlines(keepends=True):
                by_stage.setdefault(msgspec.json.decode(line)["stage"], []).append(line)
        for found in by_stage.values():
            lines.writelines(found)


def _joined(
    manifests: Sequence[Manifest], recipe: dict[str, Any], splits: Mapping[str, Sequence[File]], figures: Figures
) -> Manifest:
    """The manifest of the whole: what one run says, of the sum of all shards."""
    first = manifests[0]
    costs = [manifest.cost_usd for manifest in manifests]
    return msgspec.structs.replace(
        first,
        recipe=recipe,
        recipe_fingerprint=digest(recipe).hex(),
        dataset=describe_data(splits),
        counts=Counts(**_sum(msgspec.to_builtins(manifest.counts or Counts()) for manifest in manifests)),
        dropped=_sum_reasons([manifest.dropped or {} for manifest in manifests]),
        yields=Yields(
            answer_type=_sum_yields([(manifest.yields or Yields()).answer_type for manifest in manifests]),
            source=_sum_yields([(manifest.yields or Yields()).source for manifest in manifests]),
        ),
        rounds=_sum_rounds([manifest.rounds or [] for manifest in manifests]),
        verdicts=dict(_most(_sum(manifest.verdicts or {} for manifest in manifests))[:_MOST_VERDICTS]),
        tokens=_sum_tokens([manifest.tokens or {} for manifest in manifests]),
        cost_usd=None if any(cost is None for cost in costs) else _sum(cost or {} for cost in costs),
        seconds=_sum(manifest.seconds or {} for manifest in manifests),
        started=min(manifest.started or "" for manifest in manifests),
        finished=max(manifest.finished or "" for manifest in manifests),
        models=_sum_models([manifest.models or {} for manifest in manifests]),
        card_sha256=None,
        **figures.told(),
    )


def _sum(counts: Iterable[Mapping[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for one in counts:
        for name, count in one.items():
            found[name] = found[name] + count if name in found else count
    return found


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent first, then by name."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def _sum_reasons(dropped: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    stages = dict.fromkeys(stage for one in dropped for stage in one)
    return {stage: dict(_most(_sum(one.get(stage, {}) for one in dropped))) for stage in stages}


def _sum_yields(yields: Sequence[Mapping[str, Yield]]) -> dict[str, Yield]:
    problems: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for one in yields:
        problems.update({name: line.problems for name, line in one.items()})
        pairs.update({name: line.pairs for name, line in one.items()})
    return {name: Yield(count, pairs[name]) for name, count in _most(problems)}


def _sum_rounds(rounds: Sequence[Sequence[Round]]) -> list[Round]:
    return [
        Round(*(sum(counts) for counts in zip(*map(msgspec.structs.astuple, filter(None, one)), strict=True)))
        for one in zip_longest(*rounds)
    ]


def _sum_tokens(tokens: Sequence[Mapping[str, Tokens]]) -> dict[str, Tokens]:
    stages = dict.fromkeys(stage for one in tokens for stage in one)
    parts = {stage: [one.get(stage, Tokens()) for one in tokens] for stage in stages}
    return {
        stage: Tokens(sum(part.prompt for part in found), sum(part.completion for part in found))
        for stage, found in parts.items()
    }


def _sum_models(models: Sequence[Mapping[str, Model | None]]) -> dict[str, Model | None]:
    """Each model as the first shard that has one tells of it, with the rows that it served in all."""
    found: dict[str, Model | None] = {}
    for role in dict.fromkeys(role for one in models for role in one):
        told = [model for one in models if (model := one.get(role)) is not None]
        served = [model.served for model in told if model.served is not None]
        found[role] = msgspec.structs.replace(told[0], served=_sum(served)) if served else told[0] if told else None
    return found
