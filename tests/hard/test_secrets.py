"""Keys that are planted in the environment: no part of them is said, logged or kept, by whichever process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hard.conftest import assert_no_secret

from specs_data.mini import checkpoint
from specs_data.mini.world import write_problems

KEYS = {
    "OPENAI_API_KEY": "sk-pl4nted0penai0123456789abcdef",
    "GEMINI_API_KEY": "AIzaPl4ntedGemini0123456789abcdefghijkl",
    "GOOGLE_API_KEY": "AIzaPl4ntedGoogle9876543210abcdefghijkl",
    "HF_TOKEN": "hf_pl4ntedHub0123456789abcdefghijklmn",
    "WANDB_API_KEY": "pl4ntedwandb0123456789abcdef0123456789ab",
}


def build(folder: Path, *options: str) -> str:
    """A build of a few problems, told all that it can tell; what it said."""
    command = [
        sys.executable, "-m", "specs_data", "build", "--policy", str(checkpoint("grpo-zero")), "--verifier", "rules",
        "--problems", str(write_problems(folder, 4, seed=3)), "--samples", "1", "--max-tokens", "60",
        "--out", str(folder / "run"), "-v", *options,
    ]  # fmt: skip
    told = {"TRANSFORMERS_VERBOSITY": "debug", "HF_HUB_VERBOSITY": "debug", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | KEYS | told, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def search(text: str) -> None:
    for key in KEYS.values():
        assert_no_secret(text, key, 12)


def search_files(folder: Path) -> int:
    """Look through every file; how many there are."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        content = file.read_bytes()
        found = [name for name, key in KEYS.items() if key[4:].encode() in content]
        assert not found, f"{found} in {file}"
    return len(files)


@pytest.mark.slow
def test_a_model_in_this_process_says_nothing(tmp_path: Path, tally: Callable) -> None:
    search(build(tmp_path, "--engine", "transformers"))
    tally("transformers: files searched", search_files(tmp_path))


@pytest.mark.slow
def test_actors_and_their_logs_say_nothing(tmp_path: Path, tally: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    place = Path(os.environ.get("TMPDIR", "/tmp")) / f"ray-{os.getpid()}"  # short: a socket's path has 107 bytes
    place.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    search(build(tmp_path, "--engine", "transformers", "--ray", "local", "--replicas", "1"))
    tally("Ray: files searched", search_files(tmp_path) + search_files(place))
