"""What operators decide: timeouts, retry, budget, breaker, concurrency, per route. Frozen values.

Durations are seconds. Where the values come from and why the defaults are what they are is
`settings/defaults.py`; what the gateway is like is not policy but `profile.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote_plus


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Connect, one attempt, and the whole walk including backoff."""

    connect: float
    attempt: float
    total: float


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: attempt n waits up to initial x 2^(n-1), capped at max."""

    initial: float
    max: float
    full_jitter: bool


class Condition(StrEnum):
    """What can have become of a send that Holdfast repeats by itself."""

    # Proved not sent: whatever the reason, or because no connection stood.
    NOT_SENT = "not_sent"
    CONNECT = "connect"
    # Sent, and no answer that can be used.
    RESET_BEFORE_ANSWER = "reset_before_answer"
    ATTEMPT_TIMEOUT = "attempt_timeout"
    ANSWER_BROKEN = "answer_broken"
    # A whole answer that does not settle the payment.
    IN_PROGRESS = "in_progress"
    RATE_LIMITED = "rate_limited"
    NOT_EXECUTED = "not_executed"  # it says so, a throttle included
    GATEWAY_SAYS_RETRY = "gateway_says_retry"


# Such an answer with a status in one of these inclusive ranges.
Statuses = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a session may be sent, how often by Holdfast itself, and after what."""

    max_attempts: int
    automatic_attempts: int
    backoff: Backoff
    respect_retry_after: bool
    on: tuple[Condition | Statuses, ...] | None = None  # None: after all that is safe
    # The operator's word: also where the gateway may have charged and need not know the key.
    may_charge_twice: bool = False


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """Each payment that is answered earns `ratio` of a retry, `min_per_second` are always free,
    and no more are saved up than these come to in `window`.
    """

    ratio: float
    min_per_second: float
    window: float


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Refuse for `open_for` when `failure_ratio` of at least `min_calls` in `window` failed, or
    `consecutive` in a row, or `slow_ratio` of them took `slow_call` or longer; then until `probes`
    reads of the path `probe` in a row were answered.
    """

    failure_ratio: float
    min_calls: int
    window: float
    open_for: float
    consecutive: int | None = None
    slow_call: float | None = None
    slow_ratio: float = 0.5
    probes: int = 3
    probe: str = "/"


@dataclass(frozen=True, slots=True)
class ConcurrencyPolicy:
    """How many payments are with the gateway at once, and how many may wait how
    long for a place.
    """

    max_in_flight: int
    max_queue: int
    queue_timeout: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What is let through to a gateway, or for one operation of it."""

    concurrency: ConcurrencyPolicy
    breaker: BreakerPolicy


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """How long sessions live and answers are kept."""

    expires_after: float
    cleanup_every: float
    replay_for: float
    keep_for: float
    duplicate_wait: float
    lease: float


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """What is agreed with a gateway about its webhooks: the secret they are signed with, the
    address the gateway calls (some sign it too), and where the merchant takes them himself.
    """

    secret: str | None = field(default=None, repr=False)
    url: str | None = None
    forward_to: str | None = None


class SessionKind(StrEnum):
    """Durable sessions are journaled before every send; ephemeral ones live in memory."""

    DURABLE = "durable"
    EPHEMERAL = "ephemeral"


class OrderLock(StrEnum):
    """Where an order's name must come from for it to lock the order."""

    NAMED = "named"  # the backend named it: header, or a session it created
    BODY = "body"  # also when the profile read it from the body
    OFF = "off"


class NewKey(StrEnum):
    """What becomes of another key for the very same request, while an earlier one is open or has
    charged, where no order is locked.
    """

    ALLOW = "allow"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class BodyField:
    """Where a value stands in a request body: a path into JSON, a form's field, a path into XML."""

    json: str | None = None
    form: str | None = None
    xml: str | None = None
    # The form field as clients write it, where one begins: brackets escaped or not.
    spellings: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spellings", () if self.form is None else _spellings(self.form))


def _spellings(name: str) -> tuple[bytes, ...]:
    plain = f"&{name}=".encode()
    escaped = f"&{quote_plus(name)}=".encode()
    lower = re.sub(rb"%[0-9A-F]{2}", lambda escape: escape[0].lower(), escaped)
    return tuple(dict.fromkeys((plain, escaped, lower)))


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """One route with everything resolved: what it matches, what it is, how it is treated."""

    name: str
    methods: frozenset[str]
    template: str
    session: SessionKind
    operation: str
    order_lock: OrderLock
    timeouts: Timeouts
    retry: RetryPolicy
    max_body_bytes: int
    max_answer_bytes: int
    order: BodyField | None = None
    amount: BodyField | None = None
    currency: BodyField | None = None
    lookup: str | None = None  # the name of the profile's look-up recipe for this route
    new_key: NewKey = NewKey.WARN
    keep_request: bool = False  # sealed in the store, so that a restart does not forget it
    # Whether this route moves money: the same as `session`, for those who ask at every step.
    durable: bool = field(init=False)
    # Where the body tells of the payment, by what it tells: put together once.
    places: Mapping[str, BodyField | None] = field(init=False)

    def __post_init__(self) -> None:
        places = {"order": self.order, "amount": self.amount, "currency": self.currency}
        object.__setattr__(self, "places", places)
        object.__setattr__(self, "durable", self.session is SessionKind.DURABLE)
