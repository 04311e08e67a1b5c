"""The picture files of a data set: those in its own folder or its repository on the Hub, and those in the zip files
beside its rows.

Names come from whoever made the rows: none of them reaches a file outside of the folder, or one that is no file.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from specs_data.errors import FileRefused, UserError, first_line
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
        if "://" in name:
            raise Unusable("not local")
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
            return _zipped(self._archives, name)
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

    @cached_property
    def _archives(self) -> list[tuple[str, zipfile.ZipFile]]:
        """The zip files beside the rows."""

        def is_own(place: Path) -> bool:
            return place.is_file() and any(place.is_relative_to(home.resolve()) for home in self._homes)

        return _opened([file for file in sorted(self._folder.glob("*.zip")) if is_own(file.resolve())])


class HubShelf:
    """The pictures that rows of a Hub dataset may name: files of its repository at a `revision`, by their whole path
    or an end of it that no other has, and those in its zip files. Each is fetched when it is read."""

    def __init__(self, repo: str, revision: str | None = None) -> None:
        self._repo = repo
        self._revision = revision

    def read(self, name: str) -> bytes:
        """The bytes of the picture file `name`. Raises Unusable with the reason there are none, and UserError where
        the Hub does not give what it lists."""
        plain = posixpath.normpath(_HUB_PATH.sub("", name))
        if "://" in name and not _HUB_PATH.match(name):
            raise Unusable("not local")
        if plain.startswith(("/", "..")):
            raise Unusable(f"not found: it lies outside of {self._repo}")
        found = plain if plain in self._files else self._ending(plain)
        if found is None:
            return _zipped(self._archives, plain)
        file = self._fetch(found)
        if file.stat().st_size > MAX_BYTES:
            raise Unusable(f"too large: it has {file.stat().st_size} bytes")
        return file.read_bytes()

    def has(self, name: str) -> bool:
        """Whether `name` is a picture here, by its suffix and by being listed."""
        return name.lower().endswith(PICTURE_SUFFIXES) and posixpath.normpath(name) in self._files

    def _ending(self, name: str) -> str | None:
        """The only file whose path ends in `name`."""
        ends = [file for file in self._called.get(posixpath.basename(name), ()) if file.endswith(f"/{name}")]
        return ends[0] if len(ends) == 1 else None

    @cached_property
    def _called(self) -> defaultdict[str, list[str]]:
        """The files by the last part of their paths: each of a hundred thousand pictures looks for one."""
        called: defaultdict[str, list[str]] = defaultdict(list)
        for file in self._files:
            called[posixpath.basename(file)].append(file)
        return called

    @cached_property
    def _files(self) -> frozenset[str]:
        from huggingface_hub import HfApi

        try:
            listed = HfApi().list_repo_files(self._repo, repo_type="dataset", revision=self._revision)
        except Exception as error:  # the client's are of many kinds
            raise self._unreachable(error) from None
        return frozenset(listed)

    @cached_property
    def _archives(self) -> list[tuple[str, zipfile.ZipFile]]:
        return _opened([self._fetch(name) for name in sorted(self._files) if name.endswith(".zip")])

    def _fetch(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self._repo, name, repo_type="dataset", revision=self._revision))
        except Exception as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(f"cannot fetch the pictures of the Hub dataset {self._repo}: {first_line(error)}")


# How datasets names a file of the Hub.
_HUB_PATH = re.compile(r"hf://datasets/[\w.-]+/[\w.-]+(@[^/]+)?/")


def _zipped(archives: Sequence[tuple[str, zipfile.ZipFile]], name: str) -> bytes:
    plain = posixpath.normpath(name)
    for stem, archive in archives:
        for inner in (plain, plain.removeprefix(f"{stem}/"), f"{stem}/{plain}"):
            if inner in archive.NameToInfo:
                return _unpacked(archive, inner)
    raise Unusable("not found")


def _opened(files: Sequence[Path]) -> list[tuple[str, zipfile.ZipFile]]:
    """Zip files, with the names that folders made of them would have; what is none is left out."""
    found = []
    for file in files:
        with suppress(zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            found.append((file.stem, zipfile.ZipFile(file)))
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
