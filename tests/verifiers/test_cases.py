"""Labelled cases: real prose told by rule, the shipped set, anybody's file; several verifiers and their agreement."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from specs_data.cli import app
from specs_data.errors import UserError
from specs_data.measure.verifier_score import Labelled, kappa, read_cases, score_on
from specs_data.plugins import Verifier
from specs_data.records import Judged, Verdict
from specs_data.verifiers.none import NoVerifier
from specs_data.verifiers.rules import RulesVerifier
from specs_data.verifiers.several import KeepUndecided, SeveralVerifiers

CASES = Path(__file__).parent.parent / "cases" / "verify.jsonl"
GIVEN = read_cases(str(CASES))
SHIPPED = read_cases("prose")


def end_on_another(case: Labelled) -> Labelled | None:
    """The case with the last mention of its answer made another number."""
    answer, response = case.judged.judgement.answer or "", case.judged.sample.response
    thought, opening, rest = response.text.partition("</think>")
    found = list(re.finditer(rf"(?<![\w.,-]){re.escape(answer)}(?![\w]|[.,]\d)", thought))
    if not found:
        return None
    thought = f"{thought[: found[-1].start()]}{int(float(answer)) + 3}{thought[found[-1].end() :]}"
    sample = replace(case.judged.sample, response=replace(response, text=thought + opening + rest))
    return replace(case, consistent=False, judged=replace(case.judged, sample=sample))


class Says:
    """Says the same of all; None is `cannot tell`."""

    concurrency = 2
    paid = False

    def __init__(self, consistent: bool | None) -> None:
        self.settings: Mapping[str, str] = {"verifier": f"says {consistent}"}
        self.asked = 0
        self._consistent = consistent

    async def verify(self, judged: Judged, images: Sequence[bytes]) -> Verdict:
        self.asked += 1
        return Verdict(bool(self._consistent), "says so", undecided=self._consistent is None, completion_tokens=3)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("case", GIVEN, ids=lambda case: case.kind)
async def test_real_prose_is_told(case: object) -> None:
    assert isinstance(case, type(GIVEN[0]))
    verdict = await RulesVerifier().verify(case.judged, ())
    assert verdict.consistent is case.consistent, verdict


async def test_the_shipped_cases_are_told_in_most_styles() -> None:
    sound = [case for case in SHIPPED if case.consistent]
    assert len(SHIPPED) >= 150 and 0.4 < len(sound) / len(SHIPPED) < 0.6
    for half in (SHIPPED[::2], SHIPPED[1::2]):  # the rules were made with the first one in sight
        score = await score_on(RulesVerifier(), half)
        assert (score.recall or 0) > 0.9
        assert (score.caught or 0) > 0.9


async def test_a_thought_that_ends_on_another_number_is_not_kept() -> None:
    """Sound thoughts, with the last mention of the answer made another number."""
    numbers = [one for one in SHIPPED if re.fullmatch(r"-?\d+(?:\.\d+)?", one.judged.judgement.answer or "")]
    changed = [changed for one in numbers if one.consistent and (changed := end_on_another(one))]
    assert len(changed) > 100
    assert ((await score_on(RulesVerifier(), changed)).caught or 0) > 0.92


async def test_a_kind_may_have_sound_and_unsound_cases(tmp_path: Path) -> None:
    cases = [{"thought": f"It is {n}.", "answer": "5", "sound": n == 5, "kind": "sum"} for n in (5, 6, 7)]
    (tmp_path / "cases").write_text("\n".join(map(json.dumps, cases)))
    score = await score_on(RulesVerifier(), read_cases(str(tmp_path / "cases")))
    told = {name: (kind.consistent, kind.kept, kind.responses) for name, kind in score.kinds.items()}
    assert told == {"sum, sound": (True, 1, 1), "sum, unsound": (False, 0, 2)}


@pytest.mark.parametrize(
    ("file", "message"), [("no", "cannot read"), ("bad", "line 2"), ("empty", "no labelled cases")]
)
def test_a_file_of_cases_that_cannot_be_read_is_named(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bad").write_text('{"thought": "2 + 3 = 5.", "answer": "5", "sound": true}\n{"thought": 1}\n')
    with pytest.raises(UserError, match=message):
        read_cases(str(tmp_path / file))


def test_a_case_may_have_any_character_in_it(tmp_path: Path) -> None:
    (tmp_path / "cases").write_text('\ufeff{"thought": "2 + 3\u2028= 5.", "answer": "5", "sound": true}\n\n')
    assert [case.judged.sample.response.text.count("\u2028") for case in read_cases(str(tmp_path / "cases"))] == [1]


@pytest.mark.parametrize(("first", "consistent", "asked"), [(True, True, 0), (False, False, 0), (None, True, 1)])
async def test_the_next_verifier_is_asked_where_one_cannot_tell(
    first: bool | None, consistent: bool, asked: int
) -> None:
    cheap, dear = Says(first), Says(True)
    verdict = await SeveralVerifiers([cheap, dear]).verify(GIVEN[0].judged, ())
    assert (verdict.consistent, dear.asked) == (consistent, asked)
    assert verdict.completion_tokens == 3 * (1 + asked)


async def test_what_nobody_can_tell_is_dropped_or_kept() -> None:
    several: Verifier = SeveralVerifiers([Says(None), Says(None)])
    assert not (await several.verify(GIVEN[0].judged, ())).consistent
    keeping = KeepUndecided(several)
    verdict = await keeping.verify(GIVEN[0].judged, ())
    assert verdict.consistent and verdict.undecided
    assert keeping.settings != several.settings
    assert (await score_on(several, GIVEN[:4])).cannot_tell == 4


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([True, False], [True, False], 1.0),
        ([True, True, False, False], [True, False, True, False], 0.0),
        ([True, False], [False, True], -1.0),
        ([True, True], [True, True], None),
        ([None, True], [True, None], None),
    ],
)
def test_kappa(one: list[bool | None], other: list[bool | None], expected: float | None) -> None:
    assert kappa(one, other) == expected


def test_two_verifiers_are_compared_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["verifier-score", "--verifier", "rules", "--verifier", "none", "--cases", str(CASES)]
    shown = CliRunner().invoke(app, arguments)
    assert "kappa of rules and none: 0.00" in shown.output
    figures = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert figures["scores"][0]["recall"] == 1.0 and figures["scores"][1]["caught"] == 0.0
    assert NoVerifier().settings == figures["scores"][1]["settings"]
