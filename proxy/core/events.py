"""Frozen facts: what happened to a session. `session.apply` turns them into the next session;
metrics, logs and the operator's view subscribe to them. Times are epoch milliseconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult
from proxy.core.states import AttemptStatus
from proxy.core.wire import Phase


class Opened(NamedTuple):
    """A session began: a request arrived, or a backend created it ahead of its request."""

    at: int


class Bound(NamedTuple):
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


class AttemptStarted(NamedTuple):
    """T1, the intent: durable before the first byte leaves."""

    at: int
    number: int
    endpoint: str


class AttemptEnded(NamedTuple):
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


class RetryScheduled(NamedTuple):
    """Another send is due after a delay."""

    at: int
    attempt: int
    delay_ms: int
    because: Reason


class Interrupted(NamedTuple):
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


class Resumed(NamedTuple):
    """An interrupted session goes on, by sending or by asking the gateway."""

    at: int
    by: ResumedBy


class CancelRequested(NamedTuple):
    """Someone wants it cancelled while a charge cannot be excluded: no further sends."""

    at: int
    reason: str


class Cancelled(NamedTuple):
    """Cancelled, and provably nothing charged."""

    at: int
    reason: str


class Expired(NamedTuple):
    """The deadline passed, and provably nothing charged."""

    at: int


class Exhausted(NamedTuple):
    """No further send will be made; the outcome stays what is proved."""

    at: int


class EvidenceSource(StrEnum):
    """Where a proof came from."""

    LOOKUP = "lookup"
    PERSON = "person"


class EvidenceFound(NamedTuple):
    """The truth came by another way than an answer to a send.

    `status` is SUCCEEDED, ACCEPTED, DECLINED or VOIDED. It settles every attempt whose outcome is
    unknown; a charge also settles one that is in flight.
    """

    at: int
    source: EvidenceSource
    status: AttemptStatus
    reference: str


class LookedUp(NamedTuple):
    """A look-up was inconclusive; the next is due at `next_at`."""

    at: int
    next_at: int


class ReviewNeeded(NamedTuple):
    """Nothing Holdfast can do will settle it: a person, a webhook or the client must."""

    at: int


class ProcessRestarted(NamedTuple):
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


class RetrySuppressed(NamedTuple):
    """A failed attempt was not repeated, and why."""

    gateway: str
    route: str
    reason: str


class DuplicateSeen(NamedTuple):
    """A request was a duplicate of a known session, and what came of it."""

    gateway: str
    route: str
    verdict: str


class RequestRefused(NamedTuple):
    """A request was refused before a session was touched."""

    gateway: str
    code: str


class WalkEnded(NamedTuple):
    """A request was answered: how long it took, and how much of that was Holdfast's own time.

    `session_id` names the session if it was interrupted, so that a slow bucket leads to a case.
    """

    gateway: str
    route: str
    session_id: str | None
    seconds: float
    overhead_seconds: float


class AttemptTimed(NamedTuple):
    """How long one send took, gateway included."""

    gateway: str
    route: str
    seconds: float


class StoreTimed(NamedTuple):
    """How long a store operation took, waiting included."""

    operation: str
    seconds: float


Fact = RetrySuppressed | DuplicateSeen | RequestRefused | WalkEnded | AttemptTimed | StoreTimed
