"""Which engine a recipe means, and what is refused before any model is loaded."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fakes.openai_server import OpenAIServer

from specs_data import build, engines
from specs_data.engines import ENGINES, UNUSED, ModelOptions, engine_name, open_engine
from specs_data.engines.openai import OpenAIEngine
from specs_data.errors import UserError
from specs_data.recipe import Recipe, make_recipe
from specs_data.records import Message, Request, Sampling
from specs_data.rollouts.sample import settle


def recipe(**settings: Any) -> Recipe:
    return make_recipe(settings)


@pytest.mark.parametrize("installed", [True, False])
def test_auto_is_vllm_where_installed(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: object() if installed and name == "vllm" else None)
    assert engine_name(recipe(policy="x")) == ("vllm" if installed else "transformers")
    assert engine_name(recipe(policy="x", base_url="http://host")) == "openai"
    assert engine_name(recipe(policy="x", engine="transformers")) == "transformers"


async def test_servers_of_a_recipe_share_the_work() -> None:
    async with OpenAIServer(lambda body: "one") as one, OpenAIServer(lambda body: "two") as two:
        settings = recipe(engine="openai", model="tiny", base_url=f"{one.url}, {two.url}/v1", concurrency=3)
        engine = await open_engine(settings, Sampling(max_tokens=9))
        assert isinstance(engine, OpenAIEngine)
        assert engine.concurrency == 6
        for seed in range(2):
            await engine.generate(Request((Message("user", "?"),), (), seed))
        await engine.close()
    assert [body["max_tokens"] for body in one.bodies + two.bodies] == [9, 9]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "openai"}, "--base-url"),
        ({"engine": "openai", "base_url": "http://host", "ray": "local"}, "--base-url of each server"),
        ({"engine": "transformers", "base_url": "http://host", "policy": "x"}, "belongs to --engine openai"),
        ({"engine": "transformers"}, "no policy"),
        ({"engine": "transformers", "policy": "x", "replicas": 8}, "give --ray local"),
    ],
)
async def test_what_does_not_fit_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        await open_engine(recipe(**settings), Sampling())


async def test_vllm_that_is_not_installed_comes_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip install 'specs-data\[vllm\]'"):
        await open_engine(recipe(engine="vllm", policy=str(tmp_path)), Sampling())


@pytest.mark.parametrize(
    "settings", [{"policy": "nosuch"}, {"rejected_from": "./nosuch"}, {"rejected_from": "ckpt/nosuch/deep"}]
)
def test_a_policy_that_is_nowhere_is_told_before_the_build(tmp_path: Path, settings: dict[str, str]) -> None:
    settings = {"policy": str(tmp_path), "engine": "transformers", **settings}
    with pytest.raises(UserError, match=r"^no policy at \S*nosuch\S*: there is no such folder here"):
        build(make_recipe({"problems": "p.jsonl", "verifier": "rules", **settings}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_no_use_for_what_it_does_not_look_at(name: str) -> None:
    source = inspect.getsource(import_module(ENGINES[name].partition(":")[0]))
    looked_at = {field for field in ModelOptions.__struct_fields__ if f"options.{field}" in source}
    looked_at |= {"model"} if name == "openai" else set()  # as its policy
    assert {*UNUSED[name]} == {*ModelOptions.__struct_fields__} - looked_at


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"engine": "transformers", "concurrency": 8, "engine_arg": "a=1"},
            "transformers has no use for --concurrency, --e",
        ),
        ({"engine": "vllm", "batch_size": 8}, "vllm has no use for --batch-size"),
        ({"engine": "openai", "base_url": "http://host", "dtype": "float16"}, "openai has no use for --dtype"),
        ({"engine": "transformers", "batch_size": 8, "min_pixels": 9, "tensor_parallel_size": 1}, ""),
    ],
)
def test_a_setting_without_effect_is_told(
    settings: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    settle(recipe(problems="p.jsonl", policy="x", **settings))
    assert told in caplog.text and bool(told) == bool(caplog.text)
