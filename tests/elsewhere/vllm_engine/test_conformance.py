"""The engines give the same greedy responses, whatever a checkpoint's small files say, on a real pretrained model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SMOLLM = Path(__file__).parents[3] / ".cache" / "smollm2"


@pytest.mark.skipif(not SMOLLM.exists(), reason="tests/elsewhere/smollm/make.py makes it")
def test_the_engines_agree() -> None:
    command = [sys.executable, "-m", "tests.elsewhere.smollm.conformance", str(SMOLLM)]
    done = subprocess.run(command, cwd=SMOLLM.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
