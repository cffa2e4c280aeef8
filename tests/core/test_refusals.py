"""The table of refusals: one code each, a status that fits, and a promise that holds."""

from __future__ import annotations

import re
from collections import Counter
from http import HTTPStatus

import pytest

from proxy.core.refusals import Blame, Refusal

# Error tokens of RFC 9209 section 2.3.
PROXY_ERROR_TOKENS = {
    "dns_timeout", "dns_error", "destination_not_found", "destination_unavailable",
    "destination_ip_prohibited", "destination_ip_unroutable", "connection_refused",
    "connection_terminated", "connection_timeout", "connection_read_timeout",
    "connection_write_timeout", "connection_limit_reached", "tls_protocol_error",
    "tls_certificate_error", "tls_alert_received", "http_request_error", "http_request_denied",
    "http_response_incomplete", "http_response_header_section_size",
    "http_response_header_size", "http_response_body_size",
    "http_response_trailer_section_size", "http_response_trailer_size",
    "http_response_transfer_coding", "http_response_content_coding", "http_response_timeout",
    "http_upgrade_failed", "http_protocol_error", "proxy_internal_response",
    "proxy_internal_error", "proxy_configuration_error", "proxy_loop_detected",
}  # fmt: skip


def test_codes_are_unique() -> None:
    """A code is looked up by people: two meanings for one would mislead them."""
    assert [code for code, n in Counter(r.code for r in Refusal).items() if n > 1] == []


def test_rows_are_unique() -> None:
    """Two equal rows would be one name for Python, and one of them never used."""
    assert len(Refusal.__members__) == len(list(Refusal))


@pytest.mark.parametrize("refusal", Refusal)
def test_every_row_is_fit_to_be_sent(refusal: Refusal) -> None:
    """A code for a URL, a known status, ASCII sentences, a registered error token."""
    row = refusal.value
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", row.code)
    assert HTTPStatus(row.status) >= HTTPStatus.BAD_REQUEST
    assert row.proxy_error in PROXY_ERROR_TOKENS
    assert not row.title.endswith(".")
    assert row.detail.endswith(".")
    assert (row.title + row.detail).isascii()


@pytest.mark.parametrize("refusal", Refusal)
def test_the_status_says_whose_turn_it_is(refusal: Refusal) -> None:
    """4xx is for the caller to change something, 5xx is not."""
    row = refusal.value
    assert (row.status < 500) is (row.blame is Blame.CALLER)


@pytest.mark.parametrize(
    ("code", "status", "safe"),
    [
        # The contract of the money rules (section 1.2), and what a repeat would do.
        ("idempotency-key-invalid", 400, False),
        ("idempotency-key-reused", 422, False),
        ("request-in-progress", 409, True),
        ("order-already-open", 409, False),
        ("order-already-paid", 409, False),
        ("new-key-for-same-request", 409, False),
        ("session-cancelled", 409, False),
        ("session-expired", 410, False),
        ("session-held", 409, True),
        ("outcome-unknown", 504, True),
        ("wait-over", 504, True),
        ("not-sent", 502, True),
        ("retries-exhausted", 502, False),
        ("gateway-unavailable", 503, True),
        ("overloaded", 503, True),
        ("shutting-down", 503, True),
        ("store-unavailable", 503, True),
        ("store-regressed", 503, True),
        ("body-too-large", 413, False),
        ("internal-error", 500, True),
    ],
)
def test_the_contract(code: str, status: int, *, safe: bool) -> None:
    """Backends build on these."""
    row = next(refusal.value for refusal in Refusal if refusal.code == code)
    assert (row.status, row.safe_to_repeat) == (status, safe)
