"""A PEFT adapter's folder as the policy of the real vLLM, and vLLM's own arguments."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from specs_data.engines import Engine, ModelOptions, open_engine
from specs_data.engines.checkpoint import load_model
from specs_data.engines.transformers import TransformersEngine
from specs_data.engines.vllm import VLLMEngine
from specs_data.errors import UserError
from specs_data.mini.world import draw, picture
from specs_data.recipe import make_recipe
from specs_data.records import Message, Request, Sampling

CPU: dict[str, Any] = {"enforce_eager": True, "distributed_executor_backend": "uni", "max_model_len": 512}
GREEDY = Sampling(temperature=0.0, max_tokens=40)
FLOAT = ModelOptions(dtype="float32")


async def texts(engine: Engine) -> Sequence[str]:
    puzzles = [draw(5, index) for index in range(12)]
    asked = [Request((Message("user", each.question),), (picture(each.things),), 0) for each in puzzles]
    try:
        return [response.text for response in await asyncio.gather(*map(engine.generate, asked))]
    finally:
        await engine.close()


@pytest.fixture(scope="module", params=[8, 12])  # 12 is no rank that vLLM has room for by itself
def adapter(request: pytest.FixtureRequest, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(
        r=request.param,
        lora_alpha=2 * request.param,
        target_modules=["q_proj", "v_proj", "down_proj"],
        exclude_modules=".*visual.*",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(load_model(checkpoint), config).save_pretrained(folder)
    return str(folder)


def test_it_is_its_base_with_the_adapter(checkpoint: str, adapter: str) -> None:
    wanted = asyncio.run(texts(TransformersEngine(adapter, GREEDY, FLOAT)))
    plain = asyncio.run(texts(TransformersEngine(checkpoint, GREEDY, FLOAT)))
    found = asyncio.run(texts(VLLMEngine(adapter, GREEDY, FLOAT, **CPU)))
    assert sum(one == other for one, other in zip(found, wanted, strict=True)) >= len(wanted) - 1
    assert sum(one != other for one, other in zip(wanted, plain, strict=True)) > len(wanted) / 2


def test_one_whose_base_is_gone_is_one_sentence(adapter: str, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    base = str(tmp_path / "gone")
    text = config.read_text()
    config.write_text(text.replace(text.partition('"base_model_name_or_path": "')[2].partition('"')[0], base))
    with pytest.raises(UserError, match="gone") as caught:
        VLLMEngine(tmp_path / "adapter", GREEDY, FLOAT, **CPU)
    assert "\n" not in str(caught.value)


def opened(checkpoint: str, *arguments: str) -> Engine:
    own = [f"{name}={value}" for name, value in CPU.items() if name != "max_model_len"]
    settings = {"policy": checkpoint, "engine": "vllm", "max_model_len": 512, "dtype": "float32"}
    return asyncio.run(open_engine(make_recipe({**settings, "engine_arg": [*own, *arguments]}), GREEDY))


def test_arguments_reach_vllm(checkpoint: str) -> None:
    engine = opened(checkpoint, "max_num_seqs=6", 'limit_mm_per_prompt={"image": 1, "video": 0}')
    assert engine.concurrency == 9  # half as many again as run at once
    assert len(asyncio.run(texts(engine))) == 12


@pytest.mark.parametrize("argument", ["no_such_argument=1", "max_num_seqs=-3", "quantization=gibberish"])
def test_arguments_that_vllm_does_not_take_are_one_sentence(checkpoint: str, argument: str) -> None:
    with pytest.raises(UserError, match="vLLM cannot start") as caught:
        opened(checkpoint, argument)
    assert "\n" not in str(caught.value)
