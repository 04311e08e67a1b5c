"""Loading a checkpoint, its model and its processor, for sampling and for training alike.

Qwen-VL processors contain a video processor, which needs torchvision; pictures do not. Where
torchvision is missing the processor is loaded without it, and what it saves still names it, so that
the saved checkpoint loads elsewhere with all its parts. This is the only place that does so.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specs_data.errors import UserError, first_line, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

DTYPES = ("auto", "bfloat16", "float16", "float32")


def load_model(checkpoint: str | Path, dtype: str = "auto", device: str | None = None) -> PreTrainedModel:
    """The model of a checkpoint folder or Hub id, in evaluation mode, on `device` (default: `best_device`).

    A vision-language model where its configuration has a vision part, else a causal language model.
    `dtype` "auto" is the checkpoint's own, but float32 on a CPU. Raises UserError.
    """
    torch = require("torch", "transformers")
    transformers = require("transformers", "transformers")
    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r} should be one of {', '.join(DTYPES)}")
    device = device or best_device()
    weights: Any = getattr(torch, dtype) if dtype != "auto" else torch.float32 if device == "cpu" else "auto"
    try:
        config = transformers.AutoConfig.from_pretrained(checkpoint)
        kind = "AutoModelForImageTextToText" if hasattr(config, "vision_config") else "AutoModelForCausalLM"
        model: PreTrainedModel = getattr(transformers, kind).from_pretrained(checkpoint, config=config, dtype=weights)
    except (OSError, ValueError) as error:
        raise _unloadable(checkpoint, error) from None
    return model.to(device).eval()


def load_processor(
    checkpoint: str | Path, min_pixels: int | None = None, max_pixels: int | None = None
) -> ProcessorMixin | PreTrainedTokenizerBase:
    """The processor of a checkpoint, or its tokenizer where it takes no images.

    `min_pixels` and `max_pixels` bound the size that images are scaled to. Raises UserError.
    """
    transformers = require("transformers", "transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(checkpoint)
        if not hasattr(config, "vision_config"):
            return transformers.AutoTokenizer.from_pretrained(checkpoint)
        leave_out_video()
        processor: ProcessorMixin = transformers.AutoProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise _unloadable(checkpoint, error) from None
    if min_pixels is not None or max_pixels is not None:
        _bound_images(processor, min_pixels, max_pixels, checkpoint)
    return with_video_block(processor)


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


def _unloadable(checkpoint: str | Path, error: Exception) -> UserError:
    return UserError(f"cannot load the checkpoint {checkpoint}: {first_line(error)}")
