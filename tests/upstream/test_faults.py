"""From an error to a reason: the table, and what depends on how far the send had come."""

from __future__ import annotations

import socket
import ssl

import pytest

from proxy.core.reasons import Reason
from proxy.core.wire import Phase, WireFacts
from proxy.ports import SendForbidden, StoreUnavailable
from proxy.upstream.faults import TooLarge, Truncated, Unusable, lost, reason_of
from tests.support.wire import a_send


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (SendForbidden(), Reason.NOT_ALLOWED, Reason.CONNECTION_LOST),
        (StoreUnavailable(), Reason.STORE_UNAVAILABLE, None),
        (socket.gaierror(), Reason.DNS_ERROR, None),
        (ssl.SSLError(), Reason.TLS_ERROR, None),
        (ssl.SSLCertVerificationError(), Reason.TLS_ERROR, None),
        (ConnectionRefusedError(), Reason.CONNECTION_REFUSED, Reason.CONNECTION_LOST),
        (ConnectionResetError(), Reason.CONNECT_FAILED, Reason.CONNECTION_LOST),
        (OSError(), Reason.CONNECT_FAILED, Reason.CONNECTION_LOST),
        (TimeoutError(), Reason.CONNECT_TIMEOUT, Reason.ATTEMPT_TIMEOUT),
        (Unusable(), None, Reason.ANSWER_MALFORMED),
        (Truncated(), None, Reason.ANSWER_TRUNCATED),
        (TooLarge(), None, Reason.ANSWER_TOO_LARGE),
        (ValueError(), Reason.INTERNAL_ERROR, Reason.INTERNAL_ERROR),
    ],
)
def test_the_reason_of_an_error(
    error: Exception, before: Reason | None, after: Reason | None
) -> None:
    """Before the first byte and after it; None where it cannot come up."""
    if before is not None:
        assert reason_of(error, send_started=False) is before
    if after is not None:
        assert reason_of(error, send_started=True) is after


@pytest.mark.parametrize(
    ("sent", "status", "phase"),
    [
        (False, None, Phase.CONNECTING),
        (True, None, Phase.AWAITING_RESPONSE),
        (True, 200, Phase.READING_RESPONSE),
    ],
)
def test_the_phase_of_a_lost_send(sent: bool, status: int | None, phase: Phase) -> None:
    """How far it had come is read off what was sent and what was seen."""
    send = a_send()
    send.sent = sent
    facts = lost(send, Reason.CONNECTION_LOST, status)

    assert facts == WireFacts(sent, phase, Reason.CONNECTION_LOST, status or 0)
