"""What went wrong with a send, from the error to what `WireFacts` say; the same for all clients."""

from __future__ import annotations

import socket
import ssl

import aiohttp

from proxy.core.reasons import Reason
from proxy.core.wire import Phase, WireFacts
from proxy.ports import Send, SendForbidden, StoreUnavailable


class Unusable(Exception):  # noqa: N818 -- the condition
    """An answer that cannot be handed on."""


class Truncated(Exception):  # noqa: N818 -- the condition
    """An answer that broke off after its head."""


class TooLarge(Exception):  # noqa: N818 -- the condition
    """An answer that is larger than may be kept."""


_FAULTS: tuple[tuple[type[BaseException], Reason], ...] = (
    # Subclasses first: ClientConnectorError and ClientOSError share a base.
    (SendForbidden, Reason.NOT_ALLOWED),
    (StoreUnavailable, Reason.STORE_UNAVAILABLE),
    (aiohttp.ConnectionTimeoutError, Reason.CONNECT_TIMEOUT),
    (aiohttp.ClientConnectorDNSError, Reason.DNS_ERROR),
    (socket.gaierror, Reason.DNS_ERROR),
    (aiohttp.ClientConnectorCertificateError, Reason.TLS_ERROR),
    (aiohttp.ClientConnectorSSLError, Reason.TLS_ERROR),
    (ssl.SSLError, Reason.TLS_ERROR),
    (aiohttp.ClientPayloadError, Reason.ANSWER_TRUNCATED),
    (aiohttp.ClientResponseError, Reason.ANSWER_MALFORMED),
    (aiohttp.http.HttpProcessingError, Reason.ANSWER_MALFORMED),
    (aiohttp.ServerDisconnectedError, Reason.CONNECTION_LOST),
    (Unusable, Reason.ANSWER_MALFORMED),
    (Truncated, Reason.ANSWER_TRUNCATED),
    (TooLarge, Reason.ANSWER_TOO_LARGE),
)


def reason_of(error: Exception, *, send_started: bool) -> Reason:
    """Why a send ended with this error."""
    if send_started and isinstance(error, SendForbidden):
        return Reason.CONNECTION_LOST  # a second transmission was stopped: the first one was lost
    for kind, reason in _FAULTS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, TimeoutError):
        return Reason.ATTEMPT_TIMEOUT if send_started else Reason.CONNECT_TIMEOUT
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if not isinstance(cause, OSError | aiohttp.ClientError):
        return Reason.INTERNAL_ERROR
    if send_started:  # what is left broke on a standing connection: reset, closed transport
        return Reason.CONNECTION_LOST
    refused = isinstance(cause, ConnectionRefusedError)
    return Reason.CONNECTION_REFUSED if refused else Reason.CONNECT_FAILED


def lost(send: Send, reason: Reason, status: int | None) -> WireFacts:
    """The facts of a send without an answer; `status` if its head was there."""
    if status is not None:
        # A status that was seen before the answer was cut is worth knowing, though it proves
        # nothing.
        return WireFacts(send.sent, Phase.READING_RESPONSE, reason, status)
    phase = Phase.AWAITING_RESPONSE if send.sent else Phase.CONNECTING
    return WireFacts(send.sent, phase, reason)
