"""What the terminal is told at the end: a run's funnel, and the operators with an example."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil

import msgspec

from specs_data.format import THINK_ANSWER, Part, ResponseFormat
from specs_data.pairs.manifest import Manifest, Round
from specs_data.pairs.twin import fault
from specs_data.plugins import Corruption, find_corruptions

_STAGES = {
    "problems": "problems",
    "sampled": "responses sampled",
    "malformed": "without the format",
    "right": "right",
    "well_formed": "well formed",
    "verified": "verified",
    "pairs": "pairs",
    "blind_checked": "tried without their picture",
    "blind_solved": "solved without it",
}
_REASONS = 5  # of each stage; dropped.jsonl has all
_JSON = ResponseFormat(
    name="json", layout="json", thought=Part(open="reasoning"), answer=Part(open="answer"), instruction="-"
)
_DRAWN = {
    "tags": ("Drawn by default", THINK_ANSWER),
    "json": ("Drawn by default in a JSON format", _JSON),
    "by name": ("Drawn where --corruption names them", THINK_ANSWER),
}


def summary(manifest: Manifest) -> str:
    """The closing table of a run."""
    rows = [
        (label, f"{count:,}")
        for stage, label in _STAGES.items()
        if (count := getattr(manifest.counts, stage)) is not None
    ]
    for stage, reasons in (manifest.dropped or {}).items():
        rows += [(f"left out, {stage}: {reason}", f"{count:,}") for reason, count in list(reasons.items())[:_REASONS]]
        if rest := list(reasons.values())[_REASONS:]:
            rows.append((f"left out, {stage}: {len(rest)} other reasons, in dropped.jsonl", f"{sum(rest):,}"))
    rows += [(f"seconds, {stage}", f"{spent:,.1f}") for stage, spent in (manifest.seconds or {}).items()]
    rows += [
        (f"tokens, {stage}", f"{used.prompt:,} in, {used.completion:,} out")
        for stage, used in (manifest.tokens or {}).items()
        if used.prompt or used.completion
    ]
    rows += [(f"cost, {stage}", f"${spent:,.4f}") for stage, spent in (manifest.cost_usd or {}).items()]
    rows += _sooner(manifest.rounds or [])
    return _table(rows)


def _sooner(rounds: Sequence[Round]) -> list[tuple[str, str]]:
    """What an end after an earlier round would have saved, where that is more than it would have cost: the end that
    saves the most beyond its cost."""
    yields = [each.pairs / each.responses if each.responses else 0.0 for each in rounds]
    pairs, tokens = (list(accumulate(getattr(each, what) for each in rounds)) for what in ("pairs", "tokens"))
    if not rounds or not pairs[-1] or not tokens[-1] or not yields[0]:
        return []
    ends = []
    for last in range(1, len(rounds) - 1):
        share = ceil(100 * yields[last] / yields[0] + 1e-9) / 100 or 0.01
        least = share * yields[0]
        # With this share it would end there, and not before; there is none above 1.
        if share <= 1 and yields[last] < least and all(each >= least for each in yields[1:last]):
            kept, taken = pairs[last] / pairs[-1], tokens[last] / tokens[-1]
            ends.append(
                (kept - taken, f"with --enough {share:g}", f"{kept:.1%} of the pairs for {taken:.1%} of the tokens")
            )
    most = max(ends, default=None)
    return [most[1:]] if most and most[0] > 0 else []


def describe_corruptions(names: Sequence[str] = ()) -> str:
    """The operators called `names`, or each that is installed, by when it is drawn: its name, where it comes from,
    what it does, and what it makes of one response."""
    if names:
        found, in_json = find_corruptions(names), find_corruptions(drawn="json")
        those = [
            (fmt, {name: each for name, each in found.items() if (name in in_json) is (fmt is _JSON)})
            for fmt in (THINK_ANSWER, _JSON)
        ]
        sections = [_section("As asked for", fmt, each) for fmt, each in those if each]
    else:
        sections = [_section(title, fmt, find_corruptions(drawn=drawn)) for drawn, (title, fmt) in _DRAWN.items()]
    return "\n\n".join(part for section in sections for part in section)


def corruptions_json(names: Sequence[str] = ()) -> str:
    """The same operators as JSON: by name their origin, what they do, and their source's digest."""
    found = find_corruptions(names) if names else {}
    for drawn in () if names else _DRAWN:
        found = {**found, **find_corruptions(drawn=drawn)}
    described = {name: operator.describe() for name, operator in found.items()}
    return msgspec.json.format(msgspec.json.encode(described), indent=2).decode()


def _section(title: str, fmt: ResponseFormat, corruptions: Mapping[str, Corruption]) -> list[str]:
    text = _example(fmt)
    parts = [f"{title}. A well-formed response:\n{_indented(text)}"]
    for name, corruption in corruptions.items():
        made = corruption.apply(text, fmt, random.Random(0))
        shown = "(does not apply to it)" if made is None else made
        reason = made is not None and fault(text, made, fmt)
        refused = f"\n  this would be left out: {reason}" if reason else ""
        parts.append(f"{name}  ({corruption.origin})\n  {corruption.summary}\n{_indented(shown)}{refused}")
    return parts


def _example(fmt: ResponseFormat) -> str:
    return fmt.render("There are 2 red and 3 blue blocks. 2 + 3 = 5.", r"\boxed{5}")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)
