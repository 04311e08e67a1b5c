"""Pairs in the terminal: the question, its picture where the terminal can, both responses, the difference marked.

Every mark is a sign as well as a colour: [-taken away-] and {+put in+} read the same without colour,
in a pipe and in a log.
"""

from __future__ import annotations

import base64
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from specs_data.errors import UserError
from specs_data.files import write_whole
from specs_data.images import image_fault
from specs_data.inert import one_line, visible
from specs_data.pairs.diff import Difference, Op, difference
from specs_data.pairs.rows import open_dataset, try_rows
from specs_data.records import Pair
from specs_data.rollouts.leftout import LeftOut, left_out

Protocol = Literal["kitty", "iterm", "blocks", "none"]

_LOOK_AT = 500  # rows among which different operators are looked for
_WIDE = 110  # columns from which on chosen and rejected stand side by side
_CELLS = 36  # columns of a picture
_PIXELS = 800  # longer side of a picture that is sent to the terminal
_STYLES: dict[Op, str] = {"keep": "", "drop": "bold red", "add": "bold yellow"}
_SIGNS: dict[Op, tuple[str, str]] = {"keep": ("", ""), "drop": ("[-", "-]"), "add": ("{+", "+}")}
# Rich's own frame fetches a font from the network.
_SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px ui-monospace, Menlo, Consolas, monospace; }}
.{unique_id}-title {{ font: 18px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def show(
    path: str | Path,
    count: int = 3,
    *,
    columns: Mapping[str, str] | None = None,
    images: Path | None = None,
    console: Console | None = None,
) -> None:
    """Print `count` pairs of a run or of any preference dataset, of different operators as far as
    there are. `columns` names the dataset's own columns for ours, `images` the folder of the pictures that its
    rows name, if it is not the dataset's own. Raises UserError."""
    console = console or Console()
    for pair in _pick(path, count, columns, images):
        show_pair(pair, console)


def show_left_out(
    path: str | Path, count: int = 3, *, stage: str | None = None, reason: str | None = None,
    console: Console | None = None,
) -> None:  # fmt: skip
    """Print `count` responses that the run at `path` left out, of different reasons as far as there are: problem,
    response, the answer that was found, and what judge and verifier said. Raises UserError."""
    console = console or Console()
    for one in left_out(Path(path), count, stage=stage, reason=reason):
        console.print(_left_panel(one, console))


def _left_panel(one: LeftOut, console: Console) -> Panel:
    pictures = [image for image in one.images if image_fault(image) is None]
    drawn = [_blocks(image) for image in pictures] if _protocol(console) != "none" else []
    about = Table.grid(padding=(0, 3))
    texts = [Text(visible(one.question)), Text()]
    texts += [Text.assemble((f"{name:<9} ", "dim"), (one_line(value, 300), "bold")) for name, value in one.facts()]
    if hidden := len(one.images) - len(drawn):
        texts += [Text(f"{hidden} picture{'s' if hidden > 1 else ''}, not drawn here", "dim")]
    about.add_row(*drawn, Group(*texts))
    title = Text(one_line(f"{one.problem.id}-{one.index} · {one.stage}: {one.reason}", 100), "bold")
    body = Group(about, _side("response", "red", Text(visible(one.response), overflow="fold")))
    return Panel(body, title=title, title_align="left", border_style="dim", padding=(1, 2))


def show_pair(pair: Pair, console: Console) -> None:
    """Print one pair."""
    protocol = _protocol(console)
    pictures = [image.content for image in pair.images if image_fault(image.content) is None]
    if protocol in ("kitty", "iterm"):
        for image in pictures:
            console.file.write(_inline(image, protocol) + "\n")
    drawn = [_blocks(image) for image in pictures] if protocol == "blocks" else []
    console.print(_panel(pair, drawn, console.width))


def save_picture(path: str | Path, out: Path, *, width: int = 100) -> Path:
    """Save what `show` prints of one pair as the SVG file `out`, `width` columns wide. Raises UserError."""
    (pair,) = _pick(path, 1)
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    show_pair(pair, console)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, console.export_svg(title="specs-data show", code_format=_SVG, unique_id="pair").encode())
    return out


def _pick(
    path: str | Path, count: int, columns: Mapping[str, str] | None = None, images: Path | None = None
) -> list[Pair]:
    faults: list[str] = []
    found = _varied(islice(_shown(path, columns, images, faults), max(_LOOK_AT, count)), count)
    if not found:
        raise UserError(f"{path} has no rows that can be shown" + (f": the first {faults[0]}" if faults else ""))
    return found


def _shown(
    path: str | Path, columns: Mapping[str, str] | None, images: Path | None, faults: list[str]
) -> Iterator[Pair]:
    """The rows that can be read; `faults` gets why others cannot."""
    for pair in try_rows(open_dataset(path, images), columns=columns):
        if isinstance(pair, str):
            faults.append(pair)
        else:
            yield pair


def _varied(pairs: Iterable[Pair], count: int) -> list[Pair]:
    """`count` of `pairs`, in order: the first of each kind of corruption, then the first others."""
    first: dict[str, tuple[int, Pair]] = {}
    others: list[tuple[int, Pair]] = []
    for place, pair in enumerate(pairs):
        if pair.kind not in first:
            first[pair.kind] = (place, pair)
        elif len(others) < count:
            others.append((place, pair))
    return [pair for _, pair in sorted([*first.values(), *others][:count], key=lambda item: item[0])]


def _panel(pair: Pair, pictures: list[Text], width: int) -> Panel:
    about = Table.grid(padding=(0, 3))
    texts = [Text(visible(pair.question)), Text()]
    if pair.answer:
        texts += [Text.assemble(("answer  ", "dim"), (one_line(pair.answer), "bold"))]
    if len(pair.images) > len(pictures):
        hidden = len(pair.images) - len(pictures)
        texts += [Text(f"{hidden} picture{'s' if hidden > 1 else ''}, not drawn here", "dim")]
    about.add_row(*pictures, Group(*texts))
    steps = difference(pair.chosen, pair.rejected)
    sides = [_side("chosen", "green", _chosen(steps)), _side("rejected", "red", _rejected(steps))]
    body: list[RenderableType] = [about]
    if width >= _WIDE:
        grid = Table.grid(padding=(0, 3), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(*sides)
        body.append(grid)
    else:
        body += sides
    labels = [pair.id, pair.kind if pair.corruption or pair.rejected_from else "", pair.answer_type]
    if pair.rejected_from and pair.rejected_from != "chosen":
        labels.append(f"rejected from {pair.rejected_from}")
    title = Text(" · ".join(one_line(label, 40) for label in labels if label), "bold")
    return Panel(Group(*body), title=title, title_align="left", border_style="dim", padding=(1, 2))


def _side(name: str, colour: str, text: Text) -> Padding:
    return Padding(Group(Text(name, f"bold {colour}"), text), (1, 0, 0, 0))


def _chosen(steps: Difference) -> Text:
    """The chosen response as it is; what the rejected one lacks is green."""
    text = Text(overflow="fold")
    for op, piece in steps:
        if op != "add":
            text.append(visible(piece), "bold green" if op == "drop" else "")
    return text


def _rejected(steps: Difference) -> Text:
    """The rejected response, with what it lacks and what it adds in signs and colours."""
    text = Text(overflow="fold")
    for op, piece in steps:
        before, after = _SIGNS[op]
        text.append(before + visible(piece) + after, _STYLES[op])
    return text


def _protocol(console: Console) -> Protocol:
    """How this terminal shows pictures."""
    if not console.is_terminal or console.color_system not in ("256", "truecolor"):
        return "none"
    if console.record or "TMUX" in os.environ or "STY" in os.environ:  # multiplexers swallow pictures
        return "blocks"
    program = os.environ.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in os.environ or program == "ghostty":
        return "kitty"
    return "iterm" if program in ("iTerm.app", "WezTerm") else "blocks"


def _inline(image: bytes, protocol: Protocol) -> str:
    """The escape sequence that shows a picture: kitty's graphics protocol, or iTerm2's inline images."""
    file = io.BytesIO()
    _decoded(image, _PIXELS).save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    if protocol == "iterm":
        return f"\x1b]1337;File=inline=1;width={_CELLS};size={len(file.getvalue())}:{data}\a"
    chunks = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    return "".join(_kitty(chunks))


def _kitty(chunks: list[str]) -> Iterator[str]:
    for number, chunk in enumerate(chunks):
        keys = f"a=T,f=100,c={_CELLS}," if number == 0 else ""
        yield f"\x1b_G{keys}m={int(number + 1 < len(chunks))};{chunk}\x1b\\"


def _blocks(image: bytes) -> Text:
    """A picture in half blocks: each character is two pixels, one above the other."""
    picture = _decoded(image, _CELLS)
    width, height = picture.size
    pixels = picture.load()
    if pixels is None:
        raise ValueError("a decoded picture has pixels")
    text = Text(no_wrap=True)
    for row in range(0, height, 2):
        for column in range(width):
            upper, lower = pixels[column, row], pixels[column, min(row + 1, height - 1)]
            text.append("▀", f"{_hex(upper)} on {_hex(lower)}")
        text.append("\n")
    text.rstrip()
    return text


def _hex(pixel: object) -> str:
    red, green, blue = pixel if isinstance(pixel, tuple) else (0, 0, 0)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _decoded(image: bytes, longest: int) -> Image.Image:
    """The picture in RGB, its longer side at most `longest` pixels, transparency on white."""
    with warnings.catch_warnings(), Image.open(io.BytesIO(image)) as picture:
        warnings.simplefilter("ignore")
        picture.draft("RGB", (longest, longest))
        layer = picture.convert("RGBA")
    layer.thumbnail((longest, longest), Image.Resampling.BOX)
    flat = Image.new("RGBA", layer.size, "white")
    flat.alpha_composite(layer)
    return flat.convert("RGB")
