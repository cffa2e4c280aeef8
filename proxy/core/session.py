"""A payment session and how an event changes it. `apply` is the only way a session moves.

A payment is at least three new versions of its session. They are Structs of msgspec, of which one
is made from the one before in 1 µs; `dataclasses.replace` takes 10. Written down they are lists, in
the order of their fields (`array_like`): a new field goes to the end, and has a default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

from msgspec import Struct
from msgspec.structs import replace

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
_VOIDED = AttemptStatus.VOIDED
_SEND, _CHARGE_SEEN, _INTERRUPT = Move.SEND, Move.CHARGE_SEEN, Move.INTERRUPT


class Attempt(Struct, frozen=True, array_like=True, gc=False):
    """One send to the gateway, counted from 1. `generation` numbers the gateway key it used,
    `epoch` the process that sent it, `endpoint` is the origin it went to.
    """

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
    epoch: int = 0


class Interruption(Struct, frozen=True, array_like=True, gc=False):
    """A stop without a definite answer."""

    at: int
    reason: str
    phase: str
    attempt: int
    sent: bool
    detail: str | None = None


class Retry(Struct, frozen=True, array_like=True, gc=False):
    """A repeat that was scheduled."""

    at: int
    attempt: int
    delay_ms: int
    because: str


class Step(Struct, frozen=True, array_like=True, gc=False):
    """One entry of the timeline: the session as it was from `at` on, in words. `note`: what whoever
    brought it about gave as the reason or the proof.
    """

    at: int
    event: str
    state: str
    outcome: str
    note: str | None = None


class Session(Struct, frozen=True, array_like=True, gc=False):
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
    # When look-ups confirmed that the gateway has nothing of what was sent last.
    not_found: tuple[int, ...] = ()
    # Whether the gateway was told the order by the name that stands here.
    order_in_body: bool = False
    # Whether it was sent again in doubt to a gateway that need not know the key. Each send then
    # stands for itself: only a charge or a person settles another's.
    at_risk: bool = False
    # Where its key stands in what is sent (`KeyPlace.where`); elsewhere it would be another key.
    key_at: str | None = None

    @property
    def live(self) -> bool:
        """Whether more can happen by itself."""
        return self.state in LIVE

    @property
    def listed(self) -> bool:
        """Whether it must stay visible: live, nobody knows whether the customer was charged, a
        charge contradicts what was said before and nobody has seen to that, or a send is out.
        """
        contradicted = self.late_evidence and self.review_required
        return self.live or self.outcome is _UNKNOWN or contradicted or self.in_flight

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
    def sender(self) -> int | None:
        """The epoch of the process whose send is in flight."""
        for attempt in self.attempts:
            if attempt.status is _IN_FLIGHT:
                return attempt.epoch
        return None

    @property
    def begins_send(self) -> bool:
        """Whether the last thing is the intent of a send: bytes leave once it is durable."""
        return bool(self.timeline) and self.timeline[-1].event == ev.AttemptStarted.__name__

    @property
    def first_send_at(self) -> int | None:
        """When the current gateway key was first sent; the life of the key counts from here."""
        first = None
        for attempt in self.attempts:
            if attempt.sent and attempt.generation == self.generation:
                first = attempt.started_at if first is None else min(first, attempt.started_at)
        return first

    def in_doubt_at_another(self, endpoint: str) -> bool:
        """Whether a send whose outcome is unknown went elsewhere: its key means nothing there."""
        doubtful = (a for a in self.attempts if a.status is AttemptStatus.UNKNOWN)
        return any(attempt.endpoint != endpoint for attempt in doubtful)

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
    gateway_key: str | None,
    generation: int,
    fingerprint: str,
    *,
    named: bool,
    order_ref: str | None,
    order_locks: bool,
    user_ref: str | None,
    amount: str | None,
    currency: str | None,
    order_in_body: bool = False,
    key_at: str | None = None,
) -> Session:
    """A durable session whose request has arrived: what `apply` makes of it and `Opened`, in one
    step (a test holds the two together), for this is done for every payment.
    """
    at, state, outcome = event.at, _INITIATED, _NOT_CHARGED
    step = Step(at, "Opened", state._value_, outcome._value_)
    return Session(
        session_id, gateway, at, expires_at, max_attempts, route, operation, True,
        tenant, key_hash, gateway_key, generation, fingerprint, named,
        order_ref, order_locks, user_ref, amount, currency,
        state, outcome, 1, at, None,
        (), (), (), (step,),
        order_in_body=order_in_body, key_at=key_at,
    )  # fmt: skip


def attempt_of(session: Session, ended: ev.AttemptEnded) -> Attempt | None:
    """The attempt that the end of a send is of: the one with its number, if that has its intent.
    Else it may stand under a later number, which it got when its own was taken.
    """
    intent = (ended.intended_at, ended.epoch)
    for attempt in session.attempts:
        if attempt.number < ended.number:
            continue
        if ended.intended_at is None or (attempt.started_at, attempt.epoch) == intent:
            return attempt
    return None


def of_another(session: Session, ended: ev.AttemptEnded) -> bool:
    """Whether the attempt with its number is another process's send, of which it says nothing."""
    taken = any(attempt.number == ended.number for attempt in session.attempts)
    return taken and attempt_of(session, ended) is None


_NEWS = frozenset({_SUCCEEDED, AttemptStatus.UNKNOWN})


def known_of(session: Session, ended: ev.AttemptEnded) -> AttemptStatus:
    """What is known already of the send that ended. A charge is news whoever has its number, and so
    is a send of which nobody knows what came of it.
    """
    if of_another(session, ended) and ended.result.status not in _NEWS:
        return ended.result.status
    attempt = attempt_of(session, ended)
    return _IN_FLIGHT if attempt is None else attempt.status


_Changes = dict[str, Any]  # what is another in the next session, by field

# What somebody said with it. Sends have nothing to say, and there are many of them.
_NOTES: Mapping[type, Callable[[Any], str | None]] = {
    ev.EvidenceFound: lambda event: f"{event.source}: {event.reference}",
    ev.CancelRequested: lambda event: event.reason,
    ev.Cancelled: lambda event: event.reason,
    ev.Interrupted: lambda event: event.detail,
}


def apply(session: Session, event: ev.Event) -> Session:
    """The session after `event`. Raises `IllegalTransition` and changes nothing if it may not."""
    changes: _Changes = {}
    move = _change(session, event, changes)
    at, state, outcome = event.at, session.state, changes.get("outcome", session.outcome)
    if move is not None:
        state = next_state(state, move, outcome)
        changes["state"] = state
        if state not in LIVE:
            _finish(changes, session, state, outcome, at)
    if "late_evidence" in changes:
        changes["review_required"] = not _by_a_person(event)
    elif outcome is not _UNKNOWN and (session.review_required or "review_required" in changes):
        # Settled, so nobody need look at it any more; but a contradiction waits for a person.
        waits = session.late_evidence and session.review_required
        changes["review_required"] = waits and not _by_a_person(event)
    changes["version"] = session.version + 1
    changes["updated_at"] = at
    kind = type(event)
    note = _NOTES[kind](event) if kind in _NOTES else None
    step = Step(at, kind.__name__, state._value_, outcome._value_, note)
    changes["timeline"] = (*session.timeline, step)
    return replace(session, **changes)


def _finish(changes: _Changes, session: Session, state: State, outcome: Outcome, at: int) -> None:
    """What goes with an end."""
    if outcome is _CHARGED and _contradicts(session, changes.get("attempts", session.attempts)):
        changes["late_evidence"] = True
    # Finished anew when what it came to changes later: it is kept for as long from then on.
    came_to_more = state is not session.state or outcome is not session.outcome
    if came_to_more or session.finished_at is None:
        changes["finished_at"] = at


def _contradicts(session: Session, attempts: tuple[Attempt, ...]) -> bool:
    """Whether a charge contradicts what was proved, and may have been told."""
    voided = {attempt.number for attempt in session.attempts if attempt.status is _VOIDED}
    if session.outcome is _NOT_CHARGED:
        closed = not session.live and session.state is not _COMPLETED
        return closed or bool(voided)
    return any(attempt.status is _SUCCEEDED for attempt in attempts if attempt.number in voided)


def _by_a_person(event: ev.Event) -> bool:
    return isinstance(event, ev.EvidenceFound) and event.source is ev.EvidenceSource.PERSON


# One case per event, all in one place.
def _change(  # noqa: C901, PLR0912, PLR0915
    session: Session, event: ev.Event, changes: _Changes
) -> Move | None:
    """Change what the event changes; the row of the table to take (None: no row)."""
    move: Move | None = None
    match event:
        case ev.AttemptStarted():
            if session.in_flight:  # one sender at a time, whoever it is
                message = "a send is in flight already"
                raise IllegalTransition(message)
            _check_keys(session)
            attempt = _begun(session, event.number, event.endpoint, event.at, event.epoch)
            _set_attempts(session, changes, (*session.attempts, attempt))
            changes["not_found"] = ()  # whatever was not there may be there now
            changes["at_risk"] = session.at_risk or event.at_risk
            move = _SEND
        case ev.AttemptEnded():
            move = _attempt_ended(session, event, changes)
        case ev.Opened():
            pass
        case ev.Bound():
            _bind(event, changes)
        case ev.RetryScheduled():
            retry = Retry(event.at, event.attempt, event.delay_ms, event.because)
            changes["retries"] = (*session.retries, retry)
        case ev.Interrupted():
            _interrupt(session, event, changes)
            move = _INTERRUPT
        case ev.Resumed():
            # A hold is a person's; only a person's resume lifts it.
            changes["hold"] = session.hold and event.by is not ev.ResumedBy.REQUEST
            changes["next_at"] = None
            move = Move.RESUME
        case ev.CancelRequested():
            changes["cancel_requested"], changes["cancel_reason"] = True, event.reason
            changes["next_at"] = None  # somebody waits for it
        case ev.Cancelled():
            changes["cancel_requested"], changes["cancel_reason"] = True, event.reason
            move = Move.CANCEL
        case ev.Expired():
            move = Move.EXPIRE
        case ev.Exhausted():
            changes["review_required"] = session.outcome is _UNKNOWN
            move = Move.EXHAUST
        case ev.EvidenceFound():
            move = _evidence_found(session, event, changes)
        case ev.LookedUp():
            # One that a person has asked for is none of the schedule's.
            changes["lookups"] = session.lookups + (session.state is not State.RESUMED)
            changes["next_at"] = event.next_at
            if event.absent is not None:
                changes["not_found"] = (*session.not_found, event.at) if event.absent else ()
            move = _INTERRUPT if session.live else None
        case ev.VoidAsked():
            move = _INTERRUPT if session.live else None
        case ev.ReviewNeeded():
            changes["review_required"] = True
        case ev.ProcessRestarted():
            _process_restarted(session, event, changes)
            move = _INTERRUPT
        case _:
            assert_never(event)
    return move


def _bind(event: ev.Bound, changes: _Changes) -> None:
    for name in ev.Bound.__struct_fields__[1:]:  # all but when
        changes[name] = getattr(event, name)


def _begun(session: Session, number: int, endpoint: str, at: int, epoch: int = 0) -> Attempt:
    return Attempt(number, session.generation, endpoint, _IN_FLIGHT, at, epoch=epoch)


def _check_keys(session: Session) -> None:
    """Another key is only used once everything sent under the one before is closed."""
    for attempt in session.attempts:
        if attempt.generation != session.generation and attempt.status in OPEN:
            message = f"attempt {attempt.number} is open under an earlier key"
            raise IllegalTransition(message)


def _set_attempts(session: Session, changes: _Changes, attempts: tuple[Attempt, ...]) -> Outcome:
    """Attempts with the outcome they prove; the two are never set apart."""
    apart = session.at_risk  # as if each send had a key of its own
    outcome = outcome_of([(a.number if apart else a.generation, a.status) for a in attempts])
    changes["attempts"], changes["outcome"] = attempts, outcome
    return outcome


def _attempt_ended(session: Session, event: ev.AttemptEnded, changes: _Changes) -> Move:
    number, result = event.number, event.result
    known = {attempt.number: attempt for attempt in session.attempts}
    before = attempt_of(session, event)
    if before is not None:
        number = before.number
    else:  # it never came to an intent, so provably nothing was sent; or the store has lost that
        number = len(known) + 1 if number in known else number
        begun_at = event.intended_at or event.started_at
        before = _begun(session, number, event.endpoint, begun_at, event.epoch)
    known[number] = Attempt(
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
        before.epoch,
    )
    outcome = _set_attempts(session, changes, tuple(known.values()))
    if outcome is _CHARGED and session.outcome is _UNKNOWN and _void_asked(session, before):
        changes["late_evidence"] = True  # it may be gone since: nobody heard what came of that
    settled = result.reason is None
    if result.reason is not None:
        stop = Interruption(event.at, result.reason, event.phase, number, event.sent)
        changes["interruptions"] = (*session.interruptions, stop)
    return _move_after(session, outcome, result.status, settled=settled)


def _void_asked(session: Session, attempt: Attempt) -> bool:
    """Whether the gateway was asked to void it after it was sent."""
    asked, since = ev.VoidAsked.__name__, attempt.started_at
    return any(step.event == asked and step.at >= since for step in session.timeline)


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
    if status is _VOIDED:
        return Move.VOID_SEEN
    return Move.ACCEPTANCE_SEEN if status is AttemptStatus.ACCEPTED else Move.DECLINE_SEEN


def _interrupt(session: Session, event: ev.Interrupted, changes: _Changes) -> None:
    number = len(session.attempts)
    stop = Interruption(event.at, event.reason, event.phase, number, event.sent, event.detail)
    changes["interruptions"] = (*session.interruptions, stop)
    changes["hold"] = session.hold or event.hold


def _evidence_found(session: Session, event: ev.EvidenceFound, changes: _Changes) -> Move:
    # A charge is the last word. Anything else was seen by someone who asked before a send that is
    # still in flight had ended, and says nothing about that one.
    charged = event.status is _SUCCEEDED
    settles = OPEN if charged else {AttemptStatus.UNKNOWN}
    attempts = tuple(
        replace(a, status=join(a.status, event.status), ended_at=a.ended_at or event.at)
        if a.status in settles
        else a
        for a in session.attempts
    )
    if charged and session.outcome is not _CHARGED and attempts == session.attempts:
        # A charge nobody here knew of (paid elsewhere, or after a proof of the contrary): the
        # evidence becomes an attempt of its own, so that the derived outcome holds it.
        seen = _begun(session, len(attempts) + 1, event.source, event.at)
        attempts = (*attempts, replace(seen, status=event.status, ended_at=event.at, sent=False))
    outcome = _set_attempts(session, changes, attempts)
    changes["reference"], changes["next_at"] = event.reference, None
    if session.outcome is _CHARGED and event.source is ev.EvidenceSource.CANCEL:
        changes["late_evidence"] = True  # voided, while the charge was heard of by another way
    proved = session.outcome is _UNKNOWN and outcome is _NOT_CHARGED and event.status is _VOIDED
    if proved and event.next_key is not None:  # nothing else makes a new key
        changes["generation"] = session.generation + 1
        if session.gateway_key is not None:  # what bears no key is not known by one later on
            changes["gateway_key"] = event.next_key
    return _move_after(session, outcome, event.status, settled=True)


def _process_restarted(session: Session, event: ev.ProcessRestarted, changes: _Changes) -> None:
    in_flight = session.in_flight
    phase = Phase.AWAITING_RESPONSE if in_flight else Phase.BEFORE_SEND
    attempts = tuple(
        replace(
            a,
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
    _set_attempts(session, changes, attempts)
    changes["interruptions"] = (*session.interruptions, stop)
