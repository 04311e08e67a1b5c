"""The report in a real browser: it works, asks for nothing, and nothing in it runs but its own script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.browser import CHROMIUM, Page, browser

from specs_data.look.report import report as write_report
from specs_data.mini.world import draw, picture
from specs_data.pairs.parquet import write_shards

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

HOSTILE = [
    "<script>window.owned = 1</script>",
    "</script><script>window.owned = 2</script>",
    "<img src=x onerror='window.owned = 3'><svg onload='window.owned = 4'>",
    "</div></article><style>* { display: none }</style><base href='https://example.invalid/'>",
    "{{ 7 * 7 }} {% raw %} \u202edesrever\x1b[2J\x00",
    "<a href='javascript:window.owned = 5'>press</a><iframe src='https://example.invalid/'></iframe>",
]
CHOSEN = "<think>1 + 1 = 2.</think>\n<answer>\\boxed{2}</answer>"


def said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def make_run(folder: Path, count: int) -> Path:
    """A run with pictures; the operators take turns, and hostile texts stand in every place."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        bad = HOSTILE[number % len(HOSTILE)]
        rows.append(
            {
                "id": f"{number}{bad}",
                "images": [{"bytes": picture(draw(1, number).things), "path": "a.png"}] if number % 3 else [],
                "prompt": said("system", bad) + said("user", f"Problem {number}: {bad}"),
                "chosen": said("assistant", CHOSEN.replace("1 + 1", f"1 + 1 {bad}")),
                "rejected": said("assistant", f"1 + 1 {bad} = 2.\n\\boxed{{2}}"),
                "problem_id": bad,
                "answer": f"2 {bad}",
                "answer_type": ("numeric", "math")[number % 2],
                "corruption": ("remove_all_tags", "shift_tags", f'"><x {HOSTILE[0]}', None)[number % 4],
                "rejected_from": bad,
                "policy": bad,
                "verifier": bad,
            }
        )
    write_shards(rows, folder / "dataset", "train")
    manifest = {
        "name": HOSTILE[0],
        "recipe": {HOSTILE[2]: HOSTILE[1]},
        "counts": {"problems": 2 * count, "sampled": 5 * count, "right": 3 * count, "pairs": count},
        "dropped": {HOSTILE[0]: dict.fromkeys(HOSTILE, 3)},
        "verdicts": dict.fromkeys(HOSTILE, 2),
        "models": {"policy": {"name": HOSTILE[3]}, "verification": {"requested": "a", "served": {HOSTILE[2]: 4}}},
        "samples_per_pair": {"1": count},
        "lengths": {"chosen": {"min": 1, "median": 2, "p95": 3, "max": 4, "histogram": [[64, 3], [128, 9]]}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


async def choose(page: Page, field: str, value: str) -> None:
    await page.ask(
        f"(() => {{ const f = document.getElementById({json.dumps(field)}); f.value = {json.dumps(value)}; "
        "f.dispatchEvent(new Event('input')); })()"
    )


async def shown(page: Page) -> int:
    return int(await page.ask("document.querySelectorAll('.pair:not([hidden])').length"))


async def test_the_report_in_chromium(tmp_path: Path) -> None:
    report = write_report(make_run(tmp_path / "run", 48), tmp_path / "report.html")
    async with browser(tmp_path / "profile") as page:
        await page.open(report)

        # Nothing that came from data runs, loads or becomes an element.
        assert await page.ask("window.owned === undefined")
        assert await page.ask("document.querySelectorAll('script').length") == 1
        assert (
            await page.ask("document.querySelectorAll('main iframe, main base, main style, main a, main x').length")
            == 0
        )
        assert await page.ask("[...document.images].every((image) => image.src.startsWith('data:image/webp'))")
        assert await page.ask(
            "document.images.length > 0 && [...document.images].every((image) => image.naturalWidth > 0)"
        )
        assert await page.ask("document.body.innerText.includes('{{ 7 * 7 }}')")
        assert await page.ask("document.body.innerText.includes('⟨U+202E⟩desrever␛[2J␀')")

        # Filters and paging.
        assert await shown(page) == 20
        await page.ask("document.getElementById('more').click()")
        assert await shown(page) == 40
        await choose(page, "kind", "shift_tags")
        assert await shown(page) == 12
        assert await page.ask("document.getElementById('count').textContent") == "12 of 48 pairs"
        assert await page.ask("document.getElementById('more').hidden")
        await choose(page, "type", "numeric")
        assert await shown(page) == 0
        assert not await page.ask("document.getElementById('none').hidden")
        await choose(page, "kind", "")
        await choose(page, "words", "PROBLEM 46:")
        assert await shown(page) == 1
        await choose(page, "type", "math")
        assert await shown(page) == 0

        # A picture grows and shrinks.
        await choose(page, "type", "")
        await page.ask("document.querySelector('.pair:not([hidden]) .zoom').click()")
        assert await page.ask("document.querySelectorAll('.zoomed').length") == 1

        assert page.complaints == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


READY = "document.documentElement.dataset.ready === 'yes'"
AT = "document.activeElement.dataset.place"
# What would go to the clipboard and to the downloads, kept for the test.
CATCH = """
navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); };
URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return "#"; };
"""


async def test_keys_links_copying_and_striking_out(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    report = write_report(make_run(tmp_path / "run", 260), tmp_path / "report.html")
    async with browser(tmp_path / "profile") as page:
        await page.open(report)
        await page.settle(READY)
        await page.ask(CATCH)

        # All pairs are searched, and not only those that stand in the page as elements.
        assert await page.ask("document.getElementById('count').textContent") == "260 pairs"
        for number in range(0, 260, 13):
            await choose(page, "words", f"problem {number}:")
            assert await shown(page) == 1
        await choose(page, "words", "")

        # j and k go from pair to pair, / to the search, whose own letters are no commands.
        for key, place in (("j", "0"), ("j", "1"), ("j", "2"), ("k", "1")):
            await page.press(key)
            assert await page.ask(AT) == place
        await page.press("/")
        assert await page.ask("document.activeElement.id") == "words"
        for key in "jx":
            await page.press(key)
        assert await page.ask("document.getElementById('words').value") == "jx"
        assert await page.ask("document.querySelectorAll('.is-struck').length") == 0
        await choose(page, "words", "")
        await page.press("Escape")

        # A pair is struck out by its key or its button; the ids are what the next build reads.
        first, second = await page.ask(
            "[...document.querySelectorAll('.pair')].slice(0, 2).map((card) => card.dataset.id)"
        )
        await page.ask("document.querySelectorAll('.pair')[1].querySelector('.strike').click()")
        await page.press("j")
        await page.press("k")
        await page.press("k")
        await page.press("x")
        assert await page.ask("document.querySelectorAll('.is-struck').length") == 2
        assert await page.ask("document.getElementById('struck').textContent") == "struck.txt (2)"
        await page.ask("document.getElementById('struck').click()")
        assert (await page.settle("window.saved")).splitlines() == [second, first]
        await page.press("x")
        assert await page.ask("document.querySelectorAll('.is-struck').length") == 1

        # The sides are copied as they are, without what only the page shows.
        for side, text in (
            ("chosen", CHOSEN.replace("1 + 1", f"1 + 1 {HOSTILE[0]}")),
            ("rejected", f"1 + 1 {HOSTILE[0]} = 2.\n\\boxed{{2}}"),
        ):
            await page.ask(f"document.querySelector('.pair .is-{side} .copy').click()")
            assert (await page.settle("window.copied")).strip() == text
            await page.ask("window.copied = ''")

        # The link to a pair opens it, also one that is packed.
        place = 259
        await choose(page, "words", f"problem {place}:")
        await page.ask("document.querySelector('.pair .link').click()")
        link = await page.settle("window.copied")
        await choose(page, "words", "")
        await page.ask("location.hash = ''")
        await page.ask(f"location.hash = {json.dumps(link.partition('#')[2])}")
        await page.settle(f"{AT} === '{place}'")
        assert page.complaints == []


async def test_nothing_runs_over_the_edge_and_dark_is_dark(tmp_path: Path) -> None:
    report = write_report(make_run(tmp_path / "run", 24), tmp_path / "report.html")
    colours = set()
    async with browser(tmp_path / "profile") as page:
        for width, dark in ((360, False), (800, True), (1280, False)):
            await page.open(report, width=width, dark=dark)
            assert await page.ask("document.documentElement.scrollWidth") <= width
            colours.add((dark, await page.ask("getComputedStyle(document.body).backgroundColor")))
        assert len(colours) == 2
        assert page.complaints == []


async def test_the_policy_stops_a_script_that_got_in(tmp_path: Path) -> None:
    """The second line of defence: were escaping to fail, the browser would still run nothing."""
    report = write_report(make_run(tmp_path / "run", 4), tmp_path / "report.html")
    page_text = report.read_text()
    report.write_text(
        page_text.replace("</main>", "<script>window.owned = 1</script><img src=x onerror='owned = 2'></main>")
    )
    async with browser(tmp_path / "profile") as page:
        await page.open(report)
        assert await page.ask("window.owned === undefined")
        assert any("Content Security Policy" in complaint for complaint in page.complaints)
