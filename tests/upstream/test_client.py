"""What holds for aiohttp alone: the private switch that keeps it from sending twice, and controls
that show what the conformance suite would see without our settings.
"""

from __future__ import annotations

import aiohttp
import pytest

from proxy.core.reasons import Reason
from proxy.core.wire import Phase
from proxy.upstream.client import AiohttpUpstream
from tests.support.raw import always, raw_server
from tests.support.wire import End, LoopTime, a_send, ending_server, loop_time, soon

__all__ = ["loop_time"]  # a fixture, used by its name

REPEATED_BY_AIOHTTP = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
DYING = [(end, reads) for end in End for reads in (True, False)]


def _with_the_switch_on(upstream: AiohttpUpstream) -> None:
    upstream._reusing._retry_connection = True


@pytest.mark.parametrize("method", REPEATED_BY_AIOHTTP)
@pytest.mark.parametrize(("end", "reads"), DYING)
async def test_control_with_aiohttps_own_repeat_it_arrives_twice(
    method: str, end: End, reads: bool
) -> None:
    """Control: the switch on and the barrier off, the same dying connection costs a second send."""
    async with ending_server(end, reads=reads, answered_before=1) as server:
        upstream = AiohttpUpstream(server.origin)
        _with_the_switch_on(upstream)
        upstream._reusing._trace_configs.clear()  # and so `before_bytes` is not asked either
        try:
            await soon(upstream.send(a_send("GET")))
            facts = await soon(upstream.send(a_send(method)))
        finally:
            await upstream.close()

    assert facts.reason is None  # as if nothing had happened
    assert (server.heads, server.connections) == (3, 2)


@pytest.mark.parametrize("method", REPEATED_BY_AIOHTTP)
@pytest.mark.parametrize(("end", "reads"), DYING)
async def test_the_barrier_stops_a_second_transmission(method: str, end: End, reads: bool) -> None:
    """Should the switch ever be lost, one intent is still one send, and its loss is told."""
    asked = 0

    async def before_bytes() -> None:
        nonlocal asked
        asked += 1

    async with ending_server(end, reads=reads, answered_before=1) as server:
        upstream = AiohttpUpstream(server.origin)
        _with_the_switch_on(upstream)
        try:
            await soon(upstream.send(a_send("GET")))
            facts = await soon(upstream.send(a_send(method, before_bytes=before_bytes)))
        finally:
            await upstream.close()

    assert server.heads == 2
    assert asked == 1
    assert (facts.sent, facts.phase, facts.reason) == (
        True,
        Phase.AWAITING_RESPONSE,
        Reason.CONNECTION_LOST,
    )


async def test_control_aiohttp_rounds_time_outs_up(loop_time: LoopTime) -> None:
    """Control: with aiohttp's own threshold a time-out of 5.2 s is set for 5.9 s."""
    async with raw_server(always()) as server:
        await loop_time.to_fraction(0.1)
        timeout = aiohttp.ClientTimeout(total=None, connect=5.2)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(server.origin) as answer,
        ):
            assert await answer.read() == b"ok"
    rounded = [round(seconds, 1) for seconds in loop_time.timers if 5 < seconds < 7]

    assert rounded == [5.9]


async def test_control_aiohttp_adds_headers() -> None:
    """Control: without our settings a bare request is not bare."""
    async with raw_server(always()) as server:
        async with aiohttp.ClientSession() as http, http.post(server.origin, data=b"x") as answer:
            assert await answer.read() == b"ok"
        received = bytes(server.connections[0].received).lower()

    for name in (b"user-agent", b"accept", b"accept-encoding", b"content-type"):
        assert b"\r\n" + name + b":" in received


async def test_a_closed_client_sends_nothing() -> None:
    """A closed client leaves no connection behind, and refuses to send."""
    async with raw_server(always()) as server:
        upstream = AiohttpUpstream(server.origin)
        await soon(upstream.send(a_send()))
        await upstream.close()
        assert await soon(server.connections[0].reader.read()) == b""
        facts = await soon(upstream.send(a_send()))

    assert not facts.sent
    assert server.requests == 1
