"""Experiment trackers that a build reports to, as the trainers do. Each is imported when it is wanted."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from specs_data.errors import UserError, unknown_name
from specs_data.inert import one_line
from specs_data.rollouts.progress import Tracker

TRACKERS = ("tensorboard", "trackio", "wandb")
_PROJECT = "specs-data"


def open_trackers(names: Sequence[str], out: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """A tracker for each of `names`, for the run in the folder `out`. Raises UserError for one that does not exist,
    is not installed, or does not start, as wandb without a key."""
    return [_open(_known(name), out, config) for name in names]


def _open(name: str, out: Path, config: Mapping[str, Any]) -> Tracker:
    try:
        return _Board(out) if name == "tensorboard" else _Live(name, out, config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--report-to {name}: {name} does not start: {one_line(str(error))}") from None


def _known(name: str) -> str:
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS, "nothing else")
    return name


def _load(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"--report-to {package}: {package} is not installed; run: pip install {package}") from None


class _Live:
    """wandb, and trackio, which has the same functions."""

    def __init__(self, name: str, out: Path, config: Mapping[str, Any]) -> None:
        self._api = _load(name, name)
        self._api.init(project=_PROJECT, name=out.name, config=dict(config))

    def log(self, figures: dict[str, float]) -> None:
        self._api.log(figures)

    def close(self) -> None:
        self._api.finish()


class _Board:
    """TensorBoard's files in the run's folder."""

    def __init__(self, out: Path) -> None:
        self._writer = _load("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(out / "tensorboard"))

    def log(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, int(figures["build/responses"]))

    def close(self) -> None:
        self._writer.close()
