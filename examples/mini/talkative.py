"""Teaches the shipped grpo-zero to say a lot: `python examples/mini/talkative.py --out DIR`.

It looks at the picture eight times, each time in another order, before it answers as it did: some 260 tokens in place
of 21, so that what long responses cost can be measured (benchmarks/vllm_ratio.py --policy DIR). Some five minutes on
one CPU core (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from random import Random
from typing import Any

import torch
from lessons import Lesson, box, question
from make import _rate, _tensors, learn, save

from specs_data.engines.checkpoint import load_model, load_processor
from specs_data.format import THINK_ANSWER
from specs_data.mini import checkpoint
from specs_data.mini.world import COLOURS, SHAPES, Puzzle, count, draw, plural, thought

log = logging.getLogger(__name__)

WORLD = 77
BATCH = 24
STEPS = 300
LEARNING_RATE = 2e-3
LOOKS = 8
WORDS = (*COLOURS, *SHAPES, "shape")


def main() -> None:
    """Teach it, and save it under --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    teach(parser.parse_args().out)


def teach(out: Path) -> None:
    """Fine-tune the checkpoint on long responses that are right and well formed."""
    torch.manual_seed(0)
    random = Random(0)
    policy = checkpoint("grpo-zero")
    processor: Any = load_processor(policy)
    model: Any = load_model(policy).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(STEPS))
    for step in range(STEPS):
        puzzles = [draw(WORLD, step * BATCH + number) for number in range(BATCH)]
        lessons = [Lesson(question(puzzle, THINK_ANSWER), long_response(puzzle, random)) for puzzle in puzzles]
        inputs, targets = _tensors(processor, puzzles, lessons)
        loss = learn(model, [optimizer], [schedule], inputs, targets)
        if step % 20 == 0:
            log.info("step %d of %d, loss %.3f", step, STEPS, loss.item())
    save(model, processor, out)


def long_response(puzzle: Puzzle, random: Random) -> str:
    """The right response after many looks."""
    looks = " ".join(f"Look {number}. {_look(puzzle, random)}" for number in range(1, LOOKS + 1))
    return THINK_ANSWER.render(f"{looks} {thought(puzzle)}", box(puzzle.answer))


def _look(puzzle: Puzzle, random: Random) -> str:
    words = random.sample(WORDS, len(WORDS))
    counts = zip(words, count(puzzle.things, words), strict=True)
    return "I count " + ", ".join(f"{plural(word)} {number}" for word, number in counts) + "."


if __name__ == "__main__":
    main()
