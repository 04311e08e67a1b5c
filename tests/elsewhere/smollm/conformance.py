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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from specs_data.engines import ModelOptions
from specs_data.engines.openai import OpenAIEngine
from specs_data.engines.transformers import TransformersEngine
from specs_data.engines.vllm import VLLMEngine
from specs_data.errors import PromptRefused, UserError
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


def ignore_system(folder: Path) -> None:
    """The template leaves out what it does not know."""
    template(folder, lambda text: text.replace("in messages %}", "in messages if message['role'] != 'system' %}", 1))


def begin_twice(folder: Path) -> None:
    """As Llama's and Gemma's: the template writes how a text begins, and the tokenizer would write it again."""
    template(folder, lambda text: "{{ bos_token }}" + text)
    change(folder / "tokenizer_config.json", bos_token=BEGINNING, add_bos_token=True)
    piece = {"SpecialToken": {"id": BEGINNING, "type_id": 0}}
    tokens = {BEGINNING: {"id": BEGINNING, "ids": [1], "tokens": [BEGINNING]}}
    both = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    post = {"type": "TemplateProcessing", "single": [piece, both[0]], "pair": [piece, *both], "special_tokens": tokens}
    change(folder / "tokenizer.json", post_processor=post)


def think_elsewhere(folder: Path) -> None:
    """As DeepSeek-R1's and Qwen3's: thoughts of earlier turns are cut out of what a template is given."""
    think(folder)
    template(folder, lambda text: text.replace("message['content'] }}", "message['content'].split('</think>')[-1] }}"))


def split(folder: Path) -> None:
    """The weights in two files, as large ones are."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {f"model-0000{n + 1}-of-00002.safetensors": sorted(weights)[n::2] for n in range(2)}
    for file, names in parts.items():
        save_file({name: weights[name] for name in names}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def everything(folder: Path) -> None:
    """All of it at once."""
    for each in (settle, unpad, think, refuse_system, begin_twice, split):
        each(folder)


BEGINNING = "<|im_start|>"  # number 1
VARIANTS: Mapping[str, Callable[[Path], None]] = {
    "as it is": lambda _: None,
    "generation_config.json: repetition_penalty 1.5, top_k 2": settle,
    "no pad token": unpad,
    "weights in two files": split,
    "template opens <think>": think,
    "template opens <think> and cuts thoughts out": think_elsewhere,
    "template without a system role": refuse_system,
    "template that leaves the system message out": ignore_system,
    "template and tokenizer both begin the text": begin_twice,
    "all of it": everything,
}
OPENING = (think, think_elsewhere, everything)
# A server renders the template itself, and tells nobody that it leaves the system message out: there the responses are
# those to the question alone.
UNTOLD = {("server", ignore_system): "the system message is lost, and no server says so"}
CANNOT = "cannot go on from the first words"
PREFILLS = ("Well, the", "<think>\nIt is easy.\n</think>\nThe")


def vary(original: Path, folder: Path, edit: Callable[[Path], None]) -> Path:
    """A copy of the checkpoint with linked files, edited."""
    shutil.copytree(original, folder, copy_function=os.link)
    edit(folder)
    return folder


async def ask(engine: Engine) -> Responses:
    """The greedy responses of an engine, which is closed: to every question, and after each of the first words."""
    system = Message("system", "Answer in one short sentence.")

    async def response(question: str, prefill: str) -> str:
        try:
            found = await engine.generate(Request((system, Message("user", question)), (), 0, prefill=prefill))
        except (PromptRefused, UserError) as refused:
            return str(refused)
        return prefill + found.text

    try:
        asked = [response(question, prefill) for prefill in ("", *PREFILLS) for question in QUESTIONS]
        return await asyncio.gather(*asked)
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

    print("| checkpoint | transformers | vllm | vllm's server |\n|---|---|---|---|", flush=True)  # noqa: T201
    wrong = 0
    as_it_is: Responses = []
    with tempfile.TemporaryDirectory(dir=original.parent) as name, ThreadPoolExecutor(1) as beside:
        for number, (variant, edit) in enumerate(VARIANTS.items()):
            folder = vary(original, Path(name) / str(number), edit)
            served = beside.submit(ask_server, folder)  # a server takes its time to start
            wanted = asyncio.run(ask(TransformersEngine(folder, GREEDY, FLOAT)))
            found = {"vllm": asyncio.run(ask(VLLMEngine(folder, GREEDY, FLOAT, **CPU))), "server": served.result()}
            as_it_is = as_it_is or wanted
            cells, faults = row(variant, wanted, as_it_is, found)
            print("\n".join([f"| {variant} | {' | '.join(cells)} |", *faults]), flush=True)  # noqa: T201
            wrong += len(faults)
    return wrong


def row(
    variant: str, wanted: Responses, as_it_is: Responses, found: Mapping[str, Responses]
) -> tuple[list[str], list[str]]:
    """The cells of a checkpoint, and what is wrong in them."""
    opens = "<think>\n" if VARIANTS[variant] in OPENING else ""
    kept = wanted == as_it_is
    fine = (kept or "template" in variant or "all" in variant) and all(
        text.startswith(opens) for text in wanted[: len(QUESTIONS)]
    )
    cells = [("unchanged" if kept else f"begins with {opens!r}" if opens else "as told") if fine else "WRONG"]
    faults = [] if fine else [f"<!-- transformers: {wanted} instead of {as_it_is} -->"]
    for engine, texts in found.items():
        told = sum(CANNOT in text for text in texts)  # a server renders the template itself, and says so
        same = f"{sum(map(str.__eq__, wanted, texts))} of {len(wanted)} the same"
        untold = UNTOLD.get((engine, VARIANTS[variant]))
        cells.append(same + (f", {told} told in a sentence" if told else "") + (f": {untold}" if untold else ""))
        if untold:
            continue
        different = [
            (one, other) for one, other in zip(wanted, texts, strict=True) if one != other and CANNOT not in other
        ]
        faults += [f"<!-- {engine}: {other!r} instead of {one!r} -->" for one, other in different]
    return cells, faults


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
