"""What to do with a session that nobody is walking: leave it, ask the gateway, expire it, hand it
over.

A timer may only act on what is proved: it expires what is provably not charged and asks about what
is unknown. It never turns unknown into failed.
"""

from __future__ import annotations

from enum import Enum, auto

from proxy.core.profile import GatewayClass
from proxy.core.session import Session
from proxy.core.states import Outcome, State

# Seconds between look-ups: quick while a shopper waits, then ever slower; the last one repeats for
# as long as nobody knows.
LOOKUP_SCHEDULE = (1, 5, 30, 120, 600, 3600, 6 * 3600, 24 * 3600)


class Care(Enum):
    """The next step for a session nobody is walking."""

    LEAVE = auto()
    ASK_GATEWAY = auto()
    EXPIRE = auto()
    EXHAUST = auto()
    CALL_A_PERSON = auto()


def care_for(
    session: Session, now_ms: int, *, gateway_class: GatewayClass, lookup_possible: bool
) -> Care:
    """The next step. `lookup_possible`: there is a recipe for the route and a credential to use."""
    if session.due_to_expire(now_ms) and not session.in_flight:
        return Care.EXPIRE
    if session.outcome is not Outcome.UNKNOWN or session.in_flight:
        return Care.LEAVE
    if not lookup_possible:
        # The client may come back with the bytes while a repeat is still allowed.
        may_return = gateway_class is GatewayClass.A_STRONG and now_ms < session.expires_at
        waiting = session.review_required or may_return
        return Care.LEAVE if waiting else Care.CALL_A_PERSON
    if session.lookups >= len(LOOKUP_SCHEDULE) and session.state is State.INTERRUPTED:
        return Care.EXHAUST
    due = session.next_at
    if due is None:
        due = session.updated_at + LOOKUP_SCHEDULE[0] * 1000
    return Care.ASK_GATEWAY if now_ms >= due else Care.LEAVE


def next_lookup_at(session: Session, now_ms: int) -> int:
    """When to look again after an inconclusive look-up."""
    step = min(session.lookups + 1, len(LOOKUP_SCHEDULE) - 1)
    return now_ms + LOOKUP_SCHEDULE[step] * 1000
