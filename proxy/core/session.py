"""A payment session and how an event changes it. `apply` is the only way a session moves.

`Session` and `Attempt` are NamedTuples, not dataclasses: a payment is at least three new versions
of its session, and making one from the values of the one before costs 1 µs, `_replace` 4, and
`dataclasses.replace` 10.
"""

from __future__ import annotations

from typing import Any, NamedTuple, assert_never

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.states import (
    LIVE,
    OPEN,
    AttemptStatus,
    IllegalTransition,
    Move,
    Outcome,
    State,
    join,
    next_state,
    outcome_of,
)
from proxy.core.wire import Phase

# Bound once: reaching a member through its enum costs more than what is done with it.
_INITIATED, _COMPLETED = State.INITIATED, State.COMPLETED
_NOT_CHARGED, _UNKNOWN, _CHARGED = Outcome.NOT_CHARGED, Outcome.UNKNOWN, Outcome.CHARGED
_IN_FLIGHT, _SUCCEEDED = AttemptStatus.IN_FLIGHT, AttemptStatus.SUCCEEDED
_SEND, _CHARGE_SEEN, _INTERRUPT = Move.SEND, Move.CHARGE_SEEN, Move.INTERRUPT


class Attempt(NamedTuple):
    """One send to the gateway, counted from 1. `generation` numbers the gateway key it used."""

    number: int
    generation: int
    endpoint: str
    status: AttemptStatus
    started_at: int
    ended_at: int | None = None
    sent: bool = True
    reason: str | None = None
    phase: str | None = None
    http_status: int | None = None


class Interruption(NamedTuple):
    """A stop without a definite answer."""

    at: int
    reason: str
    phase: str
    attempt: int
    sent: bool
    detail: str | None = None


class Retry(NamedTuple):
    """A repeat that was scheduled."""

    at: int
    attempt: int
    delay_ms: int
    because: str


class Step(NamedTuple):
    """One entry of the timeline: the session as it was from `at` on, in words."""

    at: int
    event: str
    state: str
    outcome: str


class Session(NamedTuple):
    """Everything that is known of one payment. Immutable; `version` grows by one per applied event.

    Times are epoch milliseconds. `key_hash`, `tenant` and `fingerprint` are keyed hashes; the
    bodies and credentials of requests are never part of a session.
    """

    id: str
    gateway: str | None
    started_at: int
    expires_at: int
    max_attempts: int
    route: str | None = None
    operation: str = "charge"
    durable: bool = True
    tenant: str | None = None
    key_hash: str | None = None
    gateway_key: str | None = None
    generation: int = 1
    fingerprint: str | None = None
    # Whether its request named the payment (key, session or order). If not, the same bytes sent
    # again would be another payment, unless they name this session.
    named: bool = True
    order_ref: str | None = None
    order_locks: bool = False
    user_ref: str | None = None
    amount: str | None = None
    currency: str | None = None
    state: State = _INITIATED
    outcome: Outcome = _NOT_CHARGED
    version: int = 0
    updated_at: int = 0
    finished_at: int | None = None
    attempts: tuple[Attempt, ...] = ()
    interruptions: tuple[Interruption, ...] = ()
    retries: tuple[Retry, ...] = ()
    timeline: tuple[Step, ...] = ()
    cancel_requested: bool = False
    cancel_reason: str | None = None
    hold: bool = False
    review_required: bool = False
    late_evidence: bool = False
    reference: str | None = None  # the evidence that settled it, where no answer did
    lookups: int = 0
    next_at: int | None = None

    @property
    def live(self) -> bool:
        """Whether more can happen by itself."""
        return self.state in LIVE

    @property
    def listed(self) -> bool:
        """Whether it must stay visible: live, or nobody knows whether the customer was charged."""
        return self.live or self.outcome is _UNKNOWN

    @property
    def locks_order(self) -> bool:
        """Whether another key for the same order must be refused."""
        open_or_charged = self.live or self.outcome is not _NOT_CHARGED
        return self.order_locks and self.order_ref is not None and open_or_charged

    @property
    def bound(self) -> bool:
        """Whether the request of this session has arrived."""
        return self.fingerprint is not None

    @property
    def in_flight(self) -> bool:
        """Whether a send is recorded whose end is not."""
        for attempt in self.attempts:  # noqa: SIM110 -- asked often, and `any` takes three times as long
            if attempt.status is _IN_FLIGHT:
                return True
        return False

    @property
    def first_send_at(self) -> int | None:
        """When the current gateway key was first sent; the life of the key counts from here."""
        first = None
        for attempt in self.attempts:
            if attempt.sent and attempt.generation == self.generation:
                first = attempt.started_at if first is None else min(first, attempt.started_at)
        return first

    @property
    def last_send_at(self) -> int | None:
        """When the gateway may last have received something."""
        return max((a.started_at for a in self.attempts if a.sent), default=None)

    @property
    def attempt_count(self) -> int:
        """How many attempts were made. A charge that was only seen stands among them, unsent."""
        count = len(self.attempts)
        for attempt in self.attempts:
            if not attempt.sent and attempt.status is _SUCCEEDED:
                count -= 1
        return count

    def sends_left(self) -> int:
        """How many sends the session still has."""
        return max(0, self.max_attempts - len(self.attempts))

    def due_to_expire(self, now_ms: int) -> bool:
        """Whether the deadline has passed while provably nothing is charged or in flight."""
        return self.live and self.outcome is _NOT_CHARGED and now_ms >= self.expires_at

    @property
    def recovered(self) -> bool:
        """Settled with a charge after at least one interruption."""
        return self.outcome is _CHARGED and bool(self.interruptions)


# Where each value of a session has its place, for those who change some of them in a list.
_AT = {name: place for place, name in enumerate(Session._fields)}
_STATE, _OUTCOME, _ATTEMPTS = _AT["state"], _AT["outcome"], _AT["attempts"]
_VERSION, _UPDATED_AT, _FINISHED_AT = _AT["version"], _AT["updated_at"], _AT["finished_at"]
_INTERRUPTIONS, _RETRIES, _TIMELINE = _AT["interruptions"], _AT["retries"], _AT["timeline"]
_CANCEL_REQUESTED, _CANCEL_REASON, _HOLD = (
    _AT["cancel_requested"],
    _AT["cancel_reason"],
    _AT["hold"],
)
_REFERENCE, _LOOKUPS, _NEXT_AT = _AT["reference"], _AT["lookups"], _AT["next_at"]
_NOTHING_YET = tuple(Session._field_defaults[name] for name in Session._fields[_TIMELINE + 1 :])
_REVIEW_REQUIRED, _LATE_EVIDENCE = _AT["review_required"], _AT["late_evidence"]


def opened(  # noqa: PLR0913, PLR0917 -- in the order of the fields: naming them takes longest
    event: ev.Opened,
    session_id: str,
    gateway: str,
    expires_at: int,
    max_attempts: int,
    route: str,
    operation: str,
    tenant: str,
    key_hash: str,
    gateway_key: str,
    generation: int,
    fingerprint: str,
    *,
    named: bool,
    order_ref: str | None,
    order_locks: bool,
    user_ref: str | None,
    amount: str | None,
    currency: str | None,
) -> Session:
    """A durable session whose request has arrived: what `apply` makes of it and `Opened`, in one
    step (a test holds the two together), for this is done for every payment.
    """
    at, state, outcome = event.at, _INITIATED, _NOT_CHARGED
    values = (
        session_id, gateway, at, expires_at, max_attempts, route, operation, True,
        tenant, key_hash, gateway_key, generation, fingerprint, named,
        order_ref, order_locks, user_ref, amount, currency,
        state, outcome, 1, at, None,
        (), (), (), (Step(at, "Opened", state._value_, outcome._value_),),
        *_NOTHING_YET,
    )  # fmt: skip
    return tuple.__new__(Session, values)


_Values = list[Any]  # of the next session, while they are being changed
_made = tuple.__new__  # a NamedTuple from its values at once, in a third of the time


def apply(session: Session, event: ev.Event) -> Session:
    """The session after `event`. Raises `IllegalTransition` and changes nothing if it may not."""
    values: _Values = list(session)
    move = _change(session, event, values)
    at, state, outcome = event.at, session.state, values[_OUTCOME]
    if move is not None:
        state = next_state(state, move, outcome)
        values[_STATE] = state
        if state not in LIVE:
            _finish(values, session, state, outcome, at)
    if outcome is not _UNKNOWN:
        values[_REVIEW_REQUIRED] = False  # settled, so nobody need look at it any more
    values[_VERSION] = session.version + 1
    values[_UPDATED_AT] = at
    step = (at, type(event).__name__, state._value_, outcome._value_)
    values[_TIMELINE] = (*session.timeline, _made(Step, step))
    return tuple.__new__(Session, values)


def _finish(values: _Values, session: Session, state: State, outcome: Outcome, at: int) -> None:
    """What goes with an end."""
    if outcome is _CHARGED and _closed_without_charge(session):
        values[_LATE_EVIDENCE] = True
    # Finished anew when what it came to changes later: it is kept for as long from then on.
    came_to_more = state is not session.state or outcome is not session.outcome
    if came_to_more or session.finished_at is None:
        values[_FINISHED_AT] = at


def _closed_without_charge(session: Session) -> bool:
    """Whether the backend may have been told "not charged": a charge now contradicts that."""
    closed = not session.live and session.state is not _COMPLETED
    return closed and session.outcome is _NOT_CHARGED


# One case per event, all in one place.
def _change(  # noqa: C901, PLR0912, PLR0915
    session: Session, event: ev.Event, values: _Values
) -> Move | None:
    """Change what the event changes; the row of the table to take (None: no row)."""
    move: Move | None = None
    match event:
        case ev.AttemptStarted():
            if session.in_flight:  # one sender at a time, whoever it is
                message = "a send is in flight already"
                raise IllegalTransition(message)
            attempt = _begun(session, event.number, event.endpoint, event.at)
            _set_attempts(values, (*session.attempts, attempt))
            move = _SEND
        case ev.AttemptEnded():
            move = _attempt_ended(session, event, values)
        case ev.Opened():
            pass
        case ev.Bound():
            _bind(event, values)
        case ev.RetryScheduled():
            retry = Retry(event.at, event.attempt, event.delay_ms, event.because)
            values[_RETRIES] = (*session.retries, retry)
        case ev.Interrupted():
            _interrupt(session, event, values)
            move = _INTERRUPT
        case ev.Resumed():
            # A hold is a person's; only a person's resume lifts it.
            values[_HOLD] = session.hold and event.by is not ev.ResumedBy.REQUEST
            values[_NEXT_AT] = None
            move = Move.RESUME
        case ev.CancelRequested():
            values[_CANCEL_REQUESTED], values[_CANCEL_REASON] = True, event.reason
        case ev.Cancelled():
            values[_CANCEL_REQUESTED], values[_CANCEL_REASON] = True, event.reason
            move = Move.CANCEL
        case ev.Expired():
            move = Move.EXPIRE
        case ev.Exhausted():
            values[_REVIEW_REQUIRED] = session.outcome is _UNKNOWN
            move = Move.EXHAUST
        case ev.EvidenceFound():
            move = _evidence_found(session, event, values)
        case ev.LookedUp():
            values[_LOOKUPS], values[_NEXT_AT] = session.lookups + 1, event.next_at
            move = _INTERRUPT if session.live else None
        case ev.ReviewNeeded():
            values[_REVIEW_REQUIRED] = True
        case ev.ProcessRestarted():
            _process_restarted(session, event, values)
            move = _INTERRUPT
        case _:
            assert_never(event)
    return move


def _bind(event: ev.Bound, values: _Values) -> None:
    for name in ev.Bound._fields[1:]:  # all but when
        values[_AT[name]] = getattr(event, name)


def _begun(session: Session, number: int, endpoint: str, at: int) -> Attempt:
    return Attempt(number, session.generation, endpoint, _IN_FLIGHT, at)


def _set_attempts(values: _Values, attempts: tuple[Attempt, ...]) -> Outcome:
    """Attempts with the outcome they prove; the two are never set apart."""
    outcome = outcome_of([(a.generation, a.status) for a in attempts])
    values[_ATTEMPTS], values[_OUTCOME] = attempts, outcome
    return outcome


def _attempt_ended(session: Session, event: ev.AttemptEnded, values: _Values) -> Move:
    number, result = event.number, event.result
    known = {attempt.number: attempt for attempt in session.attempts}
    before = known.get(number)
    if before is None:  # it never came to an intent, so provably nothing was sent
        before = _begun(session, number, event.endpoint, event.started_at)
    known[number] = _made(
        Attempt,
        (
            number,
            before.generation,
            before.endpoint,
            join(before.status, result.status),
            before.started_at,
            event.at,
            event.sent,
            result.reason,
            event.phase._value_,
            event.http_status or None,
        ),
    )
    outcome = _set_attempts(values, tuple(known.values()))
    settled = result.reason is None
    if result.reason is not None:
        stop = Interruption(event.at, result.reason, event.phase, event.number, event.sent)
        values[_INTERRUPTIONS] = (*session.interruptions, stop)
    return _move_after(session, outcome, result.status, settled=settled)


def _move_after(
    session: Session, outcome: Outcome, status: AttemptStatus, *, settled: bool
) -> Move:
    """Which row an ended attempt (or a proof) takes, given what is now proved of the session."""
    if outcome is _CHARGED:
        return _CHARGE_SEEN
    # Wanted cancelled, and now provably not charged: this is when it may be.
    if outcome is _NOT_CHARGED and session.cancel_requested and session.live:
        return Move.CANCEL
    if outcome is _UNKNOWN or not settled:
        return _INTERRUPT
    return Move.ACCEPTANCE_SEEN if status is AttemptStatus.ACCEPTED else Move.DECLINE_SEEN


def _interrupt(session: Session, event: ev.Interrupted, values: _Values) -> None:
    number = len(session.attempts)
    stop = Interruption(event.at, event.reason, event.phase, number, event.sent, event.detail)
    values[_INTERRUPTIONS] = (*session.interruptions, stop)
    values[_HOLD] = session.hold or event.hold


def _evidence_found(session: Session, event: ev.EvidenceFound, values: _Values) -> Move:
    # A charge is the last word. Anything else was seen by someone who asked before a send that is
    # still in flight had ended, and says nothing about that one.
    charged = event.status is _SUCCEEDED
    settles = OPEN if charged else {AttemptStatus.UNKNOWN}
    attempts = tuple(
        a._replace(status=join(a.status, event.status), ended_at=a.ended_at or event.at)
        if a.status in settles
        else a
        for a in session.attempts
    )
    if charged and session.outcome is not _CHARGED and attempts == session.attempts:
        # A charge nobody here knew of (paid elsewhere, or after a proof of the contrary): the
        # evidence becomes an attempt of its own, so that the derived outcome holds it.
        seen = _begun(session, len(attempts) + 1, event.source, event.at)
        attempts = (*attempts, seen._replace(status=event.status, ended_at=event.at, sent=False))
    outcome = _set_attempts(values, attempts)
    values[_REFERENCE], values[_NEXT_AT] = event.reference, None
    return _move_after(session, outcome, event.status, settled=True)


def _process_restarted(session: Session, event: ev.ProcessRestarted, values: _Values) -> None:
    in_flight = session.in_flight
    phase = Phase.AWAITING_RESPONSE if in_flight else Phase.BEFORE_SEND
    attempts = tuple(
        a._replace(
            status=AttemptStatus.UNKNOWN,
            ended_at=event.at,
            reason=Reason.PROCESS_RESTART,
            phase=phase,
        )
        if a.status is _IN_FLIGHT
        else a
        for a in session.attempts
    )
    number = len(session.attempts)
    stop = Interruption(event.at, Reason.PROCESS_RESTART, phase, number, in_flight)
    _set_attempts(values, attempts)
    values[_INTERRUPTIONS] = (*session.interruptions, stop)
