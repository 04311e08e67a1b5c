"""What every trainer does before and after TRL.

    OUT/    the model, ready for transformers and vLLM
            recipe.toml       the settings
            manifest.json     the settings, the data, what was left out, versions, times
            metrics.jsonl     one line per optimizer step
            curves.svg        the curves that the paper shows
            README.md         the model card
            adapter/          with --lora: the adapter by itself (in the model above it is merged)
            checkpoints/      what the same command resumes from; optimizer states are large, so they
                              go once the run is finished, unless --keep-checkpoints asks for several

Several GPUs: `accelerate launch` with one of the .yaml files beside this module. Weights are kept in
float32 and computed in bfloat16, because steps of 1e-6 vanish in bfloat16 weights; so are those of the
finished checkpoint, unless --save-dtype says otherwise.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import signal
import threading
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import tomli_w

from specs_data.engines.checkpoint import adapter_base, best_device, load_model, load_processor
from specs_data.errors import UserError, first_line, require
from specs_data.files import staged, write_whole, writing
from specs_data.rollouts.sample import check_policy
from specs_data.train import report
from specs_data.train.rows import Rows
from specs_data.train.settings import TrainSettings

logger = logging.getLogger(__name__)

_VISION = r".*(visual|vision|image_encoder|multi_modal_projector|connector).*"
# Settings that may change when a run is resumed. No loss depends on micro_batch, but for the last batch
# of an epoch where the rows do not fill it.
_FREE = {"out", "save_every", "save_minutes", "save_dtype", "keep_checkpoints", "report_to", "micro_batch"}


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars, and what it warns of that concerns no user."""
    logs = require("transformers.utils.logging", "train")
    shown, trainer = logs.is_progress_bar_enabled(), logs.get_logger("transformers.trainer")
    logs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is deprecated and will be removed in v6", FutureWarning)
            # transformers 5.0 compares its checkpoints' times; their numbers, by which it goes then, are right.
            warnings.filterwarnings("ignore", "mtime may not be reliable", UserWarning)
            trainer.addFilter(_is_news)
            yield
    finally:
        trainer.removeFilter(_is_news)
        if shown:
            logs.enable_progress_bar()


def begin(settings: TrainSettings) -> bool:
    """Open the output folder; False if a run with these settings is finished there.

    Raises UserError if the folder holds something else, or a run with other settings, or if metrics
    are to go where they cannot.
    """
    _try_reporters(settings.report_to)
    out, recipe = settings.out, settings.out / "recipe.toml"
    now = settings.model_dump(mode="json", exclude_none=True)
    if recipe.exists() and (resuming(settings) or (out / "manifest.json").exists()):
        before = tomllib.loads(recipe.read_text(encoding="utf-8"))
        changed = sorted(key for key in {*before, *now} - _FREE if before.get(key) != now.get(key))
        if changed:
            said = ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in changed)
            raise UserError(f"{out} was begun with other settings ({said}); use these again, or another --out")
        return not (out / "manifest.json").exists()
    strange = out.exists() and any(not path.name.startswith("recipe.toml") for path in out.iterdir())
    if strange and not recipe.exists():
        raise UserError(f"{out} is not empty and holds no training run; use another --out")
    out.mkdir(parents=True, exist_ok=True)
    part = out / f"recipe.toml.{os.getpid()}"  # every process of a launch comes by here
    part.write_text(tomli_w.dumps(now), encoding="utf-8")
    part.replace(recipe)
    return True


def _try_reporters(names: tuple[str, ...]) -> None:
    """Raise UserError for a --report-to that transformers does not know or whose package is missing."""
    reporters = require("transformers.integrations.integration_utils", "train")
    for name in names:
        try:
            for reporter in reporters.get_reporting_integration_callbacks(name):
                reporter()
        except (ValueError, RuntimeError, ImportError) as error:
            raise UserError(f"--report-to {name}: {error}") from None


def resuming(settings: TrainSettings) -> bool:
    """Is there a checkpoint that training will go on from?"""
    return _last_checkpoint(settings.out / "checkpoints") is not None


def arguments(settings: TrainSettings) -> dict[str, Any]:
    """The settings in the words of transformers.TrainingArguments."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulation, rest = divmod(settings.batch, settings.micro_batch * processes)
    if rest:
        raise UserError(
            f"batch {settings.batch} is not a multiple of micro-batch {settings.micro_batch} x {processes} processes"
        )
    device = best_device()
    return {
        "output_dir": str(settings.out / "checkpoints"),
        "learning_rate": settings.learning_rate,
        # What transformers calls constant has no warm-up, whatever it is told.
        "lr_scheduler_type": "constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "per_device_train_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.steps or -1,
        "seed": settings.seed,
        "save_steps": settings.save_every,
        "save_total_limit": settings.keep_checkpoints,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # or a loss that is no number any more is told as 0
        "report_to": list(settings.report_to) or "none",
        "bf16": device == "cuda",
        "use_cpu": device == "cpu",
        "gradient_checkpointing": device != "cpu",
        "dataloader_pin_memory": device == "cuda",
        "disable_tqdm": True,
    }


def load(settings: TrainSettings) -> tuple[Any, Any]:
    """The model to train, on the CPU (TRL places and shards it), and its processor.

    Call it after the TRL configuration is made, which is what tells transformers of DeepSpeed.
    """
    check_policy(settings.model)
    # Its weights could be trained, but nothing that is told the name of a checkpoint (TRL of the reference, vLLM) would
    # load them.
    if base := adapter_base(settings.model):
        raise UserError(
            f"{settings.model} is an adapter of {base}: merge it into a checkpoint first (peft's merge_and_unload), "
            "and train that; what train --lora leaves beside its adapter/ is merged"
        )
    lora_on_gpu = settings.lora and best_device() == "cuda"
    # Trainer resumes by raw weight names, of which it finds none where transformers has renamed them since
    # (Qwen2.5-VL): it would go on from the untrained model. So what is resumed is loaded here, like any model.
    start = _last_checkpoint(settings.out / "checkpoints")
    start = settings.model if start is None or not (Path(start) / "config.json").exists() else start
    model = load_model(start, dtype="bfloat16" if lora_on_gpu else "float32", device="cpu")
    model.config._name_or_path = settings.model  # where TRL takes the reference model from
    if not settings.train_vision:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not re.fullmatch(_VISION, name))
    processor = load_processor(settings.model, settings.min_pixels, settings.max_pixels)
    if (settings.min_pixels or settings.max_pixels) and not hasattr(processor, "tokenizer"):
        raise UserError(f"{settings.model} takes no images; leave --min-pixels and --max-pixels out")
    return model, processor


def context(model: Any) -> int:
    """The longest sequence the model takes, in tokens."""
    return int(model.config.get_text_config().max_position_embeddings)


def lora(settings: TrainSettings) -> Any:
    """The peft configuration, or None."""
    if not settings.lora:
        return None
    peft = require("peft", "train")
    return peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules="all-linear",
        exclude_modules=None if settings.train_vision else _VISION,
        task_type="CAUSAL_LM",
    )


def callbacks(settings: TrainSettings) -> list[Any]:
    """What watches every run."""
    return [report.metrics_log(settings.out / "metrics.jsonl"), report.progress(), _saver(settings), _epoch_told()]


class _Terminations:
    """Whether the process was told to end (SIGTERM: a cluster takes the machine back). The first time the current
    step is ended and saved; the second time ends at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch them, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, self._before)

    def end(self) -> NoReturn:
        """Do what a SIGTERM does outside of a training, so that the process ends with its status. Or interrupt."""
        if callable(self._before):
            self._before(signal.SIGTERM, None)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: object) -> None:
        if self.asked:
            self.end()
        self.asked = True


_terminations = _Terminations()


def _saver(settings: TrainSettings) -> Any:
    """A TrainerCallback that saves by the clock and on SIGTERM, at a step where nothing is left to resume."""
    transformers = require("transformers", "train")
    steps = getattr(settings, "steps_per_round", 1)

    class Saver(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.saved = time.monotonic()

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.saved = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % steps:
                return
            due = settings.save_minutes is not None and time.monotonic() - self.saved >= 60 * settings.save_minutes
            due, ending = _anywhere(due, _terminations.asked)
            control.should_save |= due or ending
            control.should_training_stop |= ending

    return Saver()


def _anywhere(*flags: bool) -> list[bool]:
    """Which flags are up on any process. All must decide alike, or they would wait for each other for ever."""
    torch, accelerate = require("torch", "train"), require("accelerate", "train")
    state = accelerate.PartialState()
    if state.num_processes == 1:
        return list(flags)
    here = torch.tensor(flags, dtype=torch.float32, device=state.device)
    return [bool(flag) for flag in accelerate.utils.reduce(here, "sum").tolist()]


def _epoch_told() -> Any:
    """A TrainerCallback that tells the loader of rows which epoch begins.

    Trainer does so itself, but where it resumes within an epoch on several GPUs its word does not
    get through the wrappers to the sampler, and the rows would come in the first epoch's order.
    """
    transformers = require("transformers", "train")

    class EpochTold(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any, **kwargs: Any) -> None:
            train_dataloader.set_epoch(int(state.epoch or 0))

    return EpochTold()


def finish(method: str, settings: TrainSettings, trainer: Any, rows: Rows) -> Path:
    """Train, from the last whole checkpoint if there is one; leave the checkpoint and its papers."""
    transformers = require("transformers", "train")
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    started = time.monotonic()
    save = trainer._save_checkpoint
    trainer._save_checkpoint = lambda *given: _saved(settings.out, save, *given)
    with _terminations.caught(), writing(settings.out):
        last = _checkpoint_to_resume(settings, trainer)
        if last is not None and (state := _last_state(last, trainer)):
            trainer._load_from_checkpoint(last)
            trainer.state = state
        else:
            trainer.train(resume_from_checkpoint=last)
    if _terminations.asked:
        _terminations.end()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    if losses and not math.isfinite(losses[-1]):
        logger.warning("the training has diverged: its last loss is no number, and neither may the weights be any")
    raw = settings.out / "checkpoints" / "raw"
    _saved(settings.out, trainer.save_model, str(raw))
    # Or transformers would split what the first process loads below over all processes (DeepSpeed stage 3).
    require("transformers.integrations.deepspeed", "train").unset_hf_deepspeed_config()
    if trainer.is_world_process_zero():
        with staged(settings.out) as part:
            _saved(settings.out, _save, settings, trainer.processing_class, raw, part)
            _papers(method, settings, trainer, rows, started, part)
        shutil.rmtree(raw)
        for file in raw.parent.glob("*.arrow"):  # the rows, and what TRL made of those of a text model
            file.unlink()
        if settings.keep_checkpoints == 1:
            for checkpoint in raw.parent.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
    trainer.accelerator.wait_for_everyone()
    return settings.out


def _saved(out: Path, save: Callable[..., None], *given: Any) -> None:
    """Save; torch, safetensors and tokenizers have errors of their own for a disk that is full. Raises UserError."""
    try:
        save(*given)
    except Exception as error:
        known = isinstance(error, RuntimeError | require("safetensors", "train").SafetensorError)
        if not known and type(error) is not Exception:  # as those of tokenizers are
            raise
        raise UserError(
            f"cannot write a checkpoint to {out}: {first_line(error)}; what was saved before is kept: make room, and "
            "run the same command again"
        ) from error


def _checkpoint_to_resume(settings: TrainSettings, trainer: Any) -> str | None:
    """The newest whole checkpoint, which is told how many rows a device takes at once now: transformers 5.0 would go by
    what it says of that, and make batches of another size."""
    last = _last_checkpoint(settings.out / "checkpoints")
    if last is not None:
        file = Path(last) / "trainer_state.json"
        state, now = json.loads(file.read_text(encoding="utf-8")), {"train_batch_size": trainer.args.train_batch_size}
        # TRL counts the tokens of a run, and keeps their number nowhere but in what was logged.
        trainer._total_train_tokens = next(
            (row["num_tokens"] for row in reversed(state["log_history"]) if "num_tokens" in row), 0
        )
        if state | now != state and trainer.is_world_process_zero():
            write_whole(file, json.dumps(state | now, indent=2, sort_keys=True).encode())
    trainer.accelerator.wait_for_everyone()
    return last


def _last_state(checkpoint: str, trainer: Any) -> Any:
    """What the trainer was at, where that was its last step: of itself it would make one more. None where it has steps
    to make, and where models are in pieces, which only its own training puts together."""
    transformers = require("transformers", "train")
    state = transformers.TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    in_pieces = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    return None if in_pieces or state.global_step < state.max_steps else state


def _save(settings: TrainSettings, processor: Any, raw: Path, out: Path) -> None:
    """The trained weights as a plain checkpoint in `out`, adapters merged, in the type that is asked for."""
    torch = require("torch", "train")
    if settings.lora:
        peft = require("peft", "train")
        model = load_model(settings.model, dtype="float32", device="cpu")
        adapted = peft.PeftModel.from_pretrained(model, raw)
        adapted.save_pretrained(out / "adapter")
        (out / "adapter" / "README.md").unlink(missing_ok=True)  # peft's form of a card, unfilled
        model = adapted.merge_and_unload()
    else:
        model = load_model(raw, dtype="float32", device="cpu")
    config = require("transformers", "train").AutoConfig.from_pretrained(settings.model)
    if hasattr(config, "use_cache"):
        model.config.use_cache = config.use_cache  # Trainer takes it away, and so it stands in the raw checkpoint
    kind = config.dtype or torch.float32 if settings.save_dtype == "auto" else getattr(torch, settings.save_dtype)
    model.to(kind).save_pretrained(out)
    processor.save_pretrained(out)


def _papers(method: str, settings: TrainSettings, trainer: Any, rows: Rows, started: float, out: Path) -> None:
    recipe = (settings.out / "recipe.toml").read_text(encoding="utf-8")
    manifest = {
        "name": settings.out.name,
        "method": method,
        "base_model": next(iter(hub_ids([settings.model])), None),
        "datasets": hub_ids(settings.sources),
        "settings": settings.model_dump(mode="json"),
        "data": {key: value for key, value in msgspec.to_builtins(rows).items() if key != "file"},
        "steps": trainer.state.global_step,
        "processes": trainer.accelerator.num_processes,
        "seconds": round(time.monotonic() - started, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: version(name) for name in ("specs-data", "trl", "transformers", "torch")},
    }
    metrics = report.read_metrics(settings.out / "metrics.jsonl")
    report.plot({"": metrics}, out / "curves.svg")
    (out / "README.md").write_text(report.card(manifest, metrics, recipe), encoding="utf-8")
    # Last, because it says that the run is finished.
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def hub_ids(names: Sequence[str]) -> list[str]:
    """The Hub ids among names of models or datasets, without their configuration, revision and split."""
    found = [re.match(r"([\w.-]+/[\w.-]+)(?![^:@#])", name) for name in names if not Path(name).exists()]
    return list(dict.fromkeys(match[1] for match in found if match))


def _is_news(record: logging.LogRecord) -> bool:
    """Not what Trainer says of weights that `load` has loaded already."""
    return "keys in the checkpoint model loaded" not in record.getMessage()


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; torn ones are removed."""
    steps = {int(path.name.partition("-")[2]): path for path in folder.glob("checkpoint-*")}
    for step in sorted(steps, reverse=True):
        try:
            json.loads((steps[step] / "trainer_state.json").read_text(encoding="utf-8"))  # written last
        except (OSError, ValueError):
            shutil.rmtree(steps[step], ignore_errors=True)
        else:
            return str(steps[step])
    return None
