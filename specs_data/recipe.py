"""The recipe: every setting of a build, as flags and as TOML, and what each stage depends on."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from specs_data.errors import UserError
from specs_data.files import read_toml, shipped, toml_called, write_whole

DEFAULT_RECIPE = Path("specs-data.toml")
NAMES_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)  # of variables and arguments
_SHIPPED = "specs_data.recipes"
# Ways to call a build, which an earlier release wrote into its recipes.
_NO_SETTINGS = frozenset({"dry_run", "pilot"})
_HEAD = """\
# The recipe of a build: `specs-data build` reads it, and a flag of the same name beats it.
# Uncomment what you need. A setting without a default is shown with an example.
"""
# Words of pydantic's, and ours.
_WORDS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a text",
    "a valid boolean": "true or false",
    "a valid dictionary": "a table",
    "a valid tuple": "a list",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}
Settings = TypeVar("Settings", bound=BaseModel)


def _listed(value: object) -> object:
    """A text with commas as a list; in a list, the parts of every text."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    return [part.strip() for text in texts for part in str(text).split(",")]


def named_verifiers(verifier: str | None) -> tuple[str, ...]:
    """The names that `--verifier rules,policy` lists, in their order; none where it is not given."""
    return tuple(filter(None, map(str.strip, (verifier or "").split(","))))


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


def _arguments(value: object) -> object:
    """`["a=1", "b=fp8"]` as a mapping; a value is JSON where it is, else a text."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    pairs = [str(text).partition("=") for text in texts]
    if any(not (name.strip() and equals) for name, equals, _ in pairs):
        raise ValueError("should look like KEY=VALUE")
    return {name.strip().replace("-", "_"): _literal(text) for name, _, text in pairs}


def _without_secrets(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments that may be written down."""
    for name in arguments:
        if NAMES_SECRET.search(name):
            raise ValueError(f"{name} is a secret, which the recipe would keep; set it in the environment, as HF_TOKEN")
    return arguments


def _literal(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)


def paired(value: object) -> object:
    """`"question=Q,answer=A"` as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",")]
    if any(not equals for _, equals, _ in pairs):
        raise ValueError("should look like question=COLUMN,answer=COLUMN")
    return {name.strip(): column.strip() for name, _, column in pairs}


def window(value: object) -> object:
    """`"0.1..0.9"`, or its two bounds, as its two bounds."""
    parts = value.split("..") if isinstance(value, str) else value
    try:
        low, high = map(float, parts)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{value!r} should look like 0.1..0.9")
    return low, high


def _shard(text: str) -> str:
    """`"2/8"`, the second of eight."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"{text!r} should look like 1/8: the first of eight shards")
    return f"{int(found[1])}/{int(found[2])}"


def _one_or_several(value: object) -> object:
    """The only one of a list by itself."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


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
Several = Annotated[tuple[str, ...] | str, BeforeValidator(_one_or_several)]
Window = Annotated[tuple[float, float], BeforeValidator(window)]
Url = Annotated[str, AfterValidator(_without_password)]


# The first stage whose results a setting decides. "dataset": which of them become rows, and how it is written;
# "nothing": how a run is carried out.
Stage = Literal["samples", "judgements", "verdicts", "pairs", "dataset", "nothing"]


def setting(
    default: Any,
    description: str,
    *,
    decides: Stage,
    panel: str,
    example: Any = None,
    also: tuple[str, ...] = (),
    **bounds: Any,
) -> Any:
    """A field of a recipe: what it `decides`, the `panel` of the help that shows it, and the other verbs that
    `also` take it. `bounds` are pydantic's (gt, ge, lt, le)."""
    said: dict[str, Any] = {"decides": decides, "panel": panel, "also": also}
    examples = None if example is None else [example]
    return Field(default, description=description, examples=examples, json_schema_extra=said, **bounds)


def says(field: FieldInfo, what: Literal["decides", "panel", "also"]) -> Any:
    """What `setting` was told of a field; None for a field that another function made."""
    said = field.json_schema_extra
    return said.get(what) if isinstance(said, dict) else None


class Staged(BaseModel):
    """Settings each of which says what it decides: the keys of stored results are derived from that, and one that
    were forgotten there would give old results for new settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if says(field, "decides") not in get_args(Stage):
                raise TypeError(
                    f"the setting {name!r} of {cls.__name__} does not say which stage it decides: "
                    f"make it with setting(..., decides=...), one of {', '.join(get_args(Stage))}"
                )


_MEASURES = ("evaluate", "errors")  # they sample as a build does; evaluate also judges and verifies
_what = partial(setting, panel="What to sample", also=_MEASURES)
_which = partial(setting, panel="Which problems")
_how = partial(setting, panel="How to sample", also=_MEASURES)
_engine = partial(setting, panel="The engine", also=_MEASURES)
_judging = partial(setting, panel="Judging", also=("evaluate",))
_verifying = partial(setting, panel="Verifying", also=("evaluate", "verifier-score"))
_services = partial(setting, panel="Services that judge and verify", also=("evaluate", "verifier-score"))
_pairing = partial(setting, panel="Pairing")
_output = partial(setting, panel="Output")


class Recipe(Staged):
    """All settings of a build. Field names are the TOML keys, and the flags with - for _."""

    policy: str | None = _what(
        None,
        "checkpoint of the policy, usually GRPO-zero: a folder or a Hub id",
        decides="samples",
        example="ckpt/grpo-zero",
    )
    responses: Path | None = _what(
        None,
        "responses instead of a policy: problem_id and response",
        decides="samples",
        example="responses.jsonl",
        also=(),
    )
    problems: Several | None = _what(
        None,
        "JSONL, Parquet, a folder, or a Hub dataset name[:config][@revision][#split]; may be repeated",
        decides="dataset",
        example="problems.jsonl",
    )
    preset: Several | None = _what(
        None,
        "known columns: orsta, virl39k, mmk12, geometry3k, mathvista, mathverse, mathvision, mmmu, mega-bench, "
        "or a TOML file; one for each of the problems, none where one needs none",
        decides="dataset",
        example="orsta",
        also=("export", *_MEASURES),
    )
    columns: Annotated[dict[str, str], BeforeValidator(paired)] = _what(
        {},
        "the source's columns for our fields",
        decides="dataset",
        example={"question": "problem", "images": "picture"},
        also=("export", *_MEASURES),
    )

    exclude: Listed = _which(
        (), "evaluation sets whose problems are left out", decides="dataset", example=["mathvista.parquet"]
    )
    limit: Positive | None = _which(
        None,
        "use only the first N problems of their order",
        decides="dataset",
        example=1000,
        also=("export", *_MEASURES),
    )
    shuffle: bool | None = _which(
        None,
        "ask about the problems in random order, as the seed has it: the default with --target and --limit, where "
        "--no-shuffle keeps the order of the source",
        decides="dataset",
        example=True,
    )
    balance: Literal["source"] | None = _which(
        None,
        "source: one problem of each source in turn; a source is what the problems name as theirs, else their file",
        decides="dataset",
        example="source",
    )
    pass_rate: Window | None = _which(
        None,
        "LO..HI: only problems whose share of right answers is in this window, by the source's own column (pass_rate; "
        "ViRL39K has one), and with --samples-upfront K by the first K responses",
        decides="dataset",
        example="0.1..0.9",
    )
    blind_check: Literal["flag", "drop"] | None = _which(
        None,
        "ask the policy about each problem without its picture as well: flag those that it solves so in the rows, or "
        "drop them",
        decides="dataset",
        example="flag",
    )
    shard: Annotated[str, AfterValidator(_shard)] | None = _which(
        None,
        "I/N: only the I-th of N parts of the problems, by their ids; specs-data merge joins the runs of all parts to "
        "what one run gives. Of a --target each has its share",
        decides="dataset",
        example="1/8",
    )

    format: str = _how(
        "think-answer",
        "response format: think-answer, boxed, final-answer, reasoning-solution, json, markdown, plain, or a TOML file",
        decides="samples",
        also=("export",),
    )
    system_prompt: str | None = _how(
        None,
        "a name in prompts/, a file, or none; by default the format's instruction",
        decides="samples",
        example="none",
        also=("export", *_MEASURES),
    )
    samples: Positive = _how(8, "most responses per problem", decides="dataset")
    samples_upfront: Positive = _how(1, "responses asked for in the first round", decides="dataset", also=())
    temperature: float = _how(1.0, "sampling temperature", decides="samples", ge=0)
    top_p: float = _how(1.0, "nucleus sampling", decides="samples", gt=0, le=1)
    max_tokens: Positive = _how(2048, "most tokens of one response", decides="samples")
    prefill: str | None = _how(
        None, "how every response begins; the policy continues it", decides="samples", example="<think>"
    )
    seed: int = _how(0, "seed of sampling, shuffling, corruption and holdout", decides="samples", ge=0)

    engine: str = _engine(
        "auto",
        "transformers, vllm, openai (any compatible server), an installed one, or ./file.py; "
        "auto is vllm where installed, else transformers",
        decides="samples",
    )
    base_url: Annotated[tuple[Url, ...], BeforeValidator(_listed)] = _engine(
        (),
        "openai engine: URLs of the server and its replicas",
        decides="nothing",
        example=["http://localhost:8000/v1"],
    )
    model: str | None = _engine(
        None, "openai engine: the model's name at the server", decides="samples", example="grpo-zero"
    )
    batch_size: Positive | None = _engine(
        None, "transformers engine: responses generated together", decides="nothing", example=32
    )
    concurrency: Positive | None = _engine(
        None, "openai engine: requests in flight per server", decides="nothing", example=64
    )
    tensor_parallel_size: Positive = _engine(1, "vllm engine: GPUs per model", decides="nothing")
    max_model_len: Positive | None = _engine(
        None, "vllm engine: longest prompt and response together, in tokens", decides="dataset", example=16384
    )
    gpu_memory_utilization: float | None = _engine(
        None, "vllm engine: share of the GPU's memory", decides="nothing", example=0.9, gt=0, le=1
    )
    dtype: str = _engine("auto", "the weights' type: auto, bfloat16, float16 or float32", decides="samples")
    limit_images: Positive | None = _engine(
        None, "most images per problem; problems with more are left out", decides="dataset", example=4
    )
    min_pixels: Positive | None = _engine(
        None, "images are scaled to at least this many pixels", decides="samples", example=3136
    )
    max_pixels: Positive | None = _engine(
        None, "images are scaled to at most this many pixels", decides="samples", example=1003520
    )
    engine_arg: Annotated[dict[str, Any], BeforeValidator(_arguments), AfterValidator(_without_secrets)] = _engine(
        {},
        "vllm engine: KEY=VALUE for vLLM itself, as quantization=fp8; may be repeated",
        decides="samples",
        example={"quantization": "fp8"},
    )
    ray: str | None = _engine(
        None, "sample on a Ray cluster: its address, or local", decides="nothing", example="local"
    )
    replicas: Positive | None = _engine(None, "engines on the Ray cluster", decides="nothing", example=8)

    judge_model: str | None = _judging(
        None,
        "judge of open-ended answers: gemini:MODEL or openai:MODEL",
        decides="judgements",
        example="gemini:gemini-3.8-flash",
    )
    judge_base_url: Url | None = _judging(
        None, "openai judge: the server's URL", decides="nothing", example="http://localhost:8001/v1"
    )

    verifier: str | None = _verifying(
        None,
        "who checks that the reasoning leads to the answer: gemini (the default where a key is set), openai (any "
        "compatible server), rules (offline), policy (checks itself), none, an installed one, or ./file.py; of several "
        "with commas the next one is asked where the one before it cannot tell",
        decides="verdicts",
        example="gemini",
        also=("evaluate",),
    )
    undecided: Literal["keep", "drop"] = _verifying(
        "drop", "what becomes of a response of which the verifier cannot tell", decides="verdicts", also=("evaluate",)
    )
    verifier_model: str | None = _verifying(
        None,
        "the verifier's model; for policy, another checkpoint",
        decides="verdicts",
        example="gemini-3.8-flash",
    )
    verifier_base_url: Url | None = _verifying(
        None,
        "openai verifier: the server's URL",
        decides="nothing",
        example="http://localhost:8001/v1",
    )

    allow_model_mismatch: bool = _services(
        False,
        "go on if a service answers with another model than asked for",
        decides="judgements",
    )
    answer_tokens: Positive = _services(
        4096,
        "most tokens of one answer, thinking included; less for a model with a short context",
        decides="judgements",
    )
    gemini_batch: bool = _services(
        False, "Gemini's batch API: half the price, within a day", decides="nothing", also=()
    )
    rpm: Positive | None = _services(None, "most requests per minute to a service", decides="nothing", example=1000)
    max_cost: float | None = _services(
        None,
        "stop before the services have cost this many US dollars",
        decides="nothing",
        example=20.0,
        gt=0,
    )
    prices: Path | None = _services(
        None,
        "TOML file with prices per model, on top of the shipped ones",
        decides="nothing",
        example="prices.toml",
    )
    cache: Path | None = _services(
        None,
        "folder of verdicts that several runs share",
        decides="nothing",
        example="cache",
        also=("evaluate", "verifier-score"),
    )

    pairs_per_problem: Positive = _pairing(1, "most pairs per problem", decides="dataset")
    target: Positive | None = _pairing(None, "stop at N pairs", decides="dataset", example=9000)
    enough: float | None = _pairing(
        None,
        "stop after the round of responses in which one brings less than this share of the pairs that one brought "
        "in the first",
        decides="dataset",
        example=0.1,
        gt=0,
        le=1,
    )
    rejected_from: str = _pairing(
        "chosen",
        "chosen: twins of the chosen responses; or a checkpoint whose right responses are corrupted, as the paper "
        "does with those of the base model",
        decides="pairs",
    )
    rejected_responses: Path | None = _pairing(
        None,
        "responses to corrupt instead of sampling a checkpoint: problem_id and response",
        decides="pairs",
        example="base.jsonl",
    )
    natural_rejected: bool = _pairing(
        False, "leave a rejected response that is malformed by itself as it is", decides="pairs"
    )
    pairing: Literal["decoupled", "coupled"] = _pairing(
        "decoupled",
        "decoupled: both sides right; coupled: the rejected side wrong as well (an ablation)",
        decides="pairs",
    )
    corruption: Annotated[dict[str, Weight], BeforeValidator(_weighted)] = _pairing(
        {},
        "operators NAME[=WEIGHT] or ./file.py; by default the format's mix, see specs-data corruptions",
        decides="pairs",
        example={"shift_tags": 1.0},
    )

    report_to: Listed = _output(
        (), "where else figures go while it runs: wandb, tensorboard, trackio", decides="nothing", example=["wandb"]
    )
    holdout: float = _output(0.0, "share of the pairs that goes to a test split", decides="dataset", ge=0, lt=1)
    card: str = _output("dataset", "template of the dataset card: a name in cards/ or a file", decides="dataset")
    license: str | None = _output(
        None, "the dataset's license, a Hub license id; none is made up", decides="dataset", example="cc-by-4.0"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("temperature 0 gives the same response every time: use samples 1 or a higher temperature")
        if self.samples_upfront > self.samples:
            raise ValueError(f"samples_upfront {self.samples_upfront} is more than samples {self.samples}")
        if self.target is not None and self.shard is not None and self.target < self.part[1]:
            raise ValueError(f"a target of {self.target} leaves some of {self.part[1]} shards with nothing to do")
        return self

    @property
    def shuffled(self) -> bool:
        """Whether the problems are in random order: where not all of them are used they are to be a fair sample."""
        return bool(self.target or self.limit) if self.shuffle is None else self.shuffle

    @property
    def part(self) -> tuple[int, int]:
        """The shard as (I, N); (1, 1) where there is but one."""
        number, _, of = (self.shard or "1/1").partition("/")
        return int(number), int(of)

    @property
    def wanted(self) -> int | None:
        """The pairs at which this run stops: the target, or what of it is the shard's."""
        number, of = self.part
        return None if self.target is None else self.target // of + (number <= self.target % of)


def make_recipe(settings: dict[str, Any], file: Path | None = None) -> Recipe:
    """The recipe in `file` (TOML; default: specs-data.toml if it exists), with `settings` on top.

    A setting that is None or empty does not override. Raises UserError with the offending key.
    """
    if file is None and DEFAULT_RECIPE.exists():
        file = DEFAULT_RECIPE
    return read_settings(Recipe, settings, file, passed_over=_NO_SETTINGS)


def measured_recipe(settings: dict[str, Any], file: Path | None = None) -> Recipe:
    """`make_recipe` for measuring: as the build samples, and verified only where `settings` name a verifier. That of
    the file is for the build, and may cost money."""
    made = make_recipe(settings, file)
    return made.model_copy(update={"verifier": settings.get("verifier"), "responses": None})


def read_settings(
    kind: type[Settings],
    values: Mapping[str, Any],
    file: Path | None = None,
    *,
    passed_over: Collection[str] = (),
) -> Settings:
    """The TOML `file`, if there is one, with `values` on top. Its keys in `passed_over` are not looked at.

    A value that is None or empty does not override. Raises UserError with the offending key.
    """
    file = _recipe_file(file)
    merged = {key: value for key, value in (_read(file) if file else {}).items() if key not in passed_over}
    merged |= {key: value for key, value in values.items() if value not in (None, (), [], {})}
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise UserError(_faults(error, kind, file)) from None


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


def deciding(*stages: Stage) -> tuple[str, ...]:
    """The settings of a recipe that decide one of `stages`."""
    return tuple(name for name, field in Recipe.model_fields.items() if says(field, "decides") in stages)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The settings that are not the same, with both values."""
    return [
        f"{name.replace('_', '-')}: {_shown(getattr(old, name))} -> {_shown(getattr(new, name))}"
        for name in Recipe.model_fields
        if getattr(old, name) != getattr(new, name)
    ]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def write_default_recipe(folder: Path = Path()) -> Path:
    """Write a specs-data.toml with every setting, commented out, into `folder`. Raises UserError if there is one
    already."""
    file = folder / DEFAULT_RECIPE
    if file.exists():
        raise UserError(f"{file} exists already; edit it, or remove it first")
    write_whole(file, default_recipe().encode())
    return file


def default_recipe() -> str:
    """Every setting of a recipe as a commented line, with its description, panel by panel."""
    lines = [_HEAD]
    panel = None
    for name, field in Recipe.model_fields.items():
        if says(field, "panel") != panel:
            panel = says(field, "panel")
            lines.append(f"# ---- {panel} ----\n")
        value = field.default if field.default not in (None, (), {}) else (field.examples or [""])[0]
        lines.append(f"# {field.description}\n# {name} = {_inline(value)}\n")
    return "\n".join(lines)


def _inline(value: object) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def shipped_recipes() -> tuple[str, ...]:
    """The names of the recipes in recipes/."""
    return shipped(_SHIPPED)


def _recipe_file(file: Path | None) -> Path | None:
    """The file itself, or the shipped recipe of that name."""
    if file is None or file.suffix or len(file.parts) > 1 or file.is_file():
        return file
    return toml_called(file.name, "recipe", _SHIPPED)


def _read(file: Path) -> dict[str, Any]:
    found = read_toml(file, "the recipe")
    named = {key.replace("-", "_"): value for key, value in found.items()}
    if len(named) < len(found):
        twice = next(key for key in found if "-" in key and key.replace("-", "_") in found)
        raise UserError(f"the recipe {file} has {twice!r} twice, with - and with _: keep one")
    for key, value in named.items():
        if key != "prefill" and (value == "" or (isinstance(value, list) and "" in value)):
            raise UserError(f"{key} is empty: give a value, or leave it out (recipe {file})")
    return named


def _faults(error: ValidationError, kind: type[BaseModel], file: Path | None) -> str:
    """Every fault of a recipe, in one sentence."""
    where = f" (recipe {file} or a flag)" if file else ""
    return "; ".join(dict.fromkeys(_fault(fault, kind) for fault in error.errors())) + where


def _fault(fault: Any, kind: type[BaseModel]) -> str:
    setting, *inside = map(str, fault["loc"] or ("",))
    key = ".".join((setting, *inside))
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(setting, kind.model_fields, 1)
        return f"unknown setting {key!r}" + (f", did you mean {near[0]!r}?" if near else "; --help lists the settings")
    flag = ".".join((setting.replace("_", "-"), *inside))
    if fault["type"] == "missing":
        return f"--{flag} is missing"
    message = _plainly(fault["msg"])
    return f"{flag}: {message}" if key else message


def _plainly(message: str) -> str:
    """What pydantic says, in words of ours."""
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    message = re.sub(r", (unable to parse|got a number with) .*", "", message)
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message
