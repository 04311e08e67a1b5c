"""Ctrl-C reaches what the tests start, also where they run in the background, which a shell lets ignore it."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
