"""The manifest of a run: what went in, what came out, what it took."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from specs_data.build.dataset import Figures
from specs_data.build.fates import Fates, Served
from specs_data.pairs.figures import describe_lengths
from specs_data.pairs.parquet import Shard, fingerprint
from specs_data.recipe import deciding
from specs_data.records import Paid
from specs_data.rollouts.plan import Plan
from specs_data.rollouts.store import Store, digest

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
) -> dict[str, Any]:
    """The manifest of a finished run. `rubric` is the digest of the verifier's prompt."""
    recipe = plan.recipe
    models = _describe_services(fates.served)
    settings = recipe.model_dump(mode="json", exclude_none=True, exclude=set(deciding("nothing")))
    return {
        "name": plan.policy.name,
        "recipe": settings,
        "recipe_fingerprint": digest(settings).hex(),
        "response_format": plan.fmt.model_dump(mode="json"),
        "dataset": _describe_dataset(splits),
        "counts": fates.counts(),
        "dropped": left_out,
        "yields": {
            "answer_type": fates.yields("answer_type"),
            "source": fates.yields("source"),
        },
        "corruptions": dict(figures.corruptions.most_common()),
        "operators": operators,
        "samples_per_pair": {str(count): pairs for count, pairs in sorted(figures.samples.items())},
        "lengths": {"chosen": describe_lengths(figures.chosen), "rejected": describe_lengths(figures.rejected)},
        "verdicts": fates.verdicts(),
        "tokens": _count_tokens(store, fates),
        "cost_usd": _cost(store.paid()),
        "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
        "started": started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": {
            "policy": {"name": plan.policy.name, "fingerprint": plan.policy.fingerprint},
            "rejected": {"name": plan.rival.name, "fingerprint": plan.rival.fingerprint} if plan.rival else None,
            "verifier": models.get("verification", {"requested": recipe.verifier, "served": {}}),
            "judge": models.get("judging"),
        },
        "prompts": {
            "system": {"name": plan.system.name, "sha256": plan.system.sha256} if plan.system else None,
            "verification": {"name": "verify", "sha256": rubric} if rubric else None,
        },
        "versions": _versions(),
    }


def _count_tokens(store: Store, fates: Fates) -> dict[str, Mapping[str, int]]:
    """Prompt and completion tokens by stage; those of judging services as they were paid for."""
    paid = {
        stage: {"prompt": paid.prompt_tokens, "completion": paid.completion_tokens}
        for stage, paid in store.paid().items()
    }
    return {"generation": fates.tokens(), **paid}


def _cost(paid: Mapping[str, Paid]) -> dict[str, float] | None:
    """US dollars by stage, None if nothing was paid for or a price is not known."""
    if not all(stage.priced for stage in paid.values()):
        return None
    return {name: round(stage.dollars, 6) for name, stage in paid.items()} or None


def _describe_dataset(splits: Mapping[str, Sequence[Shard]]) -> dict[str, Any]:
    """The dataset's fingerprint, and its files by split."""
    return {
        "fingerprint": fingerprint(splits),
        "splits": {
            name: {
                "rows": sum(shard.rows for shard in shards),
                "bytes": sum(shard.bytes for shard in shards),
                "shards": msgspec.to_builtins(list(shards)),
            }
            for name, shards in splits.items()
        },
    }


def _describe_services(served: Served) -> dict[str, Any]:
    """Per stage the model asked for, and for how many rows each model answered."""
    return {
        stage: {"requested": rows[0][0], "served": {served_by: count for _, served_by, count, _, _ in rows}}
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


def write_manifest(manifest: Mapping[str, Any], file: Path) -> None:
    """Write the manifest in one step: a reader sees the old one or the new one."""
    part = file.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    part.replace(file)
