"""Plug-ins that do what none should: the run ends in one sentence with the plug-in's name, or comes out as if nothing
had been; once the plug-in is mended, the same command gives the dataset that a sound one gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.sums import dataset_bytes, write_sums
from hard.conftest import assert_sentence, few

BOUND = 60.0  # seconds for one command on a busy machine; after an interrupt it has PATIENCE
PATIENCE = 20.0
HEAD = "import asyncio, itertools, sys, time\nfrom pathlib import Path\ncalls = itertools.count()\n"
SOUND = {
    "corruption": """{top}
def mine(text, fmt, rng):
    if next(calls) == 2:
        {call}
    return text.replace("<think>", "").replace("</think>", "")
""",
    "engine": """{top}
from specs_data.records import Response
class mine:
    concurrency = 1
    def __init__(self, policy, sampling, options):
        {made}
    {way} generate(self, request):
        if next(calls) == 2:
            {call}
        number = int(request.messages[-1].content.split()[2]) + 1
        thought = f"{{number - 1}} + 1 = {{number}}."
        return Response(f"<think>{{thought}}</think>\\n<answer>\\\\boxed{{{{{{number}}}}}}</answer>")
    async def close(self):
        {closed}
""",
    "verifier": """{top}
from specs_data.records import Verdict
class mine:
    concurrency = 1
    settings = {settings}
    def __init__(self, fmt):
        {made}
    {way} verify(self, judged, images):
        if next(calls) == 2:
            {call}
        return Verdict(True, "mine")
    async def close(self):
        {closed}
""",
}
HANG = "Path('hangs').touch()\n            while True: {}"
ODD = "\nclass Odd(BaseException): pass\nclass Mute(Exception):\n    def __repr__(self): raise ValueError('no')\n"
CALLS = {
    "raises": "1 / 0",
    "raises what is no Exception": "raise Odd",
    "raises what cannot be shown": "raise Mute",
    "raises a terminal's codes": "raise ValueError('\\x1b[2J\\ud800\\n' * 9999)",
    "leaves": "sys.exit()",
    "leaves as if done": "raise SystemExit(0)",
    "cancels itself": "raise asyncio.CancelledError",
    "stops an iteration": "raise StopIteration",
    "closes a generator": "raise GeneratorExit",
    "recurses": "f = lambda: f()\n            f()",
    "takes all memory": "bytearray(1 << 60)",
    "gives a number": "return 5",
    "gives nothing": "return",
    "gives bytes": "return b'text'",
    "hangs busily": HANG.format("pass"),
    "hangs asleep": HANG.format("time.sleep(100)"),
}
# By kind and fault: what stands in the plug-in's places.
TRIALS: dict[str, tuple[str, dict[str, str]]] = {
    **{f"{kind} {name}": (kind, {"call": call}) for kind in SOUND for name, call in CALLS.items()
       if (kind, name) != ("corruption", "gives nothing")},  # where an operator does not apply
    **{f"{kind} {name}": (kind, {"call": HANG.format(wait), "closed": closed})
       for kind in ("engine", "verifier") for name, wait, closed in (
        ("hangs waiting", "await asyncio.sleep(100)", "pass"),
        ("hangs waiting, and when closed", "await asyncio.sleep(100)", "await asyncio.sleep(100)"),
        ("hangs waiting, whoever cancels it",
         "\n                try: await asyncio.sleep(100)\n                except BaseException: pass", "pass"),
       )},
    **{f"{kind} {name}": (kind, {"made": made}) for kind in ("engine", "verifier") for name, made in {
        "raises when made": "1 / 0",
        "leaves when made": "sys.exit()",
        "hangs when made": HANG.format("time.sleep(100)"),
    }.items()},
    **{f"{kind} {name} at import": (kind, {"top": HEAD + top}) for kind in SOUND for name, top in {
        "raises": "1 / 0", "leaves": "sys.exit()", "lacks a package": "import nowhere_to_be_found",
        "is no Python": "def (", "raises what is no Exception": ODD + "raise Odd",
        "hangs": "Path('hangs').touch()\nwhile True: pass",
    }.items()},
    **{f"{kind} is no coroutine": (kind, {"way": "def"}) for kind in ("engine", "verifier")},
    **{f"{kind} is a generator": (kind, {"call": "yield 5"}) for kind in SOUND},
    "corruption is a coroutine": ("corruption", {"call": "return asyncio.sleep(0)"}),
    "corruption seeds what it was given": ("corruption", {"call": "rng.seed(0); rng.random = None"}),
    "corruption changes the format": ("corruption", {"call": "fmt.name = 'x'"}),
    "engine changes the request": ("engine", {"call": "request.messages[0].content = 'x'"}),
    "engine fails when closed": ("engine", {"closed": "1 / 0"}),
    "engine gives much": ("engine", {"call": "return Response('x' * 50_000_000)"}),
    "engine gives halves": ("engine", {"call": "return Response('\\ud800')"}),
    "verifier changes what it judges": ("verifier", {"call": "judged.sample.problem.id = 'x'"}),
    "verifier fails when closed": ("verifier", {"closed": "1 / 0"}),
    "verifier has no settings": ("verifier", {"settings": "None"}),
    "verifier says much": ("verifier", {"call": "return Verdict(False, '\\ud800' + 'x' * 50_000_000)"}),
}  # fmt: skip


def source(kind: str, **faults: str) -> str:
    """A plug-in, sound where no fault is said."""
    for place in ("call",) if kind == "corruption" else ("made",):
        if place in faults:
            faults[place] = faults[place].replace("\n            ", "\n        ")
    places = {
        "top": HEAD + ODD,
        "made": "pass",
        "call": "pass",
        "closed": "pass",
        "way": "async def",
        "settings": "{}",
    }
    return SOUND[kind].format(**places | faults)


def command(kind: str, name: str) -> list[str]:
    given = {"corruption": ["--corruption", name, "--verifier", "none"], "verifier": ["--verifier", name],
             "engine": ["--verifier", "none"]}[kind]  # fmt: skip
    engine = name if kind == "engine" else "./policy.py"
    return [sys.executable, "-m", "specs_data", "build", "--engine", engine, "--policy", "p", "--out", "run", "-q",
            "--problems", "problems.jsonl", *given]  # fmt: skip


def install(folder: Path, kind: str) -> None:
    """The plug-in as an installed package has it."""
    info = folder / "mine-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[specs_data.{kind}s]\nmine = mine:mine\n")


def play(folder: Path, kind: str, name: str) -> tuple[int, str]:
    """The command's status, and what it said; one that hangs is interrupted once."""
    hangs = folder / "hangs"
    hangs.unlink(missing_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        command(kind, name), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        begun = time.monotonic()
        while running.poll() is None and not hangs.exists() and time.monotonic() - begun < BOUND:
            time.sleep(0.05)
        if hangs.exists():
            running.send_signal(signal.SIGINT)
        try:
            _, said = running.communicate(timeout=PATIENCE if hangs.exists() else BOUND)
        except subprocess.TimeoutExpired:
            running.kill()
            return -1, running.communicate()[1]
    return running.returncode, said


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What sound plug-ins give, by kind."""
    found = {}
    for kind in SOUND:
        folder = tmp_path_factory.mktemp(kind)
        prepare(folder, kind)
        (folder / "mine.py").write_text(source(kind))
        status, said = play(folder, kind, "./mine.py")
        assert status == 0, said
        found[kind] = dataset_bytes(folder / "run")
    return found


def prepare(folder: Path, kind: str) -> None:
    write_sums(folder, 6)
    (folder / "policy.py").write_text(source("engine").replace("class mine", "class policy"))


@pytest.mark.parametrize("trial", few(TRIALS, 2))
def test_a_faulty_plug_in_is_named(
    tmp_path: Path, sound: dict[str, dict[str, bytes]], trial: str, tally: Callable
) -> None:
    kind, faults = TRIALS[trial]
    packaged = [*TRIALS].index(trial) % 2
    name = "mine" if packaged else "./mine.py"
    prepare(tmp_path, kind)
    if packaged:
        install(tmp_path, kind)
    (tmp_path / "mine.py").write_text(source(kind, **faults))
    status, said = play(tmp_path, kind, name)
    if "hangs" in trial:
        assert status == 130, (status, said)
        assert "interrupted" in said.partition("mine")[0] and "mine" in said, said
        tally(f"{kind}: hangs, and one Ctrl-C ends it")
    elif status:
        assert status == 2, (status, said)
        assert "Traceback" not in said and "mine" in said, said
        if "SyntaxError" not in said:
            assert_sentence(said.strip().splitlines()[-1], "mine")
        tally(f"{kind}: ended in a sentence")
    else:
        tally(f"{kind}: left out what it spoilt")
    assert "Traceback" not in said, said
    (tmp_path / "mine.py").write_text(source(kind))
    status, said = play(tmp_path, kind, name)
    assert status == 0, said
    if status == 0 and not packaged and kind != "verifier":
        wanted = sound[kind]
        assert dataset_bytes(tmp_path / "run").keys() == wanted.keys()
