"""Every sequence of events in a bounded scope, breadth first, over the pure core.

What moves is the real `core.session.apply`, with the real `repeat_barrier` and `may_supersede`;
what the flow asks before it sends, cancels or expires is written down here a second time, in one
line each. What can happen, at any time and in any order: an answer, a lost answer, an outcome that
is recorded or not (T2), an intent that is durable although its send never began (T1 without an
ack), a look-up that finds what there is, or nothing, or that there is nothing, what is there voided
by its key, a person's cancel, hold, resume and complete,
expiry, exhaustion; once a crash, once a late answer; time as three moments: in time, after the
horizon, after the deadline. A `Scope` says how many clients want the one order paid, how often each
may be sent, and whether the first may start over once its payment is closed without a charge.

Beside each session stands what is true of it: what the gateway has executed, and what is still on
its way there. States are compared without times, texts and timelines, which decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from msgspec.structs import replace

from proxy.core import events as ev
from proxy.core import idempotency, retrying
from proxy.core import session as core
from proxy.core.idempotency import Identity, KeySource
from proxy.core.profile import GatewayClass
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, IllegalTransition, Outcome, State
from proxy.core.wire import Phase
from tests.campaigns.checker import Violation, broken_laws

# In time; after the horizon of what was sent in time; after the deadline. Milliseconds.
_MOMENTS = (0, 600_000, 1_000_000)
_EXPIRES_AT = 900_000
_HORIZON_SECONDS = 500.0
_DEFINITE = (AttemptStatus.SUCCEEDED, AttemptStatus.DECLINED, AttemptStatus.ACCEPTED)


class Wire(IntEnum):
    """What has become of the send that is in flight."""

    IDLE = 0  # there is none
    OUT = 1  # on its way, or not looked at yet
    DONE = 2  # executed, or answered with what an earlier send of its key came to
    REFUSED = 3  # turned away before anything was executed
    UNSENT = 4  # its intent is durable, and not a byte has left


class Slot(NamedTuple):
    """One client's payment, and what is true of it. `session` None: not begun.

    `old`: requests whose answers nobody waits for any more, and which may still be executed.
    `unsaved`: an answer that the store could not take yet.
    """

    session: Session | None = None
    durable: bool = False
    wire: Wire = Wire.IDLE
    old: int = 0
    truth: AttemptStatus | None = None
    charges: int = 0
    unsaved: AttemptStatus | None = None


class Move(NamedTuple):
    """An event, and the slot after it. `late`: it uses up the one late answer."""

    name: str
    slot: int
    late: bool = False


class Scope(NamedTuple):
    """How far a search goes."""

    clients: int
    sends: int
    again: bool = False
    late: bool = True

    def __str__(self) -> str:
        over = ", one of them twice" if self.again else ""
        late = ", a late answer" if self.late else ""
        return (
            f"{self.clients} client{'s' * (self.clients > 1)}{over}, {self.sends} sends each{late}"
        )


# The first two end: every sequence there is. The third is too wide for that.
ALONE = Scope(1, 3)
TWO = Scope(2, 2, late=False)
ALL = Scope(2, 3, again=True)


@dataclass(slots=True)
class Findings:
    """What a search came to."""

    states: int = 0
    transitions: int = 0
    sessions: int = 0
    depth: int = 0
    complete: bool = False
    violations: list[Violation] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)


_NOBODY = Session(
    id="s", gateway="g", started_at=0, expires_at=_EXPIRES_AT, max_attempts=3,
    key_hash="k", gateway_key="k", fingerprint="f", order_ref="o", order_locks=True,
)  # fmt: skip


class Model:
    """The transitions of one slot, worked out once each."""

    def __init__(self, gateway_class: GatewayClass, sends: int) -> None:
        self._class = gateway_class
        self._sends = sends
        self._number: dict[Slot, int] = {}
        self.slots: list[Slot] = []
        self.broken: dict[int, Violation] = {}
        self._moves: dict[tuple[int, int], list[Move]] = {}
        self._crashed: dict[int, int] = {}
        self.nothing = self.number(Slot())

    def number(self, slot: Slot) -> int:
        """A slot's number; the same for equal slots."""
        known = self._number.get(slot)
        if known is None:
            known = self._number[slot] = len(self.slots)
            self.slots.append(slot)
            wrong = next(self._untrue(slot), None)
            if wrong is not None:
                self.broken[known] = wrong
        return known

    def opened(self, generation: int, moment: int) -> int:
        """A payment that begins: claimed, not durable yet."""
        late = _MOMENTS[moment] >= _EXPIRES_AT
        started = replace(
            _NOBODY,
            generation=generation,
            max_attempts=self._sends,
            expires_at=_EXPIRES_AT + (_MOMENTS[moment] if late else 0),
        )
        session = core.apply(started, ev.Opened(0))
        return self.number(Slot(_normal(session)))

    def moves(self, number: int, moment: int) -> list[Move]:
        """Everything that can happen to a slot by itself."""
        known = self._moves.get((number, moment))
        if known is None:
            known = self._moves[number, moment] = self._work_out(self.slots[number], moment)
        return known

    def _work_out(self, slot: Slot, moment: int) -> list[Move]:
        if slot.session is None:
            return []
        found = []
        for name, after, late in _everything(slot, _MOMENTS[moment], self._class):
            found.append(Move(name, self.number(after), late))
            if slot.session is not after.session and after.session is not None:
                self._hold_to_the_laws(name, slot, after.session, found[-1].slot)
        return found

    def _hold_to_the_laws(self, name: str, slot: Slot, after: Session, number: int) -> None:
        before = slot.session
        assert before is not None
        for law in broken_laws(before, after):
            self.broken[number] = Violation("I4", f"{name}: {law}")
        lifted = before.hold and not after.hold
        if lifted and name != "a person resumes":
            self.broken[number] = Violation("T1", f"{name}: a hold was lifted")

    def crashed(self, number: int) -> int:
        """The slot after the process has died and another has looked around."""
        known = self._crashed.get(number)
        if known is None:
            known = self._crashed[number] = self.number(_crashed(self.slots[number]))
        return known

    def _untrue(self, slot: Slot) -> Iterator[Violation]:
        """What the session says that is not so."""
        session = slot.session
        if session is None:
            return
        says = f"the session is {session.state}/{session.outcome}"
        uncharged = session.outcome is Outcome.NOT_CHARGED
        wrong = (
            ("I1", "it is charged twice", slot.charges > 1),
            ("I5", "nothing is charged", session.outcome is Outcome.CHARGED and not slot.charges),
            ("I5", "it is charged", uncharged and slot.charges > 0),
            ("I6", "a request is still on its way", uncharged and self._may_be_charged(slot)),
            (
                "I13",
                "it is charged and its order is free",
                slot.charges and not session.locks_order,
            ),
            ("I2", "it is on the wire and not durable", slot.wire is Wire.OUT and not slot.durable),
        )
        yield from (Violation(name, f"{says}, and {what}") for name, what, so in wrong if so)

    def _may_be_charged(self, slot: Slot) -> bool:
        """Whether something is on its way that a gateway would still execute."""
        if self._class is GatewayClass.A_STRONG and slot.truth is not None:
            return False  # whatever arrives now is answered with what is known
        return slot.wire is Wire.OUT or slot.old > 0


# --- what can happen to a payment ---------------------------------------------------------------

_Happening = tuple[str, Slot, bool]


def _everything(slot: Slot, now: int, gateway_class: GatewayClass) -> Iterator[_Happening]:
    session = slot.session
    assert session is not None
    for name, after in _sends(slot, session, now, gateway_class):
        yield name, after, False
    for name, after in _at_the_gateway(slot, gateway_class):
        yield name, after, False
    for name, after in _answers(slot, session, now):
        yield name, after, False
    for name, after in _proofs(slot, session, now, gateway_class):
        yield name, after, False
    yield from _late_answers(slot, session, now)
    told = (*_evidence(session, slot, now, gateway_class), *_by_people(session, slot, now))
    for name, events in (*told, *_by_the_clock(session, now)):
        moved = _moved(session, events)
        if moved is not None:
            yield name, slot._replace(session=moved, durable=True), False


def _sends(
    slot: Slot, session: Session, now: int, gateway_class: GatewayClass
) -> Iterator[tuple[str, Slot]]:
    """The intent, with and without the send that should follow it; and a send that needs none."""
    if not _may_send(session, now, gateway_class):
        return
    number = len(session.attempts) + 1
    resumed = [ev.Resumed(now, ev.ResumedBy.REPEAT)]
    begun = _moved(
        session,
        [
            *(resumed if session.state is State.INTERRUPTED else []),
            ev.AttemptStarted(now, number, "g"),
        ],
    )
    if begun is not None:
        yield "sent", slot._replace(session=begun, durable=True, wire=Wire.OUT)
        yield "intent only", slot._replace(session=begun, durable=True, wire=Wire.UNSENT)
    refused = AttemptResult(AttemptStatus.NOT_SENT, Reason.CONNECTION_REFUSED)
    failed = _moved(session, _ended(session, now, number, refused, sent=False))
    if failed is not None:
        yield "no connection", slot._replace(session=failed, durable=True)


def _may_send(session: Session, now: int, gateway_class: GatewayClass) -> bool:
    """The guard of the intent (T1, section 8)."""
    free = session.live and not session.hold and not session.cancel_requested
    if not free or session.in_flight or session.sends_left() == 0 or now >= session.expires_at:
        return False
    if session.outcome is not Outcome.UNKNOWN:
        return True
    first = session.first_send_at
    return retrying.repeat_barrier(gateway_class, first, now, _HORIZON_SECONDS) is None


def _at_the_gateway(slot: Slot, gateway_class: GatewayClass) -> Iterator[tuple[str, Slot]]:
    """A request is looked at: the one that is waited for, or one that nobody waits for."""
    if slot.wire is Wire.OUT:
        yield "turned away", slot._replace(wire=Wire.REFUSED)
        for name, after in _executed(slot, gateway_class):
            yield name, after._replace(wire=Wire.DONE)
    if slot.old:
        fewer = slot._replace(old=slot.old - 1)
        yield "an old one comes to nothing", fewer
        for name, after in _executed(fewer, gateway_class):
            yield f"an old one {name}", after


def _executed(slot: Slot, gateway_class: GatewayClass) -> Iterator[tuple[str, Slot]]:
    if gateway_class is GatewayClass.A_STRONG and slot.truth is not None:
        yield "answered from what is kept", slot
        return
    for status in _DEFINITE:
        charges = min(2, slot.charges + (status is AttemptStatus.SUCCEEDED))
        truth = AttemptStatus.SUCCEEDED if charges else status
        yield f"executed: {status}", slot._replace(truth=truth, charges=charges)


def _answers(slot: Slot, session: Session, now: int) -> Iterator[tuple[str, Slot]]:
    """The end of the send that is in flight: seen or lost, recorded or not."""
    if slot.wire is Wire.IDLE and slot.unsaved is None:
        return
    # Evidence may have settled it while it was out.
    in_flight = [a.number for a in session.attempts if a.status is AttemptStatus.IN_FLIGHT]
    number = in_flight[0] if in_flight else len(session.attempts)
    if slot.unsaved is not None:
        result = AttemptResult(slot.unsaved)
        yield from _come_back("saved at last", slot, _ended(session, now, number, result))
        return
    if slot.wire is Wire.UNSENT:
        result = AttemptResult(AttemptStatus.NOT_SENT, Reason.STORE_UNAVAILABLE)
        yield from _come_back("taken back", slot, _ended(session, now, number, result, sent=False))
        return
    lost = AttemptResult(AttemptStatus.UNKNOWN, Reason.ATTEMPT_TIMEOUT)
    old = slot.old + (slot.wire is Wire.OUT)
    yield from _come_back("answer lost", slot._replace(old=old), _ended(session, now, number, lost))
    for status, reason in _told_by_the_gateway(slot):
        events = _ended(session, now, number, AttemptResult(status, reason))
        yield from _come_back(f"answered: {status}", slot, events)
        if reason is None:
            yield "answered, not saved", slot._replace(wire=Wire.IDLE, unsaved=status)


def _told_by_the_gateway(slot: Slot) -> list[tuple[AttemptStatus, Reason | None]]:
    if slot.wire is Wire.DONE and slot.truth is not None:
        return [(slot.truth, None)]
    if slot.wire is Wire.REFUSED:
        rejected = AttemptStatus.REJECTED
        return [(rejected, None), (rejected, Reason.RATE_LIMITED)]
    return []


def _come_back(name: str, slot: Slot, events: list[ev.Event]) -> Iterator[tuple[str, Slot]]:
    """The send in flight has come to its end."""
    assert slot.session is not None
    moved = _moved(slot.session, events)
    if moved is not None:
        yield name, slot._replace(session=moved, wire=Wire.IDLE, unsaved=None)


def _late_answers(slot: Slot, session: Session, now: int) -> Iterator[_Happening]:
    """An answer to a send that was given up, at any time, whatever became of the session."""
    if slot.truth is None:
        return
    for attempt in session.attempts:
        if attempt.status is AttemptStatus.UNKNOWN:
            result = AttemptResult(slot.truth)
            moved = _moved(session, _ended(session, now, attempt.number, result))
            if moved is not None:
                yield f"late answer: {slot.truth}", slot._replace(session=moved), True


_Wish = tuple[str, list[ev.Event]]


def _evidence(
    session: Session, slot: Slot, now: int, gateway_class: GatewayClass
) -> Iterator[_Wish]:
    """What a look-up finds. That nothing was charged it says only when nothing is on its way."""
    if session.outcome is not Outcome.UNKNOWN:
        return
    if gateway_class is not GatewayClass.D_NONE:
        yield "looked up in vain", [ev.LookedUp(now, now)]
    settled = slot.old == 0 and slot.wire is not Wire.OUT
    seen = slot.truth is AttemptStatus.SUCCEEDED or (slot.truth is not None and settled)
    if seen and slot.truth is not None and gateway_class is not GatewayClass.D_NONE:
        found = ev.EvidenceFound(now, ev.EvidenceSource.LOOKUP, slot.truth, "r")
        yield f"looked up: {slot.truth}", [found]


def _proofs(
    slot: Slot, session: Session, now: int, gateway_class: GatewayClass
) -> Iterator[tuple[str, Slot]]:
    """Nothing is on its way any more: there is nothing at the gateway, or what there is is voided.
    From then on another key is sent.
    """
    on_its_way = slot.old > 0 or session.in_flight
    unknown = session.outcome is Outcome.UNKNOWN
    if gateway_class is GatewayClass.D_NONE or on_its_way or not unknown:
        return
    key = f"k{session.generation + 1}"
    proof = ev.EvidenceFound(now, ev.EvidenceSource.LOOKUP, AttemptStatus.VOIDED, "r", key)
    moved = _moved(session, [proof])
    if moved is None:
        return
    after = slot._replace(session=moved)
    if slot.truth is None:
        yield "proved that there is nothing", after
    elif gateway_class is GatewayClass.C_CANCEL_BY_KEY or session.cancel_requested:
        yield "voided", after._replace(truth=None, charges=0)


def _by_people(session: Session, slot: Slot, now: int) -> Iterator[_Wish]:
    """The verbs of the session API, as `flow/commands.py` allows them."""
    if session.outcome is Outcome.UNKNOWN and not session.cancel_requested:
        yield "a person wants it cancelled", [ev.CancelRequested(now, "r")]
    if session.live and session.outcome is Outcome.NOT_CHARGED:
        yield "a person cancels", [ev.Cancelled(now, "r")]
    if session.live:
        held = ev.Interrupted(now, Reason.REQUESTED, Phase.BEFORE_SEND, hold=True)
        yield "a person holds", [held]
    if session.state is State.INTERRUPTED and not session.in_flight:
        yield "a person resumes", [ev.Resumed(now, ev.ResumedBy.REQUEST)]
    open_still = session.live or session.outcome is Outcome.UNKNOWN
    if slot.charges and open_still and not session.in_flight:
        paid = AttemptStatus.SUCCEEDED
        yield "a person vouches", [ev.EvidenceFound(now, ev.EvidenceSource.PERSON, paid, "r")]


def _by_the_clock(session: Session, now: int) -> Iterator[_Wish]:
    """What happens by itself (`core.recovery`), and a walk that is stopped between two sends."""
    if session.in_flight:
        return
    if session.due_to_expire(now):
        yield "expires", [ev.Expired(now)]
    unknown = session.outcome is Outcome.UNKNOWN
    if unknown and session.state is State.INTERRUPTED:
        yield "given up", [ev.Exhausted(now)]
    if unknown and not session.review_required:
        yield "put before a person", [ev.ReviewNeeded(now)]
    if session.live:
        yield "stopped", [ev.Interrupted(now, Reason.SHUTDOWN, Phase.BEFORE_SEND)]


def _crashed(slot: Slot) -> Slot:
    session = slot.session
    if session is None or not slot.durable:
        return Slot()
    old = slot.old + (slot.wire is Wire.OUT)
    if session.in_flight:
        moved = _moved(session, [ev.ProcessRestarted(0)])
        assert moved is not None
        session = moved
    return slot._replace(session=session, wire=Wire.IDLE, old=old, unsaved=None)


# --- the core -----------------------------------------------------------------------------------


def _ended(
    session: Session, now: int, number: int, result: AttemptResult, *, sent: bool = True
) -> list[ev.Event]:
    """The outcome, and the exhaustion that is recorded with it (`flow/attempts.py`)."""
    phase = Phase.ANSWERED if sent else Phase.CONNECTING
    events: list[ev.Event] = [ev.AttemptEnded(now, number, "g", result, phase, sent, 0, now)]
    after = _moved(session, events)
    spent = after is not None and after.sends_left() == 0 and after.state is State.INTERRUPTED
    if after is not None and spent and after.outcome is Outcome.NOT_CHARGED:
        events.append(ev.Exhausted(now))
    return events


def _moved(session: Session, events: list[ev.Event]) -> Session | None:
    try:
        for event in events:
            session = core.apply(session, event)
    except IllegalTransition:
        return None
    return _normal(session)


def _normal(session: Session) -> Session:
    """Without what decides nothing."""
    attempts = tuple(
        replace(attempt, ended_at=None, reason=None, phase=None, http_status=None)
        for attempt in session.attempts
    )
    return replace(session,
        version=0, updated_at=0, finished_at=None, attempts=attempts, interruptions=(),
        retries=(), timeline=(), cancel_reason=None, reference=None, lookups=0, next_at=None,
    )  # fmt: skip


# --- the search ---------------------------------------------------------------------------------

# A state is one number: moment, crashes and late answers left, and three slots of 20 bits.
_BITS = 20
_MASK = (1 << _BITS) - 1
_SLOTS = 3


def _pack(moment: int, crash: int, late: int, slots: tuple[int, ...]) -> int:
    packed = (moment << 2) | (crash << 1) | late
    for slot in slots:
        packed = (packed << _BITS) | slot
    return packed


def _unpack(packed: int) -> tuple[int, int, int, tuple[int, ...]]:
    slots = tuple((packed >> (_BITS * place)) & _MASK for place in range(_SLOTS - 1, -1, -1))
    head = packed >> (_BITS * _SLOTS)
    return head >> 2, (head >> 1) & 1, head & 1, slots


class Search:
    """Breadth first from the empty store."""

    def __init__(self, gateway_class: GatewayClass, scope: Scope, *, traced: bool = False) -> None:
        self._model = Model(gateway_class, scope.sends)
        self._scope = scope
        self._traced = traced

    def run(self, most: int | None, say: Callable[[str], None] = lambda _: None) -> Findings:
        """Until nothing is new, something is wrong, or `most` states were seen."""
        findings = Findings()
        start = _pack(0, 1, self._scope.late, (self._model.nothing,) * _SLOTS)
        seen: dict[int, int | None] = {start: None}
        layer = [start]
        while layer and (most is None or len(seen) < most):
            fresh: list[int] = []
            for packed in layer:
                for _, after in self._after(packed):
                    findings.transitions += 1
                    if after in seen:
                        continue
                    seen[after] = packed if self._traced else None
                    fresh.append(after)
                    if (wrong := self._wrong(after)) is not None:
                        findings.violations.append(wrong)
                        findings.trace = self._trace(seen, after)
                        return self._summed(findings, seen)
            layer = fresh
            findings.depth += 1
            say(f"{findings.depth} events: {len(seen)} states")
        findings.complete = not layer
        return self._summed(findings, seen)

    def _summed(self, findings: Findings, seen: dict[int, int | None]) -> Findings:
        findings.states = len(seen)
        findings.sessions = len({slot.session for slot in self._model.slots})
        return findings

    def _wrong(self, packed: int) -> Violation | None:
        _, _, _, slots = _unpack(packed)
        for number in slots:
            if number in self._model.broken:
                return self._model.broken[number]
        states = [self._model.slots[number] for number in slots]
        if sum(slot.charges for slot in states) > 1:
            return Violation("I1", "the order is charged twice")
        if sum(_locks(slot) for slot in states) > 1:
            return Violation("I13", "two payments of the order are open")
        return None

    def _after(self, packed: int) -> Iterator[tuple[str, int]]:
        moment, crash, late, slots = _unpack(packed)
        model = self._model
        for place, number in enumerate(slots):
            for move in model.moves(number, moment):
                if move.late and not late:
                    continue
                changed = self._in_order((*slots[:place], move.slot, *slots[place + 1 :]))
                name = f"{_CLIENTS[place]}: {move.name}"
                yield name, _pack(moment, crash, late - move.late, changed)
        for place, generation in self._may_open(slots):
            opened = model.opened(generation, moment)
            changed = self._in_order((*slots[:place], opened, *slots[place + 1 :]))
            yield f"{_CLIENTS[place]}: begins", _pack(moment, crash, late, changed)
        if crash:
            crashed = self._in_order(tuple(model.crashed(number) for number in slots))
            yield "crash and restart", _pack(moment, 0, late, crashed)
        if moment + 1 < len(_MOMENTS):
            yield "time passes", _pack(moment + 1, crash, late, slots)

    def _in_order(self, slots: tuple[int, ...]) -> tuple[int, ...]:
        """Two clients that can do the same are interchangeable: one state for both ways round."""
        first, again, other = slots
        return slots if self._scope.again or first >= other else (other, again, first)

    def _may_open(self, slots: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Which payments of the order may begin: (slot, generation of the key)."""
        states = [self._model.slots[number] for number in slots]
        if any(_locks(slot) for slot in states):
            return
        first, again, other = states
        if first.session is None:
            yield 0, 1
        elif again.session is None and self._scope.again and _over(first.session):
            yield 1, 2
        if other.session is None and self._scope.clients > 1:
            yield 2, 1

    def _trace(self, seen: dict[int, int | None], packed: int) -> list[str]:
        if not self._traced:
            return []
        steps: list[str] = []
        here: int | None = packed
        while here is not None and (before := seen[here]) is not None:
            steps.append(next(name for name, after in self._after(before) if after == here))
            here = before
        return steps[::-1]


_CLIENTS = ("first client", "first client, again", "second client")
_BY_ORDER = Identity("t", KeySource.ORDER, "k", "k", "f", 1, "o", order_locks=True)


def _over(session: Session) -> bool:
    """Whether a client that names only its order may start over."""
    return idempotency.may_supersede(session, _BY_ORDER)


def _locks(slot: Slot) -> bool:
    return slot.session is not None and slot.session.locks_order


def search(
    gateway_class: GatewayClass,
    scope: Scope,
    most: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Search, up to the end of the layer with `most` states; if something is wrong, find the way
    there as well.
    """
    findings = Search(gateway_class, scope).run(most, say)
    if findings.violations:
        return Search(gateway_class, scope, traced=True).run(most)
    return findings
