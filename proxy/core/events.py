"""Frozen facts: what happened to a session. `session.apply` turns them into the next session;
metrics, logs and the operator's view subscribe to them. Times are epoch milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult
from proxy.core.states import AttemptStatus
from proxy.core.wire import Phase


@dataclass(frozen=True, slots=True)
class Opened:
    """A session began: a request arrived, or a backend created it ahead of its request."""

    at: int


@dataclass(frozen=True, slots=True)
class Bound:
    """The request of a session that was created ahead arrived."""

    at: int
    gateway: str
    route: str
    operation: str
    tenant: str
    key_hash: str
    gateway_key: str
    fingerprint: str
    order_locks: bool
    named: bool
    max_attempts: int


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """T1, the intent: durable before the first byte leaves."""

    at: int
    number: int
    endpoint: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """T2, the outcome: durable before the client is answered.

    `started_at` is set for a send that ended before its intent was recorded: it proves NOT_SENT.
    """

    at: int
    number: int
    endpoint: str
    result: AttemptResult
    phase: Phase
    sent: bool
    http_status: int
    started_at: int


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """Another send is due after a delay."""

    at: int
    attempt: int
    delay_ms: int
    because: Reason


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The walk stopped without a definite answer, outside of an attempt."""

    at: int
    reason: Reason
    phase: Phase
    sent: bool = False
    detail: str | None = None
    hold: bool = False


class ResumedBy(StrEnum):
    """Who or what resumed a session."""

    TIMER = "timer"
    REPEAT = "repeat"
    REQUEST = "request"
    RECONCILER = "reconciler"


@dataclass(frozen=True, slots=True)
class Resumed:
    """An interrupted session goes on, by sending or by asking the gateway."""

    at: int
    by: ResumedBy


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Someone wants it cancelled while a charge cannot be excluded: no further sends."""

    at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Cancelled, and provably nothing charged."""

    at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Expired:
    """The deadline passed, and provably nothing charged."""

    at: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """No further send will be made; the outcome stays what is proved."""

    at: int


class EvidenceSource(StrEnum):
    """Where a proof came from."""

    LOOKUP = "lookup"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class EvidenceFound:
    """The truth came by another way than an answer to a send.

    `status` is SUCCEEDED, ACCEPTED, DECLINED or VOIDED. It settles every attempt whose outcome is
    unknown; a charge also settles one that is in flight.
    """

    at: int
    source: EvidenceSource
    status: AttemptStatus
    reference: str


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A look-up was inconclusive; the next is due at `next_at`."""

    at: int
    next_at: int


@dataclass(frozen=True, slots=True)
class ReviewNeeded:
    """Nothing Holdfast can do will settle it: a person, a webhook or the client must."""

    at: int


@dataclass(frozen=True, slots=True)
class ProcessRestarted:
    """The process that owned the open attempts is gone; what they came to is unknown."""

    at: int


Event = (
    Opened
    | Bound
    | AttemptStarted
    | AttemptEnded
    | RetryScheduled
    | Interrupted
    | Resumed
    | CancelRequested
    | Cancelled
    | Expired
    | Exhausted
    | EvidenceFound
    | LookedUp
    | ReviewNeeded
    | ProcessRestarted
)


# --- facts that are not part of a session's life, for metrics and logs
# -----------------------------


@dataclass(frozen=True, slots=True)
class RetrySuppressed:
    """A failed attempt was not repeated, and why."""

    gateway: str
    route: str
    reason: str


@dataclass(frozen=True, slots=True)
class DuplicateSeen:
    """A request was a duplicate of a known session, and what came of it."""

    gateway: str
    route: str
    verdict: str


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A request was refused before a session was touched."""

    gateway: str
    code: str


@dataclass(frozen=True, slots=True)
class WalkEnded:
    """A request was answered: how long it took, and how much of that was Holdfast's own time.

    `session_id` names the session if it was interrupted, so that a slow bucket leads to a case.
    """

    gateway: str
    route: str
    session_id: str | None
    seconds: float
    overhead_seconds: float


@dataclass(frozen=True, slots=True)
class AttemptTimed:
    """How long one send took, gateway included."""

    gateway: str
    route: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StoreTimed:
    """How long a store operation took, waiting included."""

    operation: str
    seconds: float


Fact = RetrySuppressed | DuplicateSeen | RequestRefused | WalkEnded | AttemptTimed | StoreTimed
