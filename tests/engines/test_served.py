"""Builds with served models: what is asked for is what the rows say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fakes.openai_server import OpenAIServer
from fakes.sums import recipe, respond, write_sums

from specs_data import build
from specs_data.errors import UserError
from specs_data.records import Message, Request


def answer(body: dict[str, Any]) -> str:
    messages = tuple(Message(each["role"], each["content"]) for each in body["messages"])
    return respond(Request(messages, (), body["seed"]))


@contextmanager
def served(*models: str) -> Iterator[OpenAIServer]:
    """A server in a thread with a loop of its own, since `build` runs its own."""
    server = OpenAIServer(answer, models=models)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.die(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def rows_of(run: Path) -> list[dict[str, Any]]:
    return pq.read_table(run / "dataset" / "data").to_pylist()


def asked(server: OpenAIServer) -> set[str]:
    found = {body["model"] for body in server.bodies}
    server.bodies.clear()
    return found


def test_rejected_from_names_another_model_of_the_server(tmp_path: Path) -> None:
    with served("zero", "base", "other") as server:
        settings = {"engine": "openai", "base_url": server.url, "model": "zero", "samples": 6}
        problems = write_sums(tmp_path, 20)
        build(recipe(problems, **settings, rejected_from="base"), tmp_path / "run", quiet=True)
        rows = rows_of(tmp_path / "run")
        assert {(row["policy"], row["rejected_from"]) for row in rows} == {("zero", "base")}
        assert asked(server) == {"zero", "base"}
        build(recipe(problems, **settings, rejected_from="base"), tmp_path / "run", quiet=True, overwrite=True)
        assert asked(server) == set()
        build(recipe(problems, **settings, rejected_from="other"), tmp_path / "run", quiet=True, overwrite=True)
        assert asked(server) == {"other"}
        build(
            recipe(problems, **settings | {"model": "base"}, rejected_from="zero"),
            tmp_path / "run",
            quiet=True,
            overwrite=True,
        )
        assert {row["policy"] for row in rows_of(tmp_path / "run")} == {"base"}


def test_the_model_asked_for_is_the_policy(tmp_path: Path) -> None:
    with served("mod-a", "mod-b") as server:
        problems = write_sums(tmp_path, 10)
        for model in ("mod-a", "mod-b"):
            settings = recipe(problems, base_url=server.url, model=model, policy="ckpt/x", samples=4)
            built = build(settings, tmp_path / "run", quiet=True, overwrite=True)
            assert asked(server) == {model}, "the responses of another model are not taken for this one's"
            assert {row["policy"] for row in rows_of(tmp_path / "run")} == {model}
            assert (built.recipe.policy, built.recipe.model) == (model, model)


def test_the_only_model_of_a_server_is_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    problems = write_sums(tmp_path, 10)
    with served("org/only") as server:
        built = build(recipe(problems, base_url=server.url, samples=4), quiet=True)
        assert asked(server) == {"org/only"}
    assert built.out == Path("runs/org--only")
    assert {row["policy"] for row in rows_of(built.out)} == {"org/only"}
    assert built.recipe.model == "org/only"


def test_one_of_several_models_has_to_be_named(tmp_path: Path) -> None:
    with served("mod-a", "mod-b") as server, pytest.raises(UserError, match=r"--model: it lists mod-a, mod-b"):
        build(recipe(write_sums(tmp_path, 2), base_url=server.url), tmp_path / "run", quiet=True)


def test_a_server_without_address(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--base-url http://HOST:PORT/v1"):
        build(recipe(write_sums(tmp_path, 2), engine="openai"), tmp_path / "run", quiet=True)
