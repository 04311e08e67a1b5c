"""The verifier seam: does the reasoning of a right response lead to its answer?

To add a verifier, write a module here with a class that satisfies Verifier and name it in
`open_verifier`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from specs_data.errors import UserError
from specs_data.format import load_format
from specs_data.recipe import Recipe
from specs_data.records import Judged, Verdict

if TYPE_CHECKING:
    from specs_data.services.gemini_batch import JobLog
    from specs_data.services.limits import Budget


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


def verifier_name(recipe: Recipe) -> str:
    """The verifier that `recipe` names; where it names none, Gemini if there is a key for it, and
    otherwise a UserError: none is chosen silently."""
    if recipe.verifier is not None:
        return recipe.verifier
    from specs_data.services.gemini import api_key

    if not api_key():
        raise UserError(
            "no verifier is chosen and no Gemini key is set; set GEMINI_API_KEY, or choose --verifier openai "
            "(any OpenAI-compatible server), --verifier rules (offline) or --verifier none (keeps every right response)"
        )
    return "gemini"


def open_verifier(recipe: Recipe, budget: Budget, log: JobLog | None = None) -> Verifier:
    """The verifier of a recipe. `budget` is shared with the other judging services; `log` keeps batch
    jobs. Raises UserError."""
    name = verifier_name(recipe)
    if name == "rules":
        from specs_data.verifiers.rules import RulesVerifier

        return RulesVerifier(load_format(recipe.format))
    if name == "none":
        from specs_data.verifiers.none import NoVerifier

        return NoVerifier()
    from specs_data.services.opening import open_asker
    from specs_data.verifiers.model import ModelVerifier

    url = recipe.verifier_base_url
    return ModelVerifier(open_asker(name, recipe.verifier_model, url, recipe, budget, "verification", log))
