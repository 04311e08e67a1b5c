"""The verifier seam: does the reasoning of a right response lead to its answer?

To add a verifier, write a module here with a class that satisfies Verifier and name it in
`open_verifier`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from specs_data.records import Judged, Verdict


class Verifier(Protocol):
    """A judge of reasoning paths (paper, stage 1b)."""

    @property
    def concurrency(self) -> int:
        """How many `verify` calls may be waiting at once: the backlog while the policy generates on."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """All that determines a verdict besides the sample (name, model, prompt hash ...): part of
        the verdict's key in the store."""
        ...

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        """Judge one right and well-formed sample. `images` are the files' bytes. Raises Undecided,
        with the reason, where no usable verdict was had; raises UserError where no call can succeed
        (a wrong key, an unknown model)."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
