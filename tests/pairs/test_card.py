"""The dataset card: right where the manifest is, silent where it is not, and inert."""

from __future__ import annotations

import ast
import dataclasses
import io
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

from specs_data.errors import UserError
from specs_data.inert import one_line, visible
from specs_data.pairs.card import ablations, cell, code, excerpt, fence, render_card, size_category, words, write_card
from specs_data.pairs.diff import difference
from specs_data.pairs.manifest import Manifest
from specs_data.records import Message, Pair, Picture

CHOSEN = "<think>2 + 3 = 5.</think>\n<answer>\\boxed{5}</answer>"
HOSTILE = (
    "```\n</code></pre><script>alert(1)</script>\n---\nlicense: mit\n---\n# Owned\n[x](javascript:a) ~~~ |a|b| \x1b[2J"
)


def pair(chosen: str = CHOSEN, rejected: str = "2 + 3 = 5.\n\\boxed{5}", **more: Any) -> Pair:
    prompt = more.pop("prompt", (Message("user", "What is 2 + 3?"),))
    images = more.pop("images", ())
    more = {"corruption": "remove_all_tags", "rejected_from": "chosen"} | more
    return Pair("a1", images, prompt, chosen, rejected, **more)


def card(manifest: dict[str, Any], pairs: list[Pair], **options: Any) -> str:
    """The card of a manifest.json that holds `manifest`."""
    return render_card(msgspec.convert(manifest, Manifest), pairs, **options)


MANIFEST: dict[str, Any] = {
    "name": "grpo-zero",
    "recipe": {
        "policy": "/home/ada/ckpt/grpo-zero",
        "problems": "/home/ada/p.jsonl",
        "verifier": "gemini",
        "pairing": "decoupled",
    },
    "recipe_fingerprint": "ab" * 32,
    "dataset": {"fingerprint": "cd" * 32, "splits": {"test": {"rows": 1000}, "train": {"rows": 8000}}},
    "counts": {
        "problems": 10000,
        "sampled": 40000,
        "right": 20000,
        "well_formed": 15000,
        "verified": 9500,
        "pairs": 9000,
    },
    "yields": {
        "answer_type": {"numeric": {"problems": 6000, "pairs": 5400}, "math": {"problems": 4000, "pairs": 3600}}
    },
    "corruptions": {"remove_all_tags": 5000, "shift_tags": 4000},
    "lengths": {"chosen": {"min": 40, "median": 800, "p95": 2000, "max": 9000, "histogram": []}},
    "tokens": {"verification": {"prompt": 12345, "completion": 678}},
    "cost_usd": {"verification": 1.5},
    "seconds": {"generate": 12.75},
    "started": "2026-11-03T10:00:00Z",
    "models": {
        "policy": {"name": "/home/ada/ckpt/grpo-zero", "fingerprint": "ef" * 32},
        "verifier": {"requested": "gemini-3.5-flash-lite", "served": {"gemini-3.5-flash-lite-001": 9500}},
    },
    "prompts": {"system": {"name": "think-answer", "sha256": "12" * 32}, "verification": None},
    "versions": {"specs-data": "0.1.0"},
}


def head(text: str) -> dict[str, Any]:
    _, yaml_text, _ = text.split("---\n", 2)
    parsed = yaml.safe_load(yaml_text)
    assert isinstance(parsed, dict)
    return parsed


def tokens(text: str) -> list[Token]:
    markdown = MarkdownIt("gfm-like", {"linkify": False})
    body = text.split("---\n", 2)[2] if text.startswith("---") else text
    flat = []
    for token in markdown.parse(body):
        flat += [token, *(token.children or [])]
    return flat


def test_the_hub_reads_the_head() -> None:
    picture = Picture(b"png", "a.png")
    parsed = head(card(MANIFEST, [pair(images=(picture,))], license="cc-by-4.0"))
    assert parsed["license"] == "cc-by-4.0"
    assert parsed["size_categories"] == ["1K<n<10K"]
    assert parsed["task_categories"][0] == "image-text-to-text"
    assert parsed["annotations_creators"] == ["machine-generated"]
    files = parsed["configs"][0]["data_files"]
    assert files == [{"split": "train", "path": "data/train-*"}, {"split": "test", "path": "data/test-*"}]


def test_a_coupled_card_does_not_claim_to_teach_the_format_alone() -> None:
    template = str(Path(__file__).parents[2] / "cards" / "dataset.md.jinja")
    recipe = {**MANIFEST["recipe"], "pairing": "coupled"}
    coupled = card({**MANIFEST, "recipe": recipe}, [pair()], template=template)
    assert "Coupled on purpose" in coupled and "nothing else" not in coupled
    decoupled = card(MANIFEST, [pair()], template=template)
    assert "nothing else" in decoupled and "Coupled" not in decoupled


def test_no_license_is_invented() -> None:
    text = card(MANIFEST, [pair()])
    assert "license" not in head(text)
    assert "stated none" in text


def test_the_manifest_s_figures_are_in_it() -> None:
    text = card(
        MANIFEST,
        [pair(), pair(rejected="<think>2 <answer>+ 3 = 5.</think>\n\\boxed{5}</answer>", corruption="shift_tags")],
    )
    for figure in (
        "40,000",
        "50.0%",
        "90.0%",
        "gemini-3.5-flash-lite-001 (9,500)",
        "12" * 32,
        "12,345",
        "1.50 US",
        "9,000",
    ):
        assert figure in text
    assert "[-<think>-]2 + 3 = 5.[-</think>-]" in text
    assert "`shift_tags`: 4,000 pairs" in text
    assert 'load_dataset("OWNER/NAME", revision="vX.Y.Z"' in text


def test_times_and_paths_leave_no_trace() -> None:
    text = card(MANIFEST, [pair()])
    later = MANIFEST | {"seconds": {"generate": 99}, "started": "2027-01-01T00:00:00Z", "finished": "x"}
    assert card(later, [pair()]) == text
    assert "ada" not in text
    assert "`grpo-zero`" in text


def test_a_dataset_without_a_manifest_has_a_card_too() -> None:
    text = card({}, [pair()])
    assert "size_categories" not in head(text)
    assert "[-<think>-]" in text
    assert card({}, []).startswith("---\n")


@pytest.mark.parametrize("place", ["chosen", "rejected", "prompt", "name", "operator", "served", "source"])
def test_hostile_text_is_inert_wherever_it_stands(place: str) -> None:
    manifest, example = dict(MANIFEST), pair()
    match place:
        case "chosen" | "rejected":
            example = pair(**{place: HOSTILE})
        case "prompt":
            example = pair(prompt=(Message("system", HOSTILE), Message("user", HOSTILE)))
        case "name":
            manifest["name"] = HOSTILE
        case "operator":
            manifest["corruptions"] = {HOSTILE: 3}
        case "served":
            manifest["models"] = {"verifier": {"requested": HOSTILE, "served": {HOSTILE: 3}}}
        case _:
            manifest["yields"] = {"answer_type": {HOSTILE: {"problems": 3, "pairs": 2}}}
    text = card(manifest, [example])
    assert "\x1b" not in text
    assert "license" not in head(text)
    parsed = tokens(text)
    assert any("Owned" in token.content for token in parsed)
    assert not [token for token in parsed if token.type in ("html_block", "html_inline")]
    assert not [token for token in parsed if token.type == "link_open" and "javascript" in str(token.attrs)]
    plain = tokens(card(MANIFEST, [pair()]))
    headings = [token.tag for token in parsed if token.type == "heading_open"]
    assert headings == [token.tag for token in plain if token.type == "heading_open"]


# Text that markdown-it does not normalise away: no other line ends than \n.
TEXTS = st.text(alphabet=st.one_of(st.characters(), st.sampled_from("`~\n|<>#*_[]() \\&"))).filter(str.strip)


@given(TEXTS)
def test_a_fence_holds_its_text(text: str) -> None:
    (block,) = tokens(fence(text))
    assert (block.type, block.content) == ("fence", visible(text) + "\n")


@given(TEXTS)
def test_inline_code_holds_its_text(text: str) -> None:
    (piece,) = [token for token in tokens(f"so {code(text, 10_000)} it is") if token.type == "code_inline"]
    assert piece.content.strip() == one_line(text).strip()


@given(TEXTS)
def test_a_table_cell_stays_one_cell(text: str) -> None:
    table = tokens(f"| a | b |\n|---|---|\n| {cell(text, 10_000)} | end |\n")
    assert [token.type for token in table].count("td_open") == 2


@given(TEXTS)
def test_words_are_only_words(text: str) -> None:
    kinds = {token.type for token in tokens(f"# {words(text)}")}
    assert kinds <= {"heading_open", "inline", "text", "text_special", "heading_close"}


@pytest.mark.parametrize(
    ("rows", "bucket"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9999, "1K<n<10K"), (10**5, "100K<n<1M"), (10**9, "n>1B")],
)
def test_size_buckets(rows: int, bucket: str) -> None:
    assert size_category(rows) == bucket


def test_it_says_what_it_is_and_where_it_comes_from() -> None:
    told = {
        "sides": {"pairs": 9000, "same": 9000, "origins": {"chosen": 9000}, "distance": {"median": 4, "p95": 6}},
        "languages": {"en": 8000, "zh": 900, "und": 90, "fr": 10},
        "token_lengths": {"both": {"min": 300, "median": 812, "p95": 2345, "max": 16001, "histogram": []}},
        "yields": {"source": {f"set-{n}": {"problems": 100, "pairs": 90 - n} for n in range(40)}},
    }
    text = card(MANIFEST | told, [pair(images=(Picture(b"png", "a.png"),))])
    assert "Twins" in text and "not the paper" in text
    assert head(text)["language"] == ["en", "zh"]  # ten of nine thousand may be a mistake
    assert "| `prompt and chosen` | 300 | 812 | 2,345 | 16,001 |" in text
    assert "| `set-0` | 100 | 90 | 90.0% |" in text and "| `10 others` | 1,000 | 555 |" in text
    assert "Problems: `p.jsonl`." in text
    assert "precision 100.0% on 2,203 labelled answers" in text
    assert "author = {Chen, Kun and" in text


def test_a_picture_and_the_recipe_lie_beside_the_card(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    manifest = msgspec.convert(MANIFEST, Manifest)
    text = write_card(tmp_path, manifest, [pair(images=(Picture(content.getvalue(), "a.png"),))])
    assert (tmp_path / "README.md").read_text() == text
    assert "![The picture of the question](pair.png)" in text and "[`recipe.toml`](recipe.toml)" in text
    assert (tmp_path / "pair.png").read_bytes() == content.getvalue()
    recipe = tomllib.loads((tmp_path / "recipe.toml").read_text())
    assert recipe == MANIFEST["recipe"] | {"policy": "grpo-zero", "problems": "p.jsonl"}


@pytest.mark.parametrize("content", [b"no picture", b""])
def test_what_is_no_picture_is_not_shown(tmp_path: Path, content: bytes) -> None:
    text = write_card(tmp_path, Manifest(), [pair(images=(Picture(content, "a.png"),))])
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
    assert "![" not in text


def test_the_paper_s_ablations_are_named() -> None:
    coupled = " ".join(
        f"{line.here} {line.paper}" for line in ablations(Manifest(recipe={"pairing": "coupled", "verifier": "none"}))
    )
    assert "47.67 / 48.68" in coupled
    assert "48.13" in coupled
    assert ablations(Manifest()) == []


def test_an_excerpt_keeps_the_changes_and_drops_the_rest() -> None:
    text = " ".join(f"word{number}" for number in range(200))
    shown = excerpt(difference(f"<think>{text}</think>", f"{text}</think> so"))
    assert shown.startswith("[-<think>-]word0 ")
    assert shown.endswith("word199</think>{+ so+}")
    assert "…" in shown
    assert len(shown) < 200


def test_a_template_of_the_user_s(tmp_path: Path) -> None:
    template = tmp_path / "mine.md.jinja"
    template.write_text("---\n{{ head }}\n---\nOurs: {{ manifest.counts.pairs | n }} {{ example.chosen | fence }}\n")
    assert "Ours: 9,000 ```text" in card(MANIFEST, [pair()], template=str(template))


@pytest.mark.parametrize("body", ["{{ nmae }}", "{% if %}", "{{ ''.__class__.__mro__ }}", "{{ 'x' | nofilter }}"])
def test_a_broken_template_is_one_sentence(tmp_path: Path, body: str) -> None:
    template = tmp_path / "mine.md.jinja"
    template.write_text(body)
    with pytest.raises(UserError, match=r"mine\.md\.jinja"):
        card(MANIFEST, [pair()], template=str(template))


@pytest.mark.slow
def test_trl_knows_every_setting_in_the_snippet() -> None:
    from trl import DPOConfig  # type: ignore[attr-defined, unused-ignore]

    blocks = [token.content for token in tokens(card(MANIFEST, [pair()])) if token.info == "python"]
    (snippet,) = [block for block in blocks if "DPOConfig" in block]
    calls = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
    (config,) = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "DPOConfig"]
    known = {field.name for field in dataclasses.fields(DPOConfig)}
    assert {keyword.arg for keyword in config.keywords} <= known


def test_the_commands_of_other_trainers_find_the_pictures() -> None:
    assert "ROOT_IMAGE_DIR=ms-swift swift rlhf" in card(MANIFEST, [pair()])
