"""A session as bytes and back. What a store keeps besides the columns it searches by."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.core.session import Attempt, Interruption, Retry, Session, Step
from proxy.core.states import AttemptStatus, Outcome, State


def encode(session: Session) -> bytes:
    """The session as JSON; its lists are rows of values in the order of their fields.

    What is as it always begins is left out: it is the larger part, and written twice a payment.
    """
    fields: dict[str, Any] = {
        name: value
        for name, value, usual in zip(Session._fields, session, _USUALLY, strict=True)
        if value is not usual
    }
    for name in _ROWS:
        if name in fields:
            fields[name] = [tuple(row) for row in fields[name]]
    return orjson.dumps(fields)


def decode(data: bytes) -> Session:
    """The session that `encode` wrote."""
    fields: dict[str, Any] = orjson.loads(data)
    if not isinstance(fields, dict):
        message = "a session is written as an object"
        raise TypeError(message)
    for name, kind in _ROWS.items():
        fields[name] = tuple(kind(*row) for row in fields.get(name, ()))
    fields["attempts"] = tuple(
        attempt._replace(status=AttemptStatus(attempt.status)) for attempt in fields["attempts"]
    )
    fields["timeline"] = tuple(
        step._replace(state=State(step.state), outcome=Outcome(step.outcome))
        for step in fields["timeline"]
    )
    session = Session(**fields)
    return session._replace(state=State(session.state), outcome=Outcome(session.outcome))


_ROWS: dict[str, Any] = {
    "attempts": Attempt,
    "interruptions": Interruption,
    "retries": Retry,
    "timeline": Step,
}
# A field without a default is always written: nothing is the same object as this.
_ALWAYS = object()
_USUALLY = [Session._field_defaults.get(name, _ALWAYS) for name in Session._fields]
