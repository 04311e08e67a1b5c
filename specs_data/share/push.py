"""Publish a dataset on the Hugging Face Hub as an immutable version, and list the versions there.

`plan_push` looks and changes nothing, `carry_out` does what the plan says: one commit to main,
guarded by the commit the plan was made against, then the tag on exactly that commit, then a look at
what the Hub holds under the tag. A push that broke off is resumed by the same command, and a push
of what is already there changes nothing.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from specs_data.errors import CheckFailed, FileRefused, UserError
from specs_data.files import read_inside
from specs_data.images import image_fault
from specs_data.pairs.manifest import Data, Manifest, Shard, describe_data, encode_manifest
from specs_data.pairs.parquet import describe
from specs_data.pairs.rows import Dataset, count_rows, open_whole, rows
from specs_data.share.hub import (
    Gated,
    Remote,
    State,
    card_head,
    connect,
    hub_errors_said,
    is_transient,
    license_of,
    list_files,
    list_tags,
    look,
    published_manifest,
)
from specs_data.share.private import refuse_private, without_local_paths
from specs_data.wire import pause

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)")
_DATA = re.compile(r"(data/)?[\w.]+-\d{5}-of-\d{5}\.parquet|pair\.(png|jpg|webp)")
# What the card shows and names, beside it.
_BESIDE = ("recipe.toml", "pair.png", "pair.jpg", "pair.webp")
_CARD_BYTES = 10_000_000  # the Hub shows no longer one
_ATTEMPTS = 5  # at a commit


class Upload(Struct, frozen=True):
    """One file of the dataset: its path in the repository, where its content is, and how it compares
    with what the repository holds."""

    path: str
    source: Path | bytes
    size: int
    sha256: str
    state: State


class SplitChange(Struct, frozen=True):
    """A split to be published: rows, bytes on disk, files, and the rows it had before (None: unknown or new)."""

    name: str
    rows: int
    bytes: int
    shards: int
    before: int | None


class Plan(Struct, frozen=True):
    """Everything a push will do. `base` is the commit it builds on, None for a new repository.
    `tagged` says that the tag is already on exactly this content."""

    endpoint: str
    account: str
    repo_id: str
    base: str | None
    private: bool
    was_private: bool | None
    gated: Gated
    was_gated: Gated
    splits: tuple[SplitChange, ...]
    uploads: tuple[Upload, ...]
    deletions: tuple[str, ...]
    left_out: tuple[str, ...]
    license: str | None
    models: tuple[str, ...]
    fingerprint: str
    tag: str
    tagged: bool

    @property
    def changed(self) -> tuple[Upload, ...]:
        """The files that have to be sent."""
        return tuple(upload for upload in self.uploads if upload.state != "same")


class Pushed(Struct, frozen=True):
    """What a push left on the Hub. `commit` is a full id; `rows` were counted there, at the tag."""

    repo_id: str
    commit: str
    url: str
    tag: str
    rows: int
    files: int
    changed: bool


class Version(Struct, frozen=True):
    """One tag of a published dataset. `changes` are the recipe's fields that differ from the version before."""

    tag: str
    commit: str
    rows: dict[str, int]
    fingerprint: str
    recipe_fingerprint: str
    changes: tuple[str, ...]


def push(
    dataset: str | Path,
    repo_id: str,
    *,
    tag: str,
    say: Callable[[str], object] = print,
    private: bool = True,
    gated: Gated = False,
    license: str | None = None,
    dry_run: bool = False,
) -> Pushed | None:
    """Publish a run or a dataset as the version `tag` (vX.Y.Z) of the Hub dataset `repo_id`.

    `say` gets the plan as text, and then, unless it is a dry run, the outcome; None is returned by a dry run. A new
    repository is `private` unless told otherwise; `gated` readers ask for access; `license` is a Hub license id.

    Raises UserError for what the user must change (a taken tag, an empty split, a secret, a local
    path, a repository that moved on) and CheckFailed if the Hub holds other than what was sent.
    """
    plan = plan_push(open_whole(dataset), repo_id, tag=tag, private=private, gated=gated, license=license)
    say(describe_plan(plan))
    if dry_run:
        return None
    pushed = carry_out(plan)
    say(describe_pushed(pushed))
    return pushed


def plan_push(
    dataset: Dataset,
    repo_id: str,
    *,
    tag: str,
    private: bool = True,
    gated: Gated = False,
    license: str | None = None,
) -> Plan:
    """What a push would do. Nothing is changed, here or on the Hub. Raises UserError."""
    if not _TAG.fullmatch(tag):
        raise UserError(f"the tag {tag!r} is not of the form v1.2.3")
    _refuse_other(dataset)
    _refuse_empty(dataset)
    with hub_errors_said(repo_id):
        api = connect()
        account = api.whoami()["name"]
        repo_id = repo_id if "/" in repo_id else f"{account}/{repo_id}"
        remote = look(api, repo_id)
    if private and remote.private is False:
        raise UserError(f"{repo_id} is public; push with --public, or make it private in its settings first")
    splits = {name: [describe(file, dataset.root) for file in files] for name, files in dataset.splits.items()}
    data = describe_data(splits)
    card, licensed = _card(dataset, license, remote.license)
    manifest = _manifest(dataset, data)
    texts = {"README.md": card} if card else {}
    texts["manifest.json"] = encode_manifest(manifest)
    texts |= {name: content for name in _BESIDE if (content := _read(dataset, name))}
    refuse_private(dataset, texts)
    for name in texts.keys() & {*_BESIDE[1:]}:
        if fault := image_fault(texts[name]):
            raise UserError(f"{dataset.root / name} is no picture that can be used ({fault}); take it away")
    uploads = _uploads(dataset, splits, texts, remote)
    paths = {upload.path for upload in uploads}
    deletions = tuple(sorted(path for path in remote.files if _DATA.fullmatch(path) and path not in paths))
    unchanged = not deletions and all(upload.state == "same" for upload in uploads)
    _refuse_taken(tag, repo_id, remote, unchanged)
    before = remote.manifest.dataset.rows
    return Plan(
        endpoint=api.endpoint,
        account=account,
        repo_id=repo_id,
        base=remote.head,
        private=private,
        was_private=remote.private,
        gated=gated or remote.gated,
        was_gated=remote.gated,
        splits=tuple(
            SplitChange(name, split.rows, split.bytes, len(split.shards), before.get(name))
            for name, split in data.splits.items()
        ),
        uploads=uploads,
        deletions=deletions,
        left_out=_left_out(dataset, paths),
        license=licensed,
        models=_models(manifest),
        fingerprint=data.fingerprint,
        tag=tag,
        tagged=tag in remote.tags,
    )


def describe_plan(plan: Plan) -> str:
    """The plan as text: all that is going to happen, and nothing that is not."""
    before = "public" if plan.was_private is False else "private"
    visibility = "private" if plan.private else "public"
    if plan.was_private is not None and plan.was_private != plan.private:
        visibility = f"{before} -> {visibility}"
    gate = f", gated ({plan.gated})" if plan.gated else ""
    sent = sum(upload.size for upload in plan.changed)
    lines = [
        ("endpoint", plan.endpoint),
        ("account", plan.account),
        ("repository", f"{plan.repo_id} ({'new' if plan.base is None else 'existing'})"),
        ("visibility", visibility + gate),
        ("base commit", plan.base[:8] if plan.base else "none yet"),
        *((f"split {split.name}", _split_line(split)) for split in plan.splits),
        ("upload", f"{_count(len(plan.changed), 'file')}, {_size(sent)}" if plan.changed else "nothing: all is there"),
        *(("delete", path) for path in plan.deletions),
        *(("left out", f"{path} (not part of the dataset)") for path in plan.left_out),
        ("license", plan.license or "none stated; give one with --license"),
        *(("model", model) for model in plan.models),
        ("fingerprint", plan.fingerprint[:16]),
        ("tag", f"{plan.tag} ({'already on this commit' if plan.tagged else 'free'})"),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in lines)


def describe_pushed(pushed: Pushed) -> str:
    """What a push left on the Hub, with the line that loads it."""
    lines = [
        ("commit", pushed.url + ("" if pushed.changed else " (unchanged)")),
        ("tag", pushed.tag),
        ("read back", f"{_count(pushed.rows, 'row')} in {_count(pushed.files, 'file')}: counts and hashes as built"),
        ("load", f'load_dataset("{pushed.repo_id}", revision="{pushed.tag}")'),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in lines)


def carry_out(plan: Plan) -> Pushed:
    """Do what the plan says. Raises UserError, and CheckFailed if the Hub holds other than what was sent."""
    with hub_errors_said(plan.repo_id):
        api = connect()
        base = plan.base
        if base is None:
            api.create_repo(plan.repo_id, repo_type="dataset", private=plan.private, exist_ok=True)
            base = str(api.dataset_info(plan.repo_id).sha)
        elif plan.was_private != plan.private:
            api.update_repo_settings(plan.repo_id, repo_type="dataset", private=plan.private)
        if plan.gated != plan.was_gated:
            api.update_repo_settings(plan.repo_id, repo_type="dataset", gated=plan.gated)
        changed = bool(plan.changed or plan.deletions)
        commit = _commit(api, plan, base) if changed else base
        if not plan.tagged:
            _tag(api, plan, commit)
        rows = _read_back(api, plan)
    url = f"{plan.endpoint}/datasets/{plan.repo_id}/commit/{commit}"
    return Pushed(plan.repo_id, commit, url, plan.tag, rows, len(plan.uploads), changed)


def versions(repo_id: str) -> list[Version]:
    """The tags of a published dataset, oldest version first. Raises UserError.

    Rows and fingerprints come from the manifest.json that a push leaves in the repository; for tags
    without one they are empty.
    """
    with hub_errors_said(repo_id):
        api = connect()
        tags = list_tags(api, repo_id)
        manifests = {tag: published_manifest(repo_id, commit) for tag, commit in tags.items()}
    found: list[Version] = []
    before: Mapping[str, Any] | None = None
    for tag in sorted(tags, key=_order):
        manifest = manifests[tag]
        found.append(
            Version(
                tag=tag,
                commit=tags[tag],
                rows=manifest.dataset.rows,
                fingerprint=manifest.dataset.fingerprint,
                recipe_fingerprint=manifest.recipe_fingerprint,
                changes=_changes(before, manifest.recipe),
            )
        )
        before = before if manifest.recipe is None else manifest.recipe
    return found


def describe_versions(found: list[Version]) -> str:
    """The versions as text, one block each."""
    if not found:
        return "no versions: the repository has no tags"
    blocks = []
    for version in found:
        rows = ", ".join(f"{name} {count:,}" for name, count in version.rows.items()) or "unknown rows"
        marks = [f"commit {version.commit[:8]}", f"data {version.fingerprint[:16] or 'unknown'}"]
        marks += [f"recipe {version.recipe_fingerprint[:16]}"] if version.recipe_fingerprint else []
        blocks.append(
            "\n".join((f"{version.tag}  {rows}", f"  {'  '.join(marks)}", *(f"  {c}" for c in version.changes)))
        )
    return "\n".join(blocks)


def _refuse_other(dataset: Dataset) -> None:
    """Raise UserError for files that are no Parquet, and for rows that are no pairs."""
    for file in (file for files in dataset.splits.values() for file in files):
        if file.suffix != ".parquet":
            raise UserError(f"{file} is no Parquet file, and only those are pushed: give a run, or a dataset of them")
        next(rows(replace(dataset, splits={"": (file,)}), pictures=False), None)


def _refuse_empty(dataset: Dataset) -> None:
    for split, count in count_rows(dataset).items():
        if count == 0:
            raise UserError(f"the split {split!r} of {dataset.root} has no rows; leave it out or fill it")


def _refuse_taken(tag: str, repo_id: str, remote: Remote, unchanged: bool) -> None:
    if tag in remote.tags and not (unchanged and remote.tags[tag] == remote.head):
        raise UserError(
            f"the tag {tag} of {repo_id} is taken by commit {remote.tags[tag][:8]}, and a tag never moves; "
            f"the next free one is {_next_free(tag, remote.tags)}"
        )


def _uploads(
    dataset: Dataset, splits: Mapping[str, list[Shard]], texts: Mapping[str, bytes], remote: Remote
) -> tuple[Upload, ...]:
    found = [
        Upload(name, text, len(text), digest, remote.compare(name, text, len(text), digest))
        for name, text in texts.items()
        if (digest := hashlib.sha256(text).hexdigest())
    ]
    for shard in (shard for shards in splits.values() for shard in shards):
        file = dataset.root / shard.path
        state = remote.compare(shard.path, file, shard.bytes, shard.sha256)
        found.append(Upload(shard.path, file, shard.bytes, shard.sha256, state))
    return tuple(sorted(found, key=lambda upload: upload.path))


def _commit(api: HfApi, plan: Plan, base: str) -> str:
    """One commit on top of `base`; a service that is out of order for a moment is asked again."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub import errors as hub_errors

    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for upload in plan.changed:
        add = CommitOperationAdd(upload.path, upload.source)
        add.upload_info.sha256 = bytes.fromhex(upload.sha256)
        operations.append(add)
    operations += [CommitOperationDelete(path) for path in plan.deletions]
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return api.create_commit(
                plan.repo_id,
                operations,
                repo_type="dataset",
                commit_message=f"{plan.tag}: {_count(sum(split.rows for split in plan.splits), 'pair')}",
                parent_commit=base,
            ).oid
        except hub_errors.HTTPError as error:  # type: ignore[attr-defined]
            if attempt == _ATTEMPTS or not is_transient(error):
                raise
        time.sleep(pause(attempt))
        # The answer may have been lost while the commit was made: then there is nothing left to do.
        head = str(api.dataset_info(plan.repo_id).sha)
        if head != base and _holds(api, plan, head):
            return head
    raise AssertionError("the last attempt returns or raises")


def _tag(api: HfApi, plan: Plan, commit: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_tag(plan.repo_id, repo_type="dataset", tag=plan.tag, revision=commit)
    except HfHubHTTPError as error:
        if error.response.status_code != 409 or list_tags(api, plan.repo_id).get(plan.tag) != commit:
            raise


def _holds(api: HfApi, plan: Plan, revision: str) -> bool:
    """Does the Hub hold exactly the plan's files at `revision`?"""
    files = list_files(api, plan.repo_id, revision)
    there = Remote(files=files)
    same = all(there.compare(u.path, u.source, u.size, u.sha256) == "same" for u in plan.uploads)
    return same and not any(path in files for path in plan.deletions)


def _read_back(api: HfApi, plan: Plan) -> int:
    """The rows found on the Hub under the tag; the files' hashes are compared too."""
    import pyarrow.parquet as pq
    from huggingface_hub import HfFileSystem

    if not _holds(api, plan, plan.tag):
        raise CheckFailed(f"{plan.repo_id} at {plan.tag} does not hold the files that were pushed")
    expected = sum(split.rows for split in plan.splits)
    data = [upload.path for upload in plan.uploads if upload.path.endswith(".parquet")]
    if not data:
        return expected
    hub = HfFileSystem(skip_instance_cache=True)
    rows = 0
    for path in data:
        with hub.open(f"datasets/{plan.repo_id}@{plan.tag}/{path}", block_size=1 << 16) as file:
            rows += pq.read_metadata(file).num_rows
    if rows != expected:
        raise CheckFailed(f"{plan.repo_id} at {plan.tag} has {rows} rows, but {expected} were pushed")
    return rows


def _card(dataset: Dataset, license: str | None, published: str | None) -> tuple[bytes, str | None]:
    """The card and its license: the one given, else the card's own, else the one published before."""
    card = _read(dataset, "README.md")
    chosen = license or license_of(card) or published
    if not card or chosen is None or license_of(card) == chosen:
        return card, chosen if card else license
    head, rest = card_head(card)
    lines, inside = [], False
    for line in head:  # a license may be a list on lines of its own
        inside = line.startswith(b"license:") or (inside and line[:1] in (b" ", b"-", b"\t"))
        if not inside:
            lines.append(line)
    return b"---\n" + b"\n".join([b"license: " + chosen.encode(), *lines]) + b"\n---\n" + rest, chosen


def _read(dataset: Dataset, name: str) -> bytes:
    """A file beside the dataset's data, such as its card; empty if there is none."""
    try:
        return read_inside(dataset.home, str((dataset.root / name).absolute()), _CARD_BYTES)
    except FileRefused as refused:
        if refused.reason == "not found":
            return b""
        raise UserError(f"{dataset.root} has a {name} which {refused.detail}; repair it, or take it away") from None


def _manifest(dataset: Dataset, data: Data) -> Manifest:
    """The manifest to publish: the run's own, or a short one for a dataset without. No local paths."""
    if dataset.manifest is None:
        return Manifest(dataset=data)
    if dataset.manifest.dataset.fingerprint != data.fingerprint:
        raise UserError(
            f"the files in {dataset.root} are not those its manifest.json describes; build the dataset again, "
            "or take manifest.json away to publish them without their history"
        )
    told = dict(dataset.manifest)
    kept = told.pop("response_format", None)
    cleaned = without_local_paths(told)
    if kept is not None:  # markers may look like paths: only the prompt's name can be one
        cleaned["response_format"] = kept | {"instruction": without_local_paths(kept.get("instruction"))}
    return msgspec.convert(cleaned, Manifest)


def _models(manifest: Manifest) -> tuple[str, ...]:
    """One line per model: what was asked for, and what served it."""
    lines = []
    for role, model in (manifest.models or {}).items():
        if model:
            served = ", ".join(f"{served} ({count:,})" for served, count in (model.served or {}).items())
            lines.append(f"{role}: {model.asked or 'unknown'}" + (f", served by {served}" if served else ""))
    return tuple(lines)


def _changes(before: Mapping[str, Any] | None, recipe: Mapping[str, Any] | None) -> tuple[str, ...]:
    if before is None or recipe is None:
        return ()
    keys = sorted({*before, *recipe})
    return tuple(
        f"{key}: {_value(before.get(key))} -> {_value(recipe.get(key))}"
        for key in keys
        if before.get(key) != recipe.get(key)
    )


def _value(value: Any) -> str:
    return "unset" if value is None else msgspec.json.encode(value).decode()


def _left_out(dataset: Dataset, pushed: set[str]) -> tuple[str, ...]:
    """Files in the dataset's folder that are not pushed."""
    found = (file.relative_to(dataset.root).as_posix() for file in dataset.root.rglob("*") if file.is_file())
    if any(files and files[0].parent == dataset.root for files in dataset.splits.values()):
        return ()  # single files beside others: what lies around them was never meant
    return tuple(sorted(path for path in found if path not in pushed and not path.startswith(".")))


def _next_free(tag: str, taken: Mapping[str, str]) -> str:
    major, minor, patch = map(int, tag[1:].split("."))
    while f"v{major}.{minor}.{patch}" in taken:
        patch += 1
    return f"v{major}.{minor}.{patch}"


def _order(tag: str) -> tuple[int, tuple[int, ...], str]:
    found = _TAG.fullmatch(tag)
    return (1, tuple(map(int, found.groups())), "") if found else (0, (), tag)


def _split_line(split: SplitChange) -> str:
    change = (
        ""
        if split.before is None
        else f" ({split.rows - split.before:+,})"
        if split.rows != split.before
        else " (as before)"
    )
    return f"{_count(split.rows, 'row')}{change}, {_size(split.bytes)} in {_count(split.shards, 'file')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
