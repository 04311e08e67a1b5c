"""The method in miniature: a world of coloured shapes, and two tiny vision-language models of it.

`base` was trained from scratch on the world; `grpo-zero` was made from it by GRPO (see make.py and
the model cards beside the weights). Both are real Qwen2.5-VL checkpoints that run on a CPU.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from specs_data.format import ResponseFormat, load_format

__all__ = ["checkpoint", "formats"]


def checkpoint(name: Literal["base", "grpo-zero"]) -> Path:
    """The folder of a shipped checkpoint."""
    return _here() / name


def formats() -> dict[str, ResponseFormat]:
    """The response formats that the base was trained on, by name."""
    return {name: load_format(name) for name in ("think-answer", "final-answer", "json", "plain", "reasoning-solution")}


def _here() -> Path:
    return Path(str(files("specs_data.mini")))
