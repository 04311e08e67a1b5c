"""Operators, engines and verifiers of others: as a file, as a package, handed over, and whatever is wrong with one."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from fakes.sums import policy, recipe, write_sums

from specs_data import Recipe, build, plugins
from specs_data.engines import engine_name, open_engine
from specs_data.errors import PluginFailed, UserError
from specs_data.format import THINK_ANSWER
from specs_data.loop import asked_for, run
from specs_data.plugins import Corruption
from specs_data.records import Judged, Judgement, Message, Problem, Request, Response, Sample, Sampling, Verdict
from specs_data.services.opening import open_budget
from specs_data.verifiers import open_verifier, verifier_name

ROOT = Path(__file__).parent.parent
NAMES = ("drop_closing_think", "replay", "states_answer")
REQUEST = Request((Message("user", "What is 1 + 1?"),), (), 0)
SAMPLE = Sample(Problem("a", "What is 1 + 1?", "2", "numeric"), 0, Response(THINK_ANSWER.render("1 + 1 = 2.", "2")))
JUDGED = Judged(SAMPLE, Judgement(True, "exact", "2"))


def blocks() -> dict[str, str]:
    """The files of CONTRIBUTING.md, word for word, by the name in their first line."""
    found = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    return {name: f"# {name}\n{body}" for name, body in found}


def write_answers(folder: Path, count: int) -> None:
    """problems.jsonl with sums, and answers.json with a good response to each."""
    write_sums(folder, count)
    answers = {
        f"What is {n} + 1?": THINK_ANSWER.render(f"{n} + 1 = {n + 1}.", f"\\boxed{{{n + 1}}}") for n in range(count)
    }
    (folder / "answers.json").write_text(json.dumps(answers))


def call(*command: str, cwd: Path, path: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env={"PYTHONPATH": str(path or ROOT)}, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip


def build_with(operator: str, engine: str, verifier: str, cwd: Path, path: Path | None = None) -> dict[str, Any]:
    """The manifest of a build of six sums with three plug-ins."""
    write_answers(cwd, 6)
    done = call(
        "-m", "specs_data", "build", "--problems", "problems.jsonl", "--policy", "answers.json", "--engine", engine,
        "--verifier", verifier, "--corruption", operator, "--out", "run", cwd=cwd, path=path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 pairs in run/dataset" in done.stdout
    return json.loads((cwd / "run" / "manifest.json").read_text())


def install(source: Path, site: Path) -> None:
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    done = call("-m", "pip", "install", *options, str(source), cwd=source)
    assert done.returncode == 0, done.stderr


def test_the_files_of_contributing_work_as_files(tmp_path: Path) -> None:
    for name, text in blocks().items():
        (tmp_path / name).write_text(text)
    manifest = build_with(*(f"./{name}.py" for name in NAMES), cwd=tmp_path)
    assert list(manifest["corruptions"]) == ["drop_closing_think"]
    assert manifest["recipe"]["engine"] == "./replay.py" and manifest["recipe"]["verifier"] == "./states_answer.py"
    card = (tmp_path / "run" / "dataset" / "README.md").read_text()
    assert "yes, by states_answer" in card.replace("\\", "") and "states_answer.py`, a verifier that is not" in card
    shown = call("-m", "specs_data", "corruptions", "./drop_closing_think.py", cwd=tmp_path)
    assert "Take away what closes the thought." in shown.stdout and "remove_all_tags" not in shown.stdout
    scored = call(
        "-m", "specs_data", "verifier-score", "--verifier", "./states_answer.py", "--pairs", "4", cwd=tmp_path
    )
    assert scored.returncode == 0 and "precision" in scored.stdout, scored.stderr


def test_the_files_of_contributing_work_as_a_package(tmp_path: Path) -> None:
    source, site, work = tmp_path / "source", tmp_path / "site", tmp_path / "work"
    source.mkdir()
    for name, text in blocks().items():
        (source / name).write_text(text)
    install(source, site)
    manifest = build_with(*NAMES, cwd=work, path=site)
    assert manifest["operators"]["drop_closing_think"]["origin"] == "my-plugins 0.1.0"


def test_the_example_package_works(tmp_path: Path) -> None:
    source, site = shutil.copytree(ROOT / "examples" / "plugin", tmp_path / "source"), tmp_path / "site"
    install(source, site)
    manifest = build_with("drop_closing_tag", "replay", "states_answer", cwd=tmp_path / "work", path=site)
    assert manifest["recipe"]["engine"] == "replay" and manifest["models"]["verifier"]["requested"] == "states_answer"
    assert manifest["operators"]["drop_closing_tag"]["origin"] == "specs-data-example 1.2.0"


# What is handed over


class Mine:
    """A verifier without a name of its own."""

    concurrency = 1
    paid = False
    settings = {"version": "1"}

    async def verify(self, judged: Judged, images: object) -> Verdict:
        return Verdict(True, "mine")

    async def close(self) -> None:
        pass


def test_a_row_names_each_of_several_verifiers_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "states_answer.py").write_text(blocks()["states_answer.py"])
    wanted = f"{tmp_path}/states_answer.py,rules"
    built = build(recipe(write_sums(tmp_path, 8), verifier=wanted), tmp_path / "run", engine=policy(), quiet=True)
    assert {pair.verifier for pair in built.pairs()} == {"states_answer,rules"}


def test_what_is_handed_over_is_what_is_said_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    problems = str(write_sums(tmp_path, 20))
    built = build(Recipe(problems=problems), engine=policy(), verifier=Mine(), quiet=True)
    assert built.out == Path("runs/ScriptedEngine") and built.count > 10
    assert (built.recipe.engine, built.recipe.verifier) == ("ScriptedEngine", "Mine")
    assert built.manifest["models"]["verifier"]["requested"] == "Mine"
    import pyarrow.parquet as pq

    rows = pq.read_table(built.out / "dataset" / "data", columns=["verifier", "policy"]).to_pylist()
    assert {(row["verifier"], row["policy"]) for row in rows} == {("Mine", "ScriptedEngine")}
    card = (built.out / "dataset" / "README.md").read_text()
    assert "yes, by Mine" in card and "responses that were given" not in card
    named = build(Recipe(problems=problems, verifier="rules"), "named", engine=policy(), verifier=Mine(), quiet=True)
    assert named.recipe.verifier == "Mine"


# Names


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"engine": "vlm"}, r"^no engine is called 'vlm'; there are auto, openai, transformers, vllm, and "
         r"\./file\.py names one of your own; did you mean 'vllm'\?$"),
        ({"engine": "./nowhere.py"}, r"^there is no engine file nowhere\.py$"),
        ({"verifier": "gemmini"}, r"^no verifier is called 'gemmini'; there are gemini, .*; did you mean 'gemini'\?$"),
        ({"verifier": "./nowhere.py"}, r"^there is no verifier file nowhere\.py$"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_said_before_a_token_is_spent(
    tmp_path: Path, settings: dict[str, str], sentence: str
) -> None:
    given = {"policy": str(tmp_path), "problems": "p.jsonl", "verifier": "none", **settings}
    with pytest.raises(UserError, match=sentence):
        build(Recipe(**given), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("kind", "name"), [("engine", "vllm"), ("verifier", "rules"), ("engine", "mine")])
def test_two_owners_of_one_name(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint(name, value, plugins.group(kind)) for value in ("one:x", "other:x")[: 1 + (name == "mine")]]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    owners = "one:x and other:x" if name == "mine" else "specs-data and one:x"
    with pytest.raises(UserError, match=f"^two packages own the {kind} '{name}': {owners}; uninstall one$"):
        (engine_name if kind == "engine" else verifier_name)(Recipe(**{kind: name}))


def test_a_plug_in_engine_is_not_for_ray(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(UserError, match="--ray starts engines of its own"):
        asyncio.run(open_engine(Recipe(engine=str(tmp_path / "mine.py"), ray="local"), Sampling()))


# What goes wrong in one

ENGINE = """
from specs_data.records import Response
class Mine:
    concurrency = 4
    def __init__(self, policy, sampling, options): {made}
    async def generate(self, request): {generate}
    async def close(self): pass
"""
VERIFIER = """
from specs_data.records import Verdict
class Mine:
    concurrency = 4
    settings = {settings}
    def __init__(self, fmt): {made}
    async def verify(self, judged, images): {verify}
    async def close(self): pass
"""


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (ENGINE.format(made="1 / 0", generate="pass"), r"cannot be made: ZeroDivisionError"),
        (ENGINE.format(made="pass", generate="1 / 0"), r"failed: ZeroDivisionError"),
        (ENGINE.format(made="pass", generate="import sys; sys.exit()"), r"failed: SystemExit"),
        (ENGINE.format(made="pass", generate="import asyncio; raise asyncio.CancelledError"), "nobody had cancelled"),
        (ENGINE.format(made="pass", generate="return 'text'"), r"generate is 'text', where a Response should stand"),
        (ENGINE.format(made="pass", generate="return Response(None)"), r"generate is .*, where a Response should"),
        (ENGINE.format(made="pass", generate="return Response('a')").replace("= 4", "= 'many'"), "concurrency is 'm"),
        (
            "class Mine:\n    def __init__(self, policy, sampling, options): pass",
            "no concurrency, no generate, no close",
        ),
        ("class Mine: pass", "cannot be made: TypeError"),
        ("import sys; sys.exit()", r"engine file \S+ cannot be loaded: SystemExit"),
    ],
)
async def test_an_engine_that_breaks_down_is_named(tmp_path: Path, source: str, sentence: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(PluginFailed, match=sentence) as caught:
        engine = await open_engine(Recipe(engine=str(file), policy="p"), Sampling())
        await engine.generate(REQUEST)
        assert engine.concurrency
    assert str(file) in str(caught.value) and "engine" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (VERIFIER.format(made="1 / 0", verify="pass", settings="{}"), r"cannot be made: ZeroDivisionError"),
        (VERIFIER.format(made="pass", verify="1 / 0", settings="{}"), r"failed: ZeroDivisionError"),
        (
            VERIFIER.format(made="pass", verify="import asyncio; raise asyncio.CancelledError", settings="{}"),
            "gave up a call that nobody had cancelled",
        ),
        (VERIFIER.format(made="pass", verify="return True", settings="{}"), r"verify is True, where a Verdict should"),
        (VERIFIER.format(made="pass", verify="return Verdict('yes', '')", settings="{}"), r"where a Verdict should"),
        (
            VERIFIER.format(made="pass", verify="pass", settings="{'a': 1}"),
            r"settings is .*, where a dict should stand: .*str",
        ),
        (VERIFIER.format(made="pass", verify="pass", settings="5"), r"settings is 5, where a dict should stand"),
    ],
)
async def test_a_verifier_that_breaks_down_is_named(tmp_path: Path, source: str, sentence: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(PluginFailed, match=sentence) as caught:
        verifier = open_verifier(Recipe(verifier=str(file)), open_budget(Recipe()))
        assert verifier.settings["verifier"] == "mine"
        await verifier.verify(JUDGED, ())
    assert f"verifier 'mine' ({file})" in str(caught.value)


def test_a_changed_verifier_judges_anew(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    problems = write_sums(tmp_path, 10)
    pairs = []
    for verdict in ("True", "False"):
        file.write_text(VERIFIER.format(made="pass", verify=f"return Verdict({verdict}, 'x')", settings="{}"))
        judged = recipe(problems, verifier=str(file))
        pairs.append(build(judged, tmp_path / "run", engine=policy(), quiet=True, overwrite=True).count)
    assert pairs[0] > 0 and pairs[1] == 0


async def test_whoever_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins, "PATIENCE", 0.05)
    file = tmp_path / "mine.py"
    wait = "import asyncio; await asyncio.sleep(0.2); return Response('a')"
    file.write_text(ENGINE.format(made="pass", generate=wait))
    engine = await open_engine(Recipe(engine=str(file), policy="p"), Sampling())
    assert await engine.generate(REQUEST) == Response("a")  # late, and right
    assert [record.getMessage() for record in caplog.records] == [
        f"engine 'mine' ({file}) has not answered for 0.05 seconds"
    ]


HANGS = {
    "a loop": lambda text, fmt, rng: [None for _ in iter(int, 1)],
    "a pattern that goes back": lambda text, fmt, rng: re.match(r"(a+)+$", "a" * 60 + "b"),
    "a sleep": lambda text, fmt, rng: time.sleep(60),
}


@pytest.mark.parametrize("name", HANGS)
def test_an_operator_that_hangs_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "SECONDS", 0.1)
    before = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)
    started = time.monotonic()
    with pytest.raises(PluginFailed, match=r"^corruption 'mine' \(here\) took more than 0\.1 seconds"):
        Corruption("mine", HANGS[name], "here").apply("a", THINK_ANSWER, None)  # type: ignore[arg-type]
    assert time.monotonic() - started < 5
    assert (signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_operator_works_in_any_thread() -> None:
    made: list[str | None] = []
    mine = Corruption("mine", lambda text, fmt, rng: text + "!", "here")
    thread = threading.Thread(target=lambda: made.append(mine.apply("a", THINK_ANSWER, None)))  # type: ignore[arg-type]
    thread.start()
    thread.join()
    assert made == ["a!"]


def hanging(folder: Path) -> list[str]:
    """A build whose operator never returns."""
    write_sums(folder, 3)
    rows = [{"problem_id": f"sum-{n}", "response": respond_well(n)} for n in range(3)]
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(
        "from pathlib import Path\ndef mine(text, fmt, rng):\n    Path('hangs').touch()\n    while True: pass\n"
    )
    return ["build", "--responses", "responses.jsonl", "--problems", "problems.jsonl", "--verifier", "none",
            "--corruption", "./mine.py", "--out", "run"]  # fmt: skip


def respond_well(number: int) -> str:
    return THINK_ANSWER.render(f"{number} + 1 = {number + 1}.", f"\\boxed{{{number + 1}}}")


def test_a_build_whose_operator_hangs_ends(tmp_path: Path) -> None:
    script = "from specs_data import plugins; plugins.SECONDS = 0.5; from specs_data.cli import main; main()"
    done = call("-c", script, *hanging(tmp_path), cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: corruption 'mine' (mine.py) took more than 0.5 seconds for one response" in done.stderr


def test_an_interrupt_ends_an_operator_that_hangs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "specs_data", *hanging(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        while not (tmp_path / "hangs").exists():
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        try:
            _, errors = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 130 and "Traceback" not in errors, errors


def test_who_is_asked_learns_that_what_it_waits_for_failed() -> None:
    async def mends() -> str:
        fails: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(fails.set_exception, ConnectionError("lost"))
        try:
            return await fails
        except ConnectionError:
            await asyncio.sleep(0)
            return "mended"

    assert run(asked_for(mends(), "the engine")) == "mended"
