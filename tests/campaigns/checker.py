"""The judge of every campaign: a history in, violations by the names of the money rules out.

The names are those of section 6.1. The truth is the gateway's ledger; the store is only asked
whether it agrees. Checked, for one process or two that share a store:

- I1  a payment is charged once at most
- I2  what is on the wire has a durable intent of its own, written before
- I3  a new attempt (another key, or another session of the payment) starts only when what went
      before is closed as not charged
- I4  what is known of an attempt never shrinks, COMPLETED absorbs, a charge is never masked, no
      session is closed as uncharged while that is unknown; the outcome is the one that is derived
- I5  when all is quiet, store and ledger say the same, or the store says that it does not know
- I6  what a client or an operator is told about the money is true, and stays true
- I7  a payment has one answer: whoever is told how it ended hears the same bytes
- I8  one key, one body: another body under a key never reaches the gateway
- I9  nothing is sent, and no intent recorded, by a process whose lease has run out; what a process
      has in flight is taken over by nobody before that
- I10 an answer that arrived is in the session, unless its process died before it could be written;
      one that somebody was told of is, whoever died
- I11 a request whose outcome is unknown is sent again only where the gateway honours the key,
      before the horizon and before the session's deadline
- I12 with the faults healed every session ends, or is put before a person; no request hangs, no key
      is "in progress" for ever
- I13 one order, one open session: nothing is sent while another session of the order is live,
      unknown or charged
- I16 how it ended is durable before anybody is told, or the answer says otherwise; a version that
      was acknowledged is there
- T1  the guard of section 8: nothing is sent for a session that is cancelled, held or closed
- BUG an exception that nobody expected

Not checked here: I14 (tests/telemetry/test_nothing_leaks.py), I15 (tests/test_audit.py), and of I16
what survives a power cut (`powerloss.py`, which judges by this file as well).

What a campaign cannot see it leaves out of its `History`; what is not there is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.core.session import Session
from proxy.core.states import LIVE, AttemptStatus, Outcome, State

# How long a gateway may be at a request: what it shows before that is not the end of it.
SETTLE_SECONDS = 120.0
_CLOSED = frozenset(
    {State.DECLINED, State.CANCELLED, State.EXPIRED, State.COMPLETED, State.FAILED_MAX_RETRIES}
)
# The judge's own, not that of `proxy.core.states`: who asks the accused sees no mistake of theirs.
_RANK = {
    AttemptStatus.IN_FLIGHT: 0,
    AttemptStatus.UNKNOWN: 1,
    AttemptStatus.NOT_SENT: 2,
    AttemptStatus.REJECTED: 2,
    AttemptStatus.DECLINED: 2,
    AttemptStatus.ACCEPTED: 2,
    AttemptStatus.VOIDED: 2,
    AttemptStatus.SUCCEEDED: 3,
}
_OPEN = frozenset({AttemptStatus.IN_FLIGHT, AttemptStatus.UNKNOWN})
# An answer to one of these says what became of every earlier send with the key.
_OF_THE_KEY = frozenset(
    {AttemptStatus.DECLINED, AttemptStatus.ACCEPTED, AttemptStatus.VOIDED, AttemptStatus.SUCCEEDED}
)


class Violation(NamedTuple):
    """A promise that was not kept, and how."""

    name: str
    what: str


class Charge(NamedTuple):
    """A line of the ledger. `send` is the number of the request that was charged, `who` the
    account at its gateway.
    """

    at: float
    payment: str
    key: str
    send: int
    who: str = ""


class Sent(NamedTuple):
    """A request on the wire, and what the disk said of it at that moment.

    `session` None: no session on the disk has an intent for it. `decided`: when the intent was made
    (it left when that was durable). `unsettled`: an earlier send of the session had not been
    settled, and may be repeated until `repeatable_until`. `rivals`: sessions that locked the order,
    `others`: sessions of the payment that were not closed as not charged. `forbidden`: why its
    session may not send. `without_lease`: for how many seconds its sender had had none.
    """

    number: int
    at: float
    payment: str
    gateway: str
    credential: str
    key: str
    body: bytes
    session: str | None
    attempt: int = 0
    decided: float = 0.0
    unsettled: bool = False
    repeatable_until: float = 0.0
    rivals: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    forbidden: str | None = None
    without_lease: float = 0.0


class Told(NamedTuple):
    """What somebody was told.

    `outcome`: what the answer says of the money, in whatever form. `over`: it says that this is the
    end, and that a new payment may be made; `safe`: that the same request may be sent again, named
    as it was. `settled`: it is the payment's own answer, from the gateway, and `pending` if it says
    that the store could not take it yet. `recorded`: the disk said so too at that moment; `known`:
    the disk knew that it is charged; `accepted`: that the gateway has accepted it. `busy`: "in
    progress, come again"; `gone`: settled, but the answer is not kept. `since`: when it was asked,
    if what an answer says may have become untrue on its way from a store that is far.
    """

    at: float
    who: str
    payment: str
    session: str | None
    status: int
    body: bytes
    outcome: Outcome | None = None
    over: bool = False
    settled: bool = False
    pending: bool = False
    safe: bool = True
    recorded: bool = True
    known: bool = False
    accepted: bool = False
    busy: bool = False
    gone: bool = False
    since: float | None = None


class Heard(NamedTuple):
    """Evidence that reached a process which lived on long enough to write it down."""

    at: float
    session: str
    outcome: Outcome
    how: str


class Proof(NamedTuple):
    """A look-up closed a session as not charged, so long after its last send. `asked`: when the
    look-up began, so many seconds after that send (before it: less than 0).
    """

    session: str
    after_send: float
    asked: float


@dataclass(slots=True)
class History:
    """Everything that can be known of a run, seen from outside."""

    charges: list[Charge] = field(default_factory=list)
    voided: list[Charge] = field(default_factory=list)  # no longer among the charges
    sent: list[Sent] = field(default_factory=list)
    asked: list[tuple[float, str]] = field(default_factory=list)  # when, and for which payment
    told: list[Told] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    versions: Sequence[tuple[Session | None, Session]] = ()
    acknowledged: list[Session] = field(default_factory=list)
    against_leases: Sequence[str] = ()
    sessions: Mapping[str, Session] = field(default_factory=dict)
    healed_at: float | None = None
    hung: list[str] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)


def judge(history: History) -> list[Violation]:
    """Every violation, the worst first."""
    rules = (
        _charged_twice, _proved_too_soon, _on_the_wire, _leases, _bodies, _versions, _quiet, _true,
        _same_answer, _evidence, _alive,
    )  # fmt: skip
    found = [violation for rule in rules for violation in rule(history)]
    found += [Violation("BUG", bug) for bug in history.bugs]
    return found


def _charged_twice(history: History) -> Iterator[Violation]:
    first: dict[str, Charge] = {}
    for charge in history.charges:
        before = first.setdefault(charge.payment, charge)
        if before is not charge:
            what = f"{charge.payment} at {before.at:.2f} (send {before.send}) and again at "
            yield Violation("I1", f"{what}{charge.at:.2f} (send {charge.send})")


def _proved_too_soon(history: History) -> Iterator[Violation]:
    for proof in history.proofs:
        if proof.after_send < SETTLE_SECONDS:
            what = f"{proof.session} is closed by a look-up {proof.after_send:.0f} s after its last"
            how = "; the look-up had begun before it" if proof.asked < 0 else ""
            yield Violation("I6", f"{what} send{how}")


def _on_the_wire(history: History) -> Iterator[Violation]:
    intents: set[tuple[str, int]] = set()
    for sent in history.sent:
        name = f"send {sent.number} of {sent.payment} at {sent.at:.2f}"
        if sent.session is None:
            yield Violation("I2", f"{name}: no durable intent")
            continue
        if (sent.session, sent.attempt) in intents:
            yield Violation("I2", f"{name}: its intent was used before")
        intents.add((sent.session, sent.attempt))
        if sent.forbidden is not None:
            yield Violation("T1", f"{name}: the session is {sent.forbidden}")
        if sent.others:
            yield Violation("I3", f"{name}: not closed as uncharged: {', '.join(sent.others)}")
        if sent.unsettled and sent.at >= sent.repeatable_until:
            late = f"repeated {sent.at - sent.repeatable_until:.2f} s after that was safe"
            slow = "; it had been in time when it was decided"
            in_time = sent.decided < sent.repeatable_until
            yield Violation("I11", f"{name}: {late}{slow if in_time else ''}")
        if sent.rivals:
            yield Violation("I13", f"{name}: the order is locked by {', '.join(sent.rivals)}")


def _leases(history: History) -> Iterator[Violation]:
    for sent in history.sent:
        if sent.without_lease:
            over = f"its sender's lease had run out {sent.without_lease:.2f} s before"
            yield Violation("I9", f"send {sent.number} of {sent.payment} at {sent.at:.2f}: {over}")
    for what in history.against_leases:
        yield Violation("I9", what)


def _bodies(history: History) -> Iterator[Violation]:
    bodies: dict[tuple[str, str, str], bytes] = {}
    for sent in history.sent:
        body = bodies.setdefault((sent.gateway, sent.credential, sent.key), sent.body)
        if body != sent.body:
            yield Violation("I8", f"send {sent.number} of {sent.payment}: another body, same key")


# --- sessions -----------------------------------------------------------------------------------


def _versions(history: History) -> Iterator[Violation]:
    for before, after in history.versions:
        for law in broken_laws(before, after):
            yield Violation("I4", f"{after.id} version {after.version}: {law}")
    if history.acknowledged:
        there = {(after.id, after.version): after for _, after in history.versions}
        for session in history.acknowledged:
            if there.get((session.id, session.version)) != session:
                what = f"{session.id} version {session.version} was acknowledged, and is not there"
                yield Violation("I16", what)


def broken_laws(before: Session | None, after: Session) -> Iterator[str]:
    """What is wrong with a session that was `before` and is now `after`, whatever happened."""
    if after.outcome is not derived_outcome(after):
        yield f"outcome {after.outcome}, but its attempts say {derived_outcome(after)}"
    uncharged = _CLOSED - {State.COMPLETED, State.FAILED_MAX_RETRIES}
    if after.state in uncharged and after.outcome is not Outcome.NOT_CHARGED:
        yield f"{after.state} although the outcome is {after.outcome}"
    if after.state is State.COMPLETED and after.outcome is Outcome.UNKNOWN:
        yield "COMPLETED although the outcome is unknown"
    if after.outcome is Outcome.CHARGED and after.state is not State.COMPLETED:
        yield f"charged, and still {after.state}"
    locks = after.live or after.outcome is not Outcome.NOT_CHARGED
    if after.locks_order is not (locks and after.order_locks and after.order_ref is not None):
        yield f"{after.state}/{after.outcome}, and the order lock is {after.locks_order}"
    if before is not None:
        yield from _steps_back(before, after)


def _steps_back(before: Session, after: Session) -> Iterator[str]:  # noqa: C901 -- one law each
    if before.outcome is Outcome.CHARGED and after.outcome is not Outcome.CHARGED:
        yield f"charged became {after.outcome}"
    if before.state is State.COMPLETED and after.state is not State.COMPLETED:
        yield f"COMPLETED became {after.state}"
    if before.state not in LIVE and after.state in LIVE:
        yield f"{before.state} became {after.state}"
    if before.cancel_requested and not after.cancel_requested:
        yield "a cancel was forgotten"
    if before.generation != after.generation:
        open_before = any(a.status in _OPEN for a in before.attempts)
        if not open_before or after.outcome is Outcome.UNKNOWN:
            yield f"key number {after.generation}, and nothing was proved"
    elif before.gateway_key not in {None, after.gateway_key}:
        yield "another key, and no proof"
    known = {attempt.number: attempt.status for attempt in after.attempts}
    for attempt in before.attempts:
        now = known.get(attempt.number)
        if now is None:
            yield f"attempt {attempt.number} is gone"
        elif _RANK[now] < _RANK[attempt.status]:
            yield f"attempt {attempt.number} was {attempt.status} and is {now}"
        elif _RANK[now] == _RANK[attempt.status] and now is not attempt.status:
            yield f"attempt {attempt.number} changed its mind: {attempt.status}, then {now}"


def derived_outcome(session: Session) -> Outcome:
    """The outcome its attempts prove, worked out the long way round: attempt by attempt."""
    attempts = session.attempts
    if any(attempt.status is AttemptStatus.SUCCEEDED for attempt in attempts):
        return Outcome.CHARGED
    for place, attempt in enumerate(attempts):
        if attempt.status is AttemptStatus.IN_FLIGHT:
            return Outcome.UNKNOWN
        later = [a for a in attempts[place + 1 :] if a.generation == attempt.generation]
        settled = any(a.status in _OF_THE_KEY for a in later) and not session.at_risk
        if attempt.status is AttemptStatus.UNKNOWN and not settled:
            return Outcome.UNKNOWN
    return Outcome.NOT_CHARGED


# --- store against ledger -----------------------------------------------------------------------


def _charges_by_session(history: History) -> dict[str, list[Charge]]:
    session_of = {sent.number: sent.session for sent in history.sent}
    charges: dict[str, list[Charge]] = {}
    for charge in history.charges:
        session = session_of.get(charge.send)
        if session is not None:
            charges.setdefault(session, []).append(charge)
    return charges


def _quiet(history: History) -> Iterator[Violation]:
    """What the store says when nothing moves any more, and what the ledger does."""
    charges = _charges_by_session(history)
    for session in history.sessions.values():
        count = len(charges.get(session.id, ()))
        name = f"{session.id} is {session.state}/{session.outcome}"
        if session.outcome is Outcome.CHARGED and count != 1:
            yield Violation("I5", f"{name}, and the ledger has {count} charges")
        if session.outcome is Outcome.NOT_CHARGED and count:
            yield Violation("I5", f"{name}, and the ledger has a charge")


def _alive(history: History) -> Iterator[Violation]:
    if history.healed_at is None:
        return
    for session in history.sessions.values():
        waiting = session.live or session.outcome is Outcome.UNKNOWN
        if waiting and not session.review_required:
            yield Violation("I12", f"{session.id} is still {session.state}/{session.outcome}")
        if session.in_flight:
            yield Violation("I12", f"{session.id} is in flight for ever")
    yield from _busy_for_ever(history.told, history.healed_at)
    for who in history.hung:
        yield Violation("I12", f"{who} never got an answer")


# A walk, what it waits for first, and a slow disk.
_BUSY_SECONDS = 120.0


def _busy_for_ever(everything: Sequence[Told], healed_at: float) -> Iterator[Violation]:
    since: dict[str | None, float] = {}
    for told in everything:
        if told.at < healed_at or not told.busy:
            since.pop(told.session, None)
            continue
        begun = since.setdefault(told.session, told.at)
        if told.at > begun + _BUSY_SECONDS:
            what = f"{told.who} is told at {told.at:.2f}, and since {begun:.2f}"
            yield Violation("I12", f"{what}, that it is in progress")


# --- what was told ------------------------------------------------------------------------------


def _true(history: History) -> Iterator[Violation]:
    charges = _charges_by_session(history)
    sent_at = {sent.number: sent.at for sent in history.sent}
    for told in history.told:
        if told.session is None:
            continue
        name = f"{told.who} is told {told.status} ({told.outcome}) at {told.at:.2f}"
        its = charges.get(told.session, [])
        # What could not be written down may be voided later by a person who does not know of it.
        session = history.sessions.get(told.session)
        undone = told.pending and session is not None and session.cancel_requested
        there = [*its, *(c for c in history.voided if undone and c.payment == told.payment)]
        if told.outcome is Outcome.CHARGED and not any(c.at <= told.at for c in there):
            yield Violation("I6", f"{name}, and nothing is charged")
        if told.outcome is Outcome.NOT_CHARGED:
            known_at = told.at if told.since is None else told.since
            wrong = [c for c in its if told.over or sent_at[c.send] < known_at]
            if wrong:
                who = "the session itself knows" if told.known else "the ledger has"
                yield Violation("I6", f"{name}, and {who} a charge of {wrong[0].at:.2f}")
        if told.over and told.accepted:
            yield Violation("I6", f"{name}, over, and the payment was accepted")
        if not told.recorded:
            yield Violation("I16", f"{name}, and the disk does not say so")


def _same_answer(history: History) -> Iterator[Violation]:
    first: dict[str, Told] = {}
    gone: dict[str, Told] = {}
    for told in history.told:
        if told.session is None:
            continue
        if told.gone:
            gone.setdefault(told.session, told)
        if not told.settled or told.pending:
            continue
        before = first.setdefault(told.session, told)
        if (before.status, before.body) != (told.status, told.body):
            what = f"{told.who} is told {told.status} at {told.at:.2f}, {before.who} was told"
            yield Violation("I7", f"{what} {before.status} at {before.at:.2f}")
        if told.session in gone:
            was = gone[told.session]
            what = f"{was.who} was told at {was.at:.2f} that the answer is gone"
            yield Violation("I7", f"{what}, {told.who} gets it at {told.at:.2f}")


def _evidence(history: History) -> Iterator[Violation]:
    for heard in history.heard:
        session = history.sessions.get(heard.session)
        if session is None or session.outcome is not heard.outcome:
            now = "gone" if session is None else session.outcome
            what = f"{heard.session} heard {heard.outcome} at {heard.at:.2f} ({heard.how})"
            yield Violation("I10", f"{what}, and its outcome is {now}")
    for told in history.told:
        if told.settled and told.pending and told.session is not None:
            session = history.sessions.get(told.session)
            otherwise = session is None or session.outcome is not told.outcome
            if otherwise and not _asked_anew(told, history):
                now = "gone" if session is None else session.outcome
                what = f"{told.who} was told {told.outcome} at {told.at:.2f}, not recorded yet"
                yield Violation("I10", f"{what}, and the outcome of {told.session} is {now}")


def _asked_anew(told: Told, history: History) -> bool:
    """Whether what somebody asked for after they were told "not charged" is what was charged."""
    its = {charge.send for charge in _charges_by_session(history).get(told.session or "", ())}
    sent_at = [sent.at for sent in history.sent if sent.number in its]
    charged = told.outcome is Outcome.NOT_CHARGED and bool(sent_at)
    return charged and any(
        payment == told.payment and told.at < at <= min(sent_at) for at, payment in history.asked
    )


def names_of(violations: Iterable[Violation]) -> list[str]:
    """The names, each once, as they came."""
    return list(dict.fromkeys(violation.name for violation in violations))
