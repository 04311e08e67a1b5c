r"""What a model really does to a response format: malformed responses sorted into named classes.

    <think>2 + 3 = 5.<answer>5</answer>            drop_think_close
    <think>2 + 3 = 5.</think>\boxed{5}             remove_answer_tags
    <think>2 + 3 = 5. \boxed{5}</think>            shift_tags
    2 + 3 = 5. The answer is 5.                    remove_all_tags
    <think>2 + 3 = 5.</thought><answer>5</answer>  other_tag

A class has the name of the corruption operator that makes it, where there may be one; what no operator makes
is named by what is wrong.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from itertools import combinations

from specs_data.format import ResponseFormat, strip_stop_tokens

CUT_OFF = "cut_off"
EMPTY = "empty"
ANSWER_ONLY = "answer_only"
SEVERAL = "several_markers"  # more than one fault that no class of its own has
_TAG = re.compile(r"<\s*[/\\]?\s*[A-Za-z][\w-]{0,19}\s*/?>|\[\s*/?\s*[A-Za-z]{4,12}\s*\]")
_MOST_TAGS = 8  # that are tried in a missing marker's place
_FENCE = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)
_BOX = re.compile(r"\\boxed\s*\{")


def error_class(text: str, fmt: ResponseFormat, finish_reason: str = "stop") -> str | None:
    """The class of the format error in a response, None if the format holds. `finish_reason` is the engine's: what
    it ended at the limit of tokens was cut off, whatever else is wrong with it."""
    fault = fmt.check(text)
    if fault is None:
        return None
    text = strip_stop_tokens(text)
    if finish_reason == "length":
        return CUT_OFF
    if not text:
        return EMPTY
    if fmt.layout == "json":
        return _json_error(text, fmt) or _slug(fault, fmt)
    return _tag_error(text, fmt) or _slug(fault, fmt)


def _json_error(text: str, fmt: ResponseFormat) -> str | None:
    """The class of what should be JSON and is not, or is more; None where it takes more to say."""
    fenced = _FENCE.fullmatch(text)
    if fenced and fmt.check(fenced[1]) is None:
        return "fence_json"
    if fmt.check(f"{text}}}") is None:
        return "unclose_json"
    if text.startswith("{"):
        return "requote_json" if _is_dictionary(text, fmt) else None
    keys = [part.open for part in fmt.parts]
    labelled = [line.partition(":")[0] for line in text.splitlines() if line.partition(":")[0] in keys]
    if labelled == keys:
        return "label_json"
    return None if text.startswith(("[", '"')) or _is_json(text) else "unwrap_json"


def _is_dictionary(text: str, fmt: ResponseFormat) -> bool:
    """Is it the object as a Python dictionary, with other quotes?"""
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's on a backslash that escapes nothing
            found = ast.literal_eval(text)
        return isinstance(found, dict) and fmt.check(json.dumps(found)) is None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _tag_error(text: str, fmt: ResponseFormat) -> str | None:
    """The class, by which markers are missing and which stand twice; None where neither is so."""
    roles = _roles(fmt)
    counts = {role: text.count(marker) for role, marker in roles.items()}
    missing = [role for role, count in counts.items() if not count]
    repeated = any(count > 1 for count in counts.values())
    if not missing:
        return "repeat_marker" if repeated else None
    if _other_tags_stand_for(text, fmt, [roles[role] for role in missing]):
        return "other_tag"
    if len(missing) == len(counts):
        return "remove_all_tags"
    return SEVERAL if repeated else _missing_error(text, fmt, frozenset(missing))


def _other_tags_stand_for(text: str, fmt: ResponseFormat, missing: list[str]) -> bool:
    """Is the response mended by putting the missing markers, in order, where other tags stand?"""
    tags = list(_TAG.finditer(text))[: _MOST_TAGS + len(fmt.markers)]
    for chosen in combinations(tags, len(missing)):
        mended = text
        for tag, marker in reversed(list(zip(chosen, missing, strict=True))):
            mended = mended[: tag.start()] + marker + mended[tag.end() :]
        if fmt.check(mended) is None:
            return True
    return False


def _missing_error(text: str, fmt: ResponseFormat, missing: frozenset[str]) -> str:
    """The class of a response that lacks some markers and has the others once."""
    roles = _roles(fmt).keys()
    if missing >= {"answer_open", "answer_close"} & roles and "answer_open" in missing:
        return _without_answer(text, fmt, missing)
    if missing == {"think_open", "think_close"} & roles:
        return "remove_think_tags" if text.partition(fmt.answer.open)[0].strip() else ANSWER_ONLY
    return f"drop_{next(iter(missing))}" if len(missing) == 1 else SEVERAL


def _without_answer(text: str, fmt: ResponseFormat, missing: frozenset[str]) -> str:
    """No marker of the answer is there: is its text, and where?"""
    if "think_open" in missing or fmt.thought is None:
        return SEVERAL
    close = fmt.thought.close
    thought, closed, after = text.partition(close) if close else (text, "", "")
    if after.strip():
        return "replace_answer_tags" if after.lstrip().startswith(fmt.labels) else "remove_answer_tags"
    if not closed:
        return "thought_unclosed"
    if any(label in thought for label in fmt.labels):
        return "think_only"
    return "shift_tags" if _BOX.search(thought) else "thought_without_answer"


def _roles(fmt: ResponseFormat) -> dict[str, str]:
    """The format's markers, in order, by what they do."""
    parts = (("think", fmt.thought), ("answer", fmt.answer))
    markers = {f"{name}_{end}": getattr(part, end) for name, part in parts if part for end in ("open", "close")}
    return {role: marker for role, marker in markers.items() if marker}


def _slug(fault: str, fmt: ResponseFormat) -> str:
    """A reason of the format's own as the name of a class, with what a marker does for the marker."""
    for role, marker in _roles(fmt).items():
        fault = fault.replace(marker, role)
    words = fault.partition(" with the keys ")[0]
    return re.sub(r"\W+", "_", words).strip("_").lower()
