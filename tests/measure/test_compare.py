"""Evaluations and training runs side by side."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from specs_data.cli import app
from specs_data.errors import UserError
from specs_data.measure.compare import compare, read_named, render, write_page


def training_run(folder: Path, name: str, values: list[float], metric: str = "reward") -> Path:
    run = folder / name
    run.mkdir()
    rows = [{"step": step, metric: value, "loss": None} for step, value in enumerate(values, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def evaluation(folder: Path, name: str, share: float) -> Path:
    file = folder / f"{name}.json"
    parts = {
        "think-answer": {"n": 50, "format": {"value": share, "low": share - 0.05, "high": share + 0.05}},
        "json": {},
    }
    file.write_text(json.dumps({"policy": name, "by_format": parts, "accuracy": 0.5}))
    return file


def test_seeds_of_one_name_become_a_mean_and_a_band(tmp_path: Path) -> None:
    runs = [("DPO", training_run(tmp_path, f"d{n}", [0.0 + n, 1.0 + n, 2.0 + n])) for n in range(2)]
    found = compare([*runs, ("SFT", training_run(tmp_path, "s", [0.0, 4.0, 0.0, 4.0]))])
    dpo, sft = found.curves["reward"]["DPO"], found.curves["reward"]["SFT"]
    assert (dpo.mean, dpo.low, dpo.high) == ((0.5, 1.5, 2.5), (0.0, 1.0, 2.0), (1.0, 2.0, 3.0))
    assert dpo.swing == 0 and sft.swing == pytest.approx(3.771, abs=0.001)
    assert found.last_common_step == 3 and sft.at(3) == 0.0 and sft.end == 4.0
    assert "loss" not in found.curves


def test_the_tables_and_the_page_have_the_figures(tmp_path: Path) -> None:
    found = compare([
        ("base", evaluation(tmp_path, "base", 0.4)),
        ("cold", evaluation(tmp_path, "cold", 0.9)),
        ("DPO", training_run(tmp_path, "d", [0.5, 1.25])),
    ])  # fmt: skip
    shown, page = str(found), render(found)
    for text in ("40.0% [35.0, 45.0]", "90.0% [85.0, 95.0]", "1.250", "DPO", "think-answer"):
        assert text in shown and text in page
    assert page.count("<polyline") == 1 and page.count('class="whisker"') == 2


def test_the_page_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\u202e"
    page = render(compare([(hostile, evaluation(tmp_path, "x", 0.5)), (hostile, training_run(tmp_path, "d", [1, 2]))]))
    assert "<script" not in page and "http" not in page.replace("http-equiv", "") and "\u202e" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    depth: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "rect", "line", "polygon"):
                depth.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert depth.pop() == tag

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

    Reader().feed(page)
    assert depth == []
    assert re.search(r"style-src 'sha256-[^']+'", page.replace("&#39;", "'"))


def test_names() -> None:
    assert read_named(["a/b.json"]) == [("b", Path("a/b.json"))]
    assert read_named(["SFT, 1 = runs/sft"]) == [("SFT, 1", Path("runs/sft"))]
    assert read_named(["A=x/1", "A=x/2"]) == [("A", Path("x/1")), ("A", Path("x/2"))]


def test_a_path_may_have_an_equals_sign(tmp_path: Path) -> None:
    run = training_run(tmp_path, "lr=1e-6", [1.0])
    assert read_named([str(run), f"A={run}"]) == [("lr=1e-6", run), ("A", run)]


def test_only_a_name_that_is_given_makes_seeds(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [
        training_run(tmp_path / folder, name, [value, value])
        for folder, name, value in (("a", "dpo-0.5", 0.0), ("a", "dpo-1.0", 1.0), ("a", "sft", 2.0), ("b", "sft", 3.0))
    ]
    curves = compare(read_named(list(map(str, paths)))).curves["reward"]
    assert [curve.end for curve in curves.values()] == [0.0, 1.0, 2.0, 3.0]
    assert list(curves) == ["dpo-0.5", "dpo-1.0", str(paths[2]), str(paths[3])]


def test_the_mean_over_seeds_ends_where_the_first_of_them_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [training_run(tmp_path, "long", [1.0] * 40), training_run(tmp_path, "short", [0.0] * 10)]
    found = compare([("A", run) for run in runs])
    curve = found.curves["reward"]["A"]
    assert found.last_common_step == 10 and curve.end == curve.at(10) == 0.5 and curve.seeds == 2
    assert "came to different steps (10, 40)" in caplog.text


def test_a_swing_takes_two_changes(tmp_path: Path) -> None:
    found = compare([("A", training_run(tmp_path, "a", [0.0, 1.0])), ("B", training_run(tmp_path, "b", [1.0] * 3))])
    assert [curve.swing for curve in found.curves["reward"].values()] == [None, 0.0]
    assert [line.split()[5] for line in str(found).splitlines()[1:3]] == ["-", "0.000"]


def test_a_run_that_has_diverged_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = training_run(tmp_path, "a", [])
    rows = [{"step": step, "loss": loss} for step, loss in enumerate((7.0, 6.0, None, None), 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare([("A", run)]).curves["loss"]["A"].steps == (1, 2)
    assert "has diverged: its loss is no number after step 2" in caplog.text


def test_seeds_that_log_at_other_steps_are_all_in_the_mean(tmp_path: Path) -> None:
    often, seldom = training_run(tmp_path, "often", [1.0] * 6), tmp_path / "seldom"
    seldom.mkdir()
    (seldom / "metrics.jsonl").write_text("".join(json.dumps({"step": n, "reward": 0.0}) + "\n" for n in (2, 4, 6)))
    curve = compare([("A", often), ("A", seldom)]).curves["reward"]["A"]
    assert curve.steps == (2, 3, 4, 5, 6) and set(curve.mean) == {0.5}
    assert curve.at(1) is None


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metrics.jsonl"):
        compare([("x", tmp_path)])
    with pytest.raises(UserError, match="none of the training runs"):
        compare([("x", training_run(tmp_path, "x", [1.0], metric="other"))])
    with pytest.raises(UserError, match="cannot read"):
        compare([("x", tmp_path / "x.json")])
    with pytest.raises(UserError, match="cannot write"):
        write_page(compare([("x", evaluation(tmp_path, "y", 0.5))]), tmp_path)


def test_the_command(tmp_path: Path) -> None:
    arguments = ["compare", f"base={evaluation(tmp_path, 'e', 0.5)}", f"DPO={training_run(tmp_path, 'd', [1.0, 2.0])}"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0 and "50.0% [45.0, 55.0]" in done.stdout and "page.html" in done.stdout
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(printed.stdout)["curves"]["reward"]["DPO"]["mean"] == [1.0, 2.0]
