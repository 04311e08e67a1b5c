"""Groups outside the accuracy window are replaced, and what cannot be replaced weighs nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.train_world import NANO, problem_file

from specs_data.mini import checkpoint
from specs_data.train.grpo import train_grpo
from specs_data.train.report import read_metrics
from specs_data.train.settings import GrpoSettings
from specs_data.train.window import MOST_DRAWS, fill

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")
pytest.importorskip("trl")


def batch(rows: list[int], prompt: int, response: int, pictures: bool = True) -> dict[str, Any]:
    """A generated batch whose every tensor tells its rows apart."""
    mark = torch.tensor(rows).unsqueeze(1)
    found = {
        "prompt_ids": mark.expand(-1, prompt).clone(),
        "prompt_mask": torch.ones(len(rows), prompt, dtype=torch.long),
        "completion_ids": mark.expand(-1, response).clone(),
        "completion_mask": torch.ones(len(rows), response, dtype=torch.long),
        "mm_token_type_ids": mark.expand(-1, prompt + response).clone(),
        "advantages": torch.tensor(rows, dtype=torch.float32),
        "num_items_in_batch": torch.tensor(len(rows) * response),
    }
    if pictures:  # a picture of two patches each
        found |= {
            "pixel_values": torch.tensor(rows).repeat_interleave(2).unsqueeze(1),
            "image_grid_thw": torch.tensor([[1, 1, 2]] * len(rows)),
            "num_images": [1] * len(rows),
        }
    return found


def filled(verdicts: list[list[bool | None]], pictures: bool = True) -> tuple[dict[str, Any], float, list[int]]:
    """What `fill` makes of two groups of two, and how many groups each draw asked for."""
    asked: list[int] = []
    seen = [verdicts[0]]

    def draw(groups: int, number: int) -> dict[str, Any]:
        asked.append(groups)
        seen.append(verdicts[len(asked)])
        start = 100 * len(asked)
        return batch(list(range(start, start + 2 * groups)), 3, 6, pictures)

    made, outside = fill(
        batch([1, 2, 3, 4], 5, 4, pictures), lambda: seen[-1], draw, (0.1, 0.9), 2, accelerate.Accelerator(cpu=True)
    )
    return made, outside, asked


@pytest.mark.parametrize("pictures", [True, False])
def test_a_group_outside_the_window_is_replaced(pictures: bool) -> None:
    made, outside, asked = filled([[True, True, True, False], [False, False], [True, False]], pictures)
    assert outside == 0.5 and asked == [1, 1]
    assert made["advantages"].tolist() == [3, 4, 200, 201]
    assert made["completion_mask"].sum(dim=1).tolist() == [4, 4, 6, 6]
    assert made["num_items_in_batch"] == 20
    # Prompts are padded on the left, responses on the right.
    assert made["prompt_ids"].tolist()[2] == [0, 0, 200, 200, 200]
    assert made["completion_ids"].tolist()[0] == [3, 3, 3, 3, 0, 0]
    assert made["mm_token_type_ids"].tolist()[2] == [0, 0, *[200] * 9]
    if pictures:
        assert made["pixel_values"].flatten().tolist() == [3, 3, 4, 4, 200, 200, 201, 201]
        assert made["image_grid_thw"].shape == (4, 3)


def test_what_finds_no_other_weighs_nothing() -> None:
    made, outside, asked = filled([[True, False, True, True], *[[False, False]] * MOST_DRAWS])
    assert outside == 0.5 and asked == [1] * MOST_DRAWS
    assert made["completion_mask"].sum(dim=1).tolist() == [4, 4, 0, 0]
    assert made["advantages"].tolist() == [1, 2, 0, 0]
    assert made["num_items_in_batch"] == 8


def drawn_once(first: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """The first group of two and the one that takes the place of the second."""
    verdicts = [[True, False, True, True], [True, False]]
    seen: list[int] = [0]

    def draw(groups: int, number: int) -> dict[str, Any]:
        seen.append(number)
        return further

    return fill(first, lambda: verdicts[len(seen) - 1], draw, (0.1, 0.9), 2, accelerate.Accelerator(cpu=True))[0]


@pytest.mark.parametrize("which", [0, 1])
def test_groups_with_and_without_pictures_are_joined(which: int) -> None:
    """A whole draw may be without them."""
    draws = [batch([1, 2, 3, 4], 5, 4, which == 0), batch([100, 101], 3, 6, which == 1)]
    del draws[1 - which]["mm_token_type_ids"]
    made = drawn_once(*draws)
    assert made["advantages"].tolist() == [1, 2, 100, 101]
    assert made["num_images"] == [[1, 1, 0, 0], [0, 0, 1, 1]][which]
    assert made["pixel_values"].flatten().tolist() == [[1, 1, 2, 2], [100, 100, 101, 101]][which]
    assert made["mm_token_type_ids"].shape == (4, 11)
    assert made["mm_token_type_ids"].any(dim=1).tolist() == [which == 0] * 2 + [which == 1] * 2


def test_what_is_told_of_a_whole_response_is_not_padded() -> None:
    """vLLM beside the trainer: how likely a response was is a number for each row, or for each token."""
    draws = [batch([1, 2, 3, 4], 5, 4), batch([100, 101], 3, 6)]
    for rows in draws:
        count, tokens = rows["completion_ids"].shape
        rows["importance_sampling_ratio"] = torch.ones(count, 1)
        rows["sampling_per_token_logps"] = torch.ones(count, tokens)
    made = drawn_once(*draws)
    assert made["importance_sampling_ratio"].shape == (4, 1)
    assert made["sampling_per_token_logps"].sum(dim=1).tolist() == [4, 4, 6, 6]


def test_a_group_that_nothing_could_judge_is_outside() -> None:
    made, outside, _ = filled([[None, None, True, False], [None, True], [None, False], [False, True]])
    assert outside == 0.5
    assert made["advantages"].tolist() == [3, 4, 300, 301]


def test_training_says_how_many_groups_were_outside(tmp_path: Path) -> None:
    settings = GrpoSettings(
        model=str(checkpoint("base")), problems=(str(problem_file(tmp_path, 8)),), out=tmp_path / "out",
        batch=16, rollout_batch=4, rollouts=4, micro_batch=8, max_tokens=48, steps=2, **NANO,
    )  # fmt: skip
    assert settings.accuracy_window == (0.1, 0.9) and settings.delta == 3.0
    train_grpo(settings)
    rows = read_metrics(settings.out / "metrics.jsonl")
    assert all(0 <= row["outside_window"] <= 1 for row in rows)
    assert any(row["outside_window"] > 0 for row in rows)


SPLIT = """
import sys; sys.path[:0] = {path!r}
from specs_data.train import grpo, window
from specs_data.train.settings import GrpoSettings

def watched(first, right, draw, *rest):
    def drawn(groups, number):
        made = draw(groups, number)
        told.append((len(made["completion_ids"]) * rest[-1].num_processes, len(right())))
        return made
    return window.fill(first, right, drawn, *rest)

told = []
grpo.fill = watched
grpo.train_grpo(GrpoSettings(**{settings!r}))
assert told and all(rows == verdicts for rows, verdicts in told), told
"""


@pytest.mark.slow
def test_groups_that_processes_share_keep_their_verdicts(tmp_path: Path) -> None:
    """Three groups of four on two processes: what is drawn in place of them may be more than a round."""
    settings = GrpoSettings(
        model=str(checkpoint("base")), problems=(str(problem_file(tmp_path, 8)),), out=tmp_path / "out",
        batch=12, rollout_batch=3, rollouts=4, micro_batch=6, max_tokens=8, steps=1, **NANO,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two.py").write_text(SPLIT.format(path=sys.path, settings=settings.model_dump(mode="json")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    done = subprocess.run([*launch, str(tmp_path / "two.py")], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-9000:]
