"""Which engine gives what, over the small files in which published checkpoints differ, on the real SmolLM2-135M.

    .venv/bin/python tests/elsewhere/smollm/make.py .cache/smollm2
    .venv-vllm/bin/python -m tests.elsewhere.smollm.conformance .cache/smollm2

prints the table of benchmarks/RESULTS.md: every cell is "same" where the greedy responses are those of the transformers
engine for the same checkpoint. Fails where one is not, or where a small file has changed what it must not change.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from specs_data.engines import ModelOptions
from specs_data.engines.openai import OpenAIEngine
from specs_data.engines.transformers import TransformersEngine
from specs_data.engines.vllm import VLLMEngine
from specs_data.plugins import Engine
from specs_data.records import Message, Request, Sampling

QUESTIONS = ("What is the capital of France?", "Name three colours.", "What is 2 + 3?", "Say hello in Spanish.")
GREEDY = Sampling(temperature=0.0, max_tokens=24)
CPU: dict[str, Any] = {"enforce_eager": True, "distributed_executor_backend": "uni", "max_model_len": 512}
FLOAT = ModelOptions(dtype="float32")

Responses = list[str]


def change(file: Path, **changes: Any) -> None:
    """Set these keys of a JSON file; None takes one away."""
    settings = {**json.loads(file.read_text()), **changes}
    file.unlink()  # a link to the original
    file.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def settle(folder: Path) -> None:
    """As Qwen2.5-VL's, and worse."""
    change(folder / "generation_config.json", repetition_penalty=1.5, top_k=2, do_sample=True, temperature=0.5)


def unpad(folder: Path) -> None:
    """No token to pad with."""
    change(folder / "tokenizer_config.json", pad_token=None)
    change(folder / "generation_config.json", pad_token_id=None)


def template(folder: Path, edit: Callable[[str], str]) -> None:
    """Another chat template."""
    file = folder / "chat_template.jinja"
    text = edit(file.read_text())
    file.unlink()
    file.write_text(text)


def think(folder: Path) -> None:
    """The template opens the thought."""
    template(folder, lambda text: text.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"))


def refuse_system(folder: Path) -> None:
    """The template has no system role."""
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template(folder, lambda text: refusal + text)


def everything(folder: Path) -> None:
    """All of it at once."""
    for each in (settle, unpad, think, refuse_system):
        each(folder)


VARIANTS: Mapping[str, Callable[[Path], None]] = {
    "as it is": lambda _: None,
    "generation_config.json: repetition_penalty 1.5, top_k 2": settle,
    "no pad token": unpad,
    "template opens <think>": think,
    "template without a system role": refuse_system,
    "all of it": everything,
}


def vary(original: Path, folder: Path, edit: Callable[[Path], None]) -> Path:
    """A copy of the checkpoint with linked files, edited."""
    shutil.copytree(original, folder, copy_function=os.link)
    edit(folder)
    return folder


async def ask(engine: Engine, prefill: str = "") -> Responses:
    """The greedy responses of an engine, which is closed; what they begin with is counted to them."""
    system = Message("system", "Answer in one short sentence.")
    requests = [
        Request((system, Message("user", each)), (), seed, prefill=prefill) for seed, each in enumerate(QUESTIONS)
    ]
    try:
        return [prefill + response.text for response in await asyncio.gather(*map(engine.generate, requests))]
    finally:
        await engine.close()


def ask_server(folder: Path) -> Responses:
    """Those of a server."""
    from tests.elsewhere.vllm_engine.conftest import serve

    with serve(str(folder)) as (url, _):
        return asyncio.run(ask(OpenAIEngine("mini", GREEDY, ModelOptions(base_url=(url,)))))


def main(original: Path) -> int:
    """Print the table; the number of cells that are wrong."""
    from tests.elsewhere.vllm_engine import conftest as _settings  # noqa: F401 - the environment of vLLM on a CPU

    rows: dict[str, dict[str, Responses]] = {}
    with tempfile.TemporaryDirectory(dir=original.parent) as name:
        for number, (variant, edit) in enumerate(VARIANTS.items()):
            folder = vary(original, Path(name) / str(number), edit)
            rows[variant] = {
                "transformers": asyncio.run(ask(TransformersEngine(folder, GREEDY, FLOAT))),
                "vllm": asyncio.run(ask(VLLMEngine(folder, GREEDY, FLOAT, **CPU))),
            }
            if variant in ("as it is", "all of it"):
                rows[variant]["vllm's server"] = ask_server(folder)
                rows[f"{variant}, --prefill"] = {
                    "transformers": asyncio.run(ask(TransformersEngine(folder, GREEDY, FLOAT), "Well, the")),
                    "vllm": asyncio.run(ask(VLLMEngine(folder, GREEDY, FLOAT, **CPU), "Well, the")),
                }
    return show(rows)


def show(rows: Mapping[str, Mapping[str, Responses]]) -> int:
    """Print the table; the number of cells that are wrong."""
    wrong = 0
    lines = ["| checkpoint | transformers | vllm | vllm's server |", "|---|---|---|---|"]
    for variant, found in rows.items():
        wanted = found["transformers"]
        kept = wanted == rows["as it is"]["transformers"]
        may_differ = "template" in variant or "all" in variant or "prefill" in variant
        begins = "Well, the" if "prefill" in variant else "<think>\n" if "think" in variant or "all" in variant else ""
        fine = (kept or may_differ) and all(text.startswith(begins) for text in wanted)
        cells = [("unchanged" if kept else f"begins with {begins!r}" if begins else "as told") if fine else "WRONG"]
        for engine in ("vllm", "vllm's server"):
            same = sum(one == other for one, other in zip(wanted, found.get(engine, ()), strict=False))
            cells.append(f"{same} of {len(wanted)} the same" if engine in found else "")
            wrong += engine in found and same < len(wanted)
        wrong += not fine
        lines.append(f"| {variant} | {' | '.join(cells)} |")
        for engine, texts in found.items():
            if texts != wanted:
                lines.append(f"<!-- {engine}: {texts} instead of {wanted} -->")
    print("\n".join(lines))  # noqa: T201
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
