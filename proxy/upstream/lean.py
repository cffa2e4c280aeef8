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
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path
from typing import cast

from aiohappyeyeballs import AddrInfoType, start_connection
from yarl import URL

from proxy.core.wire import WireFacts
from proxy.ports import Send
from proxy.upstream.bodies import PIECE
from proxy.upstream.client import KEEPALIVE_SECONDS, AiohttpUpstream
from proxy.upstream.connection import Connection
from proxy.upstream.faults import lost, reason_of
from proxy.upstream.reading import Answer
from proxy.upstream.writing import request_bytes

# As aiohttp's client does it, and on both event loops: a name is looked up again after this time,
# and its next address is tried beside the first when that has not answered by then.
_ADDRESSES_SECONDS = 10.0
_NEXT_ADDRESS_SECONDS = 0.25
# How many late answers are waited for at once. A gateway that hangs may not take all the files.
_MOST_LATE = 500


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
        self._open: set[Connection] = set()
        self._idle: deque[Connection] = deque()  # the longest idle first
        self._late: dict[Connection, None] = {}  # that are listened on; the oldest first
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
        connection: Connection | None = None
        try:
            request = request_bytes(send, self._authority)
            connection = self._kept(send) or await self._connected(send.connect_timeout)
            await send.before_bytes()
            send.sent = True
            connection.begin(request, answer)
            if len(request) > PIECE:
                await connection.write_rest(request, answer)
            answer.awaited = True
            facts = await answer.over
            if isinstance(facts, Exception):
                raise facts  # noqa: TRY301 -- ends as what is raised on the way here does
        except BaseException as error:
            late = limit.passed() and isinstance(error, asyncio.CancelledError)
            if connection is not None:
                self._let_go(send, connection, answer, late=late)
            fault = TimeoutError() if late else error
            if not isinstance(fault, Exception):
                raise
            return (late and answer.in_hand()) or lost(
                send, reason_of(fault, send_started=send.sent), answer.status
            )
        limit.passed()
        if not connection.release() or not answer.keep or send.fresh_connection or self._closed:
            connection.abort()
        else:
            self._keep(connection, loop)
        return facts

    def _let_go(self, send: Send, connection: Connection, answer: Answer, *, late: bool) -> None:
        """Of a connection whose answer is not waited for any more. If it may still come, it is
        listened for: a charge is a charge, also late.
        """
        nothing_more = answer.in_hand() is not None or connection.end.done()
        if late and answer.awaited and send.late_seconds and not nothing_more:
            send.late = self._listen_on(send, connection, answer)
        else:
            connection.abort()

    def _listen_on(
        self, send: Send, connection: Connection, answer: Answer
    ) -> asyncio.Future[WireFacts]:
        loop = asyncio.get_running_loop()
        late: asyncio.Future[WireFacts] = loop.create_future()
        answer.over = loop.create_future()  # the one before ended with the wait for it
        enough = loop.call_later(send.late_seconds, connection.abort)

        def over(end: asyncio.Future[WireFacts | Exception]) -> None:
            enough.cancel()
            connection.abort()
            self._late.pop(connection, None)
            came = end.result()
            if isinstance(came, Exception):
                came = lost(send, reason_of(came, send_started=True), answer.status)
            if not late.done():  # who listened may have been stopped
                late.set_result(came)

        answer.over.add_done_callback(over)
        self._late[connection] = None
        if len(self._late) > _MOST_LATE:
            next(iter(self._late)).abort()
        return late

    # --- connections ------------------------------------------------------------------------------

    def _kept(self, send: Send) -> Connection | None:
        """A connection that is idle and as it was left, if there is one; the last used first."""
        while self._idle and not send.fresh_connection:
            connection = self._idle.pop()
            if not connection.stirred():
                return connection
            connection.abort()
        return None

    async def _connected(self, seconds: float) -> Connection:
        async with asyncio.timeout(seconds):
            return await self._connect()

    async def _connect(self) -> Connection:
        sock = await start_connection(
            await self._look_up(), happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS
        )
        _, connection = await asyncio.get_running_loop().create_connection(
            partial(Connection, self._open),
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

    def _keep(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
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


def _is_address(host: str) -> bool:
    """Of a family that this machine has on its loopback only, too: AI_ADDRCONFIG hides those."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
