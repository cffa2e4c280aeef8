"""How an event changes a session: each event by itself, every reachable situation, and long lives.

`check_laws` holds the laws of the money rules for one step. It is asked for every step of an
exhaustive walk (all situations with up to two sends) and of some thousand random lives.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult, Repeat
from proxy.core.session import Attempt, Interruption, Retry, Session, Step, apply, opened
from proxy.core.states import (
    LIVE,
    AttemptStatus,
    IllegalTransition,
    Outcome,
    State,
)
from proxy.core.wire import Phase
from tests.core.test_states import level
from tests.support.building import AT, a_session, after, begun, ended, found

IN_FLIGHT, UNKNOWN, NOT_SENT, REJECTED, DECLINED, ACCEPTED, VOIDED, SUCCEEDED = AttemptStatus
LOST = Reason.CONNECTION_LOST
AT_RISK = ev.AttemptStarted(AT, 2, "stripe", at_risk=True)
RESTARTED = ev.ProcessRestarted(AT)
EXPIRED = ev.Expired(AT)
EXHAUSTED = ev.Exhausted(AT)
CANCELLED = ev.Cancelled(AT, "changed my mind")
CANCEL_WANTED = ev.CancelRequested(AT, "changed my mind")
HELD = ev.Interrupted(AT, Reason.REQUESTED, Phase.BEFORE_SEND, detail="let me look", hold=True)
SHUT_DOWN = ev.Interrupted(AT, Reason.SHUTDOWN, Phase.BEFORE_SEND)
LOOKED_UP = ev.LookedUp(AT, AT + 5000)
MISSED = ev.LookedUp(AT, AT + 5000, absent=True)
VOID_ASKED = ev.VoidAsked(AT)
VOUCHED = ev.EvidenceFound(AT, ev.EvidenceSource.PERSON, SUCCEEDED, "pi_1")
PROVED_VOID = ev.EvidenceFound(AT, ev.EvidenceSource.LOOKUP, VOIDED, "not found", "gk-2")
REVIEW = ev.ReviewNeeded(AT)
BY_TIMER = ev.Resumed(AT, ev.ResumedBy.TIMER)
BY_PERSON = ev.Resumed(AT, ev.ResumedBy.REQUEST)
AGAIN = ev.RetryScheduled(AT, 2, 412, LOST)
BOUND = ev.Bound(
    at=AT,
    gateway="stripe",
    route="create-payment",
    operation="charge",
    tenant="t",
    key_hash="k",
    gateway_key="gk",
    fingerprint="f",
    order_locks=True,
    named=True,
    max_attempts=5,
)

# What no gateway and no person said: time, Holdfast itself.
BY_ITSELF = (
    ev.Opened,
    ev.Bound,
    ev.AttemptStarted,
    ev.RetryScheduled,
    ev.Interrupted,
    ev.Resumed,
    ev.CancelRequested,
    ev.Cancelled,
    ev.Expired,
    ev.Exhausted,
    ev.LookedUp,
    ev.VoidAsked,
    ev.ReviewNeeded,
    ev.ProcessRestarted,
)
# What is never refused: it says what happened, whether it was wanted or not.
EVIDENCE = (ev.AttemptEnded, ev.EvidenceFound, ev.Interrupted, ev.ProcessRestarted)
CLOSED_WITHOUT_CHARGE = {State.CANCELLED, State.EXPIRED, State.DECLINED}


# --- the laws -----------------------------------------------------------------------------------


def spoken(later: list[tuple[int, AttemptStatus]], generation: int) -> bool:
    """Whether the gateway answered for this key afterwards."""
    return any(g == generation and status in {DECLINED, ACCEPTED, VOIDED} for g, status in later)


def proved(session: Session) -> Outcome:
    """The outcome by the words of the money rules, worked out another way than the code does."""
    statuses = [(a.generation, a.status) for a in session.attempts]
    if any(status is SUCCEEDED for _, status in statuses):
        return Outcome.CHARGED
    if any(status is IN_FLIGHT for _, status in statuses):
        return Outcome.UNKNOWN
    lost = any(
        status is UNKNOWN and not spoken(statuses[number:], generation)
        for number, (generation, status) in enumerate(statuses)
    )
    return Outcome.UNKNOWN if lost else Outcome.NOT_CHARGED


def check_laws(before: Session, event: ev.Event, now: Session) -> None:
    """What holds for every event, whatever came before it."""
    check_history(before, event, now)
    check_money(before, event, now)
    check_visibility(before, event, now)
    check_keys(before, event, now)


def check_keys(before: Session, event: ev.Event, now: Session) -> None:
    """Another key needs the proof that nothing was charged under the one before."""
    if now.generation != before.generation:
        assert (event, now.generation) == (PROVED_VOID, before.generation + 1)
        assert (before.outcome, now.outcome) == (Outcome.UNKNOWN, Outcome.NOT_CHARGED)
        assert not now.in_flight
    elif not isinstance(event, ev.Bound):
        assert now.gateway_key == before.gateway_key
    if isinstance(event, ev.AttemptStarted):
        earlier = [a.status for a in now.attempts if a.generation != now.generation]
        assert not {IN_FLIGHT, UNKNOWN} & set(earlier), "two keys are open at once"


def check_history(before: Session, event: ev.Event, now: Session) -> None:
    """Nothing that was known is forgotten."""
    assert now.version == before.version + 1
    assert now.updated_at == event.at
    assert now.timeline[:-1] == before.timeline
    name, note = type(event).__name__, said_with(event)
    assert now.timeline[-1] == Step(event.at, name, now.state, now.outcome, note)
    assert now.interruptions[: len(before.interruptions)] == before.interruptions
    assert now.retries[: len(before.retries)] == before.retries
    assert [a.number for a in now.attempts] == list(range(1, len(now.attempts) + 1))
    for old, new in zip(before.attempts, now.attempts, strict=False):
        assert new.number == old.number
        assert new.generation == old.generation
        assert new.started_at == old.started_at
        assert level(new.status) >= level(old.status), "an attempt's status moved down"


def said_with(event: ev.Event) -> str | None:
    """Where a proof came from, or the reason somebody gave."""
    match event:
        case ev.EvidenceFound():
            return f"{event.source.value}: {event.reference}"
        case ev.CancelRequested() | ev.Cancelled():
            return event.reason
        case ev.Interrupted():
            return event.detail
        case _:
            return None


def check_money(before: Session, event: ev.Event, now: Session) -> None:
    """What is said of the charge is what is proved."""
    assert now.outcome is proved(now)
    if before.outcome is Outcome.CHARGED:
        assert now.outcome is Outcome.CHARGED, "a charge was forgotten"
    if now.outcome is Outcome.CHARGED or before.state is State.COMPLETED:
        assert now.state is State.COMPLETED
    if now.state in CLOSED_WITHOUT_CHARGE:
        assert now.outcome is Outcome.NOT_CHARGED, f"{now.state} without the proof"
    if now.state is State.EXPIRED and before.state is not State.EXPIRED:
        assert before.outcome is Outcome.NOT_CHARGED
    if before.outcome is Outcome.UNKNOWN and isinstance(event, BY_ITSELF):
        assert now.outcome is Outcome.UNKNOWN, f"{type(event).__name__} settled an unknown"
    if isinstance(event, ev.EvidenceFound) and event.status is SUCCEEDED:
        assert (now.state, now.outcome) == (State.COMPLETED, Outcome.CHARGED)
    if now.in_flight:
        assert now.outcome is not Outcome.NOT_CHARGED


def check_visibility(before: Session, event: ev.Event, now: Session) -> None:
    """What is not settled stays in sight, and its order locked."""
    if not before.live:
        assert not now.live, "a closed session came back to life"
    assert (now.finished_at is None) is now.live
    open_still = now.live or now.outcome is Outcome.UNKNOWN
    contradicted = now.late_evidence and now.review_required
    assert now.listed is (open_still or contradicted or now.in_flight)
    may_lock = now.order_locks and now.order_ref is not None
    assert now.locks_order is (may_lock and (open_still or now.outcome is Outcome.CHARGED))
    if now.review_required:
        assert now.outcome is Outcome.UNKNOWN or now.late_evidence
    if before.listed and not now.listed and before.late_evidence:
        assert isinstance(event, ev.EvidenceFound), "a contradiction vanished"
    assert now.cancel_requested or not before.cancel_requested
    lifted = before.hold and not now.hold
    assert not lifted or event == BY_PERSON, "only a person lifts a person's hold"
    assert now.due_to_expire(now.expires_at) is (now.live and now.outcome is Outcome.NOT_CHARGED)


def stepped(session: Session, event: ev.Event) -> Session | None:
    """The next session with its laws checked; None if the table has no such row."""
    kept = replace(
        session,
    )
    try:
        now = apply(session, event)
    except IllegalTransition:
        assert not isinstance(event, EVIDENCE), f"{event} was refused"
        assert session == kept
        return None
    check_laws(session, event, now)
    return now


# --- every reachable situation ------------------------------------------------------------------

ENDS = (
    (SUCCEEDED, None),
    (ACCEPTED, None),
    (DECLINED, None),
    (REJECTED, None),
    (REJECTED, Reason.RATE_LIMITED),
    (UNKNOWN, LOST),
)
ALWAYS_POSSIBLE: tuple[ev.Event, ...] = (
    ev.Opened(AT), BOUND, AGAIN, HELD, SHUT_DOWN, BY_TIMER, BY_PERSON, CANCEL_WANTED, CANCELLED,
    EXPIRED, EXHAUSTED, LOOKED_UP, MISSED, VOID_ASKED, REVIEW, RESTARTED,
    found(SUCCEEDED), found(ACCEPTED), found(DECLINED), found(VOIDED), PROVED_VOID, VOUCHED,
)  # fmt: skip


@cache
def possible(sends: int, *, max_sends: int) -> tuple[ev.Event, ...]:
    """Every event that could come after some sends. Only what was begun ends as sent."""
    ends = [(NOT_SENT, Reason.CONNECTION_REFUSED), *ENDS]
    events: list[ev.Event] = list(ALWAYS_POSSIBLE)
    for number in range(1, sends + 1):
        events += [ended(status, reason, number=number) for status, reason in ends]
    if sends < max_sends:
        events += [begun(sends + 1), ended(*ends[0], number=sends + 1)]
    return tuple(events)


def situation(session: Session) -> tuple[object, ...]:
    """What decides about the future of a session."""
    return (
        session.state,
        session.outcome,
        tuple((attempt.generation, attempt.status) for attempt in session.attempts),
        session.generation,
        session.hold,
        session.cancel_requested,
        session.review_required,
        session.late_evidence,
    )


def test_every_reachable_situation_keeps_the_laws() -> None:
    """All situations with up to two sends, and every event in each of them."""
    new = a_session(order_ref="o-1", order_locks=True)
    seen = {situation(new)}
    waiting = [new]
    steps = 0
    while waiting:
        session = waiting.pop()
        for event in possible(len(session.attempts), max_sends=2):
            now = stepped(session, event)
            steps += now is not None
            if now is not None and situation(now) not in seen:
                seen.add(situation(now))
                # Only what decides is kept, so that a path does not grow with its history.
                waiting.append(replace(now, timeline=(), interruptions=(), retries=()))
    reached = {(found[0], found[1]) for found in seen}
    assert reached == {
        (State.INITIATED, Outcome.NOT_CHARGED),
        (State.INITIATED, Outcome.UNKNOWN),
        (State.INTERRUPTED, Outcome.NOT_CHARGED),
        (State.INTERRUPTED, Outcome.UNKNOWN),
        (State.RESUMED, Outcome.NOT_CHARGED),
        (State.RESUMED, Outcome.UNKNOWN),
        (State.COMPLETED, Outcome.NOT_CHARGED),
        (State.COMPLETED, Outcome.CHARGED),
        (State.DECLINED, Outcome.NOT_CHARGED),
        (State.CANCELLED, Outcome.NOT_CHARGED),
        (State.EXPIRED, Outcome.NOT_CHARGED),
        (State.FAILED_MAX_RETRIES, Outcome.NOT_CHARGED),
        (State.FAILED_MAX_RETRIES, Outcome.UNKNOWN),
    }
    assert len(seen) > 2000
    assert steps > 20_000


# --- long lives ---------------------------------------------------------------------------------


@settings(
    max_examples=2000,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    choices=st.binary(min_size=10, max_size=30),
    order=st.sampled_from(["o-1", None]),
    max_attempts=st.integers(1, 5),
)
def test_no_life_leaves_the_laws(choices: bytes, order: str | None, max_attempts: int) -> None:
    """Two thousand lives of up to thirty events, the same ones each time: each byte picks one."""
    session = a_session(order_ref=order, order_locks=True, max_attempts=max_attempts)
    lived: list[ev.Event] = []
    try:
        for choice in choices:
            events = possible(len(session.attempts), max_sends=6)
            lived.append(events[choice % len(events)])
            session = stepped(session, lived[-1]) or session
    except AssertionError:
        note("\n".join(map(str, lived)))
        raise


def test_the_laws_have_teeth() -> None:
    """The checks above do fail: a timer that settles an unknown, a charge that is forgotten."""
    lost = a_session(UNKNOWN, state=State.INTERRUPTED)
    failed = replace(apply(lost, EXHAUSTED), outcome=Outcome.NOT_CHARGED)
    with pytest.raises(AssertionError):
        check_money(lost, EXHAUSTED, failed)
    paid = a_session(SUCCEEDED, state=State.COMPLETED)
    with pytest.raises(AssertionError, match="moved down"):
        check_history(paid, RESTARTED, replace(after(paid, RESTARTED), attempts=lost.attempts))
    with pytest.raises(AssertionError):
        check_visibility(lost, LOOKED_UP, replace(apply(lost, LOOKED_UP), finished_at=AT))


# --- the full product of states and events ------------------------------------------------------

SESSIONS = {
    State.INITIATED: a_session(),
    State.INTERRUPTED: a_session(REJECTED, state=State.INTERRUPTED),
    State.RESUMED: a_session(REJECTED, state=State.RESUMED),
    State.COMPLETED: a_session(SUCCEEDED, state=State.COMPLETED, finished_at=AT),
    State.DECLINED: a_session(DECLINED, state=State.DECLINED, finished_at=AT),
    State.CANCELLED: a_session(state=State.CANCELLED, finished_at=AT),
    State.EXPIRED: a_session(state=State.EXPIRED, finished_at=AT),
    State.FAILED_MAX_RETRIES: a_session(
        REJECTED, REJECTED, REJECTED, state=State.FAILED_MAX_RETRIES, finished_at=AT
    ),
}
LIVE_ONLY = set(LIVE)
ALLOWED_IN: list[tuple[ev.Event, set[State]]] = [
    (begun(2), {State.INITIATED, State.RESUMED}),
    (BY_PERSON, {State.INTERRUPTED}),
    (CANCELLED, LIVE_ONLY),
    (EXPIRED, LIVE_ONLY),
    (EXHAUSTED, {State.INTERRUPTED, State.RESUMED}),
    (LOOKED_UP, set(State)),
    (HELD, set(State)),
    (RESTARTED, set(State)),
    (found(SUCCEEDED), set(State)),
    (found(DECLINED), set(State)),
    (ended(SUCCEEDED), set(State)),
    (CANCEL_WANTED, set(State)),
]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(("event", "allowed_in"), ALLOWED_IN, ids=lambda it: type(it).__name__)
def test_an_illegal_event_changes_nothing(
    state: State, event: ev.Event, allowed_in: set[State]
) -> None:
    """An event either has its row for the state, or raises and leaves the session as it was."""
    session = SESSIONS[state]
    kept = replace(
        session,
    )
    if state in allowed_in:
        assert apply(session, event).version == 1
    else:
        with pytest.raises(IllegalTransition):
            apply(session, event)
    assert session == kept


# --- keys and proofs ----------------------------------------------------------------------------


def test_a_proof_makes_way_for_a_new_key() -> None:
    """Not found: what was sent is closed; what comes next has another key and its own clock."""
    lost = a_session(UNKNOWN, UNKNOWN, state=State.INTERRUPTED, gateway_key="gk")
    session = apply(lost, PROVED_VOID)
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.NOT_CHARGED)
    assert (session.generation, session.gateway_key) == (2, "gk-2")
    assert session.first_send_at is None
    assert session.sends_left() == 1
    again = after(session, BY_PERSON, begun(3, at=AT + 60_000))
    assert [a.generation for a in again.attempts] == [1, 1, 2]
    assert again.first_send_at == AT + 60_000


def test_a_send_that_never_left_keeps_the_key() -> None:
    """The gateway has not seen the key: were the store lost, the same one must come again."""
    session = after(
        a_session(gateway_key="gk"), ended(NOT_SENT, Reason.CONNECTION_REFUSED), BY_TIMER
    )
    assert (session.generation, session.gateway_key) == (1, "gk")


def test_a_proof_says_nothing_of_what_is_in_flight() -> None:
    """One of two sends is proved away; as long as the other is out, the key stays."""
    flying = a_session(UNKNOWN, IN_FLIGHT, state=State.RESUMED, gateway_key="gk")
    session = apply(flying, PROVED_VOID)
    assert (session.outcome, session.generation) == (Outcome.UNKNOWN, 1)
    assert [a.status for a in session.attempts] == [VOIDED, IN_FLIGHT]


def test_no_new_key_while_an_earlier_one_is_open() -> None:
    """However it came about: a session in that state does not send."""
    odd = a_session(UNKNOWN, state=State.RESUMED, generation=2)
    with pytest.raises(IllegalTransition, match="attempt 1 is open under an earlier key"):
        apply(odd, begun(2))


def test_a_cancel_that_waited_for_the_proof() -> None:
    """Wanted cancelled, proved not charged: cancelled."""
    session = after(a_session(UNKNOWN, state=State.INTERRUPTED), CANCEL_WANTED, PROVED_VOID)
    assert (session.state, session.outcome) == (State.CANCELLED, Outcome.NOT_CHARGED)


def test_a_send_starts_the_counting_anew() -> None:
    """What was not found before the last send may be there after it."""
    lost = a_session(UNKNOWN, state=State.INTERRUPTED)
    missed = after(lost, MISSED, MISSED)
    assert missed.not_found == (AT, AT)
    assert apply(missed, ev.LookedUp(AT, AT)).not_found == (AT, AT)
    assert apply(missed, ev.LookedUp(AT, AT, absent=False)).not_found == ()
    assert after(missed, BY_TIMER, begun(2)).not_found == ()


def test_a_charge_after_the_proof_is_a_contradiction_that_stays_in_sight() -> None:
    """It is charged, a person must look at it, and it is listed until one has."""
    proved_away = apply(a_session(UNKNOWN, state=State.INTERRUPTED), PROVED_VOID)
    session = apply(proved_away, ended(SUCCEEDED))
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert session.late_evidence
    assert session.review_required
    assert session.listed
    seen_to = apply(session, VOUCHED)
    assert (seen_to.review_required, seen_to.listed, seen_to.late_evidence) == (False, False, True)


def test_what_a_person_says_a_person_need_not_look_at() -> None:
    """Whoever vouches for a charge after a cancel knows that it contradicts it."""
    session = apply(SESSIONS[State.CANCELLED], VOUCHED)
    assert (session.late_evidence, session.review_required) == (True, False)


def test_what_is_no_event_is_a_mistake_of_ours() -> None:
    """A new kind of event without its case fails loudly, also where types are not checked."""
    with pytest.raises(AssertionError, match="Expected code to be unreachable"):
        apply(a_session(), "paid")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("state", [State.INITIATED, State.RESUMED])
def test_one_sender_at_a_time(state: State) -> None:
    """While a send is in flight no other may begin, whoever asks."""
    flying = a_session(IN_FLIGHT, state=state)
    with pytest.raises(IllegalTransition, match="a send is in flight already"):
        apply(flying, begun(2))


# --- event by event -----------------------------------------------------------------------------


def test_a_session_that_opens_with_its_request() -> None:
    """Made in one step, it is what the event makes of it."""
    wanted = a_session(order_ref="o-1", order_locks=True, user_ref="u-1", amount="5")
    wanted = replace(wanted, route="create", tenant="t", key_hash="k", gateway_key="gk")
    wanted = replace(wanted, fingerprint="f", named=False, generation=2)
    begun_with_it = opened(
        ev.Opened(wanted.started_at), wanted.id, "stripe", wanted.expires_at, wanted.max_attempts,
        "create", "charge", "t", "k", "gk", 2, "f",
        named=False, order_ref="o-1", order_locks=True, user_ref="u-1", amount="5", currency=None,
    )  # fmt: skip
    assert begun_with_it == apply(wanted, ev.Opened(wanted.started_at))
    types = [[type(value) for value in astuple(session)] for session in (begun_with_it, wanted)]
    assert types[0] == types[1]


def test_a_payment_that_goes_well() -> None:
    """Opened, sent, charged: what is on record at the end."""
    session = after(a_session(), ev.Opened(AT), begun(at=AT + 10), ended(SUCCEEDED, at=AT + 20))
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert session.attempts == (
        Attempt(1, 1, "stripe", SUCCEEDED, AT + 10, AT + 20, phase=Phase.ANSWERED, http_status=200),
    )
    assert session.finished_at == AT + 20
    assert session.timeline == (
        Step(AT, "Opened", State.INITIATED, Outcome.NOT_CHARGED),
        Step(AT + 10, "AttemptStarted", State.INITIATED, Outcome.UNKNOWN),
        Step(AT + 20, "AttemptEnded", State.COMPLETED, Outcome.CHARGED),
    )
    assert not session.recovered


def test_a_step_says_why_and_by_whom() -> None:
    """The source and reference of a proof, the reason of whoever wanted it; sends say nothing."""
    lost = after(a_session(), ev.Opened(AT), begun(), ended(UNKNOWN, LOST), SHUT_DOWN)
    assert [step.note for step in lost.timeline] == [None] * 4
    session = after(lost, HELD, CANCEL_WANTED, MISSED, PROVED_VOID, VOUCHED)
    assert [(step.event, step.note) for step in session.timeline[4:]] == [
        ("Interrupted", "let me look"),
        ("CancelRequested", "changed my mind"),
        ("LookedUp", None),
        ("EvidenceFound", "lookup: not found"),
        ("EvidenceFound", "person: pi_1"),
    ]
    assert apply(a_session(), CANCELLED).timeline[-1].note == "changed my mind"


def test_an_intent_reads_as_unknown() -> None:
    """From the intent on nobody can say that nothing was charged."""
    session = after(a_session(), begun())
    assert (session.state, session.outcome) == (State.INITIATED, Outcome.UNKNOWN)
    assert session.in_flight
    assert session.attempts[0].sent


def test_a_lost_answer() -> None:
    """Interrupted, unknown, and the interruption says how far it had come."""
    session = after(a_session(), begun(), ended(UNKNOWN, LOST, at=AT + 5))
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)
    assert session.interruptions == (
        Interruption(AT + 5, "connection_lost", "awaiting_response", 1, sent=True),
    )
    assert session.attempts[0].http_status is None
    assert not session.in_flight


def test_a_send_that_never_began_is_an_attempt_that_was_not_sent() -> None:
    """A refused connection has no intent on record, and proves that nothing left."""
    session = after(a_session(), ended(NOT_SENT, Reason.CONNECTION_REFUSED, at=AT + 7))
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.NOT_CHARGED)
    attempt = session.attempts[0]
    assert (attempt.status, attempt.sent, attempt.started_at) == (NOT_SENT, False, AT + 7)
    assert session.sends_left() == 2


@pytest.mark.parametrize(
    ("status", "reason", "state"),
    [
        (SUCCEEDED, None, State.COMPLETED),
        (ACCEPTED, None, State.COMPLETED),
        (DECLINED, None, State.DECLINED),
        (REJECTED, None, State.DECLINED),
        (REJECTED, Reason.RATE_LIMITED, State.INTERRUPTED),
        (UNKNOWN, Reason.ATTEMPT_TIMEOUT, State.INTERRUPTED),
        (NOT_SENT, Reason.DNS_ERROR, State.INTERRUPTED),
    ],
)
def test_where_an_ended_attempt_leads(
    status: AttemptStatus, reason: Reason | None, state: State
) -> None:
    """What settles the payment closes it, what does not interrupts it."""
    assert after(a_session(), begun(), ended(status, reason)).state is state


@pytest.mark.parametrize(
    ("second", "state", "outcome"),
    [
        (ended(SUCCEEDED, number=2), State.COMPLETED, Outcome.CHARGED),
        (ended(DECLINED, number=2), State.DECLINED, Outcome.NOT_CHARGED),
        (ended(ACCEPTED, number=2), State.COMPLETED, Outcome.NOT_CHARGED),
        (ended(REJECTED, number=2), State.INTERRUPTED, Outcome.UNKNOWN),
        (ended(REJECTED, Reason.RATE_LIMITED, number=2), State.INTERRUPTED, Outcome.UNKNOWN),
        (
            ended(NOT_SENT, Reason.CONNECTION_REFUSED, number=2),
            State.INTERRUPTED,
            Outcome.UNKNOWN,
        ),
    ],
)
def test_what_a_repeat_says_about_the_first_send(
    second: ev.AttemptEnded, state: State, outcome: Outcome
) -> None:
    """Only an answer that speaks for the key settles the send whose answer was lost."""
    lost = after(a_session(), begun(), ended(UNKNOWN, LOST), BY_TIMER, begun(2))
    session = apply(lost, second)
    assert (session.state, session.outcome) == (state, outcome)


def test_a_late_answer_is_evidence() -> None:
    """The answer to a send that was given up settles it, in whatever state it finds the session."""
    given_up = after(a_session(), begun(), ended(UNKNOWN, LOST), EXHAUSTED)
    assert (given_up.state, given_up.outcome) == (State.FAILED_MAX_RETRIES, Outcome.UNKNOWN)
    settled = apply(given_up, ended(SUCCEEDED, at=AT + 60))
    assert (settled.state, settled.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert settled.finished_at == AT + 60
    assert not settled.late_evidence


def test_a_late_negative_answer_after_a_charge_changes_nothing() -> None:
    """First the charge, then a decline of the same send: the charge stays seen."""
    session = after(a_session(), begun(), ended(SUCCEEDED, at=AT + 1), ended(DECLINED, at=AT + 2))
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert session.attempts[0].status is SUCCEEDED
    assert session.finished_at == AT + 1


@pytest.mark.parametrize("state", sorted(CLOSED_WITHOUT_CHARGE))
def test_a_charge_after_the_end_is_a_contradiction(state: State) -> None:
    """Told "not charged", and then charged: COMPLETED, and marked for someone to look at."""
    session = apply(SESSIONS[state], found(SUCCEEDED))
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert session.late_evidence
    assert session.reference == "pi_1"


def test_a_charge_after_an_acceptance_is_no_contradiction() -> None:
    """A payment that waited for its payer, and then was paid."""
    session = after(a_session(), begun(), ended(ACCEPTED), found(SUCCEEDED))
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert not session.late_evidence


def test_a_charge_nobody_here_sent() -> None:
    """Evidence of a charge without an open attempt becomes one of its own that was not sent."""
    session = apply(a_session(NOT_SENT, state=State.INTERRUPTED), found(SUCCEEDED, at=AT + 9))
    assert session.attempts[1] == Attempt(2, 1, "lookup", SUCCEEDED, AT + 9, AT + 9, sent=False)
    again = apply(session, found(SUCCEEDED))
    assert len(again.attempts) == 2


def test_evidence_settles_the_attempts_whose_answers_were_lost() -> None:
    """One proof for the key settles all its open sends, and keeps when they had ended."""
    session = after(a_session(), begun(), ended(UNKNOWN, LOST, at=AT + 3), BY_TIMER, begun(2))
    session = after(session, ended(UNKNOWN, LOST, number=2, at=AT + 4))
    session = apply(session, found(DECLINED, at=AT + 5))
    assert (session.state, session.outcome) == (State.DECLINED, Outcome.NOT_CHARGED)
    assert [(a.status, a.ended_at) for a in session.attempts] == [
        (DECLINED, AT + 3),
        (DECLINED, AT + 4),
    ]
    assert session.next_at is None


def test_evidence_against_a_charge_does_not_settle_a_send_in_flight() -> None:
    """Whoever looked before this send ended cannot know what it will come to."""
    session = after(a_session(), begun(), ended(UNKNOWN, LOST), BY_TIMER, begun(2))
    session = apply(session, found(DECLINED))
    assert [a.status for a in session.attempts] == [DECLINED, IN_FLIGHT]
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)


def test_evidence_of_a_charge_settles_a_send_in_flight() -> None:
    """A charge is the last word, whoever says it."""
    session = after(a_session(), begun(), found(SUCCEEDED, at=AT + 6))
    assert session.state is State.COMPLETED
    assert (session.attempts[0].status, session.attempts[0].ended_at) == (SUCCEEDED, AT + 6)


def test_an_interruption_on_request_holds() -> None:
    """The socket is kept, no further send is made, and only a person lifts the hold."""
    session = after(a_session(), begun(), HELD)
    assert (session.state, session.hold, session.in_flight) == (State.INTERRUPTED, True, True)
    stop = Interruption(AT, "requested", "before_send", 1, sent=False, detail="let me look")
    assert session.interruptions == (stop,)
    assert apply(session, ev.Resumed(AT, ev.ResumedBy.REPEAT)).hold
    assert apply(session, SHUT_DOWN).hold
    assert not apply(session, BY_PERSON).hold


def test_a_wanted_cancel_happens_when_it_is_proved() -> None:
    """Cancelled as soon as the lost send turns out not to have charged, and not before."""
    session = after(a_session(), begun(), CANCEL_WANTED, ended(UNKNOWN, LOST))
    assert (session.state, session.cancel_requested) == (State.INTERRUPTED, True)
    with pytest.raises(IllegalTransition):
        apply(session, CANCELLED)
    done = apply(session, found(DECLINED))
    assert (done.state, done.cancel_reason) == (State.CANCELLED, "changed my mind")
    assert apply(session, found(SUCCEEDED)).state is State.COMPLETED


@pytest.mark.parametrize(
    "end", [ended(DECLINED), ended(REJECTED), ended(NOT_SENT, Reason.DNS_ERROR)]
)
def test_a_wanted_cancel_wins_over_a_decline(end: ev.AttemptEnded) -> None:
    """Any proof of "not charged" makes a cancelled session of it."""
    assert after(a_session(), begun(), CANCEL_WANTED, end).state is State.CANCELLED


def test_cancelled_at_once() -> None:
    """Nothing sent, so nothing to wait for."""
    session = apply(a_session(), CANCELLED)
    assert (session.state, session.outcome) == (State.CANCELLED, Outcome.NOT_CHARGED)
    assert (session.cancel_requested, session.cancel_reason) == (True, "changed my mind")


def test_exhausted_with_an_unknown_outcome_calls_a_person() -> None:
    """No further send, but still listed, its order locked, and marked for review."""
    lost = a_session(UNKNOWN, state=State.INTERRUPTED, order_ref="o-1", order_locks=True)
    session = apply(lost, EXHAUSTED)
    assert (session.state, session.review_required) == (State.FAILED_MAX_RETRIES, True)
    assert (session.live, session.listed, session.locks_order) == (False, True, True)
    settled = apply(session, found(VOIDED, at=AT + 99))
    assert (settled.state, settled.outcome) == (State.FAILED_MAX_RETRIES, Outcome.NOT_CHARGED)
    assert (settled.review_required, settled.listed, settled.locks_order) == (False, False, False)
    assert settled.finished_at == AT + 99


def test_exhausted_without_a_charge_calls_nobody() -> None:
    """Three refused connections: failed, and the order is free."""
    session = apply(a_session(NOT_SENT, state=State.INTERRUPTED), EXHAUSTED)
    assert (session.state, session.review_required) == (State.FAILED_MAX_RETRIES, False)
    assert not session.listed


def test_review_is_for_what_is_unknown() -> None:
    """A session that was settled meanwhile is not put before a person."""
    assert apply(a_session(UNKNOWN, state=State.INTERRUPTED), REVIEW).review_required
    assert not apply(a_session(SUCCEEDED, state=State.COMPLETED), REVIEW).review_required


def test_an_inconclusive_lookup_only_sets_the_next_time() -> None:
    """Counted, due again later, and as unknown as before."""
    session = apply(a_session(UNKNOWN, state=State.INTERRUPTED), LOOKED_UP)
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)
    assert (session.lookups, session.next_at) == (1, AT + 5000)
    failed = a_session(UNKNOWN, state=State.FAILED_MAX_RETRIES, finished_at=AT)
    assert apply(failed, LOOKED_UP).state is State.FAILED_MAX_RETRIES


def test_a_lookup_that_a_person_asked_for_is_not_counted() -> None:
    """Who resumes again and again does not use up the look-ups that come by themselves."""
    session = apply(a_session(UNKNOWN, state=State.RESUMED), LOOKED_UP)
    assert (session.state, session.lookups) == (State.INTERRUPTED, 0)
    assert session.next_at == AT + 5000


def test_a_resume_forgets_the_next_lookup() -> None:
    """Someone brings it forward now."""
    session = after(a_session(UNKNOWN, state=State.RESUMED), LOOKED_UP, BY_TIMER)
    assert (session.state, session.next_at) == (State.RESUMED, None)


def test_a_restart_makes_what_was_in_flight_unknown() -> None:
    """The process is gone and with it the socket: nobody can say what became of the send."""
    session = after(a_session(NOT_SENT), begun(2), ev.ProcessRestarted(AT + 8))
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)
    assert [a.status for a in session.attempts] == [NOT_SENT, UNKNOWN]
    last = session.attempts[1]
    assert (last.ended_at, last.reason, last.phase) == (
        AT + 8,
        "process_restart",
        "awaiting_response",
    )
    assert session.interruptions == (
        Interruption(AT + 8, "process_restart", "awaiting_response", 2, sent=True),
    )


def test_a_restart_with_nothing_in_flight_proves_that_nothing_was_sent() -> None:
    """Without an intent on record no byte has left."""
    session = apply(a_session(), RESTARTED)
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.NOT_CHARGED)
    assert session.interruptions == (
        Interruption(AT, "process_restart", "before_send", 0, sent=False),
    )


def test_a_scheduled_repeat_is_on_record() -> None:
    """When, how long after, and why."""
    assert apply(a_session(), AGAIN).retries == (Retry(AT, 2, 412, "connection_lost"),)


def test_a_request_is_bound_to_its_session() -> None:
    """A session created ahead learns who its request is; until then it is not bound."""
    created = a_session(gateway=None, order_ref="o-1")
    assert not created.bound
    session = apply(created, BOUND)
    assert session.bound
    assert session.state is State.INITIATED
    assert (session.gateway, session.route, session.operation) == (
        "stripe",
        "create-payment",
        "charge",
    )
    assert (session.tenant, session.key_hash, session.gateway_key) == ("t", "k", "gk")
    assert (session.fingerprint, session.order_locks, session.max_attempts) == ("f", True, 5)
    assert session.order_ref == "o-1"


# --- what a session says of itself --------------------------------------------------------------


def test_when_the_key_was_first_and_last_sent() -> None:
    """The life of a key counts from its own first send, not from one that never left."""
    attempts = (
        Attempt(1, 1, "stripe", DECLINED, AT + 10),
        Attempt(2, 2, "stripe", NOT_SENT, AT + 20, sent=False),
        Attempt(3, 2, "stripe", UNKNOWN, AT + 30),
        Attempt(4, 2, "stripe", UNKNOWN, AT + 40),
    )
    session = a_session(attempts=attempts, generation=2)
    assert (session.first_send_at, session.last_send_at) == (AT + 30, AT + 40)
    assert (a_session().first_send_at, a_session().last_send_at) == (None, None)


def test_sends_left() -> None:
    """Never less than none, whatever evidence was added."""
    assert a_session().sends_left() == 3
    assert a_session(UNKNOWN, UNKNOWN).sends_left() == 1
    assert a_session(*[UNKNOWN] * 4).sends_left() == 0


@pytest.mark.parametrize(
    ("session", "due"),
    [
        (a_session(), True),
        (a_session(REJECTED, state=State.INTERRUPTED), True),
        (a_session(NOT_SENT, state=State.RESUMED), True),
        (a_session(UNKNOWN, state=State.INTERRUPTED), False),
        (a_session(IN_FLIGHT), False),
        (a_session(SUCCEEDED, state=State.COMPLETED), False),
        (a_session(state=State.CANCELLED), False),
    ],
)
def test_what_expires(session: Session, *, due: bool) -> None:
    """Only what is live and provably not charged, and only from its deadline on."""
    assert session.due_to_expire(session.expires_at) is due
    assert not session.due_to_expire(session.expires_at - 1)


FAILED = State.FAILED_MAX_RETRIES


@pytest.mark.parametrize(
    ("session", "locks"),
    [
        (a_session(), True),
        (a_session(UNKNOWN, state=FAILED), True),
        (a_session(SUCCEEDED, state=State.COMPLETED), True),
        (a_session(REJECTED, state=FAILED), False),
        (a_session(DECLINED, state=State.DECLINED), False),
        (a_session(state=State.EXPIRED), False),
        (a_session(state=State.CANCELLED), False),
        # A payment that was only created: confirming it is another request for the same order.
        (a_session(ACCEPTED, state=State.COMPLETED), False),
    ],
)
def test_the_order_lock(session: Session, *, locks: bool) -> None:
    """Held while it is live, unknown or charged; never without an order or where it is off."""
    named = replace(session, order_ref="o-1", order_locks=True)
    assert named.locks_order is locks
    assert not replace(named, order_ref=None).locks_order
    assert not replace(named, order_locks=False).locks_order


def test_recovered() -> None:
    """Charged after at least one interruption."""
    lost = after(a_session(), begun(), ended(UNKNOWN, LOST))
    assert not lost.recovered
    assert after(lost, found(SUCCEEDED)).recovered
    assert not after(lost, found(DECLINED)).recovered


def test_a_result_by_itself_is_settled() -> None:
    """The defaults of a result: nothing to repeat, nothing asked for, no replay."""
    assert AttemptResult(SUCCEEDED) == AttemptResult(SUCCEEDED, None, Repeat.NO, None, False)


# --- sent again at risk ---------------------------------------------------------------------------

LOST_ONCE: list[ev.Event] = [begun(), ended(UNKNOWN, LOST), AGAIN, BY_TIMER]


@pytest.mark.parametrize("status", [DECLINED, ACCEPTED, REJECTED])
@pytest.mark.parametrize(("again", "outcome"), [(AT_RISK, Outcome.UNKNOWN), (begun(2), None)])
def test_at_risk_an_answer_speaks_for_its_own_send(
    status: AttemptStatus, again: ev.AttemptStarted, outcome: Outcome | None
) -> None:
    """The first may have charged, whatever the second came to; where keys are kept it cannot."""
    session = after(a_session(), *LOST_ONCE, again, ended(status, number=2))
    settled = Outcome.UNKNOWN if status is REJECTED else Outcome.NOT_CHARGED
    assert session.outcome is (outcome or settled)
    assert session.live is (session.outcome is Outcome.UNKNOWN)


def test_at_risk_a_charge_settles_it_and_so_does_a_person() -> None:
    """Any charge is the last word; a person vouches for all that is in doubt."""
    session = after(a_session(), *LOST_ONCE, AT_RISK, ended(UNKNOWN, LOST, number=2))
    assert (session.at_risk, session.outcome) == (True, Outcome.UNKNOWN)
    assert after(session, found(SUCCEEDED)).outcome is Outcome.CHARGED
    late = ended(SUCCEEDED, number=1)
    assert after(session, late).state is State.COMPLETED
    assert after(session, replace(PROVED_VOID, source=ev.EvidenceSource.PERSON)).outcome is (
        Outcome.NOT_CHARGED
    )


def test_at_risk_both_declines_together_prove_it() -> None:
    """Each send has its own answer, in whatever order they came: nothing was charged."""
    session = after(a_session(), *LOST_ONCE, AT_RISK, ended(DECLINED, number=2))
    assert session.outcome is Outcome.UNKNOWN
    session = after(session, ended(DECLINED, number=1))
    assert (session.state, session.outcome) == (State.DECLINED, Outcome.NOT_CHARGED)
