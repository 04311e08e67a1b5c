"""Corruption operators: what the five do, what the engine checks, and how anyone's are found."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs_data import plugins
from specs_data.errors import PluginFailed, UserError
from specs_data.format import STOP_TOKENS, THINK_ANSWER, Part, ResponseFormat, load_format
from specs_data.judges.answers import final_answer, plain
from specs_data.pairs.twin import fault, make_twin
from specs_data.plugins import Corruption, find_corruptions
from specs_data.records import Twin

ROOT = Path(__file__).parent.parent
FIVE = ("remove_all_tags", "remove_answer_tags", "remove_think_tags", "replace_answer_tags", "shift_tags")
OPERATORS = find_corruptions(FIVE)
NAMED = find_corruptions(drawn="by name")  # natural classes that the five miss
OF_JSON = find_corruptions(drawn="json")
EVERY = OPERATORS | NAMED | OF_JSON
SHIPPED = {path.stem: load_format(str(path)) for path in (ROOT / "specs_data" / "formats").glob("*.toml")}
TAGGED = {
    "think-answer": THINK_ANSWER,
    "boxed": SHIPPED["boxed"],
    "reasoning-solution": SHIPPED["reasoning-solution"],
    "brackets": ResponseFormat(
        name="brackets",
        thought=Part(open="[[", close="]]"),
        answer=Part(open="<<", close=">>"),
        labels=("Result =", "So the answer is:"),
        instruction="-",
    ),
}
EXAMPLE = THINK_ANSWER.render("2 + 3 = 5.", r"\boxed{5}")

formats = st.sampled_from(list(TAGGED.values()))
seeds = st.integers(0, 2**32)
# Letters of every kind, and what answers, tags and LaTeX are made of.
characters = st.characters(codec="utf-8") | st.sampled_from(" \n\t<>/[]{}()\\$.:,0123456789")
words = st.lists(st.text(characters, min_size=1, max_size=12), max_size=8).map(" ".join)
boxed = st.integers(-999, 9999).map(str) | st.sampled_from(["A", "\\frac{1}{2}", "3 or 4", "red", "x^{2}+1", "14 cm"])
FRAMES = ["\\boxed{%s}", " The answer is \\(\\boxed{%s}\\)", "Answer: \\boxed{%s}."]
gaps = st.sampled_from(["", " ", "\n", "\n\n", "\t \n"])


def bare(text: str, fmt: ResponseFormat) -> str:
    """`text` without what this format, or any judge, would take for a marker, a stop token or an answer."""
    for word in (*fmt.markers, *fmt.labels, *STOP_TOKENS, "answer", "boxed", "Answer", "{", "}"):
        text = text.replace(word, " ")
    return " ".join(text.split(" ")) if text.strip() else "It is so"


@st.composite
def responses(draw: st.DrawFn) -> tuple[str, ResponseFormat]:
    """A well-formed response with a boxed answer."""
    fmt = draw(formats)
    thought = bare(draw(words), fmt)
    answer = draw(st.sampled_from(FRAMES)) % draw(boxed)
    (think, close, open_, end) = fmt.markers
    text = f"{draw(gaps)}{think}{thought}{close}{draw(gaps)}{open_}{answer}{end}{draw(gaps)}"
    if fmt.check(text) is not None:  # what is left of a marker has met its other half
        text = fmt.render("It is so", answer)
    return text, fmt


def twin(text: str, operators: Mapping[str, Corruption], seed: str, weights: Mapping[str, float] | None = None) -> Twin:
    return make_twin(text, final_answer(text), THINK_ANSWER, operators, weights or {}, seed)


@pytest.mark.parametrize("name", (*FIVE, *NAMED))
@settings(max_examples=60, deadline=None)
@given(response=responses(), seed=seeds)
def test_each_operator_breaks_the_format_and_nothing_else(
    name: str, response: tuple[str, ResponseFormat], seed: int
) -> None:
    text, fmt = response
    assert fmt.check(text) is None
    result = EVERY[name].apply(text, fmt, random.Random(seed))
    assert result is not None and result != text
    assert fmt.check(result) is not None
    assert fmt.content(result) == fmt.content(text)
    assert fault(text, result, fmt) is None
    assert final_answer(result, fmt) == final_answer(text, fmt) is not None
    assert EVERY[name].apply(text, fmt, random.Random(seed)) == result


# A value may hold what looks like JSON; a quoted key in it is refused, see below.
values = st.lists(
    st.text(characters, min_size=1, max_size=12)
    | st.sampled_from(
        [*"'\"{},:", "\\", "\\'", '\\"', "```", "it's", '"red"', "答案", "\U0001f600", "\n", "\\frac{1}{2}"]
    )
).map(" ".join)
SHAPES = (
    lambda thought, answer: json.dumps({"reasoning": thought, "answer": answer}),
    lambda thought, answer: json.dumps({"reasoning": thought, "answer": answer}, ensure_ascii=False, indent=2),
    lambda thought, answer: f'{{"reasoning" :{json.dumps(thought)} ,"answer":{json.dumps(answer)} }}',
)


@pytest.mark.parametrize("name", OF_JSON)
@settings(max_examples=100, deadline=None)
@given(
    thought=values,
    answer=boxed,
    frame=st.sampled_from(FRAMES),
    shape=st.sampled_from(SHAPES),
    gap=gaps,
    fmt=st.sampled_from([SHIPPED["json"], SHIPPED["json"].model_copy(update={"boxed": True})]),
)
def test_each_operator_breaks_json_and_nothing_else(
    name: str, thought: str, answer: str, frame: str, shape: Callable[[str, str], str], gap: str, fmt: ResponseFormat
) -> None:
    text = gap + shape(f"{bare(thought, fmt)}.", frame % answer) + gap
    assert fmt.check(text) is None
    result = OF_JSON[name].apply(text, fmt, random.Random(0))
    if result is None:  # a fence of a value's own would be taken for one around the object
        assert name == "unwrap_json" and "```" in text
        return
    assert fault(text, result, fmt) is None
    assert final_answer(result, fmt) == final_answer(text, fmt) is not None


@pytest.mark.parametrize("name", OF_JSON)
@pytest.mark.parametrize("answer", ["5", "$\\frac{1}{2}$", 'It\'s 3 "blue" blocks', "答案是 5。", "a\\b", "x" * 150])
def test_an_answer_without_a_box_is_found_in_broken_json(name: str, answer: str) -> None:
    fmt = SHIPPED["json"]
    text = fmt.render('It\'s 2 + 3.\nThe "blue" ones are \\(5\\).', answer)
    made = make_twin(text, final_answer(text, fmt), fmt, {name: OF_JSON[name]}, {}, "seed")
    if name == "unwrap_json" and len(answer) > 100:  # as in the other layout, a long last line is no answer
        assert made.refused == ((name, "answer lost"),)
    else:
        assert made.rejected is not None, made.refused


def test_what_each_operator_makes_of_json() -> None:
    fmt = SHIPPED["json"]
    text = fmt.render("It's \\(2 + 3\\).", '\\boxed{"5"}')
    assert {name: found.apply(text, fmt, random.Random(0)) for name, found in OF_JSON.items()} == {
        "fence_json": f"```json\n{text}\n```",
        "label_json": 'reasoning: It\'s \\(2 + 3\\).\nanswer: \\boxed{"5"}',
        "requote_json": r"""{'reasoning': 'It\'s \\(2 + 3\\).', 'answer': '\\boxed{"5"}'}""",
        "unclose_json": text[:-1],
        "unwrap_json": 'It\'s \\(2 + 3\\).\n\\boxed{"5"}',
    }


@pytest.mark.parametrize("name", OF_JSON)
def test_json_values_that_change_are_content(name: str) -> None:
    fmt = SHIPPED["json"]
    text = fmt.render("2 + 3 = 5.", "5")
    made = OF_JSON[name].apply(fmt.render("2 + 4 = 6.", "5"), fmt, random.Random(0))
    assert made is not None and fault(text, made, fmt) == "content changed"
    assert fault(text, f"{OF_JSON[name].apply(text, fmt, random.Random(0))} I hope this helps.", fmt) is not None


def test_a_key_that_a_value_quotes_is_never_lost() -> None:
    fmt = SHIPPED["json"]
    text = fmt.render('I write "answer": "6" later.', "5")
    for name, found in OF_JSON.items():
        made = make_twin(text, "5", fmt, {name: found}, {}, "seed")
        assert (made.rejected is None) == (name in ("unwrap_json", "label_json"))
        assert all(reason == "content changed" for _, reason in made.refused)


@pytest.mark.parametrize("name", EVERY)
def test_an_operator_for_one_layout_passes_the_other_by(name: str) -> None:
    other = THINK_ANSWER if name in OF_JSON else SHIPPED["json"]
    assert EVERY[name].apply(other.render("2 + 3 = 5.", "5"), other, random.Random(0)) is None


hostile = st.lists(
    st.sampled_from(
        [*THINK_ANSWER.markers, *STOP_TOKENS, "Answer:", "\\boxed{", "}", "{", " ", "\n", "5", "is", "<", "\x00"]
    )
    | st.text(max_size=3),
    max_size=14,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(thought=hostile, answer=hostile, gap=gaps, seed=st.text(max_size=5))
def test_a_twin_of_any_response_is_right_and_malformed(thought: str, answer: str, gap: str, seed: str) -> None:
    text = f"<think>{thought}</think>{gap}<answer>{answer}</answer>"
    made = twin(text, OPERATORS, seed)
    assert made == twin(text, OPERATORS, seed)
    if made.rejected is None:
        return
    rejected = made.rejected.text
    assert THINK_ANSWER.check(rejected) is not None and THINK_ANSWER.content(rejected) == THINK_ANSWER.content(text)
    assert plain(final_answer(rejected) or "") == plain(final_answer(text) or "")
    assert made.rejected.corruption in FIVE and made.rejected.origin == "chosen"


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=50, deadline=None)
@given(text=hostile, seed=seeds)
def test_no_text_makes_an_operator_fail(name: str, text: str, seed: int) -> None:
    for fmt in (THINK_ANSWER, *SHIPPED.values()):
        EVERY[name].apply(text, fmt, random.Random(seed))


@pytest.mark.parametrize("name", EVERY)
def test_a_format_without_markers_has_nothing_to_break(name: str) -> None:
    fmt = ResponseFormat(name="none", answer=Part(), instruction="-")
    text = fmt.render("2 + 3 = 5.", r"\boxed{5}")
    assert fmt.check(text) is None
    assert EVERY[name].apply(text, fmt, random.Random(0)) is None


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("fmt", [SHIPPED["final-answer"], SHIPPED["plain"]])
def test_a_label_is_no_pair_of_tags(name: str, fmt: ResponseFormat) -> None:
    text = fmt.render("2 + 3 = 5.", r"\boxed{5}")
    assert fmt.check(text) is None
    for seed in range(10):
        result = EVERY[name].apply(text, fmt, random.Random(seed))
        if name in ("remove_all_tags", "move_tags", "repeat_marker"):
            assert result is not None and fault(text, result, fmt) is None
        else:
            assert result is None


def test_an_answer_alone_has_no_thought_to_lose() -> None:
    fmt = ResponseFormat(name="answer-only", answer=THINK_ANSWER.answer, instruction="-")
    text = fmt.render("", r"\boxed{5}")
    results = {name: EVERY[name].apply(text, fmt, random.Random(0)) for name in (*FIVE, *NAMED)}
    for name in ("remove_think_tags", "shift_tags", "drop_think_close", "think_only"):
        assert results.pop(name) is None
    assert all(result is not None and fault(text, result, fmt) is None for result in results.values())


def test_blocks_without_white_space_between_them_stay_apart() -> None:
    text = "<think>2 + 3 = 5.</think><answer>5</answer>"
    for name in (*FIVE, *NAMED):
        for seed in range(20):
            result = EVERY[name].apply(text, THINK_ANSWER, random.Random(seed))
            assert result is not None and fault(text, result, THINK_ANSWER) is None
            assert "5.5" not in result and "5.A" not in result
    assert OPERATORS["remove_all_tags"].apply(text, THINK_ANSWER, random.Random(0)) == "2 + 3 = 5.\n5"


THINK, ANSWER = "<think>2 + 3 = 5.</think>", r"<answer>\boxed{5}</answer>"


def made_by(name: str, text: str = EXAMPLE, fmt: ResponseFormat = THINK_ANSWER, draws: int = 200) -> set[str | None]:
    """Everything that an operator makes of `text`, whatever is drawn."""
    return {EVERY[name].apply(text, fmt, random.Random(seed)) for seed in range(draws)}


def test_what_the_five_make() -> None:
    assert {name: made_by(name) for name in FIVE} == {
        "remove_all_tags": {"2 + 3 = 5.\n\\boxed{5}"},
        "remove_answer_tags": {f"{THINK}\n\\boxed{{5}}"},
        "remove_think_tags": {f"2 + 3 = 5.\n{ANSWER}"},
        "replace_answer_tags": {f"{THINK}\nAnswer: \\boxed{{5}}"},
        "shift_tags": {"<think>2 + 3 = 5.\n\\boxed{5}</think>"},
    }


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("<think>2 + 3 = 5.</think><answer>5</answer>", "<think>2 + 3 = 5.\n5</think>"),
        ("<think>a</think>\n<answer> The answer is 5. </answer>\n", "<think>a\n The answer is 5.</think>"),
        ("<think>a</think>\n<answer>5</answer><|im_end|>", "<think>a\n5</think>"),
        ("<think>a</think>\n<answer>\n5\n</answer>", "<think>a\n\n5</think>"),
    ],
)
def test_all_is_thought(text: str, made: str) -> None:
    """The paper's fourth: answer tags away, the end of the thought at the end of the response."""
    assert made_by("shift_tags", text, draws=3) == {made}
    assert fault(text, made, THINK_ANSWER) is None


def test_what_those_for_natural_errors_make() -> None:
    assert made_by("drop_think_close") == {f"<think>2 + 3 = 5.\n{ANSWER}"}
    assert made_by("drop_answer_close") == {f"{THINK}\n<answer>\\boxed{{5}}"}
    assert made_by("think_only") == {"<think>2 + 3 = 5.\nAnswer: \\boxed{5}</think>"}
    doubled = made_by("repeat_marker")
    assert doubled == {EXAMPLE.replace(marker, f"{marker}\n{marker}") for marker in THINK_ANSWER.markers}
    moved = made_by("move_tags")
    assert len(moved) > 10 and f"</think><think>2 + 3 = 5.\n{ANSWER}" in moved
    for text in moved:
        assert text is not None and sorted("".join(text.split())) == sorted("".join(EXAMPLE.split()))


def test_another_tag_stands_for_one_marker_or_two() -> None:
    made = made_by("other_tag", draws=400)
    assert {f"<think>2 + 3 = 5.</reasoning>\n{ANSWER}", f"<thinking>2 + 3 = 5.</thinking>\n{ANSWER}"} <= made
    assert {f"{THINK}\n<solution>\\boxed{{5}}</answer>", f"{THINK}\n<result>\\boxed{{5}}</result>"} <= made
    assert len(made) == (4 + 3) * 3  # each tag that is not the format's own: opening, closing, or both
    for text in made:
        assert text is not None and fault(EXAMPLE, text, THINK_ANSWER) is None
    named = made_by("other_tag", SHIPPED["reasoning-solution"].render("a", "5"), SHIPPED["reasoning-solution"])
    assert any("<think>" in str(text) for text in named)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("answer", ["5", "It is red", "The answer is 5.", "x = \\frac{1}{2}"])
def test_an_answer_without_a_box_is_found(name: str, answer: str) -> None:
    text = THINK_ANSWER.render("There are 2 and 3, so it is clear.", answer)
    made = [twin(text, {name: NAMED[name]}, str(seed)) for seed in range(40)]
    kept = sum(each.rejected is not None for each in made)
    # A tag that is moved may take words of the answer along; that is refused.
    assert kept == 40 or (name == "move_tags" and kept > 10)


def test_chinese_has_places_without_blanks() -> None:
    thought = "图中有2个红球，3个蓝球；所以一共有$2+3$个球：答案是5。"
    text = THINK_ANSWER.render(thought, r"\boxed{5}")
    moved = made_by("move_tags", text, draws=1000)
    places = {str(made).split("</think>", maxsplit=1)[0] for made in moved if str(made).count("</think>") == 1}
    for before in ("图中有2个红球，", "图中有2个红球，3个蓝球；", "图中有", "图中有2个红球，3个蓝球；所以一共有"):
        assert f"<think>{before}" in places
    assert "<think>图" not in places and "<think>图中有2个红" not in places  # no word is cut
    for made in moved:
        assert made is not None and fault(text, made, THINK_ANSWER) is None


def test_long_hostile_texts_take_no_time() -> None:
    started = time.process_time()
    for thought in ("a " * 20_000, "{ " * 20_000, "<answer " * 10_000, " " * 40_000 + "x", "\\boxed{1} " * 4_000):
        text = THINK_ANSWER.render(thought, r"\boxed{5}")
        for seed in range(3):
            twin(text, OPERATORS | NAMED, str(seed))
    assert time.process_time() - started < 6


def test_long_hostile_json_takes_no_time() -> None:
    started = time.process_time()
    fmt = SHIPPED["json"]
    for piece in ('"answer":', '{"answer"', '{ , "', "'answer':", "\\", '\\"', " ", "```", "answer:", '"answer": "\\'):
        text = piece * (40_000 // len(piece))
        for broken in (text, f"{text}x", fmt.render(text, "5")):
            fmt.content(broken)
            final_answer(broken, fmt)
            fmt.members(broken)
    assert time.process_time() - started < 6


# Drawing an operator


def named(function: plugins.Operator, name: str = "mine") -> Corruption:
    return Corruption(name, function, "here")


def test_what_fails_the_check_is_refused_with_its_reason() -> None:
    operators = {
        "keeps": named(lambda text, fmt, rng: text, "keeps"),
        "eats": named(lambda text, fmt, rng: text.replace("2", "").replace("<think>", ""), "eats"),
        "passes": named(lambda text, fmt, rng: None, "passes"),
    }
    made = twin(EXAMPLE, operators, "seed")
    assert made.rejected is None
    reasons = dict(made.refused)
    assert reasons == {"keeps": "format not broken", "eats": "content changed"}


def test_an_answer_that_is_lost_is_refused() -> None:
    text = THINK_ANSWER.render(
        r"First \boxed{4}.", "it is five of them, as was to be seen in the left half of the picture"
    )
    made = twin(text, {"remove_all_tags": OPERATORS["remove_all_tags"]}, "seed")
    assert made.rejected is None and made.refused == (("remove_all_tags", "answer lost"),)


def test_weights_are_shares() -> None:
    weights = {"remove_all_tags": 3.0, "shift_tags": 1.0, "remove_think_tags": 1e-9}
    operators = {name: OPERATORS[name] for name in weights}
    made = [twin(EXAMPLE, operators, str(seed), weights) for seed in range(2000)]
    drawn = Counter(each.rejected.corruption for each in made if each.rejected)
    assert drawn.total() == 2000 and drawn["remove_think_tags"] == 0
    assert 0.71 < drawn["remove_all_tags"] / 2000 < 0.79


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(FIVE), seed=st.text(max_size=8))
def test_the_order_in_which_operators_are_named_does_not_matter(order: list[str], seed: str) -> None:
    shuffled = {name: OPERATORS[name] for name in order}
    assert twin(EXAMPLE, shuffled, seed) == twin(EXAMPLE, OPERATORS, seed)


# Finding operators


def test_operators_are_found_by_name_or_by_when_they_are_drawn() -> None:
    assert set(FIVE) <= set(find_corruptions())
    assert not set(find_corruptions()) & {*NAMED, *OF_JSON}
    assert {"drop_think_close", "drop_answer_close", "repeat_marker", "other_tag", "think_only"} <= set(NAMED)
    assert list(find_corruptions({"shift_tags": 1.0})) == ["shift_tags"]
    assert list(find_corruptions(["move_tags", "unwrap_json"])) == ["move_tags", "unwrap_json"]
    for found in EVERY.values():
        assert found.origin.startswith("specs-data ") and found.summary.endswith(".") and len(found.sha256) == 64
    assert len({found.sha256 for found in EVERY.values()}) == len(EVERY)


def test_those_that_did_not_change_have_the_digest_of_the_first_release() -> None:
    """It is part of what determines a pair: another one makes every pair anew."""
    assert {name: OPERATORS[name].sha256[:16] for name in FIVE if name != "shift_tags"} == {
        "remove_all_tags": "eecbfcc8ab7759d0",
        "remove_answer_tags": "9d69a7e26ff987b7",
        "remove_think_tags": "596ae016051938fb",
        "replace_answer_tags": "29876decb2737f0f",
    }


def test_the_group_says_when_an_operator_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote it."""
    groups = {"tags": "a", "json": "b", "by name": "c"}
    points = {plugins.DRAWN[drawn]: [EntryPoint(name, f"mine:{name}", "-")] for drawn, name in groups.items()}
    monkeypatch.setattr(plugins, "entry_points", lambda group: points[group])
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(**dict.fromkeys("abc", lambda text, fmt, rng: None)))
    assert {drawn: list(find_corruptions(drawn=drawn)) for drawn in groups} == {d: [n] for d, n in groups.items()}
    assert list(find_corruptions("cab")) == ["c", "a", "b"]


def test_an_unknown_operator_is_said() -> None:
    with pytest.raises(UserError, match=r"no corruption is called 'shift'; there are .*remove_all_tags, .*shift_tags"):
        find_corruptions({"shift": 1.0})
    with pytest.raises(UserError, match="there is no corruption file nowhere/mine.py"):
        find_corruptions({"nowhere/mine.py": 1.0})


FILES = {
    "named": "def helper(t): return t\ndef mine(text, fmt, rng):\n    '''Mine.'''\n    return helper(text) + '!'\n",
    "only": "from pathlib import Path\ndef shout(text, fmt, rng):\n    '''Mine.'''\n    return text + '!'\n",
    "class": "class Mine:\n    '''Mine.'''\n    def __call__(self, text, fmt, rng):\n        return text + '!'\n",
    "dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Mine:\n    '''Mine.'''\n    mark: str = '!'\n"
        "    def __call__(self, text, fmt, rng):\n        return text + self.mark\n"
    ),
    "instance": (
        "class _Mine:\n    '''Mine.'''\n    def __call__(self, text, fmt, rng):\n        return text + '!'\n"
        "mine = _Mine()\n"
    ),
    "lambda": "mine = lambda text, fmt, rng: text + '!'\n",
    "partial": (
        "from functools import partial\ndef _mark(text, fmt, rng, mark):\n    return text + mark\n"
        "mine = partial(_mark, mark='!')\n"
    ),
    "decorated": (
        "from functools import lru_cache\n@lru_cache\n"
        "def mine(text, fmt, rng):\n    '''Mine.'''\n    return text + '!'\n"
    ),
}


@pytest.mark.parametrize("source", FILES)
def test_an_operator_in_a_file(tmp_path: Path, source: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILES[source])
    found = find_corruptions({str(file): 2.0})
    assert list(found) == ["mine"]
    assert found["mine"].apply("a", THINK_ANSWER, random.Random(0)) == "a!"
    assert found["mine"].origin == str(file)
    if source not in ("lambda", "partial"):
        assert found["mine"].summary == "Mine."


@pytest.mark.parametrize("source", FILES)
def test_a_changed_file_has_another_digest(tmp_path: Path, source: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILES[source])
    first = find_corruptions({str(file): 1.0})["mine"].sha256
    assert find_corruptions({str(file): 1.0})["mine"].sha256 == first
    file.write_text(FILES[source].replace("!", "??"))
    found = find_corruptions({str(file): 1.0})["mine"]
    assert found.sha256 != first
    assert found.apply("a", THINK_ANSWER, random.Random(0)) == "a??"


@pytest.mark.parametrize(
    ("source", "kind", "sentence"),
    [
        ("", UserError, r"mine\.py should define one function called mine\(text, fmt, rng\)"),
        ("_hidden = lambda text, fmt, rng: None", UserError, "should define one function called mine"),
        ("from random import choice", UserError, "should define one function called mine"),
        ("def a(t, f, r): ...\ndef b(t, f, r): ...", UserError, "should define one function called mine"),
        ("mine = 5", UserError, "should define one function called mine"),
        ("import sys; sys.exit()", PluginFailed, r"mine\.py cannot be loaded: SystemExit"),
        ("import sys\nclass Mine:\n    def __init__(self): sys.exit()", PluginFailed, "cannot be made: SystemExit"),
        ("def mine(", PluginFailed, r"(?s)mine\.py cannot be loaded:.*line 1\n    def mine\(\n.*SyntaxError"),
        ("import nothing_like_this", PluginFailed, "cannot be loaded: ModuleNotFoundError"),
        ("class Mine:\n    def __init__(self, x): ...", PluginFailed, "cannot be made: TypeError"),
        ("class Mine: ...", PluginFailed, r"'mine' \(.*mine\.py\) is not callable"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_operator_is_said(tmp_path: Path, source: str, kind: type[Exception], sentence: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(kind, match=sentence) as caught:
        find_corruptions({str(file): 1.0})
    assert "\n" not in str(caught.value) or "SyntaxError" in sentence  # which is shown as Python shows it


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda text, fmt, rng: 1 / 0, r"corruption 'mine' \(here\) failed: ZeroDivisionError"),
        (lambda text, fmt, rng: sys.exit(), r"corruption 'mine' \(here\) failed: SystemExit"),
        (lambda text: text, r"corruption 'mine' \(here\) failed: TypeError"),
        (lambda text, fmt, rng: b"bytes", r"corruption 'mine' \(here\) returned bytes, not text"),
        (lambda text, fmt, rng: True, r"returned bool, not text"),
    ],
)
def test_an_operator_that_breaks_down_is_named(function: plugins.Operator, sentence: str) -> None:
    with pytest.raises(PluginFailed, match=sentence):
        named(function).apply("a", THINK_ANSWER, random.Random(0))


def test_two_files_of_one_name(tmp_path: Path) -> None:
    files = [tmp_path / folder / "mine.py" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text(FILES["named"])
    with pytest.raises(UserError, match="two corruptions are called 'mine'") as caught:
        find_corruptions({str(file): 1.0 for file in files})
    assert all(str(file) in str(caught.value) for file in files)


def test_a_file_with_the_name_of_an_installed_operator(tmp_path: Path) -> None:
    file = tmp_path / "shift_tags.py"
    file.write_text("def shift_tags(text, fmt, rng): return None\n")
    assert find_corruptions({str(file): 1.0})["shift_tags"].origin == str(file)
    with pytest.raises(UserError, match=r"two corruptions are called 'shift_tags': specs-data .* and .*shift_tags\.py"):
        find_corruptions({"shift_tags": 1.0, str(file): 1.0})


def test_two_packages_that_own_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("mine", value, plugins.group("corruption")) for value in ("one:mine", "other:mine")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    with pytest.raises(UserError, match="two packages own the corruption 'mine': one:mine and other:mine"):
        find_corruptions()


def test_an_entry_point_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "nothing_like_this:mine", plugins.group("corruption"))
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    with pytest.raises(PluginFailed, match=r"corruption 'mine' \(nothing_like_this:mine\) cannot be loaded"):
        find_corruptions()


def test_the_digest_of_an_installed_operator_is_of_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the file that its wrapper is from."""
    file = tmp_path / "an_installed_operator.py"
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("mine", "an_installed_operator:mine", plugins.group("corruption"))
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    digests = []
    for source in (FILES["partial"], FILES["partial"].replace("!", "??")):
        file.write_text(source)
        monkeypatch.delitem(sys.modules, "an_installed_operator", raising=False)
        digests.append(find_corruptions()["mine"].sha256)
    assert digests[0] != digests[1]


LISTING = """
import random
from specs_data.plugins import find_corruptions
from specs_data.format import THINK_ANSWER
found = find_corruptions()
print(sorted(found))
mine = found["drop_closing_tag"]
print(mine.origin, "|", mine.summary, "|", len(mine.sha256))
print(repr(mine.apply("<think>a</think><answer>b</answer>", THINK_ANSWER, random.Random(0))))
"""


def run(*command: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_third_party_package(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT / "examples" / "plugin", source)
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    done = run(*install, str(source), path=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run("-c", LISTING, path=site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(sorted((*FIVE, "drop_closing_tag"))),
        "specs-data-example 1.2.0 | Leave the answer unclosed. | 64",
        "'<think>a</think><answer>b'",
    ]
    # A second package that claims the same name.
    rival = shutil.copytree(site / "specs_data_example-1.2.0.dist-info", site / "rival-3.dist-info")
    for name in ("METADATA", "entry_points.txt"):
        text = (rival / name).read_text().replace("specs-data-example", "rival").replace("specs_data_example", "rival")
        (rival / name).write_text(text.replace("1.2.0", "3"))
    done = run("-c", "import sys; sys.argv[1:] = ['corruptions']\nfrom specs_data.cli import main; main()", path=site)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "two packages own the corruption 'drop_closing_tag'" in done.stderr
    assert "specs-data-example 1.2.0" in done.stderr and "rival 3" in done.stderr
