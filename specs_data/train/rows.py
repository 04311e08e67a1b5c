"""What the trainers read, as memory-mapped Arrow files: preference rows and problems.

Nothing is truncated. A row that a trainer cannot take whole is left out and counted by its reason.
"""

from __future__ import annotations

import io
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from specs_data.engines.templates import Template, folded
from specs_data.errors import UserError, first_line, require
from specs_data.files import sha256_of, write_whole, writing
from specs_data.images import Unusable, settle
from specs_data.inert import one_line
from specs_data.pairs import rows as pairs_io
from specs_data.pairs.parquet import Interleaved, in_text, with_blocks
from specs_data.problems import Dropped, Source, read_all
from specs_data.records import Message, Pair
from specs_data.texts import Text, chat, misplaced, to_content

logger = logging.getLogger(__name__)

Row = dict[str, Any]
_BATCH_ROWS = 64
_BATCH_BYTES = 64 << 20
_SIDES = ("chosen", "rejected")
_ANY = Template()


class Rows(Struct, frozen=True):
    """Rows to train on, in an Arrow `file` with the hex digest `sha256`. `version` is what the data
    calls itself (a run's dataset fingerprint), or else the first 16 digits of `sha256`."""

    file: str
    source: str
    version: str
    count: int
    sha256: str
    dropped: dict[str, int]


class Unfit(Exception):
    """Why a row is left out."""


def preference_rows(
    source: str,
    split: str,
    fits: Callable[[Row], None],
    limit: int | None,
    file: Path,
    images: Path | None = None,
    template: Template = _ANY,
) -> Rows:
    """The rows of a preference dataset: `images`, `prompt`, `chosen`, `rejected`, as TRL reads them.

    `fits` raises Unfit for a row that cannot be trained on. `images` is the folder of the pictures that rows name,
    if it is not the dataset's own; for a `template` without a system role what is said there goes to the user. The
    Arrow file is written to `file`.
    Raises UserError if no row is left.
    """
    dataset = pairs_io.open_whole(source, images)

    def rows() -> Iterator[Row | str]:
        return (_preference(pair, template) for pair in islice(pairs_io.rows(dataset, split), limit))

    version = dataset.manifest.dataset.fingerprint if dataset.manifest else ""
    return _write_either(rows, _PREFERENCE, fits, source, version, file)


def problem_rows(
    sources: Sequence[Source],
    columns: dict[str, str],
    system: Text | None,
    fits: Callable[[Row], None],
    limit: int | None,
    file: Path,
    take_open: bool,
    template: Template = _ANY,
) -> Rows:
    """Problems as prompts: `images`, `prompt`, and `problem`, the record as JSON for the reward.

    The first `limit` rows of all `sources` count. Rows that a source cannot give are counted too, and
    open-ended problems unless `take_open`. `template` is that of `preference_rows`.
    """

    def rows() -> Iterator[Row | str]:
        for found in read_all(sources, columns=columns, limit=limit):
            if isinstance(found, Dropped):
                yield found.reason
                continue
            if found.problem.answer_type == "open" and not take_open:
                yield "open-ended, and there is no judge model"
                continue
            yield {
                "images": [{"bytes": image, "path": None} for image in found.images],
                "prompt": to_content(_asked(chat(found.problem, system), template), len(found.images)),
                "problem": msgspec.json.encode(found.problem).decode(),
            }

    return _write_either(rows, _PROBLEM, fits, ", ".join(source.name for source in sources), "", file)


def shared_rows(out: Path, make: Callable[[Path], Rows], resuming: bool) -> Rows:
    """The rows that `make` writes to a file under `out`: written by one process of each machine, read by all.

    Raises UserError if a run that is resumed had other rows.
    """
    accelerate = require("accelerate", "train")
    state = accelerate.PartialState()
    file, note = out / "checkpoints" / "rows.arrow", out / "checkpoints" / "rows.json"
    with state.local_main_process_first():
        if not state.is_local_main_process:
            return msgspec.json.decode(note.read_bytes(), type=Rows)
        before = msgspec.json.decode(note.read_bytes(), type=Rows) if resuming else None
        rows = make(file)
        if before is not None and before.sha256 != rows.sha256:
            raise UserError(f"{rows.source} has changed since this run began; use another --out")
        write_whole(note, msgspec.json.encode(rows))
        if rows.dropped:
            told = "; ".join(f"{number:,} {reason}" for reason, number in Counter(rows.dropped).most_common())
            logger.warning("%s: %s rows to train on; left out: %s", rows.source, f"{rows.count:,}", told)
        return rows


def open_table(rows: Rows, processor: Any) -> Any:
    """The rows as a datasets.Dataset, memory-mapped; without images where the model takes none."""
    table = require("datasets", "train").Dataset.from_file(rows.file)
    return table if hasattr(processor, "tokenizer") else table.remove_columns("images")


def whole_rows(
    processor: Any, limit: int, answer_room: int = 0, trained: Sequence[str] = _SIDES
) -> Callable[[Row], None]:
    """A check that a row, tokenised as TRL does it, has at most `limit` tokens, of which
    `answer_room` are kept free for the response; and that only its images stand for images.

    It raises UserError where the chat template makes something else of the responses that are `trained` on, as it
    would in other rows: Qwen3's puts an empty thought before one that has none, DeepSeek-R1's cuts thoughts out."""
    from jinja2 import TemplateError

    data_utils = require("trl.data_utils", "train")
    tokenizer = getattr(processor, "tokenizer", processor)
    room = f", {answer_room} of them kept for the response" if answer_room else ""
    placeholders = [text for name in ("image_token", "video_token") if (text := getattr(processor, name, None))]

    def check(row: Row) -> None:
        sides = [side for side in ("prompt", *_SIDES) if side in row]
        turns = {side: row[side] for side in sides}
        texts = [text for side in sides for message in turns[side] for text in _texts(message["content"])]
        if any(placeholder in text for text in texts for placeholder in placeholders):
            raise Unfit("the text contains the model's image token")
        if row["images"] and not placeholders:
            raise Unfit("the model takes no images")
        try:
            if placeholders:
                images = {"prompt": row["images"]}
                turns = {side: data_utils.prepare_multimodal_messages(turns[side], images.get(side)) for side in sides}
            written = data_utils.apply_chat_template(turns, processor)
        except (ValueError, TemplateError) as error:  # a role that they do not know, turns that do not alternate
            raise Unfit(f"the model's chat template does not take it: {first_line(error)}") from None
        read = [side for side in trained if side in sides]
        if all(len(row[side]) == 1 for side in read):  # of somebody else's, talks that part ways earlier are two talks
            said = {side: "".join(_texts(row[side][0]["content"])) for side in read}
            _check_kept([(said[side], written["prompt"] + written[side]) for side in read])
        prompt, *answers = map(len, tokenizer([written[side] for side in sides], verbose=False)["input_ids"])
        prompt += _image_tokens(processor, [image["bytes"] for image in row["images"]], written["prompt"], prompt)
        if prompt + max(answers, default=answer_room) > limit:
            raise Unfit(f"longer than {limit} tokens{room}")

    return check


def _check_kept(responses: Sequence[tuple[str, str]]) -> None:
    """Raise UserError if a template has not written all responses (said, written) alike as they are, white space
    aside: a thought that it puts before one of two, or cuts out, is a difference that the pair does not have."""
    before = set()
    for said, written in responses:
        if not said.strip():
            continue
        start, found, _ = "".join(written.split()).rpartition("".join(said.split()))
        before.add(start)
        if not found or len(before) > 1:
            raise UserError(
                f"the model's chat template rewrites responses: {one_line(said, 60)!r} becomes "
                f"{one_line(written[-len(said) - 40 :], 100)!r}; train on a copy of the checkpoint whose chat template "
                "writes what the assistant says as it is"
            )


def _asked(messages: Sequence[Message], template: Template) -> Sequence[Message]:
    """The prompt as an engine puts it to a model with this template."""
    return messages if template.system else folded(messages)


def _texts(content: str | list[dict[str, str]]) -> list[str]:
    return [content] if isinstance(content, str) else [block.get("text", "") for block in content]


def _image_tokens(processor: Any, images: Sequence[bytes], prompt: str, tokens: int) -> int:
    """The tokens that images become, beyond what stands for each in the text of the `prompt`, of so many `tokens`."""
    if not images:
        return 0
    pictures = list(map(_opened, images))
    try:
        if hasattr(processor, "_get_num_multimodal_tokens"):  # what vLLM asks processors too
            sizes = [(image.height, image.width) for image in pictures]
            return int(sum(processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"])) - len(sizes)
        return len(processor(images=[pictures], text=[prompt])["input_ids"][0]) - tokens
    except ValueError as error:  # an aspect ratio that the model does not take
        raise Unfit(f"the model does not take the image: {error}") from None


def _opened(data: bytes) -> Any:
    """An image file that is whole."""
    from PIL import Image

    return Image.open(io.BytesIO(data))


def _preference(pair: Pair, template: Template) -> Row | str:
    """A row with its pictures as the policy would see them, whoever made the dataset; or why it is left out."""
    if not pair.prompt:
        return "without a prompt, which is a column of that name or the turns that both sides begin with"
    try:
        images = tuple(replace(image, content=settle(image.content)) for image in pair.images)
    except Unusable:
        return "an image cannot be read"
    if fault := misplaced(pair.prompt, len(images)):
        return f"placeholders and pictures differ in number: {fault}"
    row = pairs_io.to_row(replace(pair, images=images, prompt=tuple(_asked(pair.prompt, template))))
    return {column: row[column] for column in _PREFERENCE}


def _features(blocks: bool) -> dict[str, Any]:
    datasets = require("datasets", "train")
    text = datasets.Value("string")
    messages = [{"role": text, "content": text}]
    features = {"images": [datasets.Image()], "problem": text, "chosen": messages, "rejected": messages}
    return features | {"prompt": [{"role": text, "content": [{"type": text, "text": text}]}] if blocks else messages}


_PREFERENCE = ("images", "prompt", "chosen", "rejected")
_PROBLEM = ("images", "prompt", "problem")


def _write_either(
    rows: Callable[[], Iterable[Row | str]],
    columns: Sequence[str],
    fits: Callable[[Row], None],
    source: str,
    version: str,
    file: Path,
) -> Rows:
    """Write the rows with their prompts in text, or from the start in blocks once one that fits has them."""
    try:
        return _write(rows(), columns, fits, source, version, file)
    except Interleaved:
        return _write(rows(), columns, fits, source, version, file, blocks=True)


def _write(
    rows: Iterable[Row | str],
    columns: Sequence[str],
    fits: Callable[[Row], None],
    source: str,
    version: str,
    file: Path,
    blocks: bool = False,
) -> Rows:
    """Write the rows that fit to an Arrow file; a string stands for a row that is left out already."""
    import pyarrow as pa

    datasets = require("datasets", "train")
    features = datasets.Features({name: feature for name, feature in _features(blocks).items() if name in columns})
    dropped: Counter[str] = Counter()
    kept = map(with_blocks if blocks else in_text, _kept(rows, fits, dropped))
    count = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    with (
        writing(file),
        pa.OSFile(str(part), "wb") as sink,
        pa.ipc.new_stream(sink, features.arrow_schema) as stream,
    ):
        for batch in _batches(kept):
            stream.write_batch(pa.RecordBatch.from_pylist(batch, features.arrow_schema))
            count += len(batch)
    part.replace(file)
    if not count:
        reasons = "; ".join(f"{number} {reason}" for reason, number in dropped.most_common()) or "it is empty"
        raise UserError(f"{source} has no row to train on: {reasons}")
    sha256 = sha256_of(file)
    return Rows(str(file), source, version or sha256[:16], count, sha256, dict(dropped))


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows by the number and the bytes that Arrow takes well at once: a column of a batch must not pass 2 GB."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(image["bytes"]) for image in row["images"])
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _kept(rows: Iterable[Row | str], fits: Callable[[Row], None], dropped: Counter[str]) -> Iterator[Row]:
    for row in rows:
        if isinstance(row, str):
            dropped[row] += 1
            continue
        try:
            fits(row)
        except Unfit as unfit:
            dropped[str(unfit)] += 1
        else:
            yield row
