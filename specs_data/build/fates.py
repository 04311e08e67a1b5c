"""What became of every response: one row each, with the stage where it ended and why.

The frame is derived once, from the logs of the store, and all that is said about a run is read off it: which
pairs the dataset has, what was left out, counts, yields, the forecast of a pilot. Texts stay in the store, so that
a million responses take some hundred MB.

Columns of `Fates.responses`, which is in the order of the source:

    position, number    the problem's place in its source, and its number in the store
    role, index         what the response was sampled for, "chosen" or "rejected" (by a rival), and its index
    round               the round of the agenda that it belongs to
    stage, reason       where it ended and why; no reason where nothing speaks against it
    kept                it is the chosen side of a pair of the dataset
    detail              what decided: the judge's rule, the answer found and the gold; the verifier's words and what the
                        reasoning concludes; why a prompt was refused
    pass_rate           of the problem: the share of right answers among the judged, up to the round of its last pair
    solved_blind        of the problem: whether it is solved without its picture; null where that was not tried
    malformed           why a response that is not right breaks the format as well
    rule, verdict       the judge's rule, and the verifier's words
    corruption          the operator that made the rejected side; null where none did
    refused             results of operators that were refused on the way, as JSON; null where there are none
    prompt_tokens, completion_tokens    null for a prompt that was not answered
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import polars as pl
from msgspec import Struct
from polars import DataFrame, Expr, col

from specs_data.pairs.manifest import Round
from specs_data.recipe import Recipe
from specs_data.rollouts.frames import to_frame, write_fates
from specs_data.rollouts.plan import BLIND, REFUSED, STRUCK, Plan, Source, outside_window
from specs_data.rollouts.search import last_round
from specs_data.rollouts.stages import CUT_OFF, FORMAT, WRONG
from specs_data.rollouts.store import Index, Position, Store
from specs_data.rollouts.tables import Stage

# By stage (model asked for, model that served, rows, prompt and completion tokens).
Served = dict[str, list[tuple[str, str, int, int, int]]]

UNDECIDED = "undecided: "
LATE = "beyond enough"  # of a round that was not worth its tokens
_ORDER = ("input", "responses", "sample", "judge", "format", "difficulty", "verify", "pair", "corruption",
          "rejected")  # fmt: skip
_MOST_VERDICTS = 20

_KEY = {"number": pl.UInt32(), "index": pl.UInt32()}
_WHY = {"why": pl.Categorical()}
_TOKENS = {"prompt_tokens": pl.UInt32(), "completion_tokens": pl.UInt32()}
_SERVICE = {"model": pl.Categorical(), "served": pl.Categorical(), **_TOKENS}
_LONGEST = 200  # characters of an answer that is told of a response that was left out
_RECORD = "CAST(t.record AS TEXT)"
_TOKEN_FIELDS = f"json_extract({_RECORD}, '$.prompt_tokens'), json_extract({_RECORD}, '$.completion_tokens')"
# What is read of each stage's records, beside the reason why a response was left out there: columns, and SQL.
# The record of a prompt that was refused is what the engine said.
_FIELDS: dict[Stage, tuple[dict[str, pl.DataType], str]] = {
    "samples": (
        {**_TOKENS, "refusal": pl.String()},
        f"{_TOKEN_FIELDS}, iif(t.reason IS NULL, NULL, json_extract({_RECORD}, '$'))",
    ),
    "judgements": (
        {
            **{"rule": pl.Categorical(), "found": pl.String(), "read": pl.String(), "gold_read": pl.String()},
            "malformed": pl.Categorical(),
        },
        f"json_extract({_RECORD}, '$.rule'), substr(json_extract({_RECORD}, '$.answer'), 1, {_LONGEST}), "
        f"json_extract({_RECORD}, '$.read'), json_extract({_RECORD}, '$.gold'), "
        f"json_extract({_RECORD}, '$.malformed')",
    ),
    "verdicts": (
        {"verdict": pl.String(), "concluded": pl.String()},
        f"json_extract({_RECORD}, '$.reason'), nullif(json_extract({_RECORD}, '$.answer'), '')",
    ),
    "pairs": (
        {"corruption": pl.Categorical(), "refused": pl.String()},
        f"json_extract({_RECORD}, '$.rejected.corruption'), nullif(json_extract({_RECORD}, '$.refused'), '[]')",
    ),
}

# A condition, the stage, the reason, and what decided.
_Case = tuple[Expr, str, Expr | None, Expr | None]
_NONE = pl.lit(None, pl.String)
# The verifier's words, and the conclusion that it found.
_SAID = col("verdict") + (pl.lit(": ") + col("concluded")).fill_null("")
_NOT_NEEDED = pl.lit("not needed")
_PLACE = ["round", "position", "index"]
_COLUMNS = [
    "position", "number", "role", "index", "round", "stage", "reason", "kept", "detail", "rule", "verdict",
    "corruption", "refused", "malformed", "pass_rate", "solved_blind", *_TOKENS,
]  # fmt: skip

_refusals = msgspec.json.Decoder(list[tuple[str, str]]).decode


class Fates(Struct, frozen=True):
    """What became of a run's problems and responses.

    `problems` has position, number, problem_id, answer_type and source, whether it has pictures (`pictured`), and
    where that was tried whether it is solved without them (`solved_blind`); `dropped` the rows of the run's input that
    were left out; `responses` is described above, and `blind` has the tokens of those that were asked for without
    pictures. `served` says which models judged, `logged` how many rows of
    each stage are on record for this run."""

    problems: DataFrame
    dropped: DataFrame
    responses: DataFrame
    blind: DataFrame
    served: Served
    logged: Mapping[Stage, int]

    @property
    def pairs(self) -> DataFrame:
        """The responses that are the chosen sides of the dataset's pairs, in order."""
        return self.responses.filter("kept")

    def chosen(self, most: int, target: int | None) -> dict[Position, list[Index]]:
        """The right, well-formed and verified responses by problem: at most so many of each, and of all the first
        `target` in canonical order."""
        verified = self.responses.filter(col("role") == "chosen", col("stage").is_in(["pair", "rejected"]))
        verified = verified.filter(col("reason").cast(pl.String).fill_null("") != LATE)
        first = verified.filter(col("index").cum_count().over("position") <= most)
        if target is not None:
            first = first.sort(_PLACE).head(target)
        found = first.sort("position", "index").group_by("position", maintain_order=True).agg("index")
        return {Position(position): [*map(Index, indices)] for position, indices in found.iter_rows()}

    def pairs_of(self, chosen: Mapping[Position, Sequence[Index]]) -> int:
        """How many pairs the dataset has of these chosen responses."""
        places = self.pairs.select("position", "index").iter_rows()
        return sum(index in chosen.get(position, ()) for position, index in places)

    @property
    def read(self) -> int:
        """How many rows of the source became problems, or were left out of them."""
        return self.problems.height + self.dropped.filter(col("stage") == "input").height

    def counts(self) -> dict[str, int]:
        """How many problems there were, and how many responses passed each stage."""
        chosen = self.responses.filter(col("role") == "chosen")
        ended = dict(chosen.filter(col("completion_tokens").is_not_null())["stage"].value_counts().iter_rows())
        verified = ended.get("pair", 0) + ended.get("rejected", 0)
        well_formed = verified + ended.get("verify", 0) + ended.get("difficulty", 0)
        blind = self.problems["solved_blind"].drop_nulls()
        tried = {"blind_checked": blind.len(), "blind_solved": int(blind.sum())} if blind.len() else {}
        return {
            **tried,
            "problems": self.problems.height,
            "sampled": sum(ended.values()),
            "malformed": ended.get("format", 0) + chosen["malformed"].count(),
            "right": well_formed + ended.get("format", 0),
            "well_formed": well_formed,
            "verified": verified,
            "pairs": self.pairs.height,
        }

    def rounds(self) -> list[Round]:
        """What each round of the agenda took and gave."""
        answered = self.responses.filter(col("role") == "chosen", col("completion_tokens").is_not_null())
        found = answered.group_by("round").agg(pl.len(), col("completion_tokens").sum(), col("kept").sum())
        return [Round(*figures) for _, *figures in found.sort("round").iter_rows()]

    def tokens(self) -> dict[str, int]:
        """The prompt and completion tokens of the responses, whenever they were made."""
        sums = pl.concat([self.responses.select(*_TOKENS), self.blind.select(*_TOKENS)]).sum()
        return {"prompt": sums.item(0, 0) or 0, "completion": sums.item(0, 1) or 0}

    def yields(self, field: str) -> dict[str, dict[str, int]]:
        """How many problems and pairs there are by a field of the problems', the most frequent first."""
        pairs = self.pairs.join(self.problems, on="number").group_by(field).agg(pairs=pl.len())
        found = self.problems.group_by(field).agg(problems=pl.len()).join(pairs, on=field, how="left")
        found = found.with_columns(col(field).cast(pl.String), col("pairs").fill_null(0))
        rows = found.select(field, "problems", "pairs").sort(col("problems"), field, descending=[True, False])
        return {name: {"problems": problems, "pairs": pairs} for name, problems, pairs in rows.iter_rows()}

    def verdicts(self) -> dict[str, int]:
        """The verifier's most frequent words."""
        said = self.responses.filter(col("verdict").is_not_null())
        words = pl.when(col("stage") == "verify").then(col("reason").cast(pl.String) + ": ").otherwise(pl.lit(""))
        found = (
            said.group_by((words + col("verdict")).alias("words")).len().sort("len", "words", descending=[True, False])
        )
        return dict(found.head(_MOST_VERDICTS).iter_rows())

    def left_out(self) -> DataFrame:
        """What was left out: stage, reason, problem_id, index, row (of the input) and detail. By stage, and in the
        order of the source."""
        columns = ["stage", "reason", "position", "index", "row", "detail"]
        responses = self.responses.filter(col("reason").is_not_null())
        found = pl.concat([self.dropped, responses, _refused(self.responses)], how="diagonal").select(columns)
        found = found.join(self.problems.select("position", "problem_id"), on="position", how="left")
        found = found.with_columns(col("stage").cast(pl.Enum(_ORDER)))
        return found.sort("stage", "position", "index", "row", "reason", nulls_last=True).select(
            "stage", "reason", "problem_id", "index", "row", "detail"
        )


def keep_fates(fates: Fates, plan: Plan, file: Path) -> None:
    """Write the responses' fates to `file`, where `load_run(...).frame("responses")` finds them."""
    policy = col("role").cast(pl.String).replace_strict({"chosen": plan.policy.name, "rejected": _rival_name(plan)})
    named = fates.responses.join(fates.problems.drop("position", "gold", "pictured", "solved_blind"), on="number")
    named = named.with_columns(policy=policy)
    settings = {"chosen": _settings(plan, plan.policy)}
    if plan.rival is not None:
        settings["rejected"] = _settings(plan, plan.rival)
    write_fates(named.sort("role", "position", "index"), settings, file)


def _rival_name(plan: Plan) -> str:
    return (plan.rival or plan.policy).name


def _settings(plan: Plan, source: Source) -> dict[Stage, int]:
    """The numbers under which each stage logs what concerns the responses of `source`."""
    settings: dict[Stage, int] = {"samples": source.samples, "judgements": source.judgements}
    if source is plan.policy:
        settings |= {"verdicts": plan.verdicts, "pairs": plan.pairs}
    return settings


def read_fates(store: Store, plan: Plan) -> Fates:
    """What became of the problems and responses of the run that is in `store`."""
    problems, undecided = _read_problems(store), _read_undecided(store)
    unseen = _read_unseen(store, plan.blind)
    problems = problems.join(_solved(unseen, plan.blind.most if plan.blind else 0), on="number", how="left")
    logs = _read_logs(store, plan, plan.policy, undecided)
    logged = Counter({stage: log.height for stage, log in logs.items()})
    logged.update({stage: log.height for stage, log in unseen.items()})
    responses = _end(_joined(logs, problems, plan.recipe.samples_upfront), plan, problems.height)
    # Where the chosen's own policy is the rival, its responses are accounted for already.
    if plan.rival is not None and plan.rival.samples != plan.policy.samples:
        rest = _others(undecided, logs)
        logs = _read_logs(store, plan, plan.rival, rest)
        logged.update({stage: log.height for stage, log in logs.items()})
        rivals = _end_rivals(_joined(logs, problems, 1), plan.recipe.pairing == "coupled")
        responses = pl.concat([responses, rivals], how="diagonal")
    dropped = _read_dropped(store)
    if plan.recipe.responses is not None:
        silent = problems.join(responses, on="number", how="anti").select("position")
        silent = silent.with_columns(stage=_category("responses"), reason=_category("no response"))
        dropped = pl.concat([dropped, silent], how="diagonal")
    return Fates(problems, dropped, responses, unseen["samples"], _read_served(store, plan), dict(logged))


# Reading the store


def _read_problems(store: Store) -> DataFrame:
    query = f"""
        SELECT l.position, l.problem, l.name, json_extract(CAST(q.record AS TEXT), '$.answer_type'),
            coalesce(json_extract(CAST(q.record AS TEXT), '$.source'), ''),
            substr(json_extract(CAST(q.record AS TEXT), '$.answer'), 1, {_LONGEST}),
            coalesce(json_array_length(CAST(q.record AS TEXT), '$.images'), 0) > 0
        FROM listing AS l CROSS JOIN problems AS q ON q.id = l.problem ORDER BY l.position"""
    schema = {"position": pl.Int64(), "number": pl.UInt32(), "problem_id": pl.String()}
    return to_frame(
        store.select(query),
        {
            **schema,
            "answer_type": pl.Categorical(),
            "source": pl.Categorical(),
            "gold": pl.String(),
            "pictured": pl.Int64(),
        },
    )


def _read_unseen(store: Store, blind: Source | None) -> dict[Stage, DataFrame]:
    """The logs of the responses that were asked for without pictures; empty where none were."""
    stages: tuple[Stage, ...] = ("samples", "judgements")
    if blind is None:
        return {stage: DataFrame(schema={**_KEY, **_WHY, **_FIELDS[stage][0]}) for stage in stages}
    settings = {"samples": blind.samples, "judgements": blind.judgements}
    return {stage: _read_log(store, stage, settings[stage], blind.most) for stage in stages}


def _solved(unseen: Mapping[Stage, DataFrame], most: int) -> DataFrame:
    """Which problems are solved without their pictures: more than half of such responses that were judged are right.
    As long as one of the `most` that are asked for is neither judged nor refused that is not known."""
    log = unseen["judgements"].with_columns(pl.lit(True).alias("judgements?"), judgements="why")
    refused = unseen["samples"].filter(col("why").is_not_null()).group_by("number").agg(refused=pl.len())
    share = _right().sum() / _judged().sum()
    found = log.group_by("number").agg(pl.len(), _judged().any().alias("judged"), solved_blind=share > 0.5)
    whole = col("len") + col("refused").fill_null(0) >= most
    found = found.join(refused, on="number", how="left").filter("judged", whole)
    return found.select("number", "solved_blind")


def _read_dropped(store: Store) -> DataFrame:
    schema = {"stage": pl.Categorical(), "reason": pl.Categorical(), "row": pl.Int64(), "detail": pl.String()}
    return to_frame(store.select("SELECT stage, reason, position, detail FROM dropped"), schema)


def _read_undecided(store: Store) -> DataFrame:
    query = f"SELECT DISTINCT stage, problem, idx, '{UNDECIDED}' || reason FROM undecided"
    found = to_frame(store.select(query), {"stage": pl.String(), **_KEY, **_WHY})
    return found.unique(["stage", *_KEY], keep="last", maintain_order=True)


def _read_logs(store: Store, plan: Plan, source: Source, undecided: DataFrame) -> dict[Stage, DataFrame]:
    """The log of each stage that concerns the responses of `source`. That something stayed undecided is a reason
    like others, where the log has no row of it."""
    logs: dict[Stage, DataFrame] = {}
    reached: DataFrame | None = None
    for stage, number in _settings(plan, source).items():
        log = _read_log(store, stage, number, source.most)
        late = undecided.filter(col("stage") == stage).drop("stage").join(log, on=list(_KEY), how="anti")
        late = late if reached is None else late.join(reached, on=list(_KEY), how="semi")
        logs[stage] = pl.concat([log, late], how="diagonal")
        reached = log
    return logs


def _read_log(store: Store, stage: Stage, settings: int, samples: int) -> DataFrame:
    columns, fields = _FIELDS[stage]
    query = f"""
        SELECT t.problem, t.idx, t.reason, {fields} FROM listing AS l
        CROSS JOIN {stage} AS t ON t.settings = ? AND t.problem = l.problem WHERE t.idx < ?"""
    return to_frame(store.select(query, (settings, samples)), {**_KEY, **_WHY, **columns})


def _others(undecided: DataFrame, logs: Mapping[Stage, DataFrame]) -> DataFrame:
    """What stayed undecided of a rival: the store does not say whose response it was, but these logs have the
    policy's."""
    for stage, log in logs.items():
        own = log.select(*_KEY, "why", stage=pl.lit(stage))
        undecided = undecided.join(own, on=["stage", *_KEY, "why"], how="anti")
    return undecided


def _read_served(store: Store, plan: Plan) -> Served:
    """For verdicts and judgements: (model asked for, model that served, rows, prompt and completion tokens).
    Rows may share an answer that was paid for once, here or by another run; see the store's payments."""
    judgements = {source.judgements: source.most for source in (plan.policy, plan.rival) if source}
    logs: dict[str, tuple[Stage, dict[int, int]]] = {
        "verification": ("verdicts", {plan.verdicts: plan.policy.most}),
        "judging": ("judgements", judgements),
    }
    return {
        name: _count_served(pl.concat(_read_service(store, stage, *one) for one in settings.items()))
        for name, (stage, settings) in logs.items()
        if name in plan.services
    }


def _read_service(store: Store, stage: Stage, settings: int, samples: int) -> DataFrame:
    query = f"""
        SELECT json_extract({_RECORD}, '$.model'), json_extract({_RECORD}, '$.served'), {_TOKEN_FIELDS}
        FROM listing AS l CROSS JOIN {stage} AS t ON t.settings = ? AND t.problem = l.problem WHERE t.idx < ?"""
    return to_frame(store.select(query, (settings, samples)), _SERVICE)


def _count_served(rows: DataFrame) -> list[tuple[str, str, int, int, int]]:
    asked = rows.filter(col("model") != "").with_columns(col("model", "served").cast(pl.String))
    return asked.group_by("model", "served").agg(pl.len(), col(*_TOKENS).sum()).sort("model", "served").rows()


# Where each response ended


def _joined(logs: Mapping[Stage, DataFrame], problems: DataFrame, upfront: int) -> DataFrame:
    """One row per response, with what each stage has on record: its reason is in the column named after it. Logs of
    a later stage may hold responses that a stage before it leaves out now: from a run with other settings."""
    first, *later = (
        log.with_columns(pl.lit(True).alias(f"{stage}?")).rename({"why": stage}) for stage, log in logs.items()
    )
    found = first.join(problems.select("position", "number", "problem_id", "gold", "solved_blind"), on="number")
    for log in later:
        found = found.join(log, on=list(_KEY), how="left")
    round_ = (col("index").cast(pl.Int64) - upfront + 1).clip(0).cast(pl.UInt32)
    return found.with_columns(round=round_).sort("position", "index")


def _end(rows: DataFrame, plan: Plan, problems: int) -> DataFrame:
    """Where the responses of the policy to so many problems ended."""
    recipe = plan.recipe
    right = _passed("judgements")
    outside, solved = _outside(recipe), pl.lit(recipe.blind_check == "drop") & col("solved_blind").fill_null(False)
    rows = rows.with_columns(right=right, outside=outside, solved=solved, late=pl.lit(False))
    rows = rows.with_columns(over=_after_refusal())
    sound = ~col("outside") & ~col("solved") & ~col("over")
    rows = rows.with_columns(verified=col("right") & _passed("verdicts") & sound)
    struck = col("name").is_in(sorted(plan.struck)) if plan.struck else pl.lit(False)
    rows = rows.with_columns(name=pl.concat_str("problem_id", pl.lit("-"), "index"))
    # A rival is asked for a problem's first chosen responses, and a problem has its first pairs.
    rows = rows.with_columns(_within("verified", recipe.pairs_per_problem))
    asked_for = col("verified") & (col("verified within") | pl.lit(plan.rival is None))
    rows = rows.with_columns(paired=asked_for & _passed("pairs") & ~struck)
    rows = rows.with_columns(_within("paired", recipe.pairs_per_problem))
    if (last := _last_round(rows, plan, problems)) is not None:
        rows = rows.with_columns(late=col("round") > last)
    cut = _last_of(rows.filter("paired", "paired within", ~col("late")), recipe.wanted)
    asked = pl.lit(plan.rival is not None) & col("verified within") & ~_beyond(cut)
    rows = rows.with_columns(
        **_first_of(
            (
                *_judging("responses" if recipe.responses is not None else "sample"),
                (col("outside"), "difficulty", pl.lit(outside_window(recipe.pass_rate)), None),
                (col("solved"), "difficulty", pl.lit(BLIND), None),
                (~_there("verdicts") | col("over"), "verify", _NOT_NEEDED, None),
                (col("verdicts").is_not_null(), "verify", _reason("verdicts"), _SAID),
                (col("late"), "pair", pl.lit(LATE), None),
                (struck, "pair", pl.lit(STRUCK), None),
                (col("pairs").is_not_null(), "pair", _reason("pairs"), None),
                (~_there("pairs") & asked, "rejected", pl.lit("no rejected response"), None),
                (~col("paired") | ~col("paired within"), "pair", _NOT_NEEDED, None),
                (_beyond(cut), "pair", pl.lit("beyond target"), None),
                (pl.lit(True), "pair", None, None),
            )
        ),
        role=_category("chosen"),
        verdict=pl.when("right").then("verdict"),
        corruption=pl.when("verified").then("corruption"),
        refused=pl.when("verified").then("refused"),
    )
    rows = rows.with_columns(kept=col("paired") & col("reason").is_null())
    # A column of its own first: a window within a window is gone through group by group.
    rows = rows.with_columns(counts=_until_last_pair())
    return rows.with_columns(pass_rate=_pass_rate(col("counts"))).select(_COLUMNS)


def _outside(recipe: Recipe) -> Expr:
    """Whether the first responses to the problem say that it is too hard or too easy."""
    if recipe.pass_rate is None or recipe.samples_upfront < 2:
        return pl.lit(False)
    low, high = recipe.pass_rate
    return ~_pass_rate(col("index") < recipe.samples_upfront).is_between(low, high).fill_null(False)


def _after_refusal() -> Expr:
    """Whether a response belongs to a later round than one that was refused: the search asks for no more of such a
    problem, but a build with other rounds may have."""
    unanswered = _reason("samples").str.starts_with(REFUSED)
    ended = unanswered | _is_refused("judgements") | (col("right") & _is_refused("verdicts"))
    last = pl.when(ended.fill_null(False)).then("round").min().over("number")
    return (col("round") > last).fill_null(False)


def _is_refused(stage: Stage) -> Expr:
    """Whether a service does not answer about the problem, as `Stages` has it."""
    return (_reason(stage).str.starts_with(REFUSED) & (_reason(stage) != CUT_OFF)).fill_null(False)


def _until_last_pair() -> Expr:
    """Whether a response belongs to no later round than the last pair of its problem. What else is on record, of
    another build or of slots that were idle, is to make no difference to a row."""
    last = pl.when("kept").then("round").max().over("number")
    return last.is_null() | (col("round") <= last)


def _pass_rate(counts: Expr) -> Expr:
    """The problem's share of right answers among the judged ones that count; null where there is none."""
    judged, right = (_judged() & counts).sum().over("number"), (_right() & counts).sum().over("number")
    return pl.when(judged > 0).then(right / judged)


def _right() -> Expr:
    """Is the answer right, whatever the format?"""
    reason = _reason("judgements")
    return (_there("judgements") & (reason.is_null() | reason.str.starts_with(FORMAT))).fill_null(False)


def _judged() -> Expr:
    return _right() | (_reason("judgements") == WRONG).fill_null(False)


def _end_rivals(rows: DataFrame, coupled: bool) -> DataFrame:
    """Where the responses of a rival ended. Which of the others became a rejected side is not on record."""
    verdict = _reason("judgements")
    fitting = verdict == WRONG if coupled else verdict.is_null() | verdict.str.starts_with(FORMAT)
    well = verdict.is_null() | verdict.str.starts_with(FORMAT)
    undecided = verdict.str.starts_with(UNDECIDED)
    rows = rows.with_columns(
        **_first_of(
            (
                (undecided.fill_null(False), "judge", verdict, None),
                (_reason("samples").str.starts_with(UNDECIDED).fill_null(False), "sample", _reason("samples"), None),
                (col("samples").is_not_null(), "rejected", _reason("samples"), col("refusal")),
                (~_there("judgements") | fitting.fill_null(False), "rejected", None, None),
                (well, "rejected", pl.lit("right answer"), col("rule")),
                (pl.lit(True), "rejected", verdict, col("rule")),
            )
        ),
        role=_category("rejected"),
        kept=pl.lit(False),
    )
    return rows.select(set(_COLUMNS) & set(rows.columns))


def _judging(start: str) -> tuple[_Case, ...]:
    """The cases of responses that were not judged, or not found right and well-formed."""
    reason, rule = _reason("judgements"), col("rule")
    return (
        (col("samples").is_not_null(), "sample", _reason("samples"), col("refusal")),
        (~_there("judgements"), start, _NOT_NEEDED, None),
        (reason.str.starts_with(FORMAT).fill_null(False), "format", reason.str.strip_prefix(FORMAT), rule),
        (reason.is_not_null(), "judge", reason, _found()),
    )


def _found() -> Expr:
    """The judge's rule, the answer that was found in the response, and the gold, each with the value read in it."""
    found = pl.when(col("found").is_null()).then(pl.lit("nothing")).otherwise(col("found"))
    rule, gold = col("rule").cast(pl.String), col("gold")
    told = (found, _read_as("found", "read"), pl.lit(", gold "), gold, _read_as("gold", "gold_read"))
    return pl.concat_str(rule, pl.lit(": found "), *told)


def _read_as(written: str, read: str) -> Expr:
    """The value that was read in a text, where it is not the text itself."""
    other = (col(read) != "") & (col(read) != col(written))
    return pl.when(other).then(pl.concat_str(pl.lit(" (read as "), read, pl.lit(")"))).otherwise(pl.lit(""))


def _category(name: str) -> Expr:
    return pl.lit(name).cast(pl.Categorical)


def _first_of(cases: Sequence[_Case]) -> dict[str, Expr]:
    """Stage, reason and detail of the first case whose condition holds."""
    stage = reason = detail = pl.lit(None, pl.String)
    for condition, where, why, what in reversed(cases):
        holds = pl.when(condition)
        stage = holds.then(pl.lit(where)).otherwise(stage)
        reason = holds.then(_NONE if why is None else why).otherwise(reason)
        detail = holds.then(_NONE if what is None else what.cast(pl.String)).otherwise(detail)
    return {"stage": stage.cast(pl.Categorical), "reason": reason.cast(pl.Categorical), "detail": detail}


def _there(stage: Stage) -> Expr:
    """Has the stage this response on record?"""
    return col(f"{stage}?").fill_null(False)


def _passed(stage: Stage) -> Expr:
    return _there(stage) & col(stage).is_null()


def _reason(stage: Stage) -> Expr:
    return col(stage).cast(pl.String)


def _nth(name: str) -> Expr:
    """The how manieth of its problem's responses it is for which column `name` holds, from 1."""
    return col(name).cum_sum().over("number")


def _within(name: str, most: int) -> Expr:
    """Whether it is one of the first so many; the column is called so."""
    return (_nth(name) <= most).alias(f"{name} within")


def _last_of(rows: DataFrame, target: int | None) -> tuple[int, int, int] | None:
    """The place of the `target`-th of these responses in canonical order; None if there are not so many."""
    if target is None or rows.height < target:
        return None
    places = rows.select(_PLACE).sort(_PLACE)
    round_, position, index = places.row(target - 1)
    return round_, position, index


def _last_round(rows: DataFrame, plan: Plan, problems: int) -> int | None:
    """The last round that is worth its tokens, as the search has it; None where all are."""
    recipe = plan.recipe
    if recipe.enough is None:
        return None
    name = "verified" if plan.rival is not None else "paired"
    kept = rows.filter(name, f"{name} within")
    full = kept.filter(_nth(name) == recipe.pairs_per_problem)
    pairs, full_by = (dict(frame["round"].value_counts().iter_rows()) for frame in (kept, full))
    first = min(recipe.samples_upfront, plan.policy.most)
    return last_round(recipe.enough, problems, first, pairs, full_by)


def _beyond(place: tuple[int, int, int] | None) -> Expr:
    """Does the response come after this place in canonical order?"""
    if place is None:
        return pl.lit(False)
    round_, position, index = place
    later = (col("position") > position) | ((col("position") == position) & (col("index") > index))
    return (col("round") > round_) | ((col("round") == round_) & later)


def _refused(responses: DataFrame) -> DataFrame:
    """The results of operators that were refused, on the way to a pair or in vain."""
    found = responses.filter(col("refused").is_not_null()).select("position", "index", "refused")
    rows = [
        ("corruption", f"{operator}: {why}", position, index)
        for position, index, refused in found.iter_rows()
        for operator, why in _refusals(refused)
    ]
    schema = {"stage": pl.Categorical, "reason": pl.Categorical, "position": pl.Int64, "index": pl.UInt32}
    return DataFrame(rows, schema=schema, orient="row")
