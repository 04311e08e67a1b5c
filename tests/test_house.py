"""The house: nouns below and verbs above, and a light import stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest

import specs_data

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "specs_data"

# From the ground up. Rooms of one rung do not import each other; a module that is not named is ground.
RUNGS = (
    {"plugins", "services", "mini", "formats", "recipes", "presets"},
    {"engines"},
    {"judges"},
    {"verifiers"},
    {"pairs", "rollouts"},
    {"problems"},
    {"build", "look", "share", "measure", "train"},  # the verbs: they meet in nouns
    {"demo", "pipeline"},
    {"flags"},
    {"cli"},
    {"__main__"},
)
GROUND = -1
HEAVY = ("torch", "transformers", "vllm", "google.genai", "ray", "trl", "matplotlib", "datasets", "huggingface_hub",
         "math_verify", "polars", "pyarrow", "aiohttp")  # fmt: skip


def rung_of(room: str) -> int:
    return next((rung for rung, rooms in enumerate(RUNGS) if room in rooms), GROUND)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


def part_of(path: Path) -> str:
    """The module or subpackage that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """The parts of specs_data that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "specs_data":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("specs_data."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("specs_data.")}
    return found - {part_of(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = rung_of(part_of(path))
    for imported in imports_of(path):
        there = rung_of(imported)
        assert there < here or there == here == GROUND, f"{part_of(path)} imports {imported}"


def test_no_operator_is_imported() -> None:
    for path in modules():
        assert "corruptions" not in imports_of(path), path


def test_the_public_names_exist() -> None:
    for name in specs_data.__all__:
        assert getattr(specs_data, name) is not None
    assert specs_data.build is import_module("specs_data.build.run").build


def test_a_light_import_and_the_help_stay_light() -> None:
    script = (
        "import sys; import specs_data; from typer.testing import CliRunner; from specs_data.cli import app\n"
        "result = CliRunner().invoke(app, ['build', '--help']); assert result.exit_code == 0, result.output\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_list_of_the_verbs_takes_no_settings() -> None:
    heavy = ("asyncio", "msgspec", "pydantic", "specs_data.recipe", *HEAVY)
    script = (
        "import sys, contextlib; from specs_data.cli import main; sys.argv = ['specs-data', '--help']\n"
        f"with contextlib.suppress(SystemExit): main()\nprint([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "verifier-score" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_texts_are_shipped() -> None:
    assert files("specs_data.prompts").joinpath("think-answer.md").is_file()
    assert files("specs_data.cards").joinpath("dataset.md.jinja").is_file()


def test_every_public_thing_has_a_docstring() -> None:
    bare = []
    for path in modules():
        tree = ast.parse(path.read_text())
        definitions: list[ast.AST] = list(tree.body)
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        definitions += [part for node in classes for part in node.body]
        for node in definitions:
            named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{path.relative_to(PACKAGE)}: {node.name}")
        if tree.body and not ast.get_docstring(tree):
            bare.append(str(path.relative_to(PACKAGE)))
    assert bare == []
