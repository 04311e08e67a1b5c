"""What an evaluation says, as it stands on disk: one JSON object.

    {"policy": "ckpt/base", "problems": "test.jsonl", "n": 600, "samples": 8,
     "format": {"value": 0.427, "low": 0.399, "high": 0.455}, "accuracy": {...},
     "pass_at": {"1": 0.85, "2": 0.91, "4": 0.95, "8": 0.98},
     "rbf": {"value": 1.73, "low": 1.70, "high": 1.76, "p": 0.95, "temperature": 1.0, "tokens": 53211, ...},
     "by_type": {"numeric": {...}}, "by_source": {...}, "by_format": {"think-answer": {...}, "json": {...}}, ...}

It is written exactly so and read tolerantly: a figure may be a bare number, a part may be missing or null,
and what is not known here is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from specs_data.errors import UserError, first_line
from specs_data.files import write_whole
from specs_data.measure.estimate import Estimate


class Rbf(Struct, frozen=True):
    """The Rollout Branching Factor (arXiv 2508.07534, section 2.2): the size of the nucleus of mass `p` at each
    generated token, averaged over `tokens`, in the distribution at `temperature`.

    `beyond` is the share of tokens whose nucleus was larger than what the engine told of it. Each of them counts
    as one more than that, so `value` is then a lower bound. It is measured on the first 480 responses, a first one to
    each problem before a second one; `by_size` is the factor over the first 120 and 240 of them, as in the paper.
    Where there is none, `value` is None and `reason` says why.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    temperature: float | None = None
    tokens: int = 0
    beyond: float = 0.0
    by_size: dict[str, float] = {}
    reason: str | None = None


class Lengths(Struct, frozen=True):
    """Completion tokens of the responses, and the share of those that were cut off at the limit."""

    mean: float
    median: float
    p95: float
    cut_off: float


class Slice(Struct, frozen=True):
    """Figures over `n` problems. `format` and `accuracy` are shares of the responses, None where nothing tells them;
    `pass_at` is the unbiased pass@k by k, `pass_at_interval` its 95 % interval."""

    n: int = 0
    format: Estimate | None = None
    accuracy: Estimate | None = None
    pass_at: dict[str, float] = {}
    pass_at_interval: dict[str, tuple[float, float]] = {}


class FormatSlice(Slice, frozen=True):
    """A Slice over the responses in one asked-for format, with what only makes sense within one.

    `format_errors` counts the malformed responses by class; `consistency` is the share of right and well-formed
    responses whose reasoning leads to their answer, by `verifier`; `unjudged` counts responses without a verdict."""

    rbf: Rbf | None = None
    consistency: Estimate | None = None
    lengths: Lengths | None = None
    format_errors: dict[str, int] = {}
    unjudged: int = 0


class Evaluation(FormatSlice, frozen=True, kw_only=True):
    """One policy on one set of problems, `samples` responses to each. Its own figures are those of the first format,
    which is the in-distribution one; `by_format` has every format in the order of asking. `left_out` counts by reason
    what could not be measured, and `settings` are those that decide the responses."""

    policy: str = ""
    problems: str = ""
    samples: int = 1
    by_type: dict[str, Slice] = {}
    by_source: dict[str, Slice] = {}
    by_format: dict[str, FormatSlice] = {}
    verifier: str | None = None
    left_out: dict[str, int] = {}
    settings: dict[str, Any] = {}


def write_evaluation(evaluation: Evaluation, file: Path) -> None:
    """Write the JSON object. Raises UserError."""
    write_file(file, encode(evaluation))


def write_file(file: Path, content: bytes) -> None:
    """Write a file that the user asked for, whole or not at all, and the folders above it. Raises UserError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None


def encode(evaluation: Evaluation) -> bytes:
    """The evaluation as indented JSON, what was evaluated first."""
    fields = msgspec.to_builtins(evaluation)
    first = {name: fields.pop(name) for name in ("policy", "problems", "n", "samples")}
    return msgspec.json.format(msgspec.json.encode(first | fields), indent=2) + b"\n"


def read_evaluation(file: Path) -> Evaluation:
    """The evaluation in `file`: one of ours, or a result file of VLMEvalKit or lmms-eval. Raises UserError."""
    from specs_data.measure.harness import harness_evaluation

    foreign = harness_evaluation(file)
    return foreign or as_evaluation(_object(file), str(file))


def as_evaluation(found: Mapping[str, Any], where: str) -> Evaluation:
    """`found` as an evaluation; `where` names it in the UserError for what is none."""
    if not isinstance(found, Mapping) or not found.keys() & {"accuracy", "format", "by_format"}:
        raise UserError(f"{where} is not an evaluation: it has no accuracy, format or by_format")
    try:
        return msgspec.convert(_tolerant(found), Evaluation, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{where} is not an evaluation: {first_line(error)}") from None


def _object(file: Path) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the evaluation {file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UserError(f"{file} is not an evaluation: it is not JSON") from None


def _tolerant(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same with bare numbers as estimates, and null or empty parts left to their defaults."""
    made = {key: value for key, value in found.items() if value is not None and key not in _SHAPED}
    for key in ("format", "accuracy", "consistency"):
        if found.get(key) is not None:
            made[key] = _estimate(found[key], key)
    for key in ("by_type", "by_source", "by_format"):
        parts = _named(found.get(key), key)
        made[key] = {name: _tolerant(part) for name, part in parts.items() if isinstance(part, Mapping)}
    passed = _named(found.get("pass_at"), "pass_at")
    made["pass_at"] = {_k(k): _estimate(value, "pass_at")["value"] for k, value in passed.items() if value is not None}
    rbf = found.get("rbf")
    if rbf is not None:
        made["rbf"] = rbf if isinstance(rbf, Mapping) else {"reason": rbf} if isinstance(rbf, str) else {"value": rbf}
    return made


_SHAPED = frozenset(("format", "accuracy", "consistency", "by_type", "by_source", "by_format", "pass_at", "rbf"))


def _k(name: str) -> str:
    if not name.isdecimal():
        raise msgspec.ValidationError(f"pass_at has {name!r} and not a number of responses")
    return name


def _estimate(value: Any, key: str) -> Any:
    """A bare number as an estimate. A share that is no number between 0 and 1 is refused: percents, or NaN."""
    made = value if isinstance(value, Mapping) else {"value": value}
    number = made.get("value")
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise msgspec.ValidationError(f"{key} is {number!r} and not a number")
    if not 0 <= number <= 1:
        raise msgspec.ValidationError(f"{key} is {number} and not a share between 0 and 1")
    return made


def _named(parts: Any, key: str) -> Mapping[str, Any]:
    """Parts by name, also where they are a list of objects with a name."""
    if isinstance(parts, list):
        named = ((part.get("name", number), part) for number, part in enumerate(parts) if isinstance(part, Mapping))
        return {str(name): part for name, part in named}
    if parts is not None and not isinstance(parts, Mapping):
        raise msgspec.ValidationError(f"{key} is not an object")
    return parts or {}
