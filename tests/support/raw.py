"""Raw sockets: an upstream that records every byte and misbehaves on command, and a client
likewise.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(slots=True)
class RawConnection:
    """One accepted connection: what came in, and how to answer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)

    async def request(self) -> bytes:
        """Read one whole request (head, and a body by Content-Length or chunked)."""
        start = len(self.received)
        head = await self._until(b"\r\n\r\n", start)
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            await self._until(b"0\r\n\r\n", start + len(head))
        elif b"content-length:" in lowered:
            length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
            while len(self.received) < start + len(head) + length:
                await self._more()
        return bytes(self.received[start:])

    async def _until(self, mark: bytes, start: int) -> bytes:
        while (end := self.received.find(mark, start)) < 0:
            await self._more()
        return bytes(self.received[start : end + len(mark)])

    async def _more(self) -> None:
        data = await self.reader.read(65536)
        if not data:
            raise ConnectionResetError
        self.received += data

    async def send(self, data: bytes) -> None:
        """Answer with exactly these bytes."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection with RST."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """End the connection with FIN."""
        self.writer.close()


Script = Callable[[RawConnection], Awaitable[None]]


@dataclass(slots=True)
class RawServer:
    """A TCP server whose every connection runs a script."""

    port: int
    connections: list[RawConnection]

    @property
    def requests(self) -> int:
        """How many request heads arrived, over all connections: what a double send would raise."""
        return sum(c.received.count(b" HTTP/1.1\r\n") for c in self.connections)

    @property
    def origin(self) -> str:
        """Its address as a URL's origin."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def raw_server(
    script: Script, context: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[RawServer]:
    """Run a script for every connection; errors of a script end its connection only."""
    connections: list[RawConnection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = RawConnection(reader, writer)
        connections.append(connection)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError, asyncio.TimeoutError):
                await script(connection)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", port, ssl=context)
    try:
        yield RawServer(server.sockets[0].getsockname()[1], connections)
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def answering(*answers: bytes) -> Script:
    """A script: read a request, give the next answer, on one connection until they run out."""

    async def script(connection: RawConnection) -> None:
        for answer in answers:
            await connection.request()
            await connection.send(answer)

    return script


def always(answer: bytes = OK) -> Script:
    """A script: the same answer to every request, for ever."""

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            await connection.send(answer)

    return script


async def exchange(port: int, data: bytes, *, until_closed: bool = False) -> bytes:
    """Send bytes, and return the answer's bytes (one answer, or all until the
    other side closes).
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        if until_closed:
            return await reader.read()
        return await read_answer(reader)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """One whole answer: head, and body by Content-Length, chunked, or to the end."""
    head = await reader.readuntil(b"\r\n\r\n")
    lowered = head.lower()
    if lowered.startswith(b"http/1.1 1"):
        return head + await read_answer(reader)
    if b"content-length:" in lowered:
        length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
        return head + await reader.readexactly(length)
    if b"transfer-encoding: chunked" in lowered:
        return head + await reader.readuntil(b"0\r\n\r\n")
    return head + await reader.read()
