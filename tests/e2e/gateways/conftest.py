"""The SDKs find the simulators, whatever stands in the environment."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_proxy_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the machine is not asked for what is on it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
