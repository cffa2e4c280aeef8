"""Why a send or a session was interrupted: one closed list, used as metric label and in the API."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A reason with a bounded spelling; free text from people is kept beside it,
    never as a label.
    """

    # Nothing was sent: the connection never stood, or we did not let the send begin.
    DNS_ERROR = "dns_error"
    CONNECTION_REFUSED = "connection_refused"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_ERROR = "tls_error"
    STORE_UNAVAILABLE = "store_unavailable"
    STORE_REGRESSED = "store_regressed"
    BREAKER_OPEN = "breaker_open"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    NOT_ALLOWED = "not_allowed"  # cancelled, held or expired between connecting and sending

    # The gateway may have acted: the answer was lost, cut, or says nothing.
    ATTEMPT_TIMEOUT = "attempt_timeout"
    CONNECTION_LOST = "connection_lost"
    ANSWER_TRUNCATED = "answer_truncated"
    ANSWER_MALFORMED = "answer_malformed"
    ANSWER_TOO_LARGE = "answer_too_large"

    # A complete answer that settles nothing.
    GATEWAY_ERROR = "gateway_error"
    RATE_LIMITED = "rate_limited"
    IN_PROGRESS = "in_progress"
    UNCLEAR_ANSWER = "unclear_answer"
    NOT_EXECUTED = "not_executed"

    # From our own side, at any point.
    SHUTDOWN = "shutdown"
    PROCESS_RESTART = "process_restart"
    REQUESTED = "requested"
    CLIENT_ABORTED = "client_aborted"
    INTERNAL_ERROR = "internal_error"


class Suppressed(StrEnum):
    """Why a failed attempt is not repeated; the label `reason` of
    `holdfast_retries_suppressed_total`.
    """

    ATTEMPTS_SPENT = "attempts_spent"
    DEADLINE = "deadline"
    UNSAFE_TO_REPEAT = "unsafe_to_repeat"
    KEY_WINDOW_OVER = "key_window_over"
    GATEWAY_SAYS_NO = "gateway_says_no"
    NOT_IN_POLICY = "not_in_policy"  # `retry.on` does not name it
    CANCELLED = "cancelled"
    HELD = "held"
    BREAKER_OPEN = "breaker_open"
    BUDGET_SPENT = "budget_spent"
    DRAINING = "draining"
    STORE_UNAVAILABLE = "store_unavailable"
    BODY_CONSUMED = "body_consumed"
