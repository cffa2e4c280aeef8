"""What the lean client promises beside the wire suite: what an idle connection may have heard, how
a request is written, and that nothing of one exchange reaches another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.core.reasons import Reason
from proxy.core.wire import Phase, WireFacts
from proxy.upstream.bodies import PIECE
from proxy.upstream.connection import Connection
from proxy.upstream.lean import LeanUpstream
from proxy.upstream.writing import request_bytes
from tests.support.certificates import authority
from tests.support.raw import OK, RawConnection, always, raw_server
from tests.support.running import free_port
from tests.support.wire import (
    LoopTime,
    Swallowing,
    a_send,
    loop_time,
    meanwhile,
    message,
    settle,
    soon,
    swallow,
    until,
)

__all__ = ["loop_time"]  # a fixture, used by its name

TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nevil"
LOST = (True, Phase.AWAITING_RESPONSE, Reason.CONNECTION_LOST)


def seen(facts: WireFacts) -> tuple[bool, Phase, Reason | None]:
    """What the money rules read off a send."""
    return facts.sent, facts.phase, facts.reason


def own_socket(connection: RawConnection) -> socket.socket:
    """The server's end itself: what is done to it is done at once, past its event loop."""
    fileno = connection.writer.get_extra_info("socket").fileno()
    return socket.socket(fileno=os.dup(fileno))


def ends(connection: RawConnection) -> None:
    """The server ends the connection."""
    with own_socket(connection) as end:
        end.shutdown(socket.SHUT_WR)


def speaks(connection: RawConnection) -> None:
    """The server says something that nobody asked for."""
    with own_socket(connection) as end:
        end.sendall(TIMED_OUT)


@contextlib.asynccontextmanager
async def lean(origin: str, ca_file: Path | None = None) -> AsyncIterator[LeanUpstream]:
    """A client that is closed at the end."""
    upstream = LeanUpstream(origin, ca_file=ca_file)
    try:
        yield upstream
    finally:
        await upstream.close()


STIRRINGS = [ends, speaks]
Stirring = Callable[[RawConnection], None]


# --- idle connections -----------------------------------------------------------------------------


@pytest.mark.parametrize("stirs", STIRRINGS)
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "not yet noticed"])
async def test_an_idle_connection_that_stirred_is_not_used(stirs: Stirring, noticed: bool) -> None:
    """It ended or spoke while idle, seen by the event loop or not: the send takes another."""
    async with raw_server(always()) as server, lean(server.origin) as upstream:
        await soon(upstream.send(a_send()))
        stirs(server.connections[0])
        if noticed:
            await settle()
        facts = await soon(upstream.send(a_send()))

        assert (facts.status, facts.body) == (200, b"ok")
        assert (server.requests, len(server.connections)) == (2, 2)


@pytest.mark.parametrize("stirs", STIRRINGS)
async def test_what_comes_before_the_request_is_not_its_answer(stirs: Stirring) -> None:
    """It ended or spoke while the intent was recorded: not a byte goes there, and that is told."""
    async with raw_server(always()) as server, lean(server.origin) as upstream:
        await soon(upstream.send(a_send()))

        async def before_bytes() -> None:
            stirs(server.connections[0])
            await settle()

        facts = await soon(upstream.send(a_send(before_bytes=before_bytes)))

        assert seen(facts) == LOST
        assert (server.requests, len(server.connections)) == (1, 1)


async def test_the_connection_used_last_is_used_next() -> None:
    """So that those a burst left over can grow old."""
    gate = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            await gate.wait()
            await connection.send(OK)

    async with raw_server(script) as server, lean(server.origin) as upstream:
        async with meanwhile(upstream.send(a_send())), meanwhile(upstream.send(a_send())) as second:
            await until(lambda: server.requests == 2)
            gate.set()
            await soon(second)
        for _ in range(3):
            await soon(upstream.send(a_send()))

        counts = sorted(c.received.count(b" HTTP/1.1\r\n") for c in server.connections)
        assert counts == [1, 4]


async def test_a_fresh_connection_is_for_one_send_only() -> None:
    """It was nobody's before and is nobody's after, and the gateway is told."""
    async with raw_server(always()) as server, lean(server.origin) as upstream:
        for target, fresh in (("/1", False), ("/2", True), ("/3", False)):
            await soon(upstream.send(a_send(target=target, fresh=fresh)))
        kept, fresh_one = (bytes(connection.received) for connection in server.connections)

    assert re.findall(rb"/\d", kept.replace(b"HTTP/1.1", b"")) == [b"/1", b"/3"]
    assert message(fresh_one).start == b"POST /2 HTTP/1.1"
    assert message(fresh_one).values(b"connection") == [b"close"]
    assert b"Connection" not in kept


async def test_idle_connections_are_closed_in_time(loop_time: LoopTime) -> None:
    """Thirty seconds after its last exchange, and not thirty after its first."""
    ended = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        for _ in range(2):
            await connection.request()
            await connection.send(OK)
        await swallow(connection)
        ended.set()

    async with raw_server(script) as server, lean(server.origin) as upstream:
        await soon(upstream.send(a_send()))
        await loop_time.forward(20)
        await soon(upstream.send(a_send()))
        await loop_time.forward(29)
        assert not ended.is_set()
        await loop_time.forward(2)
        await soon(ended.wait())

        assert len(server.connections) == 1


# --- how a request is written ---------------------------------------------------------------------


class Writes:
    """Every write to a transport, and how much lay in it after each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.waiting: list[int] = []
        made = Connection.connection_made

        def watched(connection: Connection, transport: Any) -> None:
            made(connection, cast("Any", Watched(transport, self)))

        monkeypatch.setattr(Connection, "connection_made", watched)


class Watched:
    """A transport whose writes are counted, and that says what a test wants of what it holds."""

    waiting: int | None = None

    def __init__(self, transport: Any, writes: Writes) -> None:
        self._transport = transport
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, and keep count."""
        self._transport.write(data)
        self._writes.sizes.append(len(data))
        self._writes.waiting.append(self._transport.get_write_buffer_size())

    def get_write_buffer_size(self) -> int:
        """What lies in it."""
        size: int = self._transport.get_write_buffer_size()
        return size if self.waiting is None else self.waiting


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    """What every connection of the test writes."""
    return Writes(monkeypatch)


async def test_a_request_is_one_write(writes: Writes) -> None:
    """Head and body leave together: one system call, one packet."""
    async with raw_server(always()) as server, lean(server.origin) as upstream:
        for _ in range(2):
            await soon(upstream.send(a_send(headers=(("X-A", "1"),), body=b"amount=1" * 100)))

        assert len(writes.sizes) == 2
        assert sum(writes.sizes) == len(server.connections[0].received)


async def test_a_large_body_is_written_as_it_is_taken(writes: Writes) -> None:
    """A slow reader: never more than a piece waits in the transport, and all of it arrives."""
    body = bytes(range(256)) * 20_000
    asked = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked.wait()
        connection = RawConnection(reader, writer)
        received = message(await connection.request()).body
        await connection.send(OK if received == body else b"HTTP/1.1 400 No\r\n\r\n")
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with await asyncio.start_server(slowly, sock=listener):
            origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with (
                lean(origin) as upstream,
                meanwhile(upstream.send(a_send(body=body))) as sending,
            ):
                await until(lambda: writes.sizes)
                await settle()
                assert sum(writes.sizes) < len(body)
                asked.set()
                facts = await soon(sending)

    assert facts.status == 200
    assert max(writes.waiting) <= PIECE


@pytest.mark.parametrize("waiting", [None, 0], ids=["as it is", "just drained"])
async def test_an_answer_before_the_body_was_taken(
    monkeypatch: pytest.MonkeyPatch, writes: Writes, waiting: int | None
) -> None:
    """A gateway that refuses a large body unread is heard; what is left of it meets nobody."""
    if waiting is not None:
        monkeypatch.setattr(Watched, "waiting", waiting)
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

    async def script(connection: RawConnection) -> None:
        if len(server.connections) > 1:
            await always()(connection)
        connection.received += await connection.reader.readuntil(b"\r\n\r\n")
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await connection.send(refusal)
        await asyncio.get_running_loop().create_future()

    async with raw_server(script) as server, lean(server.origin) as upstream:
        refused = await soon(upstream.send(a_send(body=b"x" * 20 * PIECE)))
        facts = await soon(upstream.send(a_send()))

        assert (refused.status, refused.body) == (413, b"no")
        assert (facts.body, len(server.connections)) == (b"ok", 2)


async def test_an_answer_before_the_last_bytes_left(
    monkeypatch: pytest.MonkeyPatch, writes: Writes
) -> None:
    """As long as something of a request lies in the transport, no other is put behind it."""
    monkeypatch.setattr(Watched, "waiting", 1)
    async with raw_server(always()) as server, lean(server.origin) as upstream:
        for _ in range(2):
            assert (await soon(upstream.send(a_send()))).body == b"ok"

        assert len(server.connections) == 2


async def test_header_bytes_that_are_not_utf8_leave_as_they_came() -> None:
    """One character is one byte, whatever encoding it was meant in."""
    async with raw_server(always()) as server, lean(server.origin) as upstream:
        await soon(upstream.send(a_send(headers=(("X-Name", "Z\u00fcrich"),))))
        sent = message(bytes(server.connections[0].received))

    assert sent.values(b"x-name") == [b"Z\xfcrich"]


@pytest.mark.parametrize("bad", ["a\r\nX-B: b", "a\nX-B: b", "a\rb", "a\0b", "\u2713"])
async def test_a_header_that_is_no_line_is_not_sent(bad: str) -> None:
    """What would become two headers, or no bytes at all, becomes no request."""
    asked: list[str] = []

    async def before_bytes() -> None:
        asked.append("may I?")

    async with raw_server(always()) as server, lean(server.origin) as upstream:
        send = a_send(headers=(("X-A", bad),), before_bytes=before_bytes)
        facts = await soon(upstream.send(send))

        assert seen(facts) == (False, Phase.CONNECTING, Reason.INTERNAL_ERROR)
        assert (asked, server.connections) == ([], [])


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled", [False, True], ids=["alone", "with a cancellation"])
async def test_time_that_is_up_is_no_cancellation(cancelled: bool) -> None:
    """It ends the send and leaves nothing on its task; a cancellation beside it is still one."""
    left: list[int] = []

    async def sends() -> WireFacts:
        facts = await upstream.send(a_send(attempt_timeout=0.05))
        left.append(task.cancelling())
        return facts

    async with (
        raw_server(Swallowing()) as server,
        lean(server.origin) as upstream,
        meanwhile(sends()) as task,
    ):
        await until(lambda: server.requests)
        if cancelled:
            # Due in the same turn of the loop as the time-out, whichever is first.
            asyncio.get_running_loop().call_later(0.0, time.sleep, 0.1)
            asyncio.get_running_loop().call_later(0.05, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await soon(task)
        else:
            assert (await soon(task)).reason is Reason.ATTEMPT_TIMEOUT
        assert left == ([] if cancelled else [0])


# --- many at once ---------------------------------------------------------------------------------


async def test_two_hundred_at_once_have_their_own_answers() -> None:
    """Each hears its own name, though every fifth is cut short and connections are used again."""

    async def echo(connection: RawConnection) -> None:
        while True:
            name = re.findall(rb"/(\d+) ", await connection.request())[0]
            for _ in range(int(name) * 7 % 11):
                await asyncio.sleep(0)
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(name))
            await asyncio.sleep(0)
            await connection.send(name)

    async with raw_server(echo) as server, lean(server.origin) as upstream:

        async def one(number: int) -> None:
            for name in range(number, 2000, 200):
                work = upstream.send(a_send("GET", f"/{name}"))
                async with meanwhile(work) as sending:
                    if name % 5 == 0:
                        await settle()
                        sending.cancel()
                    else:
                        assert (await soon(sending)).body == str(name).encode()

        await asyncio.gather(*(one(number) for number in range(200)))

        assert 1600 <= server.requests <= 2000
        assert len(server.connections) <= 200 + 400


# --- closing --------------------------------------------------------------------------------------


async def test_closing_ends_what_is_under_way() -> None:
    """A send that waits for its answer is told that it is lost."""
    async with raw_server(Swallowing()) as server:
        upstream = LeanUpstream(server.origin)
        async with meanwhile(upstream.send(a_send())) as sending:
            await until(lambda: server.requests)
            await soon(upstream.close())
            assert seen(await soon(sending)) == LOST


async def test_closing_while_connecting() -> None:
    """A connection that comes to stand after the end is not used."""
    async with raw_server(Swallowing()) as server:
        upstream = LeanUpstream(server.origin)
        async with meanwhile(upstream.send(a_send())) as sending:
            await asyncio.sleep(0)
            await soon(upstream.close())
            facts = await soon(sending)

        assert not facts.sent
        assert server.requests == 0


async def test_a_closed_client_sends_nothing() -> None:
    """A closed client leaves no connection behind, and refuses to send."""
    async with raw_server(always()) as server:
        upstream = LeanUpstream(server.origin)
        await soon(upstream.send(a_send()))
        await upstream.close()
        assert await soon(server.connections[0].reader.read()) == b""
        facts = await soon(upstream.send(a_send()))

        assert not facts.sent
        assert server.requests == 1


# --- addresses and TLS ----------------------------------------------------------------------------


def found(upstream: LeanUpstream, *addresses: tuple[str, int]) -> None:
    """Let a client have found these addresses (held here privately: uvloop resolves by itself)."""
    upstream._addresses = [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
        for address in addresses
    ]
    upstream._addresses_until = float("inf")


async def test_a_name_with_a_dead_address() -> None:
    """The next address is tried."""
    async with raw_server(always()) as server:
        async with lean("http://gateway.example") as upstream:
            found(upstream, ("127.0.0.1", free_port()), ("127.0.0.1", server.port))
            facts = await soon(upstream.send(a_send()))
        sent = message(bytes(server.connections[0].received))

    assert facts.body == b"ok"
    assert sent.values(b"host") == [b"gateway.example"]


async def test_a_name_whose_addresses_all_refuse() -> None:
    """That is a refusal, and no vaguer failure."""
    async with lean("http://gateway.example") as upstream:
        found(upstream, ("127.0.0.1", free_port()), ("127.0.0.2", free_port()))
        facts = await soon(upstream.send(a_send()))

    assert seen(facts) == (False, Phase.CONNECTING, Reason.CONNECTION_REFUSED)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_the_host_as_it_is_written(host: str) -> None:
    """An address or a name, with a port that is not its scheme's own."""
    async with lean(f"http://{host}:8080") as upstream:
        line = request_bytes(a_send(), upstream._authority).split(b"\r\n")[1]

    assert line == f"Host: {host}:8080".encode()


@pytest.mark.parametrize("said", [True, False], ids=["said", "not said"])
async def test_an_end_that_tls_did_not_say_is_none(tmp_path: Path, said: bool) -> None:
    """Who cuts the line cannot make half an answer look whole: TLS says its end itself."""
    trusted = authority(tmp_path)

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        if said:
            connection.close()
        else:
            ends(connection)
        await asyncio.get_running_loop().create_future()

    async with raw_server(script, trusted.server()) as server:
        origin = server.origin.replace("http:", "https:")
        async with lean(origin, trusted.ca_file) as upstream:
            facts = await soon(upstream.send(a_send()))

    truncated = (True, Phase.READING_RESPONSE, Reason.ANSWER_TRUNCATED)
    assert seen(facts) == ((True, Phase.ANSWERED, None) if said else truncated)


# --- what comes too late --------------------------------------------------------------------------


@pytest.mark.parametrize("time_is_up_first", [False, True])
async def test_an_answer_that_comes_as_the_time_is_up_counts(time_is_up_first: bool) -> None:
    """A process that was paused finds both at once when it goes on: the answer is the truth."""
    connections: list[Connection] = []

    async def script(connection: RawConnection) -> None:
        await connection.request()
        loop = asyncio.get_running_loop()
        client = connections[0]
        loop.call_later(0.45 if time_is_up_first else 0.1, client.data_received, OK)
        loop.call_soon(time.sleep, 0.6)  # then all that is due is due in one turn
        await swallow(connection)

    async with raw_server(script) as server, lean(server.origin) as upstream:
        send = a_send(attempt_timeout=0.4)
        send.late_seconds = 120

        async def before_bytes() -> None:
            connections.extend(upstream._open)

        send.before_bytes = before_bytes
        facts = await soon(upstream.send(send))
    assert (seen(facts), facts.body) == ((True, Phase.ANSWERED, None), b"ok")


@pytest.mark.parametrize("cut", [False, True])
async def test_what_comes_too_late_is_heard(loop_time: LoopTime, cut: bool) -> None:
    """The attempt's time is up and its connection stays: what the gateway says then is told."""
    may_answer = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await may_answer.wait()
        if not cut:
            await connection.send(OK)
            await swallow(connection)

    async with raw_server(script) as server:
        upstream = LeanUpstream(server.origin)
        send = a_send(attempt_timeout=30)
        send.late_seconds = 120
        async with meanwhile(upstream.send(send)) as sending:
            await until(lambda: server.requests)
            await loop_time.forward(31)
            facts = await soon(sending)
        assert seen(facts) == (True, Phase.AWAITING_RESPONSE, Reason.ATTEMPT_TIMEOUT)
        assert send.late is not None
        may_answer.set()
        late = await soon(send.late)
        assert seen(late) == (LOST if cut else (True, Phase.ANSWERED, None))
        assert late.body == (b"" if cut else b"ok")
        await upstream.close()


async def test_nobody_listens_for_ever(loop_time: LoopTime) -> None:
    """A gateway that never says anything is let go of after `late_seconds`."""
    async with raw_server(swallow) as server:
        upstream = LeanUpstream(server.origin)
        send = a_send(attempt_timeout=30)
        send.late_seconds = 120
        async with meanwhile(upstream.send(send)) as sending:
            await until(lambda: server.requests)
            await loop_time.forward(31)
            await soon(sending)
        assert send.late is not None
        await settle()
        await loop_time.forward(121)
        assert seen(await soon(send.late)) == LOST
        await upstream.close()


async def test_a_gateway_that_hangs_does_not_take_all_the_files(
    loop_time: LoopTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many are listened on at once; the oldest goes first."""
    monkeypatch.setattr("proxy.upstream.lean._MOST_LATE", 2)

    async with raw_server(swallow) as server:
        upstream = LeanUpstream(server.origin)
        sends = [a_send(attempt_timeout=30 + n) for n in range(3)]
        for send in sends:
            send.late_seconds = 1000
        async with contextlib.AsyncExitStack() as under_way:
            waiting = [
                await under_way.enter_async_context(meanwhile(upstream.send(send)))
                for send in sends
            ]
            await until(lambda: server.requests == 3)
            for one in waiting:
                await loop_time.forward(31)
                await soon(one)
        first, *others = [send.late for send in sends]
        assert first is not None
        assert seen(await soon(first)) == LOST
        assert not any(cast("asyncio.Future[WireFacts]", late).done() for late in others)
        await upstream.close()
