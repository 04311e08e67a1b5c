"""Groups that teach: those whose accuracy lies inside a window, and others in place of the rest.

A group whose responses are all right, or all wrong, has no advantage to learn from; MM-EUREKA's scripts, the
authors' trainer, leave out groups outside 0.1 to 0.9. Here the rows of such groups are replaced by those of
further problems, in up to `MOST_DRAWS` draws of only as many as are missing. What is missing then stays in its
place with an empty mask: it weighs nothing in the loss, which is a mean over the tokens that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from specs_data.errors import require

MOST_DRAWS = 3
_LEFT = ("prompt_ids", "prompt_mask")  # padded on the left; everything else by token on the right
_BOTH = ("token_type_ids", "mm_token_type_ids")  # over prompt and response

Batch = dict[str, Any]


def fill(
    first: Batch,
    right: Callable[[], Sequence[float | None]],
    draw: Callable[[int, int], Batch],
    window: tuple[float, float],
    size: int,
    accelerator: Any,
) -> tuple[Batch, float]:
    """`first`, a process's part of a round as TRL's GRPOTrainer generates it, with the rows of groups outside the
    `window` replaced; and the share of groups that were outside.

    `right` gives the verdicts of what was generated last on all processes, in order, in groups of `size`;
    `draw(groups, number)` generates so many further groups on each process. Every process makes the same number of
    draws, because generating is done by all together."""
    torch = require("torch", "train")
    utils = require("trl.trainer.utils", "train")
    rows = utils.split_pixel_values_by_grid(first)
    inside = _inside(right(), window, size)
    outside = 1 - sum(inside) / max(1, len(inside))
    kept = _mine(inside, accelerator)
    wanted = len(kept)
    rows, rest = _pick(rows, kept), _pick(rows, [not one for one in kept])
    for number in range(MOST_DRAWS):
        missing = torch.tensor([wanted - _count(rows)], device=accelerator.device)
        most = int(accelerator.gather(missing).max())
        if not most:
            break
        further = utils.split_pixel_values_by_grid(draw(-(-most // size), number))
        rows = _joined(rows, _pick(further, _mine(_inside(right(), window, size), accelerator)))
        rows = _pick(rows, [place < wanted for place in range(_count(rows))])
    if _count(rows) < wanted:
        rest = _pick(rest, [place < wanted - _count(rows) for place in range(_count(rest))])
        rest["completion_mask"] = torch.zeros_like(rest["completion_mask"])
        rest["advantages"] = torch.zeros_like(rest["advantages"])
        rows = _joined(rows, rest)
    rows["num_items_in_batch"] = accelerator.gather(rows["completion_mask"].sum()).sum()
    return utils.unsplit_pixel_values_by_grid(rows), outside


def further_rows(table: Any, groups: int, size: int, seed: str, accelerator: Any) -> list[Any]:
    """This process's part of `groups` problems for each process, each `size` times; the same `seed` gives the same."""
    count = groups * accelerator.num_processes
    chosen = [Random(f"{seed}/{place}").randrange(len(table)) for place in range(count)]
    start = accelerator.process_index * groups
    return [table[place] for place in chosen[start : start + groups] for _ in range(size)]


def _inside(right: Sequence[float | None], window: tuple[float, float], size: int) -> list[bool]:
    """For each row, whether its group's accuracy is in the window. What could not be judged does not count."""
    low, high = window
    inside: list[bool] = []
    for start in range(0, len(right), size):
        judged = [one for one in right[start : start + size] if one is not None]
        accuracy = sum(judged) / len(judged) if judged else 0.0
        inside += [low <= accuracy <= high] * len(right[start : start + size])
    return inside


def _mine(every: Sequence[bool], accelerator: Any) -> list[bool]:
    """The part of this process."""
    count = len(every) // accelerator.num_processes
    start = accelerator.process_index * count
    return list(every[start : start + count])


def _count(rows: Mapping[str, Any]) -> int:
    return len(rows["completion_ids"])


def _pick(rows: Batch, wanted: Sequence[bool]) -> Batch:
    places = [place for place, one in enumerate(wanted) if one]
    return {
        name: value
        if getattr(value, "ndim", 1) == 0
        else value[places]
        if hasattr(value, "ndim")
        else [value[place] for place in places]
        for name, value in rows.items()
    }


def _joined(one: Batch, other: Batch) -> Batch:
    """Both after each other, tokens padded to the same lengths."""
    if not (_count(one) and _count(other)):
        return one if _count(one) else other
    one, other = _with_all(one, other), _with_all(other, one)
    prompt = max(part["prompt_ids"].shape[1] for part in (one, other))
    response = max(part["completion_ids"].shape[1] for part in (one, other))
    return {name: _put(name, one, other, prompt, response) for name in one}


def _with_all(rows: Batch, others: Batch) -> Batch:
    """`rows` with what only the `others` have, because only they have pictures: none of it for each row."""

    def none_of(name: str, like: Any) -> Any:
        if isinstance(like, list):
            return [0 if isinstance(like[0], int) else like[0][:0]] * _count(rows)
        tokens = rows["prompt_ids"].shape[1] + rows["completion_ids"].shape[1]
        return like.new_zeros((_count(rows), *((tokens,) if name in _BOTH else like.shape[1:])))

    return rows | {name: none_of(name, like) for name, like in others.items() if name not in rows}


def _put(name: str, one: Batch, other: Batch, prompt: int, response: int) -> Any:
    torch = require("torch", "train")
    if isinstance(one[name], list):
        return [*one[name], *other[name]]
    if one[name].ndim != 2 or name == "pixel_values" or not _by_token(name, one, other):
        return one[name] if one[name].ndim == 0 else torch.cat([one[name], other[name]])
    pad = torch.nn.functional.pad
    padded = []
    for part in (one, other):
        left = prompt - part["prompt_ids"].shape[1] if name in (*_LEFT, *_BOTH) else 0
        right = response - part["completion_ids"].shape[1] if name not in _LEFT else 0
        padded.append(pad(part[name], (left, right)))  # by 0, which every mask leaves out
    return torch.cat(padded)


def _by_token(name: str, *parts: Batch) -> bool:
    """Whether there is a value for each token, and not one for the whole response (a ratio of chances may be
    either)."""
    return name in (*_LEFT, *_BOTH) or all(part[name].shape[1] == part["completion_ids"].shape[1] for part in parts)
