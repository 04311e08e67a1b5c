"""Settings that every trainer has: flags and TOML keys, like those of a build."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from specs_data.errors import UserError
from specs_data.recipe import Listed, Positive


class TrainSettings(BaseModel):
    """What every trainer is told. Field names are the TOML keys, and the flags with - for _.

    The vision tower stays frozen unless `train_vision` is given: both trainers that the paper's
    authors used freeze it by default (LLaMA-Factory's `freeze_vision_tower`, MM-EUREKA's scripts).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="checkpoint to start from: a folder or a Hub model id")
    out: Path = Field(description="folder for the trained checkpoint; the same command resumes there")
    limit: Positive | None = Field(None, description="use only the first N rows")
    learning_rate: float = Field(1e-6, gt=0, description="highest learning rate")  # paper: 1e-6 in stages 2 and 3
    batch: Positive = Field(64, description="examples per optimizer step, over all GPUs")
    micro_batch: Positive = Field(1, description="examples on one GPU at a time")
    epochs: float = Field(1.0, gt=0, description="passes over the rows")
    steps: Positive | None = Field(None, description="stop after N optimizer steps, whatever epochs says")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="course of the learning rate")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    train_vision: bool = Field(False, description="train the vision tower too")
    lora: bool = Field(False, description="train LoRA adapters, merged into the checkpoint at the end")
    lora_rank: Positive = Field(16, description="rank of the adapters; alpha is twice that")
    min_pixels: Positive | None = Field(None, description="images are scaled to at least this many pixels")
    max_pixels: Positive | None = Field(None, description="images are scaled to at most this many pixels")
    seed: int = Field(0, ge=0, description="seed of the order of rows, of sampling and of adapters")
    save_every: Positive = Field(50, description="optimizer steps between checkpoints")
    keep_checkpoints: Positive = Field(1, description="how many of the latest checkpoints stay")
    report_to: Listed = Field((), description="where else metrics go: tensorboard, wandb, trackio ...")

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}")
        return self


Settings = TypeVar("Settings", bound=TrainSettings)


def make_settings(kind: type[Settings], values: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Settings of a trainer from a TOML `file` (optional) with `values` on top; None and empty values
    do not override. Raises UserError with the offending key."""
    merged = _read(file) if file is not None else {}
    merged |= {key: value for key, value in values.items() if value not in (None, (), [], {})}
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = "-".join(map(str, first["loc"])).replace("_", "-")
        message = first["msg"].removeprefix("Value error, ").replace("_", "-")
        raise UserError(f"{key}: {message}" if key else message) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return {key.replace("-", "_"): value for key, value in tomllib.loads(file.read_text(encoding="utf-8")).items()}
    except OSError as error:
        raise UserError(f"cannot read the recipe {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {file} is not valid TOML: {error}") from None
