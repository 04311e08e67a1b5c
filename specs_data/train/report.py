"""What a training run leaves for people: metrics as JSONL, the curves, the model card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specs_data.errors import require
from specs_data.files import write_whole
from specs_data.texts import load_card

Row = dict[str, Any]

# The panels of curves.svg: a title and the metrics drawn in it. A panel without metrics is left out.
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("rewards of chosen and rejected", ("rewards/chosen", "rewards/rejected")),
    ("margin", ("rewards/margins",)),
    ("format and accuracy", ("format", "accuracy")),
    ("reward", ("reward",)),
    ("loss", ("loss",)),
)


def metrics_log(file: Path) -> Any:
    """A TrainerCallback that keeps `file`, one JSON line per logged step.

    On resuming the file is rewritten from the state in the checkpoint, so that steps done twice
    stand there once.
    """
    transformers = require("transformers", "train")

    class MetricsLog(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                write_whole(file, "".join(map(_line, filter(_is_step, state.log_history))).encode())

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero and _is_step(state.log_history[-1]):
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(_line(state.log_history[-1]))

    return MetricsLog()


def progress() -> Any:
    """A TrainerCallback with one progress bar: steps, and the latest of the metrics that are drawn."""
    transformers = require("transformers", "train")
    tqdm = require("tqdm", "train").tqdm

    class Progress(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", disable=not state.is_world_process_zero
            )

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            row = state.log_history[-1]
            shown = (key for _, keys in PANELS for key in keys if row.get(key) is not None)
            self.bar.set_postfix({key.split("/")[-1]: f"{row[key]:.3g}" for key in shown}, refresh=False)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    return Progress()


def read_metrics(file: Path) -> list[Row]:
    """The rows of a metrics.jsonl, in order."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def plot(curves: Mapping[str, Sequence[Row]], file: Path) -> None:
    """Draw the metrics of one or more named runs as an SVG (or PNG) file. Needs matplotlib."""
    require("matplotlib", "train")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    every = [row for rows in curves.values() for row in rows]
    panels = [(title, keys) for title, keys in PANELS if any(_has(every, key) for key in keys)]
    figure = Figure(figsize=(4.2 * max(1, len(panels)), 3.2), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False)[0] if panels else ()  # of a run without one number
    for axes, (title, keys) in zip(drawn, panels, strict=True):
        for colour, (run, rows) in enumerate(curves.items()):
            for dash, key in enumerate(key for key in keys if _has(rows, key)):
                name = " ".join(word for word in (run, key.split("/")[-1] if len(keys) > 1 else "") if word)
                points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
                axes.plot(
                    *zip(*points, strict=True), f"C{colour}{('-', '--')[dash]}", label=name or None, linewidth=1.2
                )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("optimizer step")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    with rc_context({"svg.hashsalt": "specs-data", "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def card(manifest: Mapping[str, Any], rows: Sequence[Row], recipe: str) -> str:
    """The model card of a run, from its manifest, its metrics and its recipe as TOML."""
    jinja2 = require("jinja2", "train")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shown = [key for _, keys in PANELS for key in keys if _has(rows, key)]
    ends = [(key, *_ends([row[key] for row in rows if row.get(key) is not None])) for key in shown]
    template = environment.from_string(load_card("model").body)
    return str(template.render(run=manifest, ends=ends, recipe=recipe)).strip() + "\n"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Means over the first and the last tenth of a curve."""
    part = max(1, len(values) // 10)
    return sum(values[:part]) / part, sum(values[-part:]) / part


def _has(rows: Sequence[Row], key: str) -> bool:
    return any(row.get(key) is not None for row in rows)


def _is_step(row: Row) -> bool:
    return "train_runtime" not in row


def _line(row: Row) -> str:
    """A line of JSON, which knows neither NaN nor infinity (the loss of a run that has diverged): they are null."""
    told = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
    return json.dumps(told) + "\n"
