r"""Reading the form that a model filled in, as models write it.

Worked example, for a form with `reason` and `consistent`. All of these fill it in the same way:

    {"reason": "\\frac{1}{2} is right", "consistent": true}
    Sure! Here it is: ```json {"reason": "\frac{1}{2} is right", "consistent": True,} ```
    <think>The answer ...</think> {'reason': '\\frac{1}{2} is right', 'consistent': True}

None of these fills it in:

    consistent: true                      no JSON
    {"consistent": true} {"consistent": false}    which of the two?
    The response says {"consistent": true}. It wants to ...    a quotation is no verdict
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

if TYPE_CHECKING:
    from specs_data.services import Form

LONGEST = 100_000  # characters of a reply that are read, from its end
MOST_OBJECTS = 50
LONGEST_AFTERWORD = 200  # characters after a form that may be kind words and no discussion of a quotation

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONE_BACKSLASH = re.compile(r'\\(?:(?=u(?![0-9a-fA-F]{4}))|(?![\\"/bfnrtu])|(?=[bfnrt][a-zA-Z]))')
_PYTHON = re.compile(r"\b(True|False|None)\b")
_JSON_OF = {"True": "true", "False": "false", "None": "null"}
_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_QUOTES = str.maketrans("“”", '""')
_PAIR = re.compile(r'\\\\|[{}]|"')

F = TypeVar("F", bound="Form")


def read_form(form: type[F], text: str, item: str = "") -> F | None:
    """The form that `text` fills in, None where it fills in none, or several. A form that
    repeats the id of the `item` counts before all others."""
    text = text[-LONGEST:].strip()
    if "</think>" in text:
        text = text.rpartition("</think>")[2].strip()
    found = list(_forms(form, text))
    ours = [filled for filled, _, _ in found if item and filled.item == item]
    if not ours and (_is_all(found, text) or _is_verdict(found, text)):
        ours = [filled for filled, _, _ in found]
    return ours[0] if len(ours) == 1 else None


def _is_all(found: list[tuple[F, int, int]], text: str) -> bool:
    """Is the reply one form and nothing else?"""
    return len(found) == 1 and not (text[: found[0][1]] + text[found[0][2] :]).replace("json", "").strip("` \n.")


def _is_verdict(found: list[tuple[F, int, int]], text: str) -> bool:
    """Does the reply end in a form that says more than a flag, and of no other item?"""
    if not found:
        return False
    filled, _, end = found[-1]
    says_more = not filled.item and len(filled.model_fields_set) > 1
    return says_more and len(text) - end <= LONGEST_AFTERWORD


def _forms(form: type[F], text: str) -> Iterator[tuple[F, int, int]]:
    """Every form in `text`, in order, and where it starts and ends; one may stand within another object."""
    at = tried = 0
    while tried < MOST_OBJECTS and (start := text.find("{", at)) >= 0:
        tried += 1
        end = _closing(text, start)
        fields = _read(text[start:end]) if end else None
        filled = _filled(form, fields) if fields is not None else None
        at = end if filled else start + 1
        if filled:
            yield filled, start, end


def _closing(text: str, start: int) -> int:
    """Where the object that opens at `start` ends, 0 if it does not. Braces in strings do not count, unless that
    leaves it open: a quote may be missing."""
    for with_strings in (True, False):
        depth, quoted, at = 0, False, start
        for mark in _PAIR.finditer(text, start):
            sign, at = mark.group(), mark.end()
            if sign == '"' and with_strings and text[mark.start() - 1] != "\\":
                quoted = not quoted
            elif sign in "{}" and not quoted:
                depth += 1 if sign == "{" else -1
                if not depth:
                    return at
    return 0


def _read(text: str) -> dict[str, Any] | None:
    """The object that `text` writes, as JSON, as nearly JSON, or as Python."""
    for read in (text, _mended(text), _mended(text.translate(_QUOTES))):
        try:
            fields = json.loads(read, strict=False)
        except (ValueError, RecursionError):
            continue
        return _by_name(fields) if isinstance(fields, dict) else None
    try:
        fields = ast.literal_eval(re.sub(r"\b(true|false|null)\b", lambda word: word[1].title(), text))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return _by_name(fields) if isinstance(fields, dict) else None


def _mended(text: str) -> str:
    """`text` with LaTeX's backslashes doubled, and without Python's words and trailing commas outside of strings."""
    pieces, end = [], 0
    for string in _STRING.finditer(text):
        pieces += [_plainly(text[end : string.start()]), _LONE_BACKSLASH.sub(r"\\\\", string.group())]
        end = string.end()
    return "".join([*pieces, _plainly(text[end:])])


def _plainly(text: str) -> str:
    return _TRAILING_COMMA.sub("", _PYTHON.sub(lambda word: _JSON_OF[word[1]], text))


def _by_name(fields: dict[Any, Any]) -> dict[str, Any]:
    return {str(name).strip().lower(): value for name, value in fields.items()}


def _filled(form: type[F], fields: dict[str, Any]) -> F | None:
    try:
        return form.model_validate(fields)
    except ValidationError:
        return None
