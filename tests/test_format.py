"""The response format: what passes, what fails and why, and what holds for any text."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from specs_data.errors import UserError
from specs_data.format import STOP_TOKENS, THINK_ANSWER, Part, ResponseFormat, load_format, shipped_formats

GOOD = "<think>2 + 3 = 5.</think>\n<answer>\\boxed{5}</answer>"
LABEL = ResponseFormat(name="label", thought=Part(), answer=Part(open="Final answer:"), labels=(), instruction="x")
KEYS = ResponseFormat(name="json", layout="json", thought=Part(open="why"), answer=Part(open="answer"), instruction="x")
BARE = ResponseFormat(name="bare", answer=Part(open="<a>", close="</a>"), instruction="x")
FORMATS = (THINK_ANSWER, LABEL, KEYS, BARE)
BOXED = load_format("boxed")
BOXED_KEYS = KEYS.model_copy(update={"name": "boxed json", "boxed": True})


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", ""),
        GOOD.replace("\n", " \n\n\t"),
        f"  \n{GOOD}",
        f"{GOOD}\n",
        f"{GOOD}<|im_end|>",
        f"{GOOD} <|im_end|> \n<|endoftext|>\n",
        "<think>a < b and <b>so</b></think><answer> 5 </answer>",
    ],
)
def test_what_passes(text: str) -> None:
    assert THINK_ANSWER.check(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"Sure! {GOOD}", "text before <think>"),
        (f"{GOOD}\nI hope this helps.", "text after </answer>"),
        (GOOD.replace("\n", " so "), "text before <answer>"),
        ("<think></think><answer>5</answer>", "blank thought"),
        ("<think> \n\t</think><answer>5</answer>", "blank thought"),
        ("<think>a</think><answer></answer>", "blank answer"),
        ("<think>a</think><answer>\u2003 </answer>", "blank answer"),
        (f"{GOOD}<answer>5</answer>", "more than one <answer>"),
        ("<think>a<answer>5</answer></think>", "markers out of order"),
        ("<think>a <answer>4</answer></think><answer>5</answer>", "more than one <answer>"),
        (f"<think>b</think>{GOOD}", "more than one <think>"),
        ("<think><think>a</think></think><answer>5</answer>", "more than one <think>"),
        ("<think>a</think><answer>5", "no </answer>"),
        ("<think>a<answer>5</answer>", "no </think>"),
        ("<answer>5</answer><think>a</think>", "markers out of order"),
        ("<answer>5</answer>", "no <think>"),
        ("<THINK>a</THINK><answer>5</answer>", "no <think>"),
        ("< think>a</think><answer>5</answer>", "no <think>"),
        (f"<|im_end|>{GOOD}", "text before <think>"),
        ("", "no <think>"),
    ],
)
def test_what_fails_and_why(text: str, reason: str) -> None:
    assert THINK_ANSWER.check(text) == reason


@pytest.mark.parametrize(
    ("answer", "holds"),
    [
        ("\\boxed{5}", True),
        (" The answer is \\(\\boxed{\\frac{1}{2}}\\).", True),
        ("$\\boxed {3}$ or $\\boxed{4}$", True),
        ("5", False),
        ("\\boxed{}", False),
        ("\\boxed{ }", False),
        ("\\boxed{5", False),
        ("boxed{5}", False),
        ("\\fbox{5}", False),
    ],
)
def test_a_format_may_demand_a_box_inside_the_answer(answer: str, holds: bool) -> None:
    for fmt in (BOXED, BOXED_KEYS):
        thought = "I put 5 into \\boxed{5}."  # a box elsewhere is none in the answer
        plain = fmt.model_copy(update={"boxed": False})
        text = plain.render(thought, answer)
        assert plain.check(text) is None
        assert fmt.check(text) == (None if holds else "no \\boxed{} in the answer")
        assert fmt.content(text) == plain.content(text)


def test_an_answer_is_rendered_in_the_box_that_is_demanded() -> None:
    for fmt in (BOXED, BOXED_KEYS):
        assert fmt.parse(fmt.render("2 + 3 = 5.", "5")) == ("2 + 3 = 5.", "\\boxed{5}")
        assert fmt.parse(fmt.render("2 + 3 = 5.", "So \\boxed{5}")) == ("2 + 3 = 5.", "So \\boxed{5}")


def test_only_a_format_that_demands_a_box_says_so() -> None:
    """What is on record of the responses of the others is found by how they were always written."""
    assert "boxed" not in THINK_ANSWER.model_dump(mode="json") and "boxed" not in THINK_ANSWER.model_dump_json()
    assert BOXED.model_dump()["boxed"] is True
    for fmt in (THINK_ANSWER, BOXED):
        assert ResponseFormat.model_validate_json(fmt.model_dump_json()) == fmt


def test_parse_gives_the_parts() -> None:
    assert THINK_ANSWER.parse(f"{GOOD} <|im_end|>") == ("2 + 3 = 5.", "\\boxed{5}")
    assert BARE.parse("<a> 5 </a>") == ("", "5")
    assert LABEL.parse("2 + 3 = 5.\nFinal answer: 5") == ("2 + 3 = 5.", "5")
    assert LABEL.parse("Final answer: 5") == "blank thought"
    assert KEYS.parse('{"why": "2 + 3", "answer": "5"}') == ("2 + 3", "5")


@pytest.mark.parametrize(
    "text",
    ['{"answer": "5", "why": "a"}', '{"why": "a", "answer": 5}', '{"why": "a"}', '["a", "5"]', "[" * 100_000, "5", "{",
     '{"why": "a", "answer": "4", "answer": "5"}',
     '{"why": "a", "answer": "5", "more": "b"}', '{"why": " ", "answer": "5"}'],
    ids=range(10),
)  # fmt: skip
def test_what_fails_as_json(text: str) -> None:
    assert KEYS.check(text) is not None


# Properties

words = st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool)
pieces = st.lists(
    st.sampled_from(
        [*THINK_ANSWER.markers, *STOP_TOKENS, "Answer:", "\\boxed{", "}", "a", "5", " ", "\n", "{", '"', "\x00"]
    )
)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@given(thought=words, answer=words)
def test_what_is_rendered_is_parsed_again(fmt: ResponseFormat, thought: str, answer: str) -> None:
    assume(not any(marker in thought + answer for marker in fmt.markers))
    assume(not answer.endswith(STOP_TOKENS))
    text = fmt.render(thought, answer)
    assert fmt.check(text) is None
    assert fmt.parse(text) == (thought if fmt.thought else "", answer)


@pytest.mark.parametrize("fmt", (*FORMATS, BOXED, BOXED_KEYS), ids=lambda fmt: fmt.name)
@given(text=st.one_of(st.text(), pieces.map("".join)))
def test_any_text_is_checked(fmt: ResponseFormat, text: str) -> None:
    found = fmt.parse(text)
    assert (fmt.check(text) is None) == (not isinstance(found, str))
    if not isinstance(found, str):
        assert found[1].strip()


@given(pieces.map("".join))
def test_content_is_settled_and_holds_no_marker(text: str) -> None:
    content = THINK_ANSWER.content(text)
    assert content == " ".join(content.split())
    assert THINK_ANSWER.content(f" \n{text} \t<|im_end|>") == content


def folded(text: str) -> str:
    """`text` with one blank between words, and none next to Chinese, which has no blanks of its own."""
    found = ""
    for word in text.split():
        chinese = any("\u3000" <= sign <= "\u30ff" or "一" <= sign <= "\u9fff" or "\uff00" <= sign <= "\uffef"
                      for sign in (found[-1:], word[0]))  # fmt: skip
        found += word if chinese or not found else f" {word}"
    return found


@given(thought=words, answer=words)
def test_content_is_that_of_the_parts(thought: str, answer: str) -> None:
    assume(not any(mark in thought + answer for mark in (*THINK_ANSWER.markers, *THINK_ANSWER.labels, *STOP_TOKENS)))
    content = folded(f"{thought} {answer}")
    assert THINK_ANSWER.content(THINK_ANSWER.render(thought, answer)) == content
    assert THINK_ANSWER.content(f"{thought}\nAnswer: {answer}") == content
    assert THINK_ANSWER.content(f"{thought}</think> {answer}<answer>") == content


@given(pieces.map("".join), st.sampled_from(THINK_ANSWER.markers))
def test_without_a_marker_nothing_else_changes(text: str, marker: str) -> None:
    assert THINK_ANSWER.without(text, marker).split() == text.replace(marker, " ").split()


@pytest.mark.parametrize(
    "piece", [*STOP_TOKENS, " </s> ", "<think>", "<answer></answer>", "{", '{"why":', " ", "\\boxed{"]
)
def test_a_long_text_takes_no_second(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    for fmt in (*FORMATS, BOXED):
        started = time.process_time()
        fmt.check(text)
        fmt.content(text)
        assert time.process_time() - started < 1.0


# Formats from files


def test_the_paper_s_format_is_built_in() -> None:
    assert load_format("think-answer") == THINK_ANSWER
    assert THINK_ANSWER.markers == ("<think>", "</think>", "<answer>", "</answer>")


def test_a_format_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\ninstruction = "Do."\n[thought]\nopen = "<r>"\nclose = "</r>"\n[answer]\nopen = "Result:"\n'
    )
    fmt = load_format(str(file))
    assert fmt.parse("<r>a</r>\nResult: 5") == ("a", "5")
    assert fmt.parse(fmt.render("a", "5")) == ("a", "5")
    assert fmt.check("a\nResult: 5") == "no <r>"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name = ", "is not valid TOML"),
        ('name = "x"', "is wrong at 'answer'"),
        ('name = "x"\ninstruction = "y"\n[answer]\nopn = "<a>"', "is wrong at 'answer.opn'"),
        ('name = "x"\ninstruction = "y"\n[answer]\nopen = "<a>"\nclose = "<a>"', "stands twice"),
        (
            'name = "x"\ninstruction = "y"\n[thought]\nopen = "##"\n[answer]\nopen = "## Answer"',
            "the marker ## stands inside",
        ),
        ('name = "x"\ninstruction = "y"\n[thought]\n[answer]', "nothing parts"),
        ('name = "x"\ninstruction = "y"\nlayout = "json"\n[answer]', "needs a key"),
    ],
)
def test_a_file_that_is_no_format_is_said(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(UserError, match=said) as error:
        load_format(str(file))
    assert str(file) in str(error.value)


def test_a_format_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match="no format is called 'poem'; there are boxed, final-answer, json, markdown, plain, reasoning-solution, ",
    ):
        load_format("poem")
    with pytest.raises(UserError, match="cannot read the format file"):
        load_format(str(tmp_path / "missing.toml"))


def test_a_format_is_a_value() -> None:
    with pytest.raises(ValidationError):
        THINK_ANSWER.name = "other"  # type: ignore[misc]
    assert ResponseFormat.model_validate(json.loads(THINK_ANSWER.model_dump_json())) == THINK_ANSWER


def test_the_shipped_formats_are_found_by_name() -> None:
    names = ("boxed", "final-answer", "json", "markdown", "plain", "reasoning-solution", "think-answer")
    assert shipped_formats() == names
    for name in shipped_formats():
        fmt = load_format(name)
        answer = "\\boxed{5}" if fmt.boxed else "5"
        assert fmt.name == name and fmt.parse(fmt.render("2 + 3 = 5.", "5")) == ("2 + 3 = 5.", answer)
    with pytest.raises(UserError, match="did you mean 'markdown'"):
        load_format("markdwon")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("## Reasoning\n2 + 3 = 5.\n\n## Answer\n\\boxed{5}", None),
        ("## Reasoning\n2 + 3 = 5.\n\\boxed{5}", "no ## Answer"),
        ("## Reasoning\n2 + 3 = 5.\n### Answer\n5", "no ## Answer"),
        ("## Reasoning\n2 + 3 = 5. ## Answer 5", "no ## Answer"),
        ("So: ## Reasoning\n2 + 3 = 5.\n## Answer\n5", "text before ## Reasoning"),
        ("## Reasoning\na\n## Answer\n5\n## Answer\n5", "more than one ## Answer"),
        ("## Reasoning\n\n## Answer\n5", "blank thought"),
    ],
)
def test_markdown_headings_stand_on_lines_of_their_own(text: str, reason: str | None) -> None:
    assert load_format("markdown").check(text) == reason
