"""A TCP relay that breaks connections on command, one fault per connection, in the order they come.

It knows bytes, not HTTP: what it does to a connection, a network can do. It stands between Holdfast
and a gateway, or between a backend and Holdfast.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one connection. With nothing set, everything passes."""

    refuse: bool = False  # RST before a byte is read
    wait_for: asyncio.Event | None = None  # nothing passes either way until then
    hold_answer_until: asyncio.Event | None = None  # what comes back waits
    delay_answer: float = 0.0  # seconds
    cut_after: int | None = None  # RST once so many bytes came back; 0: the whole answer is lost
    drop_at: asyncio.Event | None = None  # RST then, wherever the connection is


PASSES = Fault()
REFUSED = Fault(refuse=True)
ANSWER_LOST = Fault(cut_after=0)


@dataclass(slots=True)
class Relayed:
    """One connection: what its client sent and what it was given."""

    sent: bytearray = field(default_factory=bytearray)
    given: bytearray = field(default_factory=bytearray)
    asked: asyncio.Event = field(default_factory=asyncio.Event)  # the other side has a request
    answered: asyncio.Event = field(default_factory=asyncio.Event)  # it has begun to answer


class TcpFaults:
    """A relay to a port of 127.0.0.1."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.port = 0
        self.plan: deque[Fault] = deque()  # the next connections; after them, all pass
        self.connections: list[Relayed] = []
        self._opened = asyncio.Condition()

    @property
    def url(self) -> str:
        """Its address as an origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> int:
        """How many request heads were sent to it."""
        return sum(bytes(c.sent).count(b" HTTP/1.1\r\n") for c in self.connections)

    async def connection(self, number: int) -> Relayed:
        """The `number`-th connection (from 1), as soon as there is one."""
        async with self._opened:
            await self._opened.wait_for(lambda: len(self.connections) >= number)
        return self.connections[number - 1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        fault = self.plan.popleft() if self.plan else PASSES
        relayed = Relayed()
        async with self._opened:
            self.connections.append(relayed)
            self._opened.notify_all()
        if fault.refuse:
            _reset(writer)
            return
        if fault.wait_for is not None:
            await fault.wait_for.wait()
        there = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        ways = [
            asyncio.create_task(_ask(reader, there[1], relayed)),
            asyncio.create_task(_answer(there[0], writer, relayed, fault)),
        ]
        if fault.drop_at is not None:
            ways.append(asyncio.create_task(_drop(writer, fault.drop_at)))
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            there[1].close()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


async def _ask(
    reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, relayed: Relayed
) -> None:
    while data := await reader.read(65536):
        relayed.sent += data
        upstream.write(data)
        await upstream.drain()
        relayed.asked.set()


async def _answer(
    upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, relayed: Relayed, fault: Fault
) -> None:
    while data := await upstream.read(65536):
        relayed.answered.set()
        if fault.hold_answer_until is not None:
            await fault.hold_answer_until.wait()
        await asyncio.sleep(fault.delay_answer)
        if fault.cut_after is not None and len(relayed.given) + len(data) >= fault.cut_after:
            data = data[: fault.cut_after - len(relayed.given)]
            writer.write(data)
            relayed.given += data
            _reset(writer)
            return
        writer.write(data)
        relayed.given += data
        await writer.drain()


async def _drop(writer: asyncio.StreamWriter, moment: asyncio.Event) -> None:
    await moment.wait()
    _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End it with RST: linger on with time 0, and what was written before still leaves first."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def tcp_faults(upstream_port: int, *plan: Fault) -> AsyncIterator[TcpFaults]:
    """A relay in front of a port, with faults for its first connections."""
    relay = TcpFaults(upstream_port)
    relay.plan.extend(plan)
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await relay.serve(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
