"""The built packages, installed as a user installs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from fakes.sums import write_sums

from specs_data.format import THINK_ANSWER

ROOT = Path(__file__).parent.parent
OPERATORS = ("remove_all_tags", "remove_answer_tags", "remove_think_tags", "replace_answer_tags", "shift_tags")


def call(*command: object, cwd: Path = ROOT) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited.keys() >= {"cff-version", "message", "title", "authors"}
    assert (str(cited["version"]), cited["license"]) == (project["version"], project["license"])
    paper = cited["preferred-citation"]
    assert paper["url"].endswith("2510.25801") and paper["authors"][0]["family-names"] == "Chen"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", folder)
    return folder


@pytest.mark.slow
def test_the_wheel_alone_does_the_job(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    environment = tmp_path / "env"
    call(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", wheel)
    command = environment / "bin" / "specs-data"
    listed = call(command, "corruptions", cwd=tmp_path)
    assert all(name in listed for name in OPERATORS)

    write_sums(tmp_path, 5, pictures=True)
    rows = [
        {"problem_id": f"sum-{n}", "response": THINK_ANSWER.render(f"{n} + 1 = {n + 1}.", f"\\boxed{{{n + 1}}}")}
        for n in range(5)
    ]
    (tmp_path / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = call(
        command, "build", "--responses", "responses.jsonl", "--problems", "problems.jsonl", "--verifier", "rules",
        "--out", "run", cwd=tmp_path,
    )  # fmt: skip
    assert "5 pairs" in told

    packages = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    names = {path.name for path in packages.iterdir()}
    assert "specs_data" in names and not names & {"corruptions", "prompts", "cards", "tests", "mini"}
    assert "torch" not in names
    hint = subprocess.run(
        [command, "build", "--policy", ".", "--problems", "problems.jsonl", "--verifier", "rules"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert hint.returncode == 2 and "pip install 'specs-data[transformers]'" in hint.stderr


@pytest.mark.slow
def test_an_index_would_take_both_packages(built: Path) -> None:
    call(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())


@pytest.mark.slow
def test_both_packages_hold_what_is_needed(built: Path) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    shipped = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "specs_data/py.typed", "specs_data/services/prices.toml", "specs_data/formats/markdown.toml",
        "specs_data/presets/orsta.toml", "specs_data/prompts/think-answer.md",
        "specs_data/cards/dataset.md.jinja", "specs_data/mini/grpo-zero/model.safetensors",
        *(f"specs_data/corruptions/{name}.py" for name in OPERATORS),
    ):  # fmt: skip
        assert needed in shipped
    assert not any(name.startswith(("tests/", "benchmarks/", "corruptions/")) for name in shipped)
    with tarfile.open(source) as archive:
        assert any(name.endswith("/pyproject.toml") for name in archive.getnames())
