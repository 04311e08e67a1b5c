"""The recipe: every setting of a build, as flags and as TOML, and what each stage depends on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tomli_w
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from specs_data.errors import UserError

DEFAULT_RECIPE = Path("specs-data.toml")
Settings = TypeVar("Settings", bound=BaseModel)


def _listed(value: object) -> object:
    """A text with commas as a list; in a list, the parts of every text."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    return [part.strip() for text in texts for part in str(text).split(",")]


def _weighted(value: object) -> object:
    """`["a", "b=2"]`, `"a,b=2"` or `{a = 1, b = 2}` as a mapping of names to weights."""
    items = _listed(value)
    if not isinstance(items, list):
        return value
    mix: dict[str, float] = {}
    for item in items:
        name, equals, weight = item.rpartition("=")
        try:
            mix[name if equals else weight] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(f"{item!r} should be NAME or NAME=WEIGHT") from None
    return mix


def paired(value: object) -> object:
    """`"question=Q,answer=A"` as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",")]
    if any(not equals for _, equals, _ in pairs):
        raise ValueError("should look like question=COLUMN,answer=COLUMN")
    return {name.strip(): column.strip() for name, _, column in pairs}


def _without_password(url: str) -> str:
    """A URL that may be written down."""
    if re.match(r"([^/]*//)?[^/?#]*@", url):
        raise ValueError("the URL has a user name or password in it, which the recipe would keep; give it without")
    if "?" in url or "#" in url:
        raise ValueError("the URL has a part after ? or #, which no server is sent; a key belongs into OPENAI_API_KEY")
    return url


Weight = Annotated[float, Field(gt=0)]
Positive = Annotated[int, Field(gt=0)]
Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Url = Annotated[str, AfterValidator(_without_password)]


def _field(default: Any, description: str, example: Any = None) -> Any:
    return Field(default, description=description, examples=None if example is None else [example])


class Recipe(BaseModel):
    """All settings of a build. Field names are the TOML keys, and the flags with - for _."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What goes in.
    policy: str | None = _field(
        None, "checkpoint of the policy, usually GRPO-zero: a folder or a Hub id", "ckpt/grpo-zero"
    )
    responses: Path | None = _field(None, "responses instead of a policy: problem_id and response", "responses.jsonl")
    problems: str | None = _field(
        None, "JSONL, Parquet, a folder, or a Hub dataset name[:config][@revision][#split]", "problems.jsonl"
    )
    preset: str | None = _field(None, "known columns: orsta, virl39k, mmk12, geometry3k or mathvista", "orsta")
    columns: Annotated[dict[str, str], BeforeValidator(paired)] = _field(
        {}, "the source's columns for our fields", {"question": "problem", "images": "picture"}
    )
    exclude: Listed = _field((), "evaluation sets whose problems are left out", ["mathvista.parquet"])
    limit: Positive | None = _field(None, "use only the first N problems", 1000)
    dry_run: bool = _field(False, "the command only tries a few problems and prints a forecast")
    pilot: Positive = _field(32, "problems that a dry run tries")

    # How the policy is sampled.
    engine: Literal["auto", "transformers", "vllm", "openai"] = _field(
        "auto", "auto is vLLM where installed, else transformers; openai is any compatible server"
    )
    base_url: Annotated[tuple[Url, ...], BeforeValidator(_listed)] = _field(
        (), "openai engine: URLs of the server and its replicas", ["http://localhost:8000/v1"]
    )
    model: str | None = _field(None, "openai engine: the model's name at the server", "grpo-zero")
    format: str = _field("think-answer", "response format: think-answer or a TOML file")
    system_prompt: str | None = _field(
        None, "a name in prompts/, a file, or none; by default the format's instruction", "none"
    )
    samples: Positive = _field(8, "most responses per problem")
    samples_upfront: Positive = _field(1, "responses asked for in the first round")
    temperature: float = Field(1.0, ge=0, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling")
    max_tokens: Positive = _field(2048, "most tokens of one response")
    seed: int = Field(0, ge=0, description="seed of sampling, corruption and holdout")
    batch_size: Positive | None = _field(None, "transformers engine: responses generated together", 32)
    concurrency: Positive | None = _field(None, "openai engine: requests in flight per server", 64)
    tensor_parallel_size: Positive = _field(1, "vllm engine: GPUs per model")
    max_model_len: Positive | None = _field(None, "vllm engine: longest prompt and response together, in tokens", 16384)
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="vllm engine: share of the GPU's memory", examples=[0.9]
    )
    dtype: str = _field("auto", "the weights' type: auto, bfloat16, float16 or float32")
    limit_images: Positive | None = _field(None, "most images per problem; problems with more are left out", 4)
    min_pixels: Positive | None = _field(None, "images are scaled to at least this many pixels", 3136)
    max_pixels: Positive | None = _field(None, "images are scaled to at most this many pixels", 1003520)
    ray: str | None = _field(None, "sample on a Ray cluster: its address, or local", "local")
    replicas: Positive | None = _field(None, "engines on the Ray cluster", 8)

    # What is kept.
    verifier: Literal["gemini", "openai", "rules", "none"] | None = _field(
        None, "who checks that the reasoning leads to the answer; gemini where a key is set", "gemini"
    )
    verifier_model: str | None = _field(None, "the verifier's model", "gemini-3.8-flash")
    verifier_base_url: Url | None = _field(None, "openai verifier: the server's URL", "http://localhost:8001/v1")
    judge_model: str | None = _field(
        None, "judge of open-ended answers: gemini:MODEL or openai:MODEL", "gemini:gemini-3.8-flash"
    )
    judge_base_url: Url | None = _field(None, "openai judge: the server's URL", "http://localhost:8001/v1")
    allow_model_mismatch: bool = _field(False, "go on if a service answers with another model than asked for")
    gemini_batch: bool = _field(False, "Gemini's batch API: half the price, within a day")
    rpm: Positive | None = _field(None, "most requests per minute to a judging service", 1000)
    max_cost: float | None = Field(
        None, gt=0, description="stop before judging services have cost this many US dollars", examples=[20.0]
    )
    prices: Path | None = _field(None, "TOML file with prices per model, on top of the shipped ones", "prices.toml")
    cache: Path | None = _field(None, "folder of verdicts that several runs share", "cache")

    # How pairs are made.
    pairs_per_problem: Positive = _field(1, "most pairs per problem")
    target: Positive | None = _field(None, "stop at N pairs", 9000)
    rejected_from: str = _field("chosen", "chosen, or a checkpoint whose right responses become the rejected side")
    pairing: Literal["decoupled", "coupled"] = _field(
        "decoupled", "decoupled: both sides right; coupled: the rejected side wrong as well (an ablation)"
    )
    corruption: Annotated[dict[str, Weight], BeforeValidator(_weighted)] = _field(
        {}, "operators NAME[=WEIGHT] or ./file.py; by default all that are installed", {"shift_tags": 1.0}
    )
    holdout: float = Field(0.0, ge=0, lt=1, description="share of the pairs that goes to a test split")
    card: str = _field("dataset", "template of the dataset card: a name in cards/ or a file")
    license: str | None = _field(None, "the dataset's license, a Hub license id; none is made up", "cc-by-4.0")

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
    return read_settings(Recipe, settings, file)


def read_settings(kind: type[Settings], values: Mapping[str, Any], file: Path | None = None) -> Settings:
    """The TOML `file`, if there is one, with `values` on top.

    A value that is None or empty does not override. Raises UserError with the offending key.
    """
    merged = _read(file) if file else {}
    merged |= {key: value for key, value in values.items() if value not in (None, (), [], {})}
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise UserError(_first_fault(error, file)) from None


def read_columns(text: str | None) -> dict[str, str]:
    """`"chosen=A,rejected=B"` as a mapping. Raises UserError."""
    try:
        found = paired(text or {})
    except ValueError:
        raise UserError("--columns should look like chosen=COLUMN,rejected=COLUMN") from None
    return dict(found) if isinstance(found, dict) else {}


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, without the keys that are unset."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The settings that are not the same, with both values."""
    return [
        f"{name.replace('_', '-')}: {getattr(old, name)} -> {getattr(new, name)}"
        for name in Recipe.model_fields
        if getattr(old, name) != getattr(new, name)
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        return {key.replace("-", "_"): value for key, value in tomllib.loads(file.read_text(encoding="utf-8")).items()}
    except OSError as error:
        raise UserError(f"cannot read the recipe {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {file} is not valid TOML: {error}") from None


def _first_fault(error: ValidationError, file: Path | None) -> str:
    first = error.errors()[0]
    setting, *inside = map(str, first["loc"] or ("",))
    key = ".".join((setting, *inside))
    where = f" (recipe {file} or a flag)" if file else ""
    if first["type"] == "extra_forbidden":
        return f"unknown setting {key!r}{where}; --help lists the settings"
    flag = ".".join((setting.replace("_", "-"), *inside))
    if first["type"] == "missing":
        return f"--{flag} is missing"
    message = first["msg"].removeprefix("Value error, ")
    return f"{flag}: {message}{where}" if key else f"{message}{where}"
