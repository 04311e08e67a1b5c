"""Preference datasets and problem sets in the layouts of other trainers.

A row that a target would read differently from what it says is left out and counted, and what a
target does to the data by default is said in the notes. Pictures of preference rows lie as files
beside, named by their content; problem sets are Parquet with the pictures inside.

Sources: LLaMA-Factory 0.9.5 (data/converter.py, data/mm_plugin.py), ms-swift 4.6 (dataset/preprocessor,
template/base.py), OpenRLHF (datasets/reward_dataset.py), TRL 1.16, EasyR1 and verl (utils/dataset).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from specs_data.errors import UserError, first_line
from specs_data.files import sha256_of, staged
from specs_data.images import Unusable, settle, suffix
from specs_data.pairs.manifest import Manifest
from specs_data.pairs.parquet import IMAGES, MESSAGES, write_either
from specs_data.pairs.rows import Dataset, Row, open_whole, rows, to_row
from specs_data.records import Message, Pair, Picture, Problem
from specs_data.texts import IMAGE, Text, chat, placed, to_content

_CHARACTERS_PER_TOKEN = 3
# Words that the loaders read as something else than text, in any turn.
_SWIFT_WORDS = ("<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>", "<start-image>", "<img>")
_LLAMAFACTORY_WORDS = ("<video>", "<audio>")
_INFO = "dataset_info.json"  # LLaMA-Factory's list of the data sets in a folder


PROMPT_TARGETS = ("trl", "easyr1", "verl")


class Export(Struct, frozen=True):
    """What an export wrote: the files a trainer is pointed at, rows by split, rows left out by
    reason, and what to mind when training."""

    files: tuple[Path, ...]
    rows: dict[str, int]
    left_out: dict[str, int]
    notes: tuple[str, ...]


class _Refused(Exception):
    """A row the target cannot take, with the reason."""


def export(
    dataset: str | Path,
    to: str,
    out: str | Path,
    images: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> Export:
    """Write a preference dataset for the trainer `to` (llamafactory, ms-swift or openrlhf) into the folder `out`.

    Rows that the trainer would misread are left out and counted. `images` is the folder of the pictures that rows
    name, if it is not the dataset's own; `columns` names the dataset's own columns for ours. Other data sets that
    LLaMA-Factory's dataset_info.json in `out` lists stay there. Raises UserError.
    """
    out = Path(out)
    targets = {"llamafactory": _llamafactory, "ms-swift": _swift, "openrlhf": _openrlhf}
    if to not in targets:
        prompts = ", ".join(PROMPT_TARGETS)
        raise UserError(f"cannot export pairs to {to!r}; choose from: {', '.join(targets)}; problems go to {prompts}")
    opened = open_whole(dataset, images)
    name = _name(opened)
    left_out: Counter[str] = Counter()
    written: dict[str, int] = {}
    files = {split: f"{name if split == 'train' else f'{name}_{split}'}.jsonl" for split in opened.splits}
    longest = 0
    own = {file.resolve() for files in opened.splits.values() for file in files}
    for file in files.values():
        if (out / file).resolve() in own:
            raise UserError(f"{out / file} is the dataset itself, and would be overwritten: export to another folder")
    known = _read_dataset_info(out) if to == "llamafactory" else {}
    with staged(out) as part:
        for split, file in files.items():
            with (part / file).open("w", encoding="utf-8") as lines:
                for pair in rows(opened, split, columns=columns):
                    try:
                        line = _checked(pair, targets[to], part)
                    except _Refused as refused:
                        left_out[str(refused)] += 1
                        continue
                    lines.write(json.dumps(line, ensure_ascii=False) + "\n")
                    written[split] = written.get(split, 0) + 1
                    longest = max(longest, _length(pair))
        if not written:
            reasons = describe_left_out(left_out) or "it is empty"
            raise UserError(f"{to} can take none of the rows of {dataset}: {reasons}")
        notes = (*_notes(to, name, out, longest), *_replaced(part, out, files.values()))
        if to == "llamafactory":
            files = {"info": _write_dataset_info(part, list(files.values()), known), **files}
    return Export(tuple(out / file for file in files.values()), written, dict(left_out), notes)


def export_problems(
    problems: Iterable[tuple[Problem, Sequence[bytes]]],
    system: Text | None,
    to: str,
    out: Path,
    unread: Mapping[str, int] = MappingProxyType({}),
) -> Export:
    """Write a GRPO prompt set for the trainer `to`: trl, easyr1 or verl, as Parquet files in `out`/data.

    `problems` come with their pictures as the bytes of their files; they are gone through a second time where
    pictures stand among the text. `system` is the system prompt that asks for the response format, and `unread` counts
    by reason the rows that were no problems, once they have been gone through. Raises UserError.
    """
    if to not in PROMPT_TARGETS:
        raise UserError(f"cannot export problems to {to!r}; choose from: {', '.join(PROMPT_TARGETS)}")
    make, columns = {"trl": (_trl, _TRL), "easyr1": (_easyr1, _EASYR1), "verl": (_verl, _VERL)}[to]
    left_out: Counter[str] = Counter()
    before = _exported_before(out, columns)

    def lines() -> Iterator[Row]:
        left_out.clear()
        for problem, pictures in problems:
            try:
                yield make(problem, [_picture(picture) for picture in pictures], system)
            except _Refused as refused:
                left_out[str(refused)] += 1

    with staged(out) as part:
        shards = write_either(lines, part, "train", columns)
        if not shards:
            reasons = describe_left_out(left_out + Counter(unread))
            raise UserError(f"{to} can take none of the problems: {reasons or 'there are none'}")
        files = [shard.path for shard in shards]
        if to == "easyr1" and system is not None:
            files.append("format_prompt.jinja")
            (part / files[-1]).write_text(f"{{{{ content | trim }}}} {_raw(system.body)}", encoding="utf-8")
        for old in before:  # of another number of files
            old.unlink()
    written = {"train": sum(shard.rows for shard in shards)}
    return Export(tuple(out / file for file in files), written, dict(left_out + Counter(unread)), _PROBLEM_NOTES[to])


def _exported_before(out: Path, columns: Mapping[str, pa.DataType]) -> list[Path]:
    """The files of an earlier export with these columns, which give way. Raises UserError where others are in the
    way, perhaps the problems themselves."""
    found = sorted((out / "data").glob("train-*.parquet"))
    for file in found:
        try:
            names = pq.read_schema(file).names
        except (OSError, ValueError):
            names = []
        if names != [*columns]:
            raise UserError(f"{file} is not of an earlier export like this one: export to another folder")
    return found


def describe_export(done: Export) -> str:
    """What an export wrote, as text."""
    lines = [f"wrote        {file}" for file in done.files]
    lines += [f"rows         {split} {count:,}" for split, count in done.rows.items()]
    lines += [f"left out     {count:,}: {reason}" for reason, count in done.left_out.items()]
    lines += [f"note         {note}" for note in done.notes]
    return "\n".join(lines)


def describe_left_out(left_out: dict[str, int]) -> str:
    """Reasons with their counts, in one line."""
    return "; ".join(f"{reason} ({count:,})" for reason, count in left_out.items())


def _checked(pair: Pair, make: Callable[[Pair, Path], Row], out: Path) -> Row:
    if pair.chosen == pair.rejected:
        raise _Refused("chosen and rejected are the same")
    if any(pair.turns_before):
        raise _Refused("more than one response turn")
    roles = [message.role for message in pair.prompt if message.role != "system"]
    if (
        not roles
        or any(role != ("user", "assistant")[turn % 2] for turn, role in enumerate(roles))
        or roles[-1] != "user"
    ):
        raise _Refused("the prompt's turns do not alternate and end with the user")
    return make(pair, out)


def _llamafactory(pair: Pair, out: Path) -> Row:
    _refuse_words(pair, _LLAMAFACTORY_WORDS)
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {
        "conversations": [{"from": names[role], "value": content} for role, content in _marked_turns(pair)],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "images": _save(pair.images, out),
    }


def _swift(pair: Pair, out: Path) -> Row:
    _refuse_words(pair, _SWIFT_WORDS)
    turns = [*_marked_turns(pair), ("assistant", pair.chosen)]
    return {
        "messages": [{"role": role, "content": content} for role, content in turns],
        "rejected_response": pair.rejected,
        "images": _save(pair.images, out),
    }


def _openrlhf(pair: Pair, out: Path) -> Row:
    if pair.images:
        raise _Refused("it has pictures, and OpenRLHF's DPO is for text alone")
    row = to_row(pair)
    return {side: row[side] for side in ("prompt", "chosen", "rejected")}


def _marked_turns(pair: Pair) -> list[tuple[str, str]]:
    """The prompt's turns (role, content), with as many image marks in them as the row has pictures, and none in the
    responses."""
    if IMAGE in pair.chosen or IMAGE in pair.rejected:
        raise _Refused(f"a literal {IMAGE} in a response, which the loader would take for a picture")
    return _marked(pair.prompt, len(pair.images))


def _marked(messages: Sequence[Message], pictures: int) -> list[tuple[str, str]]:
    """The turns with a mark at every picture's place; the loaders count them all, those in quotes too."""
    turns: list[tuple[str, str]] = [
        (message.role, "".join(piece if isinstance(piece, str) else IMAGE for piece in pieces))
        for message, pieces in zip(messages, placed(messages, pictures), strict=True)
    ]
    if sum(content.count(IMAGE) for _, content in turns) != pictures:
        raise _Refused(f"{IMAGE} stands in the prompt another number of times than there are pictures")
    return turns


def _refuse_words(pair: Pair, words: tuple[str, ...]) -> None:
    texts = [pair.chosen, pair.rejected, *(message.content for message in pair.prompt)]
    for word in words:
        if any(word in text for text in texts):
            raise _Refused(f"a literal {word}, which the loader would not take for text")


def _save(images: Sequence[Picture], out: Path) -> list[str]:
    """The pictures as files in `out`/images, named by their content; their paths relative to `out`."""
    paths = []
    for content in map(_settled, images):
        path = Path("images") / _named(content)
        if not (out / path).exists():
            (out / path).parent.mkdir(exist_ok=True)
            (out / path).write_bytes(content)
        paths.append(path.as_posix())
    return paths


def _settled(image: Picture) -> bytes:
    """A picture as the policy would see it: these loaders put transparency on black."""
    try:
        return settle(image.content)
    except Unusable:
        raise _Refused("a picture that cannot be opened") from None


def _named(image: bytes) -> str:
    """A file name for a picture, from its content."""
    return f"{hashlib.sha256(image).hexdigest()[:24]}.{suffix(image)}"


def _replaced(part: Path, out: Path, files: Iterable[str]) -> Iterator[str]:
    """A word on each file in `out` that gives way to another one: exports of two runs of one policy have one name."""
    for file in files:
        if (out / file).is_file() and sha256_of(out / file) != sha256_of(part / file):
            yield f"{out / file} took the place of another one; to keep both, export to two folders"


def _read_dataset_info(out: Path) -> dict[str, Any]:
    """The data sets that LLaMA-Factory knows in the folder `out` already. Raises UserError."""
    file = out / _INFO
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any]) if file.is_file() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{file} is no list of LLaMA-Factory's data sets ({first_line(error)}): repair it, or export elsewhere"
        ) from None


def _write_dataset_info(out: Path, files: Sequence[str], known: Mapping[str, Any]) -> str:
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    info = {
        Path(file).stem: {"file_name": file, "formatting": "sharegpt", "ranking": True, "columns": columns}
        for file in files
    }
    (out / _INFO).write_text(json.dumps({**known, **info}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return _INFO


def _notes(to: str, name: str, out: Path, longest: int) -> tuple[str, ...]:
    tokens = f"about {longest // _CHARACTERS_PER_TOKEN:,} tokens, pictures not counted"
    length = f"the longest row has {longest:,} characters ({tokens})"
    file = quote(f"{out / name}.jsonl")
    if to == "llamafactory":
        return (
            f"train with stage: dpo, dataset_dir: {out}, dataset: {name}",
            "template: qwen2_vl or qwen3_vl_nothink; qwen3_vl puts an empty thought in front of every response without "
            "<think>, which spoils a rejected response whose fault is its format",
            f"{length}, and cutoff_len is 2048 unless set: what is longer is cut off",
        )
    if to == "ms-swift":
        return (
            f"train with: ROOT_IMAGE_DIR={quote(str(out))} swift rlhf --rlhf_type dpo --dataset {file}",
            "with a thinking model's template add --add_non_thinking_prefix false: the prefix is an empty thought in "
            "front of every response without <think>, which spoils a rejected response whose fault is its format",
            f"{length}: leave --max_length unset or above; longer rows are dropped",
        )
    return (
        f"train with: --dataset {file} --prompt_key prompt --chosen_key chosen --rejected_key rejected "
        "--apply_chat_template",
        f"{length}, and --max_len is 512 unless set: what is longer is cut off",
    )


def _length(pair: Pair) -> int:
    return sum(len(message.content) for message in pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def _name(dataset: Dataset) -> str:
    """A name for files, from the run's name or the folder's."""
    name = (dataset.manifest or Manifest()).name
    name = name or (dataset.root.parent.name if dataset.root.name == "dataset" else dataset.root.name)
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "pairs"


_TRL = {"id": pa.string(), "prompt": MESSAGES, "images": IMAGES, "answer": pa.string(), "answer_type": pa.string()}
_TRL |= {"choices": pa.list_(pa.string())}
_EASYR1 = {"id": pa.string(), "problem": pa.string(), "images": IMAGES, "answer": pa.string()}
_VERL = {
    "data_source": pa.string(),
    "prompt": MESSAGES,
    "images": IMAGES,
    "ability": pa.string(),
    "reward_model": pa.struct([("style", pa.string()), ("ground_truth", pa.string())]),
    "extra_info": pa.struct([("id", pa.string()), ("answer_type", pa.string()), ("choices", pa.list_(pa.string()))]),
}
_PROBLEM_NOTES = {
    "trl": ("load_dataset(OUT) gives GRPOTrainer's rows; answer, answer_type and choices reach the reward functions",),
    "easyr1": (
        "data.train_files=OUT/data, data.prompt_key=problem, data.answer_key=answer, data.image_key=images; "
        "data.format_prompt=OUT/format_prompt.jinja asks for the response format",
    ),
    "verl": ("data.train_files=OUT/data, data.image_key=images; the gold answer is reward_model.ground_truth",),
}


def _trl(problem: Problem, images: list[Row], system: Text | None) -> Row:
    return {
        "id": problem.id,
        "prompt": to_content(chat(problem, system), len(images)),
        "images": images,
        "answer": problem.answer,
        "answer_type": problem.answer_type,
        "choices": list(problem.choices),
    }


def _easyr1(problem: Problem, images: list[Row], system: Text | None) -> Row:
    [(_, content)] = _marked(chat(problem, None), len(images))
    return {"id": problem.id, "problem": content, "images": images, "answer": problem.answer}


def _verl(problem: Problem, images: list[Row], system: Text | None) -> Row:
    turns = _marked(chat(problem, system), len(images))
    return {
        "data_source": problem.source or "specs-data",
        "prompt": [{"role": role, "content": content} for role, content in turns],
        "images": images,
        "ability": problem.answer_type,
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"id": problem.id, "answer_type": problem.answer_type, "choices": list(problem.choices)},
    }


def _picture(content: bytes) -> Row:
    return {"bytes": content, "path": _named(content)}


def _raw(text: str) -> str:
    """`text` as Jinja prints it unchanged."""
    return "{% raw %}" + text.replace("{% endraw %}", "") + "{% endraw %}"
