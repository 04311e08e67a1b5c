"""What the terminal is told at the end: a run's funnel, and the operators with an example."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from specs_data.format import THINK_ANSWER
from specs_data.pairs.twin import fault
from specs_data.plugins import Corruption

_STAGES = {
    "problems": "problems",
    "sampled": "responses sampled",
    "right": "right",
    "well_formed": "well formed",
    "verified": "verified",
    "pairs": "pairs",
}
_REASONS = 5  # of each stage; dropped.jsonl has all
_EXAMPLE = THINK_ANSWER.render("There are 2 red and 3 blue blocks. 2 + 3 = 5.", r"\boxed{5}")


def summary(manifest: Mapping[str, Any]) -> str:
    """The closing table of a run."""
    counts, seconds, tokens = manifest["counts"], manifest["seconds"], manifest["tokens"]
    rows = [(label, f"{counts[stage]:,}") for stage, label in _STAGES.items()]
    for stage, reasons in manifest["dropped"].items():
        rows += [(f"left out, {stage}: {reason}", f"{count:,}") for reason, count in list(reasons.items())[:_REASONS]]
        if rest := list(reasons.values())[_REASONS:]:
            rows.append((f"left out, {stage}: {len(rest)} other reasons, in dropped.jsonl", f"{sum(rest):,}"))
    rows += [(f"seconds, {stage}", f"{spent:,.1f}") for stage, spent in seconds.items()]
    rows += [
        (f"tokens, {stage}", f"{used['prompt']:,} in, {used['completion']:,} out")
        for stage, used in tokens.items()
        if used["prompt"] or used["completion"]
    ]
    rows += [(f"cost, {stage}", f"${spent:,.4f}") for stage, spent in (manifest["cost_usd"] or {}).items()]
    return _table(rows)


def describe_corruptions(corruptions: Mapping[str, Corruption]) -> str:
    """Each operator: its name, where it comes from, what it does, and what it makes of one response."""
    parts = [f"A well-formed response:\n{_indented(_EXAMPLE)}"]
    for name, corruption in corruptions.items():
        made = corruption.apply(_EXAMPLE, THINK_ANSWER, random.Random(0))
        shown = "(does not apply to it)" if made is None else made
        reason = made is not None and fault(_EXAMPLE, made, THINK_ANSWER)
        refused = f"\n  this would be left out: {reason}" if reason else ""
        parts.append(f"{name}  ({corruption.origin})\n  {corruption.summary}\n{_indented(shown)}{refused}")
    return "\n\n".join(parts)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)
