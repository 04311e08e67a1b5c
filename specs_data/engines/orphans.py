"""What another library starts and leaves behind where this process is killed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

# `read` ends with the pipe, and the pipe ends with the process that holds its other end, however that ends.
_WAIT_AND_END = 'read -r _; kill -9 "$@"'


def end_with_us(processes: Sequence[int]) -> subprocess.Popen[bytes]:
    """A small process that ends those with these ids once this process is gone, even by kill -9. Kill it once they have
    ended by themselves: their ids may be others' then."""
    return subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", _WAIT_AND_END, "sh", *map(str, processes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal goes to this process alone
    )
