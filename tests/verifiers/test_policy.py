"""The policy as its own verifier: on the shipped checkpoints, in a build, and at servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.openai_server import OpenAIServer, Reply

from specs_data import Recipe, build
from specs_data.engines import ModelOptions
from specs_data.engines.openai import OpenAIEngine
from specs_data.engines.scripted import ScriptedEngine
from specs_data.engines.transformers import TransformersEngine
from specs_data.errors import UserError
from specs_data.format import THINK_ANSWER, Part, ResponseFormat, load_format
from specs_data.measure.verifier_score import Labelled, labelled_pair
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.plugins import Engine
from specs_data.records import Judged, Judgement, Message, Problem, Request, Response, Sample, Sampling
from specs_data.rollouts.checking import HALF, asks_sampled, sharing
from specs_data.texts import system_prompt
from specs_data.verifiers import Checker, verifier_names
from specs_data.verifiers.policy import AGREES, NO_THOUGHT, OTHER_ANSWER, PolicyVerifier

PROBLEM = Problem("p", "2 + 3?", "5", "numeric")


def verifier_of(engine: Engine, fmt: ResponseFormat = THINK_ANSWER) -> PolicyVerifier:
    return PolicyVerifier(Checker(engine, "tiny", "digest", system_prompt(None, fmt.instruction)), fmt)


def judged(answer: str, thought: str = "2 + 3 = 5.", fmt: ResponseFormat = THINK_ANSWER) -> Judged:
    return Judged(Sample(PROBLEM, 0, Response(fmt.render(thought, answer))), Judgement(True, "number", answer))


def last_sum(request: Request) -> str:
    """Answers as the thought in the prefill ends."""
    number = request.prefill.rpartition("= ")[2].partition(".")[0]
    return f"{number}</answer>"


async def test_it_answers_again_from_the_thought_alone() -> None:
    seen: list[Request] = []

    def script(request: Request) -> str:
        seen.append(request)
        return last_sum(request)

    verifier = verifier_of(ScriptedEngine(script))
    for answer, consistent, reason in (("5", True, AGREES), ("6", False, OTHER_ANSWER)):
        verdict = await verifier.verify(judged(answer), ())
        assert (verdict.consistent, verdict.reason, verdict.answer) == (consistent, reason, "5")
    assert seen[0].prefill == "<think>2 + 3 = 5.</think>\n<answer>"
    assert seen[0].sampling is not None and seen[0].sampling.temperature == 0
    assert seen[0].sampling.max_tokens < 20 and seen[0].sampling.stop == ("</answer>",)


@pytest.mark.parametrize("name", ["reasoning-solution", "final-answer", "json", "markdown", "plain"])
async def test_every_shipped_format(name: str) -> None:
    fmt = load_format(name)
    closing = '"}' if fmt.layout == "json" else fmt.answer.close
    verifier = verifier_of(ScriptedEngine(lambda request: f"5{closing}"), fmt)
    verdict = await verifier.verify(judged("5", fmt=fmt), ())
    assert verdict.consistent and verdict.reason == (AGREES if fmt.thought else NO_THOUGHT)
    if fmt.thought:
        assert not (await verifier.verify(judged("6", fmt=fmt), ())).consistent


async def test_an_answer_that_no_marker_opens_is_what_follows_the_thought() -> None:
    fmt = ResponseFormat(name="r1", thought=Part(open="<think>", close="</think>"), answer=Part(), instruction="-")
    seen: list[Request] = []

    def script(request: Request) -> str:
        seen.append(request)
        return "\n5"

    verifier = verifier_of(ScriptedEngine(script), fmt)
    assert (await verifier.verify(judged("5", fmt=fmt), ())).consistent
    assert not (await verifier.verify(judged("6", fmt=fmt), ())).consistent
    assert {request.prefill for request in seen} == {"<think>2 + 3 = 5.</think>"}


async def test_a_key_that_is_written_in_escapes_is_found() -> None:
    fmt = load_format("json")
    one = judged("5", fmt=fmt)
    text = one.sample.response.text.replace('"answer"', '"\\u0061nswer"')
    assert fmt.check(text) is None
    escaped = Judged(Sample(PROBLEM, 0, Response(text)), one.judgement)
    assert (await verifier_of(ScriptedEngine(lambda request: '5"}'), fmt).verify(escaped, ())).consistent


async def test_an_engine_that_begins_anew_is_named() -> None:
    verifier = verifier_of(ScriptedEngine(lambda request: "<think>2 + 3 = 5.</think><answer>5</answer>"))
    with pytest.raises(UserError, match="begins a new response"):
        await verifier.verify(judged("5"), ())


async def test_what_cannot_be_compared_is_not_decided() -> None:
    verifier = verifier_of(ScriptedEngine(lambda request: "\\sin^2 x + \\cos^2 x</answer>"))
    problem = Problem("p", "?", "\\tan x", "math")
    one = Judged(
        Sample(problem, 0, Response(THINK_ANSWER.render("So.", "\\tan x"))), Judgement(True, "math", "\\tan x")
    )
    verdict = await verifier.verify(one, ())
    assert not verdict.consistent and verdict.undecided


# The shipped checkpoint


@pytest.fixture(scope="module")
def tiny() -> Iterator[TransformersEngine]:
    engine = TransformersEngine(checkpoint("grpo-zero"), Sampling(max_tokens=48), ModelOptions(batch_size=16))
    yield engine
    asyncio.run(engine.close())


async def test_the_tiny_policy_checks_itself(tiny: TransformersEngine) -> None:
    verifier = verifier_of(tiny)
    cases: list[Labelled] = [one for index in range(60) for one in labelled_pair(7919, index)]
    verdicts = await asyncio.gather(*(verifier.verify(one.judged, (one.image,)) for one in cases))

    def kept(kind: str) -> list[bool]:
        return [verdict.consistent for one, verdict in zip(cases, verdicts, strict=True) if one.kind == kind]

    taught, other = (
        kept("as taught"),
        [*kept("other conclusion"), *kept("wrong count, other answer"), *kept("taken back")],
    )
    assert sum(taught) > 0.9 * len(taught) > 0
    assert sum(other) < 0.2 * len(other)
    assert all(verdict.completion_tokens < 20 for verdict in verdicts)


async def test_a_likelihood_is_that_of_what_is_generated(tiny: TransformersEngine) -> None:
    sound = labelled_pair(7919, 0)[0]
    request = Request(
        (Message("user", "?"),),
        (sound.image,),
        0,
        prefill="<think>2 + 3 = 5.</think>\n<answer>",
        sampling=Sampling(0.0, max_tokens=6),
    )
    said = (await tiny.generate(request)).text
    alone, others = await asyncio.gather(
        tiny.likelihood(request, said),
        asyncio.gather(*(tiny.likelihood(request, text) for text in ("no", "a longer one"))),
    )
    assert alone.greedy and not any(other.greedy for other in others)
    assert all(alone.logprob > other.logprob for other in others)
    assert alone.logprob == pytest.approx((await tiny.likelihood(request, said)).logprob, abs=1e-3)


def test_a_build_verifies_in_the_running_engine(tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "problems", 6, seed=5)
    recipe = Recipe(
        policy=str(checkpoint("grpo-zero")), problems=str(problems), verifier="rules,policy", samples=2, max_tokens=64
    )
    built = build(recipe, tmp_path / "run", quiet=True)
    assert built.count > 0
    alone = build(recipe.model_copy(update={"verifier": "policy"}), tmp_path / "run", quiet=True)
    assert alone.count > 0 and alone.manifest.recipe["verifier"] == "policy"
    tokens = alone.manifest.tokens
    assert tokens["verification"].completion < 0.05 * tokens["generation"].completion
    given = Recipe(problems=str(problems), responses=tmp_path / "none.jsonl", verifier="policy")
    (tmp_path / "none.jsonl").write_text(
        '{"problem_id": "5-00000", "response": "<think>a</think><answer>1</answer>"}\n'
    )
    with pytest.raises(UserError, match="--verifier-model"):
        build(given, tmp_path / "given", quiet=True)


# Servers


async def test_a_server_is_told_to_go_on() -> None:
    async with OpenAIServer(lambda body: Reply("5</answer>", choice={"stop_reason": "</answer>"})) as server:
        engine = OpenAIEngine("tiny", Sampling(1.0, max_tokens=99), ModelOptions(base_url=(server.url,)))
        assert (await verifier_of(engine).verify(judged("5"), ())).consistent
        await engine.generate(Request((Message("user", "?"),), (), 1))
        assert (await verifier_of(engine).verify(judged("5"), ())).consistent
        await engine.close()
    read, first, second, third = server.bodies
    assert read["messages"][-1] == {"role": "assistant", "content": "<think>2 + 3 = 5.</think>\n<answer>5</answer>"}
    assert (read["prompt_logprobs"], read["max_tokens"]) == (0, 1)
    assert first["messages"][-1] == {"role": "assistant", "content": "<think>2 + 3 = 5.</think>\n<answer>"}
    assert (first["continue_final_message"], first["add_generation_prompt"]) == (True, False)
    assert first["temperature"] == 0 and first["max_tokens"] < 20
    assert "prompt_logprobs" not in third, "it did not tell them, and is not asked again"
    assert "continue_final_message" not in second and (second["temperature"], second["max_tokens"]) == (1.0, 99)


@pytest.mark.parametrize(
    ("with_thought", "without", "rank", "consistent", "undecided", "asked"),
    [
        (-0.1, -2.0, 1, True, False, 2),
        (-2.0, -0.1, 1, False, True, 2),
        (-2.0, -0.1, 2, False, False, 2),
        (-1.0, -2.0, 2, True, False, 3),
    ],
)
async def test_a_server_that_reads_is_asked_for_no_answer(
    with_thought: float, without: float, rank: int, consistent: bool, undecided: bool, asked: int
) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if "prompt_logprobs" not in body:
            return Reply("5</answer>", choice={"stop_reason": "</answer>"})
        logprob = with_thought if "2 + 3 = 5" in body["messages"][-1]["content"] else without
        tokens = [("<answer>", 0.0, 1), ("5", logprob, rank), ("</answer>", 0.0, 1)]
        said = [None] + [
            {str(at): {"logprob": chance, "rank": place, "decoded_token": token}}
            for at, (token, chance, place) in enumerate(tokens)
        ]
        return Reply("x", body={"prompt_logprobs": said})

    async with OpenAIServer(reply) as server:
        engine = OpenAIEngine("tiny", Sampling(1.0, max_tokens=99), ModelOptions(base_url=(server.url,)))
        verdict = await verifier_of(engine).verify(judged("5"), ())
        await engine.close()
    assert (verdict.consistent, verdict.undecided, len(server.bodies)) == (consistent, undecided, asked)


async def test_a_server_that_cannot_go_on_says_so_in_a_sentence() -> None:
    refusal = Reply("Unrecognized request argument: continue_final_message", status=400)
    async with OpenAIServer(lambda body: refusal) as server:
        engine = OpenAIEngine("tiny", Sampling(), ModelOptions(base_url=(server.url,)))
        with pytest.raises(UserError, match="cannot go on from the first words"):
            await verifier_of(engine).verify(judged("5"), ())
        await engine.close()


@pytest.mark.parametrize("verifier", ["policy", "rules,policy", "rules, policy", " policy , rules "])
def test_the_policy_stays_for_a_verifier_that_asks_it_however_the_list_is_written(verifier: str) -> None:
    assert asks_sampled(Recipe(verifier=verifier))
    assert not asks_sampled(Recipe(verifier=verifier, verifier_model="another"))
    assert set(verifier_names(Recipe(verifier=verifier))) <= {"policy", "rules"}


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"verifier": "policy", "verifier_model": "another"}, HALF),
        ({"verifier": "rules,policy", "verifier_model": "another"}, HALF),
        ({"verifier": "policy", "verifier_model": "another", "gpu_memory_utilization": 0.3}, 0.3),
        ({"verifier": "policy", "verifier_model": "another", "ray": "local"}, None),
        ({"verifier": "policy"}, None),
        ({"verifier": "gemini", "verifier_model": "gemini-3.8-flash"}, None),
        ({}, None),
    ],
)
def test_two_models_share_a_gpu_where_another_checkpoint_verifies(
    settings: dict[str, Any], share: float | None
) -> None:
    assert sharing(Recipe(**settings)).gpu_memory_utilization == share
