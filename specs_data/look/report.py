"""The report: one HTML file that shows where the pairs come from, and lets you look at them.

The plots are SVG shapes written by the template rather than by matplotlib: they follow the reader's
light or dark theme and screen width, their labels are text that can be found and copied, and the
report needs nothing that is not installed.

The page needs no network and allows none: its policy admits its own style and script, by their
hashes, and pictures inside the file. Whatever a model wrote is escaped text.
"""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from specs_data.errors import UserError
from specs_data.files import write_whole
from specs_data.images import image_fault
from specs_data.inert import one_line, visible
from specs_data.pairs.diff import Difference, Op, difference
from specs_data.pairs.manifest import Counts, Lengths, Manifest, Yield, Yields, describe_lengths, funnel
from specs_data.pairs.rows import Dataset, count_rows, open_dataset, rows
from specs_data.records import Pair
from specs_data.texts import load_card

_PAIRS = 200  # pairs on the page, however large the dataset
_PICTURES = 4  # pictures of one pair
_PIXELS = 480  # longer side of a picture
_CHARACTERS = 12_000  # of one side of a pair
_UNCHANGED = 4_000  # characters of one unchanged stretch
_REASONS = 12  # bars in a chart of free-text labels

_DROPS = {
    "input": "unusable problem",
    "responses": "unusable response",
    "sample": "not sampled",
    "judge": "answer",
    "format": "format",
    "verify": "reasoning",
    "pair": "no pair",
    "corruption": "refused corruption",
    "rejected": "rejected side",
}


class Bar(Struct, frozen=True):
    """One line of a bar chart. `width` is a share of the chart's, 0 to 1; `note` stands at the end of the line."""

    label: str
    width: float
    value: str
    note: str = ""


class Chart(Struct, frozen=True):
    """Horizontal bars under a title. `rest` says what was left out."""

    title: str
    about: str
    bars: tuple[Bar, ...]
    rest: str = ""


class Column(Struct, frozen=True):
    """One column of a histogram: a height (share of the tallest) and a count for each series."""

    label: str
    heights: tuple[float, ...]
    counts: tuple[int, ...]


class Piece(Struct, frozen=True):
    """A stretch of one side of a pair; `op` "cut" stands for text that is not shown."""

    op: Op | str
    text: str


class Shown(Struct, frozen=True):
    """A pair on the page. `pictures` are data: URLs."""

    pair: Pair
    pictures: tuple[str, ...]
    chosen: tuple[Piece, ...]
    rejected: tuple[Piece, ...]


def report(path: str | Path, out: str | Path | None = None, images: Path | None = None) -> Path:
    """Write the report of a run or of any preference dataset to the HTML file `out`, and return it. By default it
    is report.html in the run's or the dataset's folder, or here where it has none.

    `images` is the folder of the pictures that rows name, if it is not the dataset's own.

    Without a manifest the page shows what can be counted from the rows. At most 200 pairs, evenly spread, are
    on it. Raises UserError.
    """
    page = render_report(open_dataset(path, images))
    out = Path(out or (Path(path) if Path(path).is_dir() else Path()) / "report.html")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page.encode())
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error.strerror}") from None
    return out


def render_report(dataset: Dataset) -> str:
    """The report as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"n": "{:,}".format, "visible": visible, "line": one_line, "csp": _csp_hash}
    sizes = count_rows(dataset)
    total = sum(sizes.values())
    shown, counted, types = _read(dataset, total)
    manifest = dataset.manifest or counted
    return environment.from_string(load_card("report").body).render(
        name=one_line(manifest.name or dataset.root.resolve().name),
        sizes=sizes,
        total=total,
        tiles=_tiles(manifest, total),
        facts=_facts(manifest),
        problems=manifest.counts and manifest.counts.problems,
        funnel=_funnel(manifest),
        charts=[chart for chart in _charts(manifest, types) if chart.bars],
        samples=_columns([(name, (count,)) for name, count in _in_order(manifest.samples_per_pair or {})]),
        lengths=_lengths(manifest.lengths or {}),
        length_table={side: lengths for side, lengths in (manifest.lengths or {}).items() if lengths.max},
        recipe={key: _told(value) for key, value in (manifest.recipe or {}).items() if value not in (None, {}, [])},
        versions=manifest.versions or {},
        pairs=shown,
        kinds=Counter(one.pair.kind for one in shown).most_common(),
        types=Counter(one.pair.answer_type or "not stated" for one in shown).most_common(),
    )


def _csp_hash(text: str) -> str:
    """The source expression that admits exactly this inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# The pairs.


def _read(dataset: Dataset, total: int) -> tuple[list[Shown], Manifest, Counter[str]]:
    """The pairs to show; and where there is no manifest, what all rows tell of one, and their answer types."""
    wanted = {number * total // _PAIRS for number in range(_PAIRS)} if total > _PAIRS else set(range(total))
    kinds: Counter[str] = Counter()
    types: Counter[str] = Counter()
    chosen: list[int] = []
    rejected: list[int] = []
    shown = []
    for number, pair in enumerate(rows(dataset)):
        if number in wanted:
            shown.append(_show(pair))
        if dataset.manifest is None:
            kinds[pair.kind] += 1
            types[pair.answer_type or "not stated"] += 1
            chosen.append(len(pair.chosen))
            rejected.append(len(pair.rejected))
    lengths = {"chosen": describe_lengths(chosen), "rejected": describe_lengths(rejected)}
    return shown, Manifest(corruptions=kinds, lengths=lengths), types


def _show(pair: Pair) -> Shown:
    pictures = tuple(filter(None, (_thumbnail(image.content) for image in pair.images[:_PICTURES])))
    steps = difference(pair.chosen, pair.rejected)
    return Shown(pair, pictures, tuple(_pieces(steps, "drop")), tuple(_pieces(steps, "add")))


def _pieces(difference: Difference, own: Op) -> Iterator[Piece]:
    """One side of a pair; what only the other side has is left out of chosen, and struck out in rejected."""
    left = _CHARACTERS
    for op, text in difference:
        if own == "drop" and op == "add":
            continue
        limit = min(left, _UNCHANGED if op == "keep" else left)
        if len(text) <= limit:
            yield Piece(op, visible(text))
        else:
            half = limit // 2
            yield Piece(op, visible(text[:half]))
            yield Piece("cut", f"{len(text) - 2 * half:,} characters")
            yield Piece(op, visible(text[len(text) - half :]))
        left -= min(len(text), limit)
        if left <= 0:
            return


def _thumbnail(image: bytes) -> str | None:
    """A picture as a data: URL, decoded and encoded anew so that only pixels are left; None if it is broken."""
    if image_fault(image) is not None:
        return None
    from PIL import Image

    with warnings.catch_warnings(), Image.open(io.BytesIO(image)) as picture:
        warnings.simplefilter("ignore")
        picture.draft("RGB", (_PIXELS, _PIXELS))
        small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
        small.thumbnail((_PIXELS, _PIXELS))
        file = io.BytesIO()
        small.save(file, "webp", quality=80, lossless=max(picture.size) <= 128)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


# The figures.


def _tiles(manifest: Manifest, total: int) -> list[tuple[str, str, str]]:
    """(figure, what it is, a word more)."""
    tiles = [(f"{total:,}", "pairs", "")]
    counts, yields, tokens = manifest.counts or Counts(), manifest.yields or Yields(), manifest.tokens or {}
    problems = counts.problems or sum(line.problems for line in yields.answer_type.values())
    if problems:
        tiles.append((f"{total / problems:.0%}", "pairs per problem", f"{problems:,} problems"))
    looked_at = next((stage.count for stage in funnel(manifest) if stage.name == "judged"), counts.sampled)
    if looked_at and total:
        tiles.append((f"{looked_at / total:.1f}", "responses per pair", f"{looked_at:,} in all"))
    written = tokens["generation"].completion if "generation" in tokens else 0
    if written and total:
        tiles.append((f"{written / total:,.0f}", "tokens written per pair", f"{written:,} in all"))
    if manifest.cost_usd:
        tiles.append((f"${sum(manifest.cost_usd.values()):,.2f}", "for judging services", ""))
    return tiles


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What stands under the title."""
    facts = []
    for role, model in (manifest.models or {}).items():
        if model:
            facts.append((role, model.asked))
            facts += [(f"{role}, served", f"{name} ({count:,})") for name, count in (model.served or {}).items()]
    for name, prompt in (manifest.prompts or {}).items():
        if prompt:
            facts.append((f"{name} prompt", f"{prompt.name} {prompt.sha256[:12]}"))
    facts += [("started", manifest.started or ""), ("finished", manifest.finished or "")]
    facts += [("recipe", manifest.recipe_fingerprint[:16]), ("content", manifest.dataset.fingerprint[:16])]
    return [(key, one_line(value, 120)) for key, value in facts if value]


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_told(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_told, value))
    return str(value)


def _funnel(manifest: Manifest) -> list[Bar]:
    stages = funnel(manifest)
    most = max((stage.count for stage in stages), default=0) or 1
    return [
        Bar(
            stage.name,
            stage.count / most,
            f"{stage.count:,}",
            "" if stage.share is None else f"{stage.share:.0%} of these",
        )
        for stage in stages
    ]


def _charts(manifest: Manifest, types: Mapping[str, int]) -> Iterator[Chart]:
    yields = manifest.yields or Yields()
    yield _shares("Yield by answer type", "problems that gave a pair", yields.answer_type)
    yield _shares("Yield by source", "problems that gave a pair", yields.source)
    yield _counts("Answer types", "pairs", types)
    yield _counts("Corruption operators", "pairs whose rejected side each made", manifest.corruptions or {})
    dropped = {
        f"{_DROPS.get(stage, stage)}: {reason}": count
        for stage, reasons in (manifest.dropped or {}).items()
        for reason, count in reasons.items()
    }
    yield _counts("Left out", "responses and problems, by stage and reason", dropped)
    yield _counts("Verdicts", "what the verifier said of the reasoning", manifest.verdicts or {})
    yield _seconds(manifest.seconds or {})


def _shares(title: str, about: str, lines: Mapping[str, Yield]) -> Chart:
    ordered = sorted(lines.items(), key=lambda line: (-line[1].problems, line[0]))
    bars = []
    for name, line in ordered[:_REASONS]:
        share = line.pairs / line.problems if line.problems else 0.0
        bars.append(Bar(_label(name), min(1.0, share), f"{share:.0%}", f"{line.pairs:,} of {line.problems:,}"))
    return Chart(title, about, tuple(bars), _rest([line.problems for _, line in ordered[_REASONS:]], "problems"))


def _counts(title: str, about: str, lines: Mapping[str, int]) -> Chart:
    ordered = sorted(lines.items(), key=lambda line: (-line[1], line[0]))
    total, most = sum(lines.values()), max(lines.values(), default=0) or 1
    bars = tuple(
        Bar(_label(name), count / most, f"{count:,}", f"{count / total:.0%}" if total else "")
        for name, count in ordered[:_REASONS]
    )
    return Chart(title, about, bars, _rest([count for _, count in ordered[_REASONS:]], "in all"))


def _seconds(seconds: Mapping[str, float]) -> Chart:
    most = max(seconds.values(), default=0) or 1
    bars = tuple(Bar(_label(stage), spent / most, _duration(spent)) for stage, spent in seconds.items())
    return Chart("Time", "by stage; stages run side by side", bars)


def _label(name: str) -> str:
    return one_line(name, 80) or "not stated"


def _rest(counts: Sequence[int], of: str) -> str:
    return f"and {len(counts):,} more ({sum(counts):,} {of})" if counts else ""


def _in_order(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (len(item[0]), item[0]))


def _lengths(lengths: Mapping[str, Lengths]) -> list[Column]:
    """Columns with a series for chosen and one for rejected."""
    series = [dict(lengths[side].histogram) if side in lengths else {} for side in ("chosen", "rejected")]
    bounds = sorted(set().union(*series))
    return _columns([(f"≤{_short(bound)}", tuple(line.get(bound, 0) for line in series)) for bound in bounds])


def _short(number: float) -> str:
    return f"{number:,}" if number < 10_000 else f"{number / 1000:.0f}k"


def _columns(lines: Sequence[tuple[str, tuple[int, ...]]]) -> list[Column]:
    most = max((count for _, counts in lines for count in counts), default=0) or 1
    return [Column(one_line(name, 12), tuple(count / most for count in counts), counts) for name, counts in lines]
