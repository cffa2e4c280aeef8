"""A gateway's request as its connection hands it over: the head as the parser read it, and the body
that may still be arriving.

aiohttp's own request makes a URL, caches and more for every request, none of which is read here.
"""

from __future__ import annotations

import asyncio

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD


class GatewayRequest:
    """One request on a connection. What has the name of something in aiohttp's is the same."""

    __slots__ = ("_connection", "_writer", "content", "keep_alive", "message", "method", "version")

    def __init__(
        self, connection: web.RequestHandler, message: RawRequestMessage, content: StreamReader
    ) -> None:
        self._connection = connection
        self._writer: AbstractStreamWriter | None = None
        self.message = message
        self.content = content
        self.method: str = message.method
        self.version: tuple[int, int] = message.version
        self.keep_alive: bool = not message.should_close

    @property
    def transport(self) -> asyncio.Transport | None:
        """The way to the client, while there is one."""
        return self._connection.transport

    @property
    def writer(self) -> AbstractStreamWriter:
        """For what is not written in one piece."""
        if self._writer is None:
            self._writer = StreamWriter(self._connection, asyncio.get_running_loop())
        return self._writer

    def arrived(self) -> bytes | None:
        """Take the whole body if it is here already, as most are. To read it piece by piece would
        have aiohttp look for more of it.
        """
        content = self.content
        if content is EMPTY_PAYLOAD:
            return b""
        if not content.is_eof() or content.exception() is not None:
            return None
        pieces = content._buffer  # noqa: SLF001 -- it has no public way to take all there is
        body = b"".join(pieces)
        pieces.clear()
        return body

    @property
    def remote(self) -> str | None:
        """The client's address, for the log."""
        peer = self._connection.peername
        return str(peer[0]) if isinstance(peer, tuple) else peer

    def _cancel(self, error: BaseException) -> None:
        """The connection is lost, says aiohttp: whoever reads the body hears of it."""
        self.content.set_exception(error)

    def _finish(self) -> None:
        """It is answered, says aiohttp."""
