"""Keys that are planted in the environment: neither vLLM's core, in a process of its own, nor its logs say them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specs_data.mini.world import write_problems

KEYS = {
    "OPENAI_API_KEY": "sk-pl4nted0penai0123456789abcdef",
    "GEMINI_API_KEY": "AIzaPl4ntedGemini0123456789abcdefghijkl",
    "HF_TOKEN": "hf_pl4ntedHub0123456789abcdefghijklmn",
}


@pytest.mark.parametrize("apart", ["0", "1"])
def test_the_core_says_no_key(checkpoint: str, tmp_path: Path, apart: str) -> None:
    problems = write_problems(tmp_path / "problems", 4, seed=3)
    build = [
        sys.executable, "-m", "specs_data", "build", "--problems", str(problems), "--out", str(tmp_path / "run"), "-v",
        "--verifier", "rules", "--samples", "1", "--max-tokens", "40", "--engine", "vllm", "--policy", checkpoint,
        "--max-model-len", "512", "--dtype", "float32",
    ]  # fmt: skip
    told = {"VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_ENABLE_V1_MULTIPROCESSING": apart}
    done = subprocess.run(build, env=os.environ | KEYS | told, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2) and (tmp_path / "run" / "store.sqlite").exists(), done.stderr[-2000:]
    kept = [file.read_bytes().decode(errors="replace") for file in (tmp_path / "run").rglob("*") if file.is_file()]
    for key in KEYS.values():
        assert not any(key[4:] in text for text in (done.stdout, done.stderr, *kept))
