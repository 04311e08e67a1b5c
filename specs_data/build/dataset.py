"""From the store to the dataset's files and the list of what was left out.

Everything here is a pure function of the store, the plan and the fates that follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct
from polars import DataFrame, String, col

from specs_data.build.fates import Fates
from specs_data.format import strip_stop_tokens
from specs_data.images import suffix
from specs_data.pairs.figures import Figures
from specs_data.pairs.holdout import held_out, keys_of
from specs_data.pairs.manifest import Shard
from specs_data.pairs.shard import Place
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
_WITH_PLACES = (
    "SELECT l.position, q.record FROM listing AS l JOIN problems AS q ON q.id = l.problem WHERE instr(q.record, ?)"
)


class _Entry(Struct, frozen=True):
    position: int
    index: int
    problem: Problem
    response: Response
    rejected: Rejected
    pass_rate: float | None
    solved_blind: bool | None


def write_rows(store: Store, fates: Fates, plan: Plan, folder: Path) -> tuple[dict[str, list[Shard]], Figures]:
    """Write the Parquet files of every split into `folder`; the files, and what their rows add up to."""
    from specs_data.pairs.parquet import write_pairs

    pairs = fates.pairs
    figures = Figures(plan.fmt, pairs.height)
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
    found = store.select(_WITH_PLACES, (IMAGE.encode(),))
    problems = (_problem(record) for position, record in found if position in paired)
    return any(leading(chat(problem, None), len(problem.images)) is None for problem in problems)


def _pairs(store: Store, plan: Plan, figures: Figures, pairs: DataFrame) -> Iterator[Pair]:
    for entry in _entries(store, plan, pairs):
        pair = _pair(store, plan, entry)
        figures.see(pair, entry.index, entry.response.prompt_tokens, entry.response.completion_tokens)
        yield pair


def _entries(store: Store, plan: Plan, pairs: DataFrame) -> Iterator[_Entry]:
    """What the store has of these pairs. Both are in the order of the source, so that neither need be in memory."""
    places = pairs.select("position", "index", "pass_rate", "solved_blind").iter_rows()
    wanted = next(places, None)
    for position, index, problem, response, twin in store.select(_PAIRS, (plan.pairs, plan.policy.samples)):
        if wanted is None or (position, index) != wanted[:2]:
            continue
        difficulty, wanted = wanted[2:], next(places, None)
        rejected = _twin(twin).rejected
        if rejected is not None:  # as every pair's is
            yield _Entry(position, index, _problem(problem), _response(response), rejected, *difficulty)


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
        pass_rate=entry.pass_rate,
        solved_blind=entry.solved_blind,
    )


def _held_out(store: Store, plan: Plan, pairs: DataFrame) -> list[int]:
    """The positions of the problems of the test split."""
    if not plan.recipe.holdout:
        return []
    count = dict(pairs.group_by("position").len().iter_rows())
    paired = ((position, record) for position, record in store.select(_PROBLEMS) if position in count)
    problems = ((position, keys_of(_problem(record)), count[position]) for position, record in paired)
    return held_out(problems, plan.recipe.holdout, plan.recipe.seed)


def places(store: Store, fates: Fates, plan: Plan) -> Iterator[Place]:
    """Where the pairs of a shard stand among those of all shards."""
    for entry in _entries(store, plan, fates.pairs):
        tokens = entry.response.prompt_tokens, entry.response.completion_tokens
        yield Place(
            pair_id(entry.problem.id, entry.index), entry.position, entry.index, *tokens, keys_of(entry.problem)
        )
