"""Gemini on the loopback; and no response that is asked for ahead of time because the machine stood still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes.gemini_server import Service as Server


@pytest.fixture(autouse=True)
def nothing_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests count requests: what is asked ahead by the clock has tests of its own."""
    monkeypatch.setattr("specs_data.rollouts.early.SOON", 1e6)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", "k-secret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("specs_data.wire.LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)
    with Server() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        yield server
