"""The report: one HTML file that shows where the pairs come from, and lets you look at them.

The plots are SVG shapes written by the template rather than by matplotlib: they follow the reader's
light or dark theme and screen width, their labels are text that can be found and copied, and the
report needs nothing that is not installed.

The page needs no network and allows none: its policy admits its own style and script, by their
hashes, and pictures inside the file. Whatever a model wrote is escaped text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from specs_data.errors import UserError
from specs_data.files import write_whole
from specs_data.format import THINK_ANSWER
from specs_data.images import image_fault
from specs_data.inert import one_line, visible
from specs_data.pairs.diff import Difference, Op, difference
from specs_data.pairs.manifest import Counts, Lengths, Manifest, Sides, Yield, Yields, describe_lengths, funnel
from specs_data.pairs.rows import Dataset, count_rows, open_dataset, try_rows
from specs_data.pairs.sides import SidesTally, format_of, what_it_is
from specs_data.records import Pair
from specs_data.rollouts.frames import FATES, read_fates, store_of
from specs_data.rollouts.leftout import NothingLeftOut, left_out
from specs_data.rollouts.plan import pair_id, read_struck
from specs_data.texts import load_card

logger = logging.getLogger(__name__)

_PAIRS = 200  # pairs that stand in the page as elements, however large the dataset
_MOST = 20_000  # pairs of which the others are packed in it
_PACK = 250  # pairs that are compressed together
_LEFT = 60  # responses that were left out
_AROUND = 240  # characters, and lines, of an unchanged stretch that stay beside a change
_LINES = 3
_WORTH_FOLDING = 200
_PICTURES = 4  # pictures of one pair
_PIXELS = 480  # longer side of a picture
_LEAST_PIXELS = 160  # of one among thousands
_CHARACTERS = 12_000  # of one side of a pair
_UNCHANGED = 4_000  # characters of one unchanged stretch
_REASONS = 12  # bars in a chart of free-text labels

_DROPS = {
    "input": "unusable problem",
    "responses": "unusable response",
    "sample": "not sampled",
    "judge": "answer",
    "format": "format",
    "difficulty": "difficulty",
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
    """A stretch of one side of a pair; `op` "cut" stands for text that is not shown, "fold" for `parts` that
    are shown on demand."""

    op: Op | str
    text: str
    parts: tuple[Piece, ...] = ()


class Shown(Struct, frozen=True):
    """A pair on the page, and its place in the dataset. `pictures` are data: URLs; `source` and `tokens` (of the chosen
    response) are what the run knows of it."""

    place: int
    pair: Pair
    source: str
    tokens: int | None
    pictures: tuple[str, ...]
    chosen: tuple[Piece, ...]
    rejected: tuple[Piece, ...]


def report(
    path: str | Path,
    out: str | Path | None = None,
    images: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of a run or of any preference dataset to the HTML file `out`, and return it. By default it
    is report.html in the run's or the dataset's folder, or here where it has none.

    `images` is the folder of the pictures that rows name, if it is not the dataset's own, and
    `columns` names the dataset's own columns for ours.

    Without a manifest the page shows what can be counted from the rows. All pairs are on it, 20,000
    at most: the first 200, evenly spread, as elements, and the others compressed. Rows that cannot be read are counted
    there. Raises UserError.
    """
    page = render_report(open_dataset(path, images), columns)
    out = Path(out or (Path(path) if Path(path).is_dir() else Path()) / "report.html")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page.encode())
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error.strerror}") from None
    return out


def render_report(dataset: Dataset, columns: Mapping[str, str] | None = None) -> str:
    """The report as HTML."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: load_card(name).body),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"n": "{:,}".format, "visible": visible, "line": one_line, "csp": _csp_hash}
    sizes = count_rows(dataset)
    total = sum(sizes.values())
    one = environment.get_template("pair")
    read = _read(dataset, columns, total, lambda pair: one.render(shown=pair))
    total -= read.unread
    if read.unread and not total:
        raise UserError(f"{dataset.root} has no rows that can be shown: the first {read.fault}")
    manifest = dataset.manifest or read.counted()
    if manifest.sides is None:
        manifest = msgspec.structs.replace(manifest, sides=read.sides)
    return environment.get_template("report").render(
        name=one_line(manifest.name or dataset.root.resolve().name),
        sizes=sizes,
        total=total,
        tiles=_tiles(manifest, total),
        facts=_facts(manifest),
        what=[*what_it_is(manifest), *_unread(read)],
        problems=manifest.counts and manifest.counts.problems,
        funnel=_funnel(manifest),
        charts=[chart for chart in _charts(manifest, read, dataset.manifest is None) if chart.bars],
        samples=_columns([(name, (count,)) for name, count in _in_order(manifest.samples_per_pair or {})]),
        lengths=_lengths(manifest.lengths or {}),
        length_table={side: lengths for side, lengths in (manifest.lengths or {}).items() if lengths.max},
        recipe={key: _told(value) for key, value in (manifest.recipe or {}).items() if value not in (None, {}, [])},
        versions=manifest.versions or {},
        pairs=read.shown,
        packs=read.packs,
        kinds=read.kinds.most_common(),
        types=read.types.most_common(),
        sources=read.sources.most_common(),
        struck=json.dumps(sorted(read_struck(_run_of(dataset) / "struck.txt"))),
        left=list(_left_out(_run_of(dataset))),
    )


def _csp_hash(text: str) -> str:
    """The source expression that admits exactly this inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# The pairs.


class _Known(Struct, frozen=True):
    source: str
    tokens: int | None


class _Read(Struct):
    """The pairs of a dataset: those that stand in the page, those that are packed, and what all rows tell."""

    shown: list[Shown] = []
    packs: list[str] = []
    kinds: Counter[str] = msgspec.field(default_factory=Counter)
    types: Counter[str] = msgspec.field(default_factory=Counter)
    sources: Counter[str] = msgspec.field(default_factory=Counter)
    rates: Counter[float] = msgspec.field(default_factory=Counter)
    unread: int = 0
    fault: str = ""  # of the first of them
    blind: Counter[bool] = msgspec.field(default_factory=Counter)
    chosen: list[int] = []
    rejected: list[int] = []
    sides: Sides | None = None

    def counted(self) -> Manifest:
        """What can be told of a dataset without a manifest."""
        lengths = {"chosen": describe_lengths(self.chosen), "rejected": describe_lengths(self.rejected)}
        return Manifest(corruptions=self.kinds, lengths=lengths)


def _read(dataset: Dataset, columns: Mapping[str, str] | None, total: int, render: Callable[[Shown], str]) -> _Read:
    """All pairs that the page shows: so many stand in it as elements, evenly spread, and the others packed."""
    inline = set(_spread(total, _PAIRS))
    wanted = inline | set(_spread(total, _MOST))
    known, found, loose = _known(_run_of(dataset)), _Read(), []
    told = dataset.manifest or Manifest()
    sides = None if told.sides else SidesTally(format_of(told) or THINK_ANSWER)
    # The more pictures, the smaller: together they may take some ten MB.
    pixels = max(_LEAST_PIXELS, round(_PIXELS * min(1.0, (_PAIRS / max(1, total)) ** 0.5)))
    for place, pair in enumerate(try_rows(dataset, columns=columns)):
        if isinstance(pair, str):
            found.unread += 1
            found.fault = found.fault or pair
            continue
        found.kinds[pair.kind] += 1
        found.types[pair.answer_type or "not stated"] += 1
        if pair.pass_rate is not None and 0 <= pair.pass_rate <= 1:  # somebody else's may be anything
            found.rates[pair.pass_rate] += 1
        if pair.solved_blind is not None:
            found.blind[pair.solved_blind] += 1
        found.chosen.append(len(pair.chosen))
        found.rejected.append(len(pair.rejected))
        if sides is not None:
            sides.see(pair)
        one = known.get(pair.id, _Known("", None))
        found.sources[one.source] += 1
        if place in inline:
            found.shown.append(_show(pair, place, one, _PIXELS, _PICTURES))
        elif place in wanted:
            loose.append(render(_show(pair, place, one, pixels, 1)))
        if len(loose) == _PACK:
            found.packs.append(_packed(loose))
            loose = []
    if loose:
        found.packs.append(_packed(loose))
    found.sides = None if sides is None else sides.told()
    return found


def _unread(read: _Read) -> Iterator[str]:
    """What is to be said of rows that are not on the page."""
    if read.unread:
        yield f"Rows that cannot be read, and are not shown: {read.unread:,}; the first {read.fault}."


def _spread(total: int, most: int) -> Iterable[int]:
    return (number * total // most for number in range(most)) if total > most else range(total)


def _packed(parts: Sequence[str]) -> str:
    """HTML, compressed, as text for the page's script."""
    return base64.b64encode(gzip.compress("".join(parts).encode(), 6, mtime=0)).decode()


def _run_of(dataset: Dataset) -> Path:
    """The folder of the run that a dataset belongs to."""
    return dataset.root.parent if dataset.root.name == "dataset" else dataset.root


def _known(run: Path) -> dict[str, _Known]:
    """The source and the tokens of each pair's chosen response, where the run tells them."""
    if not (run / FATES).is_file():
        return {}
    fates, _ = read_fates(run)
    columns = fates.filter("kept").select("problem_id", "index", "source", "completion_tokens")
    return {
        pair_id(problem, index): _Known(source or "", tokens) for problem, index, source, tokens in columns.iter_rows()
    }


class _Left(Struct, frozen=True):
    """A response that was left out, as the page shows it."""

    name: str
    stage: str
    reason: str
    question: str
    pictures: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    response: str


def _left_out(run: Path) -> Iterator[_Left]:
    if not (run / FATES).is_file() or not store_of(run).is_file():
        return
    try:
        found = list(left_out(run, _LEFT))
    except NothingLeftOut:
        return
    except UserError as error:
        logger.warning("the page has none of the responses that were left out: %s", error)
        return
    for one in found:
        pictures = tuple(filter(None, (_thumbnail(image, _PIXELS) for image in one.images[:1])))
        name, text = pair_id(one.problem.id, one.index), one.response[:_CHARACTERS]
        yield _Left(name, one.stage, one.reason, one.question, pictures, tuple(one.facts()), text)


def _show(pair: Pair, place: int, known: _Known, pixels: int, most: int) -> Shown:
    pictures = tuple(filter(None, (_thumbnail(image.content, pixels) for image in pair.images[:most])))
    steps = difference(pair.chosen, pair.rejected)
    sides = tuple(_folded([*_own(steps, "drop")])), tuple(_folded([*_own(steps, "add")]))
    return Shown(place, pair, known.source, known.tokens, pictures, *sides)


def _own(steps: Difference, own: Op) -> Iterator[Piece]:
    """One side of a pair; what only the other side has is left out of chosen, and struck out in rejected."""
    left = _CHARACTERS
    for op, text in steps:
        if own == "drop" and op == "add":
            continue
        named = "mark" if own == "drop" and op == "drop" else op
        yield from _cut(named, text, min(left, _UNCHANGED if op == "keep" else left))
        left -= min(len(text), left)
        if left <= 0:
            return


def _cut(op: str, text: str, limit: int) -> Iterator[Piece]:
    if len(text) <= limit:
        yield Piece(op, visible(text))
        return
    half = limit // 2
    yield Piece(op, visible(text[:half]))
    yield Piece("cut", f"{len(text) - 2 * half:,} characters")
    yield Piece(op, visible(text[len(text) - half :]))


def _folded(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Unchanged stretches folded, but for some lines before and after what changed, as `diff -U3` does."""
    last = len(pieces) - 1
    for place, piece in enumerate(pieces):
        text = piece.text
        if piece.op != "keep" or last == 0:
            yield piece
            continue
        head = len(_head(text)) if place and pieces[place - 1].op != "cut" else 0
        tail = len(_tail(text)) if place < last and pieces[place + 1].op != "cut" else 0
        hidden = text[head : len(text) - tail]
        if len(hidden) < _WORTH_FOLDING:
            yield piece
            continue
        yield from (Piece("keep", text[:head]),) if head else ()
        yield Piece("fold", f"{len(hidden):,} characters alike", (Piece("keep", hidden),))
        yield from (Piece("keep", text[len(text) - tail :]),) if tail else ()


def _head(text: str) -> str:
    """The first lines of an unchanged stretch, or the first words of a long line."""
    near = "".join(text[:_AROUND].splitlines(keepends=True)[:_LINES])
    return near if len(near) < _AROUND or " " not in near else near[: near.rindex(" ") + 1]


def _tail(text: str) -> str:
    return _head(text[: -_AROUND - 1 : -1])[::-1]


def _thumbnail(image: bytes, pixels: int) -> str | None:
    """A picture as a data: URL, decoded and encoded anew so that only pixels are left; None if it is broken."""
    if image_fault(image) is not None:
        return None
    from PIL import Image

    with warnings.catch_warnings(), Image.open(io.BytesIO(image)) as picture:
        warnings.simplefilter("ignore")
        picture.draft("RGB", (pixels, pixels))
        small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
        small.thumbnail((pixels, pixels))
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


def _charts(manifest: Manifest, read: _Read, alone: bool) -> Iterator[Chart]:
    yields = manifest.yields or Yields()
    yield _shares("Yield by answer type", "pairs per problem", yields.answer_type)
    yield _shares("Yield by source", "pairs per problem", yields.source)
    yield _counts("Answer types", "pairs", read.types if alone else {})
    yield _rates(read.rates)
    yield _counts("Solved without the picture", "pairs of problems with which that was tried", _blind(read.blind))
    yield _counts("Corruption operators", "pairs whose rejected side each made", manifest.corruptions or {})
    dropped = {
        f"{_DROPS.get(stage, stage)}: {reason}": count
        for stage, reasons in (manifest.dropped or {}).items()
        for reason, count in reasons.items()
    }
    yield _counts("Left out", "responses and problems, by stage and reason", dropped)
    yield _counts("Verdicts", "what the verifier said of the reasoning", manifest.verdicts or {})
    yield _seconds(manifest.seconds or {})


def _rates(rates: Mapping[float, int]) -> Chart:
    """How difficult the problems of the pairs are, in tenths."""
    tenths: Counter[int] = Counter()
    for rate, count in rates.items():
        tenths[min(9, int(rate * 10))] += count
    most = max(tenths.values(), default=1)
    bars = [
        Bar(f"{tenth * 10}-{tenth * 10 + 10}%", count / most, f"{count:,}") for tenth, count in sorted(tenths.items())
    ]
    about = (
        "pairs by the share of right ones among the responses to their problem that were judged until it had its pairs"
    )
    return Chart("Pass rate", about, tuple(bars))


def _blind(blind: Mapping[bool, int]) -> dict[str, int]:
    names = {True: "solved by the text alone", False: "needs the picture"}
    return {names[solved]: count for solved, count in blind.items()}


def _shares(title: str, about: str, lines: Mapping[str, Yield]) -> Chart:
    ordered = sorted(lines.items(), key=lambda line: (-line[1].problems, line[0]))
    shares = [line.pairs / line.problems if line.problems else 0.0 for _, line in ordered[:_REASONS]]
    most = max([1.0, *shares])  # a problem may give several
    bars = [
        Bar(_label(name), share / most, f"{share:.0%}", f"{line.pairs:,} from {line.problems:,}")
        for (name, line), share in zip(ordered, shares, strict=False)
    ]
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
