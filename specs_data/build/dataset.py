"""From the store to the dataset's files and the list of what was left out.

Everything here is a pure function of the store, the plan and the fates that follow from them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from polars import DataFrame, String, col

from specs_data.build.fates import Fates
from specs_data.format import strip_stop_tokens
from specs_data.images import suffix
from specs_data.pairs.language import language
from specs_data.pairs.manifest import Shard
from specs_data.pairs.sides import SidesTally
from specs_data.records import Pair, Picture, Problem, Rejected, Response, Twin
from specs_data.rollouts.plan import Plan, pair_id
from specs_data.rollouts.store import Store
from specs_data.texts import IMAGE, chat, leading

_problem = msgspec.json.Decoder(Problem).decode
_response = msgspec.json.Decoder(Response).decode
_twin = msgspec.json.Decoder(Twin).decode
_json = msgspec.json.Encoder().encode

_PAIRS = """
    SELECT l.position, p.idx, q.record, s.record, p.record FROM listing AS l
    CROSS JOIN pairs AS p ON p.settings = ? AND p.problem = l.problem
    CROSS JOIN samples AS s ON s.settings = ? AND s.problem = l.problem AND s.idx = p.idx
    CROSS JOIN problems AS q ON q.id = l.problem
    ORDER BY l.position, p.idx"""
_PROBLEMS = """
    SELECT l.position, q.record FROM listing AS l CROSS JOIN problems AS q ON q.id = l.problem ORDER BY l.position"""


class Figures(Struct):
    """What the rows of a dataset add up to. `chosen` and `rejected` are lengths in characters, `tokens` those of prompt
    and chosen response, as far as the policy's engine told them."""

    sides: SidesTally
    pairs: int = 0
    corruptions: Counter[str] = msgspec.field(default_factory=Counter)
    samples: Counter[int] = msgspec.field(default_factory=Counter)
    chosen: list[int] = msgspec.field(default_factory=list)
    rejected: list[int] = msgspec.field(default_factory=list)
    tokens: dict[str, list[int]] = msgspec.field(default_factory=dict)
    languages: Counter[str] = msgspec.field(default_factory=Counter)
    examples: dict[str, Pair] = msgspec.field(default_factory=dict)


class _Entry(Struct, frozen=True):
    position: int
    index: int
    problem: Problem
    response: Response
    rejected: Rejected


def write_rows(store: Store, fates: Fates, plan: Plan, folder: Path) -> tuple[dict[str, list[Shard]], Figures]:
    """Write the Parquet files of every split into `folder`; the files, and what their rows add up to."""
    from specs_data.pairs.parquet import write_pairs

    pairs = fates.pairs
    tokens = {"prompt": _numbers(), "chosen": _numbers(), "both": _numbers()}
    figures = Figures(SidesTally(plan.fmt, pairs.height), chosen=_numbers(), rejected=_numbers(), tokens=tokens)
    test = col("position").is_in(_held_out(store, plan, pairs))
    blocks = _has_interleaved(store, pairs)
    splits = {"train": write_pairs(_pairs(store, plan, figures, pairs.filter(~test)), folder, "train", blocks=blocks)}
    if plan.recipe.holdout:
        splits["test"] = write_pairs(_pairs(store, plan, figures, pairs.filter(test)), folder, "test", blocks=blocks)
    return {name: shards for name, shards in splits.items() if shards}, figures


def write_left_out(left_out: DataFrame, file: Path) -> dict[str, dict[str, int]]:
    """Write one line per thing left out to `file`; how many by stage and reason."""
    with file.open("wb") as lines:
        for row in left_out.cast({"stage": String}).iter_rows(named=True):
            lines.write(_json({key: value for key, value in row.items() if value not in (None, "")}) + b"\n")
    found: dict[str, dict[str, int]] = {}
    counts = left_out.group_by("stage", "reason").len().cast({"stage": String, "reason": String})
    for stage, reason, count in counts.sort("stage", "len", "reason", descending=[False, True, False]).iter_rows():
        found.setdefault(stage, {})[reason] = count
    return found


def _has_interleaved(store: Store, pairs: DataFrame) -> bool:
    """Whether there is a pair whose pictures stand among the text."""
    paired = set(pairs["position"])
    records = (record for position, record in store.select(_PROBLEMS) if position in paired)
    problems = (_problem(record) for record in records if IMAGE.encode() in record)
    return any(leading(chat(problem, None), len(problem.images)) is None for problem in problems)


def _numbers() -> Any:
    return array("I")  # a million lengths in 4 MB


def _pairs(store: Store, plan: Plan, figures: Figures, pairs: DataFrame) -> Iterator[Pair]:
    for entry in _entries(store, plan, pairs):
        pair = _pair(store, plan, entry)
        _count(figures, entry, pair)
        yield pair


def _entries(store: Store, plan: Plan, pairs: DataFrame) -> Iterator[_Entry]:
    """What the store has of these pairs. Both are in the order of the source, so that neither need be in memory."""
    places = pairs.select("position", "index").iter_rows()
    wanted = next(places, None)
    for position, index, problem, response, twin in store.select(_PAIRS, (plan.pairs, plan.policy.samples)):
        if (position, index) != wanted:
            continue
        wanted = next(places, None)
        rejected = _twin(twin).rejected
        if rejected is not None:  # as every pair's is
            yield _Entry(position, index, _problem(problem), _response(response), rejected)


def _pair(store: Store, plan: Plan, entry: _Entry) -> Pair:
    problem = entry.problem
    images = [(digest, store.image(digest)) for digest in problem.images]
    return Pair(
        id=pair_id(problem.id, entry.index),
        images=tuple(Picture(data, f"{digest[:16]}.{suffix(data)}") for digest, data in images),
        prompt=chat(problem, plan.system),
        # A chat template adds its stop token: a response that was logged with one must not teach it twice.
        chosen=strip_stop_tokens(entry.response.text),
        rejected=strip_stop_tokens(entry.rejected.text),
        problem_id=problem.id,
        answer=problem.answer,
        answer_type=problem.answer_type,
        corruption=entry.rejected.corruption,
        rejected_from=entry.rejected.origin,
        policy=plan.policy.name,
        verifier=plan.verifier,
    )


def _count(figures: Figures, entry: _Entry, pair: Pair) -> None:
    figures.pairs += 1
    figures.corruptions[pair.kind] += 1
    figures.samples[entry.index + 1] += 1
    figures.chosen.append(len(pair.chosen))
    figures.rejected.append(len(pair.rejected))
    # What an operator makes of a chosen response says the same, or it is no pair.
    figures.sides.see(pair, True if pair.rejected_from == "chosen" else None)
    figures.languages[language(pair.question)] += 1
    response = entry.response
    if response.completion_tokens:
        lengths = (response.prompt_tokens, response.completion_tokens)
        for part, length in zip(figures.tokens.values(), (*lengths, sum(lengths)), strict=True):
            part.append(length)
    figures.examples.setdefault(pair.kind, pair)


def _held_out(store: Store, plan: Plan, pairs: DataFrame) -> list[int]:
    """The positions of the problems of the test split: whole groups of problems that share a picture
    or, without one, a question, so that none is in both splits. Something always stays to train on."""
    if not plan.recipe.holdout:
        return []
    groups: dict[bytes, bytes] = {}

    def root(key: bytes) -> bytes:
        # Union-find with path halving: each look shortens the way to the group's least key, its name.
        while groups.setdefault(key, key) != key:
            groups[key] = key = groups[groups[key]]
        return key

    count = dict(pairs.group_by("position").len().iter_rows())
    members: list[tuple[int, bytes]] = []
    for position, record in store.select(_PROBLEMS):
        if position not in count:
            continue
        problem = _problem(record)
        keys = [bytes.fromhex(image) for image in problem.images] or [_hash(problem.question)]
        for key in keys[1:]:
            low, high = sorted((root(keys[0]), root(key)))
            groups[high] = low
        members += [(position, keys[0])] * count[position]
    by_group: defaultdict[bytes, list[int]] = defaultdict(list)
    for position, key in members:
        by_group[root(key)].append(position)
    wanted = min(max(1, round(len(members) * plan.recipe.holdout)), len(members) - 1)
    held: list[int] = []
    # By a seeded hash of the group's name: which groups are held out does not depend on what else is in the dataset.
    for key in sorted(by_group, key=lambda key: _hash(f"{plan.recipe.seed}/{key.hex()}")):
        if len(held) + len(by_group[key]) <= wanted:
            held += by_group[key]
    return held


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
