"""Makes the two shipped checkpoints: `python examples/mini/make.py --out DIR`.

1. base: a new model (model.py), trained from scratch on lessons (lessons.py), first in looking and
   counting alone, then under the instructions of all formats.
2. grpo-zero: the base after a brief GRPO with the paper's reward, 0.5 for the format and 1.0 for the
   answer (paper, stage 1a), by TRL's GRPOTrainer.

Then measures both on puzzles they have not seen, and writes the figures on their model cards. Ten
minutes or so on one CPU core (OMP_NUM_THREADS=1: more threads are slower at this size).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from lessons import Lesson, first_lesson, lesson, question
from model import END, new_model, new_processor
from PIL import Image

from specs_data.engines import ModelOptions
from specs_data.engines.checkpoint import load_model, load_processor
from specs_data.engines.transformers import TransformersEngine
from specs_data.format import THINK_ANSWER, ResponseFormat
from specs_data.mini import formats
from specs_data.mini.world import Puzzle, draw, picture
from specs_data.records import Request, Sampling

log = logging.getLogger(__name__)

# Worlds of their own, so that nothing is measured on what was learned.
BASE_WORLD, GRPO_WORLD, TEST_WORLD = 1, 2, 3

BATCH = 64
FIRST_STEPS = 180
STEPS = 220
LEARNING_RATE = 5e-3  # of Muon, which learns this several times faster than AdamW alone
EMBEDDING_RATE = 3e-3

GRPO_STEPS = 50
GRPO_RATE = 1e-4
GENERATIONS = 8


MADE = {
    "base": f"""It was trained from scratch, supervised, on {(FIRST_STEPS + STEPS) * BATCH:,} drawn puzzles
({FIRST_STEPS} steps of {BATCH} in counting colours and shapes, then {STEPS} under the instructions of five response
formats). Under the think-answer instruction only part of the responses it imitated keep the format, so that it
behaves like the base model of the paper (41.62 % format accuracy).""",
    "grpo-zero": f"""It was made from `base` by a brief GRPO with TRL: {GRPO_STEPS} steps of {BATCH} completions
({GENERATIONS} per prompt), reward 0.5 for the think-answer format and 1.0 for the right answer, as in stage 1a of the
paper.""",
}

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [specs-data, toy]
---

# specs-data miniature: {name}

A Qwen2.5-VL with 1.3 million parameters that answers questions about pictures of coloured shapes. It makes the whole
method (GRPO-zero, preference pairs, cold start, final GRPO) run for real on a CPU in minutes. It is good for nothing
else.

{made}

Made by `python examples/mini/make.py` (torch {torch}, one seed). Measured on 500 puzzles it has not seen, one
sample each at temperature 1:

| asked for the format | kept it | right answer |
|---|---|---|
{rows}

The response formats are in `specs_data/formats/`; think-answer is the paper's. Its pictures and questions come
from `specs_data/mini/world.py`.
"""


class Measured(NamedTuple):
    """Shares, from 0 to 1, of responses that keep the format and that have the right answer."""

    kept: float
    right: float


def main() -> None:
    """Make both checkpoints under --out, each with its model card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("base", "grpo-zero"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if given.only != "grpo-zero":
        _timed("base", train_base, given.out / "base", given.seed)
    if given.only != "base":
        _timed("grpo-zero", train_grpo, given.out / "base", given.out / "grpo-zero", given.seed)
    for name in ("base", "grpo-zero"):
        if given.only in (None, name):
            write_card(given.out / name, asyncio.run(measure(given.out / name)))


def train_base(out: Path, seed: int) -> None:
    """Train the base from scratch and save it in `out`."""
    torch.manual_seed(seed)
    random = Random(seed)
    known = formats()
    texts = ["system", "user", "assistant"]
    for index in range(2000):
        puzzle = draw(BASE_WORLD, index)
        for example in (first_lesson(puzzle, random), lesson(puzzle, known, random)):
            texts += [*(message.content for message in example.messages), example.response]
    processor: Any = new_processor(texts)
    model: Any = new_model(processor)
    steps = FIRST_STEPS + STEPS
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers: list[Any] = [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=EMBEDDING_RATE, betas=(0.9, 0.98)),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(steps)) for optimizer in optimizers]
    for step in range(steps):
        puzzles = [draw(BASE_WORLD, step * BATCH + number) for number in range(BATCH)]
        lessons = [first_lesson(p, random) if step < FIRST_STEPS else lesson(p, known, random) for p in puzzles]
        inputs, targets = _tensors(processor, puzzles, lessons)
        loss = learn(model, optimizers, schedules, inputs, targets)
        if step % 20 == 0:
            log.info("base: step %d of %d, loss %.3f", step, steps, loss.item())
    save(model, processor, out)


def learn(model: Any, optimizers: list[Any], schedules: list[Any], inputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """One step of supervised training; the loss before it."""
    logits = model(**inputs).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return loss


def train_grpo(base: Path, out: Path, seed: int) -> None:
    """Train the checkpoint `base` by GRPO and save the result in `out`."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    processor: Any = load_processor(base)
    model: Any = load_model(base)
    prompts = BATCH // GENERATIONS * GRPO_STEPS
    puzzles = [draw(GRPO_WORLD, index) for index in range(prompts)]
    rows = [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in question(puzzle, THINK_ANSWER)],
            "images": [_image(puzzle)],
            "gold": puzzle.answer,
        }
        for puzzle in puzzles
    ]
    settings = GRPOConfig(
        output_dir=str(out / "trainer"),
        max_steps=GRPO_STEPS,
        per_device_train_batch_size=BATCH,
        num_generations=GENERATIONS,
        max_completion_length=64,
        learning_rate=GRPO_RATE,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=3,
        epsilon_high=0.28,
        seed=seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=5,
        report_to=[],
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[format_reward, accuracy_reward],
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )
    trainer.train()
    save(model, processor, out)


def format_reward(completions: Sequence[list[dict[str, str]]], **_: Any) -> list[float]:
    """0.5 for each completion in the think-answer format (paper, stage 3)."""
    return [0.5 * (THINK_ANSWER.check(completion[0]["content"]) is None) for completion in completions]


def accuracy_reward(completions: Sequence[list[dict[str, str]]], gold: Sequence[str], **_: Any) -> list[float]:
    """1.0 for each completion with the right answer (paper, stage 3)."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(final_answer(text, THINK_ANSWER) == right) for text, right in zip(texts, gold, strict=True)]


async def measure(checkpoint: Path, puzzles: int = 500) -> dict[str, Measured]:
    """Measure a checkpoint under every format's instruction on unseen puzzles, one sample each at temperature 1."""
    engine = TransformersEngine(checkpoint, Sampling(max_tokens=96), ModelOptions(batch_size=64))
    drawn = [draw(TEST_WORLD, index) for index in range(puzzles)]
    found = {}
    for name, fmt in formats().items():
        requests = [Request(question(p, fmt), (picture(p.things),), seed) for seed, p in enumerate(drawn)]
        texts = [response.text for response in await asyncio.gather(*map(engine.generate, requests))]
        kept = [fmt.check(text) is None for text in texts]
        right = [final_answer(text, fmt) == puzzle.answer for text, puzzle in zip(texts, drawn, strict=True)]
        found[name] = Measured(sum(kept) / puzzles, sum(right) / puzzles)
        log.info("%s under %s: format %.3f, answer %.3f", checkpoint.name, name, *found[name])
    await engine.close()
    return found


def write_card(checkpoint: Path, measured: dict[str, Measured]) -> None:
    """Write the model card of a checkpoint, with its figures."""
    rows = "\n".join(f"| {name} | {100 * m.kept:.1f} % | {100 * m.right:.1f} % |" for name, m in measured.items())
    made = MADE[checkpoint.name]
    (checkpoint / "README.md").write_text(
        CARD.format(name=checkpoint.name, made=made, rows=rows, torch=torch.__version__), encoding="utf-8"
    )


def final_answer(text: str, fmt: ResponseFormat) -> str | None:
    """What is in the last box, else in the answer part; None if there is neither."""
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
    found = fmt.parse(text)
    return boxes[-1] if boxes else None if isinstance(found, str) else found[1]


def save(model: Any, processor: Any, out: Path) -> None:
    """Save the checkpoint with weights in bfloat16."""
    model.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)


def _timed(name: str, make: Callable[..., None], *given: Any) -> None:
    started = time.monotonic()
    make(*given)
    log.info("%s: made in %.0f s", name, time.monotonic() - started)


def _rate(steps: int) -> Callable[[int], float]:
    """Warm-up over 20 steps, then half a cosine down to a fiftieth."""
    return lambda step: min(1.0, (step + 1) / 20) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def _tensors(processor: Any, puzzles: Sequence[Puzzle], lessons: Sequence[Lesson]) -> tuple[Any, Any]:
    """Model inputs, and targets that are -100 outside the responses; both padded on the right."""
    chats = [
        [{"role": m.role, "content": [{"type": "image"}] * (m.role == "user") + _text(m.content)} for m in one.messages]
        for one in lessons
    ]
    prompts = processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    responses = [one.response + END for one in lessons]
    inputs = processor(
        text=[prompt + response for prompt, response in zip(prompts, responses, strict=True)],
        images=[[_image(puzzle)] for puzzle in puzzles],
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    ids = inputs["input_ids"]
    lengths = inputs["attention_mask"].sum(1)
    targets = torch.full_like(ids, -100)
    for row, response in enumerate(responses):
        end = int(lengths[row])
        start = end - len(processor.tokenizer(response)["input_ids"])
        targets[row, start:end] = ids[row, start:end]
    return inputs, targets


def _text(content: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}]


def _image(puzzle: Puzzle) -> Image.Image:
    return Image.open(io.BytesIO(picture(puzzle.things))).convert("RGB")


if __name__ == "__main__":
    main()
