"""A session as bytes and back. What a store keeps besides the columns it searches by."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.core.session import Attempt, Interruption, Retry, Session, Step
from proxy.core.states import AttemptStatus, Outcome, State


def encode(session: Session) -> bytes:
    """The session as JSON: its values, and those of its rows, in the order of their fields.

    The order is the format: a new field goes to the end and has a default. What seldom happens
    stands at the end and is left out while it has not.
    """
    values = session[:_SELDOM] if session[_SELDOM:] == _NOT_HAPPENED else session
    # A NamedTuple is no JSON to orjson; a tuple is, and making one is cheap.
    return orjson.dumps(values, default=tuple)


def decode(data: bytes) -> Session:
    """The session that `encode` wrote."""
    values: list[Any] = orjson.loads(data)
    if not isinstance(values, list):
        message = "a session is written as a list"
        raise TypeError(message)
    session = Session(*values)
    attempts = [Attempt(*row) for row in session.attempts]
    return session._replace(
        state=State(session.state),
        outcome=Outcome(session.outcome),
        attempts=tuple(a._replace(status=AttemptStatus(a.status)) for a in attempts),
        interruptions=tuple(Interruption(*row) for row in session.interruptions),
        retries=tuple(Retry(*row) for row in session.retries),
        timeline=tuple(Step(*row) for row in session.timeline),
    )


_SELDOM = Session._fields.index("cancel_requested")
_NOT_HAPPENED = tuple(Session._field_defaults[name] for name in Session._fields[_SELDOM:])
