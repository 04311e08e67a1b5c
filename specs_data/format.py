"""The response format: its only definition.

A format is two parts, a thought and an answer, each between an opening and a closing marker, in
this order and nothing else. `think-answer` is the paper's. Others come from a TOML file, which may
leave a marker empty (`Final answer: 5` has an answer that opens with a label and closes at the end
of the text) or choose the JSON layout.
"""

from __future__ import annotations

import json
import re
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from specs_data.errors import UserError

STOP_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<eos>")


class Part(BaseModel):
    """The markers around one part of a response; an empty one stands for the text's own edge.
    In the JSON layout `open` is the key and `close` is unused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    open: str = ""
    close: str = ""


class ResponseFormat(BaseModel):
    """How a response must look.

    `labels` are plain-text stand-ins for the answer markers (`Answer:`): they carry no content.
    `instruction` is the system prompt that asks for the format: the text itself, or a name in prompts/.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    name: str
    layout: Literal["tags", "json"] = "tags"
    thought: Part | None = None
    answer: Part
    labels: tuple[str, ...] = ("Answer:",)
    instruction: str

    @model_validator(mode="after")
    def _can_be_parsed(self) -> Self:
        marks = [part.open for part in self.parts] if self.layout == "json" else list(self.markers)
        if self.layout == "json" and not all(marks):
            raise ValueError("each part of a JSON format needs a key: open")
        if len(set(marks)) < len(marks):
            raise ValueError(f"a marker stands twice: {', '.join(marks)}")
        if self.layout == "tags" and self.thought and not (self.thought.close or self.answer.open):
            raise ValueError("nothing parts the thought from the answer: give a marker")
        if not all(mark.strip() for mark in (*marks, *self.labels)):
            raise ValueError("markers and labels must not be blank")
        return self

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The parts in order."""
        return (self.answer,) if self.thought is None else (self.thought, self.answer)

    @cached_property
    def markers(self) -> tuple[str, ...]:
        """Every non-empty marker, in order. In the JSON layout there are none."""
        if self.layout == "json":
            return ()
        return tuple(marker for part in self.parts for marker in (part.open, part.close) if marker)

    @cached_property
    def _no_content(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, (*self.markers, *self.labels))) or r"(?!)")

    def parse(self, text: str) -> tuple[str, str] | str:
        """(thought, answer) of a well-formed response, stripped, or the named reason it is not one.

        Outer white space and trailing stop tokens are taken away first. A format without a thought
        gives an empty one.
        """
        text = strip_stop_tokens(text)
        found = self._parse_json(text) if self.layout == "json" else self._parse_tags(text)
        if isinstance(found, str):
            return found
        names = ("thought", "answer")[-len(found) :]
        for name, body in zip(names, found, strict=True):
            if not body.strip():
                return f"blank {name}"
        thought, answer = ("", *found)[-2:]
        return thought.strip(), answer.strip()

    def check(self, text: str) -> str | None:
        """The named reason why `text` breaks the format, or None if it holds."""
        found = self.parse(text)
        return found if isinstance(found, str) else None

    def render(self, thought: str, answer: str) -> str:
        """A well-formed response with these bodies."""
        bodies = (answer,) if self.thought is None else (thought, answer)
        if self.layout == "json":
            keys = [part.open for part in self.parts]
            return json.dumps(dict(zip(keys, bodies, strict=True)), ensure_ascii=False)
        return "\n".join(
            f"{part.open}{' ' if part.open and not part.close else ''}{body}{part.close}"
            for part, body in zip(self.parts, bodies, strict=True)
        )

    def content(self, text: str) -> str:
        """`text` with markers and answer labels taken away and white space folded: what a
        format-only change must keep."""
        return " ".join(self._no_content.sub(" ", strip_stop_tokens(text)).split())

    def tagged(self, part: Part) -> bool:
        """Whether `part` stands between two markers that can be taken away."""
        return self.layout == "tags" and bool(part.open and part.close)

    def without(self, text: str, marker: str) -> str:
        """`text` with `marker` taken away; words that only it kept apart come on lines of their own, so
        that an answer after it does not run on from the thought."""
        first, *rest = text.split(marker)
        for piece in rest:
            gap = "\n" if first[-1:].strip() and piece[:1].strip() else ""
            first = f"{first}{gap}{piece}"
        return first

    def _parse_tags(self, text: str) -> tuple[str, ...] | str:
        ends = [0]
        for marker in self.markers:
            count = text.count(marker)
            if count != 1:
                return f"{'no' if count == 0 else 'more than one'} {marker}"
            place = text.find(marker)
            if place < ends[-1]:
                return "markers out of order"
            ends.append(place + len(marker))
        bodies = []
        rest = text
        for number, part in enumerate(self.parts):
            before, _, rest = rest.partition(part.open) if part.open else ("", "", rest)
            if before.strip():
                return f"text before {part.open}"
            end = part.close or (self.parts[number + 1].open if number + 1 < len(self.parts) else "")
            if not end:
                bodies.append(rest)
                rest = ""
                continue
            body, _, after = rest.partition(end)
            bodies.append(body)
            rest = after if part.close else end + after
        if rest.strip():
            return f"text after {self.markers[-1]}"
        return tuple(bodies)

    def _parse_json(self, text: str) -> tuple[str, ...] | str:
        try:
            value = json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            return "not JSON"
        keys = [part.open for part in self.parts]
        if not isinstance(value, dict) or list(value) != keys:
            return f"not a JSON object with the keys {', '.join(keys)}"
        bodies = tuple(value.values())
        if not all(isinstance(body, str) for body in bodies):
            return "a JSON value is not a string"
        return bodies


THINK_ANSWER = ResponseFormat(
    name="think-answer",
    thought=Part(open="<think>", close="</think>"),
    answer=Part(open="<answer>", close="</answer>"),
    instruction="think-answer",
)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; one that has a key twice is refused."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def strip_stop_tokens(text: str) -> str:
    """`text` without outer white space and trailing stop tokens."""
    end = len(text.rstrip())
    while text.endswith(STOP_TOKENS, 0, end):
        end -= len(next(token for token in STOP_TOKENS if text.endswith(token, 0, end)))
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end].strip()


def load_format(name: str) -> ResponseFormat:
    """The built-in format called `name`, or the one in the TOML file `name`. Raises UserError."""
    if name == THINK_ANSWER.name:
        return THINK_ANSWER
    path = Path(name)
    if path.suffix != ".toml":
        raise UserError(f"unknown format {name!r}; use {THINK_ANSWER.name!r} or a path to a .toml file")
    try:
        return ResponseFormat.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"cannot read the format file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the format file {path} is not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"the format file {path} is wrong at {where!r}: {first['msg']}") from None
