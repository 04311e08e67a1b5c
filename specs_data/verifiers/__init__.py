"""The verifier seam: does the reasoning of a right response lead to its answer?

The contract is in plugins.py. To add a verifier here, write a module with a class that satisfies Verifier and name
it in `open_verifier`; others are found by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specs_data.errors import UserError
from specs_data.format import load_format
from specs_data.plugins import Verifier as Verifier
from specs_data.plugins import check_name, make_verifier
from specs_data.recipe import Recipe

if TYPE_CHECKING:
    from specs_data.services.gemini_batch import JobLog
    from specs_data.services.limits import Budget

BUILT_IN = ("gemini", "openai", "rules", "none")


def verifier_name(recipe: Recipe) -> str:
    """The verifier that `recipe` names; where it names none, Gemini if there is a key for it, and
    otherwise a UserError: none is chosen silently, and a name that nothing has is told."""
    if recipe.verifier is not None:
        check_name("verifier", recipe.verifier, BUILT_IN)
        return recipe.verifier
    from specs_data.services.gemini import api_key

    if not api_key():
        raise UserError(
            "no verifier is chosen and no Gemini key is set; set GEMINI_API_KEY, or choose --verifier openai "
            "(any OpenAI-compatible server), --verifier rules (offline), --verifier none (keeps every right response) "
            "or a ./file.py of your own"
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
    if name not in BUILT_IN:
        return make_verifier(name, load_format(recipe.format))
    from specs_data.services.opening import open_asker
    from specs_data.verifiers.model import ModelVerifier

    url = recipe.verifier_base_url
    return ModelVerifier(open_asker(name, recipe.verifier_model, url, recipe, budget, "verification", log))
