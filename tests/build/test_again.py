"""A finished run, typed again, does nothing; and where anything that it came of has changed, it is done anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.sums import dataset_bytes, picture, policy, recipe, write_sums

from specs_data import build
from specs_data.build.run import Built
from specs_data.errors import Undecided
from specs_data.records import Judged, Verdict

SETTINGS: dict[str, Any] = {"samples": 3, "holdout": 0.2, "license": "mit"}


def first(folder: Path, **settings: Any) -> tuple[Path, Built]:
    problems = write_sums(folder, 30, pictures=True)
    return problems, build(recipe(problems, **SETTINGS, **settings), folder / "run", engine=policy(), quiet=True)


def test_a_finished_run_typed_again_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems, before = first(tmp_path)
    times = {file: file.stat().st_mtime_ns for file in sorted(before.out.rglob("*")) if file.is_file()}
    engine = policy()
    after = build(recipe(problems, **SETTINGS), before.out, engine=engine)
    assert engine.calls == 0 and after.manifest == before.manifest and after.count == before.count > 0
    kept = {file: file.stat().st_mtime_ns for file in sorted(before.out.rglob("*")) if file.is_file()}
    touched = {file.name for file in times if kept.get(file) != times[file]}
    assert touched <= {"store.sqlite", "store.sqlite.sum", "run.log"}
    assert set(kept) == set(times)
    assert f"nothing has changed since {before.out} was finished: {before.count} pairs" in capsys.readouterr().err


def edit_row(folder: Path) -> None:
    file = folder / "problems.jsonl"
    status = file.stat()
    file.write_text(file.read_text().replace('"answer": "5"', '"answer": "6"'))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # of the same size and time


def edit_picture(folder: Path) -> None:
    (folder / "3.png").write_bytes(picture(77))


def lose_picture(folder: Path) -> None:
    (folder / "3.png").unlink()


def edit_dataset(folder: Path) -> None:
    (folder / "run" / "dataset" / "data" / "train-00000-of-00001.parquet").write_bytes(b"")


def lose_dropped(folder: Path) -> None:
    (folder / "run" / "dropped.jsonl").unlink()


def damage_sources(folder: Path) -> None:
    (folder / "run" / "sources.jsonl").write_bytes(b"\xff\n")


def add_archive(folder: Path) -> None:
    (folder / "more.zip").write_bytes(b"")


@pytest.mark.parametrize(
    "change", [edit_row, edit_picture, lose_picture, edit_dataset, lose_dropped, damage_sources, add_archive]
)
def test_what_has_changed_is_built_anew(
    tmp_path: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    problems, before = first(tmp_path)
    change(tmp_path)
    after = build(recipe(problems, **SETTINGS), before.out, engine=policy())
    assert "nothing has changed" not in capsys.readouterr().err
    fresh = build(recipe(problems, **SETTINGS), tmp_path / "fresh", engine=policy(), quiet=True)
    rows = [name for name in dataset_bytes(fresh.out) if name.endswith(".parquet")]
    assert rows and all(dataset_bytes(after.out)[name] == dataset_bytes(fresh.out)[name] for name in rows)


@pytest.mark.parametrize("setting", [{"seed": 1}, {"target": 3}, {"card": "mine"}, {"concurrency": 3}])
def test_another_recipe_is_built(tmp_path: Path, setting: dict[str, Any]) -> None:
    problems, before = first(tmp_path)
    if "card" in setting:
        (tmp_path / "card.md.jinja").write_text("# {{ 1 + 1 }}\n")
        setting = {"card": str(tmp_path / "card.md.jinja")}
    build(recipe(problems, **{**SETTINGS, **setting}), before.out, engine=policy(), quiet=True)
    told = (before.out / "recipe.toml").read_text()
    assert all(f"{name} = {json.dumps(value)}" in told for name, value in setting.items())


def test_a_card_that_was_edited_is_another_card(tmp_path: Path) -> None:
    card = tmp_path / "card.md.jinja"
    card.write_text("# one\n")
    problems, before = first(tmp_path, card=str(card))
    card.write_text("# two\n")
    build(recipe(problems, **SETTINGS, card=str(card)), before.out, engine=policy(), quiet=True)
    assert (before.out / "dataset" / "README.md").read_text().endswith("# two\n")


def test_a_file_more_in_a_folder_of_problems_is_read(tmp_path: Path) -> None:
    write_sums(tmp_path / "sums", 10)
    built = build(recipe(tmp_path / "sums"), tmp_path / "run", engine=policy(), quiet=True)
    (tmp_path / "sums" / "more.jsonl").write_text('{"id": "x", "question": "What is 50 + 1?", "answer": "51"}\n')
    more = build(recipe(tmp_path / "sums"), tmp_path / "run", engine=policy(), quiet=True)
    assert (built.manifest.counts.problems, more.manifest.counts.problems) == (10, 11)


def test_what_a_service_left_undecided_is_asked_again(tmp_path: Path) -> None:
    class Shy:
        concurrency = 4
        settings = {"verifier": "shy"}

        def __init__(self, *, shy: bool) -> None:
            self.shy = shy
            self.calls = 0

        async def verify(self, judged: Judged, images: object) -> Verdict:
            self.calls += 1
            if self.shy:
                raise Undecided("timeout")
            return Verdict(True, "fine")

        async def close(self) -> None: ...

    problems = write_sums(tmp_path, 20)
    build(recipe(problems), tmp_path / "run", engine=policy(), verifier=Shy(shy=True), quiet=True)
    bold, idle = Shy(shy=False), Shy(shy=False)
    built = build(recipe(problems), tmp_path / "run", engine=policy(), verifier=bold, quiet=True)
    again = build(recipe(problems), tmp_path / "run", engine=policy(), verifier=idle, quiet=True)
    assert bold.calls > 0 and idle.calls == 0 and again.manifest == built.manifest


def test_a_build_with_nothing_to_do_imports_little() -> None:
    heavy = ("aiohttp", "numpy", "pandas", "pyarrow", "torch")
    script = f"import sys, specs_data.build.run; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_build_imports_pandas(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom specs_data import build, make_recipe\n"
        "from specs_data.engines.scripted import ScriptedEngine\n"
        f"recipe = make_recipe({{'problems': {str(write_sums(tmp_path, 3, pictures=True))!r}, 'verifier': 'none'}})\n"
        "said = '<think>0 + 1 = 1.</think><answer>\\\\boxed{1}</answer>'\n"
        f"built = build(recipe, {str(tmp_path / 'run')!r}, engine=ScriptedEngine(lambda request: said), quiet=True)\n"
        "print(built.count, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_problems_that_change_while_they_are_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    problems = write_sums(tmp_path, 30)
    engine = policy()
    script = engine._script

    def changing(request: Any) -> Any:
        if engine.calls == 10:
            write_sums(tmp_path, 40)
        return script(request)

    engine._script = changing
    build(recipe(problems, **SETTINGS), tmp_path / "run", engine=engine, quiet=True)
    assert "changed while they were read" in caplog.text
    caplog.clear()
    built = build(recipe(problems, **SETTINGS), tmp_path / "run", engine=policy(), quiet=True)
    assert built.manifest.counts is not None and built.manifest.counts.problems == 40
    assert "changed" not in caplog.text
