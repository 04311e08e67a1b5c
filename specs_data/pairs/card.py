"""The dataset card: what a reader on the Hub needs to judge and use the dataset, from the manifest.

The card holds no times and no machine's paths: the same recipe and responses give the same bytes.
Whatever a model wrote stands in code, between fences longer than any in it, so it renders as itself.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from msgspec import Struct

from specs_data.errors import UserError
from specs_data.images import image_fault, suffix
from specs_data.inert import one_line, visible
from specs_data.pairs.diff import Difference, difference
from specs_data.pairs.language import UNKNOWN
from specs_data.pairs.manifest import Manifest, Yield, Yields, funnel
from specs_data.pairs.measured import describe_measured
from specs_data.pairs.sides import what_it_is
from specs_data.records import Pair
from specs_data.texts import load_card

_TAGS = ["preference", "dpo", "cold-start", "response-format", "specs-data", "arxiv:2510.25801"]
_SIZES = [
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
]
_AROUND = 60  # characters of unchanged text shown beside a change
_LONGEST = 4_000  # characters of one text of the sample pair
_SOURCES = 30  # that have a line of their own
_PICTURE_BYTES = 1_000_000  # of the sample pair's picture: the page is to load at once
RECIPE = "recipe.toml"
_PATH = re.compile(r"[/~.\\]|\w:[\\/]|file:")


class Ablation(Struct, frozen=True):
    """One setting that the paper varied: what it is here, and the paper's figures beside it (average
    of its benchmarks after the cold start / after RL)."""

    question: str
    here: str
    paper: str


def render_card(
    manifest: Manifest,
    examples: Sequence[Pair],
    *,
    template: str = "dataset",
    license: str | None = None,
    files: Collection[str] = (),
) -> str:
    """The card (README.md) of a dataset, as Markdown with the Hub's YAML head.

    `examples` are pairs of the dataset: the first is shown whole, and the first of each operator as its
    worked example. The template sees the manifest as its JSON has it, with None for what is not told.
    `template` is a name in cards/ or a file; `license` a Hub license id, left out if not given; `files` are the names
    of those that lie beside the card (see `write_card`).
    Raises UserError where the template is wrong.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    text = load_card(template)
    # Markdown is no HTML: autoescaping would spoil it. The filters below make text inert instead.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "code": code,
        "cell": cell,
        "fence": fence,
        "words": words,
        "short": public_name,
        "n": "{:,}".format,
    }
    environment.filters["percent"] = "{:.1%}".format
    try:
        card = environment.from_string(text.body).render(
            head=metadata(manifest, examples, license),
            name=words(manifest.name or "preference dataset"),
            manifest=dict.fromkeys(Manifest.__struct_fields__) | dict(manifest),
            recipe=manifest.recipe or {},
            splits=manifest.dataset.rows,
            funnel=funnel(manifest),
            types=_yields((manifest.yields or Yields()).answer_type),
            sources=_sources(manifest),
            problems=_problems(manifest),
            what=what_it_is(manifest),
            measured=list(describe_measured(manifest)),
            languages=_languages(manifest),
            picture=next((name for name in files if name != RECIPE), None),
            recipe_file=RECIPE if RECIPE in files else None,
            models=_models(manifest),
            prompts={name: prompt for name, prompt in (manifest.prompts or {}).items() if prompt},
            operators=_operators(manifest, examples),
            ablations=ablations(manifest),
            example=examples[0] if examples else None,
            has_images=any(pair.images for pair in examples),
            license=license,
            longest=_LONGEST,
        )
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise UserError(f"the card template {template!r} cannot be rendered{where}: {error}") from None
    return re.sub(r"\n{3,}", "\n\n", card).strip() + "\n"


def write_card(
    folder: Path,
    manifest: Manifest,
    examples: Sequence[Pair],
    *,
    template: str = "dataset",
    license: str | None = None,
) -> str:
    """Write the card of the dataset in `folder` and what it shows: the picture of its pair, and the recipe as a file of
    its own, without paths of this machine. The card's text. Raises UserError where the template is wrong."""
    files: dict[str, bytes] = {}
    picture = next((one.content for one in (examples[0].images if examples else ())), None)
    if picture is not None and len(picture) <= _PICTURE_BYTES and image_fault(picture) is None:
        files[f"pair.{suffix(picture)}"] = picture
    if manifest.recipe:
        files[RECIPE] = tomli_w.dumps(_public(manifest.recipe)).encode()
    text = render_card(manifest, examples, template=template, license=license, files=files)
    for name, content in {**files, "README.md": text.encode()}.items():
        (folder / name).write_bytes(content)
    return text


def _public(value: Any) -> Any:
    """A setting without the paths of this machine."""
    if isinstance(value, Mapping):
        return {_public(key): _public(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return list(map(_public, value))
    return public_name(value) if isinstance(value, str) and _PATH.match(value) and "\n" not in value else value


def metadata(manifest: Manifest, examples: Sequence[Pair], license: str | None) -> str:
    """The card's YAML head, without its --- lines."""
    from huggingface_hub import DatasetCardData

    splits = manifest.dataset.rows
    images = any(pair.images for pair in examples)
    data = DatasetCardData(
        license=license,
        language=[name for name, _ in _languages(manifest) if name != UNKNOWN] or None,
        pretty_name=one_line(manifest.name or "Preference dataset", 100),
        task_categories=["image-text-to-text", "visual-question-answering"] if images else ["text-generation"],
        size_categories=[size_category(sum(splits.values()))] if splits else None,
        annotations_creators=["machine-generated"],
        tags=[*_TAGS, "image"] if images else _TAGS,
        configs=[_config(splits, manifest.dataset.fingerprint)],
    )
    return str(data.to_yaml()).strip()


def _config(splits: Mapping[str, int], fingerprint: str) -> dict[str, Any]:
    files = [{"split": split, "path": f"data/{split}-*"} for split in splits or ("train",)]
    # `datasets` caches a folder by its name and this block alone: another content must be another block.
    content = {"description": f"content {fingerprint}"} if fingerprint else {}
    return {"config_name": "default", **content, "data_files": files}


def size_category(rows: int) -> str:
    """The Hub's size bucket for a number of rows."""
    bucket = bisect_right(_SIZES, rows, key=lambda size: size[0])
    return _SIZES[bucket][1] if bucket < len(_SIZES) else "n>1B"


def ablations(manifest: Manifest) -> list[Ablation]:
    """The settings of the recipe that the paper's ablations vary. Empty if nothing is known of it."""
    if not manifest.recipe:
        return []
    coupled = manifest.setting("pairing") == "coupled"
    verifier = manifest.setting("verifier")
    origin = str(manifest.setting("rejected_from") or "chosen")
    if manifest.setting("rejected_responses"):
        origin = Path(str(manifest.setting("rejected_responses"))).stem
    sampled = None if manifest.setting("responses") else manifest.setting("engine")
    policy = manifest.setting("policy") or sampled or "responses that were given"
    return [
        Ablation(
            "Is the rejected response right?",
            "no: coupled, format and content differ" if coupled else "yes: decoupled, only the format differs",
            "coupled 47.67 / 48.68" if coupled else "decoupled 47.27 / 50.02",
        ),
        Ablation(
            "Are reasoning paths filtered?",
            "no" if verifier in (None, "none") else f"yes, by {public_name(verifier)}",
            "without - / 48.13" if verifier in (None, "none") else "with 47.27 / 50.02 (by Gemini-2.5-flash)",
        ),
        Ablation(
            "Who wrote the chosen responses?",
            public_name(policy),
            "GRPO-zero 47.27 / 50.02; base model 45.07 / 48.79; 72B teacher 44.90 / 48.98; 32B teacher 42.89 / 46.43",
        ),
        Ablation(
            "What is corrupted?",
            "the chosen response: twins, this project's variant"
            if origin == "chosen"
            else f"a response of {public_name(origin)}"
            + (", unless malformed by itself" if manifest.setting("natural_rejected") else ""),
            "the base model's right answers, malformed or not; not varied",
        ),
    ]


def public_name(value: object) -> str:
    """A model's or file's name without the path on the machine that built the dataset."""
    text = one_line(str(value))
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1] if _PATH.match(text) else text


def words(text: object, width: int = 100) -> str:
    """`text` as one line of plain Markdown: every sign that could mean something is escaped."""
    return re.sub(r"[!-,./:-@\[-`{-~]", r"\\\g<0>", one_line(str(text), width))


def code(text: object, width: int = 200) -> str:
    """`text` as one line of inline code that ends where it should."""
    line = one_line(str(text), width) or " "
    ticks = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    return f"{ticks} {line} {ticks}" if line[0] in "` " or line[-1] in "` " else f"{ticks}{line}{ticks}"


def cell(text: object, width: int = 80) -> str:
    """`text` as inline code inside a table."""
    return code(text, width).replace("|", "\\|")


def fence(text: str, longest: int | None = None) -> str:
    """`text` as a block of code, cut at `longest` characters."""
    shown = visible(text)
    if longest is not None and len(shown) > longest:
        shown = f"{shown[:longest]}\n… ({len(shown) - longest:,} more characters)"
    ticks = "`" * max(3, max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    return f"{ticks}text\n{shown}\n{ticks}"


def excerpt(difference: Difference) -> str:
    """The changes with a little of what is around them: [-dropped-] and {+added+}."""
    pieces = []
    for number, (op, text) in enumerate(difference):
        if op == "keep":
            last = number + 1 == len(difference)
            pieces.append(_shortened(text, _AROUND if number else 0, 0 if last else _AROUND))
        else:
            short = _shortened(text, 2 * _AROUND, 2 * _AROUND)
            pieces.append(f"[-{short}-]" if op == "drop" else f"{{+{short}+}}")
    return "".join(pieces).strip()


def _shortened(text: str, head: int, tail: int) -> str:
    """About the first `head` and the last `tail` characters of `text`, cut between words, or all of
    it where that would save little."""
    if len(text) <= head + tail + _AROUND:
        return text
    start = text[:head].rpartition(" ")[0] or text[:head]
    end = (text[-tail:].partition(" ")[2] or text[-tail:]) if tail else ""
    return f"{start} … {end}"


def _yields(found: Mapping[str, Yield]) -> list[tuple[str, int, int]]:
    """(kind, problems, pairs)."""
    return [(name, line.problems, line.pairs) for name, line in sorted(found.items())]


def _sources(manifest: Manifest) -> list[tuple[str, int, int]]:
    """(source, problems, pairs), those with most pairs first, and the rest together; none where no row names one."""
    found = (manifest.yields or Yields()).source
    if not any(found):
        return []
    lines = [(name or "not stated", line.problems, line.pairs) for name, line in found.items()]
    lines.sort(key=lambda line: (-line[2], line[0]))
    rest = lines[_SOURCES:]
    more = [(f"{len(rest)} others", sum(line[1] for line in rest), sum(line[2] for line in rest))] if rest else []
    return lines[:_SOURCES] + more


def _problems(manifest: Manifest) -> list[str]:
    """Where the problems come from: files and Hub datasets, without this machine's paths."""
    given = manifest.setting("problems")
    return [public_name(one) for one in (given if isinstance(given, list) else [given]) if one]


def _languages(manifest: Manifest) -> list[tuple[str, int]]:
    """(language, pairs), the commonest first; one of less than a hundredth of the pairs may be a mistake."""
    found = manifest.languages or {}
    least = sum(found.values()) / 100
    return [(name, count) for name, count in sorted(found.items(), key=lambda one: -one[1]) if count >= least]


def _models(manifest: Manifest) -> list[tuple[str, str, str]]:
    """(role, requested, what is known of who answered)."""
    lines = []
    for role, model in (manifest.models or {}).items():
        if role not in ("policy", "verifier", "judge") or not model:
            continue
        served = [f"{public_name(name)} ({count:,})" for name, count in sorted((model.served or {}).items())]
        known = ", ".join(served) or (f"fingerprint {model.fingerprint[:16]}" if model.fingerprint else "-")
        lines.append((role, public_name(model.asked or "not stated"), known))
    return lines


def _operators(manifest: Manifest, examples: Sequence[Pair]) -> list[tuple[str, str, int | None, str]]:
    """(operator, what it does, pairs if counted, worked example or nothing), most used first."""
    told = {"none": "No operator: the response was malformed by itself."}
    told |= {name: operator.summary for name, operator in (manifest.operators or {}).items()}
    first = {pair.kind: pair for pair in reversed(examples)}
    counts: dict[str, int | None] = dict.fromkeys(first) | (manifest.corruptions or {})
    return [
        (
            name,
            told.get(name, ""),
            count,
            excerpt(difference(first[name].chosen, first[name].rejected)) if name in first else "",
        )
        for name, count in sorted(counts.items(), key=lambda item: (-(item[1] or 0), item[0]))
    ]
