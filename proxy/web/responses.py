"""Answers written to the socket byte for byte.

aiohttp's own responses add `Date`, `Server` and `Content-Type`, and encode header values as UTF-8.
A gateway's answer goes back unchanged, so the head is made here from its bytes and handed to the
same writer. Only `prepare` and `write_eof` are replaced, which aiohttp's server calls for every
response.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from typing_extensions import override

from proxy.core.wire import Answer, close_stream

# Statuses that never have a body, whatever their headers say (RFC 9110 section 6.4.1).
_BODILESS = frozenset({204, 304})
_NO_LINGERING = struct.pack("ii", 1, 0)


class RawResponse(web.StreamResponse):
    """An `Answer` on its way out."""

    def __init__(self, answer: Answer, *, close: bool = False) -> None:
        super().__init__(status=answer.status)
        self._answer = answer
        self._must_close = close
        self._keeps_alive = False
        self._done = False

    @property
    @override
    def keep_alive(self) -> bool:
        return self._keeps_alive

    @override
    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        writer = request.writer
        if self._done:
            return writer
        self._done = True
        version11 = request.version >= (1, 1)
        self._keeps_alive = request.keep_alive and not self._must_close and version11
        bodiless = request.method == "HEAD" or self._answer.status in _BODILESS
        if self._answer.stream is None:
            body = b"" if bodiless else self._answer.body
            # What HEAD would have got is known only of our own answers.
            untold = request.method == "HEAD" and not self._answer.body
            length = None if untold else len(self._answer.body)
            await writer.write(self._head(length=length) + body)
            return writer
        chunked = not self._sized and not bodiless and version11
        if not self._sized and not bodiless and not version11:
            self._keeps_alive = False  # HTTP/1.0: the end of the connection is the end of the body
        try:
            await writer.write(self._head(chunked=chunked))
            if chunked:
                writer.enable_chunking()
            if not bodiless:
                await _pass_on(self._answer.stream, request)
        finally:
            await close_stream(self._answer.stream)
        if chunked:
            await writer.write_eof()
        return writer

    @property
    def _sized(self) -> bool:
        return any(name.lower() == "content-length" for name, _ in self._answer.headers)

    def _head(self, *, length: int | None = None, chunked: bool = False) -> bytes:
        answer = self._answer
        lines = [f"HTTP/1.1 {answer.status} {answer.status_text}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        if length is not None and not self._sized and answer.status not in _BODILESS:
            lines.append(f"Content-Length: {length}")
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        if not self._keeps_alive:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @override
    async def write_eof(self, data: bytes = b"") -> None:
        return


async def _pass_on(stream: AsyncIterator[bytes], request: web.BaseRequest) -> None:
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
