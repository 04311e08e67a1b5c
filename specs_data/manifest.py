"""The manifest of a run: what went in, what came out, what it took."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from specs_data.dataset import Figures
from specs_data.parquet import Shard, fingerprint
from specs_data.prices import Prices
from specs_data.store import digest

_PACKAGES = ("specs-data", "transformers", "torch", "vllm", "google-genai", "datasets", "pyarrow", "math-verify")


def describe_dataset(splits: Mapping[str, Sequence[Shard]]) -> dict[str, Any]:
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


def describe_recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe and its fingerprint."""
    return {"recipe": settings, "recipe_fingerprint": digest(settings).hex()}


def describe_yields(
    figures: Figures, problems_by_type: Mapping[str, int], problems_by_source: Mapping[str, int]
) -> dict[str, Any]:
    """Problems and pairs by answer type and by source."""
    return {
        "answer_type": _yields(problems_by_type, figures.answer_types),
        "source": _yields(problems_by_source, figures.sources),
    }


def describe_services(
    served: Mapping[str, Sequence[tuple[str, str, int, int, int]]], prices: Prices, batch: bool
) -> tuple[dict[str, Any], dict[str, float] | None]:
    """Per stage the models asked for and served; and what they cost in US dollars, None if nothing was paid for
    or a price is not known."""
    models = {
        stage: {"requested": rows[0][0], "served": {served_by: count for _, served_by, count, _, _ in rows}}
        for stage, rows in served.items()
        if rows
    }
    costs: dict[str, float] = {}
    for stage in models:
        paid = [prices.cost(row[1] or row[0], row[3], row[4], batch) for row in served[stage]]
        if any(cost is None for cost in paid):
            return models, None
        costs[stage] = round(sum(cost or 0.0 for cost in paid), 6)
    return models, costs or None


def describe_tokens(
    generation: Mapping[str, int], served: Mapping[str, Sequence[tuple[str, str, int, int, int]]]
) -> dict[str, Mapping[str, int]]:
    """Prompt and completion tokens by stage."""
    paid = {
        stage: {"prompt": sum(row[3] for row in rows), "completion": sum(row[4] for row in rows)}
        for stage, rows in served.items()
    }
    return {"generation": generation, **paid}


def versions() -> dict[str, str]:
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


def _yields(problems: Mapping[str, int], pairs: Mapping[str, int]) -> dict[str, dict[str, int]]:
    return {name: {"problems": count, "pairs": pairs.get(name, 0)} for name, count in problems.items()}
