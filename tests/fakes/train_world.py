"""A nano Qwen2.5-VL and rows of the miniature world, for the trainers' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model import CHAT_TEMPLATE, new_model, new_processor

from specs_data.engines.checkpoint import load_processor
from specs_data.format import THINK_ANSWER
from specs_data.mini.world import Puzzle, as_problem, draw, picture, thought, write_problems
from specs_data.pairs.parquet import write_shards
from specs_data.texts import chat, load_prompt

SEED = 7
NANO: dict[str, Any] = {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0, "seed": 3}


def nano_checkpoint(folder: Path) -> Path:
    """An untrained model of 0.1 million parameters, saved in bfloat16 with its processor."""
    import torch

    torch.manual_seed(SEED)
    texts = [text for index in range(200) for text in (draw(SEED, index).question, chosen(draw(SEED, index)))]
    processor = new_processor([*texts, load_prompt("think-answer").body], vocabulary=500)
    new_model(processor, hidden=32, layers=1).to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def chosen(puzzle: Puzzle) -> str:
    return THINK_ANSWER.render(thought(puzzle), f"\\boxed{{{puzzle.answer}}}")


def preference_rows(count: int) -> Iterator[dict[str, Any]]:
    """Format-only pairs: the rejected has no tags. Every fifth is without a picture."""
    for index in range(count):
        puzzle = draw(SEED, index)
        messages = chat(as_problem(puzzle, str(index)), load_prompt("think-answer"))
        good = chosen(puzzle)
        yield {
            "id": str(index),
            "images": [] if index % 5 == 4 else [{"bytes": picture(puzzle.things), "path": f"{index}.png"}],
            "prompt": [{"role": message.role, "content": message.content} for message in messages],
            "chosen": [{"role": "assistant", "content": good}],
            "rejected": [{"role": "assistant", "content": THINK_ANSWER.content(good)}],
            "problem_id": str(index),
        }


def preference_dataset(folder: Path, count: int = 16) -> Path:
    write_shards(preference_rows(count), folder, "train")
    return folder


def problem_file(folder: Path, count: int = 8) -> Path:
    return write_problems(folder, count, SEED)


def blind_checkpoint(folder: Path) -> Path:
    """An untrained text-only model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    nano_checkpoint(folder)
    tokenizer = load_processor(folder).tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE
    for file in folder.iterdir():
        file.unlink()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
