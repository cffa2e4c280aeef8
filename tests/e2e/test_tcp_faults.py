"""The fault relay does what it says: a tool that lies would make every test around it worthless."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.raw import OK, always, exchange, raw_server
from tests.support.running import free_port
from tests.support.tcp_faults import ANSWER_LOST, REFUSED, Fault, tcp_faults

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_everything_passes_by_default() -> None:
    """Bytes pass both ways, and are remembered."""
    async with raw_server(always()) as upstream, tcp_faults(upstream.port) as relay:
        assert await exchange(relay.port, ASK) == OK
        assert relay.requests == 1
        assert bytes(relay.connections[0].sent) == ASK
        assert bytes(relay.connections[0].given) == OK


async def test_faults_come_in_the_order_of_the_plan() -> None:
    """Refused, lost, and from then on clean; a lost answer was given, a refused one never asked."""
    async with (
        raw_server(always()) as upstream,
        tcp_faults(upstream.port, REFUSED, ANSWER_LOST) as relay,
    ):
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await exchange(relay.port, ASK)
        assert await exchange(relay.port, ASK) == OK
        assert [c.asked.is_set() for c in relay.connections] == [False, True, True]
        assert [c.answered.is_set() for c in relay.connections] == [False, True, True]
        assert [bytes(c.given) for c in relay.connections] == [b"", b"", OK]
        assert upstream.requests == 2


async def test_an_answer_is_cut_to_the_byte() -> None:
    """Exactly so many bytes come back, then RST."""
    async with (
        raw_server(always()) as upstream,
        tcp_faults(upstream.port, Fault(cut_after=20)) as relay,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(ASK)
        assert await reader.readexactly(20) == OK[:20]
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_an_answer_waits_for_its_event() -> None:
    """The other side has answered, and nothing of it comes back before the event."""
    gate = asyncio.Event()
    async with (
        raw_server(always()) as upstream,
        tcp_faults(upstream.port, Fault(hold_answer_until=gate)) as relay,
    ):
        asking = asyncio.ensure_future(exchange(relay.port, ASK))
        connection = await relay.connection(1)
        await connection.answered.wait()
        assert (bytes(connection.given), asking.done()) == (b"", False)
        gate.set()
        assert await asking == OK


async def test_a_connection_waits_before_it_is_passed_on() -> None:
    """Accepted, and the other side hears nothing before the event."""
    gate = asyncio.Event()
    async with (
        raw_server(always()) as upstream,
        tcp_faults(upstream.port, Fault(wait_for=gate, delay_answer=0.001)) as relay,
    ):
        asking = asyncio.ensure_future(exchange(relay.port, ASK))
        await relay.connection(1)
        assert upstream.connections == []
        gate.set()
        assert await asking == OK


async def test_a_connection_drops_when_it_is_told() -> None:
    """The request is out; then the connection is reset."""
    moment, never = asyncio.Event(), asyncio.Event()
    async with (
        raw_server(always()) as upstream,
        tcp_faults(upstream.port, Fault(drop_at=moment, hold_answer_until=never)) as relay,
    ):
        asking = asyncio.ensure_future(exchange(relay.port, ASK))
        await (await relay.connection(1)).answered.wait()
        moment.set()
        with pytest.raises(ConnectionResetError):
            await asking


async def test_nobody_behind_the_relay() -> None:
    """If the other side is gone, the connection ends without an answer."""
    async with tcp_faults(free_port()) as relay:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await exchange(relay.port, ASK)
