"""Pictures among the words of a question stand there in what the model is given by each of the real trainers."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.train_world import NANO, nano_checkpoint
from PIL import Image

from specs_data import Recipe, build
from specs_data.engines.checkpoint import load_processor
from specs_data.train import run
from specs_data.train.dpo import train_dpo
from specs_data.train.grpo import train_grpo
from specs_data.train.settings import DpoSettings, GrpoSettings, SftSettings
from specs_data.train.sft import train_sft

pytest.importorskip("trl")

SIZES = {"a.png": (84, 84), "b.png": (112, 84)}  # 9 and 12 tokens
QUESTIONS = {
    "Picture A: <image>\nPicture B: <image>\nIn which is it?": "Picture A: [9]\nPicture B: [12]\nIn which is it?",
    "<image><image>\nWhich is it?": "[9][12]Which is it?",
    "Is it in <image>?": "Is it in [9]?",
    "What is an `<image>`?": "[9]What is an `<image>`?",
    "And without any?": "And without any?",
}


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano_checkpoint(tmp_path_factory.mktemp("nano"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Problems, and the run that made pairs of them."""
    folder = tmp_path_factory.mktemp("world")
    for name, size in SIZES.items():
        file = io.BytesIO()
        Image.new("RGB", size, "red").save(file, "PNG")
        (folder / name).write_bytes(file.getvalue())
    asked, answered = [], []
    for number, (question, shown) in enumerate(QUESTIONS.items()):
        asked.append(
            {"id": str(number), "question": question, "images": list(SIZES)[: shown.count("[")], "answer": "5"}
        )
        answered.append({"problem_id": str(number), "response": "<think>It is 5.</think>\n<answer>5</answer>"})
    for name, lines in (("problems", asked), ("responses", answered)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = Recipe(problems=str(folder / "problems.jsonl"), responses=folder / "responses.jsonl", verifier="none")
    return folder / "problems.jsonl", build(recipe, folder / "run", quiet=True).out


@pytest.fixture
def given(nano: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """What the user says in all that the model was given, with the tokens of each picture as their number."""
    from transformers import TrainerCallback

    seen: list[Any] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            def note(_: Any, positional: Any, named: dict[str, Any]) -> None:
                ids = named.get("input_ids")
                seen.extend([] if ids is None else ids.tolist())

            model.register_forward_pre_hook(note, with_kwargs=True)

    callbacks = run.callbacks
    monkeypatch.setattr(run, "callbacks", lambda settings: [*callbacks(settings), Watch()])

    def read() -> set[str]:
        tokenizer: Any = load_processor(nano).tokenizer
        texts = (tokenizer.decode(ids).rpartition("<|im_start|>user\n")[2] for ids in seen)
        shown = (re.sub(r"<\|vision_start\|>((?:<\|image_pad\|>)*)<\|vision_end\|>", _tokens, text) for text in texts)
        return {text.partition("<|im_end|>")[0] for text in shown if "<|im_end|>" in text}

    return read


def _tokens(pads: re.Match[str]) -> str:
    return f"[{pads[1].count('<|image_pad|>')}]"


@pytest.mark.parametrize("micro_batch", [1, 5])
@pytest.mark.parametrize("method", ["dpo", "sft"])
def test_preference_rows(
    nano: Path,
    world: tuple[Path, Path],
    given: Callable[[], set[str]],
    tmp_path: Path,
    method: str,
    micro_batch: int,
) -> None:
    common: dict[str, Any] = {"model": str(nano), "data": str(world[1]), "out": tmp_path}
    common |= {"batch": 5, "micro_batch": micro_batch, "steps": 1}
    if method == "dpo":
        train_dpo(DpoSettings.model_validate(common | NANO))
    else:
        train_sft(SftSettings.model_validate(common | NANO))
    assert given() == set(QUESTIONS.values())


@pytest.mark.parametrize("micro_batch", [1, 10])
def test_problems(
    nano: Path, world: tuple[Path, Path], given: Callable[[], set[str]], tmp_path: Path, micro_batch: int
) -> None:
    small = {"batch": 10, "rollout_batch": 5, "rollouts": 2, "micro_batch": micro_batch, "max_tokens": 4, "steps": 1}
    settings = {"model": str(nano), "problems": (str(world[0]),), "out": tmp_path, "accuracy_window": (0.0, 1.0)}
    train_grpo(GrpoSettings.model_validate({**settings, **small, **NANO}))
    assert given() == set(QUESTIONS.values())
