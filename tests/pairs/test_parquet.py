"""Preference rows on disk: what is written is what everyone reads back."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from datasets import Image, load_dataset
from PIL import Image as Pillow

from specs_data.errors import UserError
from specs_data.pairs.manifest import Manifest, fingerprint
from specs_data.pairs.parquet import SCHEMA, write_pairs, write_shards
from specs_data.pairs.rows import DIFFICULTY, TEXT_COLUMNS, count_rows, open_dataset, rows, to_row
from specs_data.share.export import export


def picture(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (8, 8), (shade % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"row-{number}",
        "images": [{"bytes": picture(number), "path": f"{number}.png"}],
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": f"What is {number}?"}],
        "chosen": [{"role": "assistant", "content": f"<think>ü</think><answer>{number}</answer>"}],
        "rejected": [{"role": "assistant", "content": f"ü Answer: {number}"}],
        "problem_id": f"problem-{number}",
        "answer": str(number),
        "answer_type": "numeric",
        "corruption": "remove_all_tags",
        "rejected_from": "chosen",
        "policy": "tiny",
        "verifier": "rules",
        "pass_rate": number / 7 if number % 2 else None,
        "solved_blind": bool(number % 3) if number % 2 else None,
        **changes,
    }


def test_datasets_reads_images_and_messages(tmp_path: Path) -> None:
    write_shards([row(0), row(1, images=[], corruption=None)], tmp_path, "train")
    loaded = load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded.column_names == list(SCHEMA.names)
    assert loaded.features["images"] == (datasets.List(Image()) if hasattr(datasets, "List") else [Image()])
    assert loaded[0]["images"][0].getpixel((0, 0)) == (0, 0, 0)
    assert loaded[0]["prompt"] == row(0)["prompt"]
    assert loaded[1]["images"] == []
    assert loaded[1]["corruption"] is None


def test_the_legacy_feature_spelling_is_in_the_file(tmp_path: Path) -> None:
    [shard] = write_shards([row(0)], tmp_path, "train")
    metadata = pq.read_schema(tmp_path / shard.path).metadata
    assert b'"images": [{"_type": "Image"}]' in metadata[b"huggingface"]
    assert b"pandas" not in metadata


def test_rows_come_back_unchanged_across_shards(tmp_path: Path) -> None:
    written = [row(number) for number in range(20)]
    shards = write_shards(iter(written), tmp_path, "train", shard_bytes=2_000, row_group_bytes=4_000)
    assert len(shards) > 2
    assert [shard.path for shard in shards] == [
        f"data/train-{number:05d}-of-{len(shards):05d}.parquet" for number in range(len(shards))
    ]
    assert sum(shard.rows for shard in shards) == 20
    assert all((tmp_path / shard.path).stat().st_size == shard.bytes for shard in shards)
    pairs = list(rows(open_dataset(tmp_path)))
    assert list(map(to_row, pairs)) == written
    assert [shard.sha256 for shard in write_pairs(pairs, tmp_path / "again", "train")] == [
        shard.sha256 for shard in write_shards(written, tmp_path / "rows", "train")
    ]


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    def shards(name: str, first: int = 0) -> Any:
        return write_shards((row(n) for n in range(first, 50)), tmp_path / name, "train", row_group_bytes=9_000)

    assert shards("a") == shards("b")
    assert fingerprint({"train": shards("a")}) == fingerprint({"train": shards("b")})
    assert fingerprint({"train": shards("a")}) != fingerprint({"train": shards("c", first=1)})


def test_row_groups_are_written_while_rows_still_come(tmp_path: Path) -> None:
    written = []

    def source() -> Iterator[dict[str, Any]]:
        for number in range(30):
            written.append(sum(file.stat().st_size for file in tmp_path.glob("data/*")))
            yield row(number, images=[{"bytes": bytes(100_000), "path": None}])

    [shard] = write_shards(source(), tmp_path, "train", row_group_bytes=500_000)
    assert written[-1] > 2_000_000
    assert pq.read_metadata(tmp_path / shard.path).num_row_groups == 6


def test_pictures_are_not_compressed_again_and_pages_are_indexed(tmp_path: Path) -> None:
    [shard] = write_shards([row(0)], tmp_path, "train")
    group = pq.read_metadata(tmp_path / shard.path).row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    assert columns["images.list.element.bytes"].compression == "UNCOMPRESSED"
    assert columns["chosen.list.element.content"].compression == "ZSTD"
    assert all(column.has_offset_index for column in columns.values())


def test_writing_again_leaves_no_stale_shard(tmp_path: Path) -> None:
    write_shards((row(n) for n in range(20)), tmp_path, "train", shard_bytes=2_000, row_group_bytes=4_000)
    write_shards([row(0)], tmp_path, "train")
    assert [file.name for file in tmp_path.glob("data/*")] == ["train-00000-of-00001.parquet"]


def test_no_rows_no_file(tmp_path: Path) -> None:
    assert write_shards([], tmp_path, "test") == []
    with pytest.raises(UserError, match="not a dataset"):
        open_dataset(tmp_path)


def test_a_run_gives_its_dataset_and_manifest(tmp_path: Path) -> None:
    write_shards([row(0)], tmp_path / "dataset", "train")
    write_shards([row(1), row(2)], tmp_path / "dataset", "test")
    (tmp_path / "manifest.json").write_text('{"name": "tiny"}')
    for place in (tmp_path, tmp_path / "dataset"):
        dataset = open_dataset(place)
        assert dataset.manifest == Manifest("tiny")
        assert count_rows(dataset) == {"train": 1, "test": 2}
        assert [pair.id for pair in rows(dataset)] == ["row-0", "row-1", "row-2"]
        assert [pair.id for pair in rows(dataset, "test")] == ["row-1", "row-2"]
    with pytest.raises(UserError, match=re.escape("no split 'dev'; it has: train, test")):
        list(rows(open_dataset(tmp_path), "dev"))


@pytest.mark.parametrize(
    "line",
    [
        '{"image": "pics/a.png", "prompt": "Q", "chosen": "good", "rejected": "bad"}',
        '{"images": ["pics/a.png"], "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", '
        '"text": "Q"}]}], "chosen": [{"role": "assistant", "content": "good"}], '
        '"rejected": {"role": "assistant", "content": "bad"}}',
        '{"images": ["pics/a.png"], "chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", '
        '"content": "good"}], "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}]}',
    ],
    ids=["texts", "blocks", "implicit prompt"],
)
def test_foreign_jsonl_gives_the_same_rows(tmp_path: Path, line: str) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/a.png").write_bytes(picture())
    (tmp_path / "p.jsonl").write_text(line)
    [found] = rows(open_dataset(tmp_path / "p.jsonl"))
    assert to_row(found) == {
        "id": "",
        "images": [{"bytes": picture(), "path": "a.png"}],
        "prompt": [{"role": "user", "content": "Q"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
        **dict.fromkeys((*TEXT_COLUMNS, *DIFFICULTY)),
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "row 1 of .* is not JSON"),
        ("[]", "row 1 of .* is not a JSON object"),
        ('{"prompt": "Q", "chosen": "a"}', "has no column 'rejected'; it has prompt, chosen; .* --columns"),
        ('{"prompt": "Q", "chosen": "a", "rejected": null}', "row 1 of .* has no 'rejected'"),
        ('{"prompt": "Q", "chosen": "a", "rejected": [7]}', "has a rejected that is"),
        ('{"prompt": "Q", "chosen": [1], "rejected": "b"}', "neither text nor a list"),
        ('{"prompt": "Q", "chosen": "a", "rejected": "b", "images": ["no.png"]}', "names the image no.png"),
        ('{"prompt": "Q", "chosen": "a", "rejected": "b", "images": [3]}', "neither bytes nor a path"),
        (
            '{"prompt": "Q", "chosen": "a", "rejected": "b", "images": [{"bytes": "aGVsbG8="}]}',
            "row 1 of .* has an image whose bytes are not binary",
        ),
        ('{"prompt": "Q", "chosen": "a", "rejected": "b", "images": [{"bytes": [1, 2]}]}', "bytes are not binary"),
        (
            '{"prompt": "Q", "chosen": "a", "rejected": "b", "images": [{"bytes": 5, "path": "a.png"}]}',
            "bytes are not binary",
        ),
        (
            r'{"prompt": "Q", "chosen": "a", "rejected": "b", "images": ["a\u0000.png"]}',
            r"row 1 of .* names the image 'a.x00.png', which no file",
        ),
        (
            f'{{"prompt": "Q", "chosen": "a", "rejected": "b", "images": ["{"a" * 9000}"]}}',
            "row 1 of .* names the image a{199}…, which cannot be read",
        ),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(UserError, match=sentence):
        list(rows(open_dataset(tmp_path / "p.jsonl")))


PAIR = {
    "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
    "chosen": [{"role": "assistant", "content": "good"}],
    "rejected": [{"role": "assistant", "content": "bad"}],
}


@pytest.mark.parametrize("trainer", ["llamafactory", "ms-swift", "openrlhf"])
def test_our_exports_are_read_back(tmp_path: Path, trainer: str) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(PAIR))
    export(tmp_path / "p.jsonl", trainer, tmp_path / "out")
    [found] = rows(open_dataset(tmp_path / "out"))
    assert {side: to_row(found)[side] for side in PAIR} == PAIR


def test_rejected_messages_are_read(tmp_path: Path) -> None:
    whole = {side: [*PAIR["prompt"], *PAIR[side]] for side in ("chosen", "rejected")}
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"messages": whole["chosen"], "rejected_messages": whole["rejected"], "images": []})
    )
    [found] = rows(open_dataset(tmp_path / "p.jsonl"))
    assert {side: to_row(found)[side] for side in PAIR} == PAIR


def _talk(*said: str) -> list[dict[str, str]]:
    """Turns by the first letter of their roles: "u:Q", "a:A"."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[role], "content": text} for role, _, text in (turn.partition(":") for turn in said)]


@pytest.mark.parametrize(
    ("line", "prompt", "sides"),
    [
        ({"prompt": "Q", "chosen": _talk("u:Q", "a:1"), "rejected": _talk("u:Q", "a:2")}, ["u:Q"], (["a:1"], ["a:2"])),
        (
            {"prompt": "Q", "chosen": _talk("s:S", "u:Q", "a:1"), "rejected": _talk("s:S", "u:Q", "a:2")},
            ["s:S", "u:Q"],
            (["a:1"], ["a:2"]),
        ),
        (
            {"prompt": _talk("u:Q"), "chosen": _talk("a:0", "u:R", "a:1"), "rejected": _talk("a:0", "u:R", "a:2")},
            ["u:Q"],
            (["a:0", "u:R", "a:1"], ["a:0", "u:R", "a:2"]),
        ),
        (
            {"chosen": _talk("u:Q", "a:x", "u:R", "a:1"), "rejected": _talk("u:Q", "a:y", "u:R", "a:2")},
            ["u:Q"],
            (["a:x", "u:R", "a:1"], ["a:y", "u:R", "a:2"]),
        ),
        (
            {"messages": _talk("u:Q", "a:x", "u:R", "a:1"), "rejected_messages": _talk("u:Q", "a:2")},
            ["u:Q"],
            (["a:x", "u:R", "a:1"], ["a:2"]),
        ),
        ({"system": "S", "prompt": "Q", "chosen": "1", "rejected": "2"}, ["s:S", "u:Q"], (["a:1"], ["a:2"])),
        ({"system": " ", "prompt": "Q", "chosen": "1", "rejected": "2"}, ["u:Q"], (["a:1"], ["a:2"])),
    ],
    ids=[
        "prompt twice",
        "with a system message",
        "answers alone",
        "part ways",
        "of ms-swift",
        "system",
        "blank system",
    ],
)
def test_a_talk_is_divided_where_its_sides_part_ways(
    tmp_path: Path, line: dict[str, Any], prompt: list[str], sides: tuple[list[str], list[str]]
) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(line))
    [found] = map(to_row, rows(open_dataset(tmp_path / "p.jsonl")))
    assert found["prompt"] == _talk(*prompt)
    assert (found["chosen"], found["rejected"]) == tuple(_talk(*side) for side in sides)


def test_pictures_of_an_implicit_prompt_keep_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    asked = {
        "role": "user",
        "content": [{"type": "text", "text": "In "}, {"type": "image"}, {"type": "text", "text": "?"}],
    }
    sides = {side: [asked, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    (tmp_path / "p.jsonl").write_text(json.dumps(sides | {"images": ["a.png"]}))
    [found] = rows(open_dataset(tmp_path / "p.jsonl"))
    assert found.prompt[0].content == "In <image>?"


@pytest.mark.parametrize("place", ["dataset", "dataset/data", "dataset/data/train-00000-of-00001.parquet"])
def test_a_part_of_a_run_has_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    write_shards([row(0)], tmp_path / "dataset", "train")
    (tmp_path / "manifest.json").write_text('{"name": "tiny"}')
    assert open_dataset(tmp_path / place).manifest == Manifest("tiny")
    if (tmp_path / place).is_dir():
        monkeypatch.chdir(tmp_path / place)
        assert open_dataset(".").manifest == Manifest("tiny")


def test_a_run_without_pairs_has_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "dropped.jsonl").write_text('{"stage": "judge", "reason": "wrong answer"}')
    with pytest.raises(UserError, match="this run has no dataset; specs-data show .* --dropped shows what it left out"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("path", ["/etc/hostname", "../outside.png", "a/../../outside.png"])
def test_a_dataset_reads_no_other_file_of_this_machine(tmp_path: Path, path: str) -> None:
    (tmp_path / "outside.png").write_bytes(picture())
    (tmp_path / "hub/a").mkdir(parents=True)
    file = tmp_path / "hub/p.jsonl"
    file.write_text(json.dumps({"prompt": "Q", "chosen": "a", "rejected": "b", "images": [path]}))
    with pytest.raises(UserError, match="lies outside of the dataset"):
        list(rows(open_dataset(file)))


def test_a_picture_that_a_row_names_is_one(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"a secret")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.png").symlink_to("../secret")
    (tmp_path / "data" / "text.png").write_bytes(b"a text")
    os.mkfifo(tmp_path / "data" / "fifo.png")
    file = tmp_path / "data" / "p.jsonl"
    for name, sentence in [
        ("link.png", "lies outside of the dataset's own folder.*--images"),
        ("text.png", "is no picture that can be used .not an image"),
        ("fifo.png", "is no regular file"),
    ]:
        file.write_text(json.dumps({"prompt": "Q", "chosen": "a", "rejected": "b", "images": [name]}))
        with pytest.raises(UserError, match=sentence):
            list(rows(open_dataset(file)))


def test_the_user_says_where_else_pictures_lie(tmp_path: Path) -> None:
    for folder in ("data", "pictures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture())
    file = tmp_path / "data" / "p.jsonl"
    for name in ("a.png", str(tmp_path / "pictures" / "a.png")):
        file.write_text(json.dumps({"prompt": "Q", "chosen": "a", "rejected": "b", "images": [name]}))
        [found] = rows(open_dataset(file, tmp_path / "pictures"))
        assert found.images[0].content == picture()
    file.write_text(json.dumps({"prompt": "Q", "chosen": "a", "rejected": "b", "images": ["../data/p.jsonl"]}))
    with pytest.raises(UserError, match="lies outside of the folder .*pictures"):
        list(rows(open_dataset(file, tmp_path / "pictures")))
    with pytest.raises(UserError, match="there is no folder"):
        open_dataset(file, tmp_path / "nothing")


def test_a_pipe_in_a_folder_is_no_data(tmp_path: Path) -> None:
    write_shards([row(0)], tmp_path, "train")
    os.mkfifo(tmp_path / "data" / "more.parquet")
    assert count_rows(open_dataset(tmp_path)) == {"train": 1}


def test_what_is_no_dataset_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        list(rows(open_dataset(tmp_path / "x.parquet")))
    (tmp_path / "x.csv").write_text("no")
    with pytest.raises(UserError, match="is neither a"):
        open_dataset(tmp_path / "x.csv")
    with pytest.raises(UserError, match="not a Hub dataset id"):
        open_dataset("no/such/folder")
