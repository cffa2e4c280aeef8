"""Bodies on their way through aiohttp's client, whole or as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp.streams import EMPTY_PAYLOAD

from proxy.upstream.faults import TooLarge

# aiohttp warns about a larger body that is handed over in one piece, so it goes in several.
PIECE = 1024 * 1024


class Upload:
    """A body that is passed on as it comes, and takes as long as its sender takes.

    What is timed is the gateway: how long it lets a chunk wait, and after the last one the answer.
    """

    def __init__(self, source: AsyncIterator[bytes], seconds: float) -> None:
        self._source = source
        self._seconds = seconds
        self.limit: asyncio.Timeout | None = None
        self.failed = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, for aiohttp to take."""
        try:
            async for chunk in self._source:
                self._due(self._seconds)
                yield chunk
                self._due(None)
        except Exception:
            self.failed = True
            raise
        self._due(self._seconds)

    def answered(self) -> None:
        """The answer has begun, perhaps before the body's end: from now on its own time counts."""
        self._due(self._seconds)
        self.limit = None

    def _due(self, seconds: float | None) -> None:
        if self.limit is not None and not self.limit.expired():
            now = asyncio.get_running_loop().time()
            self.limit.reschedule(None if seconds is None else now + seconds)


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """A body that is there, a piece at a time."""
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


async def read_whole(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body of an answer. Raises `TooLarge`, or aiohttp's own errors."""
    if response.content is EMPTY_PAYLOAD:  # HEAD: the length it tells is not that of a body
        return b""
    if (response.content_length or 0) > limit:
        raise TooLarge
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        parts.append(part)
        size += len(part)
        if size > limit:
            raise TooLarge
    _check_end(response)
    return b"".join(parts)


class Chunks:
    """An answer as it comes. Whoever lets go of it, begun or not, closes its connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._response.content.readany()
            if not chunk:
                _check_end(self._response)
        except BaseException:
            self._response.close()
            raise
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._response.close()


def _check_end(response: aiohttp.ClientResponse) -> None:
    """Raise if an answer that lasts as long as its connection was ended by a fault. aiohttp takes a
    reset for its end; only the connection itself still knows.
    """
    sized = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    if sized or response.content is EMPTY_PAYLOAD:
        return
    protocol = response._protocol  # noqa: SLF001 -- `connection` is None by now; the wire tests hold it
    if protocol is not None and isinstance(protocol.exception(), aiohttp.ClientOSError):
        raise aiohttp.ClientPayloadError
