"""The wire is tested on both event loops: `holdfast serve` takes uvloop where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

_ON_BOTH_LOOPS = {"test_wire_conformance.py", "test_lean.py"}
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

ASYNCIO: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
BOTH = dict(ASYNCIO)
with contextlib.suppress(ImportError):  # an extra
    import uvloop

    BOTH["uvloop"] = uvloop.new_event_loop


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, LoopFactory]:
    """Both loops, but for tests that move the clock: only asyncio's can be moved."""
    names = set(getattr(item, "fixturenames", ()))
    if item.path.name not in _ON_BOTH_LOOPS or "loop_time" in names:
        return ASYNCIO
    return BOTH
