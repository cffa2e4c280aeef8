"""aiohttp out: one send, exactly once, and what was seen of it as `WireFacts`.

Rule 1: `before_bytes` is awaited inside `on_request_headers_sent`, which aiohttp awaits before it
        writes a byte. When it returns, bytes may leave; not reached means nothing was sent.
Rule 2: aiohttp never sends twice. Its silent second try on a dead kept-alive connection is off, and
        redirects are answers. (The wire tests count what arrives at a raw socket.)
Rule 3: bytes are not improved: no header added, nothing decompressed, the target not re-quoted.
Rule 4: what is not certainly a whole answer is none: a connection that was reset is not an end.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.core.reasons import Reason
from proxy.core.wire import Phase, WireFacts
from proxy.ports import Send, SendForbidden
from proxy.upstream.bodies import PIECE, Chunks, Upload, in_pieces, read_whole
from proxy.upstream.faults import Unusable, lost, reason_of

_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
# Below what gateways and load balancers keep connections open for (60 s and more), so that a reused
# connection is rarely one that the other side is just closing.
KEEPALIVE_SECONDS = 30.0
_BIG = 60  # ceil_threshold: time-outs up to a minute are exact instead of rounded up
# An answer to a charge is not lost because a header of it is long (aiohttp's own limit is 8 KiB).
MAX_ANSWER_LINE = 64 * 1024
MAX_ANSWER_HEADERS = 256


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
        upload = None if send.stream is None else Upload(send.stream, send.attempt_timeout)
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(send.attempt_timeout if upload is None else None) as limit:
                if upload is not None:
                    upload.limit = limit
                response = await self._request(send, upload)
                if not send.answer_whole:
                    return _answered(response, stream=Chunks(response))
                return _answered(response, await read_whole(response, send.max_answer_bytes))
        except BaseException as error:
            if response is not None:
                response.close()
            if not isinstance(error, Exception):
                raise
            aborted = upload is not None and upload.failed
            reason = reason_of(error, send_started=send.sent)
            status = None if response is None else response.status
            return lost(send, Reason.CLIENT_ABORTED if aborted else reason, status)
        finally:
            if upload is not None:
                upload.limit = None

    async def _request(self, send: Send, upload: Upload | None) -> aiohttp.ClientResponse:
        client = self._fresh if send.fresh_connection else self._reusing
        headers = _as_multidict(send)
        data: AsyncIterator[bytes] | bytes | None = send.body or None
        if upload is not None:
            data = upload.chunks()
        elif len(send.body) > PIECE:
            headers.setdefault("Content-Length", str(len(send.body)))
            data = in_pieces(send.body)
        response = await client.request(
            send.method,
            # The target is forwarded byte for byte: no quoting, no normalising.
            URL(self._origin + _as_text(send.target), encoded=True),
            headers=headers,
            data=data,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=send.connect_timeout,
                sock_read=None if send.answer_whole else send.attempt_timeout,
                ceil_threshold=_BIG,
            ),
            trace_request_ctx=send,
        )
        if upload is not None:
            upload.answered()
        if _unusable(response):
            response.close()
            raise Unusable
        return response


def _client(context: ssl.SSLContext | Literal[True], *, fresh: bool) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_before_bytes)
    if fresh:
        connector = aiohttp.TCPConnector(limit=0, ssl=context, force_close=True)
    else:
        connector = aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=KEEPALIVE_SECONDS)
    client = aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_AUTO_HEADERS,
        trace_configs=[trace],
        trust_env=False,
        raise_for_status=False,
        max_line_size=MAX_ANSWER_LINE,
        max_field_size=MAX_ANSWER_LINE,
        max_headers=MAX_ANSWER_HEADERS,
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


# --- requests -------------------------------------------------------------------------------------


def _as_text(latin: str) -> str:
    """Bytes-as-latin-1 → the text whose UTF-8 are those bytes (checked by `http_rules`)."""
    return latin if latin.isascii() else latin.encode("latin-1").decode()


def _as_multidict(send: Send) -> CIMultiDict[str]:
    """The headers as they came, but for two things: the length of a body that is there is counted,
    and a field that stands there twice keeps its first spelling (with two, aiohttp drops a line).
    """
    length = str(len(send.body)) if send.stream is None else None
    spelled: dict[str, str] = {}
    fields: CIMultiDict[str] = CIMultiDict()
    for name, value in send.headers:
        lower = name.lower()
        if lower == "content-length" and length is not None:
            fields[name] = length
        else:
            fields.add(spelled.setdefault(lower, name), _as_text(value))
    return fields


# --- answers --------------------------------------------------------------------------------------


def _unusable(response: aiohttp.ClientResponse) -> bool:
    """Another protocol; or a coding that nobody asked for, lost with the header that names it."""
    codings = response.headers.getall("Transfer-Encoding", ())
    foreign = any(coding.lower() != "chunked" for coding in codings)
    return foreign or response.status == HTTPStatus.SWITCHING_PROTOCOLS


def _answered(
    response: aiohttp.ClientResponse, body: bytes = b"", stream: AsyncIterator[bytes] | None = None
) -> WireFacts:
    phrase = response.reason or ""
    if not phrase.isascii():  # one character per byte, as everywhere; aiohttp has decoded it
        phrase = phrase.encode("utf-8", "surrogateescape").decode("latin-1")
    return WireFacts(
        sent=True,
        phase=Phase.ANSWERED,
        status=response.status,
        status_text=phrase,
        headers=tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in response.raw_headers
        ),
        body=body,
        stream=stream,
    )


__all__ = ["AiohttpUpstream"]
