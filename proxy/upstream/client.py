"""aiohttp out: one send, exactly once, and what was seen of it as `WireFacts`.

Rule 1: `before_bytes` is awaited inside `on_request_headers_sent`, which aiohttp awaits before it
        writes a byte. When it returns, bytes may leave; not reached means nothing was sent.
Rule 2: aiohttp never sends twice. Its silent second try on a dead kept-alive connection is off, and
        redirects are answers. (The wire tests count what arrives at a raw socket.)
Rule 3: bytes are not improved: no header added, nothing decompressed, the target not re-quoted.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.core.reasons import Reason
from proxy.core.wire import Headers, Phase, WireFacts
from proxy.ports import Send, SendForbidden, StoreUnavailable

_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
# Below what gateways and load balancers keep connections open for (60 s and more), so that a reused
# connection is rarely one that the other side is just closing.
_KEEPALIVE_SECONDS = 30.0
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})
_BIG = 60  # ceil_threshold: time-outs up to a minute are exact instead of rounded up


class AiohttpUpstream:
    """One gateway, over aiohttp's client."""

    def __init__(self, origin: str, *, ca_file: Path | None = None) -> None:
        self._origin = origin
        context: ssl.SSLContext | Literal[True] = True
        if ca_file is not None:
            context = ssl.create_default_context(cafile=ca_file)
        self._reusing = _client(context, fresh=False)
        self._fresh = _client(context, fresh=True)

    async def close(self) -> None:
        await self._reusing.close()
        await self._fresh.close()

    async def send(self, send: Send) -> WireFacts:
        """Send once. Never raises but for cancellation, and then `send.sent` still says how far."""
        phase = Phase.CONNECTING
        response: aiohttp.ClientResponse | None = None
        try:
            # A body that is passed on takes as long as its sender; then the wait for the answer
            # counts (sock_read starts when the last byte is written).
            whole = send.stream is None
            async with asyncio.timeout(send.attempt_timeout if whole else None):
                response = await self._request(send)
                phase = Phase.READING_RESPONSE
                if not send.answer_whole:
                    return _streamed(response)
                body = await _read_whole(response, send.max_answer_bytes)
        except BaseException as error:
            if response is not None:
                response.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            if not isinstance(error, Exception):
                raise
            if send.sent and phase is Phase.CONNECTING:
                phase = Phase.AWAITING_RESPONSE
            reason = _reason(error, send_started=send.sent)
            return _lost(send, phase, reason, response)
        if body is None:
            response.close()
            return _lost(send, phase, Reason.ANSWER_TOO_LARGE, response)
        return _answered(response, body)

    async def _request(self, send: Send) -> aiohttp.ClientResponse:
        client = self._fresh if send.fresh_connection else self._reusing
        return await client.request(
            send.method,
            # The target is forwarded byte for byte: no quoting, no normalising.
            URL(self._origin + _as_text(send.target), encoded=True),
            headers=_as_multidict(send.headers),
            data=send.stream if send.stream is not None else send.body or None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=send.connect_timeout,
                sock_read=None if send.answer_whole else send.attempt_timeout,
                ceil_threshold=_BIG,
            ),
            trace_request_ctx=send,
        )


def _client(context: ssl.SSLContext | Literal[True], *, fresh: bool) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_before_bytes)
    if fresh:
        connector = aiohttp.TCPConnector(limit=0, ssl=context, force_close=True)
    else:
        connector = aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=_KEEPALIVE_SECONDS)
    client = aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_AUTO_HEADERS,
        trace_configs=[trace],
        trust_env=False,
        raise_for_status=False,
    )
    # Private, and the only switch there is (aio-libs/aiohttp#10790): without it aiohttp sends GET,
    # PUT and DELETE a second time when a kept-alive connection turns out to be dead.
    client._retry_connection = False  # noqa: SLF001 -- see above; the wire tests hold it
    return client


async def _before_bytes(
    _client_session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    send: Send = context.trace_request_ctx
    if send.sent:
        # A second transmission under one intent. Cannot happen while rule 2 holds; if it ever does,
        # it is stopped here, before its first byte.
        message = "one intent, one send"
        raise SendForbidden(message)
    await send.before_bytes()
    send.sent = True


def _as_text(latin: str) -> str:
    """Bytes-as-latin-1 → the text whose UTF-8 are those bytes (checked by `http_rules`)."""
    return latin if latin.isascii() else latin.encode("latin-1").decode()


def _as_multidict(headers: Headers) -> CIMultiDict[str]:
    return CIMultiDict((name, _as_text(value)) for name, value in headers)


async def _read_whole(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The whole answer, or None if it is larger than the limit."""
    if (response.content_length or 0) > limit:
        return None
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        parts.append(part)
        size += len(part)
        if size > limit:
            return None
    return b"".join(parts)


def _answered(response: aiohttp.ClientResponse, body: bytes) -> WireFacts:
    return WireFacts(
        sent=True,
        phase=Phase.ANSWERED,
        status=response.status,
        status_text=response.reason or "",
        headers=_raw_headers(response),
        body=body,
    )


def _streamed(response: aiohttp.ClientResponse) -> WireFacts:
    return WireFacts(
        sent=True,
        phase=Phase.ANSWERED,
        status=response.status,
        status_text=response.reason or "",
        headers=_raw_headers(response),
        stream=_chunks(response),
    )


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    finally:
        response.close()


def _lost(
    send: Send, phase: Phase, reason: Reason, response: aiohttp.ClientResponse | None
) -> WireFacts:
    # A status that was seen before the answer was cut is worth knowing, though it proves nothing.
    status = response.status if response is not None else 0
    return WireFacts(sent=send.sent, phase=phase, reason=reason, status=status)


def _raw_headers(response: aiohttp.ClientResponse) -> Headers:
    return tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers
    )


_FAULTS: tuple[tuple[type[BaseException], Reason], ...] = (
    # Subclasses first: ClientConnectorError and ClientOSError share a base.
    (SendForbidden, Reason.NOT_ALLOWED),
    (StoreUnavailable, Reason.STORE_UNAVAILABLE),
    (aiohttp.ConnectionTimeoutError, Reason.CONNECT_TIMEOUT),
    (aiohttp.ClientConnectorDNSError, Reason.DNS_ERROR),
    (aiohttp.ClientConnectorCertificateError, Reason.TLS_ERROR),
    (aiohttp.ClientConnectorSSLError, Reason.TLS_ERROR),
    (aiohttp.ClientPayloadError, Reason.ANSWER_TRUNCATED),
    (aiohttp.ClientResponseError, Reason.ANSWER_MALFORMED),
    (aiohttp.http.HttpProcessingError, Reason.ANSWER_MALFORMED),
    (aiohttp.ServerDisconnectedError, Reason.CONNECTION_LOST),
)


def _reason(error: Exception, *, send_started: bool) -> Reason:
    for kind, reason in _FAULTS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, TimeoutError):
        return Reason.ATTEMPT_TIMEOUT if send_started else Reason.CONNECT_TIMEOUT
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return Reason.CONNECTION_REFUSED if refused else Reason.CONNECT_FAILED
    # What is left broke on a standing connection: ClientOSError, reset, closed transport.
    return Reason.CONNECTION_LOST


__all__ = ["AiohttpUpstream"]
