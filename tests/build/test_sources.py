"""Which problems are asked about: a fair sample of their source, or of several."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.sums import dataset_bytes, picture, policy, recipe, write_sums

from specs_data import build, make_recipe
from specs_data.build.run import Built, forecast
from specs_data.errors import UserError

SOURCES = ("algebra", "charts", "geometry", "maps", "science", "tables")


def write_sorted(folder: Path, each: int = 60, kind: str = "jsonl") -> Path:
    """Sums that are sorted by the six sources that they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"{source}-{n}", "question": f"What is {n} + 1?", "answer": str(n + 1), "source": source}
        for source in SOURCES
        for n in range(each)
    ]
    file = folder / f"problems.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=50)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def by_source(built: Built) -> Counter[str]:
    """The dataset's pairs by the source of their problems."""
    return Counter((pair.problem_id or "").partition("-")[0] for pair in built.pairs())


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_target_on_a_sorted_source_is_a_fair_sample(tmp_path: Path, kind: str) -> None:
    problems = write_sorted(tmp_path, kind=kind)
    built = build(recipe(problems, target=60), tmp_path / "run", engine=policy(), quiet=True)
    pairs = by_source(built)
    assert pairs.total() == 60 and set(pairs) == set(SOURCES)
    assert sum((pairs[source] - 10) ** 2 / 10 for source in SOURCES) < 15.1  # chi-square, 5 degrees: 1 % of samples
    rows = [pair.problem_id for pair in built.pairs()]
    assert rows != sorted(rows) and built.recipe.shuffle is True
    in_order = build(recipe(problems, target=60, shuffle=False), tmp_path / "not", engine=policy(), quiet=True)
    assert set(by_source(in_order)) < set(SOURCES)


def test_the_same_seed_draws_the_same_and_another_draws_others(tmp_path: Path) -> None:
    problems = write_sorted(tmp_path)
    runs = [
        build(recipe(problems, target=20, seed=seed), tmp_path / name, engine=policy(), quiet=True)
        for name, seed in (("one", 0), ("two", 0), ("three", 1))
    ]
    ids = [[pair.problem_id for pair in run.pairs()] for run in runs]
    assert ids[0] == ids[1] and not set(ids[0]) <= set(ids[2])


def test_a_source_that_grows_keeps_what_was_drawn_of_it(tmp_path: Path) -> None:
    problems, engine = write_sums(tmp_path, 40), policy()
    build(recipe(problems, shuffle=True), tmp_path / "run", engine=engine, quiet=True)
    before = engine.calls
    ids = [row["id"] for row in map(json.loads, problems.read_text().splitlines())]
    write_sums(tmp_path, 60)
    built = build(recipe(problems, shuffle=True), tmp_path / "run", engine=engine, quiet=True)
    assert engine.calls - before <= 20 * 8
    kept = [pair.problem_id for pair in built.pairs() if pair.problem_id in ids]
    fresh = build(recipe(problems, limit=1, shuffle=False), tmp_path / "other", engine=policy(), quiet=True)
    assert len(kept) > 20 and fresh.manifest.counts.problems == 1


@pytest.mark.parametrize("shuffle", [True, False])
def test_balanced_sources_take_turns(tmp_path: Path, shuffle: bool) -> None:
    problems = write_sorted(tmp_path, 30)
    settings = {"limit": 62, "balance": "source", "shuffle": shuffle}
    built = build(recipe(problems, **settings), tmp_path / "run", engine=policy(), quiet=True)
    asked = {name: line.problems for name, line in built.manifest.yields.source.items()}
    assert set(asked) == set(SOURCES) and sum(asked.values()) == 62 and {*asked.values()} == {10, 11}


def test_files_are_sources_where_problems_name_none(tmp_path: Path) -> None:
    files = [write_sums(tmp_path / name, count) for name, count in (("many", 60), ("few", 4))]
    settings = make_recipe({"problems": list(map(str, files)), "verifier": "none", "balance": "source", "limit": 20})
    built = build(settings, tmp_path / "run", engine=policy(), quiet=True)
    # Four of the sums are in both files, and are the same problems.
    assert built.manifest.counts.problems + built.manifest.dropped["input"].get("duplicate", 0) == 20


def test_several_problems_each_with_its_preset(tmp_path: Path) -> None:
    """MathVista's columns in one file, our own in another; two problems of one id are two problems."""
    (tmp_path / "vista").mkdir()
    (tmp_path / "vista" / "red.png").write_bytes(picture(3))
    row: dict[str, Any] = {"pid": "sum-1", "question": "What is 40 + 1?", "answer": "41", "decoded_image": "red.png"}
    row |= {"question_type": "free_form", "metadata": {"source": "charts"}}
    vista = tmp_path / "vista" / "testmini.jsonl"
    vista.write_text(json.dumps(row) + "\n")
    sums = write_sums(tmp_path, 3)
    given = {"problems": [str(sums), str(vista)], "verifier": "none", "samples": 12}
    built = build(
        make_recipe({**given, "preset": ["none", "mathvista"]}), tmp_path / "run", engine=policy(), quiet=True
    )
    pairs = {pair.problem_id: pair for pair in built.pairs()}
    assert {"sum-0", "sum-1", "sum-2", "testmini.jsonl/sum-1"} == set(pairs)
    assert [len(pairs[name].images) for name in ("sum-1", "testmini.jsonl/sum-1")] == [0, 1]
    assert pairs["testmini.jsonl/sum-1"].answer == "41"
    with pytest.raises(UserError, match="2 --problems and 1 --preset: give one for each"):
        build(make_recipe({**given, "preset": ["mathvista"]}), tmp_path / "run", engine=policy(), quiet=True)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    rows = {name: {"id": "1", "question": f"What is {n} + 1?", "answer": str(n + 1)} for n, name in enumerate("abc")}
    files = [tmp_path / name / "train.jsonl" for name in rows]
    for file, row in zip(files, rows.values(), strict=True):
        file.parent.mkdir()
        file.write_text(json.dumps(row) + "\n")
    given = {"problems": list(map(str, files)), "verifier": "none", "samples": 20}
    built = build(make_recipe(given), tmp_path / "run", engine=policy(), quiet=True)
    assert [pair.problem_id for pair in built.pairs()] == ["1", "train.jsonl-2/1", "train.jsonl-3/1"]


def test_what_is_left_out_of_several_says_of_which(tmp_path: Path) -> None:
    sums = write_sums(tmp_path, 3)
    (tmp_path / "bad.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}\n{"question": "?"}\n')
    given = make_recipe({"problems": [str(sums), str(tmp_path / "bad.jsonl")], "verifier": "none", "shuffle": True})
    built = build(given, tmp_path / "run", engine=policy(), quiet=True)
    left = built.frame("dropped").filter(stage="input")
    assert left.select("reason", "row", "detail").rows() == [("no answer", 1, "bad.jsonl")]


def test_a_run_of_an_earlier_release_goes_on_in_the_order_of_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems, run = write_sorted(tmp_path), tmp_path / "run"
    build(recipe(problems, target=20, shuffle=False), run, engine=policy(), quiet=True)
    before = {name: data for name, data in dataset_bytes(run).items() if name.endswith(".parquet")}
    with closing(sqlite3.connect(run / "store.sqlite")) as store:  # as that release left it
        store.execute("DROP TABLE traits")
    written = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text("".join(line for line in written.splitlines(True) if "shuffle" not in line))
    for _ in range(2):
        engine = policy()
        again = build(recipe(problems, target=20), run, engine=engine)
        assert engine.calls == 0 and again.recipe.shuffle is False
        assert before == {name: data for name, data in dataset_bytes(run).items() if name.endswith(".parquet")}
    told = capsys.readouterr().err
    assert "goes on in the order of the source" in told and "changed since the last build" not in told
    shuffled = build(recipe(problems, target=20, shuffle=True), run, engine=policy(), quiet=True)
    assert len(by_source(shuffled)) > len(SOURCES) - 2


def test_a_shuffled_run_typed_again_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = write_sorted(tmp_path)
    build(recipe(problems, target=20), tmp_path / "run", engine=policy(), quiet=True)
    engine = policy()
    build(recipe(problems, target=20), tmp_path / "run", engine=engine)
    told = capsys.readouterr().err
    assert engine.calls == 0 and "nothing has changed" in told and "changed since the last" not in told


def test_a_dry_run_asks_in_the_order_of_the_build(tmp_path: Path) -> None:
    settings, engine, fresh = recipe(write_sorted(tmp_path), target=60, samples=1), policy(), policy()
    forecast(settings, tmp_path / "run", 16, engine=engine, quiet=True)
    assert engine.calls == 16
    build(settings, tmp_path / "run", engine=engine, quiet=True)
    build(settings, tmp_path / "fresh", engine=fresh, quiet=True)
    assert engine.calls == fresh.calls


def test_a_sample_of_a_hub_dataset_is_drawn_of_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [
        {"question": f"What is {n} + 1?", "answer": str(n + 1), "image": {"bytes": picture(n), "path": None}}
        for n in range(40)
    ]
    features = {"question": datasets.Value("string"), "answer": datasets.Value("string"), "image": datasets.Image()}
    whole = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    asked: list[bool] = []

    def load(*_: object, streaming: bool, **__: object) -> object:
        asked.append(streaming)
        return whole.to_iterable_dataset() if streaming else whole

    monkeypatch.setattr(datasets, "load_dataset", load)
    given = make_recipe({"problems": "me/sums", "verifier": "none", "target": 5})
    built = build(given, tmp_path / "run", engine=policy(), quiet=True)
    answers = [int(pair.answer or 0) for pair in built.pairs()]
    assert len(answers) == 5 and answers != sorted(answers)
    assert all(pair.images[0].content == picture(int(pair.answer or 0) - 1) for pair in built.pairs())
    assert asked == [True, False]  # its first rows show the columns
    in_order = build(
        make_recipe({**given.model_dump(exclude_none=True), "shuffle": False}),
        tmp_path / "b",
        engine=policy(),
        quiet=True,
    )
    assert sorted(int(pair.answer or 0) for pair in in_order.pairs())[-1] < 20 and asked[2:] == [True]


def test_two_problems_of_one_id_in_one_source_are_told_from_duplicates(tmp_path: Path) -> None:
    sums = [json.loads(line) for line in write_sums(tmp_path / "sums", 2).read_text().splitlines()]
    rows = [sums[0], {**sums[1], "id": sums[0]["id"]}, sums[0]]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build(recipe(tmp_path / "p.jsonl"), tmp_path / "run", engine=policy(), quiet=True)
    left_out = map(json.loads, (tmp_path / "run" / "dropped.jsonl").read_text().splitlines())
    told = [row["detail"] for row in left_out if row["reason"] == "duplicate"]
    assert told == [f"{sums[0]['id']}: another problem has this id", sums[0]["id"]]
