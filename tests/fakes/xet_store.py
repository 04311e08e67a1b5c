"""Xet's content-addressed storage, kept in memory: what hf_xet uploads to and downloads from.

Format and calls as in the Xet protocol specification 1.1: xorbs (runs of compressed chunks) come in,
then shards that say which chunks of which xorbs make a file and what its sha256 is.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

_ENTRY = 48
_BOOKEND = b"\xff" * 32
_VERIFICATION, _METADATA = 1 << 31, 1 << 30
Term = tuple[str, int, int, int]  # xorb, first chunk, last chunk + 1, bytes unpacked


def _hex(digest: bytes) -> str:
    """A digest as text, the protocol's way: four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))


class XetStore:
    """Xorbs by hash, files by hash, and the file hash of each sha256."""

    def __init__(self) -> None:
        self.xorbs: dict[str, bytes] = {}
        self.files: dict[str, list[Term]] = {}
        self.hashes: dict[str, str] = {}

    def file_hash(self, sha256: str) -> str | None:
        return self.hashes.get(sha256)

    def content(self, sha256: str) -> bytes | None:
        """The file with this sha256, put together from its chunks."""
        if sha256 not in self.hashes:
            return None
        parts = []
        for xorb, first, last, _ in self.files[self.hashes[sha256]]:
            parts += [_unpack(self.xorbs[xorb], at) for at in _chunk_offsets(self.xorbs[xorb])[first:last]]
        content = b"".join(parts)
        assert hashlib.sha256(content).hexdigest() == sha256
        return content

    def answer(
        self, method: str, path: str, body: bytes, wanted: str | None, url: str
    ) -> tuple[int, Any, dict[str, str]]:
        """The answer to one call: status, body and headers. `wanted` is the Range header."""
        # Clients ask for a second version of some calls first, and fall back to these where it is missing.
        kind, _, name = path.rpartition("/")
        if method == "POST" and kind == "/v1/xorbs/default":
            new = name not in self.xorbs
            self.xorbs[name] = body
            return 200, {"was_inserted": new}, {}
        if method == "POST" and path == "/v1/shards":
            for file, sha256, terms in _files_of(body):
                self.files[file], self.hashes[sha256] = terms, file
            return 200, {"result": 1}, {}
        if method == "GET" and kind == "/v1/reconstructions" and name in self.files:
            return self._reconstruction(self.files[name], wanted, url)
        if method == "GET" and kind == "/data":
            first, last = _range(wanted, len(self.xorbs[name]))
            part = self.xorbs[name][first : last + 1]
            return 206, part, {"Content-Range": f"bytes {first}-{last}/{len(self.xorbs[name])}"}
        return 404, {"error": f"no {path}"}, {}

    def _reconstruction(self, terms: list[Term], wanted: str | None, url: str) -> tuple[int, Any, dict[str, str]]:
        size = sum(term[3] for term in terms)
        first, last = _range(wanted, size)
        if first >= size:
            return 416, {"error": "past the end"}, {}
        listed, fetch, offset, skipped = [], {}, 0, 0
        for xorb, start, end, length in terms:
            if offset + length > first and offset <= last:
                if not listed:
                    skipped = first - offset
                chunks = {"start": start, "end": end}
                listed.append({"hash": xorb, "unpacked_length": length, "range": chunks})
                offsets = _chunk_offsets(self.xorbs[xorb])
                stop = offsets[end] if end < len(offsets) else _end(self.xorbs[xorb], offsets[-1])
                where = {"start": offsets[start], "end": stop - 1}
                fetch.setdefault(xorb, []).append({"url": f"{url}/data/{xorb}", "url_range": where, "range": chunks})
            offset += length
        answer = {"offset_into_first_range": skipped, "terms": listed, "fetch_info": fetch}
        return 200, json.dumps(answer).encode(), {}


def _range(header: str | None, size: int) -> tuple[int, int]:
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    return (int(found[1]), min(int(found[2] or size - 1), size - 1)) if found else (0, size - 1)


def _files_of(shard: bytes) -> Iterator[tuple[str, str, list[Term]]]:
    """(file hash, sha256, terms) of each file a shard announces."""
    at = _ENTRY
    while (file := shard[at : at + 32]) != _BOOKEND:
        flags, count = struct.unpack_from("<2I", shard, at + 32)
        at += _ENTRY
        terms = []
        for number in range(count):
            xorb, _, length, first, last = struct.unpack_from("<32s4I", shard, at + number * _ENTRY)
            terms.append((_hex(xorb), first, last, length))
        at += count * _ENTRY * (2 if flags & _VERIFICATION else 1)
        assert flags & _METADATA
        yield _hex(file), _hex(shard[at : at + 32]), terms
        at += _ENTRY


def _chunk_offsets(xorb: bytes) -> list[int]:
    """Where each chunk's header begins. What follows the chunks (a footer) is not a chunk."""
    offsets, at = [], 0
    while at + 8 <= len(xorb) and xorb[at] == 0:
        offsets.append(at)
        at = _end(xorb, at)
    return offsets


def _end(xorb: bytes, at: int) -> int:
    return at + 8 + int.from_bytes(xorb[at + 1 : at + 4], "little")


def _unpack(xorb: bytes, at: int) -> bytes:
    size = int.from_bytes(xorb[at + 5 : at + 8], "little")
    data = xorb[at + 8 : _end(xorb, at)]
    scheme = xorb[at + 4]
    if scheme == 0:
        return data
    data = pa.Codec("lz4").decompress(data, size, asbytes=True)
    if scheme == 1:
        return data
    content, used = bytearray(size), 0
    for group in range(4):
        length = len(range(group, size, 4))
        content[group::4] = data[used : used + length]
        used += length
    return bytes(content)
