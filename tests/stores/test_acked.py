"""What a store acknowledged is remembered, and missed when it is gone."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.states import AttemptStatus
from proxy.stores.acked import Acked, lost
from tests.stores.test_conformance import ended, opened, sent
from tests.support.clocks import LoopClock


@pytest.mark.looptime
async def test_what_is_there_is_not_missed() -> None:
    """The version that was acknowledged, or a later one somebody else wrote, is as it should be."""
    acked = Acked(LoopClock())
    first, second = opened(1), sent(opened(2))
    acked.note(first)
    acked.note(second)
    assert lost(acked.recent(), {first.id: first.version + 3, second.id: second.version}) is None


@pytest.mark.looptime
async def test_an_older_version_is_a_loss() -> None:
    """The session is there, but not as it was acknowledged: the sentence names it."""
    acked = Acked(LoopClock())
    session = opened(1)
    acked.note(session)
    acked.note(sent(session))
    told = lost(acked.recent(), {session.id: session.version})
    assert told is not None
    assert "lost 1 of the payments" in told
    assert "ps_0001 in version 2" in told


@pytest.mark.looptime
async def test_acknowledgements_may_come_out_of_order() -> None:
    """The latest version is remembered, whichever acknowledgement came last."""
    acked = Acked(LoopClock())
    session = opened(1)
    acked.note(sent(session))
    acked.note(session)
    assert [known.version for known in acked.recent()] == [2]


@pytest.mark.looptime
async def test_what_was_purged_is_not_missed() -> None:
    """Finished and dropped by time is no loss; what is live stays remembered."""
    acked = Acked(LoopClock())
    finished, live = ended(sent(opened(1)), AttemptStatus.SUCCEEDED), opened(2)
    acked.note(finished)
    acked.note(live)
    acked.purged((finished.finished_at or 0) + 1)
    assert acked.recent() == [live]


@pytest.mark.looptime
async def test_only_so_much_is_remembered() -> None:
    """An hour, and some thousand sessions; the oldest go first."""
    acked = Acked(LoopClock())
    acked.note(opened(1))
    await asyncio.sleep(3601)
    acked.note(opened(2))
    assert [session.id for session in acked.recent()] == ["ps_0002"]
    for number in range(3, 5000):
        acked.note(opened(number))
    assert len(acked.recent()) == 4096
    assert acked.recent()[-1].id == "ps_4999"
    acked.forget()
    assert acked.recent() == []
