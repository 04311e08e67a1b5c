"""The trainers' settings: flags and TOML keys, like those of a build. The defaults are the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from specs_data.recipe import Listed, Positive, Url, Window, paired

ROUNDS_AVERAGED = 5  # of the moving average that ends a brief run


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
    train_vision: bool = Field(
        False, description="train the vision tower too; on several GPUs every row needs a picture then"
    )
    lora: bool = Field(False, description="train LoRA adapters, merged into the checkpoint at the end")
    lora_rank: Positive = Field(16, description="rank of the adapters; alpha is twice that")
    min_pixels: Positive | None = Field(None, description="images are scaled to at least this many pixels")
    max_pixels: Positive | None = Field(None, description="images are scaled to at most this many pixels")
    seed: int = Field(0, ge=0, lt=1 << 32, description="seed of the order of rows, of sampling and of adapters")
    save_every: Positive = Field(50, description="optimizer steps between checkpoints")
    save_minutes: float | None = Field(
        None, gt=0, description="minutes between checkpoints, whatever --save-every says; SIGTERM saves one as well"
    )
    # Half of what a short GRPO moves is lost in bfloat16, and with it some of the format: benchmarks/save_dtype.py.
    save_dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "float32", description="type of the finished weights; auto is that of the checkpoint it starts from"
    )
    keep_checkpoints: Positive = Field(
        1, description="how many of the latest checkpoints stay; several stay after the end too"
    )
    report_to: Listed = Field((), description="where else metrics go: tensorboard, wandb, trackio ...")

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the rows come from: paths and Hub datasets."""
        return ()

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}")
        return self

    @property
    def needs(self) -> dict[str, tuple[str, bool]]:
        """Settings that only have an effect beside another one: that one, and whether it is there."""
        return {"lora_rank": ("lora", self.lora)}

    @model_validator(mode="after")
    def _none_in_vain(self) -> Self:
        for name, (needed, there) in self.needs.items():
            if not there and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect without {needed}")
        return self


class PreferenceSettings(TrainSettings):
    """Settings of a trainer on preference rows."""

    data: str = Field(description="preference dataset: a RUN, a dataset folder, a file, or a Hub id name[@revision]")
    split: str = Field("train", description="split of the dataset")
    images: Path | None = Field(None, description="folder of the pictures that rows name (default: the dataset's own)")
    max_length: Positive = Field(16_384, description="longest prompt + response in tokens")  # paper: 16,384
    overlong: Literal["drop", "refuse"] = Field("drop", description="what becomes of rows that do not fit")

    @property
    def sources(self) -> tuple[str, ...]:
        """The preference dataset."""
        return (self.data,)

    @property
    def sides(self) -> tuple[str, ...]:
        """The responses of a row that are trained on."""
        return ("chosen", "rejected")


class DpoSettings(PreferenceSettings):
    """Settings of the hybrid cold start; the defaults are the paper's (batch 64, learning rate 1e-6)."""

    sft_weight: float = Field(1.0, ge=0, description="lambda, the weight of the SFT term; 0 is plain DPO")  # paper: 1
    # All of TRL's that look at a pair by itself; `aot` and `aot_unpaired` look at a micro-batch, and would be another
    # loss for another --micro-batch.
    loss: Literal[
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "apo_zero", "apo_down", "bco_pair",
        "nca_pair", "sppo_hard", "discopop",
    ] = Field(
        "sigmoid",
        description="TRL's loss on a pair; sigmoid is DPO's, robust and exo_pair take one label in ten as wrong",
    )  # fmt: skip
    beta: float = Field(0.1, gt=0, description="DPO's beta")  # LLaMA-Factory's default, which the paper does not change
    normalise: Literal["per-sequence", "per-token"] = Field("per-sequence", description="how the SFT term is averaged")

    @property
    def needs(self) -> dict[str, tuple[str, bool]]:
        """As of every trainer, and for the SFT term."""
        return super().needs | {"normalise": ("an sft_weight", self.sft_weight > 0)}


class SftSettings(PreferenceSettings):
    """Settings of SFT; like the cold start's, so that the two compare."""

    @property
    def sides(self) -> tuple[str, ...]:
        """The responses of a row that are trained on."""
        return ("chosen",)


class GrpoSettings(TrainSettings):
    """Settings of GRPO; the defaults are the paper's."""

    problems: Listed = Field(description="problems to train on; several may be given")
    preset: Listed = Field((), description="known columns, one for each of the problems")
    columns: Annotated[dict[str, str], BeforeValidator(paired)] = Field(
        {}, description="question=...,answer=...,images=..."
    )
    format: str = Field("think-answer", description="response format: a shipped one, such as boxed, or a TOML file")
    system_prompt: str | None = Field(None, description="a name in prompts/, a file, or none")
    rollouts: int = Field(8, ge=2, description="responses per problem")  # paper
    rollout_batch: Positive = Field(128, description="problems per round")  # paper: rollout batch 128
    batch: Positive = Field(128, description="responses per optimizer step, over all GPUs")  # paper: train batch 128
    epsilon: float = Field(0.2, gt=0, description="how far the ratio may fall")  # DAPO, arXiv 2503.14476
    epsilon_high: float = Field(0.28, gt=0, description="how far the ratio may rise")  # DAPO, arXiv 2503.14476
    delta: float | None = Field(3.0, gt=1, description="the ratio is clamped here, whatever the advantage")  # MM-EUREKA
    accuracy_window: Window = Field(
        (0.1, 0.9), description="LO..HI: groups with another share of right answers are replaced; 0..1 keeps all"
    )  # MM-EUREKA
    beta: float = Field(0.0, ge=0, description="weight of the KL term")  # paper: none
    consistency_weight: float = Field(
        0.0, ge=0, description="reward of a right and well-formed response whose reasoning leads to its answer, by rule"
    )  # paper: none
    max_tokens: Positive = Field(10_240, description="longest response in tokens")  # paper: max output 10,240
    max_length: Positive | None = Field(
        None, description="longest prompt + response in tokens; problems that leave too little room are left out"
    )
    temperature: float = Field(1.0, gt=0, description="of the rollouts")  # MM-EUREKA's scripts
    top_p: float = Field(1.0, gt=0, le=1, description="of the rollouts")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="course of the learning rate")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    stop_when_format: float | None = Field(
        None, gt=0, le=1, description=f"end once this share of responses, over {ROUNDS_AVERAGED} rounds, has the format"
    )
    judge_model: str | None = Field(None, description="judge of open-ended answers: gemini:NAME or openai:NAME")
    judge_base_url: Url | None = Field(None, description="openai judge: the server's URL")
    vllm: Literal["colocate", "server"] | None = Field(None, description="sample with vLLM, here or on a server")
    vllm_server: str | None = Field(None, description="URL of the `trl vllm-serve` server")
    vllm_memory: float = Field(0.3, gt=0, le=1, description="colocate: share of GPU memory for vLLM")

    @model_validator(mode="after")
    def _whole_rounds(self) -> Self:
        if self.rollout_batch * self.rollouts % self.batch:
            raise ValueError(
                f"batch {self.batch} does not divide the {self.rollout_batch * self.rollouts} responses of a round"
            )
        if self.preset and len(self.preset) != len(self.problems):
            raise ValueError("give one preset for each of the problems")
        return self

    @property
    def needs(self) -> dict[str, tuple[str, bool]]:
        """As of every trainer, and for vLLM and the judge."""
        return super().needs | {
            "vllm_server": ("vllm server", self.vllm == "server"),
            "vllm_memory": ("vllm colocate", self.vllm == "colocate"),
            "judge_base_url": ("a judge_model", self.judge_model is not None),
        }

    @property
    def sources(self) -> tuple[str, ...]:
        """The problems."""
        return self.problems

    @property
    def steps_per_round(self) -> int:
        """Optimizer steps between two samplings."""
        return self.rollout_batch * self.rollouts // self.batch
