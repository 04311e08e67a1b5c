"""The response format: its only definition.

A format is two parts, a thought and an answer, each between an opening and a closing marker, in
this order and nothing else. Each is a TOML file, in formats/ or anywhere; `think-answer` is the paper's. A file may
leave a marker empty (`Final answer: 5` has an answer that opens with a label and closes at the end
of the text), choose the JSON layout, or demand that the answer is in a \\boxed{}.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from itertools import pairwise, permutations
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from specs_data.errors import UserError
from specs_data.files import read_toml, shipped, toml_called

# Tags that models write in the place of a format's own, by the part they open. They carry no content either.
THOUGHT_TAGS = ("think", "thinking", "thought", "reason", "reasoning")
ANSWER_TAGS = ("answer", "final_answer", "solution", "result")
_SHIPPED = "specs_data.formats"
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<eos>")

_FENCE = re.compile(r"^\s*```\w*[ \t]*\n|\n?```\s*$")
# A quoted string whose end may be missing, or a bare word. Possessive: hostile text must not make it go back.
_VALUE = r""""(?:[^"\\]|\\.)*+"?|'(?:[^'\\]|\\.)*+'?|[^\s,{}\[\]"']+"""
# Chinese parts its words by no blank, so one next to it says nothing.
_CHINESE = r"[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]"
_BY_CHINESE = re.compile(f" (?={_CHINESE})|(?<={_CHINESE}) ")
_QUOTES = re.compile(r"\\.|\"", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)")
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")


class Part(BaseModel):
    """The markers around one part of a response; an empty one stands for the text's own edge.
    In the JSON layout `open` is the key and `close` is unused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    open: str = ""
    close: str = ""


class ResponseFormat(BaseModel):
    """How a response must look.

    `labels` are plain-text stand-ins for the answer markers (`Answer:`): they carry no content. `boxed` demands a
    \\boxed{} with something in it inside the answer.
    `instruction` is the system prompt that asks for the format: the text itself, or a name in prompts/.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    name: str
    layout: Literal["tags", "json"] = "tags"
    thought: Part | None = None
    answer: Part
    labels: tuple[str, ...] = ("Answer:",)
    boxed: bool = False
    instruction: str

    @model_validator(mode="after")
    def _can_be_parsed(self) -> Self:
        marks = [part.open for part in self.parts] if self.layout == "json" else list(self.markers)
        if self.layout == "json" and not all(marks):
            raise ValueError("each part of a JSON format needs a key: open")
        if len(set(marks)) < len(marks):
            raise ValueError(f"a marker stands twice: {', '.join(marks)}")
        for inner, outer in permutations(self.markers, 2):
            if inner in outer:
                raise ValueError(f"the marker {inner} stands inside the marker {outer}: no text could have it once")
        if self.layout == "tags" and self.thought and not (self.thought.close or self.answer.open):
            raise ValueError("nothing parts the thought from the answer: give a marker")
        if not all(mark.strip() for mark in (*marks, *self.labels)):
            raise ValueError("markers and labels must not be blank")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A format that demands no box is written as it was before one could be demanded: what is on record of its
        responses stays theirs."""
        said: dict[str, Any] = dump(self)
        return said if self.boxed else {name: value for name, value in said.items() if name != "boxed"}

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
    def _no_content(self) -> tuple[str, ...]:
        return tuple(sorted((*self.markers, *self.labels), key=len, reverse=True))

    def parse(self, text: str) -> tuple[str, str] | str:
        """(thought, answer) of a well-formed response, stripped, or the named reason it is not one.

        Outer white space and trailing stop tokens are taken away first. A format without a thought
        gives an empty one.
        """
        text = strip_stop_tokens(text)
        found = self._parse_json(text) if self.layout == "json" else self._parse_tags(text)
        if isinstance(found, str):
            return found
        *before, answer = map(str.strip, found)
        if before and not before[0]:
            return "blank thought"
        if not answer:
            return "blank answer"
        if self.boxed and not _is_boxed(answer):
            return "no \\boxed{} in the answer"
        return before[0] if before else "", answer

    def check(self, text: str) -> str | None:
        """The named reason why `text` breaks the format, or None if it holds."""
        found = self.parse(text)
        return found if isinstance(found, str) else None

    def render(self, thought: str, answer: str) -> str:
        """A well-formed response with these bodies, the answer in a box where the format demands one."""
        if self.boxed and not _is_boxed(answer):
            answer = rf"\boxed{{{answer}}}"
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
        format-only change must keep. Of the JSON layout, whole or broken, the values are left."""
        text = self.unwrapped(strip_stop_tokens(text))
        if self.layout == "json":
            text = self._key_label.sub(" ", text)
        for mark in self._no_content:
            text = text.replace(mark, " ")
        folded = " ".join(text.split())
        return folded if folded.isascii() else _BY_CHINESE.sub("", folded)  # which looks at every blank

    def unwrapped(self, text: str) -> str:
        """`text` without what only stands for the format's markers, a line break in its place: the tags
        that models write for others. In the JSON layout, the object's syntax and a code fence: each value
        comes, decoded, on a line after its key, `answer: 5`. The object may be broken anywhere."""
        if self.layout == "json":
            return self._member.sub(_labelled, _FENCE.sub("", text))
        return self._stand_in.sub("\n", text)

    def members(self, text: str) -> tuple[tuple[str, str], ...]:
        """(key, value) of every member of a JSON object with the format's keys, decoded, in a text that may be
        broken anywhere. Other layouts have none."""
        if self.layout != "json":
            return ()
        return tuple((found["key"], _decoded(found["value"])) for found in self._member.finditer(text))

    @cached_property
    def _stand_in(self) -> re.Pattern[str]:
        """A tag that stands in for one of the format's own; (?!) where all of them are its own."""
        tags = (f"<{slash}{name}>" for name in (*THOUGHT_TAGS, *ANSWER_TAGS) for slash in ("", "/"))
        others = [re.escape(tag) for tag in tags if not any(tag in marker for marker in self.markers)]
        return re.compile("|".join(others) or "(?!)")

    @cached_property
    def _keys(self) -> str:
        return "|".join(re.escape(part.open) for part in self.parts)

    @cached_property
    def _member(self) -> re.Pattern[str]:
        """A key in quotes and its value, with the braces and the comma around them."""
        return re.compile(
            rf"""(?:[{{,]\s*+)?(["'])(?P<key>{self._keys})\1\s*+:\s*+(?P<value>{_VALUE})(?:\s*+[,}}])?""", re.DOTALL
        )

    @cached_property
    def _key_label(self) -> re.Pattern[str]:
        return re.compile(rf"^(?:[ \t]*+(?:{self._keys})[ \t]*+:)++", re.MULTILINE)

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

    @cached_property
    def _pieces(self) -> tuple[str | None, ...]:
        """What stands before, between and after the markers: None for a part, else why nothing but white
        space may stand there."""
        pieces: list[str | None] = []
        inside = False
        for part in self.parts:
            if part.open:
                pieces.append(None if inside else f"text before {part.open.strip()}")
            inside = not part.close
            if part.close:
                pieces.append(None)
        return (*pieces, None if inside else f"text after {self.markers[-1].strip()}")

    def _parse_tags(self, text: str) -> tuple[str, ...] | str:
        bodies = []
        start = 0
        cuts = [(0, 0)]
        for marker in self.markers:
            place = text.find(marker)
            if place < 0:
                return f"no {marker.strip()}"
            end = place + len(marker)
            if text.find(marker, end) >= 0:
                return f"more than one {marker.strip()}"
            if place < start:
                return "markers out of order"
            cuts.append((place, end))
            start = end
        cuts.append((len(text), len(text)))
        for fault, ((_, start), (end, _)) in zip(self._pieces, pairwise(cuts), strict=True):
            piece = text[start:end]
            if fault is None:
                bodies.append(piece)
            elif piece.strip():
                return fault
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


def _labelled(member: re.Match[str]) -> str:
    return f"\n{member['key']}: {_decoded(member['value'])}\n"


def _decoded(literal: str) -> str:
    """What a string literal says, in either kind of quotes and even without its end; a bare word says itself."""
    quote = literal[0]
    if quote not in "\"'":
        return literal
    body = literal[1:].removesuffix(quote) if len(literal) > 1 else ""
    if quote == "'":
        body = _QUOTES.sub(lambda found: {"\\'": "'", '"': '\\"'}.get(found.group(), found.group()), body)
    try:
        value = str(json.loads(f'"{body}"', strict=False))
        value.encode()
    except ValueError:  # raw LaTeX is no valid escape, and half a surrogate pair cannot be written
        return body
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; one that has a key twice is refused."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def strip_stop_tokens(text: str) -> str:
    """`text` without outer white space and trailing stop tokens."""
    text = text.strip()
    if not text.endswith(STOP_TOKENS):
        return text
    end = len(text)
    while text.endswith(STOP_TOKENS, 0, end):
        end -= len(next(token for token in STOP_TOKENS if text.endswith(token, 0, end)))
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end]


def _is_boxed(answer: str) -> bool:
    return any(content.strip() and answer.startswith("\\boxed", start) for start, _, content in boxes(answer))


def boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of every outermost balanced \\boxed{} in `text`, in order."""
    first = _BOX.search(text)
    if first is None:
        return []
    opened: list[tuple[int, int, bool]] = []
    found: list[tuple[int, int, str]] = []
    # From the first box on: a brace that closes what was opened before it closes no box.
    for token in _BOX_TOKEN.finditer(text, first.start()):
        mark = token.group()
        if len(mark) == 2:
            continue
        if mark != "}":
            opened.append((token.start(), token.end(), len(mark) > 1))
        elif opened:
            start, inside, is_box = opened.pop()
            if is_box:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, token.end(), text[inside : token.start()]))
    return found


def shipped_formats() -> tuple[str, ...]:
    """The names of the formats in formats/."""
    return shipped(_SHIPPED)


def load_format(name: str) -> ResponseFormat:
    """The shipped format called `name`, or the one in the TOML file `name`. Raises UserError."""
    file = toml_called(name, "format", _SHIPPED)
    try:
        return ResponseFormat.model_validate(read_toml(file, "the format file"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"the format file {file} is wrong at {where!r}: {first['msg']}") from None


THINK_ANSWER = load_format("think-answer")
