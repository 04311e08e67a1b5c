"""The OpenAI-compatible verifier against a loopback server."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fakes.gemini_server import Service as Server
from fakes.gemini_server import item_of

from specs_data.errors import ItemRefused, Undecided, UserError
from specs_data.recipe import Recipe
from specs_data.records import Judged, Judgement, Problem, Response, Sample, Verdict
from specs_data.services.limits import Budget
from specs_data.services.openai import OpenAIClient
from specs_data.services.opening import open_budget
from specs_data.services.service import Service
from specs_data.verifiers import open_verifier
from specs_data.verifiers.model import ModelVerifier

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
MODEL = "Qwen/Qwen3-VL-32B-Instruct"
ONE = Judged(
    Sample(Problem("p", "2 + 3?", "GOLD-7781", "numeric"), 0, Response("<think>2 + 3 = 5</think><answer>5</answer>")),
    Judgement(True, "number", "5"),
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        yield server


async def verify(server: Server, path: str = "/v1", **options: Any) -> Verdict:
    client = OpenAIClient(MODEL, server.url + path)
    budget = Budget(open_budget(Recipe()).prices)
    verifier = ModelVerifier(Service(client, budget, **{"pause": 0.01, "timeout": 5.0, **options}))
    try:
        return await verifier.verify(ONE, [PNG])
    finally:
        await verifier.close()


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
async def test_a_verdict(server: Server, path: str) -> None:
    verdict = await verify(server, path)
    assert (verdict.consistent, verdict.reason, verdict.answer) == (True, "It adds up.", "5")
    assert (verdict.model, verdict.served) == (MODEL, MODEL)
    assert (verdict.prompt_tokens, verdict.completion_tokens) == (1000, 200)


async def test_what_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    await verify(server)
    monkeypatch.setenv("OPENAI_API_KEY", "k-secret\n")  # as from a file
    await verify(server)
    (_, open_headers, body), (_, headers, _) = server.calls
    assert "Authorization" not in open_headers and headers["Authorization"] == "Bearer k-secret"
    assert body["model"] == MODEL
    image, text = body["messages"][1]["content"]
    assert image["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert "2 + 3 = 5" in text["text"] and "GOLD-7781" not in json.dumps(body)
    form = body["response_format"]["json_schema"]
    assert form["strict"] and set(form["schema"]["required"]) == {"item", "reason", "answer", "consistent"}


@pytest.mark.parametrize(
    "refused",
    [("response_format",), ("temperature", "max_completion_tokens"), ("response_format", "temperature")],
)
async def test_options_that_a_server_refuses_are_left_out(server: Server, refused: tuple[str, ...]) -> None:
    server.refused_options = refused
    client = OpenAIClient(MODEL, server.url)
    verifier = ModelVerifier(Service(client, Budget(open_budget(Recipe()).prices)))
    assert (await verifier.verify(ONE, [])).consistent
    assert len(server.calls) == 1 + len(refused)
    assert (await verifier.verify(ONE, [])).consistent
    assert len(server.calls) == 2 + len(refused)  # it is remembered
    last = server.calls[-1][2]
    assert not set(refused) & set(last)
    assert ("max_tokens" in last) == ("max_completion_tokens" in refused)
    await verifier.close()


PASSING = ["429 0.02", "429", "500", "html", "reset", "truncated", "MAX_TOKENS", "blocked", "refusal", "no parts"]


@pytest.mark.parametrize(
    "fault", [*PASSING, "no candidates", "broken JSON", "body", "body null", 'body {"choices": 5}']
)
async def test_a_failure_that_passes_costs_nothing_but_time(server: Server, fault: str) -> None:
    times = 1 if fault in ("blocked", "refusal", "MAX_TOKENS") else 2  # what belongs to the item is asked twice at most
    server.faults.extend([fault] * times)
    assert (await verify(server)).consistent
    assert len(server.calls) == times + 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("429 0.03", "rate limit"),
        ("503", "service error"),
        ("hang", "timeout"),
        ("reset", "no connection"),
        ("truncated", "broken answer"),
        ("refusal", "blocked"),
        ("no parts", "empty answer"),
        ("MAX_TOKENS", "cut off"),
        ("broken JSON", "broken answer"),
        ("400", "refused"),
    ],
)
async def test_a_failure_that_stays_is_never_a_verdict(server: Server, fault: str, reason: str) -> None:
    server.faults.extend([fault] * 100)
    with pytest.raises(Undecided, match=f"^{reason}(: |$)"):
        await verify(server, timeout=0.1 if fault == "hang" else 5.0, patience=0.1)


@pytest.mark.parametrize("fault", ["fenced", "thought aloud"])
async def test_what_some_models_put_around_it_does_no_harm(server: Server, fault: str) -> None:
    server.faults.append(fault)
    assert (await verify(server)).consistent
    assert len(server.calls) == 1


async def test_retry_after_is_honoured(server: Server) -> None:
    server.faults.append("429 0.3")
    start = time.monotonic()
    await verify(server)
    assert 0.3 <= time.monotonic() - start < 1.0


@pytest.mark.parametrize("status", ["429", "503"])
async def test_nobody_waits_for_a_day(server: Server, status: str) -> None:
    server.faults.extend([f"{status} 86400"] * 100)
    async with asyncio.timeout(5):
        with pytest.raises(Undecided):
            await verify(server)
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("fault", "words"), [("401", "refuses the key"), ("404", "has no model"), ("quota", "no quota left")]
)
async def test_what_only_the_user_can_mend(
    server: Server, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k-secret")
    server.faults.append(fault)
    with pytest.raises(UserError, match=words) as caught:
        await verify(server)
    assert len(server.calls) == 1 and "k-secret" not in str(caught.value)


NO_MONEY = [
    "402",
    "400 Your credit balance is too low to access the API.",
    'body {"error": {"message": "Insufficient credits", "code": 402}, "user_id": "u"}',
]


@pytest.mark.parametrize("fault", NO_MONEY)
async def test_an_account_without_money_is_no_fault_of_the_item(server: Server, fault: str) -> None:
    server.faults.append(fault)
    with pytest.raises(UserError, match="no quota left"):
        await verify(server)
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("fault", "reason", "calls"),
    [
        ("451", "service error", 1),
        ('body {"error": {"message": "Slow down", "code": 429}}', "rate limit: Slow down", 2),
        ('body {"error": "Overloaded", "choices": []}', "service error: Overloaded", 4),
    ],
)
async def test_what_does_not_plainly_refuse_the_item_is_the_service_s(
    server: Server, fault: str, reason: str, calls: int
) -> None:
    server.faults.extend([fault] * 100)
    with pytest.raises(Undecided, match=f"^{reason}") as caught:
        await verify(server, patience=0.01)
    assert not isinstance(caught.value, ItemRefused) and len(server.calls) >= calls


async def test_an_answer_in_blocks(server: Server) -> None:
    server.faults.append("blocks")
    assert (await verify(server)).consistent
    assert len(server.calls) == 1


@pytest.mark.parametrize("served", ["gpt-9", "Qwen/Qwen3-VL-32B-Instruct-Awful"])
async def test_another_model_stops_the_run(server: Server, served: str) -> None:
    server.served = served
    with pytest.raises(UserError, match=f"{served} answered"):
        await verify(server)


async def test_from_the_recipe(server: Server) -> None:
    recipe = Recipe(verifier="openai", verifier_model=MODEL, verifier_base_url=f"{server.url}/v1")
    verifier = open_verifier(recipe, open_budget(recipe))
    assert (await verifier.verify(ONE, [])).consistent
    assert server.url not in str(verifier.settings)
    await verifier.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "--verifier-model"),
        ({"verifier_model": "m"}, "--verifier-base-url"),
        ({"verifier_model": "m", "verifier_base_url": "localhost:8000"}, "not a URL"),
    ],
)
def test_what_a_recipe_must_say(server: Server, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_verifier(Recipe(verifier="openai", **settings), open_budget(Recipe()))


async def test_a_server_without_schemas_is_asked_for_an_object_and_then_plainly(server: Server) -> None:
    server.complaints = {
        "json_schema": "response_format.type must be one of text, json_object; json_schema is not supported",
        "json_object": "response_format: json_object is not supported either",
    }
    assert (await verify(server)).consistent
    formats = [body.get("response_format", {}).get("type") for _, _, body in server.calls]
    assert formats == ["json_schema", "json_object", None]


async def test_another_attempt_differs_from_the_first(server: Server) -> None:
    server.faults.extend(["broken JSON", "MAX_TOKENS"])
    await verify(server)
    first, second, third = (body for _, _, body in server.calls)
    assert (first["temperature"], first["max_completion_tokens"]) == (0, 4096)
    assert second["temperature"] > 0 and second["max_completion_tokens"] == 4096
    assert "could not be read" in second["messages"][1]["content"][-1]["text"]
    assert third["max_completion_tokens"] == 2048
    assert "cut off" in third["messages"][1]["content"][-1]["text"]


async def test_the_longest_answer_is_a_setting(server: Server) -> None:
    recipe = Recipe(verifier="openai", verifier_model=MODEL, verifier_base_url=server.url, answer_tokens=512)
    verifier = open_verifier(recipe, open_budget(recipe))
    await verifier.verify(ONE, [])
    ((_, _, body),) = server.calls
    assert body["max_completion_tokens"] == 512 and verifier.settings["max_tokens"] == "512"
    words = body["response_format"]["json_schema"]["schema"]["properties"]["reason"]
    assert words["maxLength"] > 0
    await verifier.close()


# Replies as models write them, whatever they were asked for, and what each of them says: None is no verdict.
REPLIES: list[tuple[str, bool | None]] = [
    ("{}", True),
    ("```json\n{}\n```", True),
    ("Here is my verdict:\n```json\n{}\n```\nTell me if you need more.", True),
    ("Sure! {}", True),
    ("{} That is all.", True),
    ("<think>Is it consistent? {{'consistent': false}} would be too harsh.</think>\n{}", True),
    ('{{"reason": "\\frac{{1}}{{2}} \\(= x\\)", "answer": "\\boxed{{5}}", "consistent": true}}', True),
    ("{{'reason': 'ok', 'answer': '5', 'consistent': True}}", True),
    ('{{"reason": "ok", "answer": "5", "consistent": true,}}', True),
    ('{{"Reason": "ok", "Answer": 5, "Consistent": "true"}}', True),
    ('{{"verdict": {{"reason": "ok", "answer": "5", "consistent": true}}}}', True),
    ('{{"reason": "It goes\nelsewhere.", "answer": "6", "consistent": false}}', False),
    ("The reasoning is consistent.", None),
    ('{{"reason": "ok", "consistent": "partly"}}', None),
    ('{{"reason": "It adds up and then', None),
    ("{} or rather {}", None),
    ('The response says {{"consistent": true}} and stops.', None),
]


@pytest.mark.parametrize(("reply", "said"), REPLIES)
async def test_what_models_write_is_understood_or_undecided(server: Server, reply: str, said: bool | None) -> None:
    def answer(rubric: str, text: str, images: list[Any]) -> str:
        form = {"item": item_of(text), "reason": "It adds up.", "answer": "5", "consistent": True}
        other = json.dumps({**form, "consistent": False})
        return reply.format(json.dumps(form), other) if reply.count("{}") == 2 else reply.format(json.dumps(form))

    server.answer = answer
    if said is None:
        with pytest.raises(Undecided, match="^broken answer"):
            await verify(server)
        assert len(server.calls) > 1, "it is asked once more, otherwise"
    else:
        assert (await verify(server)).consistent is said


@pytest.mark.parametrize("named", ["", " , "])
def test_a_list_of_no_verifiers_is_told(named: str) -> None:
    with pytest.raises(UserError, match="--verifier is empty"):
        open_verifier(Recipe(verifier=named), open_budget(Recipe()))
