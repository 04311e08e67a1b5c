"""Responses that exist already: JSONL or Parquet with problem_id and response."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specs_data.errors import UserError
from specs_data.files import response_rows, sha256_of
from specs_data.records import Response


def read_responses(file: Path) -> Iterator[tuple[str, Response] | str]:
    """(problem_id, response) of each row in order, or the reason why a row is left out.

    Raises UserError if the file cannot be read or none of its first rows has one of the two columns.
    """
    for row in response_rows(file, ("problem_id", "response")):
        yield row if isinstance(row, str) else _response(row)


def file_digest(file: Path) -> str:
    """The sha256 hex digest of a file's bytes. Raises UserError if it cannot be read."""
    try:
        return sha256_of(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def _response(row: dict[str, Any]) -> tuple[str, Response] | str:
    text, name = row.get("response"), row.get("problem_id")
    if not isinstance(text, str) or name is None:
        return "not a problem_id and a response"
    return str(name), Response(text)
