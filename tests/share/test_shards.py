"""Shards of a run: disjoint, together the whole, and joined they are what one run gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.sums import dataset_bytes, picture, policy, recipe, write_sums

from specs_data import build
from specs_data.build.keep import default_out
from specs_data.errors import UserError
from specs_data.pairs.manifest import Manifest, read_manifest
from specs_data.recipe import make_recipe
from specs_data.share.merge import merge

OF = 3
# What differs from run to run, whoever runs it.
OWN = ("started", "finished", "seconds", "card_sha256")


def write_problems(folder: Path) -> Path:
    """Sums with shared pictures, some of which are left out: one twice, one without an answer, no JSON, no id."""
    problems = write_sums(folder, 60, pictures=True)
    (folder / "far.png").write_bytes(picture(999))
    more: list[dict[str, Any]] = [
        {"id": "sum-7", "question": "What is 7 + 1?", "answer": "8", "images": ["3.png"]},
        {"id": "none", "question": "What is 1 + 1?"},
        {"question": "What is 100 + 1?", "answer": "101", "images": ["far.png"], "source": "far"},
        {"question": "What is 100 + 1?", "answer": "101", "images": ["far.png"], "source": "far"},
        {"question": "What is 200 + 1?", "answer": "201", "images": ["lost.png"]},
    ]
    with problems.open("a") as lines:
        lines.write("no JSON\n")
        lines.writelines(json.dumps(row) + "\n" for row in more)
    return problems


def write_responses(file: Path) -> None:
    """Right and wrong responses to the sums; some name no problem, or are none."""
    rows = [
        {"problem_id": f"sum-{number}", "response": f"<think>{number} + 1.</think><answer>\\boxed{{{answer}}}</answer>"}
        for number in range(70)
        for answer in (number + 1, number)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *({"problem_id": n} for n in range(9))]))


def run_shards(problems: Path, folder: Path, **settings: Any) -> list[Path]:
    runs = [folder / f"part-{number}" for number in range(1, OF + 1)]
    for number, run in enumerate(runs, 1):
        build(recipe(problems, **settings, shard=f"{number}/{OF}"), run, engine=policy(), rival=policy(), quiet=True)
    return runs


def manifest_of(run: Path) -> Manifest:
    found = read_manifest((run / "manifest.json").read_bytes())
    assert found is not None
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"holdout": 0.3, "pairs_per_problem": 2, "verifier": "none"},
        {"holdout": 0.2, "shuffle": True, "balance": "source", "limit": 50},
        {"rejected_from": "base-model", "samples": 4},
        {"pass_rate": "0.2..0.9", "samples_upfront": 3, "blind_check": "flag", "exclude": "benchmark.jsonl"},
        {"responses": "given.jsonl", "rejected_responses": "given.jsonl", "pairing": "coupled", "verifier": "none"},
    ],
    ids=["plain", "holdout", "shuffled", "rival", "screened", "given"],
)
def test_shards_joined_are_the_whole_run(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "exclude" in settings:
        pytest.importorskip("imagehash")
    problems = write_problems(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("benchmark.jsonl").write_text('{"question": "What is 30 + 1?"}\n{"question": "What is 41 + 1?"}\n')
    write_responses(Path("given.jsonl"))
    build(recipe(problems, **settings), tmp_path / "whole", engine=policy(), rival=policy(), quiet=True)
    runs = run_shards(problems, tmp_path, **settings)
    merge(runs[::-1], tmp_path / "joined")
    assert dataset_bytes(tmp_path / "joined") == dataset_bytes(tmp_path / "whole")
    dropped = [sorted((tmp_path / name / "dropped.jsonl").read_bytes().splitlines()) for name in ("joined", "whole")]
    assert dropped[0] == dropped[1] and len(dropped[0]) > 4
    joined, whole = (
        {name: value for name, value in dict(manifest_of(tmp_path / run)).items() if name not in OWN}
        for run in ("joined", "whole")
    )
    assert joined == whole and whole["counts"]["pairs"] > 20
    assert all(manifest_of(run).counts.problems > 5 for run in runs)  # type: ignore[union-attr]


def test_a_target_is_divided(tmp_path: Path) -> None:
    problems = write_problems(tmp_path)
    runs = run_shards(problems, tmp_path, target=20)
    assert [manifest_of(run).counts.pairs for run in runs] == [7, 7, 6]  # type: ignore[union-attr]
    merge(runs, tmp_path / "joined")
    assert manifest_of(tmp_path / "joined").counts.pairs == 20  # type: ignore[union-attr]
    with pytest.raises(UserError, match="a target of 2 leaves some of 3 shards with nothing to do"):
        recipe(problems, target=2, shard="1/3")


def test_a_shard_that_has_no_pair_is_no_hindrance(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 2)
    build(recipe(problems, samples=20), tmp_path / "whole", engine=policy(), quiet=True)
    runs = run_shards(problems, tmp_path, samples=20)
    assert any(not (run / "dataset").exists() for run in runs)
    merge(runs, tmp_path / "joined")
    assert dataset_bytes(tmp_path / "joined") == dataset_bytes(tmp_path / "whole")


def test_each_shard_has_a_folder_of_its_own(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 2)
    places = [default_out(recipe(problems, policy="ckpt/zero", shard=shard)) for shard in (None, "1/2", "2/2")]
    assert list(map(str, places)) == ["runs/ckpt--zero", "runs/ckpt--zero-1-of-2", "runs/ckpt--zero-2-of-2"]


def test_a_shard_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 12)
    build(recipe(problems, shard="1/2"), tmp_path / "run", engine=policy(), quiet=True)
    for shard in ("2/2", None):
        with pytest.raises(UserError, match=f"of other shard .1/2 -> {shard}.; use another --out"):
            build(recipe(problems, shard=shard), tmp_path / "run", engine=policy(), quiet=True)


def test_of_several_sources_each_shard_knows_its_own_responses(tmp_path: Path) -> None:
    sources = [str(write_sums(tmp_path / name, 9)) for name in ("a", "b")]
    other = Path(sources[1])
    other.write_text(other.read_text().replace("What is", "How much is"))
    given = tmp_path / "given.jsonl"
    names = [f"{label}sum-{number}" for number in range(9) for label in ("", "problems.jsonl-2/")]
    given.write_text("".join(json.dumps({"problem_id": name, "response": "?"}) + "\n" for name in names))
    for shard in ("1/2", "2/2"):
        settings = {"problems": sources, "responses": str(given), "shard": shard}
        built = build(make_recipe({"verifier": "none", **settings}), tmp_path / shard[0], quiet=True, go_on=True)
        assert 0 < built.manifest["counts"]["problems"] < 18
        assert "unknown problem_id" not in built.manifest["dropped"].get("responses", {})


def test_shards_that_are_missing_or_of_other_runs_are_told(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 12)
    runs = run_shards(problems, tmp_path)
    with pytest.raises(UserError, match="of the 3 shards 2/3 is missing"):
        merge([runs[0], runs[2]], tmp_path / "joined")
    with pytest.raises(UserError, match="a shard is given twice"):
        merge([*runs, runs[0]], tmp_path / "joined")
    build(recipe(problems, shard="3/4"), tmp_path / "fourth", engine=policy(), quiet=True)
    with pytest.raises(UserError, match="1/3 and 3/4 are shards of different divisions"):
        merge([*runs[:2], tmp_path / "fourth"], tmp_path / "joined")
    build(recipe(problems, seed=1, shard="2/3"), tmp_path / "other", engine=policy(), quiet=True)
    with pytest.raises(UserError, match="shards of different runs"):
        merge([runs[0], tmp_path / "other", runs[2]], tmp_path / "joined")
    with pytest.raises(UserError, match="should look like 1/8"):
        recipe(problems, shard="4/3")
