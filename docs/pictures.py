"""The README's pictures, made from a run: docs/report.png (with headless Chromium) and docs/pair.svg.

python docs/pictures.py runs/demo
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from PIL import Image

from specs_data.look.report import report as write_report
from specs_data.look.show import save_picture

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from fakes.browser import browser  # noqa: E402

# The report on a desk and, dark and at its pairs, on a phone.
FRAME = """<!doctype html><style>
body { margin: 0; background: #dcdad4; }
img { position: absolute; object-fit: cover; object-position: top; box-sizing: border-box; }
#desk { left: 36px; top: 36px; width: 1180px; height: 968px; border-radius: 10px; border: 1px solid #c9c6be; }
#phone { right: 36px; top: 90px; width: 390px; height: 860px; border-radius: 34px; border: 8px solid #111; }
</style><img id="desk" src="desk.png"><img id="phone" src="phone.png">"""


async def main(run: str) -> None:
    save_picture(run, DOCS / "pair.svg")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = write_report(run, folder / "report.html")
        (folder / "frame.html").write_text(FRAME)
        async with browser(folder / "profile") as page:
            await page.open(report, width=1180, height=960)
            await page.screenshot(folder / "desk.png")
            await page.open(report, width=390, height=860, dark=True)
            await page.ask("document.querySelector('.pair').scrollIntoView()")
            await page.screenshot(folder / "phone.png")
            await page.open(folder / "frame.html", width=1680, height=1040)
            await page.screenshot(folder / "both.png")
        with Image.open(folder / "both.png") as picture:
            picture.convert("RGB").save(DOCS / "report.png", optimize=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
