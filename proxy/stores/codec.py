"""A session as bytes and back. What a store keeps besides the columns it searches by."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.core.session import Attempt, Interruption, Retry, Session, Step
from proxy.core.states import AttemptStatus, Outcome, State


def encode(session: Session) -> bytes:
    """The session as JSON; its lists are rows of values in the order of their fields."""
    fields = session._asdict()
    for name in _ROWS:
        fields[name] = [tuple(row) for row in fields[name]]
    return orjson.dumps(fields)


def decode(data: bytes) -> Session:
    """The session that `encode` wrote."""
    fields: dict[str, Any] = orjson.loads(data)
    for name, kind in _ROWS.items():
        fields[name] = tuple(kind(*row) for row in fields[name])
    fields["state"] = State(fields["state"])
    fields["outcome"] = Outcome(fields["outcome"])
    fields["attempts"] = tuple(
        attempt._replace(status=AttemptStatus(attempt.status)) for attempt in fields["attempts"]
    )
    fields["timeline"] = tuple(
        step._replace(state=State(step.state), outcome=Outcome(step.outcome))
        for step in fields["timeline"]
    )
    return Session(**fields)


_ROWS: dict[str, Any] = {
    "attempts": Attempt,
    "interruptions": Interruption,
    "retries": Retry,
    "timeline": Step,
}
