"""The main job with a scripted policy: what comes out, what is re-used, what is left out and why."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from fakes.sums import dataset_bytes, picture, policy, recipe, respond, write_sums

from specs_data import build, load_run, make_recipe
from specs_data.build.run import forecast
from specs_data.engines.scripted import ScriptedEngine
from specs_data.errors import EngineFailed, PluginFailed, PromptRefused, Undecided, UserError
from specs_data.format import THINK_ANSWER
from specs_data.look.check import check
from specs_data.look.summary import summary
from specs_data.pairs.rows import to_row
from specs_data.plugins import find_corruptions
from specs_data.recipe import Recipe
from specs_data.records import Judged, Request, Response, Sampling, Verdict
from specs_data.rollouts.answers import Answers
from specs_data.rollouts.tables import digest


def rows_of(run: Path, split: str = "train") -> list[dict]:
    files = sorted((run / "dataset" / "data").glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def left_out(run: Path) -> Counter[tuple[str, str]]:
    lines = (run / "dropped.jsonl").read_text().splitlines()
    return Counter((row["stage"], row["reason"]) for row in map(json.loads, lines))


def test_pairs_are_right_and_differ_in_format_only(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 60, pictures=True)
    built = build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    rows = rows_of(tmp_path / "run")
    assert built.count == len(rows) >= 55
    for row in rows:
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert THINK_ANSWER.check(chosen) is None
        assert THINK_ANSWER.check(rejected) is not None
        assert THINK_ANSWER.content(chosen) == THINK_ANSWER.content(rejected)
        assert f"\\boxed{{{row['answer']}}}" in rejected
        assert row["images"][0]["bytes"].startswith(b"\x89PNG") and "/" not in row["images"][0]["path"]
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert row["rejected_from"] == "chosen" and row["verifier"] == "rules"
    assert {row["corruption"] for row in rows} == {
        "remove_all_tags", "remove_answer_tags", "remove_think_tags", "replace_answer_tags", "shift_tags",
    }  # fmt: skip


def test_the_next_response_is_asked_for_only_where_none_is_kept(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 60)
    engine = policy()
    built = build(recipe(problems, samples=8), tmp_path / "run", engine=engine, quiet=True)
    needed = sum(int(samples) * pairs for samples, pairs in built.manifest["samples_per_pair"].items())
    unsolved = 60 - built.count
    assert engine.calls == needed + 8 * unsolved == built.manifest["counts"]["sampled"]


def test_the_same_responses_give_the_same_bytes(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 40, pictures=True)
    for name, delay in (("a", 0.0), ("b", 0.001)):
        engine = policy(delay=delay, concurrency=7)
        build(recipe(problems, holdout=0.2), tmp_path / name, engine=engine, quiet=True)
    assert dataset_bytes(tmp_path / "a") == dataset_bytes(tmp_path / "b")


def test_a_second_run_generates_nothing(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 30)
    build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    first = dataset_bytes(tmp_path / "run")
    again = policy()
    build(recipe(problems), tmp_path / "run", engine=again, quiet=True)
    assert again.calls == 0
    assert dataset_bytes(tmp_path / "run") == first


def test_a_recipe_of_another_version_does_not_block_a_second_run(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 6)
    build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    kept = tmp_path / "run" / "recipe.toml"
    first = kept.read_text()
    kept.write_text(f"no_longer = 1\n{first}")
    again = policy()
    build(recipe(problems), tmp_path / "run", engine=again, quiet=True)
    assert again.calls == 0 and kept.read_text() == first


@pytest.mark.parametrize("change", [{"corruption": ["shift_tags"]}, {"verifier": "none"}, {"holdout": 0.3}])
def test_a_changed_corruption_or_verifier_generates_nothing(tmp_path: Path, change: dict) -> None:
    problems = write_sums(tmp_path, 30)
    build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    first = dataset_bytes(tmp_path / "run")
    again = policy()
    build(recipe(problems, **change), tmp_path / "run", engine=again, quiet=True)
    assert again.calls == 0
    assert dataset_bytes(tmp_path / "run") != first


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"system_prompt": "none"}, {"seed": 1}, {"max_tokens": 9}])
def test_a_changed_generation_setting_generates_anew(tmp_path: Path, change: dict) -> None:
    problems = write_sums(tmp_path, 10)
    build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    again = policy()
    build(recipe(problems, **change), tmp_path / "run", engine=again, quiet=True)
    assert again.calls >= 10


def test_target_stops_early_and_does_not_depend_on_timing(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 200)
    calls = []
    for name, options in (("a", {"concurrency": 3}), ("b", {"concurrency": 50, "delay": 0.001})):
        engine = policy(**options)
        built = build(recipe(problems, target=20), tmp_path / name, engine=engine, quiet=True)
        assert built.count == 20
        calls.append(engine.calls)
    assert (
        dataset_bytes(tmp_path / "a")["data/train-00000-of-00001.parquet"]
        == (dataset_bytes(tmp_path / "b")["data/train-00000-of-00001.parquet"])
    )


def test_several_pairs_per_problem(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 12)
    build(recipe(problems, pairs_per_problem=3, samples=16), tmp_path / "run", engine=policy(), quiet=True)
    counts = Counter(row["problem_id"] for row in rows_of(tmp_path / "run"))
    assert max(counts.values()) == 3 and sum(counts.values()) >= 30


def test_samples_upfront_choose_the_first_kept_response(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    build(recipe(problems), tmp_path / "one", engine=policy(), quiet=True)
    engine = policy()
    build(recipe(problems, samples_upfront=4), tmp_path / "four", engine=engine, quiet=True)
    assert engine.calls >= 80
    assert [row["id"] for row in rows_of(tmp_path / "one")] == [row["id"] for row in rows_of(tmp_path / "four")]


def test_a_refused_prompt_disturbs_no_other(tmp_path: Path) -> None:
    def script(request: Request) -> str:
        if "What is 3 " in request.messages[-1].content:
            raise PromptRefused("prompt too long", "9000 tokens")
        return respond(request)

    problems = write_sums(tmp_path, 20)
    engine = policy()
    engine._script = script
    built = build(recipe(problems, samples=16), tmp_path / "run", engine=engine, quiet=True)
    assert built.count == 19
    assert left_out(tmp_path / "run")["sample", "refused: prompt too long"] == 1


def test_nothing_is_asked_where_no_response_could_be_judged(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    rows = [
        {"id": "open", "question": "Why?", "answer": "It fell.", "answer_type": "open"},
        {"id": "choice", "question": "Which?", "answer": "purple", "choices": ["red", "blue"]},
        {"id": "sum", "question": "What is 3 + 1?", "answer": "4"},
    ]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked: set[str] = set()

    def script(request: Request) -> str:
        asked.add(request.messages[-1].content)
        return respond(request)

    engine = policy()
    engine._script = script
    build(recipe(problems), tmp_path / "run", engine=engine, quiet=True)
    assert asked == {"What is 3 + 1?"}
    reasons = left_out(tmp_path / "run")
    assert reasons["input", "cannot be judged: needs a judge model"] == 1
    assert reasons["input", "cannot be judged: gold is not a choice"] == 1


def test_a_target_that_is_not_reached_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(recipe(write_sums(tmp_path, 5), target=50, samples=16), tmp_path / "run", engine=policy())
    assert "5 of 50 pairs: no problem is left to ask about" in capsys.readouterr().err


def test_an_engine_that_refuses_everything_stops_the_build(tmp_path: Path) -> None:
    """What is wrong then is the run: once it is mended, the same command asks for all of it."""

    def script(request: Request) -> str:
        raise PromptRefused("prompt too long", "9000 tokens")

    problems = write_sums(tmp_path, 200)
    engine = policy()
    engine._script = script
    with pytest.raises(UserError, match=r"refuses every prompt, as with 'sum-63': prompt too long: 9000 tokens; "):
        build(recipe(problems), tmp_path / "run", engine=engine, quiet=True)
    built = build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    assert built.manifest["counts"]["problems"] == 200
    assert "sample" not in built.manifest["dropped"]


def test_few_problems_that_are_all_refused_are_asked_again(tmp_path: Path) -> None:
    def script(request: Request) -> str:
        raise PromptRefused("prompt too long", "9000 tokens")

    few = recipe(write_sums(tmp_path, 5))
    with pytest.raises(UserError, match="refuses every prompt, as with 'sum-4'"):
        build(few, tmp_path / "run", engine=ScriptedEngine(script), quiet=True)
    with pytest.raises(UserError, match="refuses every prompt"):
        forecast(few, tmp_path / "run", engine=ScriptedEngine(script), quiet=True)
    built = build(few, tmp_path / "run", engine=ScriptedEngine(respond), quiet=True)
    assert built.manifest["counts"]["sampled"] >= 5 and "sample" not in built.manifest["dropped"]


def test_what_an_engine_gave_up_is_asked_again_by_the_next_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def script(request: Request) -> str:
        asked.append(request.messages[-1].content)
        if "What is 3 " in asked[-1] and not healthy:
            raise Undecided("given up", "3 attempts failed: out of memory")
        return right(request)

    def right(request: Request) -> str:
        number = int(request.messages[-1].content.split()[2]) + 1
        return f"<think>One more is {number}.</think>\n<answer>\\boxed{{{number}}}</answer>"

    healthy, few = False, recipe(write_sums(tmp_path, 10))
    built = build(few, tmp_path / "run", engine=ScriptedEngine(script), quiet=True)
    assert built.count == 9
    assert left_out(tmp_path / "run")["sample", "undecided: given up"] == 1
    assert "'sum-3' is left out until the next run: 3 attempts failed: out of memory" in caplog.text
    asked.clear()
    healthy = True
    assert build(few, tmp_path / "run", engine=ScriptedEngine(script), quiet=True).count == 10
    assert len(asked) == 1
    assert not left_out(tmp_path / "run")["sample", "undecided: given up"]


def test_what_a_run_before_left_out_of_a_later_stage_is_not_left_out_again(tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(
        '"""Take a tag away, but not from every text."""\n\n'
        "def picky(text, fmt, rng):\n"
        "    return None if '99' in text else text.replace('<think>', '')\n"
    )
    problems = write_sums(tmp_path, 10)
    thoughts = "One looks. So the answer is 99.", "One looks. So the answer is {}."
    given = write_responses(tmp_path, [f"<think>{each}</think>\n<answer>{{}}</answer>" for each in thoughts])
    picky = recipe(problems, responses=given, verifier="none", corruption={str(tmp_path / "picky.py"): 1.0})
    verified = picky.model_copy(update={"verifier": "rules"})
    _, _, reasons = found = figures_after(tmp_path / "twice", picky, verified)
    assert found == figures_after(tmp_path / "once", verified)
    assert reasons == {("verify", "inconsistent"): 10}


def test_a_response_that_a_run_before_verified_counts_only_if_it_is_well_formed_now(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 10)
    given = write_responses(tmp_path, [f"<think>So it is.</think>{gap}<answer>{{}}</answer>" for gap in " \n"])
    (tmp_path / "lines.toml").write_text(
        'name = "lines"\ninstruction = "think-answer"\n'
        '[thought]\nopen = "<think>"\nclose = "</think>\\n"\n[answer]\nopen = "<answer>"\nclose = "</answer>"\n'
    )
    tags = recipe(problems, responses=given, verifier="none")
    lines = tags.model_copy(update={"format": str(tmp_path / "lines.toml")})
    counts, *_ = found = figures_after(tmp_path / "twice", tags, lines)
    assert found == figures_after(tmp_path / "once", lines)
    assert counts["well_formed"] == counts["verified"] == 10
    card = (tmp_path / "once/dataset/README.md").read_text()
    assert "the responses were given" in card and "at temperature" not in card


def write_responses(folder: Path, templates: list[str]) -> str:
    """responses.jsonl with the right answers to ten sums, each in these words."""
    rows = [
        {"problem_id": f"sum-{number}", "response": template.replace("{}", str(number + 1))}
        for number in range(10)
        for template in templates
    ]
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "responses.jsonl")


def figures_after(out: Path, *recipes: Recipe) -> tuple[dict[str, int], object, object]:
    """What the last of these builds in one folder says."""
    for each in recipes:
        built = build(each, out, quiet=True)
    return built.manifest["counts"], built.manifest["dropped"], left_out(out)


def test_a_card_that_is_not_there_stops_the_build_before_it_costs_anything(tmp_path: Path) -> None:
    engine = policy()
    with pytest.raises(UserError, match="no readable file 'nothing'"):
        build(recipe(write_sums(tmp_path, 5), card="nothing"), tmp_path / "run", engine=engine, quiet=True)
    assert engine.calls == 0


def test_a_card_that_cannot_be_rendered_leaves_the_last_build_whole(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    build(recipe(problems, samples=16), tmp_path / "run", engine=policy(), quiet=True)
    before = {
        name: (tmp_path / "run" / name).read_bytes() for name in ("recipe.toml", "manifest.json", "dropped.jsonl")
    }
    (tmp_path / "bad.md").write_text("{{ nothing.of.this }}")
    with pytest.raises(UserError, match="cannot be rendered"):
        broken = recipe(problems, samples=16, target=3, card=str(tmp_path / "bad.md"))
        build(broken, tmp_path / "run", engine=policy(), quiet=True)
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}


def test_a_dataset_that_is_built_again_is_not_taken_from_the_cache(tmp_path: Path) -> None:
    from datasets import load_dataset

    problems = write_sums(tmp_path, 20)
    for target in (9, 4):
        build(recipe(problems, target=target), tmp_path / "run", engine=policy(), quiet=True)
        rows = load_dataset(str(tmp_path / "run/dataset"), split="train", cache_dir=str(tmp_path / "cache"))
        assert len(rows) == target


def test_an_engine_that_breaks_down_loses_nothing(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 40)
    engine = policy(concurrency=4)

    def script(request: Request) -> str:
        if engine.calls > 20:
            raise EngineFailed("the engine died")
        return respond(request)

    engine._script = script
    with pytest.raises(EngineFailed, match="the engine died"):
        build(recipe(problems), tmp_path / "run", engine=engine, quiet=True)
    again, whole = policy(), policy()
    build(recipe(problems), tmp_path / "run", engine=again, quiet=True)
    build(recipe(problems), tmp_path / "whole", engine=whole, quiet=True)
    assert again.calls + 20 == whole.calls
    assert dataset_bytes(tmp_path / "run") == dataset_bytes(tmp_path / "whole")


class Moody:
    """A verifier that fails on the first run and answers on the second."""

    concurrency = 8
    paid = True
    settings = {"verifier": "moody", "model": "moody-1"}

    def __init__(self, failing: bool) -> None:
        self.failing = failing
        self.calls = 0

    async def verify(self, judged: Judged, images: object) -> Verdict:
        self.calls += 1
        if self.failing and judged.sample.problem.id.endswith("7"):
            raise Undecided("timeout")
        return Verdict(True, "fine", model="moody-1", served="moody-1", prompt_tokens=10, completion_tokens=2)

    async def close(self) -> None:
        pass


def test_an_undecided_verdict_is_no_verdict_and_is_asked_again(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    settings = recipe(problems, samples=2)
    first, second = Moody(failing=True), Moody(failing=False)
    build(settings, tmp_path / "run", engine=policy(), verifier=first, quiet=True)
    assert not any(row["problem_id"].endswith("7") for row in rows_of(tmp_path / "run"))
    undecided = left_out(tmp_path / "run")["verify", "undecided: timeout"]
    assert undecided > 0
    built = build(settings, tmp_path / "run", engine=policy(), verifier=second, quiet=True)
    assert 0 < second.calls <= undecided
    assert left_out(tmp_path / "run")["verify", "undecided: timeout"] == 0
    assert built.manifest["models"]["verifier"] == {"requested": "moody-1", "served": {"moody-1": built.count}}


class Slow(Moody):
    """A verifier that answers nothing before the policy has been asked for every problem's first response."""

    concurrency = 1000

    def __init__(self, engine: ScriptedEngine, problems: int) -> None:
        super().__init__(failing=False)
        self.engine = engine
        self.problems = problems

    async def verify(self, judged: Judged, images: object) -> Verdict:
        while self.engine.calls < self.problems:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return await super().verify(judged, images)


def test_the_model_goes_on_while_verdicts_are_waited_for(tmp_path: Path) -> None:
    engine = policy(concurrency=4)
    settings = recipe(write_sums(tmp_path, 800), samples=1)
    built = build(settings, tmp_path / "run", engine=engine, verifier=Slow(engine, 800), quiet=True)
    assert engine.calls == 800 and built.count > 300


def test_a_shared_cache_of_verdicts_pays_nothing_twice(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    first, second = Moody(failing=False), Moody(failing=False)
    for name, verifier in (("a", first), ("b", second)):
        settings = recipe(problems, cache=tmp_path / "cache")
        build(settings, tmp_path / name, engine=policy(), verifier=verifier, quiet=True)
    assert first.calls > 0 and second.calls == 0
    assert (
        dataset_bytes(tmp_path / "a")["data/train-00000-of-00001.parquet"]
        == (dataset_bytes(tmp_path / "b")["data/train-00000-of-00001.parquet"])
    )


class ByType(Moody):
    """A verifier that goes by the type of the answer."""

    async def verify(self, judged: Judged, images: object) -> Verdict:
        self.calls += 1
        kind = judged.sample.problem.answer_type
        return Verdict(kind == "numeric", kind, model="moody-1", served="moody-1")


def with_types(folder: Path, *kinds: str) -> Path:
    """One problem again and again, with these types of its answer."""
    folder.mkdir()
    file = folder / "problems.jsonl"
    rows = [{"id": kind, "question": "What is 6 + 1?", "answer": "7", "answer_type": kind} for kind in kinds]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_verdict_is_shared_only_where_the_answers_type_is_the_same(tmp_path: Path) -> None:
    same = ScriptedEngine(lambda request: "<think>Six and one are seven.</think>\n<answer>\\boxed{7}</answer>")
    once = ByType(failing=False)
    settings = recipe(with_types(tmp_path / "both", "numeric", "math"), samples=1, cache=tmp_path / "cache")
    build(settings, tmp_path / "a", engine=same, verifier=once, quiet=True)
    assert [row["problem_id"] for row in rows_of(tmp_path / "a")] == ["numeric"] and once.calls == 2
    again = ByType(failing=False)
    corrected = recipe(with_types(tmp_path / "one", "math"), samples=1, cache=tmp_path / "cache")
    build(corrected, tmp_path / "b", engine=same, verifier=again, quiet=True)
    assert not (tmp_path / "b" / "dataset").exists() and again.calls == 0


def test_a_verdict_that_an_earlier_release_kept_is_not_paid_for_again(tmp_path: Path) -> None:
    text = "<think>Six and one are seven.</think>\n<answer>\\boxed{7}</answer>"
    answers = Answers(tmp_path / "answers.sqlite")
    answers.put(digest((Moody.settings, "What is 6 + 1?", (), (), text)), Verdict(True, "of before", model="moody-1"))
    answers.close()
    verifier = Moody(failing=False)
    settings = recipe(with_types(tmp_path / "one", "numeric"), samples=1, cache=tmp_path)
    build(settings, tmp_path / "run", engine=ScriptedEngine(lambda request: text), verifier=verifier, quiet=True)
    assert len(rows_of(tmp_path / "run")) == 1 and verifier.calls == 0


def test_bad_rows_are_counted_with_their_reason(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 5)
    lines = problems.read_text().splitlines()
    lines += [
        "{not json",
        "[1]",
        json.dumps({"id": "a", "question": "q", "answer": None}),
        json.dumps({"id": "b", "question": " ", "answer": "1"}),
        json.dumps({"id": "c", "question": "q", "answer": "1", "images": ["missing.png"]}),
        json.dumps({"id": "d", "question": "q", "answer": "1", "images": ["problems.jsonl"]}),
        json.dumps({"id": "sum-1", "question": "another with this id", "answer": "1"}),
        lines[0],
    ]
    problems.write_text("\n".join(lines) + "\n")
    built = build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    assert built.manifest["counts"]["problems"] == 5
    assert {reason: count for (stage, reason), count in left_out(tmp_path / "run").items() if stage == "input"} == {
        "not JSON": 1,
        "not a JSON object": 1,
        "no answer": 1,
        "no question": 1,
        "image not found": 1,
        "image not an image": 1,
        "duplicate": 2,
    }


def test_everything_left_out_is_on_record(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 40)
    built = build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    counts, reasons = built.manifest["counts"], left_out(tmp_path / "run")
    assert counts["sampled"] - counts["right"] == reasons["judge", "wrong answer"] > 0
    malformed = sum(count for (stage, _), count in reasons.items() if stage == "format")
    assert counts["right"] - counts["well_formed"] == malformed > 0
    assert {stage: sum(by.values()) for stage, by in built.manifest["dropped"].items()} == {
        stage: sum(count for (s, _), count in reasons.items() if s == stage) for stage, _ in reasons
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target": 7},
        {"target": 7, "samples_upfront": 5, "pairs_per_problem": 2},
        {"pairing": "coupled", "samples": 3},
        {"pairing": "coupled", "samples": 5, "target": 4, "samples_upfront": 3},
        {"rejected_from": "base-model", "policy": "zero-model", "samples": 2, "pairs_per_problem": 2},
    ],
)
def test_every_response_is_in_the_dataset_or_on_record(tmp_path: Path, settings: dict) -> None:
    problems = write_sums(tmp_path, 30)
    chosen = recipe(problems, **settings)
    built = build(chosen, tmp_path / "run", engine=policy(), rival=policy(), quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "dropped.jsonl").read_text().splitlines()]
    if "policy" in settings:  # the rival's own
        lines = [line for line in lines if line["stage"] != "rejected" or line["reason"] == "no rejected response"]
    named = [(line["problem_id"], line["index"]) for line in lines if line["stage"] != "corruption"]
    kept = [tuple(row["id"].rsplit("-", 1)) for row in rows_of(tmp_path / "run")]
    assert len(named) == len(set(named))
    assert not {(problem, str(index)) for problem, index in named} & set(kept)
    assert len(named) + len(kept) == built.manifest["counts"]["sampled"]
    reasons = left_out(tmp_path / "run")
    assert not reasons["pair", "beyond target"] or "target" in settings
    if settings.get("samples") == 3:
        assert reasons["rejected", "no rejected response"] > 0


def test_a_lower_target_says_which_pairs_are_beyond_it(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 20)
    pairs = build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True).count
    build(recipe(problems, target=5), tmp_path / "run", engine=policy(), quiet=True)
    assert left_out(tmp_path / "run")["pair", "beyond target"] <= pairs - 5
    build(recipe(problems, target=5, samples_upfront=8), tmp_path / "up", engine=policy(), quiet=True)
    assert left_out(tmp_path / "up")["pair", "not needed"] > 0


def test_responses_that_exist_already(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 3)
    good = THINK_ANSWER.render("0 + 1 = 1.", r"\boxed{1}")
    responses = [
        {"problem_id": "sum-0", "response": "no idea"},
        {"problem_id": "sum-0", "response": good},
        {"problem_id": "sum-1", "response": good},
        {"problem_id": "elsewhere", "response": good},
        {"problem_id": "sum-2"},
    ]
    file = tmp_path / "responses.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in responses))
    build(recipe(problems, responses=file), tmp_path / "run", quiet=True)
    assert [row["id"] for row in rows_of(tmp_path / "run")] == ["sum-0-1"]
    reasons = left_out(tmp_path / "run")
    assert reasons["responses", "unknown problem_id"] == reasons["responses", "not a problem_id and a response"] == 1
    assert reasons["judge", "wrong answer"] == 2
    assert reasons["responses", "no response"] == 1


def test_responses_that_were_not_needed_are_on_record(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 1)
    file = tmp_path / "responses.jsonl"
    good = {"problem_id": "sum-0", "response": THINK_ANSWER.render("0 + 1 = 1.", r"\boxed{1}")}
    file.write_text((json.dumps(good) + "\n") * 3)
    assert build(recipe(problems, responses=file), tmp_path / "run", quiet=True).count == 1
    assert left_out(tmp_path / "run") == {("responses", "not needed"): 2}


def test_a_stop_token_of_a_response_does_not_reach_the_rows(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 6)
    file = tmp_path / "responses.jsonl"
    texts = {n: THINK_ANSWER.render(f"{n} + 1 = {n + 1}.", f"\\boxed{{{n + 1}}}") for n in range(6)}
    rows = [{"problem_id": f"sum-{n}", "response": f"{text}<|im_end|>\n<|im_end|>"} for n, text in texts.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    built = build(recipe(problems, responses=file), tmp_path / "run", quiet=True)
    assert [row["chosen"][0]["content"] for row in rows_of(tmp_path / "run")] == list(texts.values())
    assert not any("<|im_end|>" in row["rejected"][0]["content"] for row in rows_of(tmp_path / "run"))
    assert built.manifest["lengths"]["chosen"]["max"] == max(map(len, texts.values()))
    assert check(tmp_path / "run").ok


def test_a_dataset_is_checked_by_the_format_it_was_built_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever, and whatever became of the format's file."""
    monkeypatch.chdir(tmp_path)
    mine = 'name = "mine"\ninstruction = "-"\n[thought]\nopen = "<a>"\nclose = "</a>"\n[answer]\nopen = "<b>"\n'
    Path("mine.toml").write_text(mine + 'close = "</b>"\n')
    problems = write_sums(tmp_path, 3)
    rows = [{"problem_id": f"sum-{n}", "response": f"<a>{n} + 1 = {n + 1}.</a><b>{n + 1}</b>"} for n in range(3)]
    Path("responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    built = build(recipe(problems, responses=Path("responses.jsonl"), format="mine.toml"), tmp_path / "run", quiet=True)
    assert built.count == 3
    Path("mine.toml").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for place in ("", "dataset", "dataset/data", "dataset/data/train-00000-of-00001.parquet"):
        result = check(tmp_path / "run" / place)
        assert result.ok and "'mine'" in str(result)


def test_rejected_from_another_policy(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 40)

    def base(request: Request) -> str:
        number = int(request.messages[-1].content.split()[2])
        if request.seed % 3 == 0:
            return THINK_ANSWER.render(f"I count {number + 1}.", f"\\boxed{{{number + 1}}}")
        return f"I count {number + 1 + request.seed % 3 - 1}. \\boxed{{{number + 1 + request.seed % 3 - 1}}}"

    rival = policy()
    rival._script = base
    settings = recipe(problems, rejected_from="base-model", policy="zero-model", samples=16)
    build(settings, tmp_path / "run", engine=policy(), rival=rival, quiet=True)
    rows = rows_of(tmp_path / "run")
    assert len(rows) >= 35
    for row in rows:
        rejected = row["rejected"][0]["content"]
        assert row["rejected_from"] == "base-model" and row["policy"] == "zero-model"
        assert THINK_ANSWER.check(rejected) is not None
        assert (
            f"I count {row['answer']}." in THINK_ANSWER.content(rejected) and f"\\boxed{{{row['answer']}}}" in rejected
        )
    assert {row["corruption"] is None for row in rows} == {True, False}
    asked = rival.calls - len(rows)
    assert left_out(tmp_path / "run")["rejected", "wrong answer"] == asked > 0


def test_problems_that_are_gone_through_again_are_each_asked_once(tmp_path: Path) -> None:
    """Where a target is missed for want of rejected sides, the search begins anew, with problems that were read already
    and not yet handed out."""
    asked = []

    def script(request: Request) -> str:
        asked.append((request.messages[-1].content, request.seed))
        return respond(request)

    settings = recipe(write_sums(tmp_path, 40), pairing="coupled", target=12, samples=3)
    engine = ScriptedEngine(script, concurrency=4, delay=0.001)
    assert build(settings, tmp_path / "run", engine=engine, quiet=True).count > 0
    assert len(asked) == len(set(asked)) > 40


def test_manifest_and_card_say_what_the_dataset_is(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 12, pictures=True)
    counted = ScriptedEngine(lambda request: Response(respond(request), "stop", 70, 20))
    built = build(recipe(problems, samples=16), tmp_path / "run", engine=counted, quiet=True)
    manifest = built.manifest
    assert manifest.sides is not None and manifest.languages == {"en": 12}
    assert (manifest.sides.pairs, manifest.sides.same, manifest.sides.origins) == (12, 12, {"chosen": 12})
    assert 1 <= manifest.sides.distance.min <= manifest.sides.distance.max <= 5
    tokens = {part: length.max for part, length in (manifest.token_lengths or {}).items()}
    assert tokens == {"prompt": 70, "chosen": 20, "both": 90}
    dataset = tmp_path / "run" / "dataset"
    card = (dataset / "README.md").read_text()
    assert "Twins" in card and "](pair.png)" in card and "](recipe.toml)" in card
    (first, *_) = built.pairs()
    assert (dataset / "pair.png").read_bytes() == first.images[0].content
    assert str(tmp_path) not in (dataset / "recipe.toml").read_text()
    assert make_recipe({}, dataset / "recipe.toml").pairing == "decoupled"


def write_given(file: Path, texts: dict[str, str]) -> Path:
    file.write_text("".join(json.dumps({"problem_id": name, "response": text}) + "\n" for name, text in texts.items()))
    return file


def test_both_sides_from_files_need_no_model(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 30)
    answers = {f"sum-{number}": f"\\boxed{{{number + 1}}}" for number in range(30)}
    right = {name: THINK_ANSWER.render(f"It is {name}. {box}", box) for name, box in answers.items()}
    # Malformed, with tags that an operator can take away.
    malformed = {name: f"Well. <think>I count {box}.</think>\n<answer>{box}</answer>" for name, box in answers.items()}
    files = {
        "responses": write_given(tmp_path / "zero.jsonl", right),
        "rejected_responses": write_given(tmp_path / "base.jsonl", {**malformed, "nobody": "x"}),
    }
    built = build(recipe(problems, **files), tmp_path / "run", quiet=True)
    rows = rows_of(tmp_path / "run")
    assert built.count == 30 and check(tmp_path / "run").ok
    assert {(row["policy"], row["rejected_from"]) for row in rows} == {("zero", "base")}
    assert len({row["corruption"] for row in rows} - {None}) == 5
    assert left_out(tmp_path / "run")["rejected", "unknown problem_id"] == 1
    build(recipe(problems, **files, natural_rejected=True), tmp_path / "run", quiet=True)
    rows = rows_of(tmp_path / "run")
    assert {row["corruption"] for row in rows} == {None}
    assert {row["rejected"][0]["content"] for row in rows} == set(malformed.values())


def test_a_rejected_side_has_one_source(tmp_path: Path) -> None:
    both = {"rejected_from": "base-model", "rejected_responses": Path("base.jsonl")}
    with pytest.raises(UserError, match="give one"):
        build(recipe(write_sums(tmp_path, 2), **both), tmp_path / "run", engine=policy(), quiet=True)


def test_coupled_pairs_have_a_wrong_rejected_side(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 40)
    build(recipe(problems, pairing="coupled", samples=16), tmp_path / "run", engine=policy(), quiet=True)
    rows = rows_of(tmp_path / "run")
    assert len(rows) >= 35
    for row in rows:
        rejected = row["rejected"][0]["content"]
        assert THINK_ANSWER.check(rejected) is not None
        assert f"\\boxed{{{row['answer']}}}" not in rejected


def test_holdout_keeps_pictures_apart(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 80, pictures=True)
    build(recipe(problems, holdout=0.25, samples=16), tmp_path / "run", engine=policy(), quiet=True)
    train, test = rows_of(tmp_path / "run"), rows_of(tmp_path / "run", "test")
    assert 16 <= len(test) <= 20 and len(train) + len(test) >= 75
    assert not {row["images"][0]["path"] for row in train} & {row["images"][0]["path"] for row in test}


@pytest.mark.parametrize(("count", "holdout", "test"), [(1, 0.5, 0), (2, 0.9, 1), (6, 0.99, 5)])
def test_holdout_leaves_something_to_train_on(tmp_path: Path, count: int, holdout: float, test: int) -> None:
    problems = write_sums(tmp_path, count)
    built = build(recipe(problems, holdout=holdout, samples=32), tmp_path / "run", engine=policy(), quiet=True)
    assert built.count == count
    assert (len(rows_of(tmp_path / "run")), len(rows_of(tmp_path / "run", "test"))) == (count - test, test)


def test_a_holdout_that_cannot_be_made_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    problems = write_sums(tmp_path, 2, pictures=True)  # of one picture
    built = build(recipe(problems, holdout=0.5, samples=32), tmp_path / "run", engine=policy())
    assert list(built.manifest["dataset"]["splits"]) == ["train"]
    assert "no test split" in capfd.readouterr().err


def test_a_rebuild_without_pairs_leaves_no_dataset(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 4)
    assert build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True).count
    operator = tmp_path / "idle.py"
    operator.write_text("def idle(text, fmt, rng):\n    return None\n")
    idle = recipe(problems, corruption=[str(operator)])
    built = build(idle, tmp_path / "run", engine=policy(), quiet=True, overwrite=True)
    assert built.count == 0 and not list(built.pairs())
    assert not list((tmp_path / "run").glob("dataset*"))
    with pytest.raises(UserError, match="this run has no dataset"):
        check(tmp_path / "run")


def test_an_operator_in_a_file(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 10)
    operator = tmp_path / "shout.py"
    operator.write_text("def shout(text, fmt, rng):\n    return text.replace('<answer>', '<ANSWER>')\n")
    built = build(recipe(problems, corruption=[str(operator)]), tmp_path / "run", engine=policy(), quiet=True)
    # <ANSWER> is no tag of the format, so it counts as content: every result is refused.
    assert built.count == 0
    assert left_out(tmp_path / "run")["corruption", "shout: content changed"] > 0
    operator.write_text("def shout(text, fmt, rng):\n    return text.replace('</answer>', '')\n")
    built = build(recipe(problems, corruption=[str(operator)]), tmp_path / "run", engine=policy(), quiet=True)
    assert built.count >= 9 and set(built.manifest["corruptions"]) == {"shout"}


@pytest.mark.parametrize(
    ("layout", "operator"),
    [
        ('layout = "json"\n[thought]\nopen = "why"\n[answer]\nopen = "answer"', "shift_tags"),
        ('[answer]\nopen = "<a>"\nclose = "</a>"', "remove_think_tags"),
    ],
)
def test_no_token_is_spent_where_no_operator_can_apply(tmp_path: Path, layout: str, operator: str) -> None:
    (tmp_path / "mine.toml").write_text(f'name = "mine"\ninstruction = "Answer."\n{layout}\n')
    settings = {"format": str(tmp_path / "mine.toml"), "corruption": {operator: 1.0}}
    engine = policy()
    with pytest.raises(UserError, match=f"^{operator}: none applies to responses in the format 'mine'"):
        build(recipe(write_sums(tmp_path, 3), **settings), tmp_path / "run", engine=engine, quiet=True)
    assert engine.calls == 0


def test_a_json_format_is_taught_by_operators_of_its_own(tmp_path: Path) -> None:
    fmt = tmp_path / "mine.toml"
    fmt.write_text(
        'name = "mine"\ninstruction = "-"\nlayout = "json"\n[thought]\nopen = "why"\n[answer]\nopen = "result"\n'
    )
    bodies = [json.dumps({"why": f"It's {n} + 1.", "result": f"\\boxed{{{n + 1}}}"}) for n in range(40)]
    file = tmp_path / "responses.jsonl"
    rows = [{"problem_id": f"sum-{n}", "response": body} for n, body in enumerate(bodies)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"responses": file, "format": str(fmt), "verifier": "none"}
    assert build(recipe(write_sums(tmp_path, 40), **settings), tmp_path / "run", quiet=True).count == 40
    assert {row["corruption"] for row in rows_of(tmp_path / "run")} == set(find_corruptions(drawn="json"))
    assert check(tmp_path / "run").ok


def test_an_operator_that_crashes_is_named(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 10)
    operator = tmp_path / "crash.py"
    operator.write_text("def crash(text, fmt, rng):\n    return 1 / 0\n")
    with pytest.raises(PluginFailed, match="'crash'.*ZeroDivisionError"):
        build(recipe(problems, corruption=[str(operator)]), tmp_path / "run", engine=policy(), quiet=True)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    problems = write_sums(tmp_path, 2)
    with pytest.raises(UserError, match="--problems"):
        build(recipe(problems).model_copy(update={"problems": None}), tmp_path / "run", engine=policy())
    with pytest.raises(UserError, match="--policy"):
        build(recipe(problems), tmp_path / "run")
    with pytest.raises(UserError, match="--verifier rules"):
        build(recipe(problems).model_copy(update={"verifier": None}), tmp_path / "run", engine=policy())


async def test_a_build_inside_a_running_loop_as_in_a_notebook(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 10)
    there = build(recipe(problems), tmp_path / "there", engine=policy(), quiet=True)
    alone = await asyncio.to_thread(build, recipe(problems), tmp_path / "alone", engine=policy(), quiet=True)
    assert there.count and dataset_bytes(there.out) == dataset_bytes(alone.out)
    with pytest.raises(UserError, match="no problems"):
        build(Recipe(), tmp_path / "none", engine=policy(), quiet=True)
    with pytest.raises(EngineFailed, match="broken"):
        build(recipe(problems), tmp_path / "broken", engine=ScriptedEngine(broken), quiet=True)


def broken(request: Request) -> str:
    """A script of an engine that breaks down."""
    raise EngineFailed("broken")


def test_two_builds_in_one_folder_are_refused(tmp_path: Path) -> None:
    from specs_data.rollouts.store import Store

    problems = write_sums(tmp_path, 2)
    with Store(tmp_path / "run" / "store.sqlite"), pytest.raises(UserError, match="another build"):
        build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 2)
    (tmp_path / "run" / "dataset").mkdir(parents=True)
    with pytest.raises(UserError, match="did not build"):
        build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)


def test_load_run(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 10)
    built = build(recipe(problems), tmp_path / "run", engine=policy(), quiet=True)
    run = load_run(tmp_path / "run")
    assert run.manifest == built.manifest
    assert list(map(to_row, run.pairs())) == rows_of(run.out) and len(rows_of(run.out)) == run.count > 0
    assert run.recipe.problems == str(problems)


def test_the_policy_makes_way_for_its_rival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models seldom fit on one GPU: the first is closed before the second opens."""
    events: list[str] = []

    class Loud(ScriptedEngine):
        async def close(self) -> None:
            events.append("closed")

    async def opened(settings: Recipe, sampling: Sampling) -> Loud:
        events.append(f"opened {settings.policy}")
        return Loud(respond)

    monkeypatch.setattr("specs_data.engines.open_engine", opened)
    settings = recipe(write_sums(tmp_path, 10), policy="zero", rejected_from="base", engine="openai", samples=4)
    built = build(settings, tmp_path / "run", quiet=True)
    assert built.count > 0
    assert events == ["opened zero", "closed", "opened base", "closed"]
    events.clear()
    build(settings, tmp_path / "run", quiet=True)
    assert events == []  # nothing to generate, so no model is loaded


def test_the_closing_table_adds_up(tmp_path: Path) -> None:
    built = build(recipe(write_sums(tmp_path, 5)), tmp_path / "run", engine=policy(), quiet=True)
    many = {"input": {f"reason {number}": 10 for number in range(8)}}
    lines = summary(msgspec.structs.replace(built.manifest, dropped=many)).splitlines()
    assert sum(line.startswith("left out, input: reason") for line in lines) == 5
    assert any(
        line.split() == ["left", "out,", "input:", "3", "other", "reasons,", "in", "dropped.jsonl", "30"]
        for line in lines
    )


def test_what_no_service_takes_is_left_out_before_a_token_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures of a problem are more than a request to the verifier has room for."""

    class Service(Moody):
        settings = {"service": "gemini", "model": "moody-1"}

    problems = write_sums(tmp_path, 6, pictures=True)
    monkeypatch.setattr(sys.modules["specs_data.build.listing"], "MAX_IMAGE_BYTES", 2 * len(picture(0)))
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    rows[2]["images"] *= 4
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked: list[int] = []

    def counting(request: Request) -> str:
        asked.append(len(request.images))
        return respond(request)

    built = build(recipe(problems), tmp_path / "own", engine=ScriptedEngine(counting), quiet=True)
    assert "input" not in built.manifest["dropped"] and max(asked) == 4  # nobody asks a service
    asked.clear()
    verifier = Service(failing=False)
    built = build(recipe(problems), tmp_path / "run", engine=ScriptedEngine(counting), verifier=verifier, quiet=True)
    assert built.manifest["dropped"]["input"] == {"images too large for the service that judges": 1}
    assert max(asked) == 1


@pytest.mark.parametrize("settings", [{}, {"pairing": "coupled"}, {"rejected_from": "base"}])
def test_a_setting_for_rivals_is_told_where_there_is_none(tmp_path: Path, settings: dict[str, str]) -> None:
    wanted = recipe(write_sums(tmp_path, 8), natural_rejected=True, **settings)
    build(wanted, tmp_path / "run", engine=policy(), rival=policy(), quiet=True)
    assert ("--natural-rejected has no effect" in (tmp_path / "run" / "run.log").read_text()) is (not settings)
