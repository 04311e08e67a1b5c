"""What is started for a process ends with it."""

from __future__ import annotations

import subprocess
import sys

from specs_data.engines.orphans import end_with_us

# Starts a sleeper that would outlive it, has it guarded, says its id, and waits.
KEEPER = """
import subprocess, sys
from specs_data.engines.orphans import end_with_us
sleeper = subprocess.Popen([sys.executable, "-c", "print('up', flush=True); import time; time.sleep(600)"])
guard = end_with_us([sleeper.pid])
sys.stdin.read()
"""


def test_what_a_killed_process_started_ends_too() -> None:
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == b"up\n"
    keeper.kill()
    # The sleeper has the same pipe: it ends when the sleeper is gone.
    assert keeper.communicate(timeout=60) == (b"", None)


def test_what_ended_by_itself_is_left_alone() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        guard = end_with_us([other.pid])
        guard.kill()
        guard.communicate()
        assert other.communicate(b"still here") == (b"still here", None)
