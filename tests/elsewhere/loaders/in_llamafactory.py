"""Runs in LLaMA-Factory's environment: what its loader makes of an export, as JSON.

python in_llamafactory.py EXPORT NAME TEMPLATE RESULT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tiny_qwen
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, ModelArguments
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor, Seq2SeqTrainingArguments

IGNORED = -100


def main(export: str, name: str, template_name: str, result: str) -> None:
    folder = tiny_qwen.make(Path(result).parent / "qwen")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = Qwen2VLProcessor.__new__(Qwen2VLProcessor)
    processor.image_processor = Qwen2VLImageProcessor.from_pretrained(folder)
    processor.tokenizer = tokenizer
    # What LLaMA-Factory's own loader sets on every processor.
    processor.image_max_pixels, processor.image_min_pixels = 448 * 448, 56 * 56
    processor.video_processor = processor.image_processor
    data = DataArguments(dataset_dir=export, dataset=name, template=template_name, cutoff_len=4096)
    data.media_dir = data.media_dir or export
    template = get_template_and_fix_tokenizer(tokenizer, data)
    training = Seq2SeqTrainingArguments(output_dir=str(Path(result).parent / "out"), use_cpu=True)
    model = ModelArguments(model_name_or_path=str(folder), cache_dir=str(Path(result).parent / "cache"))
    rows = get_dataset(template, model, data, training, stage="rm", tokenizer=tokenizer, processor=processor)
    found = [
        {
            "prompt": tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label == IGNORED]),
            "chosen": tokenizer.decode([label for label in labels if label != IGNORED]),
            "rejected": tokenizer.decode([label for label in row["rejected_labels"] if label != IGNORED]),
            "images": [Image.open(path).size for path in row["images"] or []],
        }
        for row in rows["train_dataset"]
        for ids, labels in [(row["chosen_input_ids"], row["chosen_labels"])]
    ]
    Path(result).write_text(json.dumps(found))


main(*sys.argv[1:])
