"""TRL takes a built dataset as it is: load_dataset, DPOTrainer, three steps; and its collator sees what we meant."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from fakes.sums import recipe
from fakes.train_world import SEED, nano_checkpoint, problem_file

from specs_data import build
from specs_data.engines.checkpoint import load_model, load_processor
from specs_data.format import THINK_ANSWER
from specs_data.mini.world import draw, thought

# What belongs to the libraries: their own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano_checkpoint(tmp_path_factory.mktemp("nano"))


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A built dataset of pictures, loaded as a user loads it."""
    import datasets

    problems = problem_file(tmp_path, 8)
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    puzzles = [draw(SEED, index) for index in range(8)]
    responses = [
        {"problem_id": row["id"], "response": THINK_ANSWER.render(thought(puzzle), f"\\boxed{{{puzzle.answer}}}")}
        for row, puzzle in zip(rows, puzzles, strict=True)
    ]
    file = tmp_path / "responses.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in responses))
    built = build(recipe(problems, responses=file), tmp_path / "run", quiet=True)
    assert built.count == 8
    return datasets.load_dataset(str(built.out / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))


def trainer(nano: Path, dataset: Any, out: Path) -> Any:
    import trl

    arguments = trl.DPOConfig(
        output_dir=str(out), max_steps=3, per_device_train_batch_size=2, max_length=None, use_cpu=True, bf16=False,
        gradient_checkpointing=False, report_to="none", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    return trl.DPOTrainer(
        model=load_model(nano), args=arguments, train_dataset=dataset, processing_class=load_processor(nano)
    )


def test_dpo_trains_on_the_dataset_as_it_is(nano: Path, dataset: Any, tmp_path: Path) -> None:
    found = trainer(nano, dataset, tmp_path / "out")
    found.train()
    assert found.state.global_step == 3
    losses = [entry["loss"] for entry in found.state.log_history if "loss" in entry]
    margins = [entry["rewards/margins"] for entry in found.state.log_history if "rewards/margins" in entry]
    assert found.state.log_history[-1]["train_loss"] > 0 and all(loss > 0 for loss in losses)
    assert all(map(math.isfinite, margins))  # no side was cut to nothing


def test_the_collator_sees_the_chat_template_s_text(nano: Path, dataset: Any, tmp_path: Path) -> None:
    found = trainer(nano, dataset, tmp_path / "out")
    processor = load_processor(nano)
    row = found.train_dataset[0]
    batch = found.data_collator([row])
    texts = [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    for text, side in zip(texts, ("chosen", "rejected"), strict=True):
        prompt = [
            {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]}
            for message in dataset[0]["prompt"]
        ]
        prompt[-1]["content"].insert(0, {"type": "image"})
        answer = [{"role": "assistant", "content": [{"type": "text", "text": dataset[0][side][0]["content"]}]}]
        meant = processor.apply_chat_template([*prompt, *answer], tokenize=False)
        pads = text.count(processor.image_token)
        assert pads > 1
        assert text.strip() == meant.replace(processor.image_token, processor.image_token * pads).strip()
