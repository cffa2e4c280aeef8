"""A refusal as the backend hears it, in both forms."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest

from proxy.core.problems import PROXY_ERRORS, problem, session_headers
from proxy.core.reasons import Reason
from proxy.core.refusals import Blame, Refusal
from proxy.core.states import AttemptStatus, State
from proxy.core.wire import Answer, AnswerSource, header
from proxy.settings.values import Gateway
from tests.core.test_refusals import PROXY_ERROR_TOKENS
from tests.support.building import a_session

IN_FLIGHT, UNKNOWN, NOT_SENT, REJECTED, DECLINED, ACCEPTED, VOIDED, SUCCEEDED = AttemptStatus
LOST = a_session(NOT_SENT, UNKNOWN, state=State.INTERRUPTED)
UNSENT = a_session(NOT_SENT, state=State.INTERRUPTED)


def read(answer: Answer) -> dict[str, Any]:
    """The document of an answer."""
    document: dict[str, Any] = json.loads(answer.body)
    return document


def test_everything_that_is_known(plain: Gateway) -> None:
    """All fields of the contract, in the form of problem+json."""
    answer = problem(
        Refusal.OUTCOME_UNKNOWN,
        profile=plain.profile,
        session=LOST,
        reason=Reason.ATTEMPT_TIMEOUT,
        retry_after_ms=1500,
    )
    assert read(answer) == {
        "type": "/problems/outcome-unknown",
        "title": "It is not known whether the customer was charged",
        "status": 504,
        "detail": "The request was sent and its answer was lost. Follow the session, or repeat the "
        "request with the same key: it is sent again only where that cannot charge twice, and "
        "otherwise the gateway is asked. Do not use a new key.",
        "sessionId": "ps_1",
        "state": "INTERRUPTED",
        "outcome": "unknown",
        "attempts": 2,
        "anythingSent": True,
        "safeToRepeat": True,
        "retryAfterMs": 1500,
    }
    assert (answer.status, answer.status_text) == (504, "Gateway Timeout")
    assert answer.source is AnswerSource.HOLDFAST
    assert answer.headers == (
        ("Content-Type", "application/problem+json"),
        ("Cache-Control", "no-store"),
        ("Proxy-Status", "holdfast; error=http_response_timeout"),
        ("X-Payment-Session-Id", "ps_1"),
        ("X-Payment-Attempts", "2"),
        ("Retry-After", "2"),
    )


def test_in_stripes_form(stripe: Gateway) -> None:
    """The same facts, an error object beside them, and the SDK told not to start over."""
    answer = problem(Refusal.OUTCOME_UNKNOWN, profile=stripe.profile, session=LOST)
    document = read(answer)
    assert document.pop("error") == {
        "type": "api_error",
        "code": "outcome_unknown",
        "message": "It is not known whether the customer was charged. The request was sent and "
        "its answer was lost. Follow the session, or repeat the request with the same key: it is "
        "sent again only where that cannot charge twice, and otherwise the gateway is asked. Do "
        "not use a new key.",
    }
    assert document == read(problem(Refusal.OUTCOME_UNKNOWN, session=LOST))
    assert answer.headers[-1] == ("Stripe-Should-Retry", "false")


def test_without_a_session() -> None:
    """Nothing was touched, so there is nothing to name, and nothing was sent."""
    answer = problem(Refusal.LOOP)
    assert read(answer) == {
        "type": "/problems/proxy-loop",
        "title": "The request has already passed this Holdfast",
        "status": 400,
        "detail": "Its own name stands in Via: check that the gateway's upstream is not Holdfast "
        "itself.",
        "anythingSent": False,
        "safeToRepeat": False,
    }
    assert answer.headers == (
        ("Content-Type", "application/problem+json"),
        ("Cache-Control", "no-store"),
        ("Proxy-Status", "holdfast; error=proxy_loop_detected"),
    )


@pytest.mark.parametrize("refusal", Refusal)
def test_what_the_status_asks_for_is_there(refusal: Refusal) -> None:
    """A 401 says what it wants to see, a 405 what it takes instead (RFC 9110)."""
    answer = problem(refusal)
    wanted = {401: "WWW-Authenticate", 405: "Allow"}.get(answer.status)
    assert wanted is None or header(answer.headers, wanted)


@pytest.mark.parametrize(
    ("session", "sent"),
    [(UNSENT, False), (LOST, True), (a_session(), False), (a_session(IN_FLIGHT), True)],
)
def test_whether_anything_was_sent(session: Any, *, sent: bool) -> None:
    """By the attempts: one that was stopped before its first byte does not count."""
    assert read(problem(Refusal.NOT_SENT, session=session))["anythingSent"] is sent


@pytest.mark.parametrize(
    ("session", "outcome"),
    [
        (UNSENT, "unknown"),
        (LOST, "unknown"),
        (a_session(SUCCEEDED, state=State.COMPLETED), "charged"),
    ],
)
@pytest.mark.parametrize("refusal", [Refusal.WAIT_OVER, Refusal.IN_PROGRESS])
def test_what_goes_on_is_not_told_as_unsent(refusal: Refusal, session: Any, outcome: str) -> None:
    """Whoever asks waits no longer: by the time this is read, it may have been sent."""
    document = read(problem(refusal, session=session))
    assert (document["anythingSent"], document["outcome"]) == (True, outcome)
    assert read(problem(Refusal.WAIT_OVER))["anythingSent"] is False


@pytest.mark.parametrize(("named", "safe", "told"), [(True, True, None), (False, False, "false")])
@pytest.mark.parametrize("state", [State.INITIATED, State.COMPLETED])
def test_an_sdk_may_repeat_what_is_not_the_end(
    stripe: Gateway, state: State, *, named: bool, safe: bool, told: str | None
) -> None:
    """Unless nothing names the payment: then its plain repeat would be another one."""
    session = a_session(SUCCEEDED, state=state, named=named)
    answer = problem(Refusal.WAIT_OVER, profile=stripe.profile, session=session)
    assert read(answer)["safeToRepeat"] is safe
    assert header(answer.headers, "Stripe-Should-Retry") == told


@pytest.mark.parametrize(
    ("retry_after_ms", "seconds"),
    [(0, "0"), (1, "1"), (999, "1"), (1000, "1"), (1001, "2"), (5000, "5"), (14_600, "15")],
)
def test_retry_after_is_rounded_up(retry_after_ms: int, seconds: str) -> None:
    """Whole seconds in the header, and nobody comes back too early."""
    answer = problem(Refusal.IN_PROGRESS, retry_after_ms=retry_after_ms)
    assert header(answer.headers, "Retry-After") == seconds
    assert read(answer)["retryAfterMs"] == retry_after_ms


@pytest.mark.parametrize("refusal", Refusal)
def test_every_refusal_in_every_form(stripe: Gateway, plain: Gateway, refusal: Refusal) -> None:
    """Both forms carry the same facts, and a body that says what the status line says."""
    for profile in (None, plain.profile, stripe.profile):
        answer = problem(refusal, profile=profile, session=LOST)
        document = read(answer)
        assert document["type"] == f"/problems/{refusal.code}"
        assert document["status"] == answer.status
        assert answer.status_text == HTTPStatus(answer.status).phrase
        assert ("error" in document) is (profile is stripe.profile)
        assert document["safeToRepeat"] is refusal.value.safe_to_repeat
        assert answer.body.isascii()


@pytest.mark.parametrize("refusal", Refusal)
def test_error_types_of_stripe(stripe: Gateway, refusal: Refusal) -> None:
    """The SDK picks its exception class by status and type."""
    answer = problem(refusal, profile=stripe.profile)
    error = read(answer)["error"]
    special = {
        Refusal.KEY_REUSED: (400, "idempotency_error"),
        Refusal.IN_PROGRESS: (409, "idempotency_error"),
    }
    by_blame = "invalid_request_error" if refusal.value.blame is Blame.CALLER else "api_error"
    expected = special.get(refusal, (refusal.value.status, by_blame))
    assert (answer.status, error["type"]) == expected
    assert error["code"] == refusal.code.replace("-", "_")


@pytest.mark.parametrize(
    ("reason", "token"),
    [
        (Reason.DNS_ERROR, "dns_error"),
        (Reason.CONNECTION_REFUSED, "connection_refused"),
        (Reason.CONNECT_TIMEOUT, "connection_timeout"),
        (Reason.TLS_ERROR, "tls_protocol_error"),
        (Reason.ATTEMPT_TIMEOUT, "http_response_timeout"),
        (Reason.CONNECTION_LOST, "connection_terminated"),
        (Reason.ANSWER_TRUNCATED, "http_response_incomplete"),
        (Reason.ANSWER_MALFORMED, "http_protocol_error"),
        (Reason.BREAKER_OPEN, "destination_unavailable"),
        (Reason.QUEUE_FULL, "connection_limit_reached"),
        # A reason that is not the connection's: the refusal's own token.
        (Reason.GATEWAY_ERROR, "connection_refused"),
        (None, "connection_refused"),
    ],
)
def test_the_last_fault_is_named(reason: Reason | None, token: str) -> None:
    """`Proxy-Status` says what ended the last attempt."""
    answer = problem(Refusal.NOT_SENT, reason=reason)
    assert header(answer.headers, "Proxy-Status") == f"holdfast; error={token}"


def test_error_tokens_are_registered() -> None:
    """Only tokens that RFC 9209 knows."""
    assert set(PROXY_ERRORS.values()) <= PROXY_ERROR_TOKENS


def test_session_headers() -> None:
    """What every answer carries, the gateway's own ones too."""
    assert session_headers(LOST) == (("X-Payment-Session-Id", "ps_1"), ("X-Payment-Attempts", "2"))
