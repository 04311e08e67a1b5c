"""The hybrid cold start and the SFT ablation: the loss, what is left out, what is left behind."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.train_world import NANO, blind_checkpoint, nano_checkpoint, preference_dataset, preference_rows
from PIL import Image

from specs_data.engines.checkpoint import load_model, load_processor
from specs_data.errors import UserError
from specs_data.mini import checkpoint
from specs_data.pairs.parquet import write_shards
from specs_data.recipe import read_settings
from specs_data.train import run
from specs_data.train.dpo import train_dpo
from specs_data.train.report import read_metrics
from specs_data.train.settings import DpoSettings, SftSettings
from specs_data.train.sft import train_sft

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

PAIRS = 8


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano_checkpoint(tmp_path_factory.mktemp("nano"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preference_dataset(tmp_path_factory.mktemp("pairs"), PAIRS)


def dpo(nano: Path, pairs: Path, out: Path, **settings: Any) -> DpoSettings:
    return DpoSettings(model=str(nano), data=str(pairs), out=out, **{"batch": PAIRS, "steps": 2, **NANO, **settings})


def log_probabilities(model: Any, processor: Any, row: dict[str, Any], side: str) -> Any:
    """Of each token of the response, one row at a time: no padding, no batching, float64."""
    images = [Image.open(io.BytesIO(image["bytes"])) for image in row["images"]]
    user = [{"type": "image"} for _ in images] + [{"type": "text", "text": row["prompt"][1]["content"]}]
    prompt = [row["prompt"][0], {"role": "user", "content": user}]
    before = processor.apply_chat_template(prompt, add_generation_prompt=True)
    whole = processor.apply_chat_template([*prompt, *row[side]])
    assert whole.startswith(before)
    start = processor(text=[before], images=images or None, return_tensors="pt")["input_ids"].shape[1]
    inputs = processor(text=[whole], images=images or None, return_tensors="pt")
    ids = inputs["input_ids"][0]
    logits = model(**inputs).logits[0].double()
    return logits.log_softmax(-1)[start - 1 : -1].gather(1, ids[start:, None])[:, 0]


def gradient_norm(model: Any) -> float:
    """Of all that is trained by default: not the vision tower."""
    gradients = [weights.grad for name, weights in model.named_parameters() if "visual" not in name]
    return float(torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm())


@pytest.mark.parametrize(
    ("sft_weight", "normalise", "micro_batch"),
    [
        (0.0, "per-sequence", 8),
        (0.5, "per-sequence", 2),
        (1.0, "per-sequence", 8),
        (0.5, "per-token", 8),
        (1.0, "per-token", 1),
    ],
)
def test_the_loss_is_the_equation_of_the_paper(
    pairs: Path, tmp_path: Path, sft_weight: float, normalise: Any, micro_batch: int
) -> None:
    base = checkpoint("base")
    settings = dpo(base, pairs, tmp_path / "out", sft_weight=sft_weight, normalise=normalise, micro_batch=micro_batch,
                   beta=0.3, save_every=1, keep_checkpoints=2)  # fmt: skip
    train_dpo(settings)
    processor = load_processor(base)
    reference = load_model(base, "float32").double()
    policy = load_model(settings.out / "checkpoints" / "checkpoint-1", "float32").double()
    preference, sequences, tokens = [], [], []
    for row in preference_rows(PAIRS):
        with torch.no_grad():
            before = [log_probabilities(reference, processor, row, side).sum() for side in ("chosen", "rejected")]
        chosen = log_probabilities(policy, processor, row, "chosen")
        rejected = log_probabilities(policy, processor, row, "rejected")
        preference.append(
            -torch.log(torch.sigmoid(0.3 * (chosen.sum() - before[0]) - 0.3 * (rejected.sum() - before[1])))
        )
        sequences.append(-chosen.mean())
        tokens.append(-chosen)
    sft = torch.cat(tokens).mean() if normalise == "per-token" else torch.stack(sequences).mean()
    wanted = torch.stack(preference).mean() + sft_weight * sft
    wanted.backward()
    second_step = read_metrics(settings.out / "metrics.jsonl")[1]
    assert second_step["loss"] == pytest.approx(wanted.item(), abs=1e-5)
    assert second_step["grad_norm"] == pytest.approx(gradient_norm(policy), rel=1e-4)
    assert abs(second_step["rewards/margins"]) > 1e-3  # the policy has moved: the test can fail


@pytest.mark.parametrize("lora", [False, True])
def test_training_leaves_a_checkpoint_and_its_papers(nano: Path, pairs: Path, tmp_path: Path, lora: bool) -> None:
    settings = dpo(nano, pairs, tmp_path / "cold", lora=lora, steps=3)
    assert train_dpo(settings) == settings.out
    trained, before = load_model(settings.out), load_model(nano)
    changed = {name for name, weights in trained.state_dict().items() if not weights.equal(before.state_dict()[name])}
    assert changed and not any("visual" in name for name in changed)
    assert json.loads((settings.out / "config.json").read_text())["dtype"] == "float32"
    assert load_processor(settings.out).chat_template == load_processor(nano).chat_template
    assert "video_processor" in json.loads((settings.out / "processor_config.json").read_text())
    assert DpoSettings(**tomllib.loads((settings.out / "recipe.toml").read_text())) == settings
    assert [row["step"] for row in read_metrics(settings.out / "metrics.jsonl")] == [1, 2, 3]
    assert (settings.out / "curves.svg").read_text().startswith("<?xml")
    manifest = json.loads((settings.out / "manifest.json").read_text())
    assert manifest["data"]["count"] == PAIRS and manifest["steps"] == 3
    card = (settings.out / "README.md").read_text()
    assert manifest["data"]["sha256"] in card and "sft_weight = 1.0" in card
    assert not list(settings.out.glob("checkpoints/checkpoint-*")) and not list(settings.out.rglob("rows.arrow"))
    assert (settings.out / "checkpoints" / "rows.json").exists()
    assert (settings.out / "adapter").exists() == lora
    if lora:
        peft = pytest.importorskip("peft")
        with run.quiet():
            adapted = peft.PeftModel.from_pretrained(load_model(nano, "float32"), settings.out / "adapter")
        merged = adapted.merge_and_unload().state_dict()
        assert all(weights.equal(merged[name]) for name, weights in trained.state_dict().items())


def test_the_card_names_the_version_of_a_run(nano: Path, tmp_path: Path) -> None:
    preference_dataset(tmp_path / "run" / "dataset", PAIRS)
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"dataset": {"fingerprint": "f00d"}}))
    train_dpo(dpo(nano, tmp_path / "run", tmp_path / "out", steps=1))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| version | `f00d` |" in text and "base_model:" not in text and "datasets:" not in text


def test_the_card_links_what_is_on_the_hub_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    names = [
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "lab/pairs:all@v1.2#train",
        "lab/pairs#test",
        str(tmp_path / "run"),
        "a/b/c",
    ]
    assert run.hub_ids(names) == ["Qwen/Qwen2.5-VL-7B-Instruct", "lab/pairs"]
    data = {"source": "lab/pairs", "version": "f00d", "count": 1, "sha256": "f00d", "dropped": {}}
    settings = {
        "model": "lab/base",
        "sft_weight": 1.0,
        "normalise": "per-sequence",
        "lora": False,
        "train_vision": False,
    }
    manifest = {"name": "out", "method": "dpo", "base_model": "lab/base", "datasets": ["lab/pairs"], "data": data,
                "settings": settings, "steps": 1, "processes": 1, "versions": {}}  # fmt: skip
    head = yaml.safe_load(run.report.card(manifest, [], "").split("---")[1])
    assert head["base_model"] == "lab/base" and head["datasets"] == ["lab/pairs"]


def test_a_finished_run_is_not_repeated_and_other_settings_are_refused(nano: Path, pairs: Path, tmp_path: Path) -> None:
    settings = dpo(nano, pairs, tmp_path / "out", steps=1)
    train_dpo(settings)
    written = (settings.out / "model.safetensors").stat().st_mtime_ns
    train_dpo(settings)
    assert (settings.out / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(UserError, match=r"beta 0\.1 -> 0\.2"):
        train_dpo(settings.model_copy(update={"beta": 0.2}))


def test_a_run_that_never_began_may_be_begun_otherwise(nano: Path, pairs: Path, tmp_path: Path) -> None:
    settings = dpo(nano, pairs, tmp_path / "out", steps=1, max_length=10)
    with pytest.raises(UserError, match="no row to train on: 8 longer than 10 tokens"):
        train_dpo(settings)
    train_dpo(settings.model_copy(update={"max_length": 1000}))


def test_other_rows_are_not_resumed_with(nano: Path, tmp_path: Path) -> None:
    data = preference_dataset(tmp_path / "data", 4)
    settings = dpo(nano, data, tmp_path / "out", batch=4, steps=1, save_every=1, keep_checkpoints=2)
    train_dpo(settings)
    (settings.out / "manifest.json").unlink()
    preference_dataset(data, 5)
    with pytest.raises(UserError, match="has changed since this run began"):
        train_dpo(settings)


def test_metrics_cannot_go_where_a_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
    settings = DpoSettings(model="m", data="d", out=tmp_path / "out", report_to=("wandb",))
    with pytest.raises(UserError, match="--report-to wandb: .*pip install wandb"):
        train_dpo(settings)
    with pytest.raises(UserError, match="--report-to wandbb: .*tensorboard"):
        train_dpo(settings.model_copy(update={"report_to": ("wandbb",)}))
    assert not settings.out.exists()


def test_a_torn_checkpoint_is_passed_over(nano: Path, pairs: Path, tmp_path: Path) -> None:
    settings = dpo(nano, pairs, tmp_path / "out", steps=3, save_every=1, keep_checkpoints=3, normalise="per-token")
    train_dpo(settings)
    curve = read_metrics(settings.out / "metrics.jsonl")
    (settings.out / "manifest.json").unlink()
    state = settings.out / "checkpoints" / "checkpoint-3" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    train_dpo(settings.model_copy(update={"micro_batch": 4}))  # which makes no difference
    resumed = read_metrics(settings.out / "metrics.jsonl")
    assert [row["loss"] for row in resumed[:2]] == [row["loss"] for row in curve[:2]]
    assert resumed[2]["loss"] == pytest.approx(curve[2]["loss"], abs=1e-5)


@pytest.mark.parametrize("lora", [False, True])
def test_after_the_last_step_no_other_is_made(
    nano: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    """One that was cut off while it wrote its finished weights."""
    settings = dpo(nano, pairs, tmp_path / "whole", batch=4, micro_batch=2, steps=3, save_every=1, lora=lora)
    train_dpo(settings)
    again = settings.model_copy(update={"out": tmp_path / "again"})
    with monkeypatch.context() as cut:
        cut.setattr("specs_data.train.run._save", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train_dpo(again)
    train_dpo(again)
    assert len(read_metrics(again.out / "metrics.jsonl")) == 3
    weights = [(out / "model.safetensors").read_bytes() for out in (settings.out, again.out)]
    assert weights[0] == weights[1]
    assert json.loads((again.out / "manifest.json").read_text())["steps"] == 3


def test_a_folder_with_other_things_is_left_alone(nano: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="another --out"):
        train_dpo(dpo(nano, pairs, tmp_path))


SCRIPT = """
import sys; sys.path[:0] = {path!r}
from fakes.train_world import NANO
from specs_data.train import run
from specs_data.train.dpo import train_dpo
from specs_data.train.settings import DpoSettings
train_dpo(DpoSettings(**{settings!r}))
"""


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_and_resumed_training_has_the_same_curve(nano: Path, pairs: Path, tmp_path: Path, lora: bool) -> None:
    wanted = dpo(nano, pairs, tmp_path / "whole", batch=4, micro_batch=2, steps=5, save_every=2, lora=lora)
    train_dpo(wanted)
    settings = wanted.model_copy(update={"out": tmp_path / "killed"})
    script = SCRIPT.format(path=sys.path, settings=settings.model_dump(mode="json"))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    metrics = settings.out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (settings.out / "manifest.json").exists()
    train_dpo(settings)
    curves = [read_metrics(out / "metrics.jsonl") for out in (wanted.out, settings.out)]
    assert curves[0] == curves[1] and len(curves[0]) == 5


def test_sigterm_saves_the_step_and_the_same_command_goes_on(nano: Path, pairs: Path, tmp_path: Path) -> None:
    settings = dpo(nano, pairs, tmp_path / "out", batch=4, micro_batch=2, steps=400, epochs=999.0, save_every=999)
    script = SCRIPT.format(path=sys.path, settings=settings.model_dump(mode="json"))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    metrics = settings.out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    (saved,) = settings.out.glob("checkpoints/checkpoint-*")
    done = int(saved.name.removeprefix("checkpoint-"))
    assert 3 <= done == len(metrics.read_text().splitlines())


def test_checkpoints_come_by_the_clock(nano: Path, pairs: Path, tmp_path: Path) -> None:
    settings = dpo(nano, pairs, tmp_path / "out", batch=4, micro_batch=2, steps=3, save_every=999, save_minutes=1e-6,
                   keep_checkpoints=9)  # fmt: skip
    train_dpo(settings)
    assert len(list(settings.out.glob("checkpoints/checkpoint-*"))) == 3


@pytest.mark.parametrize(("asked", "dtype"), [("auto", "bfloat16"), ("float16", "float16")])
def test_the_finished_weights_have_the_type_that_is_asked_for(
    nano: Path, pairs: Path, tmp_path: Path, asked: Any, dtype: str
) -> None:
    settings = dpo(nano, pairs, tmp_path / "out", steps=1, save_dtype=asked)
    train_dpo(settings)
    assert json.loads((settings.out / "config.json").read_text())["dtype"] == dtype


@pytest.fixture(scope="module")
def sigmoid(nano: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses_of("sigmoid", nano, pairs, tmp_path_factory.mktemp("sigmoid") / "out")


def losses_of(loss: Any, nano: Path, pairs: Path, out: Path) -> list[float]:
    """The losses of the first steps."""
    train_dpo(dpo(nano, pairs, out, steps=2, loss=loss))
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl")]


@pytest.mark.parametrize(
    "loss",
    [
        *("ipo", "apo_zero", "robust"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("exo_pair", "discopop", "sigmoid_norm")),
    ],
)
def test_other_losses_on_a_pair_train_beside_the_sft_term(
    nano: Path, pairs: Path, tmp_path: Path, loss: Any, sigmoid: list[float]
) -> None:
    found = losses_of(loss, nano, pairs, tmp_path / "out")
    assert all(map(math.isfinite, found)) and found != sigmoid


def test_a_model_that_is_not_there_is_told_at_once(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^no policy at .*nosuch"):
        train_dpo(dpo(tmp_path / "nosuch", pairs, tmp_path / "out", steps=1))


def test_a_constant_learning_rate_rises_first_where_it_is_told_to(nano: Path, pairs: Path, tmp_path: Path) -> None:
    train_dpo(dpo(nano, pairs, tmp_path, batch=2, micro_batch=2, steps=4, schedule="constant", warmup=0.5))
    rates = [row["learning_rate"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 1e-3])


def test_a_run_without_one_number_has_a_card_all_the_same(
    nano: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Path(shutil.copytree(nano, tmp_path / "broken"))
    model = load_model(broken)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(math.nan)
    model.save_pretrained(broken)
    settings = SftSettings(model=str(broken), data=str(pairs), out=tmp_path / "out", batch=8, steps=1, **NANO)
    train_sft(settings)
    assert [row["loss"] for row in read_metrics(settings.out / "metrics.jsonl")] == [None]
    assert (settings.out / "curves.svg").exists() and (settings.out / "README.md").exists()
    assert "the training has diverged" in caplog.text


def test_a_loss_that_is_no_number_is_told_as_none(nano: Path, pairs: Path, tmp_path: Path) -> None:
    settings = dpo(nano, pairs, tmp_path, batch=4, micro_batch=4, steps=2, learning_rate=1e30)
    train_dpo(settings)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first["loss"] > 0 and second["loss"] is None


@pytest.mark.parametrize("train", [train_dpo, train_sft])
def test_an_adapter_is_told_before_it_is_trained(tmp_path: Path, pairs: Path, train: Callable[[Any], Path]) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    kind = DpoSettings if train is train_dpo else SftSettings
    with pytest.raises(UserError, match="is an adapter of some/base: merge it"):
        train(kind(model=str(adapter), data=str(pairs), out=tmp_path / "out"))


def test_rows_that_do_not_fit_are_counted_never_cut(
    nano: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = list(preference_rows(6))
    rows[0]["chosen"][0]["content"] += " and so on" * 2000
    rows[1]["rejected"][0]["content"] += "<|image_pad|>"
    rows[2]["images"] = [{"bytes": rows[2]["images"][0]["bytes"][:60], "path": "torn.png"}]
    write_shards(rows, tmp_path / "data", "train")
    settings = dpo(nano, tmp_path / "data", tmp_path / "out", batch=3, steps=1)
    with pytest.raises(UserError, match="1 longer than 1024 tokens"):
        train_dpo(settings.model_copy(update={"overlong": "refuse", "out": tmp_path / "strict"}))
    train_dpo(settings)
    assert "3 rows to train on; left out: 1 longer than 1024 tokens; 1 " in caplog.text
    data = json.loads((settings.out / "manifest.json").read_text())["data"]
    assert data["count"] == 3
    assert data["dropped"] == {
        "longer than 1024 tokens": 1,
        "the text contains the model's image token": 1,
        "an image cannot be read": 1,
    }


def test_the_length_that_decides_is_the_length_that_trains(nano: Path, pairs: Path, tmp_path: Path) -> None:
    trained = dpo(nano, pairs, tmp_path / "a", steps=1)
    train_dpo(trained)
    processor = load_processor(nano)
    row = next(preference_rows(1))
    user = [{"type": "image"}, {"type": "text", "text": row["prompt"][1]["content"]}]
    text = processor.apply_chat_template([row["prompt"][0], {"role": "user", "content": user}, *row["chosen"]])
    image = Image.open(io.BytesIO(row["images"][0]["bytes"]))
    length = processor(text=[text], images=[image], return_tensors="pt")["input_ids"].shape[1]
    write_shards([row], tmp_path / "one", "train")
    train_dpo(dpo(nano, tmp_path / "one", tmp_path / "fits", batch=1, steps=1, max_length=length))
    with pytest.raises(UserError, match=f"1 longer than {length - 1} tokens"):
        train_dpo(dpo(nano, tmp_path / "one", tmp_path / "not", batch=1, steps=1, max_length=length - 1))


@pytest.mark.parametrize("micro_batch", [8, 1])
def test_sft_trains_on_the_chosen_alone(nano: Path, pairs: Path, tmp_path: Path, micro_batch: int) -> None:
    settings = SftSettings(model=str(nano), data=str(pairs), out=tmp_path / "sft", batch=PAIRS, steps=1,
                           micro_batch=micro_batch, **NANO)  # fmt: skip
    train_sft(settings)
    model, processor = load_model(nano, "float32").double(), load_processor(nano)
    wanted = -torch.cat([log_probabilities(model, processor, row, "chosen") for row in preference_rows(PAIRS)]).mean()
    wanted.backward()
    step = read_metrics(settings.out / "metrics.jsonl")[0]
    assert step["loss"] == pytest.approx(wanted.item(), abs=1e-5)
    assert step["grad_norm"] == pytest.approx(gradient_norm(model), rel=1e-4)


def test_impossible_settings_are_one_sentence(tmp_path: Path) -> None:
    values = {"model": "m", "data": "d", "out": tmp_path}
    with pytest.raises(UserError, match="batch 64 is not a multiple of micro_batch 3"):
        read_settings(DpoSettings, {**values, "micro_batch": 3})
    with pytest.raises(UserError, match="sft-weight"):
        read_settings(DpoSettings, {**values, "sft_weight": -1})
    with pytest.raises(UserError, match="lora_rank has no effect without lora"):
        read_settings(DpoSettings, {**values, "lora_rank": 64})
    assert read_settings(DpoSettings, {**values, "lora_rank": 64, "lora": True}).lora_rank == 64
    with pytest.raises(UserError, match="normalise has no effect without an sft_weight"):
        read_settings(DpoSettings, {**values, "normalise": "per-token", "sft_weight": 0})
    with pytest.raises(UserError, match="^seed: should be less than"):
        read_settings(DpoSettings, {**values, "seed": 1 << 32})
    with pytest.raises(UserError, match="^--model is missing$"):
        read_settings(DpoSettings, {"data": "d", "out": tmp_path})
    file = tmp_path / "recipe.toml"
    file.write_text("lambda = 0.5")
    with pytest.raises(UserError, match="unknown setting 'lambda'"):
        read_settings(DpoSettings, values, file)
    file.write_text('sft-weight = 0.5\nmodel = "x"\n')
    assert read_settings(DpoSettings, values, file).sft_weight == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["per-sequence", "per-token"])
def test_two_processes_have_the_curve_of_one(nano: Path, pairs: Path, tmp_path: Path, normalise: str) -> None:
    one = dpo(nano, pairs, tmp_path / "one", micro_batch=2, steps=3, normalise=normalise)
    two = one.model_copy(update={"out": tmp_path / "two"})
    train_dpo(one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two.py").write_text(SCRIPT.format(path=sys.path, settings=two.model_dump(mode="json")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    subprocess.run([*launch, str(tmp_path / "two.py")], check=True, capture_output=True)
    assert json.loads((two.out / "manifest.json").read_text())["processes"] == 2
    curves = [[row["loss"] for row in read_metrics(out / "metrics.jsonl")] for out in (one.out, two.out)]
    assert curves[1] == pytest.approx(curves[0], abs=1e-4) and len(curves[0]) == 3


def test_the_finished_checkpoint_is_loaded_by_one_process_alone(
    nano: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import deepspeed

    class Split:  # DeepSpeed's configuration, as transformers asks it
        def is_zero3(self) -> bool:
            return True

    config, asked = Split(), list[bool]()  # transformers holds it by a weak reference

    class Launched(TrainerCallback):
        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            deepspeed.set_hf_deepspeed_config(config)

    monkeypatch.setattr(
        run, "callbacks", lambda settings: [run.report.metrics_log(settings.out / "metrics.jsonl"), Launched()]
    )
    monkeypatch.setattr(run, "_save", lambda *args: asked.append(deepspeed.is_deepspeed_zero3_enabled()))
    train_dpo(dpo(nano, pairs, tmp_path / "out", steps=1))
    assert asked == [False] and config.is_zero3()


def launch_config(name: str) -> Any:
    from accelerate.commands.config.config_args import load_config_from_file

    return load_config_from_file(str(files("specs_data.train").joinpath(f"{name}.yaml")))


@pytest.mark.parametrize("name", ["fsdp", "zero2"])
def test_the_shipped_launch_configurations_are_ones(name: str) -> None:
    config = launch_config(name)
    assert config.mixed_precision == "bf16" and config.num_processes == 8
    assert config.deepspeed_config.get("zero_stage") in (None, 2)


def test_what_is_gathered_alone_runs_for_rows_without_pictures_too(nano: Path) -> None:
    unit = launch_config("fsdp").fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    model = load_model(nano)
    units = [name for name, module in model.named_modules() if type(module).__name__ == unit]
    assert len(units) == model.config.get_text_config().num_hidden_layers
    assert not any("visual" in name for name in units)


def test_a_model_without_eyes_trains_on_the_rows_without_pictures(tmp_path: Path) -> None:
    settings = dpo(blind_checkpoint(tmp_path / "blind"), preference_dataset(tmp_path / "pairs", 10), tmp_path / "out",
                   batch=2, steps=1, micro_batch=2)  # fmt: skip
    train_dpo(settings)
    data = json.loads((settings.out / "manifest.json").read_text())["data"]
    assert (data["count"], data["dropped"]) == (2, {"the model takes no images": 8})
    assert load_model(settings.out).config.model_type == "qwen2"
    assert not list(settings.out.rglob("*.arrow"))
    configs = [json.loads((Path(folder) / "config.json").read_text()) for folder in (settings.model, settings.out)]
    assert configs[0]["use_cache"] is configs[1]["use_cache"] is True
    with pytest.raises(UserError, match="takes no images; leave --min-pixels"):
        train_dpo(settings.model_copy(update={"out": tmp_path / "sized", "max_pixels": 10_000}))


def test_images_are_scaled_as_told_and_the_checkpoint_remembers(nano: Path, pairs: Path, tmp_path: Path) -> None:
    settings = dpo(nano, pairs, tmp_path / "out", steps=1, min_pixels=84 * 84, max_pixels=112 * 112)
    train_dpo(settings)
    assert load_processor(settings.out).image_processor.size["shortest_edge"] == 84 * 84
