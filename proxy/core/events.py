"""Frozen facts: what happened to a session. `session.apply` turns them into the next session;
metrics, logs and the operator's view subscribe to them. Times are epoch milliseconds.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult
from proxy.core.states import AttemptStatus
from proxy.core.wire import Phase


class Opened(Struct, frozen=True, gc=False):
    """A session began: a request arrived, or a backend created it ahead of its request."""

    at: int


class Bound(Struct, frozen=True, gc=False):
    """The request of a session that was created ahead arrived."""

    at: int
    gateway: str
    route: str
    operation: str
    tenant: str
    key_hash: str
    gateway_key: str | None
    fingerprint: str
    order_locks: bool
    named: bool
    max_attempts: int
    order_in_body: bool = False
    key_at: str | None = None


class AttemptStarted(Struct, frozen=True, gc=False):
    """T1, the intent: durable before the first byte leaves.

    `epoch` is that of the process that sends (`SessionStore.epoch`). `at_risk`: an earlier send is
    in doubt, and the gateway need not know the key.
    """

    at: int
    number: int
    endpoint: str
    epoch: int = 0
    at_risk: bool = False


class AttemptEnded(Struct, frozen=True, gc=False):
    """T2, the outcome: durable before the client is answered.

    `started_at` is set for a send that ended before its intent was recorded: it proves NOT_SENT.
    `intended_at` and `epoch` are those of its intent, 0 if it came to none: a store that lost the
    intent may have given its number to another process's send. None: whatever has the number.
    """

    at: int
    number: int
    endpoint: str
    result: AttemptResult
    phase: Phase
    sent: bool
    http_status: int
    started_at: int
    intended_at: int | None = None
    epoch: int = 0


class RetryScheduled(Struct, frozen=True, gc=False):
    """Another send is due after a delay."""

    at: int
    attempt: int
    delay_ms: int
    because: Reason


class Interrupted(Struct, frozen=True, gc=False):
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


class Resumed(Struct, frozen=True, gc=False):
    """An interrupted session goes on, by sending or by asking the gateway."""

    at: int
    by: ResumedBy


class CancelRequested(Struct, frozen=True, gc=False):
    """Someone wants it cancelled while a charge cannot be excluded: no further sends."""

    at: int
    reason: str


class Cancelled(Struct, frozen=True, gc=False):
    """Cancelled, and provably nothing charged."""

    at: int
    reason: str


class Expired(Struct, frozen=True, gc=False):
    """The deadline passed, and provably nothing charged."""

    at: int


class Exhausted(Struct, frozen=True, gc=False):
    """No further send will be made; the outcome stays what is proved."""

    at: int


class EvidenceSource(StrEnum):
    """Where a proof came from."""

    LOOKUP = "lookup"
    CANCEL = "cancel"  # it was voided by its key
    WEBHOOK = "webhook"
    PERSON = "person"


class EvidenceFound(Struct, frozen=True, gc=False):
    """The truth came by another way than an answer to a send.

    `status` is SUCCEEDED, ACCEPTED, DECLINED or VOIDED. It settles every attempt whose outcome is
    unknown; a charge also settles one that is in flight. `next_key` is the gateway key of what is
    sent after VOIDED: the one before has been proved to have charged nothing.
    """

    at: int
    source: EvidenceSource
    status: AttemptStatus
    reference: str
    next_key: str | None = None


class LookedUp(Struct, frozen=True, gc=False):
    """A look-up was inconclusive; the next is due at `next_at`.

    `absent`: it confirms that the gateway has nothing of the payment (False: it has something).
    """

    at: int
    next_at: int
    absent: bool | None = None


class VoidAsked(Struct, frozen=True, gc=False):
    """The gateway is about to be asked to void whatever it has under the payment's key."""

    at: int


class ReviewNeeded(Struct, frozen=True, gc=False):
    """Nothing Holdfast can do will settle it: a person, a webhook or the client must."""

    at: int


class ProcessRestarted(Struct, frozen=True, gc=False):
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
    | VoidAsked
    | ReviewNeeded
    | ProcessRestarted
)


# --- facts that are not part of a session's life, for metrics and logs
# -----------------------------


class RetrySuppressed(Struct, frozen=True, gc=False):
    """A failed attempt was not repeated, and why."""

    gateway: str
    route: str
    reason: str


class DuplicateSeen(Struct, frozen=True, gc=False):
    """A request was a duplicate of a known session, and what came of it."""

    gateway: str
    route: str
    verdict: str


class NewKeySeen(Struct, frozen=True, gc=False):
    """A payment was begun under another key than that of an earlier one for the very same request,
    which is open or has charged.
    """

    gateway: str
    route: str
    session_id: str
    earlier_id: str


class RequestRefused(Struct, frozen=True, gc=False):
    """A request was refused before a session was touched."""

    gateway: str
    code: str


class WebhookHeard(Struct, frozen=True, gc=False):
    """A gateway said something by itself, and what came of it."""

    gateway: str
    verdict: str


class WebhooksUnheard(Struct, frozen=True, gc=False):
    """A gateway's webhooks are all refused, and why; told once."""

    gateway: str
    why: str


class WalkEnded(Struct, frozen=True, gc=False):
    """A request was answered: how long it took, and how much of that was Holdfast's own time.

    `session_id` names the session if it was interrupted, so that a slow bucket leads to a case.
    """

    gateway: str
    route: str
    session_id: str | None
    seconds: float
    overhead_seconds: float


class AttemptTimed(Struct, frozen=True, gc=False):
    """How long one send took, gateway included."""

    gateway: str
    route: str
    seconds: float


class BreakerMoved(Struct, frozen=True, gc=False):
    """A circuit breaker is in another state now. `operation`: whose it is, if not everything's."""

    gateway: str
    operation: str | None
    state: str
    by_hand: bool
    why: str


class StoreTimed(Struct, frozen=True, gc=False):
    """How long a store operation took, waiting included."""

    operation: str
    seconds: float


class StoreAway(Struct, frozen=True, gc=False):
    """The store takes no writes from now on, and why."""

    why: str


class StoreBack(Struct, frozen=True, gc=False):
    """It takes writes again."""


class StoreRegressed(Struct, frozen=True, gc=False):
    """The store has lost what it had acknowledged, in a sentence for the operator."""

    why: str


class LossAccepted(Struct, frozen=True, gc=False):
    """A person has looked up what it had lost."""


class LeaseLost(Struct, frozen=True, gc=False):
    """The lease ran out: no send is begun until there is another."""

    epoch: int


class LeaseTaken(Struct, frozen=True, gc=False):
    """There is another lease; what was in flight under the one before is unknown."""

    epoch: int


class OutcomeUnsaved(Struct, frozen=True, gc=False):
    """The store did not take what a send came to. It is on the spool, or in memory only."""

    session_id: str
    spooled: bool


class OutcomeSaved(Struct, frozen=True, gc=False):
    """The store has it now."""

    session_id: str


class PolicyReloaded(Struct, frozen=True, gc=False):
    """A changed policy file holds from now on. `changes`: a line each, before and after."""

    changes: tuple[str, ...]


class PolicyRefused(Struct, frozen=True, gc=False):
    """A changed policy file was not taken up; what held before it goes on."""

    why: str


# Looked for in the log first: each is a line of its own.
Rare = (
    NewKeySeen
    | BreakerMoved
    | WebhooksUnheard
    | PolicyReloaded
    | PolicyRefused
    | StoreAway
    | StoreBack
    | StoreRegressed
    | LossAccepted
    | LeaseLost
    | LeaseTaken
    | OutcomeUnsaved
    | OutcomeSaved
)
Fact = (
    RetrySuppressed
    | DuplicateSeen
    | RequestRefused
    | WebhookHeard
    | WalkEnded
    | AttemptTimed
    | StoreTimed
    | Rare
)
