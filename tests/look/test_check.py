"""`check` proves a dataset format-only, row by row, or names the rows and reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.manifests import FOREIGN

from specs_data.errors import UserError
from specs_data.format import Part, ResponseFormat
from specs_data.look.check import CheckResult, check
from specs_data.pairs.parquet import write_shards
from specs_data.plugins import find_corruptions

CHOSEN = "<think>Of 2 + 3 blocks, 5 are left.</think>\n<answer>\\boxed{5}</answer>"
BARE = "Of 2 + 3 blocks, 5 are left.\n\\boxed{5}"


def row(chosen: str = CHOSEN, rejected: str = BARE, **more: Any) -> dict[str, Any]:
    return {
        "id": "a",
        "images": [{"bytes": b"not read", "path": "a.png"}],
        "prompt": [{"role": "user", "content": "How many blocks are left?"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "answer": "5",
        "answer_type": "numeric",
        "rejected_from": "chosen",
    } | more


def checked(folder: Path, rows: list[dict[str, Any]], **manifest: Any) -> CheckResult:
    write_shards(rows, folder, "train")
    if manifest:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return check(folder)


def test_a_format_only_dataset_passes(tmp_path: Path) -> None:
    result = checked(tmp_path, [row(), row(rejected="<think>Of 2 + 3 blocks, 5 are left.</think>\nAnswer: \\boxed{5}")])
    assert result.ok
    assert (result.rows, result.failed, result.failures, result.reasons) == (2, 0, (), {})
    assert str(result).startswith("2 rows, each of them format-only")


def test_every_built_in_operator_passes(tmp_path: Path) -> None:
    import random

    from specs_data.format import THINK_ANSWER

    made = [found.apply(CHOSEN, THINK_ANSWER, random.Random(0)) for found in find_corruptions().values()]
    rows = [row(rejected=text) for text in made if text is not None]
    assert len(rows) == 5
    assert checked(tmp_path, rows).ok


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"chosen": CHOSEN.replace("</think>", "")}, "chosen breaks the format: no </think>"),
        ({"rejected": CHOSEN}, "rejected keeps the format"),
        ({"rejected": BARE.replace("blocks", "bricks")}, "rejected was made from chosen but says something else"),
        ({"answer": "6"}, "chosen does not give the gold answer"),
        (
            {"rejected": "Of 2 + 4 blocks, 6 are left.\n\\boxed{6}", "rejected_from": "base"},
            "rejected does not give the gold answer",
        ),
        ({"rejected": "<answer></answer>", "rejected_from": "base"}, "rejected gives no answer"),
        ({"rejected": BARE.replace("5}", "6}"), "answer": None}, "chosen and rejected give different answers"),
    ],
)
def test_each_fault_is_found_and_named(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    result = checked(tmp_path, [row(), row(**bad | {"id": "bad one"}), row()])
    assert not result.ok
    assert result.failed == 1
    (failure,) = result.failures
    assert (failure.split, failure.row, failure.id) == ("train", 1, "bad one")
    assert reason in failure.reasons
    assert result.reasons[reason] == 1
    assert reason in str(result)


def test_sides_that_part_ways_before_their_last_turn_are_not_format_only(tmp_path: Path) -> None:
    line = {
        side: [{"role": "assistant", "content": said}, {"role": "user", "content": "So?"}, *row()[side]]
        for side, said in (("chosen", "Let me see."), ("rejected", "I see."))
    }
    (tmp_path / "p.jsonl").write_text(json.dumps({**row(images=[]), **line}))
    assert "chosen and rejected part ways before their last turn" in check(tmp_path / "p.jsonl").reasons


def test_a_right_response_of_another_policy_is_format_only(tmp_path: Path) -> None:
    result = checked(tmp_path, [row(rejected="I count five: \\boxed{5.0}", rejected_from="base-policy"), row()])
    assert result.ok
    assert "both sides say the same in 1 of 2 rows" in str(result)


def test_choices_are_read_from_the_question(tmp_path: Path) -> None:
    question = [{"role": "user", "content": "How many are left?\n(A) 4\n(B) 5\n(C) 6"}]
    letters = row(answer="B", answer_type="multiple_choice", prompt=question)
    assert checked(tmp_path, [letters]).ok  # chosen says 5, the gold is B
    assert not checked(tmp_path, [letters | {"answer": "C"}]).ok


def test_words_for_unknown_choices_are_left_undecided(tmp_path: Path) -> None:
    result = checked(tmp_path, [row(answer="B", answer_type="multiple_choice")])
    assert result.ok
    assert "1 gold answers cannot be judged by rule" in str(result)


def test_open_answers_need_only_be_the_same(tmp_path: Path) -> None:
    assert checked(tmp_path, [row(answer="some prose", answer_type="open")]).ok
    other = row(answer="some prose", answer_type="open", rejected="\\boxed{6}", rejected_from="base")
    assert not checked(tmp_path, [other]).ok


def test_a_coupled_dataset_fails_and_says_what_it_is(tmp_path: Path) -> None:
    wrong = row(rejected="Of 2 + 4 blocks, 6 are left.\n\\boxed{6}", rejected_from="base")
    result = checked(tmp_path, [wrong], recipe={"pairing": "coupled"})
    assert result.reasons == {"rejected does not give the gold answer": 1}
    assert "coupled on purpose" in str(result)


def test_other_peoples_datasets(tmp_path: Path) -> None:
    """JSONL, plain strings, columns of their own, no gold, pictures that are not here."""
    file = tmp_path / "pairs.jsonl"
    rows = [{"question": "2 + 3?", "win": CHOSEN, "lose": BARE, "images": ["gone.png"]}, {"win": CHOSEN, "lose": "6"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    result = check(file, columns={"prompt": "question", "chosen": "win", "rejected": "lose"})
    assert result.reasons == {"chosen and rejected give different answers": 1}
    assert "2 rows have no gold answer" in str(result)
    with pytest.raises(UserError, match=r"has no column 'chosen'; it has question, .*--columns chosen=COLUMN"):
        check(file)


def test_columns_that_are_not_there_are_said(tmp_path: Path) -> None:
    write_shards([row()], tmp_path, "train")
    with pytest.raises(UserError, match="--columns knows no column 'choosen'; it takes prompt, chosen, "):
        check(tmp_path, columns={"choosen": "chosen"})
    with pytest.raises(UserError, match="has no column 'gold'"):
        check(tmp_path, columns={"answer": "gold"})


def test_a_row_that_cannot_be_read_fails(tmp_path: Path) -> None:
    good = {"prompt": "2 + 3?", "chosen": CHOSEN, "rejected": BARE}
    lines = [json.dumps(good), json.dumps(good | {"rejected": None}), "[" * 100_000, json.dumps(good | {"chosen": [7]})]
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b'\n{"chosen": "\xff"}')
    result = check(file)
    assert (result.rows, result.failed) == (5, 4)
    assert result.reasons == {
        "has no 'rejected'": 1,
        "is not JSON": 2,
        "has a chosen that is neither text nor a list of role and content": 1,
    }
    assert "train row 1: has no 'rejected'" in str(result)


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    write_shards([row(id=str(number)) for number in range(200)], tmp_path, "train")
    (file,) = (tmp_path / "data").iterdir()
    content = bytearray(file.read_bytes())
    content[40:400] = bytes(360)
    file.write_bytes(content)
    with pytest.raises(UserError, match="not a readable Parquet file"):
        check(tmp_path)


def test_another_format(tmp_path: Path) -> None:
    final = ResponseFormat(name="final", answer=Part(open="Final answer:"), labels=(), instruction="...")
    write_shards([row(chosen="Final answer: 5", rejected="5")], tmp_path, "train")
    assert check(tmp_path, final).ok
    assert not check(tmp_path).ok


def test_the_recipe_s_format_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "final.toml"
    file.write_text('name = "final"\ninstruction = "..."\nlabels = []\n[answer]\nopen = "Final answer:"\n')
    rows = [row(chosen="Final answer: 5", rejected="5")]
    assert checked(tmp_path / "data", rows, recipe={"format": str(file)}).ok


@pytest.mark.parametrize("manifest", FOREIGN)
def test_somebody_else_s_manifest_is_as_none(tmp_path: Path, manifest: Any) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert checked(tmp_path, [row()]).ok


def test_a_broken_manifest_is_said(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"recipe": ')
    with pytest.raises(UserError, match=r"manifest.json is not JSON \(.*\); repair it, or take it away"):
        checked(tmp_path, [row()])


def test_only_the_first_failures_are_listed_but_all_are_counted(tmp_path: Path) -> None:
    result = checked(tmp_path, [row(rejected=CHOSEN)] * 150)
    assert (result.failed, len(result.failures)) == (150, 100)
    assert "... and 50 more" in str(result)


def test_hostile_ids_are_shown_as_text(tmp_path: Path) -> None:
    assert "\x1b" not in str(checked(tmp_path, [row(rejected=CHOSEN, id="\x1b[2J")]))


def test_nothing_to_check_is_no_proof(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(UserError, match="nothing to check"):
        check(tmp_path)


@pytest.mark.parametrize("token", ["<|im_end|><|im_start|>assistant", "<|eot_id|>", "<end_of_turn>", "<|image_pad|>"])
def test_control_tokens_inside_a_chosen_response_are_a_fault(tmp_path: Path, token: str) -> None:
    result = checked(tmp_path, [row(chosen=CHOSEN.replace(" are", f" {token} are")), row()])
    assert result.failed == 1
    assert any(reason.startswith("chosen has a control token") for reason in result.reasons)


def test_what_only_looks_like_a_control_token_is_none(tmp_path: Path) -> None:
    thought = CHOSEN.replace(" are", " if |x| < 5 and <x|y> = 3 are")
    assert not any("control" in reason for reason in checked(tmp_path, [row(chosen=thought)]).reasons)
