"""Other trainers' real loaders read the exports as we meant them. `.ci/loaders-env` makes their environments."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from specs_data.pairs.parquet import write_pairs, write_shards
from specs_data.records import Message, Pair, Picture
from specs_data.share.export import export

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SYSTEM = "First <think>, then <answer>."
PADS = re.compile(r"(<\|image_pad\|>)+")


def picture(size: tuple[int, int]) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return {"bytes": file.getvalue(), "path": "a.png"}


def row(number: int, images: list[dict[str, Any]], system: bool = True, question: str = "") -> dict[str, Any]:
    asked = {"role": "user", "content": question or f"Frage {number}: ½?"}
    return {
        "id": f"{number}",
        "images": images,
        "prompt": [{"role": "system", "content": SYSTEM}] * system + [asked],
        "chosen": [{"role": "assistant", "content": f"<think>\nso {number} 好\n</think>\n<answer>{number}</answer>"}],
        "rejected": [{"role": "assistant", "content": f"so {number} 好\n\nAnswer: {number}"}],
    }


def as_pair(row: dict[str, Any]) -> Pair:
    return Pair(
        row["id"],
        tuple(Picture(image["bytes"], image["path"]) for image in row["images"]),
        tuple(Message(**message) for message in row["prompt"]),
        row["chosen"][0]["content"],
        row["rejected"][0]["content"],
    )


ROWS = [
    row(0, [picture((64, 96))]),
    row(1, [picture((112, 56)), picture((56, 84))]),
    row(2, [picture((84, 84))], system=False),
    row(3, []),
    row(4, [picture((64, 96)), picture((112, 56))], question="Bild A: <image>\nBild B: <image>\nWo ist es?"),
    row(5, [picture((84, 84)), picture((56, 84))], question="<image>Ist es hier, oder hier: <image>"),
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_pairs(map(as_pair, ROWS), tmp_path / "pairs", "train", blocks=True)
    return tmp_path / "pairs"


def read(
    environment: str, script: str, *arguments: str, images: Path | None = None
) -> tuple[list[dict[str, Any]], str]:
    python = HERE.parents[2] / environment / "bin/python"
    assert python.exists(), f"there is no {environment}; run .ci/loaders-env"
    settings = {"HF_HUB_OFFLINE": "1", "ROOT_IMAGE_DIR": str(images or ""), "PYTHONPATH": str(HERE)}
    home = Path(arguments[-1]).parent
    settings |= {"HF_HOME": str(home / "hf"), "MODELSCOPE_CACHE": str(home / "ms"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, HERE / script, *arguments],
        env={**os.environ, **settings},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    result = Path(arguments[-1])
    return json.loads(result.read_text()) if result.exists() else [], done.stdout + done.stderr


def expected(row: dict[str, Any], default: str) -> dict[str, Any]:
    system = [m["content"] for m in row["prompt"] if m["role"] == "system"] or ([default] if default else [])
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    question = row["prompt"][-1]["content"]
    asked = question.replace("<image>", mark) if "<image>" in question else mark * len(row["images"]) + question
    sizes = [list(Image.open(io.BytesIO(image["bytes"])).size) for image in row["images"]]
    return {
        "prompt": "".join(f"<|im_start|>system\n{text}<|im_end|>\n" for text in system)
        + f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n",
        "chosen": row["chosen"][0]["content"] + "<|im_end|>",
        "rejected": row["rejected"][0]["content"] + "<|im_end|>",
        "images": sizes,
    }


def unpadded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the image tokens of one picture folded to one, and without what follows the end of a response."""
    return [
        {
            **row,
            "prompt": PADS.sub("<|image_pad|>", row["prompt"]),
            "chosen": row["chosen"].removesuffix("\n"),
            "rejected": row["rejected"].removesuffix("\n"),
        }
        for row in rows
    ]


def test_llamafactory(dataset: Path, tmp_path: Path) -> None:
    done = export(dataset, "llamafactory", tmp_path / "out")
    found, said = read(
        ".venv-llamafactory", "in_llamafactory.py", str(tmp_path / "out"), "pairs", "qwen2_vl", str(tmp_path / "found")
    )
    assert done.rows == {"train": len(ROWS)}
    assert unpadded(found) == [expected(row, "You are a helpful assistant.") for row in ROWS], said


def test_llamafactory_spoils_pairs_with_the_template_we_warn_of(dataset: Path, tmp_path: Path) -> None:
    done = export(dataset, "llamafactory", tmp_path / "out")
    found, said = read(
        ".venv-llamafactory", "in_llamafactory.py", str(tmp_path / "out"), "pairs", "qwen3_vl", str(tmp_path / "found")
    )
    assert "qwen3_vl puts an empty thought" in " ".join(done.notes)
    assert len(found) == len(ROWS), said
    assert any("<think>" in row["rejected"] for row in found)


def test_llamafactory_refuses_what_we_leave_out(tmp_path: Path) -> None:
    """A literal <image> in a response: left out of the export, and rightly so."""
    spoiled = row(0, [picture((64, 64))])
    spoiled["chosen"][0]["content"] += " <image>"
    write_shards([spoiled, ROWS[0]], tmp_path / "pairs", "train")
    done = export(tmp_path / "pairs", "llamafactory", tmp_path / "out")
    assert done.rows == {"train": 1}
    file = tmp_path / "out/pairs.jsonl"
    line = json.loads(file.read_text())
    line["chosen"]["value"] += " <image>"
    file.write_text(json.dumps(line))
    found, said = read(
        ".venv-llamafactory", "in_llamafactory.py", str(tmp_path / "out"), "pairs", "qwen2_vl", str(tmp_path / "found")
    )
    assert found == []
    assert "The number of images does not match the number of <image> tokens" in said


def test_swift(dataset: Path, tmp_path: Path) -> None:
    done = export(dataset, "ms-swift", tmp_path / "out")
    found, said = read(
        ".venv-swift", "in_swift.py", str(done.files[0]), str(tmp_path / "found"), images=tmp_path / "out"
    )
    assert [row.pop("loaded") for row in found] == [len(row["images"]) for row in ROWS], said
    assert unpadded(found) == [expected(row, "You are a helpful assistant.") for row in ROWS], said
