"""What to do with a session that nobody is walking: leave it, ask the gateway, send it again,
expire it, hand it over.

A timer may only act on what is proved: it expires what is provably not charged and asks about what
is unknown. It never turns unknown into failed.
"""

from __future__ import annotations

from enum import Enum, auto

from proxy.core.lookup import seconds_since_send
from proxy.core.profile import GatewayClass, LookupRecipe, VoidRecipe
from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome, State

# Seconds between look-ups: quick while a shopper waits, then ever slower; the last one repeats for
# as long as nobody knows.
LOOKUP_SCHEDULE = (1, 5, 30, 120, 600, 3600, 6 * 3600, 24 * 3600)


class Care(Enum):
    """The next step for a session nobody is walking."""

    LEAVE = auto()
    ASK_GATEWAY = auto()
    SEND_AGAIN = auto()
    EXPIRE = auto()
    EXHAUST = auto()
    CALL_A_PERSON = auto()


def care_for(
    session: Session,
    now_ms: int,
    *,
    gateway_class: GatewayClass,
    lookup_possible: bool,
    repeat_possible: bool = False,
) -> Care:
    """The next step. `lookup_possible`: there is a recipe for the route and a credential to use.
    `repeat_possible`: its request is at hand, and the same key may be sent again.
    """
    if session.due_to_expire(now_ms) and not session.in_flight:
        return Care.EXPIRE
    if session.outcome is not Outcome.UNKNOWN or session.in_flight:
        return Care.LEAVE
    if not lookup_possible:
        # The last send is left to whoever comes back: a client, or a person.
        if repeat_possible and session.live and session.sends_left() > 1:
            return Care.SEND_AGAIN if now_ms >= _resend_at(session) else Care.LEAVE
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


def _resend_at(session: Session) -> int:
    """When the same bytes are sent again in the background: the more often they were, the later."""
    step = min(len(session.attempts), len(LOOKUP_SCHEDULE) - 1)
    return (session.last_send_at or session.updated_at) + LOOKUP_SCHEDULE[step] * 1000


def next_lookup_at(session: Session, now_ms: int, recipe: LookupRecipe | None = None) -> int:
    """When to look again after an inconclusive look-up: by the schedule, or sooner where a proof
    can be had sooner.
    """
    step = min(session.lookups + 1, len(LOOKUP_SCHEDULE) - 1)
    due = now_ms + LOOKUP_SCHEDULE[step] * 1000
    if recipe is None or session.lookups >= len(LOOKUP_SCHEDULE):
        return due
    if recipe.absence is not None:
        due = min(due, now_ms + round(recipe.absence.after * 1000))
    if recipe.void is not None:
        ripe = (session.last_send_at or 0) + round(recipe.void.after * 1000)
        due = min(due, ripe) if ripe > now_ms else due
    return due


def may_be_voided(session: Session, recipe: LookupRecipe, gateway_class: GatewayClass) -> bool:
    """Whether what there is under the session's key may be voided: a person wants it cancelled, or
    that is how this gateway's lost answers are settled.

    Not by itself where a process died over it: its backend may have heard that it was charged. Not
    at all where two may stand under the key.
    """
    if recipe.void is None or session.gateway_key is None:
        return False
    if session.outcome is not Outcome.UNKNOWN or session.in_flight:
        return False
    if session.at_risk:
        return False
    if session.cancel_requested:
        return True
    died = any(
        attempt.status is AttemptStatus.UNKNOWN and attempt.reason == Reason.PROCESS_RESTART
        for attempt in session.attempts
    )
    return gateway_class is GatewayClass.C_CANCEL_BY_KEY and not session.hold and not died


def ripe(void: VoidRecipe, session: Session, now_ms: int) -> bool:
    """Whether nothing that was sent can arrive any more after it was voided."""
    return seconds_since_send(session, now_ms) >= void.after
