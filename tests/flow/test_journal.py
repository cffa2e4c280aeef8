"""How a session moves: decided on what is true, durable before it is told."""

from __future__ import annotations

import pytest

from proxy.core import events as ev
from proxy.core.session import Session, apply
from proxy.core.states import IllegalTransition
from proxy.flow.journal import Change
from proxy.ports import StoreUnavailable
from tests.support.lab import Lab

pytestmark = pytest.mark.looptime


def opened() -> Session:
    """A session that has just begun."""
    begun = Session(id="ps_1", gateway="stripe", started_at=1, expires_at=10**13, max_attempts=3)
    return apply(begun, ev.Opened(1))


async def claimed(lab: Lab) -> Session:
    """The same, claimed."""
    session = opened()
    await lab.store.claim(session, 0)
    return session


async def test_a_change_is_decided_anew_when_someone_was_quicker(lab: Lab) -> None:
    """A cancel that came in between is not overwritten: the change sees it."""
    session = await claimed(lab)
    seen: list[bool] = []
    await lab.journal.update(
        session, lambda _: Change([ev.CancelRequested(2, "quick")]), frozenset()
    )

    def decide(current: Session) -> Change:
        seen.append(current.cancel_requested)
        return Change([ev.ReviewNeeded(3)])

    after = await lab.journal.update(session, decide, frozenset())
    assert seen == [False, True]
    assert after.cancel_requested
    assert after.version == 3


async def test_nothing_to_do_is_nothing_done(lab: Lab) -> None:
    """A change without events writes nothing and tells nothing."""
    session = await claimed(lab)
    assert await lab.journal.update(session, lambda _: Change(), frozenset()) == session
    assert lab.transcript == []


async def test_nobody_hears_of_what_is_not_durable(lab: Lab) -> None:
    """The store fails: no event is told."""
    session = await claimed(lab)
    lab.store.failing = True
    with pytest.raises(StoreUnavailable):
        await lab.journal.update(session, lambda _: Change([ev.ReviewNeeded(2)]), frozenset())
    assert lab.notes.moves == []


async def test_an_illegal_change_changes_nothing(lab: Lab) -> None:
    """The table says no, and the store never hears of it."""
    session = await claimed(lab)
    with pytest.raises(IllegalTransition):
        await lab.journal.update(session, lambda _: Change([ev.Exhausted(2)]), frozenset())
    assert await lab.store.get("ps_1") == session


async def test_a_session_that_is_gone_cannot_be_changed(lab: Lab) -> None:
    """Purged meanwhile: an error that names it."""
    with pytest.raises(StoreUnavailable, match="ps_1 is gone"):
        await lab.journal.update(opened(), lambda _: Change([ev.ReviewNeeded(2)]), frozenset())
