"""TRL takes the dataset's rows as they are, and makes of them what the chat template says."""

from __future__ import annotations

import io
import json
import re
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from PIL import Image

from specs_data.engines.templates import template_of
from specs_data.errors import UserError
from specs_data.pairs.parquet import write_shards
from specs_data.problems import Source
from specs_data.texts import system_prompt
from specs_data.train import rows as training_rows

PADS = re.compile(r"(<\|image_pad\|>)+")
SYSTEM = "Reason in <think>, answer in <answer>."


def picture(shade: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (84, 56), (shade, 0, 0)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": "a.png"}


def row(number: int, images: int) -> dict[str, Any]:
    asked = {"role": "user", "content": f"Which {number}, <image> or not?"}
    return {
        "id": str(number),
        "images": [picture(number + n) for n in range(images)],
        "prompt": [{"role": "system", "content": SYSTEM}, asked],
        "chosen": [{"role": "assistant", "content": f"<think>\nso {number}\n</think>\n<answer>{number}</answer>"}],
        "rejected": [{"role": "assistant", "content": f"so {number}\n{number}"}],
    }


def blocks(row: dict[str, Any], side: str) -> list[dict[str, Any]]:
    """The conversation in the form in which a processor takes pictures: before the user's text."""
    system, user = row["prompt"]
    asked = [{"type": "image"}] * len(row["images"]) + [{"type": "text", "text": user["content"]}]
    told = [{"type": "text", "text": row[side][0]["content"]}]
    return [
        {"role": "system", "content": [{"type": "text", "text": system["content"]}]},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": told},
    ]


@pytest.mark.parametrize("images", [1, 2])
def test_the_collator_gives_the_chat_templates_text(tmp_path: Path, images: int) -> None:
    from model import new_processor
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    processor = new_processor([SYSTEM, "Which one, or not? so 0 1 2 3"], vocabulary=300)
    written = [row(number, images) for number in range(3)]
    write_shards(written, tmp_path, "train")
    loaded = load_dataset(str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    kept = loaded.select_columns(["images", "prompt", "chosen", "rejected"])
    batch = DataCollatorForVisionPreference(processor, max_length=None)([kept[n] for n in range(3)])
    ends = zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
    texts, completions = [], []
    for ids, attended, completion in ends:
        texts.append(PADS.sub("<|image_pad|>", processor.tokenizer.decode(ids[attended.bool()])))
        completions.append(processor.tokenizer.decode(ids[completion.bool()]))
    sides = [(side, wanted) for side in ("chosen", "rejected") for wanted in written]
    assert texts == [processor.apply_chat_template(blocks(wanted, side)) for side, wanted in sides]
    assert completions == [f"{wanted[side][0]['content']}<|im_end|>\n" for side, wanted in sides]
    assert len(batch["image_grid_thw"]) == 2 * 3 * images


def test_large_pictures_come_in_batches_that_arrow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    limit = 500
    monkeypatch.setattr(training_rows, "_BATCH_BYTES", limit)
    write_shards([row(number, 1) for number in range(12)], tmp_path, "train")
    made = training_rows.preference_rows(str(tmp_path), "train", lambda row: None, None, tmp_path / "rows.arrow")
    with pa.memory_map(made.file) as file:
        batches = list(pa.ipc.open_stream(file))
    sizes = [
        sum(len(image["bytes"]) for images in batch["images"].to_pylist() for image in images) for batch in batches
    ]
    assert made.count == sum(map(len, batches)) == 12
    one = sum(sizes) / 12
    assert 1 < len(batches) < 12 and max(sizes) < limit + 2 * one  # a batch ends with what passes the limit


THINKS = "{% if m.role == 'assistant' and '<think>' not in said.text %}<think>\n\n</think>\n\n{% endif %}"
FORGETS = "{% if m.role == 'assistant' %}{% set said.text = said.text.split('</think>')[-1] %}{% endif %}"
TRIMS = "{% set said.text = said.text | trim %}"
TURN = """{% for m in messages %}{% set said = namespace(text='') %}\
{% if m.content is string %}{% set said.text = m.content %}{% else %}\
{% for part in m.content %}{% set said.text = said.text + (part.text or '<|image_pad|>') %}{% endfor %}{% endif %}\
<|im_start|>{{ m.role }}
WAYS{{ said.text }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def processor() -> Any:
    from model import new_processor

    return new_processor([SYSTEM, "Which one, or not? so 0 1 2 3"], vocabulary=300)


@pytest.mark.parametrize(("ways", "sides", "kept"), [
    ("", ("chosen", "rejected"), True),
    (TRIMS, ("chosen", "rejected"), True),
    (THINKS, ("chosen", "rejected"), False),  # the rejected would get a thought, and only that one
    (THINKS, ("chosen",), True),
    (FORGETS, ("chosen",), False),
])  # fmt: skip
def test_a_template_that_rewrites_responses_is_refused(
    processor: Any, monkeypatch: pytest.MonkeyPatch, ways: str, sides: tuple[str, ...], kept: bool
) -> None:
    monkeypatch.setattr(processor, "chat_template", TURN.replace("WAYS", ways))
    check = training_rows.whole_rows(processor, 4096, trained=sides)
    with nullcontext() if kept else pytest.raises(UserError, match="chat template rewrites responses"):
        check(row(1, 1))


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_response_is_none_to_rewrite(processor: Any, empty: str) -> None:
    read = row(1, 1)
    read["rejected"][0]["content"] = empty
    training_rows.whole_rows(processor, 4096)(read)


@pytest.mark.parametrize(
    ("role", "said"), [("system", "Invalid role"), ("observer", "Invalid role"), ("user", "alternate")]
)
def test_a_talk_that_the_template_does_not_take_is_left_out(
    processor: Any, monkeypatch: pytest.MonkeyPatch, role: str, said: str
) -> None:
    alternating = (
        "{% if messages[1].role == messages[2].role %}{{ raise_exception('roles must alternate') }}{% endif %}"
    )
    monkeypatch.setattr(processor, "chat_template", alternating + TURN.replace("WAYS", ""))
    read = row(1, 0)
    read["prompt"].append({"role": role, "content": "More."})
    with pytest.raises(training_rows.Unfit, match=f"chat template does not take it: .*{said}"):
        training_rows.whole_rows(processor, 4096)(read)


def test_talks_that_part_ways_earlier_are_taken(processor: Any) -> None:
    read = row(1, 1)
    asked = {"role": "user", "content": "Sure?"}
    read["chosen"] = [{"role": "assistant", "content": "One."}, asked, *read["chosen"]]
    read["rejected"] = [{"role": "assistant", "content": "Two."}, asked, *read["rejected"]]
    training_rows.whole_rows(processor, 4096)(read)


def test_without_a_system_role_the_instruction_goes_to_the_user(
    processor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    monkeypatch.setattr(processor, "chat_template", refuses + TURN.replace("WAYS", ""))
    write_shards([row(1, 0)], tmp_path, "train")
    fits = training_rows.whole_rows(processor, 4096)
    template = template_of(processor, "a checkpoint")
    made = training_rows.preference_rows(str(tmp_path), "train", fits, None, tmp_path / "rows.arrow", template=template)
    (read,) = training_rows.open_table(made, processor)
    assert read["prompt"] == [{"role": "user", "content": f"{SYSTEM}\n\nWhich 1, <image> or not?"}]

    (tmp_path / "p.jsonl").write_text('{"question": "How many?", "answer": "5"}\n')
    system = system_prompt(None, SYSTEM)
    made = training_rows.problem_rows(
        [Source(str(tmp_path / "p.jsonl"))], {}, system, fits, None, tmp_path / "p.arrow", False, template
    )
    (read,) = training_rows.open_table(made, processor)
    assert read["prompt"] == [{"role": "user", "content": f"{SYSTEM}\n\nHow many?"}]


@pytest.mark.parametrize("line", [{"question": "Q", "system": "S"}, {"prompt": ""}, {"prompt": []}])
def test_without_a_prompt_nothing_is_learned(tmp_path: Path, line: dict[str, Any]) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(line | {"chosen": "good", "rejected": "bad"}))
    with pytest.raises(UserError, match="no row to train on: 1 without a prompt"):
        training_rows.preference_rows(str(file), "train", lambda row: None, None, tmp_path / "rows.arrow")


@pytest.mark.parametrize("images", [1, 2])
def test_a_processor_that_tells_no_sizes_is_asked_itself(
    processor: Any, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    """SmolVLM's, Idefics's, Llama 4's."""

    def longest() -> int:
        for limit in range(20, 400):
            with suppress(training_rows.Unfit):
                training_rows.whole_rows(processor, limit)(row(1, images))
                return limit
        raise AssertionError

    told = longest()
    monkeypatch.delattr(type(processor), "_get_num_multimodal_tokens")
    assert longest() == told
