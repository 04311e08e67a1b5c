"""Problems in: JSONL, Parquet, folders of them and Hub datasets, streamed.

A bad row never stops the stream: it comes out as a Dropped with its reason. Several sources are one stream, in their
order or in another (see `order`).
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from specs_data.errors import UserError
from specs_data.files import FIRST_ROWS, SUFFIXES, columns_of, count_rows
from specs_data.format import boxes
from specs_data.images import Unusable, media_type, settle
from specs_data.judges.choices import listed_choices
from specs_data.judges.numbers import Quantity
from specs_data.judges.values import Items, read_value
from specs_data.pairs.shelf import PICTURE_SUFFIXES
from specs_data.presets import Preset, load_preset
from specs_data.problems.order import Index, Order, together
from specs_data.problems.sources import (
    AboutToRead,
    Pictures,
    Raw,
    Row,
    Source,
    Table,
    rows_of,
    source_files,
    sources_of,
)
from specs_data.records import AnswerType, Policy, Problem
from specs_data.texts import IMAGE, chat, count_places, leading, misplaced, numbered_places, tell, without_first

__all__ = [
    "COLUMNS",
    "MAX_TEXT",
    "Dropped",
    "Incoming",
    "Order",
    "Source",
    "count_all",
    "infer_answer_type",
    "read_all",
    "read_problems",
    "source_files",
    "sources_of",
    "told_apart",
]

MAX_TEXT = 100_000

# The field names of the contract, then what else is common.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "problem_id"),
    "question": ("question", "problem"),
    "images": ("images", "image", "image_path", "file_name"),
    "answer": ("answer",),
    "answer_type": ("answer_type",),
    "choices": ("choices",),
    "source": ("source",),
    "pass_rate": ("pass_rate",),
    # How the source wants numbers compared: what is called so elsewhere may be anything.
    "precision": (),
    "unit": (),
    "tolerance": (),
}
# Other data sets' words for an answer type; None leaves it to inference.
_TYPES: Mapping[str, AnswerType | None] = {
    **{name: name for name in get_args(AnswerType)},
    "multi_choice": "multiple_choice",
    "mathverify": None,
    "free_form": None,
    "integer": "numeric",
    "float": "numeric",
    "": None,
}
_SHORTEST_IMAGE = 64  # characters of base64
_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkqA", "TU0AK")  # of the kinds that `media_type` knows
_NUMBERED = re.compile(r"image_(\d{1,2})")  # MMMU's
# Hostile texts are long: no pattern below may take more than linear time.
_LONGEST_VALUE = 200
_LITERAL = re.compile(r"(?!.*\d\s*[\^*+(])[-+]?\s*[$€£]?\s*[\d.]")
_MATH = re.compile(r"\\[a-zA-Z]+|[\^=±√π∞<>{}]|\d\s*[-+*/]\s*[\da-zA-Z(]|\d[a-zA-Z]|^[(\[][^,]*,.*[)\]]$")
_LETTER = re.compile(r"\(?[A-Z]\)?\.?")
_OPTIONS = tuple(re.compile(rf"(?:^|[\s(]){letter}\s*[.):]") for letter in "AB")


class Incoming(Struct, frozen=True):
    """A problem at its place in the order in which problems are asked about, with its image files' bytes. `row` is its
    number in its `source`; `pass_rate` is what the row itself tells of its difficulty, 0 to 1, None if nothing."""

    position: int
    problem: Problem
    images: tuple[bytes, ...]
    row: int = 0
    source: str = ""
    pass_rate: float | None = None


class Dropped(Struct, frozen=True):
    """A row of a source that is left out: its place in the order, why, and its number in the source."""

    position: int
    reason: str
    detail: str = ""
    row: int = 0


# Fields of which several columns make one value; the texts of a question stand below each other.
_TOGETHER = ("question", "images", "choices")


class _Names(Struct, frozen=True):
    """The columns of a field: the first that a row has counts, or all `together`."""

    names: tuple[str, ...]
    together: bool = False
    texts: bool = False


class _Bad(Exception):
    """Why a row is left out: a reason to count by, and a detail."""


def read_problems(
    source: str,
    *,
    preset: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    gold: bool = True,
    about_to_read: AboutToRead = None,
) -> Iterator[Incoming | Dropped]:
    """The problems of `source`, in order; `about_to_read` is told of each picture file. With `gold`, those without an
    answer are dropped; else theirs is empty. Raises UserError if there is no such source, none of its first rows has
    a column that is needed, or one holds pictures that nobody would see."""
    sources = [Source(source, preset)]
    return read_all(sources, columns=columns, limit=limit, gold=gold, about_to_read=about_to_read)


def read_all(
    sources: Sequence[Source],
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    gold: bool = True,
    rated: bool = False,
    about_to_read: AboutToRead = None,
    order: Order | None = None,
) -> Iterator[Incoming | Dropped]:
    """The problems of all `sources`, as read_problems has them, in this order: the first `limit` rows of it, and of
    these the shard's. Where they are to be `rated` each source must have a column that tells a pass rate."""
    order = order or Order()
    readers = [_Reader(source, columns or {}, gold, rated, about_to_read) for source in sources]
    rows = _in_order(readers, order, limit) if order.moves else islice(_as_they_come(readers), limit)
    several = len(readers) > 1
    for position, (reader, number, row) in enumerate(rows):
        found = reader.read(position, number, row, order)
        if isinstance(found, Dropped) and several:
            found = replace(found, detail=": ".join(filter(None, (reader.label, found.detail))))
        if found is not None:
            yield found


def told_apart(item: Incoming, there: Problem | None) -> Incoming:
    """`item`, of one of several sources, where `there` is what has its id so far. If that is another problem, `item`
    gets a name with that of its source before it."""
    if there is None or replace(there, source=item.problem.source) == item.problem:
        return item
    return replace(item, problem=replace(item.problem, id=f"{item.source}/{item.problem.id}"))


def count_all(sources: Iterable[Source], limit: int | None = None) -> int | None:
    """How many rows all these sources have, without those that are none of the data set a preset is about, and at most
    `limit`; None where one of them is a Hub dataset."""
    sources = tuple(sources)
    if not all(Path(source.name).exists() for source in sources):
        return None
    total = sum(_Reader(source, {}, gold=False, rated=False, about_to_read=None).count() for source in sources)
    return total if limit is None else min(total, limit)


class _Reader:
    """Reads the rows of one source."""

    def __init__(
        self, source: Source, columns: Mapping[str, str], gold: bool, rated: bool, about_to_read: AboutToRead
    ) -> None:
        self.label = source.label
        self.source = source
        self._known = load_preset(source.preset) if source.preset else Preset()
        self._names = _column_names(source.preset, self._known, columns)
        self._needed = {"question", *(("answer",) if gold else ()), *(("pass_rate",) if rated else ())}
        self._columns, self._gold, self._about_to_read = columns, gold, about_to_read

    def rows(self) -> Iterator[Raw]:
        """The rows that count, in order. Raises UserError as read_problems does."""
        name, needed = self.source.name, self._needed
        raws = rows_of(name, self._about_to_read)
        head = list(islice(raws, FIRST_ROWS)) if self._known.where else []
        if len(head) < FIRST_ROWS or not _is_ragged(Path(name)):
            _check_where(columns_of(row for row, _ in head), self._known.where, self.source)
        rows = (raw for raw in chain(head, raws) if self._counts(raw[0]))
        first = list(islice(rows, FIRST_ROWS))
        if len(first) < FIRST_ROWS or not _is_ragged(Path(name)):
            needed = needed | {*self._columns}
        _check_columns(columns_of(row for row, _ in first), self._names, needed, name)
        if self._gold and self._names["images"] == _Names(COLUMNS["images"]):
            _check_pictures(first, self._names, name)
        return chain(first, rows)

    def index(self, place: int, index: Index, grouped: bool) -> Table:
        """The same rows, to be had by their numbers, and put into the `index` as those of source `place`."""
        self.rows()
        table = Table(self.source.name, self._about_to_read)
        names = {*self._known.where, *(self._names["source"].names if grouped else ())}
        row_number = 0
        for number, row in enumerate(table.scan(_outermost(names))):
            if self._counts(row):
                group = _value(row, self._names["source"].names) if grouped and isinstance(row, dict) else None
                index.add(place, number, row_number, str(group or ""))
                row_number += 1
        return table

    def count(self) -> int:
        """How many rows count, of files that are here."""
        if self._known.where:
            return sum(map(self._counts, Table(self.source.name).scan(_outermost(self._known.where))))
        return sum(count_rows(file) for file in source_files(self.source.name) or () if file.suffix in SUFFIXES)

    def read(self, position: int, number: int, raw: Raw, order: Order) -> Incoming | Dropped | None:
        """The problem in a row of this `number`; None if it is not the shard's."""
        row, shelf = raw
        name = _name(row, self._names) if isinstance(row, dict) else ""
        if name and not order.has(name):
            return None
        try:
            if isinstance(row, str):
                raise _Bad(row)
            problem, images = _problem(row, name, self._names, self._known.types, shelf, self._gold)
        except _Bad as bad:
            reason, detail = (*map(str, bad.args), "")[:2]
            dropped = Dropped(position, reason, detail, number)
            return dropped if name or order.has(f"{self.label}/{number}") else None
        if not name and not order.has(problem.id):
            return None
        rate = _pass_rate(_field(row, self._names["pass_rate"]))
        return Incoming(position, problem, images, number, self.label, rate)

    def _counts(self, row: Row) -> bool:
        """Whether a row is one of the data set that the preset is about; a bad one is for others to tell."""
        if isinstance(row, str):
            return True
        return all(str(_value(row, (name,))) in values for name, values in self._known.where.items())


def _outermost(names: Iterable[str]) -> set[str]:
    """The columns of these names, and those inside of which they may be."""
    return {column for name in names for column in (name, name.partition(".")[0])}


def _as_they_come(readers: Iterable[_Reader]) -> Iterator[tuple[_Reader, int, Raw]]:
    for reader in readers:
        yield from ((reader, number, row) for number, row in enumerate(reader.rows()))


def _in_order(readers: Sequence[_Reader], order: Order, limit: int | None) -> Iterator[tuple[_Reader, int, Raw]]:
    index = Index()
    tables = [reader.index(place, index, order.balance) for place, reader in enumerate(readers)]
    ordered = index.ordered(order, limit)
    step = together(len(index.rows), sum(table.size for table in tables))
    for start in range(0, len(ordered), step):
        places = ordered[start : start + step]
        rows: dict[int, Raw] = {}
        for source, table in enumerate(tables):
            wanted = sorted((index.numbers[place], place) for place in places if index.sources[place] == source)
            found = table.pick([number for number, _ in wanted])
            rows |= {place: row for (_, place), row in zip(wanted, found, strict=True)}
        yield from ((readers[index.sources[place]], index.rows[place], rows.pop(place)) for place in places)


def infer_answer_type(question: str, answer: str, choices: Sequence[str] = ()) -> AnswerType:
    """The kind of `answer`: multiple_choice where choices are known or the question lists them,
    then numeric, math, text (up to a few words) and open."""
    answer = answer.strip()
    if choices or (_LETTER.fullmatch(answer) and _lists_options(question)):
        return "multiple_choice"
    value = read_value(answer) if len(answer) <= _LONGEST_VALUE else None
    if isinstance(value, Quantity) and _LITERAL.match(value.text):
        is_fraction = value.surd or (value.places is None and value.value.denominator > 1)
        return "math" if is_fraction or value.name else "numeric"
    if _MATH.search(answer) or (isinstance(value, Items) and any(map(str.isdigit, answer))):
        return "math"
    return "text" if len(answer.split()) <= 6 else "open"


def _lists_options(question: str) -> bool:
    first, second = _OPTIONS
    found = first.search(question)
    return found is not None and second.search(question, found.end()) is not None


def _column_names(preset: str | None, known: Preset, columns: Mapping[str, str]) -> dict[str, _Names]:
    for where, given in ((f"the preset {preset}", known.columns), ("--columns", columns)):
        for field in sorted(set(given) - set(COLUMNS)):
            raise UserError(f"{where} knows no field {field!r}; the fields are {', '.join(COLUMNS)}")
    chosen: dict[str, str | tuple[str, ...]] = {**known.columns, **columns}
    return {field: _names(field, chosen.get(field, usual)) for field, usual in COLUMNS.items()}


def _names(field: str, given: str | tuple[str, ...]) -> _Names:
    if given is COLUMNS[field]:
        return _Names(COLUMNS[field])
    return _Names((given,)) if isinstance(given, str) else _Names(given, field in _TOGETHER, field == "question")


def _is_ragged(path: Path) -> bool:
    """Whether a later row may have columns that the first ones lack."""
    return path.is_dir() or path.suffix == ".jsonl"


def _check_columns(columns: Collection[str], names: Mapping[str, _Names], needed: set[str], source: str) -> None:
    for field in sorted(needed):
        if columns and not any({name, name.partition(".")[0]} & {*columns} for name in names[field].names):
            measured = ", or measure it by --samples-upfront 4" if field == "pass_rate" else ""
            raise UserError(
                f"{source} has no column {names[field].names[0]!r} for the {field}; it has {', '.join(columns)}; "
                f"use --columns {field}=COLUMN or --preset{measured}"
            )


def _check_where(columns: Collection[str], where: Iterable[str], source: Source) -> None:
    """Raise UserError if a column is not there by which a preset tells its rows: none would be left."""
    for name in where:
        if columns and not {name, name.partition(".")[0]} & {*columns}:
            raise UserError(
                f"{source.name} has no column {name!r}, by which the preset {source.preset} tells its rows; it has "
                f"{', '.join(columns)}: it is another data set, or another form of that one"
            )


def _check_pictures(first: Sequence[Raw], names: Mapping[str, _Names], source: str) -> None:
    """Raise UserError if a column holds pictures and is not used."""
    known = {name.partition(".")[0] for usual in names.values() for name in usual.names}
    tried = set()
    for row, shelf in first:
        if isinstance(row, str):
            continue
        used = next((name for name in names["images"].names if row.get(name)), None)
        for column, value in row.items():
            sample = next(iter(_listed(value)), None)
            if column in known or column in tried or not sample or (not used and _NUMBERED.fullmatch(column)):
                continue
            tried.add(column)
            if _is_picture(sample, shelf):
                rest = f"; images={used} leaves it out" if used else ""
                raise UserError(
                    f"{source} has pictures in the column {column!r}, which is not used: use --columns "
                    f"images={column}{rest}"
                )


def _is_picture(value: Any, shelf: Pictures) -> bool:
    """Whether a value is plainly a picture: its bytes, a datasets Image, a data URL, the path of one that is there."""
    if isinstance(value, dict) and {*value} == {"bytes", "path"}:
        value = value["bytes"] or value["path"]
    if isinstance(value, bytes):
        return media_type(value) is not None
    return isinstance(value, str) and (value.startswith("data:image/") or _looks_like_base64(value) or shelf.has(value))


# One row


def _problem(
    row: Mapping[str, Any],
    name: str,
    names: Mapping[str, _Names],
    types: Mapping[str, str],
    shelf: Pictures,
    gold: bool,
) -> tuple[Problem, tuple[bytes, ...]]:
    values = {field: _field(row, names[field]) for field in COLUMNS if field not in ("id", "images", "pass_rate")}
    question, choices, pictures = _placed(
        _question(values["question"]), _choices(values["choices"]), _pictures(row, names["images"]), name, gold
    )
    answer = _answer(values["answer"]) if gold else ""
    images = tuple(_picture(value, shelf, name) for value in pictures)
    kind = str(values["answer_type"] or "")
    kind = types.get(kind, kind)
    if kind not in _TYPES:
        raise _Bad("answer type not supported", kind)
    answer_type = _TYPES[kind] or infer_answer_type(question, answer, choices)
    digests = tuple(hashlib.sha256(image).hexdigest() for image in images)
    content = (question, answer, choices, digests)
    problem = Problem(
        id=name or hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:16],
        question=question,
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        images=digests,
        source=str(values["source"] or ""),
        policy=_policy(values, answer_type, answer),
    )
    return _with_listed_choices(problem), images


def _policy(values: Mapping[str, Any], kind: AnswerType, answer: str) -> Policy | UnsetType:
    """How the source wants the answer compared, where that is a number and the source says so."""
    precision, unit, tolerance = values["precision"], values["unit"], values["tolerance"]
    if precision is unit is tolerance is None:
        return UNSET
    if kind not in ("numeric", "math") or len(answer) > _LONGEST_VALUE or not isinstance(read_value(answer), Quantity):
        return UNSET
    try:
        places = None if precision in (None, "") else int(float(precision))
        policy = Policy(places, str(unit or "").strip(), float(tolerance or 0))
    except (ValueError, OverflowError):
        raise _Bad("precision or tolerance is no number", f"{precision}, {tolerance}"[:100]) from None
    return UNSET if policy == Policy() else policy


def _name(row: Mapping[str, Any], names: Mapping[str, _Names]) -> str:
    """The id that a row states; empty if none."""
    name = _field(row, names["id"])
    return "" if name is None else str(name)


def _pass_rate(value: Any) -> float | None:
    """The share of right answers that a row tells; None for anything else, as ViRL39K's -1."""
    try:
        rate = float(value)
    except (TypeError, ValueError):
        return None
    return rate if 0 <= rate <= 1 else None


def _with_listed_choices(problem: Problem) -> Problem:
    """`problem` with the choices that its question lists, for its judge: what the policy is asked stays the same."""
    if problem.choices or problem.answer_type != "multiple_choice" or not _LETTER.fullmatch(problem.answer):
        return problem
    choices = listed_choices(problem.question)
    listed = replace(problem, choices=choices)
    knows_gold = problem.answer.strip("().") in ascii_uppercase[: len(choices)]
    return listed if knows_gold and chat(listed, None) == chat(problem, None) else problem


def _field(row: Mapping[str, Any], names: _Names) -> Any:
    """What a row has for a field: of several names the first value, or all of them together."""
    if not names.together:
        return _value(row, names.names)
    values = [value for name in names.names for value in _listed(_value(row, (name,)))]
    if not all(isinstance(value, str) for value in values) or not names.texts:
        return values
    return "\n".join(value.strip() for value in values if value.strip())


def _value(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        value = row.get(name)
        if value is None and "." in name and name not in row:
            value = _nested(row, name)
        if value is not None:
            return value
    return None


def _nested(row: Any, name: str) -> Any:
    for key in name.split("."):
        row = _read_literal(row)
        if key == "*" and isinstance(row, Mapping) and len(row) == 1:
            (row,) = row.values()
        elif key.isdecimal() and isinstance(row, list):
            row = row[int(key)] if int(key) < len(row) else None
        else:
            row = row.get(key) if isinstance(row, Mapping) else None
    return row


def _read_literal(value: Any) -> Any:
    """A list or an object that stands as text in its column, as JSON or as Python writes it; else `value`."""
    if not isinstance(value, str) or not value.startswith(("[", "{")) or len(value) > MAX_TEXT:
        return value
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(value)
    faults = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)
    # Python warns of a backslash that escapes nothing.
    with contextlib.suppress(*faults), warnings.catch_warnings(action="ignore"):
        return ast.literal_eval(value)
    return value


def _question(value: Any) -> str:
    if isinstance(value, list):
        users = [item.get("content") for item in value if isinstance(item, dict) and item.get("role") == "user"]
        value = users[-1] if users else None
    text = "".join(map(_block, value)) if isinstance(value, list) else value
    question = text.strip() if isinstance(text, str) else ""
    if not question.replace(IMAGE, "").strip():
        raise _Bad("no question")
    if len(question) > MAX_TEXT:
        raise _Bad("question too long", f"{len(question)} characters")
    return question


def _block(block: Any) -> str:
    """A block of a message that has several, in text."""
    if not isinstance(block, dict):
        return ""
    text = block.get("text")
    return IMAGE if block.get("type") == "image" else text if isinstance(text, str) else ""


def _placed(
    question: str, choices: tuple[str, ...], pictures: list[tuple[int, Any]], row: str, gold: bool
) -> tuple[str, tuple[str, ...], list[Any]]:
    """A question, its choices, and the pictures in the order of their places. No `<image>` is left where they all
    come first anyway."""
    if not pictures and not any(IMAGE in text for text in (question, *choices)):
        return question, choices, []
    if pictures and not count_places("\n".join((question, *choices))):
        (question, *texts), numbers = _numbered((question, *choices))
        choices = tuple(texts)
        if gold and numbers and {*numbers} != {number for number, _ in pictures}:
            raise _misplaced(row, f"placeholders of {tell({*numbers}, 'picture')}, {tell(pictures, 'picture')}")
        if numbers:
            named = dict(pictures)
            pictures = [(number, named[number]) for number in numbers if number in named]
    asked = chat(Problem("", question, "", "open", choices), None)
    if gold and (fault := misplaced(asked, len(pictures))):
        raise _misplaced(row, fault)
    if pictures and leading(asked, len(pictures)) is not None:
        question = without_first(question)
    return question.strip(), choices, [value for _, value in pictures]


def _numbered(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    found = list(map(numbered_places, texts))
    return [text for text, _ in found], [number for _, numbers in found for number in numbers]


def _misplaced(row: str, detail: str) -> _Bad:
    return _Bad("placeholders and pictures differ in number", _told(row, detail))


def _told(row: str, detail: str) -> str:
    """A detail that names the row it is about, as far as it has a name."""
    return ": ".join(filter(None, (row[:100], detail)))


def _answer(value: Any) -> str:
    if value is None or value == []:
        raise _Bad("no answer")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _Bad("answer not supported", str(value)[:100])
    answer = _unwrapped(str(value).strip())
    if not answer:
        raise _Bad("no answer")
    if len(answer) > MAX_TEXT:
        raise _Bad("answer too long", f"{len(answer)} characters")
    return answer


def _unwrapped(answer: str) -> str:
    """What stands in the answer tags or the one box that `answer` is."""
    if answer.startswith("<answer>"):
        tagged = re.fullmatch(r"<answer>((?:(?!</answer>).)*)</answer>", answer, re.DOTALL)
        answer = tagged[1].strip() if tagged else answer
    if "\\" not in answer:
        return answer
    bare = answer.strip("$ ")
    found = boxes(bare)
    return found[0][2].strip() if len(found) == 1 and found[0][:2] == (0, len(bare)) else answer


def _choices(value: Any) -> tuple[str, ...]:
    value = _read_literal(value)
    if value is None or value == "":
        return ()
    if not isinstance(value, list) or not all(isinstance(choice, (str, int, float)) for choice in value):
        raise _Bad("choices are not a list of texts")
    if len(value) > len(ascii_uppercase):
        raise _Bad("more choices than letters", str(len(value)))
    return tuple(str(choice) for choice in value)


def _listed(value: Any) -> list[Any]:
    value = _read_literal(value)
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _pictures(row: Mapping[str, Any], names: _Names) -> list[tuple[int, Any]]:
    """The pictures of a row, as it gives them, with the numbers that a text may call them by."""
    if not names.together:
        for name in names.names:
            value = _value(row, (name,))
            if value in (None, "", []):
                continue
            # Any file may be called a file name.
            if name != "file_name" or str(value).lower().endswith(PICTURE_SUFFIXES):
                return list(enumerate(_listed(value), 1))
        if names.names != COLUMNS["images"]:
            return []
    columns = names.names if names.together else [name for name in row if _picture_number(name) is not None]
    found: list[tuple[int, Any]] = []
    for name in columns:
        number = _picture_number(name)
        for value in _listed(_value(row, (name,))):
            found.append((len(found) + 1 if number is None else number, value))
    return sorted(found, key=lambda picture: picture[0])


@lru_cache
def _picture_number(column: str) -> int | None:
    """The number in the name of a column with a numbered picture, None for all others."""
    numbered = _NUMBERED.fullmatch(column)
    return int(numbered[1]) if numbered else None


def _picture(value: Any, shelf: Pictures, row: str) -> bytes:
    """The settled bytes of a picture, whatever it is given as. A drop names the `row` and the picture."""
    try:
        return settle(_image(value, shelf))
    except Unusable as fault:
        reason, _, detail = str(fault).partition(": ")
        name = value.get("path") if isinstance(value, dict) else value
        name = name if isinstance(name, str) and not name.startswith("data:") else ""
        told = " ".join(filter(None, (name[:200], f"({detail})" if detail else "")))
        raise _Bad(f"image {reason}", _told(row, told)) from None


def _looks_like_base64(value: str) -> bool:
    """Whether a text begins as the base64 of an image file does, and has no suffix as a path has."""
    return value.startswith(_BASE64) and "." not in value and len(value) > _SHORTEST_IMAGE


def _image(value: Any, shelf: Pictures) -> bytes:
    """The bytes of an image given as bytes, a datasets Image, a data URL, bare base64 or a path. Raises Unusable."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise Unusable(f"not supported: {type(value).__name__}")
    if value.startswith("data:"):
        try:
            return base64.b64decode(value.partition(",")[2], validate=True)
        except ValueError:
            raise Unusable("broken: data URL") from None
    if _looks_like_base64(value):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            raise Unusable("broken: base64") from None
    return shelf.read(value)
