"""Tests with the real vLLM on a CPU. They run in the environment that .ci/vllm-env makes:

.venv-vllm/bin/python -m pytest tests/elsewhere/vllm_engine
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

HERE = Path(__file__).parent
SHIPPED = HERE.parents[2] / "specs_data" / "mini" / "grpo-zero"
collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]

# A small model on a small machine: one thread, no compilation.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM's own warnings are none of ours."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def checkpoint() -> str:
    """The shipped miniature GRPO-zero; CHECKPOINT=DIR tries another."""
    return os.environ.get("CHECKPOINT", str(SHIPPED))


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A red square as PNG."""
    file = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(file, "PNG")
    return file.getvalue()


@contextmanager
def serve(checkpoint: str, *further: str, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`vllm serve` on the loopback: its address and its process."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint, "--port", str(port)]
    command += ["--served-model-name", "mini", "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "512"]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", "--distributed-executor-backend", "uni"]
    command += ["--trust-request-mm-kwargs", *further]
    command += ["--limit-mm-per-prompt", '{"image": 2, "video": 0}']
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"the server at {url} did not start")


@pytest.fixture(scope="session")
def server(checkpoint: str) -> Iterator[str]:
    """The address of a running server."""
    with serve(checkpoint) as (url, _):
        yield url
