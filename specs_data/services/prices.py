"""What hosted models are called and what they cost.

Prices are data with dates: `prices.toml` in this package, and a file of the user's own on top of it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec import Struct

from specs_data.errors import UserError

# What may follow a model's name in the name of one of its versions: -002, -20240806, -2024-08-06,
# -05-20, -preview, -preview-09-2026. Not -lite or -mini: those are other models.
_VERSION = re.compile(r"(-(preview|exp|experimental|stable|latest|\d{3,8}|\d{4}-\d\d-\d\d|\d\d-\d{4}|\d\d-\d\d))*")


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens from the day `since`; `completion` includes thinking, `batch` is
    the share of both that batch jobs cost."""

    since: date
    prompt: float
    completion: float
    batch: float = 1.0


class _Model(Struct, frozen=True, forbid_unknown_fields=True):
    prices: tuple[Price, ...]


class Prices(Struct, frozen=True):
    """The known prices by model, the oldest first."""

    models: Mapping[str, tuple[Price, ...]]

    def price(self, model: str, on: date | None = None) -> Price | None:
        """The price of `model`, or of the model it is a version of, on a day (today)."""
        day = on or date.today()
        # Of a model and its preview the longer name says more. The price of an alias is that of no other model.
        names = (name for name in self.models if _is_version(name, model))
        known = self.models.get(model) or self.models.get(max(names, key=len, default=""), ())
        in_force = [price for price in known if price.since <= day]
        return in_force[-1] if in_force else None

    def cost(
        self, model: str, prompt_tokens: int, completion_tokens: int, batch: bool = False, on: date | None = None
    ) -> float | None:
        """US dollars for so many tokens of `model`, None where its price is not known."""
        price = self.price(model, on)
        if price is None:
            return None
        dollars = (prompt_tokens * price.prompt + completion_tokens * price.completion) / 1e6
        return dollars * price.batch if batch else dollars

    def paid(
        self, model: str, served: str, prompt_tokens: int, completion_tokens: int, batch: bool = False
    ) -> float | None:
        """US dollars for an answer of `served` where `model` was asked: by the price of that one, where that of
        the other is not known. None where neither is."""
        cost = self.cost(served, prompt_tokens, completion_tokens, batch) if served else None
        return self.cost(model, prompt_tokens, completion_tokens, batch) if cost is None else cost


def load_prices(file: Path | None = None) -> Prices:
    """The shipped prices, with those in `file` on top. Raises UserError."""
    shipped = _parse(files("specs_data.services").joinpath("prices.toml").read_text(encoding="utf-8"), "prices.toml")
    if file is None:
        return Prices(shipped)
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prices {file}: {error}") from None
    return Prices(shipped | _parse(text, str(file)))


def same_model(requested: str, served: str) -> bool:
    """Is `served` what was asked for: the same name, or the name of one of its versions?

    A `-latest` alias names no fixed model, so whatever serves it is what was asked for."""
    return requested.lower().endswith("-latest") or _is_version(requested, served)


def _is_version(name: str, other: str) -> bool:
    """Is `other` the model called `name`, or one of its versions?"""
    wanted, got = (each.lower().removeprefix("models/") for each in (name, other))
    return got.startswith(wanted) and _VERSION.fullmatch(got.removeprefix(wanted)) is not None


def _parse(text: str, where: str) -> dict[str, tuple[Price, ...]]:
    try:
        models = msgspec.convert(tomllib.loads(text), dict[str, _Model])
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UserError(
            f'the prices {where} are wrong: {error}; a model looks like ["NAME"] and '
            "prices = [{ since = 2026-01-01, prompt = 0.3, completion = 2.5 }]"
        ) from None
    return {name: tuple(sorted(model.prices, key=lambda price: price.since)) for name, model in models.items()}
