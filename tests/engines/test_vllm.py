"""What the vLLM engine makes of what vLLM hands out; no vLLM is needed for it."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from specs_data.engines.vllm import _deliver, _Job, _likelihood
from specs_data.errors import Undecided
from specs_data.records import Likelihood, Message, Request, Response


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_what_vllm_gave_up_is_undecided(reason: str) -> None:
    future: Future[Response] = Future()
    job = _Job(Request((Message("user", "?"),), (), 0), future)
    best = SimpleNamespace(finish_reason=reason, text="half", token_ids=[1])
    _deliver([SimpleNamespace(request_id="7", finished=True, outputs=[best], prompt_token_ids=[1])], {"7": job}, "")
    with pytest.raises(Undecided, match=f"^given up: vLLM ended it with '{reason}'$"):
        future.result(timeout=1)


@pytest.mark.parametrize(
    ("cached", "told", "count", "expected"),
    [
        (0, [None, 5, 6, 7, 8], 2, Likelihood(-1.5, False, 1)),
        (2, [None, -99, -99, 7, 8], 2, Likelihood(-1.5, False, 1)),  # on a CPU: made up where nothing was read
        (2, [None, 7, 8], 2, Likelihood(-1.5, False, 1)),  # on a GPU: told of what was read alone
        (2, [None, 7, 8], 1, Likelihood(-0.8, False, 1)),
        (4, [None], 2, None),
        (3, [None, 8], 2, None),
        (None, [None], 2, None),
    ],
)
def test_how_likely_the_end_of_a_prompt_is_whatever_was_cached_before_it(
    cached: int | None, told: list[int | None], count: int, expected: Likelihood | None
) -> None:
    chances = [
        None if token is None else {token: SimpleNamespace(logprob=-token / 10, rank=token - 6)} for token in told
    ]
    output = SimpleNamespace(
        prompt_token_ids=[4, 5, 6, 7, 8],
        prompt_logprobs=chances,
        num_cached_tokens=cached,
        outputs=[SimpleNamespace(token_ids=[1])],
    )
    assert _likelihood(output, count) == expected
