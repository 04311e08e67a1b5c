"""The verifier seam: does the reasoning of a right response lead to its answer?

The contract is in plugins.py. To add a verifier here, write a module with a class that satisfies it and name
in VERIFIERS what makes it; others are found by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from msgspec import Struct

from specs_data.errors import UserError
from specs_data.format import ResponseFormat, load_format
from specs_data.plugins import Engine, check_name, make_verifier
from specs_data.plugins import Verifier as Verifier
from specs_data.recipe import Recipe, named_verifiers
from specs_data.texts import Text
from specs_data.verifiers.calibration import Calibration, known
from specs_data.verifiers.several import KeepUndecided, SeveralVerifiers

if TYPE_CHECKING:
    from specs_data.services import Asker
    from specs_data.services.gemini_batch import JobLog
    from specs_data.services.limits import Budget


class Checker(Struct, frozen=True):
    """A policy that may be asked to check a thought: its engine, its name, what identifies its weights, and the
    system prompt that it is sampled with."""

    engine: Engine
    name: str
    identity: str
    system: Text | None


class VerifierOptions(Struct, frozen=True):
    """What a verifier may be made from: the format of the responses, the model and the URL that the recipe
    names for it, `asker`, which opens a service by name (gemini, openai) within the run's limits, and the
    `checker`, where there is one."""

    fmt: ResponseFormat
    model: str | None
    base_url: str | None
    asker: Callable[[str], Asker]
    checker: Checker | None = None


VerifierFactory = Callable[[VerifierOptions], Verifier]

# Where each verifier is made: a module is imported when its verifier is wanted.
VERIFIERS: Mapping[str, str] = {
    "gemini": "specs_data.verifiers.model:open_gemini",
    "openai": "specs_data.verifiers.model:open_openai",
    "policy": "specs_data.verifiers.policy:open_policy",
    "rules": "specs_data.verifiers.rules:open_rules",
    "none": "specs_data.verifiers.none:open_none",
}


def verifier_factory(name: str) -> VerifierFactory:
    """What makes the verifier of this name: one of VERIFIERS, or else a plug-in. Raises UserError where there is
    none."""
    check_name("verifier", name, VERIFIERS)
    if name not in VERIFIERS:
        return lambda options: make_verifier(name, options.fmt)
    factory: VerifierFactory = resolve_name(VERIFIERS[name])
    return factory


def verifier_names(recipe: Recipe) -> tuple[str, ...]:
    """The verifiers that `recipe` names, in the order in which they are asked; where it names none, Gemini if
    there is a key for it, and otherwise a UserError: none is chosen silently, and a name that nothing has is told."""
    if recipe.verifier is not None:
        names = named_verifiers(recipe.verifier)
        if not names:
            raise UserError("--verifier is empty: name one, or several with commas")
        for name in names:
            check_name("verifier", name, VERIFIERS)
        return names
    from specs_data.services.gemini import api_key

    if not api_key():
        raise UserError(
            "no verifier is chosen and no Gemini key is set; set GEMINI_API_KEY, or choose --verifier openai "
            "(any OpenAI-compatible server), --verifier rules (offline), --verifier policy (checks itself), --verifier "
            "none (keeps every right response) or a ./file.py of your own"
        )
    return ("gemini",)


def is_paid(verifier: Verifier) -> bool:
    """Whether a verdict costs money or a model's time. One that was handed over may not say so; then a model's does."""
    return bool(getattr(verifier, "paid", "model" in verifier.settings))


def calibration_of(verifier: Verifier, folder: Path | None) -> Calibration | None:
    """How good a verifier is known to be: as it was measured with this `folder` of verdicts, or as it says itself."""
    return known(folder, verifier.settings) or getattr(verifier, "calibration", None)


def verifier_name(recipe: Recipe) -> str:
    """The verifiers of a recipe as its setting writes them. Raises UserError, as `verifier_names` does."""
    return ",".join(verifier_names(recipe))


def open_verifier(
    recipe: Recipe, budget: Budget, log: JobLog | None = None, checker: Checker | None = None
) -> Verifier:
    """The verifier of a recipe. `budget` is shared with the other judging services; `log` keeps batch
    jobs; `checker` is the policy that may check itself. Raises UserError."""

    def asker(service: str) -> Asker:
        from specs_data.services.opening import open_asker

        model, url = recipe.verifier_model, recipe.verifier_base_url
        return open_asker(service, model, url, recipe, budget, "verification", log)

    fmt, model, url = load_format(recipe.format), recipe.verifier_model, recipe.verifier_base_url
    options = VerifierOptions(fmt, model, url, asker, checker)
    opened = [verifier_factory(name)(options) for name in verifier_names(recipe)]
    verifier: Verifier = opened[0] if len(opened) == 1 else SeveralVerifiers(opened)
    return KeepUndecided(verifier) if recipe.undecided == "keep" else verifier
