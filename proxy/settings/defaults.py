"""Every default that is a number or an address; the reason for each stands with its field in
schema.py, or here where it has none. Durations in seconds.
"""

from __future__ import annotations

from typing import Final

from proxy.core.profile import MAX_PROCESSING_SECONDS

TOTAL_TIMEOUT: Final = 30.0
CONNECT_TIMEOUT: Final = 2.0
ATTEMPT_TIMEOUT: Final = 10.0

MAX_ATTEMPTS: Final = 3
BACKOFF_INITIAL: Final = 0.2
BACKOFF_MAX: Final = 5.0

BUDGET_RATIO: Final = 0.2
BUDGET_MIN_PER_SECOND: Final = 10.0
BUDGET_WINDOW: Final = 10.0

BREAKER_FAILURE_RATIO: Final = 0.5
BREAKER_MIN_CALLS: Final = 20
BREAKER_WINDOW: Final = 30.0
BREAKER_OPEN_FOR: Final = 15.0
# Where slow calls are counted at all, as for failures.
BREAKER_SLOW_RATIO: Final = 0.5
# One answer may be luck: a gateway that answers half of what it is asked passes three in one rest
# of eight.
BREAKER_PROBES: Final = 3

MAX_IN_FLIGHT: Final = 200
MAX_QUEUE: Final = 200
QUEUE_TIMEOUT: Final = 1.0

EXPIRES_AFTER: Final = 15 * 60.0
CLEANUP_EVERY: Final = 5 * 60.0
REPLAY_FOR: Final = 24 * 3600.0
KEEP_FOR: Final = 35 * 24 * 3600.0
DUPLICATE_WAIT: Final = 5.0
LEASE: Final = 10.0

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

DRAIN_TIMEOUT: Final = 15.0
# Requests kept in memory for sessions that are not settled (their credential serves look-ups).
HELD_REQUEST_BYTES: Final = 64 * 1024 * 1024

MAX_PROCESSING_TIME: Final = MAX_PROCESSING_SECONDS
# How old a signed webhook may be: what Stripe's SDKs take [_webhook.py].
WEBHOOK_TOLERANCE: Final = 300.0
# Three quarters of the gateway's own window: clocks differ, and retries take time.
RESEND_HORIZON_SHARE: Final = 0.75

SESSIONS_LISTEN: Final = "127.0.0.1:8081"
ADMIN_LISTEN: Final = "127.0.0.1:8082"
STORE: Final = "sqlite://holdfast.db"
