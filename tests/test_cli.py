"""The command line as a user types it: verbs, exit statuses, one sentence for a mistake."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from fakes.sums import write_sums

from specs_data.cli import main
from specs_data.errors import UserError
from specs_data.format import THINK_ANSWER
from specs_data.recipe import Recipe


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def specs_data(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process, in the folder `cwd`."""
    for key in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)

    def call(*arguments: object, cwd: Path) -> Done:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["specs-data", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture
def responses(tmp_path: Path) -> Path:
    """problems.jsonl with 20 sums, and responses.jsonl with a good response to each."""
    write_sums(tmp_path, 20, pictures=True)
    rows = [
        {"problem_id": f"sum-{n}", "response": THINK_ANSWER.render(f"{n} + 1 = {n + 1}.", f"\\boxed{{{n + 1}}}")}
        for n in range(20)
    ]
    file = tmp_path / "responses.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def run(responses: Path, specs_data: Command) -> Path:
    """A finished run in the folder `run`."""
    done = specs_data(
        "build", "--responses", responses.name, "--problems", "problems.jsonl", "--verifier", "rules", "--out", "run",
        cwd=responses.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "20 pairs in run/dataset" in done.stdout
    return responses.parent / "run"


def test_build_from_responses(run: Path) -> None:
    assert (run / "recipe.toml").is_file() and (run / "dropped.jsonl").is_file()
    assert json.loads((run / "manifest.json").read_text())["counts"]["pairs"] == 20
    assert (run / "dataset" / "README.md").read_text().startswith("---\n")


def test_a_recipe_in_the_working_directory_is_enough(responses: Path, specs_data: Command) -> None:
    (responses.parent / "specs-data.toml").write_text(
        'responses = "responses.jsonl"\nproblems = "problems.jsonl"\nverifier = "none"\n'
    )
    done = specs_data("build", cwd=responses.parent)
    assert done.returncode == 0, done.stderr
    assert (responses.parent / "runs" / "responses" / "dataset").is_dir()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["build"], "no problems"),
        (["build", "--problems", "problems.jsonl"], "no policy"),
        (["build", "--problems", "problems.jsonl", "--responses", "responses.jsonl"], "no verifier"),
        (["build", "--problems", "nothing.jsonl", "--responses", "responses.jsonl", "--verifier", "none"], "nothing.j"),
        (["build", "--problems", "problems.jsonl", "--responses", "none.jsonl", "--verifier", "none"], "none.jsonl"),
        (["build", "--temperature", "-1"], "temperature"),
        (["build", "--recipe", "missing.toml"], "missing.toml"),
        (["build", "--problems", "problems.jsonl", "--responses", "responses.jsonl", "--verifier", "none",
          "--corruption", "nonsense"], "nonsense"),
        (["build", "--problems", "problems.jsonl", "--responses", "responses.jsonl", "--verifier", "none",
          "--columns", "question"], "question=COLUMN"),
        (["check", "problems.jsonl", "--columns", "chosen"], "chosen=COLUMN,rejected=COLUMN"),
        (["show", "problems.jsonl"], "--columns chosen=COLUMN"),
        (["show", "nowhere"], "nowhere"),
        (["check", "nowhere"], "nowhere"),
        (["check", "./nowhere.jsonl"], "./nowhere.jsonl does not exist"),
        (["export", "nowhere.git", "--to", "ms-swift", "--out", "x"], "nowhere.git does not exist"),
        (["show", "nowhere", "--dropped"], "there is no run nowhere"),
        (["judge", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(responses: Path, specs_data: Command, arguments: list[str], sentence: str) -> None:
    done = specs_data(*arguments, cwd=responses.parent)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.strip().startswith("error: ") and "\n" not in done.stderr.strip()


def test_an_error_drives_no_terminal(tmp_path: Path, specs_data: Command) -> None:
    done = specs_data("show", "\x1b]0;owned\x07", cwd=tmp_path)
    assert done.returncode == 2 and "␛]0;owned␇" in done.stderr
    assert "\x1b" not in done.stderr and "\x07" not in done.stderr


def test_the_manifest_of_a_stranger_drives_no_terminal(run: Path, specs_data: Command) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["name"] = "\x1b[2Jours\u202e"
    manifest["response_format"]["thought"]["open"] = "\x1b]0;owned\x07"
    (run / "manifest.json").write_text(json.dumps(manifest))
    checked = specs_data("check", run, cwd=run.parent)
    assert checked.returncode == 1 and "no ␛]0;owned␇" in checked.stdout
    merged = specs_data("merge", run, run, "--out", "both", cwd=run.parent)
    assert merged.returncode == 0 and "␛[2Jours⟨U+202E⟩ (run): 20 rows kept" in merged.stdout
    assert not {"\x1b", "\x07", "\u202e"} & {*checked.stdout, *merged.stdout}


def test_an_unknown_key_of_a_recipe_is_refused(responses: Path, specs_data: Command) -> None:
    (responses.parent / "specs-data.toml").write_text("sampels = 3\n")
    done = specs_data("build", cwd=responses.parent)
    assert done.returncode == 2 and "sampels" in done.stderr


def test_only_a_build_reads_the_recipe_in_the_working_directory(responses: Path, specs_data: Command) -> None:
    (responses.parent / "specs-data.toml").write_text('sampels = 3\nresponses = "responses.jsonl"\n')
    done = specs_data("export", "problems.jsonl", "--to", "trl", "--out", "trl", cwd=responses.parent)
    assert done.returncode == 0, done.stderr
    done = specs_data("verifier-score", "--verifier", "rules", "--pairs", 4, cwd=responses.parent)
    assert done.returncode == 0, done.stderr


def test_the_demo_is_the_same_everywhere(tmp_path: Path, specs_data: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recipe] = []

    def stop(recipe: Recipe, *_: object, **__: object) -> None:
        made.append(recipe)
        raise UserError("enough")

    monkeypatch.setattr("specs_data.demo.build", stop)
    (tmp_path / "specs-data.toml").write_text('sampels = 3\nlimit = 5\nresponses = "responses.jsonl"\n')
    assert "enough" in specs_data("demo", cwd=tmp_path).stderr
    assert (made[0].limit, made[0].responses) == (None, None)


def test_check_says_what_is_wrong(run: Path, specs_data: Command) -> None:
    assert specs_data("check", run, cwd=run).returncode == 0
    rows = [{"prompt": "q", "chosen": "<think>a</think><answer>\\boxed{1}</answer>", "rejected": "\\boxed{2}"}]
    file = run / "foreign.jsonl"
    file.write_text(json.dumps(rows[0]))
    done = specs_data("check", file, cwd=run)
    assert done.returncode == 1 and "1 of 1 rows are not format-only" in done.stdout


def test_show_report_and_corruptions(run: Path, specs_data: Command) -> None:
    shown = specs_data("show", run, "-n", 1, cwd=run)
    assert shown.returncode == 0 and "chosen" in shown.stdout
    assert specs_data("report", run, cwd=run).returncode == 0
    assert "<html" in (run / "report.html").read_text()
    listed = specs_data("corruptions", cwd=run)
    assert listed.returncode == 0
    for name in ("remove_all_tags", "remove_answer_tags", "remove_think_tags", "replace_answer_tags", "shift_tags"):
        assert name in listed.stdout


def test_export_merge_and_judge(run: Path, responses: Path, specs_data: Command) -> None:
    done = specs_data("export", run, "--to", "llamafactory", "--out", "lf", cwd=run)
    assert done.returncode == 0 and (run / "lf" / "dataset_info.json").is_file(), done.stderr
    done = specs_data("export", responses.parent / "problems.jsonl", "--to", "trl", "--out", "trl", cwd=run)
    assert done.returncode == 0, done.stderr
    done = specs_data("merge", run, run, "--out", "merged", cwd=run)
    assert done.returncode == 0, done.stderr
    file = run / "answers.jsonl"
    file.write_text(json.dumps({"response": "<answer>5</answer>", "gold": "5", "type": "numeric"}))
    done = specs_data("judge", file, cwd=run)
    assert json.loads(done.stdout)["right"] is True


@pytest.mark.parametrize(
    ("to", "flag", "told"),
    [
        ("ms-swift", ["--limit", 3], "--limit is for exports of problems (trl, easyr1, verl): leave it out"),
        ("ms-swift", ["--system-prompt", "none"], "--system-prompt is for exports of problems"),
        ("trl", ["--images", "."], "--images is for exports of pairs: leave it out"),
    ],
)
def test_a_flag_that_an_export_has_no_use_for_is_refused(
    run: Path, specs_data: Command, to: str, flag: list[object], told: str
) -> None:
    done = specs_data("export", run, "--to", to, "--out", "none", *flag, cwd=run)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert not (run / "none").exists()


def test_a_file_in_the_way_is_said(run: Path, specs_data: Command) -> None:
    (run / "taken").touch()
    done = specs_data("export", run, "--to", "llamafactory", "--out", "taken", cwd=run)
    assert done.returncode == 2 and done.stderr == "error: cannot use taken: File exists\n"


@pytest.mark.parametrize("command", ["show", "judge"])
def test_a_reader_that_has_seen_enough_is_no_error(run: Path, tmp_path: Path, command: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"response": "<answer>5</answer>", "gold": "5", "type": "numeric"}\n' * 20_000)
    target = [str(file)] if command == "judge" else [str(run), "-n", "20"]
    with subprocess.Popen(
        [sys.executable, "-m", "specs_data", command, *target], cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as reading:  # fmt: skip
        assert reading.stdout and reading.stderr
        reading.stdout.close()
        errors = reading.stderr.read()
    assert (reading.returncode, errors) == (141, b"")


def test_a_recipe_without_any_problems_is_told(tmp_path: Path, specs_data: Command) -> None:
    (tmp_path / "specs-data.toml").write_text('problems = []\npolicy = "p"\nverifier = "none"\n')
    assert specs_data("build", cwd=tmp_path).stderr.startswith("error: no problems: give --problems SRC")


def test_init_writes_a_recipe_that_reads(tmp_path: Path, specs_data: Command) -> None:
    assert specs_data("init", cwd=tmp_path).returncode == 0
    text = (tmp_path / "specs-data.toml").read_text()
    assert "# samples = 8" in text
    write_sums(tmp_path, 3)
    assert "no problems" in specs_data("build", cwd=tmp_path).stderr  # all is commented out, and all is valid
    assert specs_data("init", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_says_so(responses: Path, number: signal.Signals, status: int) -> None:
    """A server that never answers keeps the build waiting; Ctrl-C ends it with 130, SIGTERM with 143."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = ["build", "--engine", "openai", "--base-url", f"http://127.0.0.1:{port}/v1", "--model", "m",
                   "--problems", "problems.jsonl", "--verifier", "none", "--out", "waiting"]  # fmt: skip
        with subprocess.Popen(
            [sys.executable, "-m", "specs_data", *command], cwd=responses.parent, stderr=subprocess.PIPE, text=True
        ) as build:
            while not (responses.parent / "waiting" / "store.sqlite").exists():
                time.sleep(0.05)
            time.sleep(1)
            build.send_signal(number)
            try:
                _, errors = build.communicate(timeout=30)
            finally:
                build.kill()
    assert build.returncode == status
    assert errors.count("the same command goes on from here") == 1 and "Traceback" not in errors


def test_closed_streams_are_no_files(responses: Path) -> None:
    """What is opened next would have the number of a closed stream, and get what is printed."""
    command = [sys.executable, "-m", "specs_data", "corruptions"]
    for closed, status in ((">&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0), (">/dev/full", 2)):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" "$@" {closed}', *command], check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, closed
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, closed


def test_the_version_is_printed(tmp_path: Path, specs_data: Command) -> None:
    done = specs_data("--version", cwd=tmp_path)
    assert done.returncode == 0 and re.fullmatch(r"specs-data \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("flag", ["--problems", "--verifier", "--rejected-from", "--out"])
def test_an_empty_flag_is_told(responses: Path, specs_data: Command, flag: str) -> None:
    given = ("--responses", responses, "--problems", "problems.jsonl", "--verifier", "none")
    told = f"error: an empty argument follows {flag}: give a value, or leave it out\n"
    assert specs_data("build", *given, flag, "", cwd=responses.parent)[::2] == (2, told)
    assert specs_data("build", *given, f"{flag}=", cwd=responses.parent)[::2] == (2, told)


def test_an_empty_argument_is_not_this_folder(run: Path, specs_data: Command) -> None:
    for arguments in (["check", ""], ["show", ""], ["report", "", "--out", "x.html"], ["report", run, "--out", ""],
                      ["export", run, "--to", "ms-swift", "--out", ""], ["judge", ""]):  # fmt: skip
        done = specs_data(*arguments, cwd=run)
        assert done.returncode == 2 and "an empty argument follows" in done.stderr, arguments
    assert not (run / "images").exists()
    done = specs_data("build", "--prefill", "", cwd=run)
    assert "no problems" in done.stderr
