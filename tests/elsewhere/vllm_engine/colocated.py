"""A whole GRPO run with the real vLLM in the trainer's own process, on a CPU:

python -m tests.elsewhere.vllm_engine.colocated PROBLEMS OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.elsewhere.vllm_engine import conftest as _settings  # noqa: F401 - the environment of vLLM on a CPU


def main(problems: str, out: str) -> None:
    import torch
    from vllm.model_executor.layers import utils

    from specs_data.mini import checkpoint
    from specs_data.train.grpo import train_grpo
    from specs_data.train.settings import GrpoSettings

    # On a CPU vLLM packs weights as its kernels want them and then takes no new ones, which it does on a GPU: here
    # they stay as they are.
    def keep(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = keep
    settings = {"model": str(checkpoint("base")), "problems": (problems,), "out": Path(out), "vllm": "colocate"}
    small = {"rollouts": 4, "rollout_batch": 4, "batch": 16, "micro_batch": 16, "steps": 4, "max_tokens": 48}
    train_grpo(GrpoSettings.model_validate({**settings, **small, "learning_rate": 3e-4, "max_length": 512}))


if __name__ == "__main__":
    main(*sys.argv[1:])
