"""A session survives being written down."""

from __future__ import annotations

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult, Repeat
from proxy.core.session import apply
from proxy.core.states import AttemptStatus
from proxy.core.wire import Phase
from proxy.stores.codec import decode, encode
from tests.stores.test_conformance import opened, sent


def test_every_field_comes_back() -> None:
    """A session with attempts, interruptions, retries and a timeline is the same after a round."""
    lost = AttemptResult(AttemptStatus.UNKNOWN, Reason.CONNECTION_LOST, Repeat.BY_CLASS)
    session = opened(1, order_ref="o-ü", user_ref="u", amount="1999", currency="eur")
    session = apply(
        sent(session),
        ev.AttemptEnded(3000, 1, "stripe", lost, Phase.AWAITING_RESPONSE, True, 0, 2000),
    )
    session = apply(session, ev.RetryScheduled(3000, 2, 412, Reason.CONNECTION_LOST))
    session = apply(session, ev.Resumed(3412, ev.ResumedBy.TIMER))
    session = apply(sent(session), ev.CancelRequested(3500, "the shopper left"))
    assert decode(encode(session)) == session


def test_kinds_come_back_as_what_they_were() -> None:
    """States and statuses are enumerations again, not just equal text."""
    session = decode(encode(sent(opened(1))))
    assert type(session.state).__name__ == "State"
    assert type(session.attempts[0].status).__name__ == "AttemptStatus"
    assert type(session.timeline[0].outcome).__name__ == "Outcome"
