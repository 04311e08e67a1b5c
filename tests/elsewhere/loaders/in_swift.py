"""Runs in ms-swift's environment: what its loader makes of an export, as JSON.

python in_swift.py FILE RESULT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import tiny_qwen
from PIL import Image
from swift.dataset import load_dataset
from swift.model import get_processor
from swift.template import get_template

IGNORED = -100


def main(file: str, result: str) -> None:
    folder = tiny_qwen.make(Path(result).parent / "qwen")
    processor = get_processor(str(folder), model_type="qwen2_vl")
    template = get_template(processor, template_type="qwen2_vl")
    template.set_mode("rlhf")
    rows, _ = load_dataset(file, strict=True)
    tokenizer = processor.tokenizer
    found = []
    for row in rows:
        encoded = template.encode(dict(row), return_template_inputs=True)
        ids, labels = encoded["chosen_input_ids"], encoded["chosen_labels"]
        found.append(
            {
                "prompt": tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label == IGNORED]),
                "chosen": tokenizer.decode([label for label in labels if label != IGNORED]),
                "rejected": tokenizer.decode([label for label in encoded["rejected_labels"] if label != IGNORED]),
                "images": [Image.open(Path(os.environ["ROOT_IMAGE_DIR"], i["path"])).size for i in row["images"] or []],
                "loaded": len(encoded["template_inputs"].images),
            }
        )
    Path(result).write_text(json.dumps(found))


main(*sys.argv[1:])
