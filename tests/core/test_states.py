"""The table of a session's life, walked in full, and the laws it must keep."""

from __future__ import annotations

import re
from itertools import product

import pytest

from proxy.core.states import (
    EVIDENCE,
    LIVE,
    OPEN,
    SPEAKS_FOR_THE_KEY,
    TRANSITIONS,
    AttemptStatus,
    IllegalTransition,
    Move,
    Outcome,
    State,
    join,
    mermaid,
    next_state,
    outcome_of,
)

# The life of a session as the money rules tell it, written down a second time: `.` is illegal.
COLUMNS = (
    Move.SEND, Move.CHARGE_SEEN, Move.ACCEPTANCE_SEEN, Move.DECLINE_SEEN, Move.VOID_SEEN,
    Move.INTERRUPT, Move.RESUME, Move.CANCEL, Move.EXHAUST, Move.EXPIRE,
)  # fmt: skip
GRID = """
INITIATED          INIT COMP COMP DECL INTR INTR .    CANC .    EXPI
INTERRUPTED        .    COMP COMP DECL INTR INTR RESU CANC FAIL EXPI
RESUMED            RESU COMP COMP DECL INTR INTR .    CANC FAIL EXPI
COMPLETED          .    COMP COMP COMP COMP COMP .    .    .    .
DECLINED           .    COMP DECL DECL DECL DECL .    .    .    .
CANCELLED          .    COMP CANC CANC CANC CANC .    .    .    .
EXPIRED            .    COMP EXPI EXPI EXPI EXPI .    .    .    .
FAILED_MAX_RETRIES .    COMP FAIL FAIL FAIL FAIL .    .    .    .
"""
SHORT = {
    "INIT": State.INITIATED,
    "INTR": State.INTERRUPTED,
    "RESU": State.RESUMED,
    "COMP": State.COMPLETED,
    "DECL": State.DECLINED,
    "CANC": State.CANCELLED,
    "EXPI": State.EXPIRED,
    "FAIL": State.FAILED_MAX_RETRIES,
}
EXPECTED = {
    (State(row.split()[0]), move): SHORT.get(cell)
    for row in GRID.strip().splitlines()
    for move, cell in zip(COLUMNS, row.split()[1:], strict=True)
}
# What must be proved for a move; a move that is not named may be made whatever is known.
PROOF_NEEDED = {
    Move.CHARGE_SEEN: Outcome.CHARGED,
    Move.ACCEPTANCE_SEEN: Outcome.NOT_CHARGED,
    Move.DECLINE_SEEN: Outcome.NOT_CHARGED,
    Move.VOID_SEEN: Outcome.NOT_CHARGED,
    Move.CANCEL: Outcome.NOT_CHARGED,
    Move.EXPIRE: Outcome.NOT_CHARGED,
}

LEVELS = (
    {"in_flight"},
    {"unknown"},
    {"not_sent", "rejected", "declined", "accepted", "voided"},
    {"succeeded"},
)


def level(status: AttemptStatus) -> int:
    """How much is known: a higher level is never left for a lower one."""
    return next(number for number, level in enumerate(LEVELS) if status in level)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", Move)
@pytest.mark.parametrize("outcome", Outcome)
def test_the_full_product(state: State, move: Move, outcome: Outcome) -> None:
    """Each of the 240 combinations either leads where the money rules say, or is illegal."""
    to = EXPECTED[state, move]
    proved = PROOF_NEEDED.get(move, outcome) is outcome or state is State.COMPLETED
    if to is not None and proved:
        assert next_state(state, move, outcome) is to
    else:
        with pytest.raises(IllegalTransition):
            next_state(state, move, outcome)


def test_the_refusal_says_what_is_missing() -> None:
    """An illegal move names the state, or the proof that it lacks."""
    with pytest.raises(IllegalTransition, match="COMPLETED does not allow 'cancel'"):
        next_state(State.COMPLETED, Move.CANCEL, Outcome.CHARGED)
    with pytest.raises(IllegalTransition, match="needs outcome not_charged, but it is unknown"):
        next_state(State.INTERRUPTED, Move.EXPIRE, Outcome.UNKNOWN)


def test_every_state_has_a_row() -> None:
    """A state without a row would be a hole in the table."""
    assert set(TRANSITIONS) == set(State)


def test_live_states() -> None:
    """Exactly these three can still come to more by themselves."""
    assert set(LIVE) == {State.INITIATED, State.INTERRUPTED, State.RESUMED}


def test_completed_absorbs() -> None:
    """Nothing leads out of COMPLETED."""
    assert set(TRANSITIONS[State.COMPLETED].values()) == {State.COMPLETED}


def test_what_is_closed_stays_closed() -> None:
    """From a closed state the only way is the one to COMPLETED, by a charge."""
    ways_out = {
        (state, move, to)
        for state in set(State) - LIVE
        for move, to in TRANSITIONS[state].items()
        if to is not state
    }
    assert ways_out == {
        (State.DECLINED, Move.CHARGE_SEEN, State.COMPLETED),
        (State.CANCELLED, Move.CHARGE_SEEN, State.COMPLETED),
        (State.EXPIRED, Move.CHARGE_SEEN, State.COMPLETED),
        (State.FAILED_MAX_RETRIES, Move.CHARGE_SEEN, State.COMPLETED),
    }


@pytest.mark.parametrize("state", State)
def test_evidence_is_accepted_in_every_state(state: State) -> None:
    """No state refuses to hear what became of the money."""
    assert set(TRANSITIONS[state]) >= EVIDENCE


@pytest.mark.parametrize("state", State)
def test_a_charge_completes_from_every_state(state: State) -> None:
    """A charge that is seen wins over whatever was thought before."""
    assert next_state(state, Move.CHARGE_SEEN, Outcome.CHARGED) is State.COMPLETED


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN, Outcome.CHARGED])
@pytest.mark.parametrize("closed", [State.EXPIRED, State.CANCELLED, State.DECLINED])
def test_closed_without_a_charge_needs_the_proof(
    state: State, outcome: Outcome, closed: State
) -> None:
    """EXPIRED, CANCELLED and DECLINED are never reached from an outcome that is not proved."""
    reached = set()
    for move in set(TRANSITIONS[state]) & {Move.EXPIRE, Move.CANCEL, Move.DECLINE_SEEN}:
        try:
            reached.add(next_state(state, move, outcome))
        except IllegalTransition:
            continue
    assert closed not in reached


@pytest.mark.parametrize("state", State)
def test_only_what_is_live_and_not_interrupted_sends(state: State) -> None:
    """A send needs a session that was just opened or resumed."""
    may_send = Move.SEND in TRANSITIONS[state]
    assert may_send is (state in {State.INITIATED, State.RESUMED})


@pytest.mark.parametrize(("known", "learned"), list(product(AttemptStatus, AttemptStatus)))
def test_join_never_moves_down(known: AttemptStatus, learned: AttemptStatus) -> None:
    """More is known after joining or the same; on one level the first word stands."""
    joined = join(known, learned)
    assert joined is (learned if level(learned) > level(known) else known)
    assert level(joined) == max(level(known), level(learned))


def test_every_status_has_its_level() -> None:
    """The levels here and the statuses are the same set."""
    assert set().union(*LEVELS) == {status.value for status in AttemptStatus}


def test_open_statuses() -> None:
    """Open is what may still turn out to be a charge."""
    assert set(OPEN) == {AttemptStatus.IN_FLIGHT, AttemptStatus.UNKNOWN}


def test_who_speaks_for_the_key() -> None:
    """A refusal that comes from before the key is looked up settles no other send."""
    assert set(SPEAKS_FOR_THE_KEY) == {
        AttemptStatus.DECLINED,
        AttemptStatus.ACCEPTED,
        AttemptStatus.VOIDED,
        AttemptStatus.SUCCEEDED,
    }


IN_FLIGHT, UNKNOWN, NOT_SENT, REJECTED, DECLINED, ACCEPTED, VOIDED, SUCCEEDED = AttemptStatus


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([], Outcome.NOT_CHARGED),
        ([(1, IN_FLIGHT)], Outcome.UNKNOWN),
        ([(1, UNKNOWN)], Outcome.UNKNOWN),
        ([(1, NOT_SENT)], Outcome.NOT_CHARGED),
        ([(1, REJECTED)], Outcome.NOT_CHARGED),
        ([(1, DECLINED)], Outcome.NOT_CHARGED),
        ([(1, ACCEPTED)], Outcome.NOT_CHARGED),
        ([(1, VOIDED)], Outcome.NOT_CHARGED),
        ([(1, SUCCEEDED)], Outcome.CHARGED),
        # An answer that speaks for the key settles the lost ones of that key before it.
        ([(1, UNKNOWN), (1, DECLINED)], Outcome.NOT_CHARGED),
        ([(1, UNKNOWN), (1, UNKNOWN), (1, ACCEPTED)], Outcome.NOT_CHARGED),
        ([(1, UNKNOWN), (1, VOIDED)], Outcome.NOT_CHARGED),
        # What was sent after it stands for itself.
        ([(1, ACCEPTED), (1, UNKNOWN)], Outcome.UNKNOWN),
        ([(1, UNKNOWN), (1, DECLINED), (1, UNKNOWN)], Outcome.UNKNOWN),
        # A refusal from before the key is looked up does not.
        ([(1, UNKNOWN), (1, REJECTED)], Outcome.UNKNOWN),
        ([(1, UNKNOWN), (1, NOT_SENT)], Outcome.UNKNOWN),
        # A closed attempt never masks an open one of another generation.
        ([(1, UNKNOWN), (2, DECLINED)], Outcome.UNKNOWN),
        ([(1, DECLINED), (2, UNKNOWN)], Outcome.UNKNOWN),
        ([(1, DECLINED), (2, IN_FLIGHT)], Outcome.UNKNOWN),
        # Nor one that is in flight under the same key: its own answer is still to come.
        ([(1, DECLINED), (1, IN_FLIGHT)], Outcome.UNKNOWN),
        ([(1, IN_FLIGHT), (1, ACCEPTED)], Outcome.UNKNOWN),
        # A charge wins over everything.
        ([(1, SUCCEEDED), (2, UNKNOWN)], Outcome.CHARGED),
        ([(1, UNKNOWN), (1, DECLINED), (2, SUCCEEDED)], Outcome.CHARGED),
        ([(1, IN_FLIGHT), (1, SUCCEEDED)], Outcome.CHARGED),
    ],
)
def test_the_outcome_is_derived(
    attempts: list[tuple[int, AttemptStatus]], expected: Outcome
) -> None:
    """What the attempts prove together."""
    assert outcome_of(attempts) is expected


def test_the_diagram_is_the_table() -> None:
    """Read back, the arrows of the diagram are the rows that change the state, and no others."""
    lines = mermaid().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> INITIATED"]
    drawn = {
        (State(found[1]), Move(move), State(found[2]))
        for line in lines
        if (found := re.fullmatch(r" {4}([A-Z_]+) --> ([A-Z_]+): (.+)", line))
        for move in found[3].split(", ")
    }
    assert drawn == {
        (state, move, to) for (state, move), to in EXPECTED.items() if to not in {None, state}
    }
    ends = {line.split()[0] for line in lines if line.endswith("--> [*]")}
    assert ends == {"COMPLETED", "DECLINED", "CANCELLED", "EXPIRED", "FAILED_MAX_RETRIES"}
