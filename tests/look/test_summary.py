"""The closing table, and the operators with an example."""

from __future__ import annotations

from specs_data.look.summary import describe_corruptions, summary
from specs_data.pairs.manifest import Counts, Manifest, Round


def told(*rounds: tuple[int, int, int]) -> str | None:
    """What the table says of an earlier end."""
    lines = summary(Manifest(counts=Counts(problems=1), rounds=[Round(*each) for each in rounds])).splitlines()
    return next((line for line in lines if line.startswith("with --enough")), None)


def test_what_an_earlier_end_would_have_saved() -> None:
    rounds = (1000, 100_000, 700), (300, 40_000, 100), (200, 30_000, 5), (195, 30_000, 1), (194, 30_000, 1)
    assert told(*rounds) == "with --enough 0.48  99.1% of the pairs for 60.9% of the tokens"


def test_nothing_where_nothing_would_have_been_saved() -> None:
    assert told() is None
    assert told((10, 100, 5)) is None
    assert told((10, 100, 0), (10, 100, 0), (10, 100, 0)) is None
    rising = (1000, 100_000, 100), (900, 90_000, 95), (800, 80_000, 1)
    assert told(*rising) is None  # it would take a share of 1.06, and there is none above 1
    assert told((1000, 100_000, 300), (700, 40_000, 300), (400, 20_000, 200)) is None


def test_an_operator_is_shown_on_a_response_that_it_is_for() -> None:
    shown = describe_corruptions(["fence_json", "shift_tags"])
    assert "does not apply" not in shown
    assert '    ```json\n    {"reasoning"' in shown and "5}</think>" in shown
