"""A build with vLLM against bare `LLM.chat`: the same prompts, images, seeds and tokens.

    .venv-vllm/bin/python benchmarks/vllm_ratio.py [--batch 256] [--policy DIR] [--layers N] [--width N]
        [--problems 512] [--rounds 5] [--tokens 200] [--threads] [--gpu]

One response per problem. In each round bare vLLM and the whole build (problems, sampling, judging,
verification by rules, pairing, store, dataset) take turns over problems that neither has seen, with the
same vLLM, loaded once: the build's engine waits while it is called bare. Bare vLLM is a loop of `LLM.chat`
over so many prompts at a time; a --batch as large as --problems makes it one call with everything.
--tokens is the most of a response, which ends where the policy closes its answer; examples/mini/talkative.py makes a
policy that says some 260 first (--tokens 380).
--layers gives the policy so many by adding some that change nothing, and --width makes its MLPs so wide: it
says the same, at the price of a larger model (18 layers of 460,000 have the weights of a 3B). --threads tells
which threads of this process took how much processor time (Linux). --gpu is for
machines with one; without it the settings are those for a small model on a CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import io
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from msgspec import structs
from PIL import Image
from safetensors.torch import load_file, save_file

from specs_data import build
from specs_data.engines.vllm import VLLMEngine, _messages, _params
from specs_data.engines.vllm import _start as start_vllm
from specs_data.mini.world import as_problem, draw, picture, write_problems
from specs_data.recipe import Recipe
from specs_data.records import Request, Sampling
from specs_data.rollouts.sample import make_request
from specs_data.texts import load_prompt

SMALL_CPU = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
SAMPLING = Sampling(max_tokens=200, stop=("</answer>",))
MOST_AT_ONCE = 8192  # tokens in a step on a GPU: what a wide MLP makes of them takes megabytes each


def dearer(policy: Path, layers: int | None, width: int | None, folder: Path) -> Path:
    """A copy of the checkpoint with so many layers, and MLPs so wide: what is further adds zeros to what goes
    through it."""
    shutil.copytree(policy, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    shape = config["text_config"]
    count, wide = layers or shape["num_hidden_layers"], width or shape["intermediate_size"]
    weights = {
        name: widened(name, tensor, wide) if ".layers." in name and "visual" not in name else tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    for name, tensor in list(weights.items()):
        before, found, after = name.partition(".layers.0.")
        for number in range(shape["num_hidden_layers"], count if found else 0):
            silent = after in ("self_attn.o_proj.weight", "mlp.down_proj.weight")
            weights[f"{before}.layers.{number}.{after}"] = torch.zeros_like(tensor) if silent else tensor.clone()
    shape |= {
        "num_hidden_layers": count,
        "intermediate_size": wide,
        "layer_types": shape["layer_types"][:1] * count,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def widened(name: str, tensor: torch.Tensor, width: int) -> torch.Tensor:
    """A layer's weights with an MLP of this width."""
    if name.endswith("mlp.down_proj.weight"):
        return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]))
    if ".mlp." in name:
        return torch.cat([tensor, noise(width - tensor.shape[0], tensor.shape[1], tensor.dtype)])
    return tensor


@functools.cache
def noise(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """What stands in further rows: not zeros, with which a GPU is faster."""
    return (torch.randn(rows, columns) * 0.02).to(dtype)


def requests(count: int, world: int) -> list[Request]:
    """What a build asks first about each problem of this world."""
    system = load_prompt("think-answer")
    puzzles = (draw(world, index) for index in range(count))
    return [
        make_request(as_problem(puzzle, f"{world}-{index:05d}"), 0, (picture(puzzle.things),), system, 0)
        for index, puzzle in enumerate(puzzles)
    ]


def opened(image: bytes) -> dict[str, Any]:
    """An image file as a part of a chat."""
    return {"type": "image_pil", "image_pil": Image.open(io.BytesIO(image))}


def bare(llm: Any, asked: list[Request], batch: int, sampling: Sampling = SAMPLING) -> int:
    """A loop of LLM.chat over `batch` prompts at a time: the number of tokens."""
    tokens = 0
    for start in range(0, len(asked), batch):
        some = asked[start : start + batch]
        chats = [_messages(request, [opened(data) for data in request.images], "") for request in some]
        params = [_params(sampling, request) for request in some]
        tokens += sum(len(output.outputs[0].token_ids) for output in llm.chat(chats, params, use_tqdm=False))
    return tokens


def whole(engine: VLLMEngine, problems: Path, run: Path, sampling: Sampling = SAMPLING) -> dict[str, Any]:
    """A build with one response per problem: its manifest."""
    recipe = Recipe(problems=str(problems), samples=1, verifier="rules", max_tokens=sampling.max_tokens)
    return build(recipe, run, engine=engine, quiet=True).manifest


def timed(work: Callable[[], Any], by_thread: bool = False) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds, result."""
    before = threads() if by_thread else Counter()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    took = time.perf_counter() - wall, time.process_time() - cpu
    if by_thread:
        print("  ", ", ".join(f"{name} {spent:.2f}" for name, spent in (threads() - before).most_common(8)))
    return *took, result


def threads() -> Counter[str]:
    """CPU seconds of each living thread so far, by its name in Python, else that of the system."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    spent: Counter[str] = Counter()
    for folder in Path("/proc/self/task").iterdir():
        title, _, rest = (folder / "stat").read_text().rpartition(")")
        user, system = map(int, rest.split()[11:13])
        spent[names.get(int(folder.name), title.partition("(")[2])] += (user + system) / os.sysconf("SC_CLK_TCK")
    return spent


def play(
    llm: Any, engine: VLLMEngine, count: int, number: int, sampling: Sampling, options: argparse.Namespace
) -> tuple[float, float]:
    """One round: milliseconds per token of bare vLLM and of the build."""
    world = 1000 + number
    asked = requests(count, world)
    with tempfile.TemporaryDirectory() as folder:
        problems = write_problems(Path(folder), count, world)
        works: list[Callable[[], Any]] = [
            lambda: bare(llm, asked, options.batch, sampling),
            lambda: whole(engine, problems, Path(folder) / "run", sampling),
        ]
        first = number % 2
        runs = {which: timed(works[which], options.threads) for which in (first, 1 - first)}
    (bare_wall, bare_cpu, tokens), (wall, cpu, manifest) = runs[0], runs[1]
    print(
        f"round {number}: {tokens} tokens in {bare_wall:.2f} s ({bare_cpu:.2f} of CPU);"
        f" build {manifest['tokens']['generation']['completion']} tokens in {wall:.2f} s ({cpu:.2f} of CPU),"
        f" {manifest['counts']['pairs']} pairs; ratio {wall / bare_wall:.3f} ({cpu / bare_cpu:.3f})",
        flush=True,
    )
    return 1000 * bare_wall / tokens, 1000 * wall / tokens


def settled(gpu: bool) -> dict[str, Any]:
    """vLLM's settings."""
    if gpu:
        return {"max_model_len": 512, "gpu_memory_utilization": 0.8, "max_num_batched_tokens": MOST_AT_ONCE}
    os.environ |= SMALL_CPU
    return {
        "max_model_len": 512,
        "dtype": "float32",
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "enable_chunked_prefill": False,  # as the engine does by itself on a CPU
    }


def main() -> None:
    """Print one line per round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="specs_data/mini/grpo-zero")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=SAMPLING.max_tokens)
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        policy = options.policy
        if options.layers or options.width:
            policy = str(dearer(Path(policy), options.layers, options.width, Path(folder)))
        sampling = structs.replace(SAMPLING, max_tokens=options.tokens)
        compare(policy, settled(options.gpu), sampling, options)


def both(policy: str, settings: dict[str, Any], sampling: Sampling = SAMPLING) -> tuple[VLLMEngine, Any]:
    """The build's engine, and the vLLM inside it."""
    started: list[Any] = []

    def kept(*given: Any) -> Any:
        started.append(start_vllm(*given))
        return started[0]

    with patch("specs_data.engines.vllm._start", kept):
        return VLLMEngine(policy, sampling, **settings), started[0]


def compare(policy: str, settings: dict[str, Any], sampling: Sampling, options: argparse.Namespace) -> None:
    """Let both work by turns."""
    engine, llm = both(policy, settings, sampling)
    rates = [
        play(llm, engine, options.problems if number else 64, number, sampling, options)
        for number in range(options.rounds + 1)
    ][1:]  # in the first both warm up
    alone, built = zip(*rates, strict=True)
    ratio = statistics.median(whole / part for part, whole in zip(alone, built, strict=True))
    print(
        f"build over bare: {ratio:.3f}, the median of the rounds; {sum(built) / sum(alone):.3f} of all rounds together;"
        f" {min(built) / min(alone):.3f} of the best (ms a token: {min(built):.3f} over {min(alone):.3f})"
    )
    asyncio.run(engine.close())


if __name__ == "__main__":
    main()
