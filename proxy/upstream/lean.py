"""The hot path out: a request that is there whole and an answer that is read whole, over kept-alive
connections of our own. What streams, in or out, goes over aiohttp's client.

aiohttp's client costs several times as much, for things that a payment does not need. Its rules
hold here too (`client.py`): the intent before the first byte, never twice, bytes as they came, and
what is not certainly a whole answer is none. And one more:

Rule 5: nothing of one exchange reaches the next. A connection on which anything is still open, or
        anything came that nobody had asked for, is not used again.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path
from typing import cast

from aiohappyeyeballs import AddrInfoType, start_connection
from typing_extensions import override
from yarl import URL

from proxy.core.wire import WireFacts
from proxy.ports import Send
from proxy.upstream.bodies import PIECE
from proxy.upstream.client import KEEPALIVE_SECONDS, AiohttpUpstream
from proxy.upstream.faults import lost, reason_of
from proxy.upstream.reading import Answer
from proxy.upstream.writing import request_bytes

# As aiohttp's client does it, and on both event loops: a name is looked up again after this time,
# and its next address is tried beside the first when that has not answered by then.
_ADDRESSES_SECONDS = 10.0
_NEXT_ADDRESS_SECONDS = 0.25


class LeanUpstream:
    """One gateway."""

    def __init__(self, origin: str, *, ca_file: Path | None = None) -> None:
        self._streaming = AiohttpUpstream(origin, ca_file=ca_file)
        url = URL(origin)
        self._host, self._port = url.raw_host or "", url.port
        self._numeric = _is_address(self._host)
        self._authority = url.host_port_subcomponent or ""
        self._tls = _trusting(ca_file) if url.scheme == "https" else None
        self._addresses: list[AddrInfoType] = []
        self._addresses_until = 0.0
        self._open: set[_Connection] = set()
        self._idle: deque[_Connection] = deque()  # the longest idle first
        self._tidying: asyncio.TimerHandle | None = None
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        ends = [connection.end for connection in self._open]
        for connection in tuple(self._open):
            connection.abort()
        if ends:
            await asyncio.wait(ends)
        await self._streaming.close()

    async def send(self, send: Send) -> WireFacts:
        """Send once. Never raises but for cancellation, and then `send.sent` still says how far."""
        if send.stream is not None or not send.answer_whole:
            return await self._streaming.send(send)
        loop = asyncio.get_running_loop()  # asked once: it asks the system who we are
        answer = Answer(send, loop)
        limit = _Limit(send.attempt_timeout, loop)
        connection: _Connection | None = None
        try:
            request = request_bytes(send, self._authority)
            connection = self._kept(send) or await self._connected(send.connect_timeout)
            await send.before_bytes()
            send.sent = True
            connection.begin(request, answer)
            if len(request) > PIECE:
                await connection.write_rest(request, answer)
            facts = await answer.over
            if isinstance(facts, Exception):
                raise facts  # noqa: TRY301 -- ends as what is raised on the way here does
        except BaseException as error:
            if connection is not None:
                connection.abort()
            late = limit.passed() and isinstance(error, asyncio.CancelledError)
            fault = TimeoutError() if late else error
            if not isinstance(fault, Exception):
                raise
            return lost(send, reason_of(fault, send_started=send.sent), answer.status)
        limit.passed()
        if not connection.release() or not answer.keep or send.fresh_connection or self._closed:
            connection.abort()
        else:
            self._keep(connection, loop)
        return facts

    # --- connections ------------------------------------------------------------------------------

    def _kept(self, send: Send) -> _Connection | None:
        """A connection that is idle and as it was left, if there is one; the last used first."""
        while self._idle and not send.fresh_connection:
            connection = self._idle.pop()
            if not connection.stirred():
                return connection
            connection.abort()
        return None

    async def _connected(self, seconds: float) -> _Connection:
        async with asyncio.timeout(seconds):
            return await self._connect()

    async def _connect(self) -> _Connection:
        sock = await start_connection(
            await self._look_up(), happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS
        )
        _, connection = await asyncio.get_running_loop().create_connection(
            partial(_Connection, self._open),
            sock=sock,
            ssl=self._tls,
            server_hostname=self._host.rstrip(".") if self._tls else None,
        )
        if self._closed:  # meanwhile
            connection.abort()
            message = "the client is closed"
            raise RuntimeError(message)
        return connection

    async def _look_up(self) -> list[AddrInfoType]:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._addresses_until:
            self._addresses = list(await self._found(loop))
            self._addresses_until = loop.time() + _ADDRESSES_SECONDS
        return self._addresses

    async def _found(self, loop: asyncio.AbstractEventLoop) -> Sequence[AddrInfoType]:
        kind = socket.SOCK_STREAM
        if self._numeric:  # nothing to ask for, so no thread is needed, which may be busy
            flags = socket.AI_NUMERICHOST
            return socket.getaddrinfo(self._host, self._port, type=kind, flags=flags)
        flags = socket.AI_ADDRCONFIG
        return await loop.getaddrinfo(self._host, self._port, type=kind, flags=flags)

    def _keep(self, connection: _Connection, loop: asyncio.AbstractEventLoop) -> None:
        connection.idle_until = loop.time() + KEEPALIVE_SECONDS
        self._idle.append(connection)
        if self._tidying is None:
            self._tidying = loop.call_at(connection.idle_until, self._tidy)

    def _tidy(self) -> None:
        """Close what was idle for long enough, and come back for the next."""
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_until <= loop.time():
            self._idle.popleft().abort()
        self._tidying = None
        if self._idle:
            self._tidying = loop.call_at(self._idle[0].idle_until, self._tidy)


class _Limit:
    """The time for one send: what `asyncio.timeout` does, for a third of what that costs."""

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._task = cast("asyncio.Task[object]", asyncio.current_task(loop))  # a send runs in one
        self._cancelling = self._task.cancelling()
        self._fired = False
        self._timer = loop.call_later(seconds, self._fire)

    def _fire(self) -> None:
        self._fired = True
        self._task.cancel()

    def passed(self) -> bool:
        """End it. Whether the time was up, and nobody else wants the task to end."""
        self._timer.cancel()
        return self._fired and self._task.uncancel() <= self._cancelling


@cache  # the system's authorities take longer to read than all the rest of a start
def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


def _said(tls: ssl.SSLObject | None) -> bool:
    """Whether an end was meant: within TLS it is said, and not only that the line is cut."""
    try:
        return tls is None or not tls.read(1)
    except ssl.SSLError:
        return False


def _is_address(host: str) -> bool:
    """Of a family that this machine has on its loopback only, too: AI_ADDRCONFIG hides those."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class _Connection(asyncio.Protocol):
    """One connection, and the exchange that is on it."""

    def __init__(self, all_open: set[_Connection]) -> None:
        self._all_open = all_open
        self._answer: Answer | None = None
        self._room: asyncio.Future[None] | None = None  # comes when the transport takes more
        self.idle_until = 0.0
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, request: bytes, answer: Answer) -> None:
        """Write a request, in one piece if it is small; what comes from now on is its answer's."""
        if self._transport.is_closing():  # someone has spoken out of turn, or ended it
            raise ConnectionResetError
        self._answer = answer
        self._transport.write(request[:PIECE])

    async def write_rest(self, request: bytes, answer: Answer) -> None:
        """The rest of a large one as fast as it is taken, or until the answer."""
        for start in range(PIECE, len(request), PIECE):
            if self._room is not None:
                await asyncio.wait((self._room, answer.over), return_when=asyncio.FIRST_COMPLETED)
            if answer.over.done():
                answer.keep = False
                return
            self._transport.write(memoryview(request)[start : start + PIECE])

    def release(self) -> bool:
        """What comes from now on is nobody's. Whether nothing is left of the exchange."""
        self._answer = None
        transport = self._transport
        return not transport.is_closing() and not transport.get_write_buffer_size()

    def stirred(self) -> bool:
        """Whether something has come, be it the end, seen by the event loop or not yet."""
        return self._transport.is_closing() or bool(self._arrivals.poll(0))

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    # --- from the event loop ----------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._arrivals = select.poll()
        self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._all_open.add(self)

    @override
    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.over.done():
            self.abort()
        else:
            self._answer.feed(data)

    @override
    def eof_received(self) -> None:
        if self._answer is not None and _said(self._transport.get_extra_info("ssl_object")):
            self._answer.ended()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None:
            self._answer.cut()
        self._all_open.discard(self)
        self.end.set_result(None)

    @override
    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    @override
    def resume_writing(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None
