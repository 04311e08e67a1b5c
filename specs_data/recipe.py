"""The recipe: every setting of a build, as flags and as TOML, and what each stage depends on."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from specs_data.errors import UserError

DEFAULT_RECIPE = Path("specs-data.toml")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _weighted(value: object) -> object:
    """`["a", "b=2"]` or `{a = 1, b = 2}` as a mapping of names to weights."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return value
    mix: dict[str, float] = {}
    for item in value:
        name, equals, weight = str(item).rpartition("=")
        try:
            mix[name if equals else weight] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(f"{item!r} should be NAME or NAME=WEIGHT") from None
    return mix


def _paired(value: object) -> object:
    """`"question=Q,answer=A"` as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",")]
    if any(not equals for _, equals, _ in pairs):
        raise ValueError("should look like question=COLUMN,answer=COLUMN")
    return {name.strip(): column.strip() for name, _, column in pairs}


Weight = Annotated[float, Field(gt=0)]
Positive = Annotated[int, Field(gt=0)]
Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Recipe(BaseModel):
    """All settings of a build. Field names are the TOML keys, and the flags with - for _."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What goes in.
    policy: str | None = Field(
        None, description="checkpoint of the policy (a folder or a Hub model id), usually GRPO-zero"
    )
    responses: Path | None = Field(
        None, description="JSONL or Parquet with problem_id and response, instead of a policy"
    )
    problems: str | None = Field(
        None, description="JSONL, Parquet, a folder of them, or a Hub dataset id name[:config][@revision][#split]"
    )
    preset: str | None = Field(None, description="known columns: orsta, virl39k, mmk12, geometry3k or mathvista")
    columns: Annotated[dict[str, str], BeforeValidator(_paired)] = Field(
        {}, description="question=...,answer=...,images=..."
    )
    exclude: Listed = Field((), description="evaluation sets whose problems are left out")
    limit: Positive | None = Field(None, description="use only the first N problems")

    # How the policy is sampled.
    engine: Literal["auto", "transformers", "vllm", "openai"] = Field(
        "auto", description="auto: vLLM where installed, else transformers"
    )
    base_url: Listed = Field((), description="openai engine: one or more server URLs, comma separated")
    model: str | None = Field(None, description="openai engine: the model's name at the server")
    format: str = Field("think-answer", description="response format: think-answer or a TOML file")
    system_prompt: str | None = Field(
        None, description="a name in prompts/, a file, or none; the format's instruction is the default"
    )
    samples: Positive = Field(8, description="most responses per problem")
    samples_upfront: Positive = Field(1, description="responses asked for in the first round")
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: Positive = Field(2048, description="most tokens of one response")
    seed: int = Field(0, ge=0)
    batch_size: Positive | None = Field(None, description="transformers engine: responses generated together")
    concurrency: Positive | None = Field(None, description="openai engine: requests in flight per server")
    tensor_parallel_size: Positive = Field(1, description="vllm engine: GPUs per model")
    max_model_len: Positive | None = Field(None, description="vllm engine: longest prompt + response")
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1, description="vllm engine: share of GPU memory")
    dtype: str = Field("auto", description="weights' type: auto, bfloat16, float16 or float32")
    limit_images: Positive | None = Field(None, description="most images per problem")
    min_pixels: Positive | None = Field(None, description="images are scaled to at least this many pixels")
    max_pixels: Positive | None = Field(None, description="images are scaled to at most this many pixels")
    ray: str | None = Field(None, description="Ray cluster address, or local")
    replicas: Positive | None = Field(None, description="engine replicas on Ray")

    # What is kept.
    verifier: Literal["gemini", "openai", "rules", "none"] | None = Field(
        None, description="who checks that the reasoning leads to the answer"
    )
    verifier_model: str | None = None
    verifier_base_url: str | None = Field(None, description="openai verifier: the server's URL")
    judge_model: str | None = Field(
        None, description="model that judges open-ended answers: gemini:NAME or openai:NAME"
    )
    judge_base_url: str | None = Field(None, description="openai judge: the server's URL")
    allow_model_mismatch: bool = Field(
        False, description="go on if a service answers with another model than asked for"
    )
    gemini_batch: bool = Field(False, description="Gemini's batch API: half the price, within a day")
    rpm: Positive | None = Field(None, description="most verifier requests per minute")
    max_cost: float | None = Field(
        None, gt=0, description="stop before judging services have cost this much, in US dollars"
    )
    prices: Path | None = Field(None, description="TOML file with prices per model")
    cache: Path | None = Field(None, description="verdicts shared across runs")

    # How pairs are made.
    pairs_per_problem: Positive = 1
    target: Positive | None = Field(None, description="stop at N pairs")
    rejected_from: str = Field(
        "chosen", description="chosen, or a checkpoint whose right responses become the rejected"
    )
    pairing: Literal["decoupled", "coupled"] = Field(
        "decoupled", description="decoupled: both right; coupled: the rejected is wrong too (an ablation)"
    )
    corruption: Annotated[dict[str, Weight], BeforeValidator(_weighted)] = Field(
        {}, description="NAME[=WEIGHT], or ./file.py; all found operators by default"
    )
    holdout: float = Field(0.0, ge=0, lt=1, description="share of the problems that goes to the test split")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("temperature 0 gives the same response every time: use samples 1 or a higher temperature")
        if self.samples_upfront > self.samples:
            raise ValueError(f"samples_upfront {self.samples_upfront} is more than samples {self.samples}")
        return self


def make_recipe(settings: dict[str, Any], file: Path | None = None) -> Recipe:
    """The recipe in `file` (TOML; default: specs-data.toml if it exists), with `settings` on top.

    A setting that is None or empty does not override. Raises UserError with the offending key.
    """
    if file is None and DEFAULT_RECIPE.exists():
        file = DEFAULT_RECIPE
    merged = _read(file) if file else {}
    merged |= {key: value for key, value in settings.items() if value not in (None, (), [], {})}
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise UserError(_first_fault(error, file)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, without the keys that are unset."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _read(file: Path) -> dict[str, Any]:
    try:
        return {key.replace("-", "_"): value for key, value in tomllib.loads(file.read_text(encoding="utf-8")).items()}
    except OSError as error:
        raise UserError(f"cannot read the recipe {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {file} is not valid TOML: {error}") from None


def _first_fault(error: ValidationError, file: Path | None) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    where = f" (recipe {file} or a flag)" if file else ""
    if first["type"] == "extra_forbidden":
        return f"unknown setting {key!r}{where}; `specs-data build --help` lists the settings"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key.replace('_', '-')}: {message}{where}" if key else f"{message}{where}"
