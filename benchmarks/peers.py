"""What a row costs other tools and this one, in one run: asked over HTTP for one response, and written.

    python benchmarks/peers.py [--rows 2000] [--characters 2700] [--only curator ...]

Makes an environment for each of the others in .venv-peers/NAME, with pip; what cannot be made, or does not run, is said
and left out. Every tool asks the same server, which answers at once with 300 to 4,000 characters or as many as are
asked for; 64 requests are in flight (`swift sample` asks one after the other), each tool in a process of its own, by
turns. Prints milliseconds of CPU and of wall time per row, as the slope between a quarter of the rows and
all of them, the start included in neither, and CPU over that of a bare aiohttp loop.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(".venv-peers")
PACKAGES = {
    "curator": ["bespokelabs-curator"],
    "data-designer": ["data-designer"],
    "distilabel": ["distilabel", "openai", "requests", "beautifulsoup4"],
}
SWIFT = Path(".venv-swift")  # which the tests use as well; it needs more than pip
HERE = Path(__file__).parent
QUIET = {
    "CURATOR_DISABLE_CACHE": "1",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "HF_HUB_OFFLINE": "1",
    "NEMO_TELEMETRY_ENABLED": "false",
    "OMP_NUM_THREADS": "1",
    "OPENAI_API_KEY": "none",
    "TELEMETRY_ENABLED": "false",
}


def questions(rows: int) -> list[str]:
    """What is asked."""
    return [f"What is three plus four? ({number})" for number in range(rows)]


# Each runs in its own environment, and returns how many rows it wrote.


def curator(url: str, rows: int, folder: str) -> int:
    """Bespoke Curator. It fetches a tokenizer from the net to count tokens: words will do."""
    import tiktoken

    class Words:
        def encode(self, text: str, **_: Any) -> list[str]:
            return text.split()

    tiktoken.get_encoding = tiktoken.encoding_for_model = lambda name: Words()
    from bespokelabs.curator import LLM

    class Ask(LLM):  # type: ignore[misc]
        def prompt(self, row: dict[str, str]) -> str:
            return row["question"]

        def parse(self, row: dict[str, str], response: str) -> dict[str, str]:
            return {**row, "response": response}

    limits = {"max_concurrent_requests": 64, "max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**10}
    ask = Ask(
        model_name="m",
        backend="openai",
        backend_params={"base_url": f"{url}/v1", "api_key": "none", **limits},
        generation_params={"max_tokens": 256},
    )
    made = ask([{"question": question} for question in questions(rows)], working_dir=folder)
    return len(getattr(made, "dataset", made))


def data_designer(url: str, rows: int, folder: str) -> int:
    """NVIDIA NeMo Data Designer."""
    import data_designer.config as dd
    import pandas as pd
    from data_designer.interface import DataDesigner

    asked = dd.ChatCompletionInferenceParams(max_tokens=256, max_parallel_requests=64)
    model = dd.ModelConfig(alias="m", model="m", provider="p", skip_health_check=True, inference_parameters=asked)
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=pd.DataFrame({"question": questions(rows)})))
    builder.add_column(dd.LLMTextColumnConfig(name="response", model_alias="m", prompt="{{ question }}"))
    server = dd.ModelProvider(name="p", endpoint=f"{url}/v1", provider_type="openai", api_key="none")
    return len(
        DataDesigner(artifact_path=folder, model_providers=[server]).create(builder, num_records=rows).load_dataset()
    )


def distilabel(url: str, rows: int, folder: str) -> int:
    """Argilla's distilabel."""
    from datasets import Dataset
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps.tasks import TextGeneration

    with Pipeline(cache_dir=folder) as pipeline:
        llm = OpenAILLM(model="m", base_url=f"{url}/v1", api_key="none", generation_kwargs={"max_new_tokens": 256})
        TextGeneration(llm=llm, input_batch_size=64)
    asked = Dataset.from_list([{"instruction": question} for question in questions(rows)])
    return len(pipeline.run(dataset=asked, use_cache=False)["default"]["train"])


def swift_sample(url: str, rows: int, folder: str) -> int:
    """ms-swift's `swift sample` from a server."""
    from swift.pipelines import sampling_main

    asked, made = Path(folder) / "asked.jsonl", Path(folder) / "made.jsonl"
    known = {"role": "assistant", "content": "7"}
    turns = ({"messages": [{"role": "user", "content": question}, known]} for question in questions(rows))
    asked.write_text("".join(json.dumps(row) + "\n" for row in turns))
    settings = {
        "sampler_type": "distill",
        "sampler_engine": "client",
        "engine_kwargs": json.dumps({"base_url": f"{url}/v1", "api_key": "none"}),
        "model": "m",
        "dataset": str(asked),
        "num_return_sequences": 1,
        "num_sampling_batch_size": 50,  # and it leaves out what fills no batch
        "max_new_tokens": 256,
        "output_dir": folder,
        "output_file": made.name,
    }
    sampling_main([word for name, value in settings.items() for word in (f"--{name}", str(value))])
    return sum(1 for _ in made.open())


def bare(url: str, rows: int, folder: str) -> int:
    """The plainest aiohttp loop, which writes nothing."""
    import uvloop
    from http_cost import bare as loop

    uvloop.run(loop(url, rows, None))
    return rows


def specs_data(url: str, rows: int, folder: str) -> int:
    """A whole build: sampled, judged, paired, checked, and written as a dataset with its card."""
    from http_cost import whole

    whole(url, rows, "none", None)
    return rows


def specs_data_sampling(url: str, rows: int, folder: str) -> int:
    """The part of a build that the others do as well."""
    from http_cost import sampled

    sampled(url, rows, None)
    return rows


TOOLS = {
    "bare aiohttp loop": bare,
    "specs-data, sampling": specs_data_sampling,
    "specs-data, whole build": specs_data,
    "curator": curator,
    "data-designer": data_designer,
    "distilabel": distilabel,
    "swift sample": swift_sample,
}


def python_of(name: str) -> str | None:
    """The interpreter that has this tool; its environment is made where there is none. None if that fails."""
    if name == "swift sample":
        done = subprocess.run([HERE.parent / ".ci" / "loaders-env"], check=False)
        return None if done.returncode else str(SWIFT / "bin" / "python")
    if name not in PACKAGES:
        return sys.executable
    place = ENVIRONMENTS / name
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[name]], check=False)
        if done.returncode:
            return None
    return str(python)


def timed(python: str, name: str, url: str, rows: int) -> tuple[float, float]:
    """CPU and wall seconds of one process, with those that it started."""
    with tempfile.TemporaryDirectory() as folder:
        command = [python, __file__, "--one", name, url, str(rows), folder]
        before, begun = os.times(), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **QUIET}, check=False)
        wall, after = time.perf_counter() - begun, os.times()
    if done.returncode or not done.stdout.rstrip().endswith(f"rows: {rows}"):
        raise RuntimeError((done.stderr or done.stdout).strip()[-400:])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, wall


def main() -> None:
    """Print a line for each tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--characters", type=int)
    parser.add_argument("--only", nargs="*", default=list(TOOLS))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, url, rows, folder = options.one
        print("rows:", TOOLS[name](url, int(rows), folder))
        return
    from http_cost import started

    server = started(options.characters)
    url = f"http://127.0.0.1:{int(server.stdout.readline())}"  # type: ignore[union-attr]
    least: float | None = None
    try:
        for name in options.only:
            if (python := python_of(name)) is None:
                print(f"{name}: its environment cannot be made")
                continue
            try:
                few, many = (timed(python, name, url, rows) for rows in (options.rows // 4, options.rows))
            except RuntimeError as error:
                print(f"{name}: does not run: {json.dumps(str(error))}")
                continue
            cpu, wall = (
                (much - little) * 1000 / (options.rows * 3 / 4) for little, much in zip(few, many, strict=True)
            )
            least = least or cpu
            print(f"{name}: {cpu:.3f} ms of CPU a row, {cpu / least:.1f} times the first; wall {wall:.3f}", flush=True)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
