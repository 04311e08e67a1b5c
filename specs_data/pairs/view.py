"""What a reader of a preference row wants to see, whoever made the row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from msgspec import Struct

from specs_data.pairs.diff import Difference, difference


class View(Struct, frozen=True, dict=True):
    """One pair. Texts are as the models wrote them; `images` are files' bytes. What a row does not
    state is empty."""

    id: str
    system: str
    question: str
    answer: str
    answer_type: str
    corruption: str
    rejected_from: str
    chosen: str
    rejected: str
    images: tuple[bytes, ...]

    @cached_property
    def difference(self) -> Difference:
        """The steps from chosen to rejected."""
        return difference(self.chosen, self.rejected)

    @property
    def kind(self) -> str:
        """The operator that made the rejected side, "none" if none did."""
        return self.corruption or "none"


def view(row: Mapping[str, Any]) -> View:
    """The View of a row as `pairs_io.rows` gives it."""
    return View(
        id=_text(row, "id"),
        system=_said(row["prompt"], "system"),
        question=_said(row["prompt"], "user"),
        answer=_text(row, "answer"),
        answer_type=_text(row, "answer_type"),
        corruption=_text(row, "corruption"),
        rejected_from=_text(row, "rejected_from"),
        chosen=row["chosen"][-1]["content"],
        rejected=row["rejected"][-1]["content"],
        images=tuple(image["bytes"] for image in row.get("images") or () if image.get("bytes")),
    )


def varied(rows: Iterable[Mapping[str, Any]], count: int) -> list[View]:
    """`count` of `rows`, in order: the first of each kind of corruption, then the first others."""
    first: dict[str, tuple[int, View]] = {}
    others: list[tuple[int, View]] = []
    for place, row in enumerate(rows):
        seen = view(row)
        if seen.kind not in first:
            first[seen.kind] = (place, seen)
        elif len(others) < count:
            others.append((place, seen))
    return [seen for _, seen in sorted([*first.values(), *others][:count], key=lambda item: item[0])]


def _said(messages: Iterable[Mapping[str, str]], role: str) -> str:
    return "\n\n".join(message["content"] for message in messages if message["role"] == role)


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value)
