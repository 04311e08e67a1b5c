"""Watching a run: a bar on a terminal, a line a minute elsewhere, and always RUN/run.log."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct
from tqdm import tqdm

from specs_data.files import refuse_irregular
from specs_data.inert import one_line, visible
from specs_data.rollouts.store import Position

EVERY = 60.0  # seconds between two lines
LOOK = 1.0  # seconds between two looks for the first response: a model may take minutes to load
logger = logging.getLogger("specs_data")


class Figures(Struct, frozen=True):
    """How a run stands: responses `tried`, on record and new; of the new ones (`responses`) how many there are, and
    their `tokens`. `reasons` are why responses were left out, and how often; `dollars` what services cost."""

    tried: int
    responses: int
    tokens: int
    reasons: Sequence[tuple[str, int]]
    dollars: float


class Tracker(Protocol):
    """Where else figures go."""

    def log(self, figures: dict[str, float]) -> None:
        """Take these figures down."""
        ...

    def close(self) -> None:
        """There will be no more."""
        ...


def say(text: str) -> None:
    """A line for the user, above the bar if there is one, and for the run's log."""
    logger.info("%s", text)


@contextmanager
def told(out: Path, *, quiet: bool, verbose: bool = False) -> Iterator[None]:
    """While the block runs, what is said goes to OUT/run.log, and to the terminal: with `quiet` only warnings, with
    `verbose` what becomes of each response."""
    out.mkdir(parents=True, exist_ok=True)
    for there in out.iterdir():
        if not there.is_dir():  # a FIFO would block whoever looks at it
            refuse_irregular(there)
    level = logging.DEBUG if verbose else logging.INFO
    file, console = _File(out / "run.log", encoding="utf-8", errors="backslashreplace", delay=True), _Console()
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    console.setLevel(logging.WARNING if quiet else level)
    before = logger.level
    logger.setLevel(level)
    for handler in (file, console):
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before)
        for handler in (file, console):
            logger.removeHandler(handler)
            handler.close()


class _File(logging.FileHandler):
    """A log that cannot be written stops no run."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """As if it had been written."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is None or getattr(record, "on_bar", False):
            return
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        text = visible(record.getMessage()).encode(encoding, "backslashreplace").decode(encoding)
        with suppress(OSError, ValueError):  # nobody reads on, or it is closed
            tqdm.write(text, file=sys.stderr)


class Progress:
    """The problems of a run, as they are done; without `pairing` its responses, of which no pairs are made. `total` is
    their number, None if it is not known; `target` the pairs that are wanted. `figures` says how the run stands;
    `trackers` are told every minute."""

    def __init__(
        self,
        label: str,
        total: int | None,
        quiet: bool,
        figures: Callable[[], Figures],
        target: int | None = None,
        trackers: Sequence[Tracker] = (),
        pairing: bool = True,
    ) -> None:
        self.done = self.pairs = 0
        self._label, self._total, self._target, self._figures = label, total, target, figures
        self._trackers = trackers
        self._pairing = pairing
        self._since = time.monotonic()  # there was no new response yet: what is on record goes faster
        self._ticking: asyncio.Task[None] | None = None
        self._bar = tqdm(
            total=target or total,
            desc=label,
            disable=quiet or sys.stderr is None or None,
            mininterval=0.5,
            dynamic_ncols=True,
            leave=False,
            ascii=not _has_blocks(),
            bar_format="{desc} {percentage:3.0f}% |{bar}| {postfix}" if target or total else "{desc} {n_fmt} {postfix}",
        )

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        self._tell()
        self._bar.close()

    def step(self, position: Position, pairs: int) -> None:
        """The problem at `position` is done and has that many pairs."""
        self.done += 1
        self.pairs += pairs
        if self._bar.update(pairs if self._target else 1):
            made = f"{self.pairs:,} pairs" if self._pairing else ""
            self._bar.set_postfix_str(", ".join(filter(None, (made, self._pace()))), refresh=False)

    def line(self) -> str:
        """How the run stands, in one line."""
        now = self._figures()
        of = "" if self._total is None else f" of {self._total:,}"
        unit = "problems" if self._pairing else "responses"
        parts = [f"{self._label}: {self.done:,}{of} {unit} done"]
        target = f" of {self._target:,}" if self._target else ""
        share = f" ({self.pairs / now.tried:.0%})" if now.tried else ""
        if self._pairing:
            parts.append(f"{self.pairs:,}{target} pairs from {now.tried:,} responses{share}")
        parts.append(self._pace())
        if now.reasons:
            parts.append("left out: " + ", ".join(f"{reason} {count:,}" for reason, count in now.reasons))
        if now.dollars:
            parts.append(f"${now.dollars:,.2f}")
        return "; ".join(filter(None, parts))

    def _pace(self) -> str:
        """Responses and tokens a second, and the time that is left, as far as they are known."""
        now = self._figures()
        seconds = self._seconds(now)
        if not now.responses or not seconds:
            return ""
        speed = f"{now.responses / seconds:,.1f} responses/s, {now.tokens / seconds:,.0f} tokens/s"
        left = self._left(now, now.responses / seconds)
        return speed if left is None else f"{speed}, {duration(left)} left"

    def _seconds(self, now: Figures) -> float:
        if not now.responses:
            self._since = time.monotonic()
        return time.monotonic() - self._since

    def _left(self, now: Figures, speed: float) -> float | None:
        """The seconds that are left at this speed: as many responses are still needed as the problems, or the pairs,
        that are done have taken."""
        shares = [self._total / self.done] if self._total and self.done else []
        shares += [self._target / self.pairs] if self._target and self.pairs else []
        return max(0.0, now.tried * (min(shares) - 1) / speed) if shares else None

    async def _tick(self) -> None:
        while True:
            until = time.monotonic() + EVERY
            while (left := until - time.monotonic()) > 0:
                self._seconds(now := self._figures())
                await asyncio.sleep(left if now.responses else min(left, LOOK))
            self._tell()

    def _tell(self) -> None:
        # The bar shows the same; the log has it all the same.
        logger.log(logging.INFO, "%s", self.line(), extra={"on_bar": not self._bar.disable})
        now = self._figures()
        figures = {"problems": self.done, "pairs": self.pairs, "responses": now.tried, "tokens": now.tokens,
                   "dollars": now.dollars}  # fmt: skip
        told = {f"build/{name}": float(value) for name, value in figures.items()}
        self._trackers = [tracker for tracker in self._trackers if _takes(tracker, told)]


def _takes(tracker: Tracker, figures: dict[str, float]) -> bool:
    """Tell a tracker. One that fails, as without network, is told no more: it is no reason to stop a run."""
    try:
        tracker.log(figures)
    except Exception as error:
        logger.warning("a tracker of --report-to fails and is told no more: %s", one_line(str(error)))
        return False
    return True


def duration(seconds: float) -> str:
    """A time for people: 12 s, 4 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _has_blocks() -> bool:
    """Can the terminal's encoding draw the bar's blocks?"""
    try:
        "█▏".encode(getattr(sys.stderr, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
