"""What a build must not lose: a finished dataset, and a card that somebody has edited."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from specs_data.errors import UserError
from specs_data.files import write_whole
from specs_data.pairs.manifest import Manifest, load_manifest
from specs_data.recipe import Recipe, make_recipe
from specs_data.rollouts.plan import name_of
from specs_data.rollouts.sample import edges_fingerprint, policy_fingerprint

# Names that trainers give to every checkpoint: they tell none apart.
_NO_NAME = re.compile(
    r"((global_?)?steps?|checkpoint|ckpt|epoch|iter(ation)?)[-_]?\d*|final|last|latest|best|model|merged|actor|hf|"
    r"huggingface|output|[0-9a-f]{40}",
    re.IGNORECASE,
)


def default_out(recipe: Recipe) -> Path:
    """runs/<name of the policy, or of the file of responses>; with the folders above it as long as the name is one
    that many checkpoints have, or another policy's run is there."""
    source = Path(recipe.policy or "") if recipe.responses is None else recipe.responses
    names = [name_of(recipe).replace("/", "--")]
    if source.exists():
        names += [part for part in reversed(source.resolve().parent.parts) if part != source.anchor]
    while len(names) > 1 and all(map(_NO_NAME.fullmatch, names[0].split("--"))):
        names[:2] = [f"{names[1]}--{names[0]}"]
    place = Path("runs") / (names[0] if recipe.shard is None else f"{names[0]}-{'-of-'.join(map(str, recipe.part))}")
    for above in names[1:]:
        if not _other_policy(_recipe_of(place), recipe, None):
            break
        place = place.with_name(f"{above}--{place.name}")
    return place


def refuse_to_replace(recipe: Recipe, out: Path) -> None:
    """Raise UserError where a finished dataset in `out` would give way to one of another policy or other problems."""
    old = _recipe_of(out)
    if old is None or not (out / "dataset").is_dir():
        return
    changed = [
        f"{what.replace('_', ' ')} ({getattr(old, what)} -> {getattr(recipe, what)})"
        for what, differs in (
            ("policy", _other_policy(old, recipe, manifest_of(out))),
            ("responses", _other(old.responses, recipe.responses)),
            ("rejected_responses", _other(old.rejected_responses, recipe.rejected_responses)),
            ("problems", _other(old.problems, recipe.problems)),
            ("shard", old.part != recipe.part),
        )
        if differs
    ]
    if changed:
        raise UserError(
            f"{out} has a finished dataset of other {' and '.join(changed)}; use another --out, or --overwrite to "
            "replace it"
        )


def refuse_empty(out: Path, reasons: str) -> None:
    """Raise UserError where nothing would take the place of a finished dataset in `out`. `reasons` say why nothing
    came of it."""
    if (out / "dataset").is_dir():
        raise UserError(
            f"no pairs came of it{reasons}; the finished dataset in {out} stays as it is: use another --out, or "
            "--overwrite to replace it by nothing"
        )


def keep_card(out: Path, fresh: Path) -> str | None:
    """See to it that a card which somebody has edited is not lost when the dataset `fresh` takes its place: it stays
    where the new one would be as the one before it was made, and is moved beside the dataset otherwise. What to say."""
    manifest, card = manifest_of(out), out / "dataset" / "README.md"
    if manifest is None or manifest.card_sha256 is None or not card.is_file():
        return None
    content, made = card.read_bytes(), fresh / "README.md"
    if digest_of(content) == manifest.card_sha256:
        return None
    if digest_of(made.read_bytes()) == manifest.card_sha256:
        made.write_bytes(content)
        return "the card was edited by hand and stays as it is"
    kept = out / "README.edited.md"
    write_whole(kept, content)
    return (
        f"the card was edited by hand, and the dataset is another now: it has a new card, and the edited one is {kept}"
    )


def digest_of(card: bytes) -> str:
    """The sha256 hex digest of a card."""
    return hashlib.sha256(card).hexdigest()


def manifest_of(out: Path) -> Manifest | None:
    """The manifest of the run in `out`, None where there is no readable one."""
    try:
        return load_manifest(out / "manifest.json")
    except (OSError, UserError):
        return None


def _recipe_of(out: Path) -> Recipe | None:
    """The recipe of the last build in `out`; None where there is none, or not one of this version."""
    try:
        return make_recipe({}, out / "recipe.toml") if (out / "recipe.toml").is_file() else None
    except UserError:
        return None


def _other_policy(old: Recipe | None, new: Recipe, manifest: Manifest | None) -> bool:
    """Do these recipes sample other policies? The same weights in another folder are the same policy."""
    if old is None or not _other(old.policy, new.policy):
        return False
    known = ((manifest and manifest.models) or {}).get("policy")
    name = new.policy or ""
    same = (policy_fingerprint(name), edges_fingerprint(name))  # as this release writes them, and as those before did
    return known is None or not known.fingerprint or known.fingerprint not in same


def _other(old: object, new: object) -> bool:
    """Do these two settings name other things?"""
    return _where(old) != _where(new)


def _where(name: object) -> object:
    """A name as it is whatever folder one works in, if it is one of a file."""
    if isinstance(name, list | tuple):
        return tuple(map(_where, name))
    return str(Path(str(name)).resolve()) if name and Path(str(name)).exists() else name
