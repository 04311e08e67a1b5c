"""What the report says. That it works in a browser is tested in test_report_browser.py."""

from __future__ import annotations

import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.manifests import FOREIGN
from PIL import Image

from specs_data.errors import UserError
from specs_data.look.report import report as write_report
from specs_data.pairs.parquet import write_shards

CHOSEN = "<think>2 + 3 = 5.</think>\n<answer>\\boxed{5}</answer>"

MANIFEST: dict[str, Any] = {
    "name": "grpo-zero",
    "recipe": {"policy": "ckpt/grpo-zero", "pairing": "decoupled", "corruption": {"a": 1.0, "b": 2.0}},
    "recipe_fingerprint": "ab" * 32,
    "dataset": {"fingerprint": "cd" * 32, "splits": {"train": {"rows": 3}}},
    "counts": {"problems": 40, "sampled": 1000, "right": 500, "well_formed": 400, "verified": 100, "pairs": 3},
    "dropped": {"judge": {"wrong": 100}, "format": {"format: no </think>": 100}},
    "yields": {
        "answer_type": {"numeric": {"problems": 30, "pairs": 3}},
        "source": {"orsta": {"problems": 40, "pairs": 3}},
    },
    "corruptions": {"a": 2, "b": 1},
    "samples_per_pair": {"1": 1, "2": 1, "10": 1},
    "lengths": {
        "chosen": {"min": 40, "median": 80, "p95": 90, "max": 1234, "histogram": [[64, 1], [128, 2]]},
        "rejected": {},
    },
    "verdicts": {"agrees": 100, "concludes something else": 300},
    "tokens": {"generation": {"prompt": 10, "completion": 3000}},
    "cost_usd": {"verification": 1.25, "judging": 0.5},
    "seconds": {"generate": 7200.0, "judge": 30.0},
    "models": {
        "policy": {"name": "grpo-zero"},
        "verification": {"requested": "gemini-x", "served": {"gemini-x-001": 400}},
    },
    "prompts": {"system": {"name": "think-answer", "sha256": "12" * 32}, "verification": None},
    "started": "2026-11-03T10:00:00Z",
}


def row(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": f"row-{number}",
        "images": [],
        "prompt": [{"role": "user", "content": f"Question {number}?"}],
        "chosen": [{"role": "assistant", "content": CHOSEN}],
        "rejected": [{"role": "assistant", "content": "2 + 3 = 5.\nAnswer: \\boxed{5}"}],
        "answer": "5",
        "answer_type": "numeric",
        "corruption": "remove_all_tags",
        "rejected_from": "chosen",
    } | more


class Page(HTMLParser):
    """The page as a reader's program sees it: its texts, its elements and what is marked."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.marked: dict[str, list[str]] = {"mark": [], "del": [], "ins": [], "i": []}
        self._texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "script"):
            return
        self._texts.append(data)
        if self._open and self._open[-1] in self.marked:
            self.marked[self._open[-1]].append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._texts).split())

    def count(self, tag: str, name: str = "") -> int:
        return sum(one == tag and name in [*(attrs.get("class") or "").split(), ""] for one, attrs in self.elements)


def report(folder: Path, rows: list[dict[str, Any]], manifest: Any = None) -> tuple[Page, str]:
    write_shards(rows, folder / "dataset", "train")
    if manifest is not None:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    html = write_report(folder, folder / "new" / "report.html").read_text(encoding="utf-8")
    return Page(html), html


def test_a_yield_of_several_pairs_per_problem_is_no_share_of_problems(tmp_path: Path) -> None:
    yields = {"answer_type": {"text": {"problems": 10, "pairs": 20}, "math": {"problems": 10, "pairs": 15}}}
    page, html = report(tmp_path, [row()], {"name": "a", "yields": yields})
    assert "pairs per problem" in page.text and "gave a pair" not in page.text
    assert "200% 20 from 10" in page.text and "150% 15 from 10" in page.text
    assert {"100.00", "75.00"} <= {*re.findall(r'<rect width="([\d.]+)"', html)}


def test_the_manifest_s_figures_are_on_the_page(tmp_path: Path) -> None:
    page, _ = report(tmp_path, [row(number) for number in range(3)], MANIFEST)
    for expected in (
        "40 problems",
        "1,000",
        "60% of these",
        "83% of these",
        "10% 3 from 30",
        "orsta",
        "format: no </think>",
        "concludes something else",
        "gemini-x-001 (400)",
        "think-answer 121212121212",
        "$1.75",
        "2.0 h",
        "≤64",
        "1,234",
        "a = 1.0, b = 2.0",
        "responses per pair 600 in all 200.0",
        "2026-11-03T10:00:00Z",
        "All 3.",
    ):
        assert expected in page.text, expected


def test_what_the_dataset_is_stands_on_the_page(tmp_path: Path) -> None:
    told = "both sides say the same in 1 of 2 rows"
    other = row(1, rejected=[{"role": "assistant", "content": "I see five: \\boxed{5}"}], rejected_from="base")
    for name, manifest in (("none", None), ("ours", MANIFEST)):  # one from before it was in the manifest
        write_shards([row(0), other], tmp_path / name, "train")
        if manifest:
            (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        page = write_report(tmp_path / name).read_text()
        assert told in page and "a right answer of base in 1 of 2 rows" in page
    sides = {"pairs": 2, "same": 2, "origins": {"chosen": 2}, "distance": {"median": 4, "histogram": [[4, 2]]}}
    (tmp_path / "ours" / "manifest.json").write_text(json.dumps(MANIFEST | {"sides": sides}))
    assert "both sides say the same in 2 of 2 rows" in write_report(tmp_path / "ours").read_text()


@pytest.mark.parametrize("manifest", FOREIGN)
def test_somebody_else_s_manifest_is_as_none(tmp_path: Path, manifest: Any) -> None:
    _, html = report(tmp_path, [row()])
    assert report(tmp_path, [row()], manifest)[1] == html


def test_a_dataset_without_a_manifest_is_counted(tmp_path: Path) -> None:
    rows = [row(0), row(1, corruption=None, answer_type="math"), row(2)]
    page, _ = report(tmp_path, rows)
    assert "remove_all_tags 2 67%" in page.text
    assert "none 1 33%" in page.text
    assert "math 1 33%" in page.text
    assert f"chosen {len(CHOSEN)} {len(CHOSEN)}" in page.text
    assert "From responses to pairs" not in page.text


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    good = '{"prompt": "q", "chosen": "a", "rejected": "b"}\n'
    file = tmp_path / "pairs.jsonl"
    file.write_text(f'{good}{{"prompt": "q", "chosen": null, "rejected": "b"}}\n[]\n{good}')
    page = Page(write_report(file, tmp_path / "r.html").read_text())
    assert page.count("article") == 2 and "All 2." in page.text
    assert "Rows that cannot be read, and are not shown: 2; the first has no 'chosen'." in page.text
    file.write_text("[]\n")
    with pytest.raises(UserError, match="no rows that can be shown: the first is not a JSON object"):
        write_report(file, tmp_path / "r.html")


def test_foreign_jsonl_without_provenance(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "2 + 3?", "chosen": "<a>5</a>", "rejected": "5"}) + "\n")
    page = Page(write_report(file, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.marked["mark"] == ["<a>", "</a>"]
    assert "2 + 3?" in page.text


def test_the_difference_is_marked_on_both_sides(tmp_path: Path) -> None:
    page, _ = report(tmp_path, [row()])
    assert page.marked["mark"] == ["<think>", "</think>", "<answer>", "</answer>"]
    assert page.marked["del"] == page.marked["mark"]
    assert page.marked["ins"] == ["Answer: "]


def test_many_pairs_are_sampled_evenly_and_said_to_be(tmp_path: Path) -> None:
    page, _ = report(tmp_path, [row(number) for number in range(1000)], MANIFEST)
    shown = [int(number) for number in re.findall(r"Question (\d+)\?", page.text)]
    assert shown == list(range(0, 1000, 5))
    assert "200 of 1,000, evenly spread" in page.text


def test_the_page_stays_small_whatever_the_dataset(tmp_path: Path) -> None:
    noise = Image.effect_noise((2000, 1000), 90).convert("RGB")
    file = io.BytesIO()
    noise.save(file, "jpeg")
    words = " ".join(random.Random(0).choices(["so", "then", "five"], k=20_000))
    long = row(
        chosen=[{"role": "assistant", "content": f"<think>{words}</think>\n<answer>5</answer>"}],
        rejected=[{"role": "assistant", "content": f"{words}\n5"}],
        images=[{"bytes": file.getvalue(), "path": "a.jpg"}] * 9,
    )
    page, html = report(tmp_path, [long])
    assert page.count("img") == 4
    assert len(html) < 600_000
    assert page.marked["mark"][0] == "<think>"
    assert re.fullmatch(r"[\d,]+ characters", page.marked["i"][0])


def test_pictures_are_new_pixels_and_broken_ones_are_left_out(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (30, 20), (255, 0, 0, 9)).save(file, "png", pnginfo=None)
    secret = file.getvalue() + b"hidden after the end"
    broken = b"\x89PNG\r\n\x1a\n<svg onload=alert(1)>"
    page, _ = report(tmp_path, [row(images=[{"bytes": secret, "path": "a"}, {"bytes": broken, "path": "b"}])])
    sources = [attrs["src"] for tag, attrs in page.elements if tag == "img"]
    assert len(sources) == 1
    assert str(sources[0]).startswith("data:image/webp;base64,")
    assert "hidden" not in page.text


def test_nothing_but_its_own_style_and_script(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x1b"
    hostile = row(
        id=bad,
        answer=bad,
        answer_type=bad,
        corruption=bad,
        rejected_from=bad,
        prompt=[{"role": "user", "content": bad}],
        chosen=[{"role": "assistant", "content": bad}],
        rejected=[{"role": "assistant", "content": "x" + bad}],
    )
    page, html = report(
        tmp_path, [hostile], {"name": bad, "verdicts": {bad: 1}, "dropped": {bad: {bad: 1}}, "recipe": {bad: bad}}
    )
    assert (page.count("script"), page.count("style"), page.count("img")) == (1, 1, 0)
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") or name == "style" for name in attrs)]
    assert not {"\x1b", "\u202e"} & set(re.sub(r'(value|data-\w+)="[^"]*"', "", html))
    policy = next(attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in str(policy)


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    assert report(tmp_path, [row()], MANIFEST)[1] == report(tmp_path, [row()], MANIFEST)[1]


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    write_shards([row()], tmp_path, "train")
    with pytest.raises(UserError, match="cannot write the report"):
        write_report(tmp_path, tmp_path)


def test_a_pass_rate_that_is_none_is_in_no_chart(tmp_path: Path) -> None:
    file = tmp_path / "theirs.parquet"
    rates = [0.25, float("nan"), -1.0, 50.0]
    pq.write_table(pa.Table.from_pylist([row(n, pass_rate=rate) for n, rate in enumerate(rates)]), file)
    html = write_report(file, tmp_path / "page.html").read_text()
    assert "20-30%" in html and "90-100%" not in html
