"""Answers written to the socket byte for byte.

aiohttp's own responses add `Date`, `Server` and `Content-Type`, and encode header values as UTF-8.
A gateway's answer goes back unchanged, so the head is made here from its bytes. Only `prepare` and
`write_eof` are replaced, which aiohttp's server calls for every response.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

from aiohttp import web
from typing_extensions import override

from proxy.core.wire import Answer, close_stream
from proxy.web.requests import GatewayRequest

# Statuses that never have a body, whatever their headers say (RFC 9110 section 6.4.1).
_BODILESS = frozenset({204, 304})
# So much is written without looking whether the client takes it; aiohttp's own limit.
_PATIENCE_BYTES = 0x10000
_HTTP11 = (1, 1)
_LENGTH = "\r\ncontent-length:"
_NO_LINGERING = struct.pack("ii", 1, 0)


class RawResponse(web.StreamResponse):
    """An `Answer` on its way out."""

    def __init__(self, answer: Answer, *, close: bool = False) -> None:
        # Not aiohttp's own: it makes headers and a state that nobody would read.
        self._answer = answer
        self._must_close = close
        self._keeps_alive = False

    @property
    @override
    def keep_alive(self) -> bool:
        return self._keeps_alive

    @override
    async def prepare(self, request: web.BaseRequest | GatewayRequest) -> None:
        self._keeps_alive = (
            request.keep_alive and not self._must_close and request.version >= _HTTP11
        )
        if self._answer.stream is not None:
            await self._stream(self._answer.stream, request)
            return
        data = self._whole(request.method)
        transport = request.transport
        if transport is None or transport.is_closing():
            message = "the client has gone"
            raise ConnectionResetError(message)
        transport.write(data)
        if len(data) > _PATIENCE_BYTES:
            await request.writer.drain()

    def _whole(self, method: str) -> bytes:
        """The answer in one piece."""
        body = self._answer.body
        head = self._head()
        bodiless = self._answer.status in _BODILESS
        # What HEAD would have got is known only of our own answers.
        if _LENGTH not in head.lower() and not bodiless and (body or method != "HEAD"):
            head += f"\r\nContent-Length: {len(body)}"
        if bodiless or method == "HEAD":
            return self._ended(head)
        return self._ended(head) + body

    async def _stream(
        self, stream: AsyncIterator[bytes], request: web.BaseRequest | GatewayRequest
    ) -> None:
        """As it comes."""
        head = self._head()
        bodiless = request.method == "HEAD" or self._answer.status in _BODILESS
        chunked = False
        if not bodiless and _LENGTH not in head.lower():
            chunked = request.version >= _HTTP11
            if chunked:
                head += "\r\nTransfer-Encoding: chunked"
            else:  # HTTP/1.0: the end of the connection is the end of the body
                self._keeps_alive = False
        writer = request.writer
        try:
            await writer.write(self._ended(head))
            if chunked:
                writer.enable_chunking()
            if not bodiless:
                await _pass_on(stream, request)
        finally:
            await close_stream(stream)
        if chunked:
            await writer.write_eof()

    def _head(self) -> str:
        """The answer's head as it is, without its end."""
        answer = self._answer
        status_line = f"HTTP/1.1 {answer.status} {answer.status_text}"
        return "\r\n".join((status_line, *map(": ".join, answer.headers)))

    def _ended(self, head: str) -> bytes:
        end = "\r\n\r\n" if self._keeps_alive else "\r\nConnection: close\r\n\r\n"
        return (head + end).encode("latin-1")

    @override
    async def write_eof(self, data: bytes = b"") -> None:
        return


async def _pass_on(stream: AsyncIterator[bytes], request: web.BaseRequest | GatewayRequest) -> None:
    transport = request.transport  # the stop takes it off the request before it cancels us
    while True:
        try:
            chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except BaseException as error:
            # The gateway's answer broke off after its head was passed on. The only honest way to
            # say so is to break off as well: a clean end would make half an answer look whole.
            _break_off(transport)
            if not isinstance(error, Exception):
                raise
            message = "the gateway's answer broke off"
            raise ConnectionResetError(message) from error
        await request.writer.write(chunk)


def _break_off(transport: asyncio.Transport | None) -> None:
    """End a connection with a reset. An orderly end would be the end of a body that has no length,
    and some clients do not count the bytes of one that has.
    """
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() != -1:  # -1: the client has gone
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
    transport.abort()
