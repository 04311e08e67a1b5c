"""The example scripts name only commands, flags and files that there are."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from specs_data.cli import app
from specs_data.format import shipped_formats
from specs_data.presets import shipped_presets
from specs_data.recipe import shipped_recipes

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.sh"))
NAMES = {"--recipe": shipped_recipes(), "--preset": shipped_presets(), "--format": shipped_formats()}
COMMANDS: Any = typer.main.get_command(app)
# What a script calls, and the scripts' own functions that end in it.
CALLS = re.compile(
    r"(?:specs-data |^(?:# )?)(?P<verb>train (?:grpo|dpo|sft)|grpo|(?!specs-data)[a-z][a-z-]*)(?= )(?P<rest>.*)"
)


def commands(script: Path) -> list[tuple[str, list[str]]]:
    """(verb, arguments) of each call of specs-data, also of those that are commented out."""
    text = re.sub(r"\\\n(?:# *)?\s*", "", script.read_text())
    text = re.sub(r'"?\$\{PROBLEMS\[@\]\}"?', re.search(r"^PROBLEMS=\((.*)\)$", text + "\nPROBLEMS=()", re.M)[1], text)  # type: ignore[index]
    found = []
    for line in text.splitlines():
        call = CALLS.search(line.strip())
        verb = call["verb"].replace("grpo", "train grpo").replace("train train", "train") if call else ""
        if (
            call
            and verb.split()[0] in COMMANDS.commands
            and ("specs-data" in line or verb.split()[0] in ("train", "build"))
        ):
            found.append((verb, shlex.split(call["rest"], comments=True)))
    return found


def flags_of(verb: str) -> set[str]:
    """The flags of a command, as in "train grpo"."""
    found = COMMANDS
    for name in verb.split():
        assert name in found.commands, verb
        found = found.commands[name]
    return {flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_names_only_what_there_is(script: Path) -> None:
    found = commands(script)
    assert {"build", "check", "train dpo", "train grpo"} <= {verb for verb, _ in found}
    for verb, arguments in found:
        known = flags_of(verb)
        for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
            assert not flag.startswith("--") or flag in known, f"{script.name}: {verb} has no {flag}"
            assert flag not in NAMES or value in NAMES[flag], f"{script.name}: {flag} {value}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_valid_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True, capture_output=True)
