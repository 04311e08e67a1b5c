"""Evaluations as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specs_data.inert import one_line
from specs_data.measure.estimate import Estimate
from specs_data.measure.evaluation import Evaluation, FormatSlice, Slice
from specs_data.texts import tell

_ERRORS = 5  # classes of format errors that are shown
_LONGEST = 28  # characters of a name


def table(evaluation: Evaluation) -> str:
    """The figures of one evaluation: by format, then by type and source in the first format, then its errors.
    Intervals are of 95 %."""
    parts = [
        f"{one_line(evaluation.policy)} on {one_line(evaluation.problems)}: "
        f"{evaluation.n:,} problems, {evaluation.samples} responses to each",
        aligned([_HEAD, *(_line(name, part) for name, part in formats_of(evaluation).items())]),
    ]
    for title, slices in (("by type", evaluation.by_type), ("by source", evaluation.by_source)):
        if len(slices) > 1:
            parts.append(aligned([(title, *_HEAD[1:]), *(_line(name, part) for name, part in slices.items())]))
    if evaluation.format_errors:
        parts.append("format errors\n" + _counts(evaluation.format_errors))
    if evaluation.rbf is not None and evaluation.rbf.reason:
        parts.append(f"no branching factor: {one_line(evaluation.rbf.reason)}")
    if unjudged := sum(part.unjudged for part in formats_of(evaluation).values()):
        parts.append(f"not judged, and in no share of right ones: {tell(range(unjudged), 'response')}")
    if evaluation.left_out:
        parts.append("left out\n" + _counts(evaluation.left_out))
    return "\n\n".join(parts)


def formats_of(evaluation: Evaluation) -> Mapping[str, FormatSlice]:
    """The figures by format; those of an evaluation that knows no formats under its problems' name."""
    return evaluation.by_format or {evaluation.problems or "all": evaluation}


def share(found: Estimate | None) -> str:
    """A share with its interval, in percent."""
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:.1%}"
    return f"{found.value:.1%} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def branching(part: Slice) -> str:
    """The Rollout Branching Factor; one that is only a lower bound has a sign before it."""
    rbf = getattr(part, "rbf", None)
    if rbf is None or rbf.value is None:
        return "-"
    return f"{'≥ ' if rbf.beyond else ''}{rbf.value:.3f}"


def passed(part: Slice) -> str:
    """pass@k at the largest k."""
    if not part.pass_at:
        return "-"
    k = max(part.pass_at, key=int)
    return f"{part.pass_at[k]:.1%} (k = {k})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, in columns, without those that are empty; the first is aligned to the left."""
    told = [cells for cells in zip(*rows, strict=True) if set(cells[1:]) != {"-"}]
    rows = list(zip(*told, strict=True))
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


_HEAD = ("format", "problems", "well formed", "right", "pass@k", "RBF", "consistent", "tokens")


def _line(name: str, part: Slice) -> tuple[str, ...]:
    lengths = getattr(part, "lengths", None)
    return (
        one_line(name, _LONGEST),
        f"{part.n:,}",
        share(part.format),
        share(part.accuracy),
        passed(part),
        branching(part),
        share(getattr(part, "consistency", None)),
        f"{lengths.mean:,.0f}" if lengths else "-",
    )


def _counts(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda item: -item[1])
    lines = [f"  {count:>7,}  {one_line(name)}" for name, count in most[:_ERRORS]]
    if rest := most[_ERRORS:]:
        lines.append(f"  {sum(count for _, count in rest):>7,}  {len(rest)} others")
    return "\n".join(lines)
