"""Verbs on a disk that breaks at any one of their writes.

A server process with broken_disk.c in it has the package imported, and does each verb in a fork of itself: a trial
takes a fraction of a second. `python broken_disk.py` is that server: a JSON object a line in, one a line out.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from errno import EIO
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

SOURCE = Path(__file__).with_suffix(".c")
BOUND = 60  # seconds for a verb
WARM = ("cli", "build.run", "share.export", "share.merge", "share.push", "look.report", "look.check", "look.show",
        "look.summary", "measure.evaluate", "measure.errors", "measure.compare", "pairs.parquet", "pairs.shard",
        "rollouts.frames", "verifiers.rules")  # fmt: skip


class Done(Struct, frozen=True):
    """What came of a verb: its exit status, what it said on both streams, the calls that would change something, and
    the one that failed."""

    status: int
    out: str
    err: str
    seen: int
    failed: str


class Broken:
    """A server of verbs. `folder` is for its own files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        library = folder / "broken_disk.so"
        compiler = shutil.which("cc")
        assert compiler is not None
        subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, SOURCE, "-ldl"], check=True)
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(library)],
            env=os.environ | {"LD_PRELOAD": str(library)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._server:  # which closes its pipes, and waits
            pass

    def play(
        self,
        verb: Sequence[object],
        cwd: Path,
        under: Path,
        fault: int = -1,
        error: int = EIO,
        once: bool = False,
    ) -> Done:
        """Do `verb` (as on the command line); call number `fault` that changes something in the folder `under` fails,
        and unless it is to fail `once` all that follow."""
        assert self._server.stdin is not None and self._server.stdout is not None
        told = {"verb": [*map(str, verb)], "cwd": str(cwd), "under": str(under), "fault": fault, "error": error,
                "once": once, "said": str(self._folder)}  # fmt: skip
        self._server.stdin.write(json.dumps(told) + "\n")
        self._server.stdin.flush()
        found: dict[str, Any] = json.loads(self._server.stdout.readline())
        said = {name: (self._folder / name).read_text(errors="replace") for name in ("out", "err")}
        return Done(**found, **said)


def _serve(library: str) -> None:
    disk = ctypes.CDLL(library)
    disk.broken_disk_what.restype = ctypes.c_char_p
    for module in WARM:
        import_module(f"specs_data.{module}")
    for line in sys.stdin:
        told = json.loads(line)
        child = os.fork()
        if not child:
            _play(disk, told)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        failed = disk.broken_disk_what().decode(errors="replace")
        found = {"status": status, "seen": disk.broken_disk_seen(), "failed": failed}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
        disk.broken_disk_arm(b"", -1, 0, 0)


def _play(disk: ctypes.CDLL, told: dict[str, Any]) -> None:
    from specs_data.cli import main

    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(told["said"], name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(told["cwd"])
    sys.path.insert(0, told["cwd"])
    sys.argv = ["specs-data", *told["verb"]]
    signal.alarm(BOUND)
    disk.broken_disk_arm(told["under"].encode(), told["fault"], told["error"], told["once"])
    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    os._exit(99)


if __name__ == "__main__":
    _serve(sys.argv[1])
