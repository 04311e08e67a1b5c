"""GRPO: its reward, its rounds, when it stops."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from fakes.train_world import NANO, nano_checkpoint, problem_file

from specs_data.engines.checkpoint import load_model, load_processor
from specs_data.errors import UserError
from specs_data.format import THINK_ANSWER
from specs_data.judges.rules import RuleJudge
from specs_data.mini import checkpoint
from specs_data.recipe import read_settings
from specs_data.records import AnswerType, Problem
from specs_data.train import grpo, run
from specs_data.train.grpo import once_each, train_grpo
from specs_data.train.report import read_metrics
from specs_data.train.rewards import judge_with, reward_function
from specs_data.train.settings import ROUNDS_AVERAGED, GrpoSettings

pytest.importorskip("trl")

SMALL: dict[str, Any] = {"batch": 8, "rollout_batch": 2, "rollouts": 4, "micro_batch": 4, "max_tokens": 8,
                         "accuracy_window": (0.0, 1.0), **NANO}  # fmt: skip


def rewards(
    responses: Sequence[str], gold: str, answer_type: AnswerType = "numeric", model: Any = None, opened: str = ""
) -> tuple[list[float | None], dict[str, float]]:
    """The rewards as TRL asks for them, and the metrics logged."""
    problem = msgspec.json.encode(Problem("p", "How many?", gold, answer_type)).decode()
    logged: dict[str, float] = {}
    with RuleJudge() as rules:
        function = reward_function(THINK_ANSWER, judge_with(rules, model, THINK_ANSWER), opened=opened)
        found = asyncio.run(
            function(
                prompts=[],
                completions=[[{"role": "assistant", "content": text}] for text in responses],
                completion_ids=[],
                problem=[problem] * len(responses),
                images=[[]] * len(responses),
                log_metric=logged.__setitem__,
                log_extra=lambda name, values: None,
            )
        )
    return found, logged


def test_the_reward_is_half_for_format_and_one_for_accuracy() -> None:
    table = {
        "<think>2 + 3 = 5.</think>\n<answer>\\boxed{5}</answer>": 1.5,
        "<think>2 + 3 = 5.</think>\n<answer>\\boxed{6}</answer>": 0.5,
        "2 + 3 = 5. The answer is \\boxed{5}.": 1.0,
        "<answer>5</answer>": 1.0,
        "The answer is \\boxed{6}.": 0.0,
        "<think>2 + 3 = 5.</think>\n<answer>\\boxed{5}</answer> and so on": 1.0,
        "": 0.0,
    }
    found, logged = rewards(list(table), gold="5")
    assert found == list(table.values())
    assert logged == {"format": 2 / 7, "accuracy": 4 / 7}


def test_a_thought_that_the_template_opens_belongs_to_the_response() -> None:
    found, logged = rewards(["2 + 3 = 5.</think>\n<answer>5</answer>", "<answer>5</answer>"], "5", opened="<think>\n")
    assert found == [1.5, 1.0] and logged["format"] == 0.5


def test_what_cannot_be_judged_is_left_out_not_wrong() -> None:
    for gold in ("", "\\sqrt{x^2+1"):
        found, logged = rewards(["<think>a</think><answer>\\sqrt{5}</answer>"], gold, "math")
        assert found == [None] and logged == {"format": 1.0}


@pytest.mark.parametrize("gold", ["5", "\\frac{1}{\\sqrt{2}}", "3x-y+13=0"])
def test_an_answer_that_is_too_much_to_judge_is_wrong(gold: str) -> None:
    nested = "\\sqrt{" * 60 + "2" + "}" * 60
    answers = ("10^{10^{10}}", "7" * 6000, f"{nested}={nested}", "(x+y+z)^{900}=(x+y)^{800}*(x-z)^{700}")
    texts = [f"<think>a</think>\n<answer>{answer}</answer>" for answer in answers]
    assert rewards([*texts, f"so \\boxed{{{answers[0]}}}"], gold, "math") == (
        [0.5, 0.5, 0.5, 0.5, 0.0],
        {"format": 0.8, "accuracy": 0.0},
    )


class ScriptedJudge:
    """A judge model that is slow, sees at most `concurrency` at once, and fails when told to."""

    concurrency = 2

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    async def judge(self, problem: Problem, answer: str, images: Sequence[bytes]) -> Any:
        from specs_data.errors import Undecided
        from specs_data.records import Judgement

        self.asked.append(answer)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        if answer == "out":
            raise Undecided("the service is down")
        return Judgement(answer == "a cat", "model", answer)


def test_open_ended_answers_go_to_the_judge_model_at_once() -> None:
    model = ScriptedJudge()
    texts = [f"<think>I see.</think><answer>{answer}</answer>" for answer in ("a cat", "a dog", "out", "a cat")]
    found, logged = rewards(texts, gold="a cat on a mat", answer_type="open", model=model)
    assert found == [1.5, 0.5, None, 1.5]
    assert logged == {"format": 1.0, "accuracy": 2 / 3}
    assert model.most_at_once == 2
    rewards(texts, gold="5", model=model)
    assert len(model.asked) == 4  # what rules can judge, they do


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano_checkpoint(tmp_path_factory.mktemp("nano"))


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = problem_file(tmp_path_factory.mktemp("problems"), 4)
    rows = [
        {"id": "open", "question": "What is it?", "answer": "a long story about a cat on a mat", "answer_type": "open"},
        {"id": "none", "question": "", "answer": "5"},
        {"id": "long", "question": "Why? " * 1000, "answer": "5"},
    ]
    with file.open("a") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return file


def test_a_brief_run_ends_when_the_format_is_there(nano: Path, problems: Path, tmp_path: Path) -> None:
    anything = tmp_path / "anything.toml"
    anything.write_text('name = "anything"\ninstruction = "Speak."\n[answer]\n')
    settings = GrpoSettings(model=str(nano), problems=(str(problems),), out=tmp_path / "zero", format=str(anything),
                            stop_when_format=0.95, steps=50, **SMALL)  # fmt: skip
    train_grpo(settings)
    rows = read_metrics(settings.out / "metrics.jsonl")
    assert [row["format"] for row in rows] == [1.0] * ROUNDS_AVERAGED
    assert rows[0]["reward"] == 0.5 + rows[0]["accuracy"]
    load_model(settings.out)
    manifest = json.loads((settings.out / "manifest.json").read_text())
    assert manifest["steps"] == ROUNDS_AVERAGED
    assert manifest["data"]["count"] == 4
    assert manifest["data"]["dropped"] == {
        "open-ended, and there is no judge model": 1,
        "no question": 1,
        "longer than 1024 tokens, 8 of them kept for the response": 1,
    }
    card = (settings.out / "README.md").read_text()
    assert "GRPO" in card and f"| version | `{manifest['data']['sha256'][:16]}` |" in card


def test_a_response_is_judged_whole_whatever_its_tokenizer_takes_apart(
    nano: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: Any) -> Any:
        processor = load_processor(*given)
        processor.tokenizer.response_template = "a thought, and then an answer"
        return processor

    monkeypatch.setattr(run, "load_processor", load)
    monkeypatch.setattr(
        "trl.trainer.grpo_trainer.parse_response", lambda *_, **__: {"role": "assistant", "content": "", "thought": "5"}
    )
    anything = tmp_path / "anything.toml"
    anything.write_text('name = "anything"\ninstruction = "Speak."\n[answer]\n')
    train_grpo(
        GrpoSettings(
            model=str(nano), problems=(str(problems),), out=tmp_path / "out", format=str(anything), steps=1, **SMALL
        )
    )
    assert [row["format"] for row in read_metrics(tmp_path / "out" / "metrics.jsonl")] == [1.0]


class Killed(BaseException):
    pass


def test_the_reward_is_told_what_the_template_opens(
    nano: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thinking = Path(shutil.copytree(nano, tmp_path / "thinking"))
    template = thinking / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if add_generation_prompt %}<think>\n{% endif %}")
    told: list[Any] = []

    def rewarded(*given: Any) -> Any:
        told.extend(given)
        raise Killed

    monkeypatch.setattr(grpo, "reward_function", rewarded)
    with pytest.raises(Killed):
        train_grpo(GrpoSettings(model=str(thinking), problems=(str(problems),), out=tmp_path / "out", **SMALL))
    assert told[-1] == "<think>\n"


def test_a_source_may_need_no_preset_and_a_limit_is_of_all_sources(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours.jsonl").write_text('{"question": "One?", "answer": "1"}\n' * 2)
    (tmp_path / "theirs.jsonl").write_text('{"question": "Two?", "answer": "2", "subject": "sums"}\n' * 2)
    sources = tuple(str(tmp_path / name) for name in ("ours.jsonl", "theirs.jsonl"))

    def rewarded(*given: Any) -> Any:
        raise Killed

    monkeypatch.setattr(grpo, "reward_function", rewarded)
    settings = GrpoSettings(model=str(nano), problems=sources, preset=("none", "mmk12"), limit=3, out=tmp_path / "out",
                            **SMALL)  # fmt: skip
    with pytest.raises(Killed):
        train_grpo(settings)
    assert json.loads((settings.out / "checkpoints" / "rows.json").read_text())["count"] == 3


def test_checkpoints_fall_on_the_ends_of_rounds(nano: Path, problems: Path, tmp_path: Path) -> None:
    settings = GrpoSettings(model=str(nano), problems=(str(problems),), out=tmp_path / "out", steps=4, save_every=1,
                            keep_checkpoints=9, **{**SMALL, "batch": 4})  # fmt: skip
    assert settings.steps_per_round == 2
    train_grpo(settings)
    assert sorted(path.name for path in settings.out.glob("checkpoints/checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    assert ["format" in row for row in read_metrics(settings.out / "metrics.jsonl")] == [True, False, True, False]


def killed_at(step: int) -> Any:
    """A TrainerCallback that ends training as a signal would."""
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise Killed

    return Kill()


def test_resumed_in_a_later_epoch_it_has_the_same_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = problem_file(tmp_path / "problems", 6)
    shape = {**SMALL, "max_tokens": 64, "micro_batch": 8, "learning_rate": 1e-4}
    whole = GrpoSettings(model=str(checkpoint("base")), problems=(str(problems),), out=tmp_path / "whole", epochs=2,
                         save_every=4, **shape)  # fmt: skip
    train_grpo(whole)
    killed = whole.model_copy(update={"out": tmp_path / "killed"})
    with monkeypatch.context() as patched:
        callbacks = run.callbacks
        patched.setattr(run, "callbacks", lambda settings: [*callbacks(settings), killed_at(5)])
        with pytest.raises(Killed):
            train_grpo(killed)
    train_grpo(killed)
    keys = ("step", "reward", "format", "accuracy", "completions/mean_length", "grad_norm")
    curves = [[[row[key] for key in keys] for row in read_metrics(settings.out / "metrics.jsonl")]
              for settings in (whole, killed)]  # fmt: skip
    assert curves[0] == curves[1] and len(curves[0]) == 6
    assert len({reward for _, reward, *_ in curves[0]}) > 1 and any(row[-1] for row in curves[0])


def test_a_sampler_behind_the_wrappers_of_many_gpus_learns_its_epoch(tmp_path: Path) -> None:
    from accelerate import PartialState, skip_first_batches
    from accelerate.data_loader import prepare_data_loader
    from torch.utils.data import DataLoader

    PartialState(cpu=True)
    settings = GrpoSettings(model="m", problems=("p",), out=tmp_path)
    heard: list[int] = []
    rows = DataLoader(list(range(32)), batch_size=2, shuffle=True)
    rows.sampler.set_epoch = heard.append
    loader = prepare_data_loader(rows, num_processes=2, process_index=0, put_on_device=False)
    resumed = skip_first_batches(loader, 3)
    resumed.set_epoch(1)
    assert not heard  # what Trainer does by itself; once this fails, run._epoch_told has no use any more
    run.callbacks(settings)[-1].on_epoch_begin(None, SimpleNamespace(epoch=1.5), None, train_dataloader=loader)
    assert heard == [1]


def test_the_defaults_are_the_papers() -> None:
    settings = GrpoSettings(model="m", problems=("p",), out=Path("o"))
    assert (settings.learning_rate, settings.rollouts, settings.batch, settings.rollout_batch) == (1e-6, 8, 128, 128)
    assert (settings.epsilon_high, settings.beta, settings.max_tokens) == (0.28, 0.0, 10_240)
    assert settings.steps_per_round == 8


def test_too_few_problems_for_a_round_are_refused(nano: Path, problems: Path, tmp_path: Path) -> None:
    settings = GrpoSettings(model=str(nano), problems=(str(problems),), out=tmp_path, **{**SMALL, "rollout_batch": 8})
    with pytest.raises(UserError, match="4 problems to train on, and a round takes 8; .*--rollout-batch of at most 4"):
        train_grpo(settings)


def test_impossible_settings_are_one_sentence(tmp_path: Path) -> None:
    values = {"model": "m", "problems": "p", "out": tmp_path}
    with pytest.raises(UserError, match="batch 100 does not divide the 1024 responses of a round"):
        read_settings(GrpoSettings, {**values, "batch": 100})
    for vain in ({"vllm_server": "http://x"}, {"vllm_memory": 0.5}, {"judge_base_url": "http://x"}):
        with pytest.raises(UserError, match=f"{next(iter(vain))} has no effect without"):
            read_settings(GrpoSettings, values | vain)
    with pytest.raises(UserError, match="one preset for each"):
        read_settings(GrpoSettings, {**values, "preset": ["orsta", "virl39k"]})
    with pytest.raises(UserError, match="pip install 'specs-data\\[vllm\\]'"):
        train_grpo(read_settings(GrpoSettings, {**values, "vllm": "colocate"}))


def test_consistency_is_rewarded_only_where_it_is_asked_for() -> None:
    responses = [
        "<think>2 + 3 = 5.</think>\n<answer>5</answer>",
        "<think>2 + 3 = 6.</think>\n<answer>5</answer>",
        "<think>2 + 4 = 6.</think>\n<answer>6</answer>",
        "2 + 3 = 5. The answer is 5.",
    ]
    problem = msgspec.json.encode(Problem("p", "How many?", "5", "numeric")).decode()
    logged: dict[str, float] = {}
    with RuleJudge() as rules:
        function = reward_function(THINK_ANSWER, judge_with(rules, None, THINK_ANSWER), 0.25)
        found = asyncio.run(
            function(
                completions=[[{"role": "assistant", "content": text}] for text in responses],
                problem=[problem] * len(responses),
                log_metric=logged.__setitem__,
                log_extra=lambda name, values: None,
            )
        )
    assert found == [1.75, 1.5, 0.5, 1.0]
    assert logged["consistency"] == 0.5


def test_each_picture_has_one_token_in_a_prompt_for_colocated_vllm() -> None:
    assert once_each([1, 9, 9, 9, 2, 9, 9, 3], 9, 2) == [1, 9, 2, 9, 3]
    assert once_each([1, 1, 2], 9, 0) == [1, 1, 2]
    with pytest.raises(UserError, match="use --vllm server"):
        once_each([1, 9, 9, 9, 9, 2], 9, 2)
