"""Sampling: what is asked of the policy for the n-th response to a problem."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from specs_data import engines
from specs_data.engines import Engine
from specs_data.errors import UserError, first_line
from specs_data.format import ResponseFormat
from specs_data.recipe import Recipe
from specs_data.records import Problem, Request, Sampling
from specs_data.texts import IMAGE, Text, chat

# What is read of a checkpoint's files: their edges, and of one that is larger than four of these as many pieces between
# them. Adapters are merged into layers, and a file of weights may begin with embeddings and end with a vision tower.
_EDGE = 1 << 20
_PIECE = 1 << 14
_PIECES = 256


def make_request(
    problem: Problem,
    index: int,
    images: tuple[bytes, ...],
    system: Text | None,
    seed: int,
    nuclei: bool = False,
    prefill: str = "",
) -> Request:
    """The request for the `index`-th response. Its seed depends on the recipe's seed, the problem's
    id and the index alone, so that a response does not depend on what else is sampled. Nor does it on whether its
    `nuclei` are wanted with it."""
    return Request(chat(problem, system), images, sample_seed(seed, problem.id, index), nuclei, prefill)


def without_pictures(problem: Problem) -> Problem:
    """The problem as text alone, without the places where its pictures stood."""
    question, *choices = (text.replace(IMAGE, "").strip() for text in (problem.question, *problem.choices))
    return replace(problem, question=question, choices=tuple(choices), images=())


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


def policy_fingerprint(policy: str, pieces: int = _PIECES) -> str:
    """What identifies a policy's weights: a digest of a checkpoint folder's files, wherever it lies.

    Of each file the name, the size and the first and last MiB are taken, of a large one `pieces` between them too: a
    checkpoint whose weights changed has other bytes there, and 100 GB of weights need not be read. A Hub id stands for
    itself, with the commit that this machine has of it.
    """
    root = Path(policy)
    if not policy or not root.is_dir():
        commit = _cached_commit(policy)
        return f"{policy}@{commit}" if commit else policy
    digest = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        name, size = file.relative_to(root).as_posix(), file.stat().st_size
        if name.startswith("."):  # .cache, .git: how the folder came here
            continue
        digest.update(f"{name} {size}\n".encode())
        with file.open("rb") as content:
            for start, length in _looked_at(size, pieces):
                content.seek(start)
                digest.update(content.read(length))
    return digest.hexdigest()


def edges_fingerprint(policy: str) -> str:
    """The fingerprint as earlier releases had it, of the edges of files alone."""
    return policy_fingerprint(policy, pieces=0)


def _looked_at(size: int, pieces: int) -> Iterator[tuple[int, int]]:
    """Where a file of this size is read, and how far."""
    yield 0, _EDGE
    if size > _EDGE:
        yield max(_EDGE, size - _EDGE), _EDGE
    if pieces and size > 4 * _EDGE:
        yield from ((start, _PIECE) for start in range(_EDGE, size - _EDGE, (size - 2 * _EDGE) // pieces))


def settle(recipe: Recipe, engine: Engine | None = None, otherwise: str = "") -> Recipe:
    """The recipe with the name of its engine, and with its policy where a server tells it. `engine` takes the place of
    the one that it names. Raises UserError where the problems or the policy are missing, with `otherwise` as what
    else may be given for a policy."""
    if not recipe.problems:
        raise UserError("no problems: give --problems SRC, or problems = ... in specs-data.toml")
    if recipe.responses is not None:
        return recipe
    name = engines.engine_name(recipe) if engine is None else type(engine).__name__
    if engine is None and name == "openai":
        recipe = engines.at_server(recipe)
    elif engine is None and recipe.policy is None:
        raise UserError(
            f"no policy: give --policy CKPT (or policy = ... in specs-data.toml), --base-url URL of a server{otherwise}"
        )
    if engine is None:
        engines.tell_unused(recipe, name)
    return recipe.model_copy(update={"engine": name})


def loads_here(recipe: Recipe, engine: Engine | None = None) -> bool:
    """Whether a settled recipe's policy is loaded on this machine: a server and a cluster have folders of their own,
    and an engine of the user's may mean what it likes by a policy."""
    sampled = recipe.responses is None and engine is None
    return sampled and recipe.engine in ("transformers", "vllm") and recipe.ray in (None, "local")


def check_policy(policy: str) -> None:
    """Raise UserError for a policy that is no folder here and that the Hub does not give either.

    From a Hub that can be reached the configuration is taken, so that the cache knows the commit from
    the first run on; without a Hub, a policy in the cache will do.
    """
    if Path(policy).is_dir():
        return
    if not _may_be_hub_id(policy):
        raise UserError(f"no policy at {policy}: there is no such folder here; correct the path, or give a Hub id")
    from huggingface_hub import HfApi, hf_hub_download

    try:
        HfApi().model_info(policy, timeout=10)  # fails at once, where a download tries again and again
        hf_hub_download(policy, "config.json")
    except Exception as error:  # of whatever HTTP library the Hub's client is made
        if _cached_commit(policy) is None:
            raise UserError(
                f"no policy at {policy}: there is no such folder here, and the Hub says: {first_line(error)}"
            ) from None


def _may_be_hub_id(policy: str) -> bool:
    return policy.count("/") == 1 and not policy.startswith((".", "/", "~"))


def _cached_commit(policy: str) -> str | None:
    """The commit of a Hub id's main branch in the local cache, None where it is not there."""
    if not _may_be_hub_id(policy):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(policy, "config.json")
    except ValueError:  # characters that no id has
        return None
    return Path(found).parent.name if isinstance(found, str) else None
