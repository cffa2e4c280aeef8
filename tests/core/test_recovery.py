"""What is done for a session that nobody is walking."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec.structs import replace

from proxy.core.profile import Absence, GatewayClass, LookupRecipe, VoidRecipe, rules_by_status
from proxy.core.reasons import Reason
from proxy.core.recovery import (
    LOOKUP_SCHEDULE,
    Care,
    care_for,
    may_be_voided,
    next_lookup_at,
    ripe,
)
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome, State
from tests.support.building import AT, MINUTE, a_session

IN_FLIGHT, UNKNOWN, NOT_SENT, REJECTED, DECLINED, ACCEPTED, VOIDED, SUCCEEDED = AttemptStatus
LATE = AT + 15 * MINUTE
FAILED = State.FAILED_MAX_RETRIES
A_STRONG, D_NONE = GatewayClass.A_STRONG, GatewayClass.D_NONE

OPENED = a_session()
UNSENT = a_session(NOT_SENT, state=State.INTERRUPTED)
HELD = a_session(NOT_SENT, state=State.INTERRUPTED, hold=True)
LOST = a_session(UNKNOWN, state=State.INTERRUPTED, updated_at=AT)
FLYING = a_session(IN_FLIGHT, state=State.INTERRUPTED)
GIVEN_UP = a_session(UNKNOWN, state=FAILED, updated_at=AT)


def care(
    session: Session,
    now: int,
    gateway_class: GatewayClass = A_STRONG,
    *,
    lookup: bool = True,
) -> Care:
    """The next step."""
    return care_for(session, now, gateway_class=gateway_class, lookup_possible=lookup)


@pytest.mark.parametrize("session", [OPENED, UNSENT, HELD])
@pytest.mark.parametrize("lookup", [True, False])
def test_what_is_provably_not_charged_expires(session: Session, *, lookup: bool) -> None:
    """At its deadline and not before; until then the client may come back."""
    assert care(session, LATE - 1, lookup=lookup) is Care.LEAVE
    assert care(session, LATE, lookup=lookup) is Care.EXPIRE


@pytest.mark.parametrize(
    "session",
    [
        FLYING,
        a_session(SUCCEEDED, state=State.COMPLETED),
        a_session(DECLINED, state=State.DECLINED),
        a_session(state=State.CANCELLED),
        a_session(state=State.EXPIRED),
        a_session(REJECTED, state=FAILED),
    ],
)
@pytest.mark.parametrize("lookup", [True, False])
@pytest.mark.parametrize("gateway_class", GatewayClass)
def test_left_alone(session: Session, gateway_class: GatewayClass, *, lookup: bool) -> None:
    """What is in flight has someone waiting for it, what is settled needs nobody."""
    assert care(session, LATE, gateway_class, lookup=lookup) is Care.LEAVE


@pytest.mark.parametrize("session", [LOST, GIVEN_UP])
@pytest.mark.parametrize("gateway_class", GatewayClass)
def test_what_is_unknown_is_asked_about(session: Session, gateway_class: GatewayClass) -> None:
    """A second after it was lost, and after its deadline just the same."""
    assert care(session, AT + 999, gateway_class) is Care.LEAVE
    assert care(session, AT + 1000, gateway_class) is Care.ASK_GATEWAY
    assert care(session, LATE, gateway_class) is Care.ASK_GATEWAY


def test_not_before_its_turn() -> None:
    """After an inconclusive look-up the schedule says when."""
    waiting = replace(LOST, lookups=3, next_at=AT + 30_000)
    assert care(waiting, AT + 29_999) is Care.LEAVE
    assert care(waiting, AT + 30_000) is Care.ASK_GATEWAY


def test_when_the_schedule_is_spent() -> None:
    """No further send, but the asking goes on at its slowest pace."""
    spent = replace(LOST, lookups=len(LOOKUP_SCHEDULE), next_at=LATE)
    assert care(spent, AT) is Care.EXHAUST
    assert care(replace(spent, lookups=len(LOOKUP_SCHEDULE) - 1), AT) is Care.LEAVE
    given_up = replace(GIVEN_UP, lookups=20, next_at=LATE)
    assert care(given_up, LATE - 1) is Care.LEAVE
    assert care(given_up, LATE) is Care.ASK_GATEWAY
    resumed = a_session(UNKNOWN, state=State.RESUMED, lookups=20, next_at=AT)
    assert care(resumed, AT) is Care.ASK_GATEWAY


@pytest.mark.parametrize(
    ("gateway_class", "now", "expected"),
    [
        # The client may come back with the same bytes, and they may be sent again.
        (A_STRONG, LATE - 1, Care.LEAVE),
        (A_STRONG, LATE, Care.CALL_A_PERSON),
        (GatewayClass.A_WEAK, AT, Care.CALL_A_PERSON),
        (GatewayClass.B_LOOKUP, AT, Care.CALL_A_PERSON),
        (GatewayClass.C_CANCEL_BY_KEY, AT, Care.CALL_A_PERSON),
        (D_NONE, AT, Care.CALL_A_PERSON),
    ],
)
@pytest.mark.parametrize("session", [LOST, GIVEN_UP])
def test_where_nobody_can_be_asked(
    session: Session, gateway_class: GatewayClass, now: int, expected: Care
) -> None:
    """A person is called once nothing else can settle it, and called once."""
    assert care(session, now, gateway_class, lookup=False) is expected
    called = replace(session, review_required=True)
    assert care(called, now, gateway_class, lookup=False) is Care.LEAVE


@pytest.mark.parametrize("gateway_class", GatewayClass)
@pytest.mark.parametrize("lookup", [True, False])
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("lookups", [0, 100])
def test_time_never_expires_an_unknown(
    gateway_class: GatewayClass, state: State, lookups: int, *, lookup: bool
) -> None:
    """A year later it is still asked about, given up or shown to a person: never expired."""
    session = a_session(UNKNOWN, state=state, lookups=lookups)
    assert session.outcome is Outcome.UNKNOWN
    a_year_later = AT + 365 * 24 * 60 * MINUTE
    assert care(session, a_year_later, gateway_class, lookup=lookup) is not Care.EXPIRE


def test_the_schedule() -> None:
    """Quick while a shopper waits, then ever slower, then once a day for as long as it takes."""
    assert LOOKUP_SCHEDULE == (1, 5, 30, 120, 600, 3600, 21_600, 86_400)
    assert all(sooner < later for sooner, later in pairwise(LOOKUP_SCHEDULE))
    after_each = [next_lookup_at(replace(LOST, lookups=n), AT) - AT for n in range(10)]
    assert [ms // 1000 for ms in after_each] == [
        5, 30, 120, 600, 3600, 21_600, 86_400, 86_400, 86_400, 86_400,
    ]  # fmt: skip


# --- sent again in the background ----------------------------------------------------------------


def test_what_can_only_be_repeated_is_repeated_by_the_schedule() -> None:
    """One lost send: half a minute later again. Two: two minutes. The last send is left alone."""
    once = a_session(UNKNOWN, state=State.INTERRUPTED, max_attempts=4)
    twice = a_session(UNKNOWN, UNKNOWN, state=State.INTERRUPTED, max_attempts=4)
    thrice = a_session(UNKNOWN, UNKNOWN, UNKNOWN, state=State.INTERRUPTED, max_attempts=4)
    for session, seconds in ((once, 5), (twice, 30)):
        due = (session.last_send_at or 0) + seconds * 1000
        assert again(session, due - 1) is Care.LEAVE
        assert again(session, due) is Care.SEND_AGAIN
    assert again(thrice, AT + 10 * MINUTE) is Care.LEAVE


def test_what_can_be_looked_up_is_not_repeated() -> None:
    """A look-up only reads."""
    once = a_session(UNKNOWN, state=State.INTERRUPTED, updated_at=AT)
    assert again(once, AT + MINUTE, lookup=True) is Care.ASK_GATEWAY


def again(session: Session, now: int, *, lookup: bool = False) -> Care:
    """The next step where the bytes are at hand and may be repeated."""
    return care_for(
        session, now, gateway_class=A_STRONG, lookup_possible=lookup, repeat_possible=True
    )


# --- the next look, and what is voided -----------------------------------------------------------

NO_RULES = rules_by_status([])
VOID = VoidRecipe("/void", "{gateway_key}", NO_RULES, after=120.0)
VOIDABLE = LookupRecipe("r", void=VOID)
C_CANCEL = GatewayClass.C_CANCEL_BY_KEY


def test_a_proof_is_not_waited_for_longer_than_it_takes() -> None:
    """Four minutes between two confirmations; after the schedule's end once a day again."""
    recipe = LookupRecipe("r", absence=Absence(after=240.0, confirmations=3))
    session = replace(LOST, lookups=4)
    assert next_lookup_at(session, LATE) == LATE + 3_600_000
    assert next_lookup_at(session, LATE, recipe) == LATE + 240_000
    assert next_lookup_at(replace(LOST, lookups=8), LATE, recipe) == LATE + 24 * 3_600_000


def test_a_void_is_asked_for_as_soon_as_it_counts() -> None:
    """Two minutes after the send, when the schedule would wait longer."""
    sent = LOST.last_send_at or 0
    session = replace(LOST, lookups=4)
    assert next_lookup_at(session, sent + 60_000, VOIDABLE) == sent + 120_000
    assert next_lookup_at(session, sent + 120_000, VOIDABLE) == sent + 120_000 + 3_600_000
    assert not ripe(VOID, session, sent + 119_999)
    assert ripe(VOID, session, sent + 120_000)


@pytest.mark.parametrize("gateway_class", GatewayClass)
def test_who_has_a_payment_voided(gateway_class: GatewayClass) -> None:
    """By itself only class C; a person's cancel everywhere. Never what is settled or in flight."""
    by_itself = gateway_class is C_CANCEL
    assert may_be_voided(LOST, VOIDABLE, gateway_class) is by_itself
    assert may_be_voided(replace(LOST, hold=True), VOIDABLE, gateway_class) is False
    wanted = replace(LOST, cancel_requested=True)
    assert may_be_voided(wanted, VOIDABLE, gateway_class)
    assert not may_be_voided(wanted, LookupRecipe("r"), gateway_class)
    assert not may_be_voided(replace(FLYING, cancel_requested=True), VOIDABLE, gateway_class)
    assert not may_be_voided(replace(UNSENT, cancel_requested=True), VOIDABLE, gateway_class)
    # Two may stand under the key, and a void speaks for one.
    assert not may_be_voided(replace(wanted, at_risk=True), VOIDABLE, gateway_class)


def test_what_a_process_died_over_needs_a_person_to_be_voided() -> None:
    """Its backend may have heard of a charge that could not be written down."""
    died = tuple(replace(a, reason=Reason.PROCESS_RESTART) for a in LOST.attempts)
    session = replace(LOST, attempts=died)
    assert not may_be_voided(session, VOIDABLE, C_CANCEL)
    assert may_be_voided(replace(session, cancel_requested=True), VOIDABLE, C_CANCEL)
