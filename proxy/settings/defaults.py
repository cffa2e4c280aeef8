"""Every default and its reason. Durations in seconds."""

from __future__ import annotations

from typing import Final

from proxy.core.profile import MAX_PROCESSING_SECONDS

# The requirement: 30 s in total, 3 attempts, sessions of 15 minutes, clean-up every 5.
TOTAL_TIMEOUT: Final = 30.0
MAX_ATTEMPTS: Final = 3
EXPIRES_AFTER: Final = 15 * 60.0
CLEANUP_EVERY: Final = 5 * 60.0

# A TCP and TLS handshake to a gateway takes well under a second; what takes two is not coming.
CONNECT_TIMEOUT: Final = 2.0
# A third of the total, so that three attempts fit; card authorisations rarely take longer than 8 s.
ATTEMPT_TIMEOUT: Final = 10.0

# Below what a shopper notices, above a gateway's own hiccup; doubled per attempt up to a ceiling
# that still leaves room inside the total.
BACKOFF_INITIAL: Final = 0.2
BACKOFF_MAX: Final = 5.0

# 20 % and 10 per second are what Envoy, Linkerd and Finagle settled on.
BUDGET_RATIO: Final = 0.2
BUDGET_MIN_PER_SECOND: Final = 10.0
BUDGET_WINDOW: Final = 10.0

# Half of at least 20 calls failing is an outage, not bad luck (at 15 % faults the chance is <
# 1e-4).
BREAKER_FAILURE_RATIO: Final = 0.5
BREAKER_MIN_CALLS: Final = 20
BREAKER_WINDOW: Final = 30.0
BREAKER_OPEN_FOR: Final = 15.0

# An open payment holds two sockets and about 25 KB; 200 fit below the common limit of 1,024 files.
MAX_IN_FLIGHT: Final = 200
MAX_QUEUE: Final = 200
QUEUE_TIMEOUT: Final = 1.0

# A day, as most gateways keep their own keys; the key itself is kept longer than any of them does
# (31 days at the longest published), so that an old key never becomes a new charge.
REPLAY_FOR: Final = 24 * 3600.0
KEEP_FOR: Final = 35 * 24 * 3600.0
# Longer than a usual payment, shorter than a person's patience for a second click.
DUPLICATE_WAIT: Final = 5.0
# Long enough that a pause for garbage or a busy disk loses no lease, short enough that a payment
# whose process died is looked after while its shopper still waits.
LEASE: Final = 10.0

# Payment requests are a few KB. Anything this big on a money route is a mistake or an attack.
MAX_BODY_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

# How long a stopping Holdfast waits for payments that are with the gateway: one attempt and a bit.
DRAIN_TIMEOUT: Final = 15.0
# Requests kept in memory for sessions that are not settled (their credential serves look-ups).
HELD_REQUEST_BYTES: Final = 64 * 1024 * 1024

# When a gateway is done with whatever it was sent.
MAX_PROCESSING_TIME: Final = MAX_PROCESSING_SECONDS
# How old a signed webhook may be: what Stripe's SDKs take [_webhook.py].
WEBHOOK_TOLERANCE: Final = 300.0
# Three quarters of the gateway's own window: clocks differ, and retries take time.
RESEND_HORIZON_SHARE: Final = 0.75

SESSIONS_LISTEN: Final = "127.0.0.1:8081"
ADMIN_LISTEN: Final = "127.0.0.1:8082"
STORE: Final = "sqlite://holdfast.db"
