"""The picture files of a data set: those in its own folder, and those in the zip files beside its rows.

Names come from whoever made the rows: none of them reaches a file outside of the folder, or one that is no file.
"""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from specs_data.errors import FileRefused
from specs_data.files import read_inside
from specs_data.images import MAX_BYTES, Unusable

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class Shelf:
    """The pictures that rows in `folder` may name: by paths relative to it that stay inside `root`. `about_to_read` is
    told of each file that is looked for."""

    def __init__(self, folder: Path, root: Path, about_to_read: Callable[[Path], None] | None = None) -> None:
        self._folder = folder
        self._root = root
        self._homes = _homes(root)
        self._about_to_read = about_to_read

    def read(self, name: str) -> bytes:
        """The bytes of the picture file `name`. Raises Unusable with the reason there are none."""
        if self._about_to_read is not None:
            self._about_to_read(self._folder / name)
        refused = FileRefused("outside")
        for home in self._homes:
            try:
                return read_inside(home, str((self._folder / name).absolute()), MAX_BYTES)
            except FileRefused as error:
                refused = error
            if refused.reason != "outside":
                break
        if refused.reason == "outside":
            raise Unusable(f"not found: it lies outside of {self._root}")
        if refused.reason == "too large":
            raise Unusable(f"too large: it {refused.detail}")
        if refused.detail == "cannot be found":
            return self._zipped(name)
        raise Unusable(f"not found: it {refused.detail}" if refused.reason != "not found" else "not found")

    def has(self, name: str) -> bool:
        """Whether `name` is a picture here, by its suffix and by being there."""
        if not name.lower().endswith(PICTURE_SUFFIXES):
            return False
        try:
            self.read(name)
        except Unusable:
            return False
        return True

    def _zipped(self, name: str) -> bytes:
        plain = posixpath.normpath(name)
        for stem, archive in self._archives:
            for inner in (plain, plain.removeprefix(f"{stem}/"), f"{stem}/{plain}"):
                if inner in archive.NameToInfo:
                    return _unpacked(archive, inner)
        raise Unusable("not found")

    @cached_property
    def _archives(self) -> list[tuple[str, zipfile.ZipFile]]:
        """The zip files beside the rows, with the names that folders made of them would have."""
        found = []
        for file in sorted(self._folder.glob("*.zip")):
            place = file.resolve()
            if place.is_file() and any(place.is_relative_to(home.resolve()) for home in self._homes):
                with suppress(zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
                    found.append((file.stem, zipfile.ZipFile(place)))
        return found


def _homes(root: Path) -> tuple[Path, ...]:
    """The folders whose files are a data set's own. In the Hub's cache they are links to blobs beside the snapshots."""
    snapshots = [parent for parent in root.resolve().parents if parent.name == "snapshots"]
    blobs = [parent.parent / "blobs" for parent in snapshots]
    return (root, *(place for place in blobs if not place.is_symlink()))


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        with archive.open(name) as file:
            data = file.read(MAX_BYTES + 1)  # what the archive says of its size may be a lie
    except Exception as error:  # damaged, encrypted, packed in another way: of many kinds
        raise Unusable(f"broken: {type(error).__name__} in {Path(archive.filename or '').name}") from None
    if len(data) > MAX_BYTES:
        raise Unusable(f"too large: more than {MAX_BYTES} bytes")
    return data
