"""Loading a checkpoint, its model and its processor, for sampling and for training alike.

Qwen-VL processors contain a video processor, which needs torchvision; pictures do not. Where
torchvision is missing the processor is loaded without it, and what it saves still names it, so that
the saved checkpoint loads elsewhere with all its parts. This is the only place that does so.
"""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specs_data.errors import UserError, first_line, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

DTYPES = ("auto", "bfloat16", "float16", "float32")


def load_model(checkpoint: str | Path, dtype: str = "auto", device: str | None = None) -> PreTrainedModel:
    """The model of a checkpoint folder or Hub id, in evaluation mode, on `device` (default: `best_device`); of a
    PEFT adapter's folder its base with the adapter merged into it.

    A vision-language model where its configuration has a vision part, else a causal language model.
    `dtype` "auto" is the checkpoint's own, but float32 on a CPU. Raises UserError.
    """
    torch = require("torch", "transformers")
    transformers = require("transformers", "transformers")
    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r} should be one of {', '.join(DTYPES)}")
    device = device or best_device()
    weights: Any = getattr(torch, dtype) if dtype != "auto" else torch.float32 if device == "cpu" else "auto"
    source = adapter_base(checkpoint) or checkpoint
    check_whole(source)
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        kind = "AutoModelForImageTextToText" if hasattr(config, "vision_config") else "AutoModelForCausalLM"
        model, found = getattr(transformers, kind).from_pretrained(
            source, config=config, dtype=weights, output_loading_info=True
        )
        # transformers only warns, and makes such weights up.
        _check_complete(source, [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])])
        if source != checkpoint:
            model = _merged(model, checkpoint)
    except (OSError, ValueError, RuntimeError) as error:  # torch's and peft's for weights that do not fit
        raise _unloadable(checkpoint, error) from None
    loaded: PreTrainedModel = model.to(device).eval()
    return loaded


def load_processor(
    checkpoint: str | Path, min_pixels: int | None = None, max_pixels: int | None = None
) -> ProcessorMixin | PreTrainedTokenizerBase:
    """The processor of a checkpoint, or its tokenizer where it takes no images.

    `min_pixels` and `max_pixels` bound the size that images are scaled to. Raises UserError.
    """
    transformers = require("transformers", "transformers")
    base = adapter_base(checkpoint)
    if base is not None and not (Path(checkpoint) / "tokenizer_config.json").exists():
        checkpoint = base
    try:
        config = transformers.AutoConfig.from_pretrained(base or checkpoint)
        if not hasattr(config, "vision_config"):
            return transformers.AutoTokenizer.from_pretrained(checkpoint)
        leave_out_video()
        processor: ProcessorMixin = transformers.AutoProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise _unloadable(checkpoint, error) from None
    if min_pixels is not None or max_pixels is not None:
        _bound_images(processor, min_pixels, max_pixels, checkpoint)
    return with_video_block(processor)


def _merged(model: Any, adapter: str | Path) -> Any:
    peft: Any = require("peft", "train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what peft still calls in transformers is no user's concern
        return peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def adapter_base(checkpoint: str | Path) -> str | None:
    """The base of a PEFT adapter's folder, None for any other checkpoint. Raises UserError."""
    file = Path(checkpoint) / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise _unloadable(checkpoint, error) from None
    if not base:
        raise UserError(f"the adapter {checkpoint} does not name its base: set base_model_name_or_path in {file}")
    return str(base)


def adapter_rank(checkpoint: str | Path) -> int:
    """The rank of a PEFT adapter."""
    found = json.loads((Path(checkpoint) / "adapter_config.json").read_text(encoding="utf-8"))
    return max(int(rank) for rank in (found.get("r") or 8, *(found.get("rank_pattern") or {}).values()))


def check_whole(checkpoint: str | Path) -> None:
    """Raise UserError if a checkpoint folder lacks a file of its weights, or has one that is torn: a download that
    was cut short, or a pointer to a file that git has not fetched."""
    folder = Path(checkpoint)
    for index in folder.glob("*.safetensors.index.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise _unloadable(checkpoint, error) from None
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise UserError(
                f"the checkpoint {checkpoint} is not whole: {missing[0]} is missing ({len(missing)} of {len(names)} "
                "files of weights); fetch it again"
            )
    for shard in folder.glob("*.safetensors"):
        if _is_torn(shard):
            raise UserError(f"the checkpoint {checkpoint} is not whole: {shard.name} is torn; fetch it again")


def _is_torn(shard: Path) -> bool:
    """Is a file of safetensors shorter than its head says? The head is JSON, after its length in 8 bytes."""
    size = shard.stat().st_size
    with shard.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if 8 + length > size:
            return True
        try:
            head = json.loads(content.read(length))
            ends = [entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return True
    return 8 + length + max(ends, default=0) > size


def _check_complete(checkpoint: str | Path, missing: list[str]) -> None:
    if missing:
        rest = f" and {len(missing) - 1} other weights" if len(missing) > 1 else ""
        raise UserError(
            f"the checkpoint {checkpoint} is not whole: it lacks {sorted(missing)[0]}{rest}, or has them in another "
            "shape; fetch or save it again"
        )


def tokenizer_of(processor: ProcessorMixin | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer inside a processor, or the processor itself if it is one."""
    return getattr(processor, "tokenizer", processor)


def best_device() -> str:
    """ "cuda", "mps" or "cpu"."""
    torch: Any = require("torch", "transformers")
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def leave_out_video() -> None:
    """Let Qwen-VL processors be made without a video processor, where torchvision is missing."""
    if find_spec("torchvision") is not None:
        return
    transformers = require("transformers", "transformers")
    for name in ("Qwen2VLProcessor", "Qwen2_5_VLProcessor", "Qwen3VLProcessor"):
        processor = getattr(transformers, name, None)
        if processor is not None:
            processor.get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])


def with_video_block(processor: ProcessorMixin) -> ProcessorMixin:
    """`processor`, carrying the description of the video processor it was made without, so that
    everything that saves it saves that too."""
    types = {"Qwen3VLProcessor": "Qwen3VLVideoProcessor"}
    names = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor", *types)
    if type(processor).__name__ in names and getattr(processor, "video_processor", None) is None:
        images = processor.image_processor
        processor.video_processor = {
            "video_processor_type": types.get(type(processor).__name__, "Qwen2VLVideoProcessor"),
            "patch_size": images.patch_size,
            "temporal_patch_size": images.temporal_patch_size,
            "merge_size": images.merge_size,
            "size": dict(images.size),
        }
    return processor


def _bound_images(
    processor: ProcessorMixin, min_pixels: int | None, max_pixels: int | None, checkpoint: str | Path
) -> None:
    """Set the bounds where the processor keeps them; as arguments they are deprecated."""
    images = processor.image_processor
    size = dict(images.size)
    if not {"shortest_edge", "longest_edge"} <= size.keys():
        raise UserError(f"{checkpoint} takes images of a fixed size; leave --min-pixels and --max-pixels out")
    bounds = {"shortest_edge": min_pixels or size["shortest_edge"], "longest_edge": max_pixels or size["longest_edge"]}
    images.size = type(images.size)(**bounds)
    for name, bound in zip(("min_pixels", "max_pixels"), bounds.values(), strict=True):
        if getattr(images, name, None) is not None:  # where the first releases of transformers 5 look
            setattr(images, name, bound)


def _unloadable(checkpoint: str | Path, error: Exception) -> UserError:
    return UserError(f"cannot load the checkpoint {checkpoint}: {first_line(error)}")
