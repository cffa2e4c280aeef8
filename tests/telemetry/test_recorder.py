"""Which event moves which metric, and which line it writes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.core import events as ev
from proxy.core.idempotency import Duplicate
from proxy.core.reasons import Reason, Suppressed
from proxy.core.results import AttemptResult
from proxy.core.session import Session, apply
from proxy.core.states import AttemptStatus
from proxy.core.wire import Phase
from proxy.telemetry.logs import LineSink
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.recorder import MetricsRecorder
from tests.support.clocks import EPOCH_MS

Sample = tuple[str, ...]


class FixedClock:
    """It is always the same moment."""

    def now_ms(self) -> int:
        return EPOCH_MS + 1

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        """Nobody sleeps here."""
        raise AssertionError(seconds)


@dataclass
class Outlet:
    """A recorder, and what comes out of it."""

    out: io.BytesIO = field(default_factory=io.BytesIO)
    due: list[Callable[[], None]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    session: Session = field(
        default_factory=lambda: Session(
            id="ps_1",
            gateway="stripe",
            route="create-payment",
            started_at=EPOCH_MS,
            expires_at=EPOCH_MS + 900_000,
            max_attempts=3,
            fingerprint="f",
        )
    )

    def __post_init__(self) -> None:
        self.recorder = MetricsRecorder(
            self.metrics, LineSink(self.out), FixedClock(), self.due.append
        )

    def hears(self, *events: ev.Event) -> None:
        """The session moves, and the recorder is told."""
        for event in events:
            before: Session | None = None if isinstance(event, ev.Opened) else self.session
            self.session = apply(self.session, event)
            self.recorder.moved(before, event, self.session)

    def moved(self) -> dict[Sample, float]:
        """Every sample that is not 0: its name without the prefix, then its label values."""
        return {
            (sample.name.removeprefix("holdfast_"), *sample.labels.values()): sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.value and not sample.name.endswith("_bucket")
        }

    def lines(self) -> list[dict[str, Any]]:
        """What was written."""
        for flush in self.due:
            flush()
        self.due.clear()
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


def started(number: int) -> ev.AttemptStarted:
    """A send begins."""
    return ev.AttemptStarted(EPOCH_MS, number, "stripe")


def ended(
    number: int,
    status: AttemptStatus,
    reason: Reason | None = None,
    phase: Phase = Phase.ANSWERED,
) -> ev.AttemptEnded:
    """A send ends."""
    sent = status is not AttemptStatus.NOT_SENT
    result = AttemptResult(status, reason)
    return ev.AttemptEnded(EPOCH_MS + 40, number, "stripe", result, phase, sent, 0, EPOCH_MS)


OPENED = ev.Opened(EPOCH_MS)
LOST = ended(1, AttemptStatus.UNKNOWN, Reason.CONNECTION_LOST, Phase.AWAITING_RESPONSE)
REFUSED = ended(1, AttemptStatus.NOT_SENT, Reason.CONNECTION_REFUSED, Phase.CONNECTING)
AGAIN = ev.RetryScheduled(EPOCH_MS, 2, 200, Reason.CONNECTION_LOST)
RESUMED = ev.Resumed(EPOCH_MS, ev.ResumedBy.TIMER)

STRIPE = ("stripe", "create-payment")
LOST_MOVES: dict[Sample, float] = {
    ("attempts_total", *STRIPE, "unknown"): 1,
    ("interruptions_total", *STRIPE, "connection_lost", "awaiting_response"): 1,
}

# What a session goes through, and every sample that is not 0 afterwards.
LIVES: dict[str, tuple[list[ev.Event], dict[Sample, float]]] = {
    "opened": ([OPENED], {}),
    "on its way": ([OPENED, started(1)], {}),
    "paid": (
        [OPENED, started(1), ended(1, AttemptStatus.SUCCEEDED)],
        {
            ("attempts_total", *STRIPE, "succeeded"): 1,
            ("sessions_total", *STRIPE, "COMPLETED", "charged"): 1,
        },
    ),
    "accepted": (
        [OPENED, started(1), ended(1, AttemptStatus.ACCEPTED)],
        {
            ("attempts_total", *STRIPE, "accepted"): 1,
            ("sessions_total", *STRIPE, "COMPLETED", "not_charged"): 1,
        },
    ),
    "declined": (
        [OPENED, started(1), ended(1, AttemptStatus.DECLINED)],
        {
            ("attempts_total", *STRIPE, "declined"): 1,
            ("sessions_total", *STRIPE, "DECLINED", "not_charged"): 1,
        },
    ),
    "lost": ([OPENED, started(1), LOST], LOST_MOVES),
    "never sent": (
        [OPENED, REFUSED],
        {
            ("attempts_total", *STRIPE, "not_sent"): 1,
            ("interruptions_total", *STRIPE, "connection_refused", "connecting"): 1,
        },
    ),
    "refused at the door": (
        [OPENED, ev.Interrupted(EPOCH_MS, Reason.BREAKER_OPEN, Phase.BEFORE_SEND)],
        {("interruptions_total", *STRIPE, "breaker_open", "before_send"): 1},
    ),
    "repeat scheduled": (
        [OPENED, started(1), LOST, AGAIN],
        {**LOST_MOVES, ("retries_total", *STRIPE, "connection_lost"): 1},
    ),
    "recovered": (
        [OPENED, started(1), LOST, AGAIN, RESUMED, started(2), ended(2, AttemptStatus.SUCCEEDED)],
        {
            **LOST_MOVES,
            ("retries_total", *STRIPE, "connection_lost"): 1,
            ("attempts_total", *STRIPE, "succeeded"): 1,
            ("sessions_total", *STRIPE, "COMPLETED", "charged"): 1,
            ("sessions_recovered_total", *STRIPE): 1,
        },
    ),
    "found by a look-up": (
        [
            OPENED,
            started(1),
            LOST,
            ev.EvidenceFound(EPOCH_MS, ev.EvidenceSource.LOOKUP, AttemptStatus.SUCCEEDED, "pi_1"),
        ],
        {
            **LOST_MOVES,
            ("sessions_total", *STRIPE, "COMPLETED", "charged"): 1,
            ("sessions_recovered_total", *STRIPE): 1,
        },
    ),
    "voided in vain": ([OPENED, started(1), LOST, ev.VoidAsked(EPOCH_MS)], LOST_MOVES),
    "looked up in vain": ([OPENED, started(1), LOST, ev.LookedUp(EPOCH_MS, EPOCH_MS)], LOST_MOVES),
    "handed to a person": ([OPENED, started(1), LOST, ev.ReviewNeeded(EPOCH_MS)], LOST_MOVES),
    "given up, nobody knows": (
        [OPENED, started(1), LOST, ev.Exhausted(EPOCH_MS)],
        {**LOST_MOVES, ("sessions_total", *STRIPE, "FAILED_MAX_RETRIES", "unknown"): 1},
    ),
    "given up, then settled": (
        [
            OPENED,
            started(1),
            LOST,
            ev.Exhausted(EPOCH_MS),
            ev.EvidenceFound(EPOCH_MS, ev.EvidenceSource.PERSON, AttemptStatus.SUCCEEDED, "pi_1"),
        ],
        {**LOST_MOVES, ("sessions_total", *STRIPE, "FAILED_MAX_RETRIES", "unknown"): 1},
    ),
    "given up, nothing charged": (
        [OPENED, REFUSED, ev.Exhausted(EPOCH_MS)],
        {
            ("attempts_total", *STRIPE, "not_sent"): 1,
            ("interruptions_total", *STRIPE, "connection_refused", "connecting"): 1,
            ("sessions_total", *STRIPE, "FAILED_MAX_RETRIES", "not_charged"): 1,
        },
    ),
    "cancelled": (
        [OPENED, ev.Cancelled(EPOCH_MS, "changed their mind")],
        {("sessions_total", *STRIPE, "CANCELLED", "not_charged"): 1},
    ),
    "cancel wanted while lost": (
        [OPENED, started(1), LOST, ev.CancelRequested(EPOCH_MS, "changed their mind")],
        LOST_MOVES,
    ),
    "expired": (
        [OPENED, ev.Expired(EPOCH_MS + 900_000)],
        {("sessions_total", *STRIPE, "EXPIRED", "not_charged"): 1},
    ),
    "held": (
        [
            OPENED,
            ev.Interrupted(
                EPOCH_MS, Reason.REQUESTED, Phase.BEFORE_SEND, detail="a call", hold=True
            ),
        ],
        {("interruptions_total", *STRIPE, "requested", "before_send"): 1},
    ),
    "process gone": (
        [OPENED, started(1), ev.ProcessRestarted(EPOCH_MS)],
        {("interruptions_total", *STRIPE, "process_restart", "awaiting_response"): 1},
    ),
}


@pytest.mark.parametrize(("events", "wanted"), LIVES.values(), ids=LIVES.keys())
def test_what_a_life_moves(events: list[ev.Event], wanted: dict[Sample, float]) -> None:
    """Exactly these samples, and no other."""
    outlet = Outlet()
    outlet.hears(*events)
    assert outlet.moved() == wanted


def test_every_event_is_somewhere_in_these_lives() -> None:
    """An event that is new is shown here to move what it should."""
    kinds = {type(event) for events, _ in LIVES.values() for event in events}
    assert set(ev.Event.__args__) - kinds == {ev.Bound}  # see below


def test_a_session_created_ahead_counts_for_its_route_once_it_has_one() -> None:
    """Cancelled before its request it belongs to no gateway; bound, to the request's."""
    early, bound = Outlet(), Outlet()
    nobody = replace(early.session, gateway=None, route=None, fingerprint=None)
    early.session = bound.session = nobody
    early.hears(OPENED, ev.Cancelled(EPOCH_MS, "changed their mind"))
    request = ev.Bound(
        at=EPOCH_MS,
        gateway="stripe",
        route="create-payment",
        operation="charge",
        tenant="t",
        key_hash="k",
        gateway_key="g",
        fingerprint="f",
        order_locks=True,
        named=True,
        max_attempts=3,
    )
    bound.hears(OPENED, request, started(1), ended(1, AttemptStatus.DECLINED))
    assert early.moved() == {("sessions_total", "none", "none", "CANCELLED", "not_charged"): 1}
    assert ("sessions_total", *STRIPE, "DECLINED", "not_charged") in bound.moved()


def test_ends_begin_at_zero() -> None:
    """A route's counters of ends are there from its first session on: a failure is an increase."""
    outlet = Outlet()
    outlet.hears(OPENED)
    shown = {
        tuple(sample.labels.values()): sample.value
        for sample in outlet.metrics.sessions.family().samples
    }
    assert shown == {
        (*STRIPE, "COMPLETED", "charged"): 0,
        (*STRIPE, "COMPLETED", "not_charged"): 0,
        (*STRIPE, "DECLINED", "not_charged"): 0,
        (*STRIPE, "CANCELLED", "not_charged"): 0,
        (*STRIPE, "EXPIRED", "not_charged"): 0,
        (*STRIPE, "FAILED_MAX_RETRIES", "not_charged"): 0,
        (*STRIPE, "FAILED_MAX_RETRIES", "unknown"): 0,
    }


FACTS: dict[str, tuple[ev.Fact, dict[Sample, float]]] = {
    "suppressed": (
        ev.RetrySuppressed(*STRIPE, Suppressed.UNSAFE_TO_REPEAT),
        {("retries_suppressed_total", *STRIPE, "unsafe_to_repeat"): 1},
    ),
    "duplicate": (
        ev.DuplicateSeen(*STRIPE, Duplicate.REPLAYED),
        {("duplicates_total", *STRIPE, "replayed"): 1},
    ),
    "refused": (
        ev.RequestRefused("stripe", "body-too-large"),
        {("refusals_total", "stripe", "body-too-large"): 1},
    ),
    "webhook": (
        ev.WebhookHeard("stripe", "settled"),
        {("webhooks_total", "stripe", "settled"): 1},
    ),
    "walk": (
        ev.WalkEnded(*STRIPE, None, 0.5, 0.002),
        {
            ("session_seconds_count", *STRIPE): 1,
            ("session_seconds_sum", *STRIPE): 0.5,
            ("overhead_seconds_count", *STRIPE): 1,
            ("overhead_seconds_sum", *STRIPE): 0.002,
        },
    ),
    "attempt": (
        ev.AttemptTimed(*STRIPE, 0.25),
        {("attempt_seconds_count", *STRIPE): 1, ("attempt_seconds_sum", *STRIPE): 0.25},
    ),
    "store": (
        ev.StoreTimed("commit", 0.004),
        {("store_seconds_count", "commit"): 1, ("store_seconds_sum", "commit"): 0.004},
    ),
}


@pytest.mark.parametrize(("fact", "wanted"), FACTS.values(), ids=FACTS.keys())
def test_what_a_fact_moves(fact: ev.Fact, wanted: dict[Sample, float]) -> None:
    """Exactly these samples, and no line."""
    outlet = Outlet()
    outlet.recorder.note(fact)
    assert outlet.moved() == wanted
    assert outlet.lines() == []


# What is rare: a fact, and its line.
RARE: list[tuple[ev.Fact, dict[str, object]]] = [
    (
        ev.BreakerMoved("stripe", "refund", "open", True, "asked by sk_live_12345678"),
        {
            "level": "warning",
            "event": "circuit breaker",
            "gateway": "stripe",
            "operation": "refund",
            "state": "open",
            "by_hand": True,
            "why": "asked by [masked]",
        },
    ),
    (
        ev.StoreAway("no token sk_live_12345678"),
        {"level": "error", "event": "store away", "why": "no token [masked]"},
    ),
    (ev.StoreBack(), {"level": "info", "event": "store back"}),
    (
        ev.StoreRegressed("it has lost 1"),
        {"level": "error", "event": "store regressed", "why": "it has lost 1"},
    ),
    (ev.LossAccepted(), {"level": "info", "event": "store trusted again"}),
    (ev.LeaseLost(4), {"level": "error", "event": "lease lost", "epoch": 4}),
    (ev.LeaseTaken(5), {"level": "warning", "event": "lease taken anew", "epoch": 5}),
    (
        ev.OutcomeUnsaved("ps_1", spooled=True),
        {"level": "warning", "event": "outcome spooled", "session_id": "ps_1"},
    ),
    (
        ev.OutcomeUnsaved("ps_1", spooled=False),
        {"level": "error", "event": "outcome in memory only", "session_id": "ps_1"},
    ),
    (
        ev.NewKeySeen(*STRIPE, "ps_2", "ps_1"),
        {
            "level": "warning",
            "event": "new key",
            "gateway": STRIPE[0],
            "route": STRIPE[1],
            "session_id": "ps_2",
            "earlier_id": "ps_1",
        },
    ),
    (
        ev.WebhooksUnheard("stripe", "no secret"),
        {
            "level": "error",
            "event": "webhooks refused",
            "gateway": "stripe",
            "why": "no secret",
        },
    ),
    (ev.OutcomeSaved("ps_1"), {"level": "info", "event": "outcome saved", "session_id": "ps_1"}),
    (
        ev.PolicyReloaded(("defaults.max_body: not written -> 64KiB",)),
        {
            "level": "info",
            "event": "policy reloaded",
            "changes": ["defaults.max_body: not written -> 64KiB"],
        },
    ),
    (
        ev.PolicyRefused("policy.yaml:1:1: sesion: unknown key"),
        {
            "level": "error",
            "event": "policy not reloaded",
            "why": "policy.yaml:1:1: sesion: unknown key",
        },
    ),
]


@pytest.mark.parametrize(("fact", "wanted"), RARE)
def test_what_is_rare_is_a_line(fact: ev.Fact, wanted: dict[str, object]) -> None:
    """One line each, and no sample but that of the policy."""
    outlet = Outlet()
    outlet.recorder.note(fact)
    (line,) = outlet.lines()
    assert line.pop("timestamp")
    assert line == wanted
    taken_up = isinstance(fact, ev.PolicyReloaded)
    assert outlet.moved() == ({("config_last_reload_successful",): 1} if taken_up else {})


def test_every_fact_is_in_a_table() -> None:
    """A fact that is new is shown above to move, or to tell, what it should."""
    shown = {type(fact) for fact, _ in FACTS.values()} | {type(fact) for fact, _ in RARE}
    assert shown == set(ev.Fact.__args__)


@pytest.mark.parametrize("case", [None, "ps_1"])
def test_only_interrupted_walks_leave_an_exemplar(case: str | None) -> None:
    """The session of a walk that was interrupted is named in its bucket, others are not."""
    outlet = Outlet()
    outlet.recorder.note(ev.WalkEnded(*STRIPE, case, 0.5, 0.002))
    named = [
        sample.exemplar.labels
        for sample in outlet.metrics.session_seconds.family().samples
        if sample.exemplar is not None
    ]
    assert named == ([] if case is None else [{"session_id": "ps_1"}])


# --- sessions that are in memory only -------------------------------------------------------------


def test_a_read_counts_when_it_is_over() -> None:
    """One that came to its end is counted there, and its dropping adds nothing."""
    outlet = Outlet()
    outlet.session = replace(outlet.session, durable=False, route="read")
    outlet.hears(OPENED, started(1), ended(1, AttemptStatus.ACCEPTED))
    outlet.recorder.dropped(outlet.session)
    assert outlet.moved() == {
        ("attempts_total", "stripe", "read", "accepted"): 1,
        ("sessions_total", "stripe", "read", "COMPLETED", "not_charged"): 1,
    }
    assert outlet.lines() == []


def test_a_read_without_an_end_counts_as_it_is() -> None:
    """Its answer was lost and nobody will come back to it: it is counted as interrupted."""
    outlet = Outlet()
    outlet.session = replace(outlet.session, durable=False, route="read")
    outlet.hears(OPENED, started(1), LOST)
    outlet.recorder.dropped(outlet.session)
    moved = outlet.moved()
    assert moved["sessions_total", "stripe", "read", "INTERRUPTED", "unknown"] == 1
    assert outlet.lines() == []


# --- lines ----------------------------------------------------------------------------------------

LINE = {
    "timestamp": "2024-01-23T08:53:20.001Z",
    "session_id": "ps_1",
    "gateway": "stripe",
    "route": "create-payment",
    "order_id": None,
}


def test_a_payment_that_goes_well_is_one_line() -> None:
    """Who, what, and how long; nothing else."""
    outlet = Outlet()
    outlet.hears(OPENED, started(1), ended(1, AttemptStatus.SUCCEEDED))
    assert outlet.lines() == [
        {
            **LINE,
            "level": "info",
            "event": "session",
            "state": "COMPLETED",
            "outcome": "charged",
            "attempts": 1,
            "ms": 40,
        }
    ]


def test_an_interruption_is_a_line_of_its_own() -> None:
    """Why and how far the send had come, then the line of the session's end."""
    outlet = Outlet()
    outlet.hears(OPENED, started(1), LOST, AGAIN, RESUMED, started(2))
    outlet.hears(ended(2, AttemptStatus.SUCCEEDED))
    first, second = outlet.lines()
    assert first == {
        **LINE,
        "level": "warning",
        "event": "interruption",
        "state": "INTERRUPTED",
        "outcome": "unknown",
        "attempts": 1,
        "reason": "connection_lost",
        "phase": "awaiting_response",
        "sent": True,
    }
    assert (second["event"], second["state"], second["attempts"]) == ("session", "COMPLETED", 2)


def test_what_is_settled_after_its_end_is_a_line_too() -> None:
    """The line of its end said unknown; whoever searches the log finds what became of it."""
    outlet = Outlet()
    outlet.hears(OPENED, started(1), LOST, ev.Exhausted(EPOCH_MS))
    found = ev.EvidenceFound(EPOCH_MS, ev.EvidenceSource.LOOKUP, AttemptStatus.SUCCEEDED, "pi_1")
    outlet.hears(found)
    told = [
        (line["event"], line["level"], line["state"], line["outcome"]) for line in outlet.lines()
    ]
    assert told == [
        ("interruption", "warning", "INTERRUPTED", "unknown"),
        ("session", "warning", "FAILED_MAX_RETRIES", "unknown"),
        ("settled", "info", "COMPLETED", "charged"),
    ]


def test_a_payment_that_waits_for_a_person_is_a_line() -> None:
    """Nothing that runs by itself will settle it, so somebody must hear of it."""
    outlet = Outlet()
    outlet.hears(OPENED, started(1), LOST, ev.ReviewNeeded(EPOCH_MS))
    assert [(line["event"], line["level"]) for line in outlet.lines()] == [
        ("interruption", "warning"),
        ("review required", "warning"),
    ]


def test_a_contradiction_is_counted_and_told() -> None:
    """Charged after it was cancelled: a number to page by, a line with the case, and only once."""
    outlet = Outlet()
    outlet.hears(OPENED, ev.Cancelled(EPOCH_MS, "r"))
    charged = ev.EvidenceFound(EPOCH_MS, ev.EvidenceSource.WEBHOOK, AttemptStatus.SUCCEEDED, "pi_1")
    outlet.hears(charged, charged)
    assert outlet.metrics.contradictions == {("stripe",): 1}
    line = next(line for line in outlet.lines() if line["event"] == "contradiction")
    assert (line["level"], line["said"], line["outcome"]) == ("warning", "CANCELLED", "charged")


def test_late_evidence_of_the_same_writes_nothing() -> None:
    """A second proof of what is known adds no line and moves nothing."""
    outlet = Outlet()
    outlet.hears(OPENED, started(1), ended(1, AttemptStatus.SUCCEEDED))
    before = outlet.moved()
    outlet.hears(
        ev.EvidenceFound(EPOCH_MS, ev.EvidenceSource.LOOKUP, AttemptStatus.SUCCEEDED, "pi_1")
    )
    assert outlet.moved() == before
    assert len(outlet.lines()) == 1


def test_an_order_that_looks_like_a_card_is_masked() -> None:
    """Who uses card numbers as order numbers finds none in the log."""
    outlet = Outlet()
    outlet.session = replace(outlet.session, order_ref="4242-4242-4242-4242")
    outlet.hears(OPENED, ev.Cancelled(EPOCH_MS, "card 4000000000000002"))
    (line,) = outlet.lines()
    assert line["order_id"] == "[masked]"
    assert "4000000000000002" not in json.dumps(line)


def test_lines_of_one_turn_are_written_together() -> None:
    """The first line of a turn asks for a flush at its end, the others ride along."""
    outlet = Outlet()
    outlet.hears(OPENED, started(1), LOST, ev.Exhausted(EPOCH_MS))
    assert len(outlet.due) == 1
    assert outlet.out.getvalue() == b""
    assert len(outlet.lines()) == 2
    outlet.hears(
        ev.EvidenceFound(EPOCH_MS, ev.EvidenceSource.LOOKUP, AttemptStatus.DECLINED, "pi_1")
    )
    assert len(outlet.due) == 1
