"""From a recipe to what determines each stage's results: a changed setting concerns only its own stages.

What determines a stage is a record of settings, and stands in the store as a number, under which the stage's
results are logged. Whoever samples through the same store with the same settings finds what is there already.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from specs_data.engines import Engine
from specs_data.engines.refusals import OF_A_SETTING
from specs_data.errors import UserError
from specs_data.format import ResponseFormat
from specs_data.judges.model import ModelJudge
from specs_data.plugins import Corruption, label
from specs_data.recipe import Recipe, deciding, named_verifiers
from specs_data.records import Sampling
from specs_data.rollouts.responses import file_digest
from specs_data.rollouts.sample import edges_fingerprint, policy_fingerprint, policy_name, sampling
from specs_data.rollouts.store import Store
from specs_data.rollouts.tables import Stage, digest, encode, hash_of
from specs_data.texts import Text
from specs_data.verifiers import Verifier, is_paid

# The shape of what a policy is shown; a change of it makes other samples.
PROMPT_VERSION = 1
# The rules of judging; a change of them judges anew.
JUDGE_VERSION = 6
_ALL = 1 << 30  # of responses that are given, a problem has as many as there are
# Settings that decide samples and go on record as what they stand for (a checkpoint's fingerprint, a prompt's
# digest); all others as they are.
# They decide which prompts are answered, and not what the answers are. In the keys they stand for nothing, as in those
# of stores that were written without them.
_LIMITS = frozenset({"limit_images", "max_model_len"})
# Before the reason why an engine or a service does not answer; it stands in the store.
REFUSED = "refused: "
_OF_A_SETTING = [REFUSED + reason for reason in OF_A_SETTING]
_OPENED = frozenset({"policy", "responses", "engine", "format", "system_prompt", *Sampling.__struct_fields__})


# Why a pair is left out that somebody does not want.
STRUCK = "struck out"


# Why a problem's responses are left out that the policy gives without its picture too.
BLIND = "solved without its picture"


def outside_window(window: tuple[float, float] | None) -> str:
    """Why problems are left out whose pass rate is not in the `window`."""
    low, high = window or (0.0, 1.0)
    return f"pass rate outside {low:g}..{high:g}"


def pair_id(problem_id: str, index: int) -> str:
    """The id of the pair whose chosen side is this response."""
    return f"{problem_id}-{index}"


def read_struck(file: Path) -> frozenset[str]:
    """The ids in a struck.txt, one a line; none where there is no such file. Raises UserError for what is no text."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}, which should have the ids of pairs, one a line: {error}") from None
    return frozenset(filter(None, map(str.strip, lines)))


class Parts(msgspec.Struct, frozen=True):
    """What a recipe stands for, opened: format, system prompt, operators with their weights, and who
    judges. `engine` and `rival` are given where the caller brings them."""

    recipe: Recipe
    fmt: ResponseFormat
    system: Text | None
    corruptions: Mapping[str, Corruption]
    weights: Mapping[str, float]
    verifier: Verifier
    judge: ModelJudge | None
    engine: Engine | None
    rival: Engine | None


class Source(msgspec.Struct, frozen=True):
    """A policy whose responses are in the store: its name in the dataset, what identifies it, the settings under
    which its samples and their judgements are logged, and the most responses that a problem gets."""

    name: str
    fingerprint: str
    samples: int
    judgements: int
    most: int
    served: bool = False  # by a server, whose own limits may be others by the next run


class Plan(msgspec.Struct, frozen=True):
    """One run. `rival` writes the rejected responses where they do not come from the chosen; `blind` is the policy
    without the problems' pictures, where that is tried; `verifier` is
    its name in the dataset; `verdicts` and `pairs` are the settings of those stages, as numbers of the store;
    `services` are the stages that ask a model ("verification", "judging"); `struck` are the ids of pairs that
    somebody struck out."""

    recipe: Recipe
    fmt: ResponseFormat
    system: Text | None
    policy: Source
    rival: Source | None
    blind: Source | None
    verifier: str
    verdicts: int
    pairs: int
    services: frozenset[str]
    struck: frozenset[str] = frozenset()

    @property
    def sources(self) -> tuple[Source, ...]:
        """Whoever's responses are asked for."""
        return tuple(source for source in (self.policy, self.rival, self.blind) if source is not None)


def check_corruptions(corruptions: Mapping[str, Corruption], fmt: ResponseFormat) -> None:
    """Raise UserError if no operator can ever apply to a response in this format: every token would be in
    vain. What a plug-in needs to apply nobody knows beforehand."""
    response = fmt.render("2 + 3 = 5.", "5")
    if all(found.built_in and found.apply(response, fmt, random.Random(0)) is None for found in corruptions.values()):
        raise UserError(
            f"{', '.join(corruptions)}: none applies to responses in the format {fmt.name!r}, such as {response!r}; "
            "give another with --corruption (specs-data corruptions lists them), or a ./file.py of your own"
        )


def make_plan(store: Store, parts: Parts) -> Plan:
    """The plan of a run; its settings are put on record in `store`."""
    recipe, verifier = parts.recipe, dict(parts.verifier.settings)
    before = cache(partial(_edges, recipe))
    generation = _generation(parts, recipe, parts.engine)
    judging = {
        "format": parts.fmt.model_dump(mode="json"),
        "judge": {"rules": JUDGE_VERSION, "model": dict(parts.judge.settings) if parts.judge else None},
    }
    rival = _rival(parts, generation)
    blind = {**generation, "pictures": "left out"} if recipe.blind_check else None
    # Which of a rival's responses meets which chosen one depends on what became of all of them.
    meeting: dict[str, Any] = {"samples": rival, "at_most": recipe.samples, **judging, "verifier": verifier}
    if not recipe.natural_rejected:
        meeting["malformed"] = "corrupted"
    pairing = {
        "samples": generation,
        "rival": meeting if rival else None,
        "format": judging["format"],
        "pairing": recipe.pairing,
        "corruptions": {name: [parts.weights[name], found.sha256] for name, found in parts.corruptions.items()},
        "seed": recipe.seed,
    }

    def source(name: str, settings: Mapping[str, Any], engine: Engine | None) -> Source:
        samples = _number(store, "samples", settings, before)
        served = recipe.engine == "openai" and engine is None
        store.limit(samples, None if served else {name: getattr(recipe, name) for name in _LIMITS}, _OF_A_SETTING)
        return Source(
            name,
            fingerprint=str(settings.get("policy") or settings.get("responses") or ""),
            samples=samples,
            judgements=_number(store, "judgements", {"samples": settings, **judging}, before),
            most=_ALL if "responses" in settings else recipe.samples,
            served=served,
        )

    name = name_of(recipe)
    other = name_of(rival_recipe(recipe)) if has_own_rival(recipe) else name
    asked = {"verification": is_paid(parts.verifier), "judging": parts.judge is not None}
    return Plan(
        recipe=recipe,
        fmt=parts.fmt,
        system=parts.system,
        policy=source(name, generation, parts.engine),
        # "chosen" stands for a twin of the chosen response.
        rival=source("chosen (policy)" if other == "chosen" else other, rival, parts.rival) if rival else None,
        blind=msgspec.structs.replace(source(name, blind, parts.engine), most=recipe.samples_upfront)
        if blind
        else None,
        verifier=":".join(filter(None, (_labels(recipe.verifier), verifier.get("model")))),
        verdicts=_number(store, "verdicts", {"samples": generation, "verifier": verifier}, before),
        pairs=_number(store, "pairs", pairing, before),
        services=frozenset(stage for stage, model in asked.items() if model),
    )


def _edges(recipe: Recipe) -> dict[bytes, bytes]:
    """The fingerprints of the recipe's policies, and those under which stores of before know them."""
    named = (recipe.policy or recipe.model, recipe.rejected_from, recipe.verifier_model)
    return {policy_fingerprint(name).encode(): edges_fingerprint(name).encode() for name in named if name}


def _number(store: Store, stage: Stage, record: Mapping[str, Any], before: Callable[[], Mapping[bytes, bytes]]) -> int:
    """The number of these settings of a stage, with the results of stores of before, which took limits for a part
    of them and knew policies by other fingerprints: `before` reads their files, which only a store that has other
    settings is worth."""
    number = store.settings(stage, record)
    others = [(other, known) for other, known in store.settings_of(stage) if other != number]
    if not others:
        return number
    content = encode(record)
    for fingerprint, older in before().items():
        content = content.replace(fingerprint, older)
    same = {digest(record), hash_of(content)}
    for other, known in others:
        if digest(_without_limits(known)) in same:
            store.move(stage, other, number, leaving=_OF_A_SETTING if stage == "samples" else ())
    return number


def _without_limits(record: Any) -> Any:
    if isinstance(record, list):
        return [_without_limits(each) for each in record]
    if not isinstance(record, dict):
        return record
    within = {name: _without_limits(value) for name, value in record.items()}
    return within | dict.fromkeys(_LIMITS) if within.keys() >= _LIMITS else within


def name_of(recipe: Recipe) -> str:
    """What the dataset calls the policy."""
    if recipe.policy:
        return policy_name(recipe.policy)
    return recipe.model or (recipe.responses.stem if recipe.responses else label(recipe.engine))


def _labels(verifier: str | None) -> str:
    """What a dataset calls verifiers: files of one's own without their folders on this machine."""
    return ",".join(map(label, named_verifiers(verifier)))


def are_given(recipe: Recipe) -> bool:
    """Whether responses of either side exist already: they name problems, which must be known before."""
    return recipe.responses is not None or recipe.rejected_responses is not None


def has_own_rival(recipe: Recipe) -> bool:
    """Whether the rejected responses are those of another policy than the chosen ones."""
    return recipe.rejected_from != "chosen" or recipe.rejected_responses is not None


def rival_recipe(recipe: Recipe) -> Recipe:
    """The recipe that samples the policy of `rejected_from`, at servers another of their models; or that takes the
    `rejected_responses`."""
    if recipe.rejected_responses is not None:
        return recipe.model_copy(update={"policy": None, "model": None, "responses": recipe.rejected_responses})
    name = recipe.rejected_from
    model = name if recipe.engine == "openai" else recipe.model
    return recipe.model_copy(update={"policy": name, "model": model})


def _rival(parts: Parts, generation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What determines the responses that become rejected, where they are not the chosen ones."""
    if has_own_rival(parts.recipe):
        return _generation(parts, rival_recipe(parts.recipe), parts.rival)
    return generation if parts.recipe.pairing == "coupled" else None


def _generation(parts: Parts, recipe: Recipe, engine: Engine | None) -> dict[str, Any]:
    """All that determines the responses of the policy that `recipe` samples."""
    if recipe.responses is not None:
        return {"responses": file_digest(recipe.responses)}
    return {
        "policy": policy_fingerprint(recipe.policy or recipe.model or ""),
        "engine": label(recipe.engine) if engine is None else type(engine).__name__,
        "system": parts.system.sha256 if parts.system else None,
        "prompt": PROMPT_VERSION,
        "sampling": msgspec.to_builtins(sampling(recipe, parts.fmt)),
        **_said(
            {name: getattr(recipe, name) for name in deciding("samples") if name not in _OPENED},
            "engine_arg",
            "prefill",
        ),
        **dict.fromkeys(_LIMITS),
    }


def _said(settings: dict[str, Any], *later: str) -> dict[str, Any]:
    """`settings` without those of the `later` ones that are not set: stores of before know nothing of them."""
    return {name: value for name, value in settings.items() if value or name not in later}
