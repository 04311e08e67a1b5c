"""Does a problem also occur in an evaluation set?

Pictures: the same bytes, or near-duplicates by a perceptual hash of 256 bits (imagehash's pHash) at
a distance of at most 12 bits. Measured on drawn diagrams, charts and shapes: another format, JPEG at
quality 50, another size, grey or brighter stays within 10 bits for 95 % of the pictures, and no two
different ones came closer than 28. Cuts of the margin, mirror images and turned ones are not found.
Pictures of one colour are evidence of nothing.

Questions: the same words, whatever their case, punctuation and spacing, or 13 words in a row in
common (the measure of GPT-3's decontamination, arXiv 2005.14165, appendix C). A question that the
evaluation set itself asks about several pictures is a template, and 13 words that more than ten of
its questions share are boilerplate: neither counts.
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from specs_data.errors import require

HASH_SIDE = 16
NEAR_BITS = 12
NEAR_WORDS = 13
_BOILERPLATE = 10
_CHUNK = 256
_FLAT = 8  # grey levels between the darkest and the brightest pixel
_WORD = re.compile(r"\w+|[^\w\s]")
_SILENT = set(",.;:!?\"'`()")

Bits = NDArray[np.uint8]


class Leakage:
    """An evaluation set, to be asked about problems.

    `items` are its questions, each with its pictures as the bytes of their files; they are walked
    over once, and only hashes are kept (about 100 bytes per picture). Raises MissingExtra without imagehash.
    """

    def __init__(self, items: Iterable[tuple[str, Sequence[bytes]]]) -> None:
        require("imagehash", "report")
        self._pictures: set[bytes] = set()
        hashes: list[Bits] = []
        asked: dict[str, set[bytes]] = {}
        runs: Counter[int] = Counter()
        for question, digests, found in _digested(items):
            self._pictures.update(digests)
            hashes += found
            words = _words(question)
            if words:
                asked.setdefault(" ".join(words), set()).add(b"".join(digests))
                runs.update(_runs(words))
        self._near = _Near(np.array(hashes, dtype=np.uint8).reshape(-1, HASH_SIDE * HASH_SIDE))
        self._questions = {question for question, pictures in asked.items() if len(pictures) == 1}
        self._runs = {run for run, count in runs.items() if count <= _BOILERPLATE}

    def match(self, question: str, images: Sequence[bytes]) -> str | None:
        """Why the problem counts as part of the evaluation set ("exact picture", "near picture", "same
        question", "near question"), or None if it does not."""
        hashes = [(hashlib.sha256(image).digest(), picture_hash(image)) for image in images]
        if any(digest in self._pictures for digest, _ in hashes):
            return "exact picture"
        if any(bits is not None and self._near.has(bits) for _, bits in hashes):
            return "near picture"
        words = _words(question)
        if " ".join(words) in self._questions:
            return "same question"
        if not self._runs.isdisjoint(_runs(words)):
            return "near question"
        return None


def picture_hash(image: bytes) -> Bits | None:
    """The perceptual hash of a picture, 256 zeros and ones; None if it is of one colour or unreadable."""
    imagehash: Any = require("imagehash", "report")
    try:
        with Image.open(io.BytesIO(image)) as picture:
            picture.draft("L", (256, 256))
            grey = _grey(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    darkest, brightest = grey.getextrema()
    if float(brightest) - float(darkest) < _FLAT:  # type: ignore[arg-type]
        return None
    bits: Bits = imagehash.phash(grey, hash_size=HASH_SIDE).hash.ravel().astype(np.uint8)
    return bits


class _Near:
    """Rows of bits, to be asked for one within NEAR_BITS of another.

    Of NEAR_BITS + 1 bands at least one has no differing bit (the pigeonhole principle): looking the
    bands up finds every candidate, and only those are compared whole.
    """

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        self._rows = np.packbits(np.unique(rows, axis=0), axis=1)
        bits = np.unpackbits(self._rows, axis=1)
        self._bands = np.array_split(np.arange(HASH_SIDE * HASH_SIDE), NEAR_BITS + 1)
        self._keys, self._orders = [], []
        for band in self._bands:
            keys = _number(bits[:, band])
            order = np.argsort(keys, kind="stable")
            self._keys.append(keys[order])
            self._orders.append(order)

    def has(self, bits: Bits) -> bool:
        packed = np.packbits(bits)
        for band, keys, order in zip(self._bands, self._keys, self._orders, strict=True):
            key = _number(bits[band])
            first, last = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
            differing = np.bitwise_count(self._rows[order[first:last]] ^ packed).sum(axis=1)
            if (differing <= NEAR_BITS).any():
                return True
        return False


def _number(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The last axis read as a binary number."""
    weights = 1 << np.arange(bits.shape[-1], dtype=np.int64)
    number: NDArray[np.int64] = bits.astype(np.int64) @ weights
    return number


def _digested(items: Iterable[tuple[str, Sequence[bytes]]]) -> Iterator[tuple[str, list[bytes], list[Bits]]]:
    """Each question with the digests and the hashes of its pictures; a few are in memory at a time."""
    items = iter(items)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(items, _CHUNK)):
            yield from pool.map(_digest, chunk)


def _digest(item: tuple[str, Sequence[bytes]]) -> tuple[str, list[bytes], list[Bits]]:
    question, images = item
    found = [(image, picture_hash(image)) for image in images]
    readable = [(hashlib.sha256(image).digest(), bits) for image, bits in found if bits is not None]
    return question, [digest for digest, _ in readable], [bits for _, bits in readable]


def _grey(picture: Image.Image) -> Image.Image:
    """In grey, on white where it is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("L")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("L")


def _words(question: str) -> list[str]:
    """The words and signs of a question, without case, image marks and punctuation."""
    text = unicodedata.normalize("NFKC", question).replace("<image>", " ").casefold()
    return [word for word in _WORD.findall(text) if word not in _SILENT]


def _runs(words: Sequence[str]) -> set[int]:
    """Every NEAR_WORDS words in a row, as hashes that are the same in every process."""
    texts = (" ".join(words[at : at + NEAR_WORDS]) for at in range(len(words) - NEAR_WORDS + 1))
    return {int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) for text in texts}
