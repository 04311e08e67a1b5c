"""What became of every response: the frames of a finished run agree with its files, whatever its folder has seen."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from fakes.sums import policy, recipe, respond, write_sums

from specs_data import build, load_run
from specs_data.build.run import forecast
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import PromptRefused, Undecided, UserError
from specs_data.records import Request

SETTINGS: list[dict[str, Any]] = [
    {"samples": 4, "target": 6},
    {"samples": 4, "samples_upfront": 3, "pairs_per_problem": 2},
    {"samples": 3, "rejected_from": "base-model", "target": 5},
    {"samples": 3, "pairing": "coupled"},
]


def unwilling(request: Request) -> str:
    """Refuses some prompts, and gives some up."""
    kind = hashlib.sha256(f"{request.seed}!".encode()).digest()[0] % 7
    if kind == 0:
        raise PromptRefused("too long", "it is")
    if kind == 1:
        raise Undecided("given up", "soon")
    return respond(request)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_frames_agree_with_the_files(tmp_path: Path, settings: dict[str, Any]) -> None:
    problems = write_sums(tmp_path, 30, pictures=True)
    engines = {"engine": ScriptedEngine(unwilling), "rival": policy()}
    build(recipe(problems, samples=5, pairs_per_problem=2), tmp_path / "run", engine=engines["engine"], quiet=True)
    build(recipe(problems, **settings), tmp_path / "run", **engines, quiet=True)  # type: ignore[arg-type]
    run = load_run(tmp_path / "run")
    responses, pairs, dropped = (run.frame(name) for name in ("responses", "pairs", "dropped"))

    counts = Counter(dropped.select("stage", "reason").iter_rows())
    wanted = {(stage, why): count for stage, reasons in run.manifest.dropped.items() for why, count in reasons.items()}
    assert counts == wanted
    left = responses.filter(pl.col("reason").is_not_null()).select(pl.col("stage", "reason").cast(pl.String))
    assert Counter(left.iter_rows()) == Counter(
        {key: n for key, n in counts.items() if key[0] not in ("input", "corruption")}
    )

    kept = responses.filter("kept")
    assert sorted(f"{name}-{index}" for name, index in kept.select("problem_id", "index").iter_rows()) == sorted(
        pairs["id"]
    )
    by_id = dict(zip(pairs["id"], pairs["chosen"].to_list(), strict=True))
    for name, index, text in kept.select("problem_id", "index", "response").iter_rows():
        assert by_id[f"{name}-{index}"] == [{"role": "assistant", "content": text}]
    answered = responses.filter(
        pl.col("role") == "chosen", pl.col("response").is_not_null(), pl.col("finish_reason").is_not_null()
    )
    assert answered.height == run.manifest.counts.sampled
    assert responses.filter(pl.col("role") == "rejected").is_empty() == (settings.get("rejected_from") is None)


def test_pictures_are_left_out_of_the_pairs(tmp_path: Path) -> None:
    built = build(recipe(write_sums(tmp_path, 10, pictures=True)), tmp_path / "run", engine=policy(), quiet=True)
    pairs = built.frame("pairs")
    file = next((built.out / "dataset" / "data").glob("*.parquet"))
    rows = pq.read_table(file).to_pylist()
    assert pairs["images"].to_list() == [[image["path"] for image in row["images"]] for row in rows]
    assert set(pairs.columns) == {*rows[0], "split"}


def test_the_frames_are_those_of_the_finished_run(tmp_path: Path) -> None:
    """A pilot in the same folder changes which problems the store has in hand, not what was built."""
    problems = write_sums(tmp_path, 20)
    built = build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    before = built.frame("responses")
    forecast(recipe(problems, samples=2), tmp_path / "run", 3, engine=policy(), quiet=True)
    assert built.frame("responses").equals(before)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    built = build(recipe(write_sums(tmp_path, 5)), tmp_path / "run", engine=policy(), quiet=True)
    with pytest.raises(UserError, match="no frame 'pair'; there are responses, pairs, dropped"):
        built.frame("pair")  # type: ignore[arg-type]
    (built.out / "fates.parquet").unlink()
    with pytest.raises(UserError, match="has no fates.parquet.*run the same build again"):
        built.frame("responses")
