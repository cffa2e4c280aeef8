"""The life of a payment session, as one table.

Rule 1: every transition of a session is a row of `TRANSITIONS`; no other file decides a next state.
Rule 2: what a charge's outcome is (`Outcome`) is kept beside the state, never inside it. It is
        *derived* from the attempts (`outcome_of`), so a closed attempt cannot mask an open one.
Rule 3: a move that promises "nothing was charged" may only be made while that is proved
        (`REQUIRED_OUTCOME`). A timer can therefore never turn unknown into failed.
Rule 4: evidence is never refused. Every state has a row for every `EVIDENCE` move, also the
        terminal ones: a charge that shows up after CANCELLED is a fact to page about, not an error.
Rule 5: a pair that is not listed is `IllegalTransition` and changes nothing.

The words are those of the contract: states and outcome as the session API shows them, attempt
statuses as the money rules name them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class State(StrEnum):
    """Where a session is; the names are a contract of the session API."""

    INITIATED = "INITIATED"
    INTERRUPTED = "INTERRUPTED"
    RESUMED = "RESUMED"
    COMPLETED = "COMPLETED"
    DECLINED = "DECLINED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    FAILED_MAX_RETRIES = "FAILED_MAX_RETRIES"


class Outcome(StrEnum):
    """What is known about the money, beside the state."""

    NOT_CHARGED = "not_charged"
    UNKNOWN = "unknown"
    CHARGED = "charged"


class AttemptStatus(StrEnum):
    """What is known about one send to the gateway."""

    IN_FLIGHT = "in_flight"
    UNKNOWN = "unknown"
    NOT_SENT = "not_sent"
    REJECTED = "rejected"  # answered, and the gateway did not execute it
    DECLINED = "declined"  # executed, and the answer is no
    ACCEPTED = (
        "accepted"  # executed; nothing is charged yet (waits for the payer, or needs no money)
    )
    VOIDED = "voided"  # the gateway provably has nothing of it, or has undone it
    SUCCEEDED = "succeeded"


class Move(StrEnum):
    """What can happen to a session."""

    SEND = "send"
    CHARGE_SEEN = "charge seen"
    ACCEPTANCE_SEEN = "acceptance seen"
    DECLINE_SEEN = "decline seen"
    VOID_SEEN = "void seen"
    INTERRUPT = "interrupt"
    RESUME = "resume"
    CANCEL = "cancel"
    EXHAUST = "exhaust"
    EXPIRE = "expire"


class IllegalTransition(Exception):  # noqa: N818 -- the money rules' word
    """The table has no such row; the session is unchanged."""


LIVE = frozenset({State.INITIATED, State.INTERRUPTED, State.RESUMED})

# What the gateway (or a person, or a webhook) tells us. Always listened to: rule 4.
EVIDENCE = frozenset(
    {Move.CHARGE_SEEN, Move.ACCEPTANCE_SEEN, Move.DECLINE_SEEN, Move.VOID_SEEN, Move.INTERRUPT}
)

TRANSITIONS: Mapping[State, Mapping[Move, State]] = {
    State.INITIATED: {
        Move.SEND: State.INITIATED,
        Move.CHARGE_SEEN: State.COMPLETED,
        Move.ACCEPTANCE_SEEN: State.COMPLETED,
        Move.DECLINE_SEEN: State.DECLINED,
        Move.VOID_SEEN: State.INTERRUPTED,
        Move.INTERRUPT: State.INTERRUPTED,
        Move.CANCEL: State.CANCELLED,
        Move.EXPIRE: State.EXPIRED,
    },
    State.INTERRUPTED: {
        Move.RESUME: State.RESUMED,
        # An answer can still arrive for a session that was interrupted on request while it was
        # in flight: the socket is kept, the answer is evidence.
        Move.CHARGE_SEEN: State.COMPLETED,
        Move.ACCEPTANCE_SEEN: State.COMPLETED,
        Move.DECLINE_SEEN: State.DECLINED,
        # The gateway never had it, or has undone it: what was sent is closed, and a new attempt,
        # under another key, is as good as a first one.
        Move.VOID_SEEN: State.INTERRUPTED,
        Move.INTERRUPT: State.INTERRUPTED,
        Move.CANCEL: State.CANCELLED,
        Move.EXHAUST: State.FAILED_MAX_RETRIES,
        Move.EXPIRE: State.EXPIRED,
    },
    State.RESUMED: {
        Move.SEND: State.RESUMED,
        Move.CHARGE_SEEN: State.COMPLETED,
        Move.ACCEPTANCE_SEEN: State.COMPLETED,
        Move.DECLINE_SEEN: State.DECLINED,
        Move.VOID_SEEN: State.INTERRUPTED,
        Move.INTERRUPT: State.INTERRUPTED,
        Move.CANCEL: State.CANCELLED,
        Move.EXHAUST: State.FAILED_MAX_RETRIES,
        # Resumed by hand and then nobody came back with the request.
        Move.EXPIRE: State.EXPIRED,
    },
    # Absorbing: whatever arrives late, the charge stays seen.
    State.COMPLETED: dict.fromkeys(EVIDENCE, State.COMPLETED),
    # Closed without a charge: only a charge moves them, and that is a contradiction to page about.
    State.DECLINED: {**dict.fromkeys(EVIDENCE, State.DECLINED), Move.CHARGE_SEEN: State.COMPLETED},
    State.CANCELLED: {
        **dict.fromkeys(EVIDENCE, State.CANCELLED),
        Move.CHARGE_SEEN: State.COMPLETED,
    },
    State.EXPIRED: {**dict.fromkeys(EVIDENCE, State.EXPIRED), Move.CHARGE_SEEN: State.COMPLETED},
    # "No further send will be made", not "the truth is known": with outcome unknown it stays
    # listed, and a late proof either way only settles the outcome.
    State.FAILED_MAX_RETRIES: {
        **dict.fromkeys(EVIDENCE, State.FAILED_MAX_RETRIES),
        Move.CHARGE_SEEN: State.COMPLETED,
    },
}

# The outcome that must hold *after* the event, for the move to be allowed (rule 3).
REQUIRED_OUTCOME: Mapping[Move, Outcome] = {
    Move.CHARGE_SEEN: Outcome.CHARGED,
    Move.ACCEPTANCE_SEEN: Outcome.NOT_CHARGED,
    Move.DECLINE_SEEN: Outcome.NOT_CHARGED,
    Move.VOID_SEEN: Outcome.NOT_CHARGED,
    Move.CANCEL: Outcome.NOT_CHARGED,
    Move.EXPIRE: Outcome.NOT_CHARGED,
}


def next_state(state: State, move: Move, outcome: Outcome) -> State:
    """The state after `move`, with `outcome` as it will be once the event is applied.

    Raises `IllegalTransition` for a pair that has no row, or a row whose outcome is not proved.
    """
    row = TRANSITIONS[state]
    if move not in row:
        message = f"{state} does not allow {move.value!r}"
        raise IllegalTransition(message)
    required = REQUIRED_OUTCOME.get(move, outcome)
    # COMPLETED absorbs: negative evidence after a charge is recorded and changes nothing.
    if required is not outcome and state is not State.COMPLETED:
        message = f"{move.value!r} needs outcome {required}, but it is {outcome}"
        raise IllegalTransition(message)
    return row[move]


# --- attempts -----------------------------------------------------------------------------------

# Higher wins, equal keeps the first. Arrival order therefore does not matter for who wins between
# levels; within the middle level the first definite answer stands.
_RANK: Mapping[AttemptStatus, int] = {
    AttemptStatus.IN_FLIGHT: 0,
    AttemptStatus.UNKNOWN: 1,
    AttemptStatus.NOT_SENT: 2,
    AttemptStatus.REJECTED: 2,
    AttemptStatus.DECLINED: 2,
    AttemptStatus.ACCEPTED: 2,
    AttemptStatus.VOIDED: 2,
    AttemptStatus.SUCCEEDED: 3,
}

# An answer of this kind speaks for the *gateway key*, so it also settles earlier sends of the same
# key whose answers were lost. REJECTED and NOT_SENT do not: a 401 or 429 to a repeat comes from
# before the gateway looks the key up and says nothing about the first send.
SPEAKS_FOR_THE_KEY = frozenset(
    {AttemptStatus.DECLINED, AttemptStatus.ACCEPTED, AttemptStatus.VOIDED, AttemptStatus.SUCCEEDED}
)
OPEN = frozenset({AttemptStatus.IN_FLIGHT, AttemptStatus.UNKNOWN})


def join(known: AttemptStatus, learned: AttemptStatus) -> AttemptStatus:
    """What is known of a send after learning more; never moves down."""
    return learned if _RANK[learned] > _RANK[known] else known


# Bound once: reaching a member through its enum costs more than what is done with it.
_IN_FLIGHT, _LOST = AttemptStatus.IN_FLIGHT, AttemptStatus.UNKNOWN
_SUCCEEDED = AttemptStatus.SUCCEEDED
_NOT_CHARGED, _UNKNOWN, _CHARGED = Outcome.NOT_CHARGED, Outcome.UNKNOWN, Outcome.CHARGED


def outcome_of(attempts: Iterable[tuple[int, AttemptStatus]]) -> Outcome:
    """The outcome that (generation of the gateway key, status) pairs prove, in the order sent.

    An answer settles the sends before its own. What is in flight, or was sent after that answer and
    lost, stands for itself.
    """
    doubtful: set[int] | None = None  # hardly ever needed
    in_flight = False
    for generation, status in attempts:
        if status is _SUCCEEDED:
            return _CHARGED
        if status is _LOST:
            doubtful = {generation, *(doubtful or ())}
        elif doubtful and status in SPEAKS_FOR_THE_KEY:
            doubtful.discard(generation)
        elif status is _IN_FLIGHT:
            in_flight = True
    return _UNKNOWN if in_flight or doubtful else _NOT_CHARGED


def mermaid() -> str:
    """The state diagram of the docs, drawn from the table (a test holds the two together)."""
    lines = ["stateDiagram-v2", "    [*] --> INITIATED"]
    for state, row in TRANSITIONS.items():
        moves: dict[State, list[str]] = {}
        for move in Move:
            if move in row and row[move] is not state:
                moves.setdefault(row[move], []).append(move.value)
        lines += [f"    {state} --> {to}: {', '.join(names)}" for to, names in moves.items()]
    lines += [f"    {state} --> [*]" for state in State if state not in LIVE]
    return "\n".join(lines) + "\n"
