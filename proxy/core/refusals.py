"""Every answer Holdfast makes itself: one row each, with its status, who is to blame and what is
safe.

The code is the last part of the problem type (`/problems/<code>`). `docs/problems.md` explains each
row to people; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from proxy.core.wire import Headers


class Blame(Enum):
    """Whose turn it is to change something."""

    CALLER = "caller"
    HOLDFAST = "holdfast"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Row:
    """One refusal. `proxy_error` is the error token of `Proxy-Status` (RFC 9209 section 2.3)."""

    code: str
    status: int
    blame: Blame
    title: str
    detail: str
    safe_to_repeat: bool  # the same request with the same key may be sent again
    proxy_error: str
    headers: Headers = ()  # what its status asks for besides (RFC 9110)
    final: bool = True  # the gateway's SDK is told not to try again by itself


class Refusal(Enum):
    """The refusals; what each means is its `Row`."""

    # The request itself.
    MALFORMED_REQUEST = Row(
        "malformed-request",
        400,
        Blame.CALLER,
        "The request cannot be read as HTTP/1.1",
        "Its first line, a header or its framing is malformed or too long; nothing was sent.",
        False,
        "http_request_error",
    )
    TARGET_NOT_FORWARDABLE = Row(
        "target-not-forwardable",
        400,
        Blame.CALLER,
        "The request target cannot be forwarded unchanged",
        "Send an origin-form target (/path?query), without a fragment and without an empty query.",
        False,
        "http_request_error",
    )
    METHOD_NOT_FORWARDABLE = Row(
        "method-not-forwardable",
        405,
        Blame.CALLER,
        "CONNECT is not forwarded",
        "Holdfast forwards requests to one gateway; it does not open tunnels.",
        False,
        "http_request_denied",
        (("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),),
    )
    AMBIGUOUS_FRAMING = Row(
        "ambiguous-framing",
        400,
        Blame.CALLER,
        "The length of the request is ambiguous",
        "Send either one Content-Length or Transfer-Encoding: chunked, and one Host.",
        False,
        "http_request_error",
    )
    EXPECTATION_UNKNOWN = Row(
        "expectation-unknown",
        417,
        Blame.CALLER,
        "Unknown expectation",
        "The only expectation that can be met is Expect: 100-continue.",
        False,
        "http_request_error",
    )
    DUPLICATE_HEADER = Row(
        "duplicate-header",
        400,
        Blame.CALLER,
        "A header that names the payment was sent twice",
        "Send the idempotency key and each X-Payment- header at most once.",
        False,
        "http_request_error",
    )
    HEADER_INVALID = Row(
        "header-invalid",
        400,
        Blame.CALLER,
        "An X-Payment- header is not a name",
        "Session, order and user names are 1 to 200 visible ASCII characters without spaces.",
        False,
        "http_request_error",
    )
    KEY_INVALID = Row(
        "idempotency-key-invalid",
        400,
        Blame.CALLER,
        "The idempotency key cannot be used",
        "A key is 1 to 255 visible ASCII characters, quoted or bare, and not longer than this "
        "gateway allows.",
        False,
        "http_request_error",
    )
    BYTES_NOT_FORWARDABLE = Row(
        "bytes-not-forwardable",
        400,
        Blame.CALLER,
        "A header holds bytes that cannot be forwarded unchanged",
        "Header values must be valid UTF-8.",
        False,
        "http_request_error",
    )
    LOOP = Row(
        "proxy-loop",
        400,
        Blame.CALLER,
        "The request has already passed this Holdfast",
        "Its own name stands in Via: check that the gateway's upstream is not Holdfast itself.",
        False,
        "proxy_loop_detected",
    )
    BODY_TOO_LARGE = Row(
        "body-too-large",
        413,
        Blame.CALLER,
        "The body is larger than this route allows",
        "Requests that move money are read whole before they are sent; raise max_body for the "
        "route if this one is legitimate.",
        False,
        "http_request_error",
    )
    BODY_INCOMPLETE = Row(
        "body-incomplete",
        400,
        Blame.CALLER,
        "The body ended early",
        "The connection closed before the whole request had arrived; nothing was sent.",
        True,
        "http_request_error",
    )
    TOKEN_REQUIRED = Row(
        "token-required",
        401,
        Blame.CALLER,
        "A token is required",
        "This listener is not on loopback, so each request needs X-Holdfast-Token.",
        False,
        "http_request_denied",
        # Not `Bearer`: a token in Authorization would go on to the gateway.
        (("WWW-Authenticate", "X-Holdfast-Token"),),
    )

    # The payment it names.
    KEY_REUSED = Row(
        "idempotency-key-reused",
        422,
        Blame.CALLER,
        "This key was used for a different request",
        "A key names one payment. Use a new key for a changed request.",
        False,
        "http_request_denied",
    )
    IN_PROGRESS = Row(
        "request-in-progress",
        409,
        Blame.CALLER,
        "The same payment is in progress",
        "Repeat the same request with the same key; the answer will be waiting.",
        True,
        "http_request_denied",
    )
    ORDER_OPEN = Row(
        "order-already-open",
        409,
        Blame.CALLER,
        "Another payment of this order is open or its outcome is unknown",
        "Follow the session named here; a second payment could charge the customer twice.",
        False,
        "http_request_denied",
    )
    ORDER_PAID = Row(
        "order-already-paid",
        409,
        Blame.CALLER,
        "This order is already charged",
        "Another payment of this order succeeded; see the session named here.",
        False,
        "http_request_denied",
    )
    NEW_KEY = Row(
        "new-key-for-same-request",
        409,
        Blame.CALLER,
        "The same request is open, unknown or charged under another key",
        "Repeat it with the key it had first, or name the session given here; another key could "
        "charge the customer twice.",
        False,
        "http_request_denied",
    )
    SESSION_UNKNOWN = Row(
        "session-unknown",
        404,
        Blame.CALLER,
        "There is no such session",
        "X-Payment-Session-Id names no session of this Holdfast; nothing was sent.",
        False,
        "http_request_denied",
    )
    SESSION_TAKEN = Row(
        "session-taken",
        409,
        Blame.CALLER,
        "The session belongs to another payment",
        "The session was used with another key, gateway or credential. Create a new session.",
        False,
        "http_request_denied",
    )
    SESSION_HELD = Row(
        "session-held",
        409,
        Blame.CALLER,
        "The session is held",
        "Someone interrupted it on purpose; resume it first.",
        True,
        "http_request_denied",
    )
    SESSION_CANCELLED = Row(
        "session-cancelled",
        409,
        Blame.CALLER,
        "The session was cancelled",
        "Start a new payment with a new key.",
        False,
        "http_request_denied",
    )
    SESSION_EXPIRED = Row(
        "session-expired",
        410,
        Blame.CALLER,
        "The session has expired",
        "Its deadline passed and nothing was charged. Start a new payment with a new key.",
        False,
        "http_request_denied",
    )
    ANSWER_GONE = Row(
        "answer-not-kept",
        409,
        Blame.CALLER,
        "The payment is settled, but the gateway's answer is not kept",
        "The session says how it ended; read the payment at the gateway for its details.",
        False,
        "http_request_denied",
    )

    # What came of it.
    OUTCOME_UNKNOWN = Row(
        "outcome-unknown",
        504,
        Blame.GATEWAY,
        "It is not known whether the customer was charged",
        "The request was sent and its answer was lost. Follow the session, or repeat the request "
        "with the same key: it is sent again only where that cannot charge twice, and otherwise "
        "the gateway is asked. Do not use a new key.",
        True,
        "http_response_timeout",
    )
    WAIT_OVER = Row(
        "wait-over",
        504,
        Blame.GATEWAY,
        "There is no answer yet, and the caller waits no longer",
        "The request says how long its caller waits. What was begun goes on: repeat the same "
        "request with the same key, and it gets the answer. Do not use a new key.",
        True,
        "http_response_timeout",
        final=False,
    )
    NOT_SENT = Row(
        "not-sent",
        502,
        Blame.GATEWAY,
        "The gateway could not be reached",
        "Nothing was sent and nothing is charged.",
        True,
        "connection_refused",
    )
    RETRIES_EXHAUSTED = Row(
        "retries-exhausted",
        502,
        Blame.GATEWAY,
        "All attempts failed and nothing is charged",
        "No further send will be made for this key. Start a new payment with a new key.",
        False,
        "connection_refused",
    )
    BREAKER_OPEN = Row(
        "gateway-unavailable",
        503,
        Blame.GATEWAY,
        "The gateway is failing and is given a rest",
        "The circuit breaker is open. Nothing was sent.",
        True,
        "destination_unavailable",
    )
    OVERLOADED = Row(
        "overloaded",
        503,
        Blame.HOLDFAST,
        "Too many payments are in flight",
        "The concurrency limit and its queue are full. Nothing was sent.",
        True,
        "connection_limit_reached",
    )
    STORE_UNAVAILABLE = Row(
        "store-unavailable",
        503,
        Blame.HOLDFAST,
        "The session store cannot record the payment",
        "Nothing is sent that cannot be recorded first. Nothing was sent.",
        True,
        "proxy_internal_error",
    )
    STORE_REGRESSED = Row(
        "store-regressed",
        503,
        Blame.HOLDFAST,
        "The session store has lost payments, perhaps this one",
        "It may have been charged, so it was not sent now. Repeat it later with the same key.",
        True,
        "proxy_internal_error",
    )
    DRAINING = Row(
        "shutting-down",
        503,
        Blame.HOLDFAST,
        "Holdfast is shutting down",
        "Repeat the request with the same key in a moment. Nothing was sent.",
        True,
        "destination_unavailable",
    )
    UPSTREAM_FAILED = Row(
        "gateway-failed",
        502,
        Blame.GATEWAY,
        "The gateway's answer did not arrive whole",
        "This route moves no money; the request may have been executed.",
        False,
        "http_response_incomplete",
    )
    INTERNAL = Row(
        "internal-error",
        500,
        Blame.HOLDFAST,
        "Holdfast failed",
        "An error in Holdfast itself. The session, if any, keeps what is known.",
        True,
        "proxy_internal_error",
    )

    @property
    def code(self) -> str:
        """The machine code."""
        return self.value.code
