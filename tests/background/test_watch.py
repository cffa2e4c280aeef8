"""What an operator looks for in the log first: each change of the store and of the lease, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.background.watch import Watch
from proxy.core import events as ev
from tests.support.clocks import LoopClock
from tests.support.lab import Notes, SharedStore
from tests.support.stage import Stage, eventually, staged

REFUSED = "cannot reach the store"


class Server(SharedStore):
    """A store that can be away, and can have lost something."""

    trouble: str | None = None  # type: ignore[assignment]  # the memory store has none
    regressed: str | None = None


@pytest.mark.looptime
async def test_each_change_is_told_once() -> None:
    """However often it is looked at, and whatever else happens meanwhile."""
    clock = LoopClock()
    store, notes = Server(clock, []), Notes()
    watch = Watch(store, notes, clock)

    def told() -> list[ev.Fact]:
        notes.facts.clear()
        for _ in range(3):
            watch.look()
        return list(notes.facts)

    assert told() == []
    store.trouble = REFUSED
    assert told() == [ev.StoreAway(REFUSED)]
    await clock.sleep(SharedStore.LEASE)
    assert told() == [ev.LeaseLost(1)]
    store.trouble, store.regressed = None, "it has lost one"
    await store.heartbeat()
    assert told() == [ev.StoreBack(), ev.StoreRegressed("it has lost one"), ev.LeaseTaken(2)]
    store.regressed = None
    assert told() == [ev.LossAccepted()]


@pytest.mark.looptime
async def test_a_process_that_was_stopped_tells_both_at_once() -> None:
    """Its lease ran out, and it has the next one before it looks."""
    clock = LoopClock()
    store, notes = Server(clock, []), Notes()
    watch = Watch(store, notes, clock)
    watch.look()
    await clock.sleep(SharedStore.LEASE)
    await store.heartbeat()
    watch.look()
    assert notes.facts == [ev.LeaseLost(1), ev.LeaseTaken(2)]


async def test_a_full_disk_is_two_lines(tmp_path: Path) -> None:
    """One when it fills, with why, and one when there is room; none for each refused request."""
    async with staged(tmp_path) as stage:
        await stage.fill_store()
        for order in ("o-1", "o-2"):
            assert (await stage.pay(order)).status == 503
        stage.clock.leap(1)
        await eventually(lambda: lines(stage), lambda told: len(told) == 1)
        await stage.make_room()
        stage.clock.leap(1)
        told = await eventually(lambda: _after_a_second(stage), lambda told: len(told) > 1)
    away, back = told
    assert (away["event"], away["level"]) == ("store away", "error")
    assert away["why"] == "the disk is full"
    assert (back["event"], back["level"]) == ("store back", "info")


async def _after_a_second(stage: Stage) -> list[dict[str, Any]]:
    stage.clock.leap(1)
    return await lines(stage)


async def lines(stage: Stage) -> list[dict[str, Any]]:
    """What the log says of the store."""
    log: Any = stage.running.log
    told = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in told if line["event"].startswith("store")]
