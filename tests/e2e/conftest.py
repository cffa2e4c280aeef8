"""What the end-to-end tests share: the parts, both SDKs, and a quiet environment for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.sdks import SDKS, Opener
from tests.support import parts
from tests.support.parts import Part


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy of the machine between SDK and Holdfast, and nothing written into a home."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def _localstripe_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Part]:
    with parts.localstripe(tmp_path_factory.mktemp("localstripe")) as part:
        yield part


@pytest.fixture
def localstripe(_localstripe_process: Part) -> Part:
    """A localstripe in a fresh state."""
    _localstripe_process.forget_everything()
    return _localstripe_process


@pytest.fixture
def stripe_mock(tmp_path: Path) -> Iterator[Part]:
    """A stripe-stateful-mock of the test's own: it cannot forget, so each test has a new one."""
    with parts.stripe_stateful_mock(tmp_path) as part:
        yield part


@pytest.fixture(params=sorted(SDKS))
def sdk(request: pytest.FixtureRequest) -> Opener:
    """Each SDK in turn."""
    if request.param == "stripe-node":
        parts.node()
    return SDKS[request.param]
