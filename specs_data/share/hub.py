"""What the Hub holds, and what it says when something is wrong.

Only through huggingface_hub, which is imported when first needed; where the Hub is (HF_ENDPOINT)
and who asks (HF_TOKEN, `hf auth login`) are its own settings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from specs_data.errors import UserError, first_line
from specs_data.pairs.manifest import Manifest, read_manifest
from specs_data.wire import meaning

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Gated = Literal["auto", "manual", False]
State = Literal["new", "changed", "same"]


class Remote(Struct, frozen=True):
    """What the Hub holds now. Files are (size, sha256 or None, git blob id)."""

    head: str | None = None
    private: bool | None = None
    gated: Gated = False
    license: str | None = None
    files: dict[str, tuple[int, str | None, str]] = {}
    tags: dict[str, str] = {}
    manifest: Manifest = Manifest()

    def compare(self, path: str, source: Path | bytes, size: int, sha256: str) -> State:
        """How a local file stands to the one here."""
        if path not in self.files:
            return "new"
        there, there_sha256, blob = self.files[path]
        if there_sha256 is not None:
            return "same" if there_sha256 == sha256 else "changed"
        return "same" if there == size and _blob_id(source) == blob else "changed"


def look(api: HfApi, repo_id: str) -> Remote:
    """What the Hub holds of a dataset now; an empty Remote if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.dataset_info(repo_id)
    except RepositoryNotFoundError:
        return Remote()
    head = str(info.sha)
    return Remote(
        head=head,
        private=bool(info.private),
        gated=info.gated or False,
        license=license_of(_published(repo_id, "README.md", head) or b""),
        files=list_files(api, repo_id, head),
        tags=list_tags(api, repo_id),
        manifest=published_manifest(repo_id, head),
    )


def list_files(api: HfApi, repo_id: str, revision: str) -> dict[str, tuple[int, str | None, str]]:
    """(size in bytes, sha256 of an LFS file, git blob id) of each file of a revision, by path."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo_id, repo_type="dataset", recursive=True, revision=revision)
    files = (entry for entry in tree if isinstance(entry, RepoFile))
    return {file.path: (file.size, file.lfs.sha256 if file.lfs else None, file.blob_id) for file in files}


def list_tags(api: HfApi, repo_id: str) -> dict[str, str]:
    """The commit of each tag."""
    return {tag.name: tag.target_commit for tag in api.list_repo_refs(repo_id, repo_type="dataset").tags}


def _published(repo_id: str, path: str, revision: str) -> bytes | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, path, repo_type="dataset", revision=revision)).read_bytes()
    except EntryNotFoundError:
        return None


def published_manifest(repo_id: str, revision: str) -> Manifest:
    """The manifest that was pushed with a revision; an empty one without a readable one of ours."""
    content = _published(repo_id, "manifest.json", revision)
    try:
        return (read_manifest(content) if content else None) or Manifest()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Manifest()


def connect() -> HfApi:
    """The Hub's client, with the user's token and endpoint."""
    from huggingface_hub import HfApi

    return HfApi(library_name="specs-data")


@contextmanager
def hub_errors_said(repo_id: str) -> Iterator[None]:
    """The Hub's errors as sentences."""
    from huggingface_hub import errors as hub_errors

    try:
        yield
    except hub_errors.LocalTokenNotFoundError:
        raise UserError("there is no Hub token on this machine; run: hf auth login") from None
    except hub_errors.HFValidationError as error:
        raise UserError(f"{repo_id!r} is not a Hub dataset id: {first_line(error)}") from None
    except hub_errors.RepositoryNotFoundError:
        raise UserError(f"the Hub has no dataset {repo_id} that this account may see") from None
    except hub_errors.OfflineModeIsEnabled:
        raise UserError("the Hub cannot be asked while HF_HUB_OFFLINE is set") from None
    except hub_errors.HfHubHTTPError as error:
        raise UserError(_sentence(error.response.status_code, repo_id, error)) from None
    except (hub_errors.HTTPError, RuntimeError, OSError) as error:  # type: ignore[attr-defined]
        raise UserError(
            f"the connection to the Hub broke off ({first_line(error)}); run the same command again to go on"
        ) from None


def _sentence(status: int, repo_id: str, error: Exception) -> str:
    if status == 401:
        return "the Hub does not accept this machine's token; run: hf auth login"
    if status == 403:
        return f"this account may not write to {repo_id}; use a token with write access, or another repository"
    if status == 412:
        return f"somebody else pushed to {repo_id} meanwhile; look at their commit, then run the same command again"
    if meaning(status).passes:
        return f"the Hub is out of order (status {status}); run the same command again to go on"
    return f"the Hub refused: {first_line(error)}"


def is_transient(error: Exception) -> bool:
    """No answer at all, or one that says to come again."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or meaning(status).passes


def license_of(card: bytes) -> str | None:
    """The license a card states."""
    from huggingface_hub import DatasetCard
    from yaml import YAMLError

    if not card:  # the client would say that it has no head
        return None
    try:
        found = DatasetCard(card.decode(errors="replace"), ignore_metadata_errors=True).data.get("license")
    except (ValueError, YAMLError):  # a head that is no YAML, or no mapping
        return None
    return ", ".join(map(str, found)) if isinstance(found, list) else (str(found) if found else None)


def card_head(card: bytes) -> tuple[list[bytes], bytes]:
    """The lines of a card's YAML head, and what follows it."""
    found = re.match(rb"---\r?\n(.*?)\r?\n?---\r?\n", card, re.DOTALL)
    return (found[1].splitlines(), card[found.end() :]) if found else ([], card)


def _blob_id(source: Path | bytes) -> str:
    """Git's id of a file's content."""
    content = source if isinstance(source, bytes) else source.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
