"""From the store to the dataset, the list of what was left out, and the figures of the manifest.

Everything here is a pure function of the store and the plan.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from specs_data.build.agenda import round_of
from specs_data.format import strip_stop_tokens
from specs_data.images import media_type
from specs_data.pairs.manifest import Shard
from specs_data.pairs.parquet import write_pairs
from specs_data.records import Pair, Picture, Problem, Rejected, Response, Twin
from specs_data.rollouts.plan import Plan
from specs_data.rollouts.store import Stage, Store
from specs_data.texts import chat

_problem = msgspec.json.Decoder(Problem).decode
_response = msgspec.json.Decoder(Response).decode
_twin = msgspec.json.Decoder(Twin).decode
_json = msgspec.json.Encoder().encode

# Logs of a later stage may hold responses that a stage before it would leave out now: from a run with other settings.
_IS_JUDGED = """EXISTS (SELECT 1 FROM judgements AS g WHERE g.settings = :judgements AND g.problem = l.problem
    AND g.idx = {}.idx AND g.reason IS NULL)"""
_PAIR_IS_VERIFIED = f"""{_IS_JUDGED.format("p")} AND EXISTS (SELECT 1 FROM verdicts AS w
    WHERE w.settings = :verdicts AND w.problem = l.problem AND w.idx = p.idx AND w.reason IS NULL)"""
# The round of the agenda that a response belongs to.
_ROUND = "max(0, idx - :upfront + 1)"
# The responses that went all the way, in the order of their problems.
_KEPT = """
    FROM listing AS l
    CROSS JOIN pairs AS p ON p.settings = :pairs AND p.problem = l.problem AND p.reason IS NULL AND p.idx < :samples
    CROSS JOIN verdicts AS v ON v.settings = :verdicts AND v.problem = l.problem AND v.idx = p.idx AND v.reason IS NULL
    CROSS JOIN judgements AS j
        ON j.settings = :judgements AND j.problem = l.problem AND j.idx = p.idx AND j.reason IS NULL
"""
_ROWS = f"""
    SELECT l.position, p.idx, q.record, s.record, p.record {_KEPT}
    CROSS JOIN samples AS s ON s.settings = :policy AND s.problem = l.problem AND s.idx = p.idx
    CROSS JOIN problems AS q ON q.id = l.problem
    ORDER BY l.position, p.idx
"""
# The pairs that there are, and those of them that a problem may have, in canonical order.
_PAIRED = f"""
    SELECT l.position, l.name, p.idx, row_number() OVER (PARTITION BY l.position ORDER BY p.idx) AS nth {_KEPT}
"""
_RANKED = f"""
    SELECT position, name, idx, row_number() OVER (ORDER BY {_ROUND}, position, idx) AS place
    FROM ({_PAIRED}) WHERE :target IS NOT NULL AND nth <= :per_problem
"""
_LEFT_OUT = f"""
    SELECT stage, reason, NULL, NULL, position, detail FROM dropped
    UNION ALL
    SELECT 'responses', 'no response', l.name, NULL, NULL, NULL FROM listing AS l
    WHERE :given AND NOT EXISTS (SELECT 1 FROM samples AS s WHERE s.settings = :policy AND s.problem = l.problem)
    UNION ALL
    SELECT iif(:given, 'responses', 'sample'), 'not needed', l.name, s.idx, NULL, NULL
    FROM listing AS l CROSS JOIN samples AS s ON s.settings = :policy AND s.problem = l.problem
    WHERE s.reason IS NULL AND s.idx < :samples AND NOT EXISTS (
        SELECT 1 FROM judgements AS j WHERE j.settings = :judgements AND j.problem = l.problem AND j.idx = s.idx
    ) AND (l.problem, s.idx) NOT IN (SELECT problem, idx FROM undecided WHERE stage = 'judgements')
    UNION ALL
    SELECT 'sample', s.reason, l.name, s.idx, NULL, json_extract(CAST(s.record AS TEXT), '$')
    FROM listing AS l CROSS JOIN samples AS s ON s.settings = :policy AND s.problem = l.problem
    WHERE s.reason IS NOT NULL AND s.idx < :samples
    UNION ALL
    SELECT CASE WHEN j.reason LIKE 'format: %' THEN 'format' ELSE 'judge' END, replace(j.reason, 'format: ', ''),
        l.name, j.idx, NULL, json_extract(CAST(j.record AS TEXT), '$.rule')
    FROM listing AS l CROSS JOIN judgements AS j ON j.settings = :judgements AND j.problem = l.problem
    WHERE j.reason IS NOT NULL AND j.idx < :samples
    UNION ALL
    SELECT 'verify', v.reason, l.name, v.idx, NULL, json_extract(CAST(v.record AS TEXT), '$.reason')
    FROM listing AS l CROSS JOIN verdicts AS v ON v.settings = :verdicts AND v.problem = l.problem
    WHERE v.reason IS NOT NULL AND v.idx < :samples AND {_IS_JUDGED.format("v")}
    UNION ALL
    SELECT 'verify', 'not needed', l.name, j.idx, NULL, NULL
    FROM listing AS l CROSS JOIN judgements AS j ON j.settings = :judgements AND j.problem = l.problem
    WHERE j.reason IS NULL AND j.idx < :samples AND NOT EXISTS (
        SELECT 1 FROM verdicts AS v WHERE v.settings = :verdicts AND v.problem = l.problem AND v.idx = j.idx
    ) AND (l.problem, j.idx) NOT IN (SELECT problem, idx FROM undecided WHERE stage = 'verdicts')
    UNION ALL
    SELECT CASE u.stage WHEN 'samples' THEN 'sample' WHEN 'judgements' THEN 'judge' ELSE 'verify' END,
        'undecided: ' || u.reason, l.name, u.idx, NULL, NULL
    FROM undecided AS u JOIN listing AS l ON l.problem = u.problem
    UNION ALL
    SELECT 'pair', p.reason, l.name, p.idx, NULL, NULL
    FROM listing AS l CROSS JOIN pairs AS p ON p.settings = :pairs AND p.problem = l.problem
    WHERE p.reason IS NOT NULL AND p.idx < :samples AND {_PAIR_IS_VERIFIED}
    UNION ALL
    SELECT 'pair', 'not needed', name, idx, NULL, NULL FROM ({_PAIRED}) WHERE nth > :per_problem
    UNION ALL
    SELECT * FROM (
        SELECT 'pair', 'beyond target', name, idx, NULL, NULL FROM ({_RANKED}) WHERE place > :target
        ORDER BY position, idx
    )
    UNION ALL
    -- A rival answered in vain to a chosen response that it was asked for: up to the last pair of the target.
    SELECT iif(asked, 'rejected', 'pair'), iif(asked, 'no rejected response', 'not needed'), name, idx, NULL, NULL
    FROM (
        SELECT name, idx, paired, :rivalled AND nth <= :per_problem AND coalesce(
            ({_ROUND}, position, idx)
            < (SELECT {_ROUND}, position, idx FROM ({_RANKED}) WHERE place = :target), 1
        ) AS asked
        FROM (
            SELECT l.position, l.name, v.idx, p.idx IS NOT NULL AS paired,
                row_number() OVER (PARTITION BY l.position ORDER BY v.idx) AS nth
            FROM listing AS l
            CROSS JOIN verdicts AS v ON v.settings = :verdicts AND v.problem = l.problem AND v.reason IS NULL
            CROSS JOIN judgements AS j
                ON j.settings = :judgements AND j.problem = l.problem AND j.idx = v.idx AND j.reason IS NULL
            LEFT JOIN pairs AS p ON p.settings = :pairs AND p.problem = l.problem AND p.idx = v.idx
            WHERE v.idx < :samples
        )
    ) WHERE NOT paired
    UNION ALL
    SELECT 'corruption', json_extract(r.value, '$[0]') || ': ' || json_extract(r.value, '$[1]'), l.name, p.idx,
        NULL, NULL
    FROM listing AS l CROSS JOIN pairs AS p ON p.settings = :pairs AND p.problem = l.problem,
        json_each(CAST(p.record AS TEXT), '$.refused') AS r
    WHERE p.idx < :samples AND {_PAIR_IS_VERIFIED}
    UNION ALL
    SELECT 'rejected', s.reason, l.name, s.idx, NULL, json_extract(CAST(s.record AS TEXT), '$')
    FROM listing AS l CROSS JOIN samples AS s ON s.settings = :rival AND s.problem = l.problem
    WHERE s.reason IS NOT NULL
    UNION ALL
    SELECT 'rejected', iif(j.reason IS NULL OR j.reason LIKE 'format: %', 'right answer', j.reason), l.name, j.idx,
        NULL, json_extract(CAST(j.record AS TEXT), '$.rule')
    FROM listing AS l CROSS JOIN judgements AS j ON j.settings = :rival_judgements AND j.problem = l.problem
    WHERE iif(:coupled, j.reason IS NOT 'wrong answer', j.reason NOT LIKE 'format: %')
"""


class Figures(Struct):
    """What the rows of a dataset add up to. Lengths are in characters."""

    pairs: int = 0
    corruptions: Counter[str] = msgspec.field(default_factory=Counter)
    answer_types: Counter[str] = msgspec.field(default_factory=Counter)
    sources: Counter[str] = msgspec.field(default_factory=Counter)
    samples: Counter[int] = msgspec.field(default_factory=Counter)
    chosen: list[int] = msgspec.field(default_factory=list)
    rejected: list[int] = msgspec.field(default_factory=list)
    examples: dict[str, Pair] = msgspec.field(default_factory=dict)


class _Entry(Struct, frozen=True):
    position: int
    index: int
    problem: Problem
    response: Response
    rejected: Rejected


def chosen(store: Store, plan: Plan, problem: int) -> Iterator[int]:
    """The indices of a problem's responses that are right, well-formed and verified."""
    query = """
        SELECT v.idx FROM verdicts AS v CROSS JOIN judgements AS j
            ON j.settings = :judgements AND j.problem = v.problem AND j.idx = v.idx AND j.reason IS NULL
        WHERE v.settings = :verdicts AND v.problem = :problem AND v.reason IS NULL AND v.idx < :samples
        ORDER BY v.idx"""
    return (row[0] for row in store.select(query, {**_parameters(plan), "problem": problem}))


def write_rows(store: Store, plan: Plan, folder: Path) -> tuple[dict[str, list[Shard]], Figures]:
    """Write the Parquet files of every split into `folder`; the files, and what their rows add up to."""
    figures = Figures(chosen=_numbers(), rejected=_numbers())
    test = _held_out(store, plan)
    splits = {"train": write_pairs(_pairs(store, plan, figures, test, held_out=False), folder, "train")}
    if test:
        splits["test"] = write_pairs(_pairs(store, plan, figures, test, held_out=True), folder, "test")
    return {name: shards for name, shards in splits.items() if shards}, figures


def write_left_out(store: Store, plan: Plan, file: Path) -> dict[str, dict[str, int]]:
    """Write one line per thing left out to `file`; how many by stage and reason."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with file.open("wb") as lines:
        for stage, reason, problem, index, position, detail in store.select(_LEFT_OUT, _parameters(plan)):
            counts[stage][reason] += 1
            row = {
                "stage": stage,
                "reason": reason,
                "problem_id": problem,
                "index": index,
                "row": position,
                "detail": detail,
            }
            lines.write(_json({key: value for key, value in row.items() if value not in (None, "")}) + b"\n")
    return {stage: dict(reasons.most_common()) for stage, reasons in sorted(counts.items())}


def count_stages(store: Store, plan: Plan) -> dict[str, int]:
    """How many problems there were, and how many responses passed each stage."""
    parameters = _parameters(plan)

    def count(table: str, settings: str, condition: str = "1") -> int:
        query = f"""
            SELECT count(*) FROM listing AS l CROSS JOIN {table} AS t ON t.settings = :{settings}
            AND t.problem = l.problem WHERE t.idx < :samples AND {condition}"""
        return int(next(store.select(query, parameters))[0])

    return {
        "problems": next(store.select("SELECT count(*) FROM listing"))[0],
        "sampled": count("samples", "policy", "t.reason IS NULL"),
        "right": count("judgements", "judgements", "(t.reason IS NULL OR t.reason LIKE 'format: %')"),
        "well_formed": count("judgements", "judgements", "t.reason IS NULL"),
        "verified": count("verdicts", "verdicts", f"t.reason IS NULL AND {_IS_JUDGED.format('t')}"),
    }


def count_pairs(store: Store, plan: Plan) -> int:
    """How many pairs the dataset would have."""
    return sum(1 for _ in _entries(store, plan))


def count_rounds(store: Store, plan: Plan) -> list[tuple[int, int]]:
    """The responses and the pairs of each round of the agenda."""
    query = f"""
        SELECT {_ROUND}, count(*) FROM listing AS l CROSS JOIN samples AS t
        ON t.settings = :policy AND t.problem = l.problem
        WHERE t.reason IS NULL AND t.idx < :samples GROUP BY 1 ORDER BY 1"""
    pairs = Counter(round_of(entry.index, plan.recipe.samples_upfront) for entry in _entries(store, plan))
    return [(count, pairs[number]) for number, count in store.select(query, _parameters(plan))]


def count_tokens(store: Store, plan: Plan) -> dict[str, int]:
    """The prompt and completion tokens of the responses to this run's problems, whenever they were made."""
    sources = {source.samples for source in (plan.policy, plan.rival) if source}
    query = """
        SELECT coalesce(sum(json_extract(CAST(t.record AS TEXT), '$.prompt_tokens')), 0),
            coalesce(sum(json_extract(CAST(t.record AS TEXT), '$.completion_tokens')), 0)
        FROM listing AS l CROSS JOIN samples AS t ON t.settings = ? AND t.problem = l.problem WHERE t.reason IS NULL"""
    sums = [next(store.select(query, (settings,))) for settings in sources]
    return {"prompt": sum(row[0] for row in sums), "completion": sum(row[1] for row in sums)}


def count_served(store: Store, plan: Plan) -> dict[str, list[tuple[str, str, int, int, int]]]:
    """For verdicts and judgements: (model asked for, model that served, rows, prompt and completion tokens).
    Rows may share an answer that was paid for once, here or by another run; see the store's payments."""
    query = """
        SELECT json_extract(CAST(t.record AS TEXT), '$.model'), json_extract(CAST(t.record AS TEXT), '$.served'),
            count(*), sum(json_extract(CAST(t.record AS TEXT), '$.prompt_tokens')),
            sum(json_extract(CAST(t.record AS TEXT), '$.completion_tokens'))
        FROM listing AS l CROSS JOIN {} AS t ON t.settings IN (?, ?) AND t.problem = l.problem GROUP BY 1, 2"""
    judgements = plan.policy.judgements, (plan.rival or plan.policy).judgements
    logs = {"verification": ("verdicts", (plan.verdicts, None)), "judging": ("judgements", judgements)}
    return {
        name: [row for row in store.select(query.format(table), settings) if row[0]]
        for name, (table, settings) in logs.items()
        if name in plan.services
    }


def count_read(store: Store) -> int:
    """How many rows of the source became this run's problems, or were left out of them."""
    query = "SELECT (SELECT count(*) FROM listing) + (SELECT count(*) FROM dropped WHERE stage = 'input')"
    return int(next(store.select(query))[0])


def time_stages(store: Store, plan: Plan, before: Mapping[str, float]) -> dict[str, float]:
    """The seconds that the results for this run's problems take, by stage: at the speed of this call, since
    `before`, or of all calls for a stage that did nothing in this one."""
    sources = plan.policy, plan.rival or plan.policy
    logs: dict[str, tuple[Stage, tuple[int, int]]] = {
        "generate": ("samples", (sources[0].samples, sources[1].samples)),
        "judge": ("judgements", (sources[0].judgements, sources[1].judgements)),
        "verify": ("verdicts", (plan.verdicts, plan.verdicts)),
        "pair": ("pairs", (plan.pairs, plan.pairs)),
    }
    query = """SELECT count(*) FROM listing AS l CROSS JOIN {} AS t
        ON t.settings IN (?, ?) AND t.problem = l.problem AND t.idx < ?"""
    spent, found = store.seconds(), {}
    for stage, (table, settings) in logs.items():
        made, seconds = store.appended[table], spent.get(stage, 0.0) - before.get(stage, 0.0)
        if not made:
            made, seconds = next(store.select(f"SELECT count(*) FROM {table}"))[0], spent.get(stage, 0.0)
        rows = next(store.select(query.format(table), (*settings, plan.samples)))[0]
        found[stage] = seconds / made * rows if made else 0.0
    return found


def count_problems_by(store: Store, field: str) -> dict[str, int]:
    """How many of this run's problems there are by a field of theirs."""
    query = """
        SELECT json_extract(CAST(q.record AS TEXT), ?), count(*)
        FROM listing AS l CROSS JOIN problems AS q ON q.id = l.problem GROUP BY 1 ORDER BY 2 DESC, 1"""
    return {value or "": count for value, count in store.select(query, (f"$.{field}",))}


def count_verdicts(store: Store, plan: Plan) -> dict[str, int]:
    """The verifier's most frequent reasons."""
    query = f"""
        SELECT coalesce(v.reason || ': ', '') || json_extract(CAST(v.record AS TEXT), '$.reason'), count(*)
        FROM listing AS l CROSS JOIN verdicts AS v ON v.settings = :verdicts AND v.problem = l.problem
        WHERE {_IS_JUDGED.format("v")} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20"""
    return dict(store.select(query, _parameters(plan)))


def _numbers() -> Any:
    return array("I")  # a million lengths in 4 MB


def _parameters(plan: Plan) -> dict[str, int | None]:
    other = plan.rival if plan.rival and plan.rival.samples != plan.policy.samples else None
    return {
        "policy": plan.policy.samples,
        "judgements": plan.policy.judgements,
        "verdicts": plan.verdicts,
        "pairs": plan.pairs,
        "samples": plan.samples,
        # Of another policy; where the chosen's own is the rival, its responses are accounted for already.
        "rival": other.samples if other else None,
        "rival_judgements": other.judgements if other else None,
        "coupled": plan.recipe.pairing == "coupled",
        "rivalled": plan.rival is not None,
        "given": plan.recipe.responses is not None,
        "upfront": plan.recipe.samples_upfront,
        "per_problem": plan.recipe.pairs_per_problem,
        "target": plan.recipe.target,
    }


def _entries(store: Store, plan: Plan) -> Iterator[_Entry]:
    """The pairs of the dataset: of each problem the first ones, and of all the first in canonical order."""
    recipe = plan.recipe
    target = None
    if recipe.target is not None:
        query = f"SELECT position, idx FROM ({_RANKED}) WHERE place <= :target"
        target = set(store.select(query, _parameters(plan)))
    for position, index, problem, response, twin in _first_of_each(
        store.select(_ROWS, _parameters(plan)), recipe.pairs_per_problem
    ):
        rejected = _twin(twin).rejected
        if rejected is not None and (target is None or (position, index) in target):
            yield _Entry(position, index, _problem(problem), _response(response), rejected)


def _first_of_each(rows: Iterator[tuple[Any, ...]], count: int) -> Iterator[tuple[Any, ...]]:
    for _, group in groupby(rows, key=lambda row: row[0]):
        yield from islice(group, count)


def _pairs(store: Store, plan: Plan, figures: Figures, test: set[int], *, held_out: bool) -> Iterator[Pair]:
    for entry in _entries(store, plan):
        if (entry.position in test) is not held_out:
            continue
        pair = _pair(store, plan, entry)
        _count(figures, entry, pair)
        yield pair


def _pair(store: Store, plan: Plan, entry: _Entry) -> Pair:
    problem = entry.problem
    images = [(digest, store.image(digest)) for digest in problem.images]
    return Pair(
        id=f"{problem.id}-{entry.index}",
        images=tuple(Picture(data, f"{digest[:16]}.{_suffix(data)}") for digest, data in images),
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


def _suffix(image: bytes) -> str:
    return (media_type(image) or "image/bin").removeprefix("image/").replace("jpeg", "jpg")


def _count(figures: Figures, entry: _Entry, pair: Pair) -> None:
    figures.pairs += 1
    figures.corruptions[pair.kind] += 1
    figures.answer_types[entry.problem.answer_type] += 1
    figures.sources[entry.problem.source] += 1
    figures.samples[entry.index + 1] += 1
    figures.chosen.append(len(pair.chosen))
    figures.rejected.append(len(pair.rejected))
    figures.examples.setdefault(pair.kind, pair)


def _held_out(store: Store, plan: Plan) -> set[int]:
    """The positions of the problems of the test split: whole groups of problems that share a picture
    or, without one, a question, so that none is in both splits. Something always stays to train on."""
    if not plan.recipe.holdout:
        return set()
    groups: dict[bytes, bytes] = {}

    def root(key: bytes) -> bytes:
        while groups.setdefault(key, key) != key:
            groups[key] = key = groups[groups[key]]
        return key

    members: list[tuple[int, bytes]] = []
    for entry in _entries(store, plan):
        keys = [bytes.fromhex(image) for image in entry.problem.images] or [_hash(entry.problem.question)]
        for key in keys[1:]:
            low, high = sorted((root(keys[0]), root(key)))
            groups[high] = low
        members.append((entry.position, keys[0]))
    by_group: defaultdict[bytes, list[int]] = defaultdict(list)
    for position, key in members:
        by_group[root(key)].append(position)
    wanted = min(max(1, round(len(members) * plan.recipe.holdout)), len(members) - 1)
    held: list[int] = []
    for key in sorted(by_group, key=lambda key: _hash(f"{plan.recipe.seed}/{key.hex()}")):
        if len(held) + len(by_group[key]) <= wanted:
            held += by_group[key]
    return set(held)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
