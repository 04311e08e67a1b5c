"""Optimizer steps per second of the trainers against the same bare TRL script.

    OMP_NUM_THREADS=1 python benchmarks/train_speed.py [--rounds 5] [--steps 30]

Both train a new 1.2 million parameter Qwen2.5-VL on the same rows with the same settings, in two threads
of one process that take turns: a step of one, the same step of the other. So the machine's ups and downs,
which last seconds, meet both. What is timed is every optimizer step, from the end of the one before, in
CPU seconds. Prints, for each trainer, the median over all steps and rounds of the ratio between a step of
the bare script and the same step of ours.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
import trl
from datasets import Dataset, Image, load_dataset
from model import new_model, new_processor

from specs_data.engines.checkpoint import load_model, load_processor
from specs_data.format import THINK_ANSWER
from specs_data.mini.world import as_problem, draw, picture, thought, write_problems
from specs_data.pairs.parquet import write_shards
from specs_data.texts import chat, load_prompt
from specs_data.train import run
from specs_data.train.dpo import train_dpo
from specs_data.train.grpo import train_grpo
from specs_data.train.settings import DpoSettings, GrpoSettings, SftSettings
from specs_data.train.sft import train_sft

ROWS = 64
COMMON: dict[str, Any] = {
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "seed": 0,
}
SETTINGS: dict[str, Any] = {"learning_rate": 1e-4, "schedule": "constant", "warmup": 0.0, "save_every": 10_000}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = _checkpoint(folder / "model")
        _pairs(folder / "pairs")
        write_problems(folder / "problems", ROWS, 0)
        for method, ours, bare in (
            ("dpo", _our_dpo, _bare_dpo),
            ("sft", _our_sft, _bare_sft),
            ("grpo", _our_grpo, _bare_grpo),
        ):
            ratios: list[float] = []
            ours_all: list[float] = []
            for number in range(options.rounds):
                out = folder / f"{method}-{number}"
                seconds = _by_turns([functools.partial(train, model, out) for train in (bare, ours)], options.steps)
                ratios += [there / here for there, here in zip(*seconds, strict=True)]
                ours_all += seconds[1]
            low, middle, high = statistics.quantiles(ratios)
            print(
                f"{method}: {1 / statistics.median(ours_all):.3f} steps per CPU second, "
                f"median ratio to bare TRL {middle:.3f} (quartiles {low:.3f}, {high:.3f}; {len(ratios)} steps)",
                flush=True,
            )


def _by_turns(trains: list[Callable[[int], Any]], steps: int) -> list[list[float]]:
    """Run two trainings, an optimizer step of each by turns; return the CPU seconds of their first `steps`."""
    seconds: list[list[float]] = [[], []]
    turns = [threading.Semaphore(1), threading.Semaphore(0)]

    class Turn(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.own = int(threading.current_thread().name)

        def pass_on(self) -> None:
            random = torch.get_rng_state()
            turns[1 - self.own].release()
            turns[self.own].acquire()
            torch.set_rng_state(random)
            self.started = time.process_time()

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.pass_on()

        def on_log(self, *_: Any, **__: Any) -> None:  # after all else that belongs to a step
            if len(seconds[self.own]) < steps:
                seconds[self.own].append(time.process_time() - self.started)
                self.pass_on()
            else:  # one step more is trained, after which both go on to their ends
                turns[1 - self.own].release()

    def train_by_turns(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.add_callback(Turn())
        return train(self, *args, **kwargs)

    def begin(own: int) -> None:
        turns[own].acquire()
        trains[own](steps + 1)

    train = transformers.Trainer.train
    with (
        run.quiet(),
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        mock.patch.object(transformers.Trainer, "train", train_by_turns),
    ):
        threads = [threading.Thread(target=begin, args=(own,), name=str(own)) for own in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return seconds


def _checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    texts = [thought(draw(0, index)) for index in range(500)] + [load_prompt("think-answer").body]
    processor = new_processor(texts)
    new_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _pairs(folder: Path) -> None:
    def rows() -> Any:
        for index in range(ROWS):
            puzzle = draw(0, index)
            messages = chat(as_problem(puzzle, str(index)), load_prompt("think-answer"))
            chosen = THINK_ANSWER.render(thought(puzzle), puzzle.answer)
            yield {
                "images": [{"bytes": picture(puzzle.things), "path": f"{index}.png"}],
                "prompt": [{"role": message.role, "content": message.content} for message in messages],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": THINK_ANSWER.content(chosen)}],
            }

    write_shards(rows(), folder, "train")


# The trainers


def _our_dpo(model: Path, out: Path, steps: int) -> None:
    data = str(model.parent / "pairs")
    train_dpo(DpoSettings(model=str(model), data=data, out=out, batch=8, micro_batch=8, steps=steps, **SETTINGS))


def _our_sft(model: Path, out: Path, steps: int) -> None:
    data = str(model.parent / "pairs")
    train_sft(SftSettings(model=str(model), data=data, out=out, batch=8, micro_batch=8, steps=steps, **SETTINGS))


def _our_grpo(model: Path, out: Path, steps: int) -> None:
    problems = (str(model.parent / "problems" / "problems.jsonl"),)
    shape: dict[str, Any] = {"batch": 32, "micro_batch": 32, "rollouts": 8, "rollout_batch": 4, "max_tokens": 48}
    train_grpo(GrpoSettings(model=str(model), problems=problems, out=out, steps=steps, **{**SETTINGS, **shape}))


# The same, as scripts on TRL


def _loaded(model: Path) -> tuple[Any, Any]:
    loaded = load_model(model, "float32", "cpu")
    for name, parameter in loaded.named_parameters():
        parameter.requires_grad_("visual" not in name)
    return loaded, load_processor(model)


def _rows(model: Path) -> Any:
    return load_dataset("parquet", data_files=str(model.parent / "pairs" / "data" / "*.parquet"), split="train")


def _bare_dpo(model: Path, out: Path, steps: int) -> None:
    weights, processor = _loaded(model)
    loss = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0], "max_length": None}
    arguments = trl.DPOConfig(str(out) + "-bare", max_steps=steps, disable_tqdm=True, **loss, **COMMON)
    trl.DPOTrainer(weights, args=arguments, train_dataset=_rows(model), processing_class=processor).train()


def _bare_sft(model: Path, out: Path, steps: int) -> None:
    weights, processor = _loaded(model)
    arguments = trl.SFTConfig(str(out) + "-bare", max_steps=steps, disable_tqdm=True, max_length=None, **COMMON)
    rows = _rows(model).select_columns(["images", "prompt", "chosen"]).rename_column("chosen", "completion")
    trl.SFTTrainer(weights, args=arguments, train_dataset=rows, processing_class=processor).train()


def _bare_grpo(model: Path, out: Path, steps: int) -> None:
    weights, processor = _loaded(model)
    tags = re.compile(r"<think>.+</think>\s*<answer>.+</answer>", re.DOTALL)

    def reward(completions: Any, answer: Any, **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        return [
            0.5 * bool(tags.fullmatch(text)) + (f">{gold}</answer>" in text)
            for text, gold in zip(texts, answer, strict=True)
        ]

    shape = {"num_generations": 8, "max_completion_length": 48, "epsilon_high": 0.28}
    arguments = trl.GRPOConfig(
        str(out) + "-bare", max_steps=steps, disable_tqdm=True, **shape, **{**COMMON, "per_device_train_batch_size": 32}
    )
    trl.GRPOTrainer(weights, reward, args=arguments, train_dataset=_problems(model), processing_class=processor).train()


def _problems(model: Path) -> Any:
    rows = []
    for index in range(ROWS):
        puzzle = draw(0, index)
        messages = chat(as_problem(puzzle, str(index)), load_prompt("think-answer"))
        rows.append({
            "images": [{"bytes": picture(puzzle.things), "path": None}],
            "prompt": [{"role": message.role, "content": message.content} for message in messages],
            "answer": puzzle.answer,
        })  # fmt: skip
    return Dataset.from_list(rows).cast_column("images", [Image()])


if __name__ == "__main__":
    main()
