"""The manifest of a run, from its store, its plan and its rows."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from specs_data.build.fates import Fates, Served
from specs_data.pairs.figures import Figures
from specs_data.pairs.manifest import (
    Counts,
    Manifest,
    Model,
    Operator,
    Prompt,
    Shard,
    Tokens,
    Yield,
    Yields,
    describe_data,
)
from specs_data.recipe import deciding, named_verifiers
from specs_data.records import Paid
from specs_data.rollouts.plan import Plan
from specs_data.rollouts.store import Store
from specs_data.rollouts.tables import digest

_PACKAGES = ("specs-data", "transformers", "torch", "vllm", "google-genai", "datasets", "pyarrow", "math-verify")


def make_manifest(
    store: Store,
    plan: Plan,
    fates: Fates,
    *,
    splits: Mapping[str, Sequence[Shard]],
    figures: Figures,
    left_out: Mapping[str, Mapping[str, int]],
    operators: Mapping[str, Mapping[str, str]],
    rubric: str | None,
    seconds: Mapping[str, float],
    started: str,
) -> Manifest:
    """The manifest of a finished run. `rubric` is the digest of the verifier's prompt."""
    recipe, system = plan.recipe, plan.system
    services = _describe_services(fates.served)
    settings = recipe.model_dump(mode="json", exclude_none=True, exclude=set(deciding("nothing")))
    return Manifest(
        name=plan.policy.name,
        recipe=settings,
        recipe_fingerprint=digest(settings).hex(),
        response_format=plan.fmt.model_dump(mode="json"),
        dataset=describe_data(splits),
        counts=Counts(**fates.counts()),
        dropped={stage: dict(reasons) for stage, reasons in left_out.items()},
        yields=Yields(
            answer_type=_yields(fates, "answer_type"),
            source=_yields(fates, "source"),
        ),
        operators={name: Operator(**told) for name, told in operators.items()},
        rounds=fates.rounds(),
        **figures.told(),
        verdicts=fates.verdicts(),
        tokens=_count_tokens(store, fates, plan),
        cost_usd=_cost(store.paid()),
        seconds={stage: round(spent, 3) for stage, spent in seconds.items()},
        started=started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        models={
            "policy": Model(plan.policy.name, plan.policy.fingerprint),
            "rejected": Model(plan.rival.name, plan.rival.fingerprint) if plan.rival else None,
            "verifier": services.get("verification", Model(requested=recipe.verifier, served={})),
            "judge": services.get("judging"),
        },
        prompts={
            "system": Prompt(system.name, system.sha256) if system else None,
            "verification": Prompt("verify", rubric) if rubric else None,
        },
        versions=_versions(),
    )


def _count_tokens(store: Store, fates: Fates, plan: Plan) -> dict[str, Tokens]:
    """Tokens by stage; those of judging services as they were paid for, and those of a policy that checks itself."""
    rows = fates.served.get("verification", ()) if "policy" in named_verifiers(plan.verifier) else ()
    own = [row[-2:] for row in rows]
    checks = {"verification": Tokens(*map(sum, zip(*own, strict=True)))} if own else {}
    paid = {stage: Tokens(paid.prompt_tokens, paid.completion_tokens) for stage, paid in store.paid().items()}
    return {"generation": Tokens(**fates.tokens()), **checks, **paid}


def _cost(paid: Mapping[str, Paid]) -> dict[str, float] | None:
    """US dollars by stage, None if nothing was paid for or a price is not known."""
    if not all(stage.priced for stage in paid.values()):
        return None
    return {name: round(stage.dollars, 6) for name, stage in paid.items()} or None


def _describe_services(served: Served) -> dict[str, Model]:
    """Per stage the model asked for, and for how many rows each model answered."""
    return {
        stage: Model(requested=rows[0][0], served={served_by: count for _, served_by, count, _, _ in rows})
        for stage, rows in served.items()
        if rows
    }


def _versions() -> dict[str, str]:
    """The versions of Python and of the packages that matter, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _yields(fates: Fates, field: str) -> dict[str, Yield]:
    return {name: Yield(**counts) for name, counts in fates.yields(field).items()}
