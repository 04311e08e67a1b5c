"""No verification: every right and well-formed response is kept (an ablation of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specs_data.records import Judged, Verdict
from specs_data.verifiers import VerifierOptions


class NoVerifier:
    """Calls everything consistent and says that it has not looked."""

    concurrency = 1
    paid = False
    settings: Mapping[str, str] = {"verifier": "none", "version": "1"}

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        """Consistent, "not verified"."""
        return Verdict(True, "not verified")

    async def close(self) -> None:
        """Nothing to release."""


def open_none(_: VerifierOptions) -> NoVerifier:
    """No verification."""
    return NoVerifier()
