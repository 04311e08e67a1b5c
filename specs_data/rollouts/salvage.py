"""What is sound in a damaged store, found without SQLite's help: page by page.

Every record carries a checksum that includes its key and its table, so that one is known wherever it lies, and
none is taken for another. The trees that lead to it may be broken: each page is looked at as if it were a leaf
of a table. Nothing of a store is ever changed, so an old copy of a record, in a page that is free now, is as good.

Source: https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from msgspec import Struct

_LEAF = 13  # the type of a page with rows of a table
_HEADER = 100  # bytes before the first page's own header
_WAL_HEADER, _FRAME_HEADER = 32, 24
_PAGE_SIZES = (8192, 4096)  # ours, and SQLite's own
_MAGIC = b"SQLite format 3\0"
_LENGTHS = (0, 1, 2, 3, 4, 6, 8, 8)  # bytes of a value, by its type
Row = tuple[Any, ...]


class Salvaged(Struct, frozen=True):
    """The sound rows of a store by table, without their checksums: of the stages' logs by (settings, problem, idx),
    of the others by their number. `numbers` are the digests of settings and problems by (table, number), `highest`
    the highest row that was met of each log: there were as many. Pictures are not among them: the source of the
    problems has them."""

    logs: dict[str, dict[tuple[int, int, int], Row]]
    settings: dict[int, Row]
    problems: dict[int, Row]
    numbers: dict[tuple[str, int], bytes]
    payments: dict[int, Row]
    highest: dict[str, int]

    def __bool__(self) -> bool:
        return bool(self.numbers or self.problems or any(self.logs.values()))


def checksum(table: str, key: Sequence[object], content: bytes = b"") -> int:
    """What stands beside a row of `table` with this key and content."""
    return zlib.crc32(content, zlib.crc32(repr((table, *key)).encode()))


def salvage(path: Path, stages: Sequence[str]) -> Salvaged:
    """Every record in the store at `path` and in its write-ahead log whose checksum holds."""
    found = Salvaged({stage: {} for stage in stages}, {}, {}, {}, {}, {})
    for rowid, row in each_row(path):
        _sort_in(found, rowid, row)
    return found


def salvage_pairs(path: Path, tables: Sequence[str]) -> dict[str, dict[bytes | str, Row]]:
    """The sound rows of tables of (key, record, checksum), by table and key: of what was replaced, the latest."""
    found: dict[str, dict[bytes | str, tuple[int, Row]]] = {table: {} for table in tables}
    for rowid, row in each_row(path):
        match row:
            case (bytes() | str() as key, bytes() as record, int(held)):
                for table, rows in found.items():
                    if checksum(table, (key,), record) == held and rowid >= rows.get(key, (0, ()))[0]:
                        rows[key] = rowid, row
    return {table: {key: row for key, (_, row) in rows.items()} for table, rows in found.items()}


def each_row(path: Path) -> Iterator[tuple[int, Row]]:
    """Whatever in a file and in its write-ahead log can be read as a row of a table, with its number. It may be none:
    its checksum says."""
    log = Path(f"{path}-wal")
    logged = log.read_bytes() if log.is_file() else b""
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content, memoryview(content) as view:
        for size in dict.fromkeys(_page_sizes(bytes(view[:_HEADER]))):
            yield from _Pages(view, logged, size).rows()


def _page_sizes(head: bytes) -> Sequence[int]:
    size = int.from_bytes(head[16:18])
    known = head.startswith(_MAGIC) and size in (1024, 2048, 4096, 8192, 16384, 32768)
    return (size, *_PAGE_SIZES) if known else _PAGE_SIZES


def _sort_in(found: Salvaged, rowid: int, row: Row) -> None:
    """Take a row whose checksum holds. Tables are told apart by their number of columns, and by the checksum."""
    match row:
        case (int(), int(), int(), str() | None, bytes(), int(held)):
            for stage, log in found.logs.items():
                if checksum(stage, row[:4], row[4]) == held:
                    log[row[:3]] = row[:5]
                    found.highest[stage] = max(rowid, found.highest.get(stage, 0))
        case (None, str(), bytes(), bytes(), int(held)):
            if checksum("settings", (rowid, row[1], row[2]), row[3]) == held:
                found.settings[rowid] = (rowid, *row[1:4])
        case (None, bytes(), bytes(), int(held)):
            if checksum("problems", (rowid, row[1]), row[2]) == held:
                found.problems[rowid] = (rowid, *row[1:3])
        case (str(), int(), bytes(), int(held)):
            if checksum("numbers", row[:3]) == held:
                found.numbers[row[0], row[1]] = row[2]
        case (str(), str(), str(), int(), int(), int(), float() | int() | None, int(held)):
            if checksum("payments", paid_key(row[:7])) == held:
                found.payments[rowid] = row[:7]


def paid_key(row: Sequence[Any]) -> Row:
    """The values of a payment as the file gives them back: SQLite keeps a whole REAL as an integer."""
    return (*row[:5], int(row[5]), None if row[6] is None else float(row[6]))


class _Pages:
    """The pages of a store, those of the log in place of the file's. Numbers count from 1."""

    def __init__(self, content: memoryview, log: bytes, size: int) -> None:
        self._size = size
        self._content = content
        self._newer = dict(_logged(memoryview(log), size))
        self._count = max([len(content) // size, *self._newer])

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Whatever can be read as a row of a table, with its number."""
        for number in range(1, self._count + 1):
            for page in {id(page): page for page in (self._page(number), self._older(number))}.values():
                yield from self._leaf(page, _HEADER if number == 1 else 0)

    def _page(self, number: int) -> memoryview:
        return self._newer.get(number, self._older(number))

    def _older(self, number: int) -> memoryview:
        return self._content[(number - 1) * self._size : number * self._size]

    def _leaf(self, page: memoryview, start: int) -> Iterator[tuple[int, Row]]:
        if len(page) < self._size:
            return
        # The type and the number of rows may be what is damaged: each possible pointer is tried.
        count = int.from_bytes(page[start + 3 : start + 5])
        if page[start] != _LEAF and count > self._size // 4:
            return
        for place in range(start + 8, min(start + 8 + 2 * min(count, self._size // 4), self._size - 1), 2):
            try:
                yield self._cell(page, int.from_bytes(page[place : place + 2]))
            except (IndexError, ValueError, struct.error):  # no row at all, or a damaged one
                continue

    def _cell(self, page: memoryview, place: int) -> tuple[int, Row]:
        length, place = _varint(page, place)
        rowid, place = _varint(page, place)
        most = self._size - 35
        local = length
        if length > most:
            least = (self._size - 12) * 32 // 255 - 23
            local = least + (length - least) % (self._size - 4)
            local = local if local <= most else least
        payload = bytes(page[place : place + local])
        if length > local:
            payload += self._overflow(int.from_bytes(page[place + local : place + local + 4]), length - local)
        return rowid, _record(payload)

    def _overflow(self, number: int, length: int) -> bytes:
        parts = []
        while length > 0:
            if not 1 <= number <= self._count:
                raise ValueError
            page = self._page(number)
            part = page[4 : 4 + min(length, self._size - 4)]
            if not part:
                raise ValueError
            parts.append(part)
            length -= len(part)
            number = int.from_bytes(page[:4])
        return b"".join(parts)


def _logged(log: memoryview, size: int) -> Iterator[tuple[int, memoryview]]:
    """The pages in a write-ahead log up to its last commit, the latest of each last."""
    salt, frame = bytes(log[16:24]), size + _FRAME_HEADER
    waiting: list[tuple[int, memoryview]] = []
    for place in range(_WAL_HEADER, len(log) - frame + 1, frame):
        number, committed = struct.unpack_from(">II", log, place)
        if bytes(log[place + 8 : place + 16]) != salt or not 0 < number < 1 << 31:
            return
        waiting.append((number, log[place + _FRAME_HEADER : place + frame]))
        if committed:
            yield from waiting
            waiting = []


def _varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    value = 0
    for step in range(8):
        byte = data[place + step]
        value = value << 7 | byte & 127
        if byte < 128:
            return value, place + step + 1
    return value << 8 | data[place + 8], place + 9


def _record(payload: bytes) -> Row:
    end, place = _varint(payload, 0)
    if end > len(payload) or end > 200:
        raise ValueError
    values: list[Any] = []
    at = end
    while place < end:
        kind, place = _varint(payload, place)
        length = _LENGTHS[kind] if kind < 8 else 0 if kind < 12 else (kind - 12) // 2
        data = payload[at : at + length]
        if len(data) < length:
            raise ValueError
        values.append(_value(kind, data))
        at += length
    return tuple(values)


def _value(kind: int, data: bytes) -> Any:
    if kind == 0:
        return None
    if kind == 7:
        return struct.unpack(">d", data)[0]
    if kind < 7:
        return int.from_bytes(data, signed=True)
    if kind in (8, 9):
        return kind - 8
    return data if kind % 2 == 0 else data.decode()
