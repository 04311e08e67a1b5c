"""Open-ended answers judged by a model, prices, and which names are one model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from fakes.gemini_server import Service as Server

from specs_data.errors import Undecided, UserError
from specs_data.judges.model import ModelJudge, open_judge
from specs_data.recipe import Recipe
from specs_data.records import Judged, Judgement, Problem, Response, Sample
from specs_data.services.opening import open_budget
from specs_data.services.prices import load_prices, same_model
from specs_data.verifiers import open_verifier

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
OPEN = Problem("p", "Why is the sky blue?", "Rayleigh scattering", "open")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", "k-secret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)
    with Server() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        yield server


def judge(server: Server, model: str) -> ModelJudge:
    recipe = Recipe(judge_model=model, judge_base_url=f"{server.url}/v1")
    judge = open_judge(recipe, open_budget(recipe))
    assert judge is not None
    return judge


@pytest.mark.parametrize("model", ["gemini:gemini-3.5-flash-lite", "openai:gpt-4o"])
@pytest.mark.parametrize("right", [True, False])
async def test_a_judgement(server: Server, model: str, right: bool) -> None:
    seen = []

    def answer(system: str, text: str, images: list[dict[str, object]]) -> str:
        seen.append((system, text, len(images)))
        return json.dumps({"item": "", "reason": "It says so.", "right": right})

    server.answer = answer
    one = judge(server, model)
    judgement = await one.judge(OPEN, "Light is scattered by air.", [PNG])
    await one.close()
    name = model.partition(":")[2]
    assert (judgement.right, judgement.rule, judgement.answer) == (right, "model", "Light is scattered by air.")
    assert (judgement.model, judgement.served) == (name, name)
    assert (judgement.prompt_tokens, judgement.completion_tokens) == (1000, 200)
    system, text, images = seen[0]
    assert system == one.prompt.body and images == 1
    assert "Rayleigh scattering" in text and "Light is scattered by air." in text


async def test_what_needs_no_model(server: Server) -> None:
    one = judge(server, "openai:gpt-4o")
    assert (await one.judge(OPEN, "  ", [])).right is False
    nothing = Problem("p", "Why?", " ", "open")
    assert (await one.judge(nothing, "Because.", [])).right is None
    await one.close()
    assert not server.calls


async def test_a_failure_is_never_a_judgement(server: Server) -> None:
    server.faults.append("400")
    one = judge(server, "gemini:gemini-3.5-flash-lite")
    with pytest.raises(Undecided, match="refused"):
        await one.judge(OPEN, "Scattering.", [])
    await one.close()


def test_settings_tell_judges_apart(server: Server) -> None:
    models = ("gemini:gemini-3.5-flash-lite", "openai:gpt-4o", "openai:gpt-4o-mini")
    settings = [judge(server, model).settings for model in models]
    assert len({str(one) for one in settings}) == 3
    assert all(one["prompt"] for one in settings)


@pytest.mark.parametrize("name", ["gpt-4o", "openai:", "anthropic:x"])
def test_a_judge_is_named_with_its_service(name: str) -> None:
    with pytest.raises(UserError, match="gemini:MODEL or openai:MODEL"):
        open_judge(Recipe(judge_model=name), open_budget(Recipe()))


async def test_errors_speak_of_the_judge(server: Server) -> None:
    server.faults.append("404")
    one = judge(server, "gemini:typo")
    with pytest.raises(UserError, match=r"no model 'typo'.* --judge-model$"):
        await one.judge(OPEN, "Scattering.", [])
    await one.close()
    with pytest.raises(UserError, match=r"an openai judge needs its server's URL \(--judge-base-url\)"):
        open_judge(Recipe(judge_model="openai:foo"), open_budget(Recipe()))


async def test_the_judge_and_the_verifier_share_a_pace(server: Server) -> None:
    recipe = Recipe(verifier="gemini", judge_model="gemini:gemini-2.5-flash", rpm=600)
    budget = open_budget(recipe)
    verifier, one = open_verifier(recipe, budget), open_judge(recipe, budget)
    assert one is not None
    sample = Sample(OPEN, 0, Response("<think>It scatters.</think><answer>Scattering</answer>"))
    judged = Judged(sample, Judgement(True, "model", "Scattering"))
    start = time.monotonic()
    await asyncio.gather(
        *(one.judge(OPEN, f"Scattering {n}", []) for n in range(3)), *(verifier.verify(judged, []) for _ in range(3))
    )
    assert 0.5 <= time.monotonic() - start < 2.0
    await one.close()
    await verifier.close()


def test_no_judge_is_chosen_silently(server: Server) -> None:
    assert open_judge(Recipe(), open_budget(Recipe())) is None


# Prices


def test_prices_have_dates() -> None:
    prices = load_prices()
    assert prices.cost("gemini-3.8-flash", 1_000_000, 0, on=date(2026, 12, 31)) == 0.75
    assert prices.cost("gemini-3.8-flash", 1_000_000, 0, on=date(2027, 1, 1)) == 1.5
    assert prices.cost("gemini-3.8-flash", 0, 2_000_000, on=date(2026, 12, 1)) == 7.5
    assert prices.cost("gemini-3.8-flash", 0, 2_000_000, batch=True, on=date(2026, 12, 1)) == 3.75
    assert prices.cost("gemini-3.8-flash", 1, 1, on=date(2020, 1, 1)) is None


def test_prices_of_versions_and_of_unknown_models() -> None:
    prices = load_prices()
    assert prices.cost("gemini-2.5-flash-preview-09-2025", 1_000_000, 0) == 0.3
    assert prices.cost("gemini-2.5-flash-lite-001", 1_000_000, 0) == 0.1
    assert prices.cost("gpt-4o-2024-08-06", 1_000_000, 0) == 2.5
    assert prices.cost("my-model", 1_000_000, 0) is None


def test_own_prices_come_on_top(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    lines = ['["my-model"]', "prices = [{ since = 2026-01-01, prompt = 1, completion = 2 }]"]
    lines += ['["gpt-4o"]', "prices = [{ since = 2026-01-01, prompt = 0, completion = 0 }]"]
    file.write_text("\n".join(lines))
    prices = load_prices(file)
    assert prices.cost("my-model", 1_000_000, 1_000_000) == 3.0
    assert prices.cost("gpt-4o", 1_000_000, 0) == 0.0
    assert prices.cost("gemini-2.5-flash", 1_000_000, 0) == 0.3


def test_the_price_of_a_model_is_that_of_no_other(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    price = "prices = [{{ since = 2026-01-01, prompt = {}, completion = 2 }}]\n"
    names = {"flash-latest": 7, "gemini-2.5-flash-preview": 9}
    file.write_text("\ufeff" + "".join(f'["{name}"]\n{price.format(cost)}' for name, cost in names.items()))
    prices = load_prices(file)
    assert prices.cost("flash-latest", 1_000_000, 0) == 7
    assert prices.cost("my-model", 1_000_000, 0) is None
    assert prices.cost("gemini-2.5-flash-preview-09-2025", 1_000_000, 0) == 9
    assert prices.cost("gemini-2.5-flash-002", 1_000_000, 0) == 0.3


@pytest.mark.parametrize("text", ["x = ", "[m]\nprices = 3", "[m]\nprices = [{ since = 2026-01-01, prompt = 1 }]"])
def test_prices_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"prices.toml are wrong"):
        load_prices(file)
    with pytest.raises(UserError, match="cannot read the prices"):
        load_prices(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("requested", "served", "same"),
    [
        ("gemini-2.5-flash", "gemini-2.5-flash", True),
        ("gemini-2.5-flash", "gemini-2.5-flash-002", True),
        ("gemini-2.5-flash", "gemini-2.5-flash-preview-05-20", True),
        ("models/gemini-2.5-flash", "gemini-2.5-flash", True),
        ("gemini-flash-latest", "gemini-3.8-flash", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gemini-2.5-flash", "gemini-2.5-flash-lite", False),
        ("gemini-2.5-flash", "gemini-3.8-flash", False),
        ("gemini-2.5-flash-002", "gemini-2.5-flash", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4", "gpt-4o", False),
        ("qwen2.5-vl", "qwen2.5-vl-7b", False),
    ],
)
def test_same_model(requested: str, served: str, same: bool) -> None:
    assert same_model(requested, served) is same
