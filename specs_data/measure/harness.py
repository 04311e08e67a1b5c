"""Results of VLMEvalKit and of lmms-eval as evaluations, so that who evaluates there gets GF and the tables here.

What is read, by content:

- VLMEvalKit's `*_score.csv` with the columns `tot` and `hit` (MathVista, MathVision); `*_acc.csv` with one row per
  `split` and the column `Overall` (MMMU and all multiple choice); MathVerse's, with `accuracy`, `correct`, `total`;
  tables with one row per problem and its `hit` or `score`. As CSV, TSV, or JSON (`EVAL_FORMAT=json`).
- lmms-eval's `*_results.json`, and its `*_samples_TASK.jsonl` (`--log_samples`).

Neither knows a response format: `format` is None, and `by_format` has the benchmarks and tasks in the file's order.
"""

from __future__ import annotations

import ast
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from specs_data.errors import UserError
from specs_data.measure.estimate import Estimate, estimate
from specs_data.measure.evaluation import Evaluation, FormatSlice, Slice

Row = Mapping[str, Any]

_SPLITS = ("validation", "val", "test", "testmini", "none")  # of several, the first of these is meant
_HITS = ("hit", "score", "match")
_METRICS = ("acc", "exact_match", "eval", "score", "correct")
_NORMAL = 1.96


def harness_evaluation(file: Path) -> Evaluation | None:
    """The evaluation in a result file of VLMEvalKit or lmms-eval; None where `file` is of neither kind.

    Raises UserError for a file of theirs that does not say how many were right.
    """
    kind = file.suffix.lower()
    if kind in (".xlsx", ".xls", ".pkl"):
        raise UserError(
            f"{file} is no text: give the _acc.csv or _score.csv beside it, or run VLMEvalKit with EVAL_FORMAT=csv"
        )
    if kind in (".csv", ".tsv"):
        return _vlmevalkit(file, _table(file, "\t" if kind == ".tsv" else ","))
    if kind == ".jsonl":
        return _samples(file)
    found = _json(file)
    if isinstance(found, list) and found and all(isinstance(row, Mapping) for row in found):
        return _vlmevalkit(file, found)
    if isinstance(found, Mapping) and isinstance(found.get("results"), Mapping):
        return _lmms_results(file, found)
    return None


# VLMEvalKit


def _vlmevalkit(file: Path, rows: Sequence[Row]) -> Evaluation:
    columns = set(rows[0]) if rows else set()
    if {"tot", "hit"} <= columns:
        whole = _counted_rows(rows)
    elif "Overall" in columns:
        whole = _split_rows(rows)
    elif {"correct", "total"} <= columns:
        whole = _mathverse_rows(rows)
    else:
        whole = _problem_rows(file, rows, columns)
    policy, problems = _names(file)
    return _one(policy, problems, *whole)


def _counted_rows(rows: Sequence[Row]) -> tuple[Slice, dict[str, Slice]]:
    """Rows with a name in their first column, and how many of how many were hit."""
    parts = {str(next(iter(row.values()))): _counted(_number(row["hit"]), _number(row["tot"])) for row in rows}
    whole = parts.pop("Overall", None)
    return whole or Slice(), parts


def _split_rows(rows: Sequence[Row]) -> tuple[Slice, dict[str, Slice]]:
    """A row per split with a share in each column."""
    by_split = {str(row.get("split", "none")): row for row in rows}
    row = next((by_split[name] for name in _SPLITS if name in by_split), rows[0])
    shares = {name: _share(value) for name, value in row.items() if name != "split"}
    parts = {name: Slice(accuracy=Estimate(value)) for name, value in shares.items() if value is not None}
    whole = parts.pop("Overall", None)
    return whole or Slice(), parts


def _mathverse_rows(rows: Sequence[Row]) -> tuple[Slice, dict[str, Slice]]:
    """One row with the totals; the others have a Python dict per group in a cell."""
    totals = next((row for row in rows if _number(row["total"])), None)
    parts = {}
    for row in rows:
        for name, cell in row.items():
            group = _literal(cell)
            if isinstance(group, Mapping) and {"correct", "total"} <= group.keys():
                parts[name] = _counted(_number(group["correct"]), _number(group["total"]))
    return _counted(_number(totals["correct"]), _number(totals["total"])) if totals else Slice(), parts


def _problem_rows(file: Path, rows: Sequence[Row], columns: set[str]) -> tuple[Slice, dict[str, Slice]]:
    """A row per problem."""
    hit = next((name for name in _HITS if name in columns), None)
    if hit is None:
        raise UserError(f"{file} does not say what was right: it has no column hit, score, tot or Overall")
    right = [_truth(row[hit]) for row in rows]
    if not all(0 <= one <= 1 for one in right):
        raise UserError(f"{file} does not say what was right: {hit} is a mark, up to {max(right):g}, and not 0 or 1")
    group = next((name for name in ("category", "task", "subject") if name in columns), None)
    names = [str(row[group]) for row in rows] if group else []
    parts = {
        name: _judged([one for one, other in zip(right, names, strict=True) if other == name])
        for name in dict.fromkeys(names)
    }
    return _judged(right), parts


def _names(file: Path) -> tuple[str, str]:
    """(model, dataset) of OUT/MODEL/[ID/]MODEL_DATASET[_JUDGE]_acc.csv; the judge stays in the dataset's name."""
    model = next((part.name for part in file.resolve().parents if file.name.startswith(f"{part.name}_")), "")
    stem = file.stem.removeprefix(f"{model}_") if model else file.stem
    for ending in ("_acc", "_score", "_result"):
        stem = stem.removesuffix(ending)
    return model or stem, stem


# lmms-eval


def _lmms_results(file: Path, found: Mapping[str, Any]) -> Evaluation:
    sizes = found.get("n-samples") or {}
    parts: dict[str, FormatSlice] = {}
    for task, metrics in found["results"].items():
        size = sizes.get(task) if isinstance(sizes, Mapping) else None
        n = int(_number(size.get("effective")) or 0) if isinstance(size, Mapping) else 0
        accuracy = _metric(metrics, n) if isinstance(metrics, Mapping) else None
        if accuracy is not None:
            parts[task] = FormatSlice(n=n, accuracy=accuracy)
    if not parts:
        raise UserError(f"{file} has no accuracy of any task")
    policy = str(found.get("model_name") or (found.get("config") or {}).get("model_args") or file.parent.name)
    return _several(policy, parts)


def _metric(metrics: Mapping[str, Any], n: int) -> Estimate | None:
    """The accuracy among a task's metrics, which are called NAME,FILTER: a share, or percents where above 1."""
    known = {
        name: share
        for name, value in metrics.items()
        if "stderr" not in name and "pass_at" not in name and (share := _share(value)) is not None
    }
    name = next((name for hint in _METRICS for name in known if hint in name.partition(",")[0]), None)
    if name is None:
        return None
    metric, _, kind = name.partition(",")
    error = _number(metrics.get(f"{metric}_stderr,{kind}"))
    if error is None or error > 1:
        return _counted(round(known[name] * n), n).accuracy if n else Estimate(known[name])
    low, high = known[name] - _NORMAL * error, known[name] + _NORMAL * error
    return Estimate(known[name], max(0.0, low), min(1.0, high))


def _samples(file: Path) -> Evaluation:
    rights: list[float] = []
    for number, row in enumerate(_lines(file)):
        right = _sample_right(row)
        if right is None:
            raise UserError(
                f"row {number} of {file} does not say whether it is right; give the *_results.json beside it"
            )
        rights.append(right)
    if not rights:
        raise UserError(f"{file} has no samples")
    task = file.stem.rpartition("_samples_")[2].removeprefix("samples_")
    return _one(file.resolve().parent.name, task, _judged(rights), {})


def _sample_right(row: Row) -> float | None:
    """How right a logged sample is: its metric is a number, or an object that holds the verdict."""
    for hint in _METRICS:
        for name, value in row.items():
            if hint in name and "pass_at" not in name and (right := _right(value)) is not None:
                return right
    return None


def _right(value: Any) -> float | None:
    if isinstance(value, Mapping):
        verdicts = (value[name] for name in ("true_false", "scores", "score", "correct") if name in value)
        return next((right for right in map(_right, verdicts) if right is not None), None)
    if isinstance(value, list):
        found = [_right(one) for one in value]
        known = [one for one in found if one is not None]
        return sum(known) / len(known) if known else None
    number = float(value) if isinstance(value, bool) else _number(value)
    return number if number is not None and 0 <= number <= 1 else None  # percents are of many, marks are no verdict


# What both share


def _one(policy: str, problems: str, whole: Slice, parts: Mapping[str, Slice]) -> Evaluation:
    if whole.accuracy is None:
        raise UserError(f"the results of {problems} do not say how many were right overall")
    only = FormatSlice(n=whole.n, accuracy=whole.accuracy)
    return Evaluation(
        policy=policy,
        problems=problems,
        n=whole.n,
        accuracy=whole.accuracy,
        by_type=dict(parts),
        by_format={problems: only},
    )


def _several(policy: str, parts: dict[str, FormatSlice]) -> Evaluation:
    first = next(iter(parts.values()))
    return Evaluation(policy=policy, problems=", ".join(parts), n=first.n, accuracy=first.accuracy, by_format=parts)


def _counted(right: float | None, total: float | None) -> Slice:
    if right is None or not total or not 0 <= right <= total:
        return Slice()
    hits, n = round(right), int(total)
    return _judged([1.0] * hits + [0.0] * (n - hits))


def _judged(right: Sequence[float]) -> Slice:
    return Slice(n=len(right), accuracy=estimate(right))


def _number(value: Any) -> float | None:
    """A finite number, also where it is written as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _share(value: Any) -> float | None:
    """A share of 1; above 1 it was in percents."""
    number = float(value) if isinstance(value, bool) else _number(value)
    if number is None or not 0 <= number <= 100:
        return None
    return number / 100 if number > 1 else number


def _truth(value: Any) -> float:
    return {"true": 1.0, "false": 0.0}.get(str(value).strip().lower(), _number(value) or 0.0)


def _literal(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith("{"):
        return cell
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(cell)
    return None


def _table(file: Path, mark: str) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return list(csv.DictReader(lines, delimiter=mark, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file}: {error}") from None


def _json(file: Path) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UserError(f"{file} is not JSON") from None


def _lines(file: Path) -> Iterator[Row]:
    try:
        for line in file.read_bytes().splitlines():
            if line.strip():
                row = msgspec.json.decode(line)
                if not isinstance(row, Mapping):
                    raise UserError(f"{file} has a line that is not a JSON object")
                yield row
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UserError(f"{file} has a line that is not JSON") from None
