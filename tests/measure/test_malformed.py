"""Malformed responses are sorted into the class that a person would name."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs_data.format import THINK_ANSWER, Part, ResponseFormat
from specs_data.measure.malformed import error_class
from specs_data.plugins import corruption_names, find_corruptions

JSON = ResponseFormat(
    name="json", layout="json", thought=Part(open="reasoning"), answer=Part(open="answer"), instruction="-"
)
LAST_LINE = ResponseFormat(
    name="last-line", thought=Part(), answer=Part(open="Final answer:"), labels=(), instruction="-"
)

CASES = {
    r"2 + 3 = 5, so \boxed{5}": "remove_all_tags",
    r"The rows <b>and</b> columns: \boxed{5}": "remove_all_tags",
    r"<think>2 + 3 = 5.<answer>\boxed{5}</answer>": "drop_think_close",
    r"2 + 3 = 5.</think><answer>\boxed{5}</answer>": "drop_think_open",
    r"<think>2 + 3 = 5.</think><answer>\boxed{5}": "drop_answer_close",
    r"<think>2 + 3 = 5.</think>\boxed{5}</answer>": "drop_answer_open",
    r"<think>2 + 3 = 5.</think> \boxed{5}": "remove_answer_tags",
    r"2 + 3 = 5. <answer>\boxed{5}</answer>": "remove_think_tags",
    r"<answer>\boxed{5}</answer>": "answer_only",
    r"<think>2 + 3 = 5.</think> Answer: \boxed{5}": "replace_answer_tags",
    r"<think>2 + 3 = 5. \boxed{5}</think>": "shift_tags",
    r"<think>2 + 3 = 5. Answer: 5</think>": "think_only",
    r"<think>2 + 3 = 5.</think>": "thought_without_answer",
    r"<think>2 + 3 = 5. \boxed{5}": "thought_unclosed",
    r"<think>2 + 3 = 5.</think><answer>5</answer><answer>5</answer>": "repeat_marker",
    r"<think><think>2 + 3 = 5.</think><answer>5</answer>": "repeat_marker",
    r"<think>2 + 3 = 5.</thought><answer>5</answer>": "other_tag",
    r"<think>2 + 3 = 5.<think><answer>5</answer>": "other_tag",
    r"<think>2 + 3 = 5.</answer><answer>5</answer>": "other_tag",
    r"<think>2 + 3 = 5.</ think><answer>5</answer>": "other_tag",
    r"<thinking>2 + 3 = 5.</thinking><answer>5</answer>": "other_tag",
    r"<reasoning>2 + 3 = 5.</reasoning><solution>5</solution>": "other_tag",
    r"[think]2 + 3 = 5.[/think][answer]5[/answer]": "other_tag",
    r"<think>See the <b>red</b> block.<answer>5</answer>": "drop_think_close",
    r"<answer>5</answer><think>2 + 3 = 5.</think>": "markers_out_of_order",
    r"<think> </think><answer>5</answer>": "blank_thought",
    r"<think>2 + 3 = 5.</think><answer></answer>": "blank_answer",
    r"Sure! <think>2 + 3 = 5.</think><answer>5</answer>": "text_before_think_open",
    r"<think>2 + 3 = 5.</think> so <answer>5</answer>": "text_before_answer_open",
    r"<think>2 + 3 = 5.</think><answer>5</answer> Done.": "text_after_answer_close",
    r"<think>2 + 3 = 5. \boxed{5}</answer>": "several_markers",
    "": "empty",
    "  <|im_end|>": "empty",
}


@pytest.mark.parametrize("text", CASES)
def test_a_response_has_its_class(text: str) -> None:
    assert error_class(text, THINK_ANSWER) == CASES[text]


def test_a_well_formed_response_has_none() -> None:
    assert error_class(THINK_ANSWER.render("2 + 3 = 5.", "5"), THINK_ANSWER, "length") is None


@pytest.mark.parametrize("text", ["<think>2 + 3", "2 + 3", "<think>2 + 3 = 5.</think><answer>"])
def test_what_reached_the_limit_was_cut_off(text: str) -> None:
    assert error_class(text, THINK_ANSWER, "length") == "cut_off"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("5", "not_a_json_object"),
        ('["2 + 3", "5"]', "not_a_json_object"),
        ("so 5", "unwrap_json"),
        ("reasoning: 2 + 3\nanswer: 5", "label_json"),
        ("{'reasoning': '2 + 3', 'answer': '5'}", "requote_json"),
        ('{"reasoning": "2 + 3", "answer": "5"', "unclose_json"),
        ('{"answer": "5"}', "not_a_json_object"),
        ('{"reasoning": "2", "answer": 5}', "a_json_value_is_not_a_string"),
        ('```json\n{"reasoning": "2 + 3", "answer": "5"}\n```', "fence_json"),
        ("{1: 2, (3,): {4}}", "not_json"),
        (r"{'reasoning': '2 \+ 3', 'answer': '\d'}", "requote_json"),
    ],
)
def test_json_has_classes_of_its_own(text: str, name: str) -> None:
    assert error_class(text, JSON) == name


def test_a_format_of_one_marker_knows_where_it_is_missing() -> None:
    assert error_class("2 + 3 = 5", LAST_LINE) == "remove_all_tags"
    assert error_class("2 + 3. Final answer: 5. Final answer: 5", LAST_LINE) == "repeat_marker"


@pytest.mark.parametrize("name", sorted(corruption_names() - {"move_tags"}))
def test_what_an_operator_makes_is_in_its_class(name: str) -> None:
    operator, fmt = find_corruptions([name])[name], JSON if name.endswith("_json") else THINK_ANSWER
    response = fmt.render("There are 2 red and 3 blue blocks, isn't it so? 2 + 3 = 5.", r"\boxed{5}")
    for seed in range(20):
        made = operator.apply(response, fmt, random.Random(seed))
        assert made is not None
        assert error_class(made, fmt) == name, made


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "<b>", "</thought>", " ", "5", r"\boxed{5}", "Answer:", "<"]
PIECES += ["{", "}", "'", '"', "[", ":", "\\", "reasoning", "answer"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_every_text_is_well_formed_or_in_a_class(text: str) -> None:
    assert (error_class(text, THINK_ANSWER) is None) == (THINK_ANSWER.check(text) is None)
    assert (error_class(text, LAST_LINE) is None) == (LAST_LINE.check(text) is None)
    assert (error_class(text, JSON) is None) == (JSON.check(text) is None)
