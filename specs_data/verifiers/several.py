"""Several verifiers, the cheap one first, and what becomes of what none can tell.

Worked example, for `--verifier rules,policy`:

    rules: consistent                      consistent, and nobody else is asked
    rules: inconsistent                    inconsistent, likewise
    rules: cannot tell, policy: consistent consistent, in the words of the policy
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from specs_data.plugins import Verifier
from specs_data.records import Judged, Verdict


class SeveralVerifiers:
    """Asks one verifier after another until one can tell."""

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        self._verifiers = tuple(verifiers)
        self.paid = any(verifier.paid for verifier in verifiers)

    @property
    def concurrency(self) -> int:
        """As many as the one that takes most."""
        return max(verifier.concurrency for verifier in self._verifiers)

    @property
    def settings(self) -> Mapping[str, str]:
        """Those of each, and on top the model and the rubric of those that have one."""
        each = [dict(verifier.settings) for verifier in self._verifiers]
        shared: dict[str, str] = {key: one[key] for one in each for key in ("model", "prompt") if key in one}
        return {"verifiers": json.dumps(each, sort_keys=True), **shared}

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        """The first verdict that is one, or the last one. Raises what the verifiers raise."""
        verdict = Verdict(False, "no verifier", undecided=True)
        spent = 0, 0
        for verifier in self._verifiers:
            verdict = await verifier.verify(judged, images)
            spent = spent[0] + verdict.prompt_tokens, spent[1] + verdict.completion_tokens
            if not verdict.undecided:
                break
        return replace(verdict, prompt_tokens=spent[0], completion_tokens=spent[1])

    async def close(self) -> None:
        """Close each."""
        for verifier in self._verifiers:
            await verifier.close()


class KeepUndecided:
    """A verifier whose `cannot tell` counts as consistent. The verdict says that it is undecided."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self.paid = verifier.paid

    @property
    def concurrency(self) -> int:
        """That of the verifier."""
        return self._verifier.concurrency

    @property
    def settings(self) -> Mapping[str, str]:
        """Those of the verifier, and this."""
        return {**self._verifier.settings, "undecided": "keep"}

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        """The verifier's verdict, in the response's favour. Raises what the verifier raises."""
        verdict = await self._verifier.verify(judged, images)
        return replace(verdict, consistent=True) if verdict.undecided else verdict

    async def close(self) -> None:
        """Close the verifier."""
        await self._verifier.close()
