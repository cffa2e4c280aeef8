"""What the wire tests need beside `raw.py`: sends, heads taken apart, servers that end a connection
before they read from it, and the deadlines that were handed to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from proxy.core.wire import Headers
from proxy.ports import Send
from tests.support.raw import RawConnection

# What a test waits for comes at once or never: this bounds a failure, and is no expectation.
PATIENCE = 10.0

# An answer that suits every method.
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"

T = TypeVar("T")


async def soon(what: Awaitable[T]) -> T:
    """Await what must come; a test that waits in vain fails instead of hanging."""
    async with asyncio.timeout(PATIENCE):
        return await what


@contextlib.asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run something beside the block; if the block fails, it is cancelled and not left behind."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    """Let the event loop run until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 -- what is waited for has no event of its own
            await asyncio.sleep(0)


async def settle() -> None:
    """Let the event loop see what has already happened on its sockets."""
    for _ in range(20):
        await asyncio.sleep(0)


async def no_barrier() -> None:
    """Bytes may leave at once."""


def a_send(  # noqa: PLR0913 -- everything a send says, by name
    method: str = "POST",
    target: str = "/v1/charges",
    headers: Headers = (),
    body: bytes = b"",
    *,
    stream: AsyncIterator[bytes] | None = None,
    whole: bool = True,
    fresh: bool = False,
    limit: int = 8 * 1024 * 1024,
    connect_timeout: float = PATIENCE,
    attempt_timeout: float = PATIENCE,
    before_bytes: Callable[[], Awaitable[None]] = no_barrier,
) -> Send:
    """A send, with what a test does not care about filled in."""
    return Send(
        method=method,
        target=target,
        headers=headers,
        body=body,
        stream=stream,
        answer_whole=whole,
        max_answer_bytes=limit,
        connect_timeout=connect_timeout,
        attempt_timeout=attempt_timeout,
        fresh_connection=fresh,
        before_bytes=before_bytes,
    )


# --- messages taken apart -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer as bytes: its first line, its header lines, what follows."""

    start: bytes
    lines: list[bytes]
    body: bytes

    def but(self, *names: bytes) -> list[bytes]:
        """The header lines in order, without those of these names (in lower case)."""
        return [line for line in self.lines if line.split(b":")[0].lower() not in names]

    def values(self, name: bytes) -> list[bytes]:
        """The values of a header (its name in lower case), in order."""
        pairs = [line.split(b":", 1) for line in self.lines]
        return [value.strip(b" ") for key, value in pairs if key.lower() == name]


def message(data: bytes) -> Message:
    """Take one message apart."""
    head, _, body = data.partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    return Message(start, lines, body)


def unchunked(data: bytes) -> bytes:
    """The bytes inside a chunked body; fails if its end is missing."""
    parts: list[bytes] = []
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            assert data == b"\r\n", data
            return b"".join(parts)
        parts.append(data[:length])
        assert data[length : length + 2] == b"\r\n", data
        data = data[length + 2 :]


# --- servers --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Swallowing:
    """A script that takes in everything until the other side ends it, and never answers."""

    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, connection: RawConnection) -> None:
        """Run for a connection."""
        self.accepted.set()
        try:
            await swallow(connection)
        finally:
            self.ended.set()


async def swallow(connection: RawConnection) -> None:
    """Take in what comes until the other side ends the connection."""
    while data := await connection.reader.read(65536):
        connection.received += data


class End(Enum):
    """How a connection ends."""

    RESET = "reset"
    FIN = "fin"


@dataclass(slots=True)
class EndingServer:
    """A server that answers requests on a connection and ends it exactly when a given one arrives.

    Plain sockets: asyncio's streams read by themselves, and here a request must stay unread.
    """

    end: End
    reads: bool  # whether it reads the request at which it ends the connection
    answered_before: int  # how many requests of its first connection it answers
    heads: int = 0  # request heads that arrived, over all connections
    connections: int = 0
    port: int = 0
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """Its address as a URL's origin."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, listener: socket.socket) -> None:
        """Accept for ever. Whoever comes back after the end of the first connection is answered:
        a second transmission would not even look like a failure.
        """
        loop = asyncio.get_running_loop()
        while True:
            taken, _ = await loop.sock_accept(listener)
            taken.setblocking(False)
            self._open.append(taken)
            self.connections += 1
            if self.connections > 1:
                await self._answer(taken)
                continue
            for _ in range(self.answered_before):
                await self._answer(taken)
            await self._end(taken)

    async def _answer(self, taken: socket.socket) -> None:
        await self._take(taken)
        await asyncio.get_running_loop().sock_sendall(taken, NO_CONTENT)

    async def _take(self, taken: socket.socket) -> None:
        data = await asyncio.get_running_loop().sock_recv(taken, 65536)
        self.heads += data.count(b" HTTP/1.1\r\n")

    async def _end(self, taken: socket.socket) -> None:
        await _readable(taken)
        if self.reads:
            await self._take(taken)
        else:
            self.heads += taken.recv(65536, socket.MSG_PEEK).count(b" HTTP/1.1\r\n")
        if self.end is End.RESET:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            taken.close()
        else:
            # Not `close`: with a request unread that would be a reset.
            taken.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close what is still open."""
        for taken in self._open:
            taken.close()


async def _readable(taken: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_reader(taken, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(taken)


@contextlib.asynccontextmanager
async def ending_server(
    end: End, *, reads: bool, answered_before: int
) -> AsyncIterator[EndingServer]:
    """A running `EndingServer`."""
    server = EndingServer(end, reads, answered_before)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        server.port = listener.getsockname()[1]
        async with meanwhile(server.serve(listener)):
            yield server
    server.close()


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose connections neither stand nor fail: nobody accepts, and its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address[1]


# --- time -----------------------------------------------------------------------------------------


class LoopTime:
    """The running loop's clock, which a test can put forward and whose timers it can read.

    The sockets stay real: only what waits for time is moved. (`looptime` is for tests without.)
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._ahead = 0.0
        self._loop = loop
        self.timers: list[float] = []  # seconds ahead, of every timer that was set
        real_time, real_call_at = loop.time, loop.call_at

        def call_at(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            self.timers.append(when - loop.time())
            return real_call_at(when, *args, **kwargs)

        monkeypatch.setattr(loop, "time", lambda: real_time() + self._ahead)
        # asyncio's `call_later` ends in `call_at`, so this sees both.
        monkeypatch.setattr(loop, "call_at", call_at)

    async def forward(self, seconds: float) -> None:
        """Let seconds pass at once; whatever is due by then has run when this returns.

        What happened on the sockets before is seen first.
        """
        await settle()
        self._ahead += seconds
        await settle()

    async def to_fraction(self, fraction: float) -> None:
        """Go on to where the clock shows this fraction of a second."""
        await self.forward(1 + fraction - self._loop.time() % 1)


@pytest_asyncio.fixture
async def loop_time(monkeypatch: pytest.MonkeyPatch) -> LoopTime:
    """The test's own loop's clock."""
    return LoopTime(monkeypatch)
