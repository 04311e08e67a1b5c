"""A store written by an earlier release: the same datasets come of it, and nothing is generated again.

`golden/` holds the store that six builds of the shipped checkpoints left behind, and what they gave. A change
that makes other keys would have every user pay for the same tokens again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sqlite3
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "store.sqlite").write_bytes(gzip.decompress((GOLDEN / "store.sqlite.gz").read_bytes()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", EXPECTED["recipes"])
def test_an_old_store_gives_the_same_dataset_without_a_model(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("specs_data.engines.open_engine", refuse)
    wanted = EXPECTED["recipes"][name]
    recipe = {key: CHECKPOINTS.get(str(value), value) for key, value in wanted["recipe"].items()}
    built = build(make_recipe(recipe), folder / "run", quiet=True)

    dataset = built.out / "dataset"
    found = {str(file.relative_to(dataset)): digest_rows(file) for file in dataset.rglob("*.parquet")}
    assert found == wanted["parquet"]
    assert built.manifest["counts"] == wanted["counts"]
    assert built.manifest["dropped"] == wanted["dropped"]
    lines = sorted((built.out / "dropped.jsonl").read_bytes().splitlines(True))
    assert hashlib.sha256(b"".join(lines)).hexdigest() == wanted["dropped.jsonl"]


def test_the_keys_of_a_store_stay(folder: Path) -> None:
    for wanted in EXPECTED["recipes"].values():
        recipe = {key: CHECKPOINTS.get(str(value), value) for key, value in wanted["recipe"].items()}
        build(make_recipe(recipe), folder / "run", quiet=True)
    with sqlite3.connect(folder / "run" / "store.sqlite") as store:
        keys = sorted(
            f"{stage} {digest.hex()}" for stage, digest in store.execute("SELECT stage, digest FROM settings")
        )
    store.close()
    assert keys == EXPECTED["keys"]
