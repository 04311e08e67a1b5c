"""A verifier that asks for little: the thought must name the answer."""

from __future__ import annotations

from collections.abc import Sequence

from specs_data.format import ResponseFormat
from specs_data.records import Judged, Verdict


class StatesAnswer:
    """Calls a response consistent if its thought contains its answer."""

    concurrency = 1
    paid = False  # no money, no model: it is not shown the pictures, and asked again in another run

    def __init__(self, fmt: ResponseFormat) -> None:
        self.settings = {"version": "1", "format": fmt.model_dump_json()}
        self._fmt = fmt

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        """Consistent where the answer stands in the thought."""
        parsed = self._fmt.parse(judged.sample.response.text)
        thought = "" if isinstance(parsed, str) else parsed[0]
        stated = (judged.judgement.answer or "") in thought
        return Verdict(stated, "the thought names the answer" if stated else "the thought does not name the answer")

    async def close(self) -> None:
        """Nothing to release."""
