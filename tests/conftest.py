"""Ctrl-C reaches what the tests start, also where they themselves run in the background: a shell lets that ignore it."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
