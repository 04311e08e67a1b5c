"""A finished run as polars frames: its responses, its pairs, and what was left out.

load_run("runs/my-policy").frame("responses").group_by("stage", "reason").len()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec
import polars as pl
from polars import DataFrame, col

from specs_data.errors import UserError
from specs_data.files import write_frame
from specs_data.rollouts.store import Store
from specs_data.rollouts.tables import Stage

FrameName = Literal["responses", "pairs", "dropped"]

FATES = "fates.parquet"
_STORE = "store.sqlite"
PILOT = "pilot"  # what a dry run leaves in the folder of its run
_SETTINGS = "settings"
# Rows are handed to polars so many at a time: as objects of Python's they take ten times their size.
_CHUNK = 50_000
_KEY = {"number": pl.UInt32(), "index": pl.UInt32()}
_DROPPED = {"stage": pl.String, "reason": pl.String, "problem_id": pl.String, "index": pl.Int64, "row": pl.Int64,
            "detail": pl.String}  # fmt: skip
_COLUMNS = [
    "problem_id", "position", "role", "policy", "index", "round", "stage", "reason", "kept", "response",
    "finish_reason", "rule", "answer", "verdict", "conclusion", "corruption", "rejected", "refused", "detail",
    "pass_rate", "solved_blind", "prompt_tokens", "completion_tokens", "answer_type", "source",
]  # fmt: skip
# What the store's records have beside what the fates say: columns, and where in the record they are.
_TEXTS: dict[Stage, dict[str, str]] = {
    "samples": {"response": "text", "finish_reason": "finish_reason"},
    "judgements": {"answer": "answer"},
    "verdicts": {"conclusion": "answer"},
    "pairs": {"rejected": "rejected.text"},
}


def to_frame(rows: Iterator[tuple[Any, ...]], schema: Mapping[str, pl.DataType]) -> DataFrame:
    """The rows of a query as a frame."""
    parts = [DataFrame(schema=schema)]
    while chunk := list(islice(rows, _CHUNK)):
        parts.append(DataFrame(chunk, schema=schema, orient="row"))
    return pl.concat(parts)


def write_fates(responses: DataFrame, settings: Mapping[str, Mapping[Stage, int]], file: Path) -> None:
    """Keep what became of the responses, with the numbers in the store under which each role's texts are logged."""
    write_frame(responses, file, {_SETTINGS: msgspec.json.encode(settings).decode()})


def read_frame(out: Path, name: FrameName) -> DataFrame:
    """A frame of the finished run in the folder `out`. Raises UserError.

    "responses" has one row per response: the stage where it ended and why, its text, and what the judge, the verifier
    and the operators made of it (the columns are described in `specs_data.build.fates`). "pairs" has the rows of the
    dataset with their split, without the bytes of pictures. "dropped" has the rows of dropped.jsonl.
    """
    readers = {"responses": _read_responses, "pairs": _read_pairs, "dropped": _read_dropped}
    if name not in readers:
        raise UserError(f"a run has no frame {name!r}; there are {', '.join(readers)}")
    try:
        return readers[name](out)
    except FileNotFoundError as error:
        missing = Path(error.filename or FATES).name
        raise UserError(
            f"{out} has no {missing}: it was interrupted, or built by an earlier release; run the same build again, "
            "it asks for nothing that is on record"
        ) from None


def store_of(out: Path) -> Path:
    """The store of the run in `out`; that of what a dry run left is the run's own."""
    return next((place for place in (out, out.parent) if (place / _STORE).exists()), out) / _STORE


def place_of(out: Path) -> Path:
    """The folder that holds what there is of the run in `out`, or of which `out` is the dataset: what a dry run left,
    where there is nothing else."""
    whose = out.parent if out.name == "dataset" else out
    return next((place for place in (out, out / PILOT, whose) if (place / FATES).exists()), out)


def read_fates(out: Path) -> tuple[DataFrame, dict[str, dict[Stage, int]]]:
    """What became of the responses of the run in `out`, and by role the numbers in its store under which each stage
    logged their texts. Raises UserError."""
    try:
        with (place_of(out) / FATES).open("rb") as file:
            return pl.read_parquet(file), msgspec.json.decode(pl.read_parquet_metadata(file)[_SETTINGS])
    except (FileNotFoundError, NotADirectoryError):
        if not out.exists():
            raise UserError(f"there is no run {out}") from None
        raise UserError(
            f"{out} is no finished run that tells what it left out: it has no {FATES}; run the same build again, "
            "it asks for nothing that is on record"
        ) from None


def _read_responses(out: Path) -> DataFrame:
    fates, settings = read_fates(out)
    with Store.to_read(store_of(place_of(out))) as store:
        parts = [
            _with_texts(store, fates.filter(col("role") == role), settings[role])
            for role in fates["role"].unique(maintain_order=True).cast(pl.String)
        ]
    found = pl.concat([fates.clear(), *parts], how="diagonal")
    missing = [pl.lit(None, pl.String).alias(name) for name in _COLUMNS if name not in found.columns]
    # The logs of later stages may also have results for what an earlier one leaves out now.
    verdict, pair = col("verdict").is_not_null(), col("stage") == "pair"
    return (
        found.with_columns(missing)
        .with_columns(conclusion=pl.when(verdict).then("conclusion"), rejected=pl.when(pair).then("rejected"))
        .select(_COLUMNS)
    )


def _with_texts(store: Store, fates: DataFrame, settings: Mapping[Stage, int]) -> DataFrame:
    for stage, number in settings.items():
        fields = ", ".join(f"json_extract(CAST(record AS TEXT), '$.{path}')" for path in _TEXTS[stage].values())
        query = f"SELECT problem, idx, {fields} FROM {stage} WHERE settings = ?"
        schema = {**_KEY, **dict.fromkeys(_TEXTS[stage], pl.String())}
        fates = fates.join(to_frame(store.select(query, (number,)), schema), on=list(_KEY), how="left")
    return fates


def _read_pairs(out: Path) -> DataFrame:
    import pyarrow.parquet as pq

    paths = col("images").list.eval(pl.element().struct.field("path"))
    frames = []
    for file in sorted((out / "dataset" / "data").glob("*.parquet")):
        with pq.ParquetFile(file) as rows:  # which can leave the bytes inside a column of pictures unread
            leaves = [name if name != "images" else "images.list.element.path" for name in rows.schema_arrow.names]
            frame = DataFrame(rows.read(columns=leaves))
        frames.append(frame.with_columns(images=paths, split=pl.lit(file.name.partition("-")[0])))
    return pl.concat(frames) if frames else DataFrame()


def _read_dropped(out: Path) -> DataFrame:
    content = (out / "dropped.jsonl").read_bytes()
    return pl.read_ndjson(content, schema=_DROPPED) if content else DataFrame(schema=_DROPPED)
