"""A store written by an earlier release: the same datasets come of it, and nothing is generated again.

`golden/` holds the store that six builds of the shipped checkpoints left behind, and what they gave. A change
that makes other keys would have every user pay for the same tokens again.

Where a change makes other pairs on purpose, `python tests/test_golden.py` writes what the pairs are now. It refuses
to write if a response, a judgement or a verdict has another key, or if a count is another.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sqlite3
import tempfile
from contextlib import chdir, closing
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from specs_data import build, make_recipe
from specs_data.mini import checkpoint

GOLDEN = Path(__file__).parent / "golden"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
CHECKPOINTS = {name: str(checkpoint(name)) for name in ("base", "grpo-zero")}


def digest_rows(file: Path) -> str:
    """The digest of a Parquet file's schema and rows, whichever release of pyarrow wrote it."""
    table = pq.read_table(file)
    return hashlib.sha256(msgspec.json.encode([str(table.schema), table.to_pylist()])).hexdigest()


def unpack(folder: Path) -> Path:
    """The golden files in `folder`, with the store unpacked in its run."""
    shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
    (folder / "run").mkdir()
    (folder / "run" / "store.sqlite").write_bytes(gzip.decompress((GOLDEN / "store.sqlite.gz").read_bytes()))
    return folder


def rebuild(run: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """What a recipe gives now."""
    recipe = {key: CHECKPOINTS.get(str(value), value) for key, value in wanted["recipe"].items()}
    built = build(make_recipe(recipe), run, quiet=True, overwrite=True)
    dataset = built.out / "dataset"
    lines = sorted((built.out / "dropped.jsonl").read_bytes().splitlines(True))
    return {
        "parquet": {str(file.relative_to(dataset)): digest_rows(file) for file in sorted(dataset.rglob("*.parquet"))},
        "counts": built.manifest["counts"],
        "dropped": built.manifest["dropped"],
        "dropped.jsonl": hashlib.sha256(b"".join(lines)).hexdigest(),
    }


def keys_of(run: Path) -> list[str]:
    """The keys of everything in a store: the stage and the digest of what determines it."""
    with closing(sqlite3.connect(run / "store.sqlite")) as store:
        found = store.execute("SELECT stage, digest FROM settings").fetchall()
    return sorted(f"{stage} {digest.hex()}" for stage, digest in found)


def regenerate() -> None:
    """Write what the judgements, verdicts and pairs of every recipe are now; what was sampled must be as it was."""
    for wanted in EXPECTED["recipes"].values():
        with tempfile.TemporaryDirectory() as name, chdir(unpack(Path(name))):
            found = rebuild(Path("run"), wanted)
        for count in ("sampled", "pairs"):
            assert found["counts"][count] == wanted["counts"][count]
        wanted.update(found)
    with tempfile.TemporaryDirectory() as name, chdir(unpack(Path(name))):
        for wanted in EXPECTED["recipes"].values():
            rebuild(Path("run"), wanted)
        keys = keys_of(Path("run"))
    assert [key for key in keys if "samples " in key] == [key for key in EXPECTED["keys"] if "samples " in key]
    EXPECTED["keys"] = keys
    (GOLDEN / "expected.json").write_text(json.dumps(EXPECTED, indent=1) + "\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(unpack(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", EXPECTED["recipes"])
def test_an_old_store_gives_the_same_dataset_without_a_model(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("specs_data.engines.open_engine", refuse)
    wanted = EXPECTED["recipes"][name]
    found = rebuild(folder / "run", wanted)
    assert found == {key: wanted[key] for key in found}


def test_the_keys_of_a_store_stay(folder: Path) -> None:
    for wanted in EXPECTED["recipes"].values():
        rebuild(folder / "run", wanted)
    assert keys_of(folder / "run") == EXPECTED["keys"]


if __name__ == "__main__":
    regenerate()
