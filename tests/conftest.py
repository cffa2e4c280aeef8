"""Fixtures every room uses, and the rule that CI skips nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.lab import POLICY, Lab, settings_from

# looptime (0.9) asks for the current event loop before every test, also where there is none. Then
# asyncio makes one that nobody closes, and the warning about it fails some later test.
asyncio.set_event_loop(None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a part that is missing is a failure: there, everything can be installed."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """The flow between a scripted gateway and the memory store, with the policy of `POLICY`."""
    built = Lab(settings_from(POLICY, tmp_path))
    yield built
    await built.close()
