"""What a user meets on other systems and terminals, and faults that are told all at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.sums import policy, recipe, write_sums

from specs_data import build, make_recipe
from specs_data.errors import MissingExtra, PluginFailed, UserError, require
from specs_data.plugins import find_corruptions
from specs_data.share.hub import license_of


def test_every_fault_of_a_recipe_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "specs-data.toml"
    file.write_text('sampels = 3\ntemperature = -1\nmax_tokens = "many"\nundecided = "perhaps"\n')
    with pytest.raises(UserError) as told:
        make_recipe({}, file)
    said = str(told.value)
    for words in ("unknown setting 'sampels', did you mean 'samples'?", "temperature: should be at least 0",
                  "max-tokens: should be a whole number;", "undecided: should be 'keep' or 'drop'"):  # fmt: skip
        assert words in said
    assert "Input" not in said and "\n" not in said and "parse" not in said


def test_a_syntax_error_of_an_operator_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def bad(text, fmt, rng):\n    return text..strip()\n")
    with pytest.raises(PluginFailed, match=r"line 2\n    return text..strip\(\)\n +\^\nSyntaxError: invalid syntax"):
        find_corruptions([str(tmp_path / "bad.py")])


def test_a_missing_extra_names_a_package() -> None:
    with pytest.raises(MissingExtra, match=r"^nowhere is not installed; run: pip install 'specs-data\[train\]'$"):
        require("nowhere.inside.deep", "train")


@pytest.mark.parametrize(
    ("head", "license"),
    [
        ("license: mit  # as agreed", "mit"),
        ("license:\n- mit\n- apache-2.0", "mit, apache-2.0"),
        ('"license": "cc-by-4.0"', "cc-by-4.0"),
        ("tags: [a]", None),
        ("license: [broken", None),
    ],
)
def test_a_card_s_license_is_read_as_the_hub_reads_it(head: str, license: str | None) -> None:
    assert license_of(f"---\n{head}\n---\n# Card\n".encode()) == license


def test_a_system_without_signals_can_import_the_judge() -> None:
    script = "import signal; del signal.SIGPROF, signal.SIGALRM; import specs_data.judges.rules, specs_data.cli"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_ascii_terminal_and_closed_streams(tmp_path: Path) -> None:
    run = tmp_path / "run"
    build(recipe(write_sums(tmp_path, 4)), run, engine=policy(), quiet=True)
    show = [sys.executable, "-m", "specs_data", "show", str(run), "-n", "1"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "", "NO_COLOR": "1", "TERM": "xterm"}
    done = subprocess.run(show, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and b"chosen" in done.stdout and b"\x1b" not in done.stdout
    quoted = " ".join(f"'{part}'" for part in show)
    assert subprocess.run(["sh", "-c", f"{quoted} >&- 2>&-"], check=False).returncode in (0, 141)
