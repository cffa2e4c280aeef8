"""Sessions and events for the tests of the core, built from what a test is about."""

from __future__ import annotations

from typing import Any

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult, Repeat
from proxy.core.session import Attempt, Session, apply
from proxy.core.states import AttemptStatus, outcome_of
from proxy.core.wire import InboundRequest, Phase

AT = 1_706_000_000_000
MINUTE = 60_000


def a_session(*statuses: AttemptStatus, **changes: Any) -> Session:
    """A session with one attempt per status; its outcome is what they prove."""
    attempts = tuple(
        Attempt(number, 1, "stripe", status, AT + number, sent=status is not AttemptStatus.NOT_SENT)
        for number, status in enumerate(statuses, start=1)
    )
    fields: dict[str, Any] = {
        "id": "ps_1",
        "gateway": "stripe",
        "started_at": AT,
        "expires_at": AT + 15 * MINUTE,
        "max_attempts": 3,
        "gateway_key": "k-1",
        "attempts": attempts,
        "outcome": outcome_of([(a.generation, a.status) for a in attempts]),
    }
    return Session(**(fields | changes))


def begun(number: int = 1, at: int = AT) -> ev.AttemptStarted:
    """An intent."""
    return ev.AttemptStarted(at, number, "stripe")


def ended(
    status: AttemptStatus, reason: Reason | None = None, *, number: int = 1, at: int = AT
) -> ev.AttemptEnded:
    """The end of a send."""
    sent = status is not AttemptStatus.NOT_SENT
    phase = Phase.ANSWERED if reason is None else Phase.AWAITING_RESPONSE
    return ev.AttemptEnded(
        at=at,
        number=number,
        endpoint="stripe",
        result=AttemptResult(status, reason, Repeat.NO if reason is None else Repeat.BY_CLASS),
        phase=phase if sent else Phase.CONNECTING,
        sent=sent,
        http_status=200 if reason is None else 0,
        started_at=at,
    )


def found(status: AttemptStatus, *, at: int = AT) -> ev.EvidenceFound:
    """A proof that came by another way than an answer."""
    return ev.EvidenceFound(at, ev.EvidenceSource.LOOKUP, status, "pi_1")


def after(session: Session, *events: ev.Event) -> Session:
    """The session after some events."""
    for event in events:
        session = apply(session, event)
    return session


def a_request(body: bytes = b"", kind: str | None = None, **changes: Any) -> InboundRequest:
    """A request that may be forwarded; `kind` is its Content-Type."""
    values = {} if kind is None else {"content-type": kind}
    fields: dict[str, Any] = {
        "gateway": "stripe",
        "method": "POST",
        "target": "/v1/payment_intents",
        "headers": (),
        "body": body,
        "has_body": bool(body),
        "values": values,
    }
    return InboundRequest(**(fields | changes))
