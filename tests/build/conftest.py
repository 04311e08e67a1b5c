"""Gemini on the loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes.gemini_server import Service as Server


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
