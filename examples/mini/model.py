"""A new, untrained miniature Qwen2.5-VL with its processor: sizes, tokenizer, chat template."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from specs_data.engines.checkpoint import leave_out_video, with_video_block
from specs_data.mini.world import CELL, COLOURS, COLUMNS, ROWS, SHAPES

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

END = "<|im_end|>"
PAD = "<|endoftext|>"
IMAGE = "<|image_pad|>"
SPECIAL = (PAD, "<|im_start|>", END, "<|vision_start|>", "<|vision_end|>", IMAGE, "<|video_pad|>")

# Qwen2.5-VL's, without its default system message and its video and numbering options.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def new_processor(texts: Iterable[str], vocabulary: int = 800) -> Qwen2_5_VLProcessor:
    """A processor with a byte-level BPE tokenizer of `vocabulary` tokens, trained on `texts`.

    Numbers, names, tags and punctuation are always tokens of their own; all else may merge across
    words, so that the long instructions take few tokens.
    """
    import transformers
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor

    names = "|".join((*COLOURS, *(f"{shape}s?" for shape in (*SHAPES, "shape")), "yes", "no"))
    alone = rf" ?\d|</?\w+>|\\boxed|[{{}}()\[\]\".,:?\n]| ?\b(?:{names})| ?\b[A-Z]\b"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(alone), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    pixels = CELL * COLUMNS * CELL * ROWS
    # The one that needs no torchvision: transformers 5.0 has it under the other name.
    kind = getattr(transformers, "Qwen2VLImageProcessorPil", transformers.Qwen2VLImageProcessor)
    images = kind(min_pixels=pixels, max_pixels=4 * pixels)
    leave_out_video()
    return with_video_block(Qwen2_5_VLProcessor(images, fast, chat_template=CHAT_TEMPLATE))


def new_model(processor: Qwen2_5_VLProcessor, hidden: int = 128, layers: int = 3) -> Qwen2_5_VLForConditionalGeneration:
    """A model with random weights (about 1.2 million with the default sizes), float32."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = processor.tokenizer
    heads = 4
    third = hidden // heads // 2 // 4  # of the rotary half: one part time, the rest height and width
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [hidden // heads // 2 - 2 * third, third, third],
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 1,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_heads": heads,
            "patch_size": CELL // 2,
            "window_size": 4 * CELL,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [0],
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    for weight in model.parameters():
        if weight.ndim == 2:  # so narrow a model learns many times slower from the usual 0.02
            torch.nn.init.normal_(weight, std=0.07)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
