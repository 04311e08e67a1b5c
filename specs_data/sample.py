"""Sampling: what is asked of the policy for the n-th response to a problem."""

from __future__ import annotations

import hashlib
from pathlib import Path

from specs_data.format import ResponseFormat
from specs_data.recipe import Recipe
from specs_data.records import Problem, Request, Sampling
from specs_data.texts import Text, chat

_EDGE = 1 << 20


def make_request(problem: Problem, index: int, images: tuple[bytes, ...], system: Text | None, seed: int) -> Request:
    """The request for the `index`-th response. Its seed depends on the recipe's seed, the problem's
    id and the index alone, so that a response does not depend on what else is sampled."""
    return Request(chat(problem, system), images, sample_seed(seed, problem.id, index))


def sample_seed(seed: int, problem_id: str, index: int) -> int:
    """A seed of 31 bits, which every engine takes."""
    key = f"{seed}/{index}/{problem_id}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest()) >> 1


def sampling(recipe: Recipe, fmt: ResponseFormat) -> Sampling:
    """How the policy is sampled. Nothing is generated after the marker that closes the answer."""
    stop = (fmt.answer.close,) if fmt.layout == "tags" and fmt.answer.close else ()
    return Sampling(recipe.temperature, recipe.top_p, recipe.max_tokens, stop)


def policy_name(policy: str) -> str:
    """What a dataset calls a policy: a Hub id as it is, a checkpoint folder without its place on this machine."""
    path = Path(policy)
    return path.resolve().name if path.exists() else policy


def policy_fingerprint(policy: str) -> str:
    """What identifies a policy's weights: a digest of a checkpoint folder's files, wherever it lies.

    Of each file the name, the size and the first and last MiB are taken: a checkpoint whose weights
    changed has other bytes there, and 100 GB of weights need not be read. A Hub id stands for itself.
    """
    root = Path(policy)
    if not policy or not root.is_dir():
        return policy
    digest = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        name, size = file.relative_to(root).as_posix(), file.stat().st_size
        if name.startswith("."):  # .cache, .git: how the folder came here
            continue
        digest.update(f"{name} {size}\n".encode())
        with file.open("rb") as content:
            digest.update(content.read(_EDGE))
            if size > _EDGE:
                content.seek(max(_EDGE, size - _EDGE))
                digest.update(content.read(_EDGE))
    return digest.hexdigest()
