"""The lease of a process is renewed for as long as it lives."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from proxy.background.heartbeat import Heartbeat
from proxy.ports import StoreUnavailable
from proxy.stores.memory import MemoryStore
from tests.support.clocks import LoopClock


class _Shared(MemoryStore):
    """A store that hears the beats, and is away for the second of them."""

    def __init__(self, clock: LoopClock) -> None:
        super().__init__(clock)
        self.trouble: str | None = None  # type: ignore[assignment]  # the memory store has none
        self.beats: list[float] = []

    async def heartbeat(self) -> None:
        self.beats.append(asyncio.get_running_loop().time())
        if len(self.beats) == 2:
            message = "away"
            raise StoreUnavailable(message)
        if len(self.beats) == 3:
            message = "a bug of the client library"
            raise RuntimeError(message)


@pytest.mark.looptime
async def test_three_beats_to_a_lease() -> None:
    """Two may be lost; a store that is away, or an exception nobody expected, ends nothing."""
    clock = LoopClock()
    store = _Shared(clock)
    bugs: list[Exception] = []
    beating = asyncio.ensure_future(Heartbeat(store, 9.0, clock, bugs.append).run())
    await asyncio.sleep(13)
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating
    assert store.beats == [3, 6, 9, 12]
    assert [str(bug) for bug in bugs] == ["a bug of the client library"]


@pytest.mark.looptime
async def test_a_store_that_is_away_is_asked_every_second() -> None:
    """Nothing is paid until it answers, however long a lease is."""
    clock = LoopClock()
    store = _Shared(clock)
    store.trouble = "away"
    beating = asyncio.ensure_future(Heartbeat(store, 30.0, clock, lambda _: None).run())
    await asyncio.sleep(4.5)
    store.trouble = None
    await asyncio.sleep(15)
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating
    assert store.beats == [1, 2, 3, 4, 5, 15]
