"""A build on a real Ray cluster of two replicas, one of which is killed on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes.sums import dataset_bytes, policy, recipe, respond, write_sums

from specs_data import build
from specs_data.engines import Engine
from specs_data.engines.ray import RayEngine
from specs_data.engines.scripted import ScriptedEngine
from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems
from specs_data.records import Request

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray's own warnings


class _Noted:
    """The scripted policy, slow, with a note of its process and of each response it gives away."""

    def __init__(self, folder: Path) -> None:
        self._log = (folder / f"{os.getpid()}.log").open("a", buffering=1)
        self._engine = ScriptedEngine(respond, delay=0.02, concurrency=8)
        self.concurrency = 8

    async def generate(self, request: Request) -> object:
        response = await self._engine.generate(request)
        self._log.write("x\n")
        return response

    async def close(self) -> None:
        self._log.close()


def _responses(folder: Path) -> dict[int, int]:
    return {int(log.stem): len(log.read_text().splitlines()) for log in folder.glob("*.log")}


def test_a_replica_killed_on_the_way_changes_nothing(tmp_path: Path) -> None:
    problems = write_sums(tmp_path, 300, pictures=True)
    here = policy()
    build(recipe(problems, samples=6, policy="mine"), tmp_path / "here", engine=here, quiet=True)

    logs = tmp_path / "logs"
    logs.mkdir()

    def make_engine() -> Engine:
        return _Noted(logs)  # type: ignore[return-value]

    killed: list[int] = []

    def kill_one() -> None:
        while len(seen := _responses(logs)) < 2 or min(seen.values()) < 20:
            time.sleep(0.01)
        killed.append(min(seen))
        os.kill(killed[0], signal.SIGKILL)

    fakes = {"PYTHONPATH": str(Path(__file__).parents[1])}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": fakes})
    try:
        engine = RayEngine(make_engine, replicas=2)
        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        build(recipe(problems, samples=6, policy="mine"), tmp_path / "there", engine=engine, quiet=True)
        killer.join(10)
    finally:
        ray.shutdown()

    seen = _responses(logs)
    assert killed and seen[killed[0]] < here.calls / 2
    repeated = sum(seen.values()) - here.calls
    assert 0 <= repeated <= 8, "only what was in flight there was asked again"
    rows = [dataset_bytes(tmp_path / run)["data/train-00000-of-00001.parquet"] for run in ("here", "there")]
    assert rows[0] == rows[1]  # the cards name the engines, which differ


def test_real_models_on_ray_give_the_same_pairs(tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "puzzles", 40, seed=5)
    common = {"policy": str(checkpoint("grpo-zero")), "engine": "transformers", "samples": 4, "max_tokens": 120}
    build(recipe(problems, **common), tmp_path / "here", quiet=True)
    try:
        build(recipe(problems, **common, ray="local", replicas=2), tmp_path / "there", quiet=True)
    finally:
        ray.shutdown()
    here, there = (pq.read_table(tmp_path / run / "dataset" / "data").to_pylist() for run in ("here", "there"))
    assert len(here) > 20
    assert there == here
