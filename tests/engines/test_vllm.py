"""What the vLLM engine makes of what vLLM hands out; no vLLM is needed for it."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from specs_data.engines.vllm import _deliver, _Job
from specs_data.errors import Undecided
from specs_data.records import Message, Request, Response


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_what_vllm_gave_up_is_undecided(reason: str) -> None:
    future: Future[Response] = Future()
    job = _Job(Request((Message("user", "?"),), (), 0), future)
    best = SimpleNamespace(finish_reason=reason, text="half", token_ids=[1])
    _deliver([SimpleNamespace(request_id="7", finished=True, outputs=[best], prompt_token_ids=[1])], {"7": job}, "")
    with pytest.raises(Undecided, match=f"^given up: vLLM ended it with '{reason}'$"):
        future.result(timeout=1)
