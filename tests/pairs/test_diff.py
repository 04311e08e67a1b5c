"""The difference between chosen and rejected, and unseen characters made visible."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs_data.inert import one_line, visible
from specs_data.pairs.diff import difference, marked

CHOSEN = "<think>Removing it leaves 6. So 5.</think>\n<answer> It is \\boxed{5}</answer>"


@pytest.mark.parametrize(
    ("rejected", "expected"),
    [
        (CHOSEN, CHOSEN),
        (
            "Removing it leaves 6. So 5.\n It is \\boxed{5}",
            "[-<think>-]Removing it leaves 6. So 5.[-</think>-]\n[-<answer>-] It is \\boxed{5}[-</answer>-]",
        ),
        (
            CHOSEN.replace("<answer>", "Answer:").replace("</answer>", ""),
            "<think>Removing it leaves 6. So 5.</think>\n[-<answer>-]{+Answer:+} It is \\boxed{5}[-</answer>-]",
        ),
        (
            "<answer>" + CHOSEN.replace("<answer>", ""),
            "{+<answer>+}<think>Removing it leaves 6. So 5.</think>\n[-<answer>-] It is \\boxed{5}</answer>",
        ),
    ],
)
def test_what_each_kind_of_corruption_looks_like(rejected: str, expected: str) -> None:
    assert marked(CHOSEN, rejected) == expected


TEXTS = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", " ", "\n", "5", "so", "é", "<", "{+"])).map(
    "".join
)


@given(TEXTS, TEXTS)
def test_the_steps_join_to_both_texts(chosen: str, rejected: str) -> None:
    steps = difference(chosen, rejected)
    assert "".join(text for op, text in steps if op != "add") == chosen
    assert "".join(text for op, text in steps if op != "drop") == rejected
    assert all(text for _, text in steps)
    assert all(one[0] != other[0] for one, other in pairwise(steps))


def test_a_format_only_change_of_an_endless_loop() -> None:
    loop = "wait, " * 5_000
    steps = difference(f"<think>{loop}</think>\n<answer>5</answer>", f"{loop}\n5")
    assert [text for op, text in steps if op != "keep"] == ["<think>", "</think>", "<answer>", "</answer>"]


def test_long_unrelated_texts_take_no_quadratic_time() -> None:
    words = [str(number % 97) for number in range(20_000)]
    steps = difference(" ".join(words), " ".join(reversed(words)))
    assert "".join(text for op, text in steps if op != "drop") == " ".join(reversed(words))


@given(st.text())
def test_nothing_unseen_is_left(text: str) -> None:
    shown = visible(text)
    assert all(char.isprintable() or char.isspace() for char in shown)
    assert not {"\x1b", "\r", "\x00", "\u202e", "\u2028", "\x9b"} & set(shown)
    assert visible(shown) == shown


def test_signs_name_the_character() -> None:
    assert visible("a\x1b[31m\u202eb\x7f\n\t") == "a␛[31m⟨U+202E⟩b␡\n\t"


def test_one_line_is_one_line_of_at_most_its_width() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("abcd", 4) == "abcd"
