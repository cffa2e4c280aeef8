"""A running Holdfast between a raw client and a raw gateway: what goes in comes out unchanged.

Real listeners and real sockets, nothing of aiohttp's test tools: those start servers with other
settings than production has.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.web import listeners
from proxy.web.requests import GatewayRequest
from proxy.web.responses import RawResponse
from tests.support.raw import (
    OK,
    RawConnection,
    RawServer,
    Script,
    always,
    exchange,
    raw_server,
    read_answer,
)
from tests.support.running import HoldfastProcess, Running, policy, running
from tests.support.wire import (
    End,
    LoopTime,
    Message,
    Swallowing,
    loop_time,
    message,
    settle,
    soon,
    swallow,
    unchunked,
    until,
)

__all__ = ["loop_time"]  # a fixture, used by its name

EVERY_BYTE = bytes(range(256)) * 3
GZIPPED = gzip.compress(b"amount=1999&currency=eur" * 20, mtime=0)
HEAD = b"POST /v1/charges HTTP/1.1\r\nHost: shop.internal:8080\r\n"


@contextlib.asynccontextmanager
async def between(
    folder: Path, script: Script | bytes, more: str = "", *, profile: str = "generic"
) -> AsyncIterator[tuple[Running, RawServer]]:
    """A Holdfast in front of a raw gateway that does what a script says, or always answers this.

    With the generic profile a POST moves money and is read whole; everything else streams.
    """
    play = always(script) if isinstance(script, bytes) else script
    async with raw_server(play) as gateway:
        text = policy(gateway.origin, more, profile=profile, store="memory://")
        async with running(folder, text) as holdfast:
            yield holdfast, gateway


@contextlib.asynccontextmanager
async def connected(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def received(gateway: RawServer, number: int = 0) -> Message:
    """What the gateway was sent on one of its connections."""
    return message(bytes(gateway.connections[number].received))


# --- requests -------------------------------------------------------------------------------------

SENT_LINES = (
    b"x-LOWER-and-UPPER: 1\r\n"
    b"Authorization: Bearer sk_test_wire\r\n"
    b"Connection: keep-alive, X-Hop ,x-private\r\n"
    b"X-Hop: for this hop\r\n"
    b"X-PRIVATE: for this hop\r\n"
    b"Keep-Alive: timeout=5\r\n"
    b"Proxy-Connection: keep-alive\r\n"
    b"TE: trailers\r\n"
    b"Trailer: X-Sum\r\n"
    b"Upgrade: h2c\r\n"
    b"Proxy-Authorization: Basic c2VjcmV0\r\n"
    b"Idempotency-Key: k-1\r\n"
    b"X-Payment-Order-Id: order-1\r\n"
    b"X-Payment-User-Id: user-1\r\n"
    b"x-holdfast-token: secret\r\n"
    b"Via: 1.0 fred\r\n"
    b"X-Twice: a\r\n"
    b"Accept-Encoding: gzip\r\n"
    b"x-twice: b\r\n"
    b"Content-Encoding: gzip\r\n"
    b"X-Utf8: Z\xc3\xbcrich\r\n"
    b"X-Empty:\r\n"
    b"X-Forwarded-For: 192.0.2.1\r\n"
    b"VIA: 1.1 example.com (Apache)\r\n"
    b"Cookie: a=1; b=2\r\n"
)
FORWARDED_LINES = [
    b"x-LOWER-and-UPPER: 1",
    b"Authorization: Bearer sk_test_wire",
    b"Idempotency-Key: k-1",
    b"Via: 1.0 fred",
    b"X-Twice: a",
    b"Accept-Encoding: gzip",
    b"X-Twice: b",
    b"Content-Encoding: gzip",
    b"X-Utf8: Z\xc3\xbcrich",
    b"X-Empty: ",
    b"X-Forwarded-For: 192.0.2.1",
    b"Via: 1.1 example.com (Apache)",
    b"Cookie: a=1; b=2",
]


@pytest.mark.parametrize("method", [b"POST", b"PUT"], ids=["durable", "streamed"])
@pytest.mark.parametrize("sized", [True, False], ids=["by length", "chunked"])
async def test_requests_arrive_as_they_were_sent(
    tmp_path: Path, method: bytes, sized: bool
) -> None:
    """Target, headers and body are the caller's; gone is only what is for this hop or for us."""
    target = b"/v1//%7Echarges/%2F/../x;y?a=%41&b=&&c=d+e?f"
    framing = (
        b"Content-Length: %d\r\n" % len(GZIPPED) if sized else b"Transfer-Encoding: chunked\r\n"
    )
    body = (
        GZIPPED
        if sized
        else b"5;ext=1\r\n%b\r\n%x\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n"
        % (
            GZIPPED[:5],
            len(GZIPPED) - 5,
            GZIPPED[5:],
        )
    )
    async with between(tmp_path, OK) as (holdfast, gateway):
        head = method + b" " + target + b" HTTP/1.1\r\nhost: shop.internal:8080\r\n" + SENT_LINES
        answer = await soon(exchange(holdfast.port, head + framing + b"\r\n" + body))
        sent = received(gateway)

        assert message(answer).start == b"HTTP/1.1 200 OK"
        assert sent.start == method + b" " + target + b" HTTP/1.1"
        assert sent.values(b"host") == [f"127.0.0.1:{gateway.port}".encode()]
        *lines, via = sent.but(b"host", b"content-length", b"transfer-encoding", b"connection")
        assert lines == FORWARDED_LINES
        assert re.fullmatch(rb"Via: 1\.1 holdfast-[0-9a-f]{8}", via)
        if sized or method == b"POST":  # what was read whole has a length
            assert sent.values(b"content-length") == [str(len(GZIPPED)).encode()]
            assert sent.values(b"transfer-encoding") == []
            assert sent.body == GZIPPED
        else:
            assert sent.values(b"content-length") == []
            assert sent.values(b"transfer-encoding") == [b"chunked"]
            assert unchunked(sent.body) == GZIPPED
        assert gateway.requests == 1


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"OPTIONS", b"PUT", b"PATCH", b"POST"])
@pytest.mark.parametrize("framing", [b"", b"Content-Length: 0\r\n"], ids=["bare", "length 0"])
async def test_requests_without_a_body_stay_without_one(
    tmp_path: Path, method: bytes, framing: bytes
) -> None:
    """No body is not an empty chunked body: some gateways would refuse that."""
    async with between(tmp_path, OK) as (holdfast, gateway):
        start = method + b" /v1/x HTTP/1.1\r\nHost: a\r\n"
        answer = await soon(exchange(holdfast.port, start + framing + b"\r\n"))
        sent = received(gateway)

        assert message(answer).body == b"ok"
        assert sent.values(b"transfer-encoding") == []
        assert sent.values(b"content-length") in ([], [b"0"])
        names = sent.but(b"host", b"via", b"content-length", b"connection", b"idempotency-key")
        assert names == []


async def test_the_gateway_key_is_added_if_there_is_none(tmp_path: Path) -> None:
    """A payment without a key gets one in the gateway's own header, and nothing else changes."""
    async with between(tmp_path, OK) as (holdfast, gateway):
        await soon(exchange(holdfast.port, HEAD + b"Content-Length: 1\r\n\r\n1"))
        keys = received(gateway).values(b"idempotency-key")

        assert len(keys) == 1
        assert re.fullmatch(rb"[0-9a-f]{32}", keys[0])


async def test_large_heads_pass(tmp_path: Path) -> None:
    """A header of 16 KB, a target of 8 KB and 128 headers are not too much."""
    target = b"/" + b"t" * 8_100
    lines = [b"X-Long: " + b"x" * 16_000, *[b"X-%d: 1" % number for number in range(126)]]
    async with between(tmp_path, OK) as (holdfast, gateway):
        head = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"
        answer = await soon(exchange(holdfast.port, head))

        assert message(answer).body == b"ok"
        assert received(gateway).start == b"GET " + target + b" HTTP/1.1"
        assert received(gateway).but(b"host", b"via") == lines


async def test_a_declined_change_of_protocol(tmp_path: Path) -> None:
    """`Upgrade: websocket` is for this hop and not taken up: the request is one like any other."""
    async with between(tmp_path, OK) as (holdfast, gateway):
        upgrade = (
            b"GET /v1/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        plain = b"GET /v1/next HTTP/1.1\r\nHost: a\r\n\r\n"
        async with connected(holdfast.port) as (reader, writer):
            writer.write(upgrade + plain)
            first = await soon(read_answer(reader))
            second = await soon(read_answer(reader))

        assert [message(first).body, message(second).body] == [b"ok", b"ok"]
        taken = bytes(gateway.connections[0].received)
        assert b"\r\nUpgrade:" not in taken
        assert b"Sec-WebSocket-Version: 13\r\n" in taken
        assert gateway.requests == 2


async def test_http_1_0(tmp_path: Path) -> None:
    """An old client needs no Host, gets no chunks, and its answer ends with the connection."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        chunks = b"4\r\n1111\r\n4\r\n2222\r\n0\r\n\r\n"
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)

    async with between(tmp_path, script) as (holdfast, gateway):
        request = b"GET /v1/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        answer = message(await soon(exchange(holdfast.port, request, until_closed=True)))

        assert answer.start == b"HTTP/1.1 200 OK"
        assert answer.values(b"connection") == [b"close"]
        assert answer.values(b"transfer-encoding") == []
        assert answer.body == b"11112222"
        assert received(gateway).start == b"GET /v1/x HTTP/1.1"


async def test_http_1_0_payment(tmp_path: Path) -> None:
    """The same for a payment: it is read whole, so its length is known."""
    async with between(tmp_path, OK) as (holdfast, _):
        request = b"POST /v1/charges HTTP/1.0\r\nContent-Length: 1\r\n\r\n1"
        answer = message(await soon(exchange(holdfast.port, request, until_closed=True)))

        assert answer.values(b"connection") == [b"close"]
        assert answer.values(b"content-length") == [b"2"]
        assert answer.body == b"ok"


async def test_a_connection_carries_many_payments(tmp_path: Path) -> None:
    """A backend's connection is kept, and each payment on it is one of its own."""
    async with (
        between(tmp_path, OK) as (holdfast, gateway),
        connected(holdfast.port) as (reader, writer),
    ):
        sessions = set()
        for number in range(5):
            writer.write(HEAD + b"Content-Length: 1\r\n\r\n%d" % number)
            answer = message(await soon(read_answer(reader)))
            assert answer.body == b"ok"
            assert answer.values(b"connection") == []
            sessions.add(answer.values(b"x-payment-session-id")[0])

        assert len(sessions) == 5
        assert gateway.requests == 5


@pytest.mark.parametrize("method", [b"POST", b"GET"], ids=["durable", "streamed"])
async def test_pipelined_requests_are_answered_in_order(tmp_path: Path, method: bytes) -> None:
    """Requests sent in one go are answered one after the other."""

    async def echo(connection: RawConnection) -> None:
        while True:
            path = (await connection.request()).split(b" ")[1]
            await connection.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path
            )

    async with (
        between(tmp_path, echo) as (holdfast, gateway),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(
            b"".join(
                method + b" /v1/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % number
                for number in range(40)
            )
        )
        answers = [message(await soon(read_answer(reader))).body for _ in range(40)]

        assert answers == [b"/v1/%d" % number for number in range(40)]
        assert gateway.requests == 40


# --- what is refused ------------------------------------------------------------------------------


def refused_code(answer: bytes) -> str:
    """The code of one of our refusals; the parser's own 400 has none."""
    document = json.loads(message(answer).body)
    kind: str = document["type"]
    assert document["anythingSent"] is False
    return kind.removeprefix("/problems/")


BODY = b"Content-Length: 1\r\n\r\n1"
BY_THE_PARSER: dict[str, bytes] = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n12",
    "two equal lengths": HEAD + b"Content-Length: 1\r\n" + BODY,
    "a list of lengths": HEAD + b"Content-Length: 1, 1\r\n\r\n1",
    "a signed length": HEAD + b"Content-Length: +1\r\n\r\n1",
    "a length in hex": HEAD + b"Content-Length: 0x1\r\n\r\n1",
    "a huge length": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n1",
    "an empty length": HEAD + b"Content-Length:\r\n\r\n1",
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, then gzip": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "codings on two lines": (
        HEAD + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "no Host": b"POST /v1/charges HTTP/1.1\r\n" + BODY,
    "two Hosts": HEAD + b"Host: evil.example\r\n" + BODY,
    "a folded header": HEAD + b"X-A: 1\r\n 2\r\n" + BODY,
    "a folded first header": b"POST / HTTP/1.1\r\n Host: a\r\n" + BODY,
    "a bare LF after a header": HEAD + b"X-A: 1\nX-B: 2\r\n" + BODY,
    "bare LFs only": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 1\n\n1",
    "a bare CR in a value": HEAD + b"X-A: 1\rX-B: 2\r\n" + BODY,
    "a NUL in a value": HEAD + b"X-A: 1\x002\r\n" + BODY,
    "a control character in a value": HEAD + b"X-A: 1\x012\r\n" + BODY,
    "DEL in a value": HEAD + b"X-A: 1\x7f2\r\n" + BODY,
    "a space before the colon": HEAD + b"X-A : 1\r\n" + BODY,
    "a space in a name": HEAD + b"X A: 1\r\n" + BODY,
    "a name that is not ASCII": HEAD + b"X-\xc3\xa9: 1\r\n" + BODY,
    "no name": HEAD + b": 1\r\n" + BODY,
    "a line without a colon": HEAD + b"X-A\r\n" + BODY,
    "an unknown method": b"PAY /v1/charges HTTP/1.1\r\nHost: a\r\n" + BODY,
    "a method in small letters": b"post /v1/charges HTTP/1.1\r\nHost: a\r\n" + BODY,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": b"POST /v1/charges HTTP/1.2\r\nHost: a\r\n" + BODY,
    "a target that is not ASCII": b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab in the target": b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "no slash": b"GET v1/charges HTTP/1.1\r\nHost: a\r\n\r\n",
    "an asterisk": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "129 headers": HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(127)) + BODY,
    "an oversized header": HEAD + b"X-A: " + b"x" * 17_000 + b"\r\n" + BODY,
    "an oversized name": HEAD + b"X" * 17_000 + b": 1\r\n" + BODY,
    "an oversized target": b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("request_bytes", BY_THE_PARSER.values(), ids=BY_THE_PARSER)
async def test_what_cannot_be_read_in_one_way_is_refused(
    tmp_path: Path, request_bytes: bytes
) -> None:
    """A request that two readers could read differently gets 400 and its connection's end."""
    async with between(tmp_path, OK) as (holdfast, gateway):
        answer = await soon(exchange(holdfast.port, request_bytes, until_closed=True))

        assert message(answer).start == b"HTTP/1.1 400 Bad Request"
        assert json.loads(message(answer).body)["type"] == "/problems/malformed-request"
        assert gateway.connections == []


BY_US: dict[str, tuple[bytes, bytes, str]] = {
    "gzip, then chunked": (
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"400",
        "ambiguous-framing",
    ),
    "no version": (b"GET /v1/charges\r\n\r\n", b"400", "ambiguous-framing"),
    "chunks in HTTP/1.0": (
        b"POST /v1/charges HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"400",
        "ambiguous-framing",
    ),
    "two keys": (
        HEAD + b"Idempotency-Key: k-1\r\nidempotency-key: k-2\r\n" + BODY,
        b"400",
        "duplicate-header",
    ),
    "the same key twice": (
        HEAD + b"Idempotency-Key: k-1\r\nIdempotency-Key: k-1\r\n" + BODY,
        b"400",
        "duplicate-header",
    ),
    "two orders": (
        HEAD + b"X-Payment-Order-Id: 1\r\nX-Payment-Order-Id: 2\r\n" + BODY,
        b"400",
        "duplicate-header",
    ),
    "an empty key": (HEAD + b"Idempotency-Key:\r\n" + BODY, b"400", "idempotency-key-invalid"),
    "a key for this hop only": (
        HEAD + b"Idempotency-Key: k-1\r\nConnection: Idempotency-Key\r\n" + BODY,
        b"400",
        "idempotency-key-invalid",
    ),
    "a key with a space": (
        HEAD + b"Idempotency-Key: k 1\r\n" + BODY,
        b"400",
        "idempotency-key-invalid",
    ),
    "an order with a space": (
        HEAD + b"X-Payment-Order-Id: 1 2\r\n" + BODY,
        b"400",
        "header-invalid",
    ),
    "a value that is not UTF-8": (
        HEAD + b"X-A: Z\xfcrich\r\n" + BODY,
        b"400",
        "bytes-not-forwardable",
    ),
    "a hop's value that is not UTF-8": (
        HEAD + b"TE: \xff\r\n" + BODY,
        b"400",
        "bytes-not-forwardable",
    ),
    "another host": (
        b"POST http://evil.example/v1/charges HTTP/1.1\r\nHost: a\r\n" + BODY,
        b"400",
        "target-not-forwardable",
    ),
    "its own host": (
        b"POST http://a/v1/charges HTTP/1.1\r\nHost: a\r\n" + BODY,
        b"400",
        "target-not-forwardable",
    ),
    "a fragment": (b"GET /v1/x#y HTTP/1.1\r\nHost: a\r\n\r\n", b"400", "target-not-forwardable"),
    "an empty fragment": (
        b"GET /v1/x# HTTP/1.1\r\nHost: a\r\n\r\n",
        b"400",
        "target-not-forwardable",
    ),
    "an empty query": (
        b"GET /v1/x? HTTP/1.1\r\nHost: a\r\n\r\n",
        b"400",
        "target-not-forwardable",
    ),
    "OPTIONS of all": (
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"400",
        "target-not-forwardable",
    ),
    "CONNECT": (
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        b"405",
        "method-not-forwardable",
    ),
    "an unknown expectation": (
        HEAD + b"Expect: 200-ok\r\n" + BODY,
        b"417",
        "expectation-unknown",
    ),
    "an unknown session": (
        HEAD + b"X-Payment-Session-Id: ps_nobody\r\n" + BODY,
        b"404",
        "session-unknown",
    ),
}


@pytest.mark.parametrize(("request_bytes", "status", "code"), BY_US.values(), ids=BY_US)
async def test_what_cannot_be_forwarded_unchanged_is_refused(
    tmp_path: Path, request_bytes: bytes, status: bytes, code: str
) -> None:
    """What the parser lets through and we do not: a clear no that says why, and nothing is sent."""
    async with between(tmp_path, OK) as (holdfast, gateway):
        answer = await soon(exchange(holdfast.port, request_bytes))

        assert message(answer).start.split(b" ")[1] == status
        assert refused_code(answer) == code
        assert message(answer).values(b"content-type") == [b"application/problem+json"]
        assert message(answer).values(b"proxy-status")[0].startswith(b"holdfast; error=")
        assert gateway.connections == []


async def test_who_wants_a_tunnel_hears_what_goes_through(tmp_path: Path) -> None:
    """A 405 names the methods that are forwarded, and CONNECT is not one of them."""
    async with between(tmp_path, OK) as (holdfast, _):
        request = b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n"
        answer = message(await soon(exchange(holdfast.port, request)))
        assert answer.values(b"allow") == [b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"]


@pytest.mark.parametrize("form", ["1.1 {}", "HTTP/1.1 {}", "1.0 fred, 1.1 {} (comment), 1.1 joe"])
async def test_its_own_name_in_via_is_a_loop(tmp_path: Path, form: str) -> None:
    """A request that has passed here before is not passed on again."""
    async with between(tmp_path, OK) as (holdfast, gateway):
        await soon(exchange(holdfast.port, HEAD + BODY))
        own = received(gateway).values(b"via")[0].decode().split(" ")[1]
        via = f"Via: {form.format(own)}\r\n".encode()
        answer = await soon(exchange(holdfast.port, HEAD + via + BODY))

        assert message(answer).start == b"HTTP/1.1 400 Bad Request"
        assert refused_code(answer) == "proxy-loop"
        assert message(answer).values(b"proxy-status") == [b"holdfast; error=proxy_loop_detected"]
        assert gateway.requests == 1


async def test_a_refusal_ends_the_connection(tmp_path: Path) -> None:
    """What stands behind a refused request is not taken for a request."""
    async with between(tmp_path, OK) as (holdfast, gateway):
        smuggled = b"POST /v1/refunds HTTP/1.1\r\nHost: a\r\n" + BODY
        bad = HEAD + b"Expect: 200-ok\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
        answers = await soon(exchange(holdfast.port, bad + smuggled, until_closed=True))

        assert answers.count(b"HTTP/1.1 ") == 1
        assert message(answers).values(b"connection") == [b"close"]
        assert gateway.connections == []


BROKEN_CHUNKS = {
    "no number": b"zz\r\n1\r\n0\r\n\r\n",
    "negative": b"-1\r\n1\r\n0\r\n\r\n",
    "too long a size": b"fffffffffffffffff\r\n1\r\n0\r\n\r\n",
    "more than its size": b"1\r\n12\r\n0\r\n\r\n",
    "a bare LF": b"1\n1\r\n0\r\n\r\n",
    "a line feed in an extension": b"1;a\nb\r\n1\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("chunks", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
@pytest.mark.parametrize("begun", [False, True], ids=["at once", "later"])
async def test_broken_chunks_of_a_payment(tmp_path: Path, chunks: bytes, begun: bool) -> None:
    """A payment whose chunks cannot be read is answered with 400, and nothing is sent."""
    async with (
        between(tmp_path, OK) as (holdfast, gateway),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        if begun:
            writer.write(b"4\r\nlots\r\n")
            await settle()
        writer.write(chunks)
        answer = await soon(reader.read())

        assert message(answer).start.split(b" ")[1] == b"400"
        assert gateway.connections == []


@pytest.mark.parametrize("chunks", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
async def test_broken_chunks_of_an_upload(tmp_path: Path, chunks: bytes) -> None:
    """An upload whose chunks cannot be read ends for both sides, and never looks complete."""
    swallowing = Swallowing()
    async with (
        between(tmp_path, swallowing) as (holdfast, gateway),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(b"PUT /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"4\r\nlots\r\n")
        await until(lambda: gateway.connections and b"lots" in gateway.connections[0].received)
        writer.write(chunks)
        await soon(swallowing.ended.wait())

        assert received(gateway).body.startswith(b"4\r\nlots\r\n")
        assert not received(gateway).body.endswith(b"0\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert (await soon(reader.read()))[:12] in (b"", b"HTTP/1.1 502", b"HTTP/1.1 400")


# --- bodies ---------------------------------------------------------------------------------------

SMALL = "defaults: {max_body: 64KiB}\n"


@pytest.mark.parametrize("expects", [True, False], ids=["expect", "no expect"])
async def test_a_payment_over_the_limit_by_length(tmp_path: Path, expects: bool) -> None:
    """Its length is enough for a 413: nobody is asked to send it first."""
    expect = b"Expect: 100-continue\r\n" if expects else b""
    async with between(tmp_path, OK, SMALL) as (holdfast, gateway):
        request = HEAD + expect + b"Content-Length: 65537\r\n\r\n"
        async with connected(holdfast.port) as (reader, writer):
            writer.write(request)
            answer = await soon(read_answer(reader))

        assert message(answer).start.startswith(b"HTTP/1.1 413 ")
        assert refused_code(answer) == "body-too-large"
        assert message(answer).values(b"connection") == [b"close"]
        assert gateway.connections == []


async def test_a_payment_over_the_limit_in_chunks(tmp_path: Path) -> None:
    """Without a length it is refused as soon as it is too long, before its end."""
    async with (
        between(tmp_path, OK, SMALL) as (holdfast, gateway),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n10001\r\n" + b"x" * 65537 + b"\r\n")
        answer = await soon(read_answer(reader))

        assert refused_code(answer) == "body-too-large"
        assert gateway.connections == []


@pytest.mark.parametrize("sized", [True, False], ids=["by length", "chunked"])
async def test_a_payment_of_exactly_the_limit(tmp_path: Path, sized: bool) -> None:
    """The limit itself is allowed."""
    body = b"x" * 65536
    framing = b"Content-Length: 65536\r\n\r\n" if sized else b"Transfer-Encoding: chunked\r\n\r\n"
    async with between(tmp_path, OK, SMALL) as (holdfast, gateway):
        data = body if sized else b"10000\r\n" + body + b"\r\n0\r\n\r\n"
        answer = await soon(exchange(holdfast.port, HEAD + framing + data))

        assert message(answer).body == b"ok"
        assert received(gateway).body == body


@pytest.mark.parametrize("method", [b"POST", b"PUT"], ids=["durable", "streamed"])
@pytest.mark.parametrize("sized", [True, False], ids=["by length", "chunked"])
async def test_expect_continue(tmp_path: Path, method: bytes, sized: bool) -> None:
    """The client waits for 100, gets it once, sends, and gets the answer; the gateway sees none."""
    framing = b"Content-Length: 4\r\n" if sized else b"Transfer-Encoding: chunked\r\n"
    async with (
        between(tmp_path, OK) as (holdfast, gateway),
        connected(holdfast.port) as (reader, writer),
    ):
        for _ in range(2):
            writer.write(
                method + b" /v1/x HTTP/1.1\r\nHost: a\r\nEXPECT: 100-Continue\r\n" + framing
            )
            writer.write(b"\r\n")
            interim = await soon(reader.readuntil(b"\r\n\r\n"))
            assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"

            writer.write(b"body" if sized else b"4\r\nbody\r\n0\r\n\r\n")
            answer = await soon(read_answer(reader))
            assert message(answer).start == b"HTTP/1.1 200 OK"
            assert message(answer).body == b"ok"

        assert gateway.requests == 2
        for connection in gateway.connections:
            assert b"expect" not in bytes(connection.received).lower()


async def test_expect_without_a_body(tmp_path: Path) -> None:
    """An expectation without a body to wait for is answered at once."""
    async with between(tmp_path, OK) as (holdfast, gateway):
        answer = await soon(exchange(holdfast.port, HEAD + b"Expect: 100-continue\r\n\r\n"))

        assert message(answer).start == b"HTTP/1.1 200 OK"
        assert gateway.requests == 1


async def test_expect_of_http_1_0_is_ignored(tmp_path: Path) -> None:
    """HTTP/1.0 knows no interim answers."""
    async with between(tmp_path, OK) as (holdfast, _):
        request = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n1"
        answer = await soon(exchange(holdfast.port, request, until_closed=True))

        assert message(answer).start == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    "part",
    [
        HEAD + b"Content-Length: 100\r\n\r\n",
        HEAD + b"Content-Length: 100\r\n\r\namount=",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\namount=",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n7\r\namount=\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n7\r\namount=\r\n0\r\n",
        HEAD[:40],
    ],
    ids=["no body", "half a body", "half a chunk", "a chunk", "no last line", "half a head"],
)
@pytest.mark.parametrize("end", End)
async def test_a_client_that_dies_in_its_request(tmp_path: Path, part: bytes, end: End) -> None:
    """A payment that did not arrive whole is not sent, not in part and not at all."""
    async with between(tmp_path, OK) as (holdfast, gateway):
        async with connected(holdfast.port) as (_, writer):
            writer.write(part)
            await settle()
            if end is End.RESET:
                reset(writer)
        await settle()
        whole = await soon(exchange(holdfast.port, HEAD + b"X-Last: 1\r\n" + BODY))
        await settle()

        assert message(whole).body == b"ok"
        assert gateway.requests == 1  # that one, which came after
        assert received(gateway).values(b"x-last") == [b"1"]


def reset(writer: asyncio.StreamWriter) -> None:
    """End a client's connection with RST."""
    RawConnection(asyncio.StreamReader(), writer).reset()


async def test_a_client_that_stops_in_its_payment(tmp_path: Path, loop_time: LoopTime) -> None:
    """A client may be slow, but after a minute without a byte nobody waits for the rest."""
    async with (
        between(tmp_path, OK) as (holdfast, gateway),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(HEAD + b"Content-Length: 4\r\n\r\n1")
        await loop_time.forward(50)
        writer.write(b"2")
        await loop_time.forward(50)
        writer.write(b"3")
        await loop_time.forward(61)
        answer = await soon(read_answer(reader))

        assert refused_code(answer) == "body-incomplete"
        assert gateway.connections == []


async def test_a_client_that_stops_in_its_upload(tmp_path: Path, loop_time: LoopTime) -> None:
    """The same for what is passed on as it comes: both sides are let go, without a clean end."""
    swallowing = Swallowing()
    async with (
        between(tmp_path, swallowing) as (holdfast, gateway),
        connected(holdfast.port) as (_, writer),
    ):
        writer.write(b"PUT /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n1")
        await until(lambda: gateway.connections and received(gateway).body == b"1")
        await loop_time.forward(50)
        writer.write(b"2")
        await until(lambda: received(gateway).body == b"12")
        await loop_time.forward(61)
        await soon(swallowing.ended.wait())

        assert received(gateway).body == b"12"


@pytest.mark.parametrize("sized", [True, False], ids=["by length", "chunked"])
@pytest.mark.parametrize("end", End)
async def test_a_client_that_dies_in_its_upload(tmp_path: Path, sized: bool, end: End) -> None:
    """What is passed on as it comes breaks off as it comes: the gateway sees no clean end."""
    swallowing = Swallowing()
    framing = b"Content-Length: 100\r\n" if sized else b"Transfer-Encoding: chunked\r\n"
    async with between(tmp_path, swallowing) as (holdfast, gateway):
        async with connected(holdfast.port) as (_, writer):
            writer.write(b"PUT /v1/files HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n")
            writer.write(b"1111" if sized else b"4\r\n1111\r\n")
            await until(lambda: gateway.connections and b"1111" in gateway.connections[0].received)
            if end is End.RESET:
                reset(writer)
        await soon(swallowing.ended.wait())

        assert received(gateway).body == (b"1111" if sized else b"4\r\n1111\r\n")


# --- answers --------------------------------------------------------------------------------------

OURS = (b"x-payment-session-id", b"x-payment-attempts", b"proxy-status")


def as_given(answer: Message) -> list[bytes]:
    """An answer's header lines without ours, which must be there once each."""
    for name in OURS:
        assert len(answer.values(name)) == 1, name
    return answer.but(*OURS)


@pytest.mark.parametrize("method", [b"POST", b"GET"], ids=["durable", "streamed"])
async def test_answers_come_back_as_they_were_given(tmp_path: Path, method: bytes) -> None:
    """Status, phrase, header bytes and body are the gateway's; three headers are added."""
    lines = [
        b"set-COOKIE: a=1; Path=/",
        b"X-Latin: Z\xfcrich",
        b"X-Utf8: Z\xc3\xbcrich",
        b"Content-Length: 768",
        b"Content-Encoding: br",
        b"Set-Cookie: b=2",
        b"X-Empty: ",
        b"Via: 1.1 cdn",
        b"Stripe-Should-Retry: true",
        b"Proxy-Authentication-Info: x",
    ]
    hop = (
        b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTrailer: X-Sum\r\nTE: x\r\n"
    )
    given = (
        b"HTTP/1.1 299 Stra\xc3\x9fe 1\r\n" + hop + b"\r\n".join(lines) + b"\r\n\r\n" + EVERY_BYTE
    )
    async with between(tmp_path, given) as (holdfast, gateway):
        request = method + b" /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        answer = message(await soon(exchange(holdfast.port, request)))

        assert answer.start == b"HTTP/1.1 299 Stra\xc3\x9fe 1"
        assert as_given(answer) == lines
        assert answer.body == EVERY_BYTE
        assert answer.values(b"x-payment-attempts") == [b"1"]
        assert answer.values(b"proxy-status") == [b"holdfast; received-status=299"]
        assert re.fullmatch(rb"ps_[0-9A-Za-z_-]+", answer.values(b"x-payment-session-id")[0])
        assert gateway.requests == 1


@pytest.mark.parametrize("method", [b"POST", b"GET"], ids=["durable", "streamed"])
@pytest.mark.parametrize(
    "phrase", [b"", b"OK", b"Not \xff what you think"], ids=["none", "ascii", "latin"]
)
async def test_reason_phrases(tmp_path: Path, method: bytes, phrase: bytes) -> None:
    """A phrase comes back as its bytes, whatever they are."""
    given = b"HTTP/1.1 200 " + phrase + b"\r\nContent-Length: 2\r\n\r\nok"
    async with between(tmp_path, given) as (holdfast, _):
        request = method + b" /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        answer = message(await soon(exchange(holdfast.port, request)))

        assert (answer.start, answer.body) == (b"HTTP/1.1 200 " + phrase, b"ok")


CHUNKED_OK = b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
FRAMED: dict[str, tuple[bytes, bytes, list[bytes], list[bytes]]] = {
    # answer of the gateway, method, header lines on a durable route, header lines on a streamed one
    "by length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
        [b"Content-Length: 2"],
        [b"Content-Length: 2"],
    ),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED_OK,
        b"ok",
        [b"X-A: 1", b"Content-Length: 2"],
        [b"X-A: 1", b"Transfer-Encoding: chunked"],
    ),
    "chunked and empty": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"",
        [b"Content-Length: 0"],
        [b"Transfer-Encoding: chunked"],
    ),
    "empty": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"",
        [b"Content-Length: 0"],
        [b"Content-Length: 0"],
    ),
    "204": (b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", b"", [b"X-A: 1"], [b"X-A: 1"]),
    "304": (
        b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 900\r\n\r\n',
        b"",
        [b'ETag: "x"', b"Content-Length: 900"],
        [b'ETag: "x"', b"Content-Length: 900"],
    ),
}


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "streamed"])
@pytest.mark.parametrize(("given", "body", "whole", "streamed"), FRAMED.values(), ids=FRAMED)
async def test_how_answers_are_framed(
    tmp_path: Path,
    given: bytes,
    body: bytes,
    whole: list[bytes],
    streamed: list[bytes],
    durable: bool,
) -> None:
    """A length stays a length, chunks stay chunks where they stream, and no body is no body."""
    method = b"POST" if durable else b"GET"
    request = method + b" /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    async with (
        between(tmp_path, given) as (holdfast, _),
        connected(holdfast.port) as (reader, writer),
    ):
        for _ in range(2):  # twice: what is behind the first answer shows in the second
            writer.write(request)
            answer = message(await soon(reader.readuntil(b"\r\n\r\n")))
            rest = b""
            if body and answer.values(b"content-length"):
                rest = await soon(reader.readexactly(len(body)))
            elif answer.values(b"transfer-encoding"):
                rest = unchunked(await soon(reader.readuntil(b"0\r\n\r\n")))

            assert answer.start == given.split(b"\r\n")[0]
            assert as_given(answer) == (whole if durable else streamed)
            assert rest == body


@pytest.mark.parametrize(
    "given",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\nX-A: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["by length", "nothing", "chunked"],
)
@pytest.mark.parametrize("durable", [True, False], ids=["durable", "streamed"])
async def test_answers_to_head(tmp_path: Path, given: bytes, durable: bool) -> None:
    """HEAD gets the gateway's head and no body; no length is made up for it."""
    route = "{name: probe, match: {methods: [HEAD], path: /v1/x}, session: durable}"
    text = "durable" if durable else "ephemeral"
    async with raw_server(always(given)) as gateway:
        listen = 'listen: "127.0.0.1:0"'
        config = policy(gateway.origin, store="memory://").replace(
            'profile: stripe, listen: "127.0.0.1:0"',
            f"profile: generic, {listen}, routes: [{route.replace('durable', text)}]",
        )
        async with running(tmp_path, config) as holdfast:
            request = b"HEAD /v1/x HTTP/1.1\r\nHost: a\r\n\r\n"
            async with connected(holdfast.port) as (reader, writer):
                for _ in range(2):
                    writer.write(request)
                    answer = message(await soon(reader.readuntil(b"\r\n\r\n")))

                    assert answer.start == b"HTTP/1.1 200 OK"
                    assert as_given(answer) == [
                        line
                        for line in message(given).lines
                        if not line.startswith(b"Transfer-Encoding")
                    ]


async def test_refusals_to_head_have_no_body(tmp_path: Path) -> None:
    """Our own answers to HEAD end with their head, too."""
    async with between(tmp_path, OK) as (holdfast, _):
        request = b"HEAD /v1/x? HTTP/1.1\r\nHost: a\r\n\r\n"
        answer = message(await soon(exchange(holdfast.port, request, until_closed=True)))

        assert answer.start == b"HTTP/1.1 400 Bad Request"
        assert answer.body == b""


async def test_redirects_go_back(tmp_path: Path) -> None:
    """A redirect of the gateway is the backend's to follow."""
    start = b"HTTP/1.1 307 Temporary Redirect\r\n"
    given = start + b"Location: http://evil.example/\r\nContent-Length: 0\r\n\r\n"
    async with between(tmp_path, given) as (holdfast, gateway):
        answer = message(await soon(exchange(holdfast.port, HEAD + BODY)))

        assert answer.start == b"HTTP/1.1 307 Temporary Redirect"
        assert answer.values(b"location") == [b"http://evil.example/"]
        assert gateway.requests == 1


async def test_interim_answers_stay_here(tmp_path: Path) -> None:
    """What the gateway says before its answer is not the answer."""
    given = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK
    async with between(tmp_path, given) as (holdfast, _):
        answer = message(await soon(exchange(holdfast.port, HEAD + BODY)))

        assert (answer.start, answer.body) == (b"HTTP/1.1 200 OK", b"ok")
        assert answer.values(b"link") == []


async def test_a_client_that_wants_to_close(tmp_path: Path) -> None:
    """`Connection: close` is answered in kind, and the connection ends."""
    async with between(tmp_path, OK) as (holdfast, _):
        request = HEAD + b"Connection: close\r\n" + BODY
        answer = message(await soon(exchange(holdfast.port, request, until_closed=True)))

        assert answer.values(b"connection") == [b"close"]
        assert answer.body == b"ok"


async def test_ours_is_the_last_word_in_proxy_status(tmp_path: Path) -> None:
    """What proxies behind us said of the answer stays, and what we say follows it."""
    given = (
        b"HTTP/1.1 200 OK\r\nProxy-Status: cdn; received-status=200\r\nContent-Length: 0\r\n\r\n"
    )
    async with between(tmp_path, given) as (holdfast, _):
        answer = message(await soon(exchange(holdfast.port, HEAD + BODY)))

        assert answer.values(b"proxy-status") == [
            b"cdn; received-status=200",
            b"holdfast; received-status=200",
        ]


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["nothing", "half a head"])
async def test_a_connection_without_a_request_is_closed(
    tmp_path: Path, loop_time: LoopTime, sent: bytes
) -> None:
    """A connection on which no request comes, or not all of its head, is not kept for ever."""
    async with (
        between(tmp_path, OK) as (holdfast, gateway),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(sent)
        await loop_time.forward(74)
        assert not reader.at_eof()
        await loop_time.forward(2)

        assert await soon(reader.read()) == b""
        assert gateway.connections == []


async def test_an_idle_connection_is_closed(tmp_path: Path, loop_time: LoopTime) -> None:
    """Nor is one on which nothing follows an answer."""
    async with (
        between(tmp_path, OK) as (holdfast, _),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(HEAD + BODY)
        assert message(await soon(read_answer(reader))).body == b"ok"
        await loop_time.forward(74)
        assert not reader.at_eof()
        await loop_time.forward(2)

        assert await soon(reader.read()) == b""


async def test_it_does_not_start_on_the_pure_python_parser(tmp_path: Path) -> None:
    """Several smuggling holes were in that parser alone: without the other, nothing is served."""
    process = HoldfastProcess(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(AssertionError, match="C parser is not in use"):
        await process.start(environ={"AIOHTTP_NO_EXTENSIONS": "1"})

    assert process.process is not None
    assert process.process.returncode != 0


async def test_a_setting_that_aiohttp_does_not_know_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else aiohttp would fall back to its own settings, unpacking bodies and all."""

    async def handler(_: GatewayRequest) -> RawResponse:
        raise NotImplementedError

    monkeypatch.setitem(listeners._PROTOCOL, "no_such_setting", 1)
    with pytest.raises(TypeError, match="no_such_setting"):
        await listeners.Listeners().open_gateway(handler, "127.0.0.1", 0)


# --- streaming ------------------------------------------------------------------------------------


async def test_an_upload_arrives_as_it_is_sent(tmp_path: Path) -> None:
    """On a route that moves no money the gateway has the first bytes before the last are sent."""
    async with (
        between(tmp_path, OK) as (holdfast, gateway),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(b"PUT /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n1111")
        await until(lambda: gateway.connections and b"1111" in gateway.connections[0].received)
        writer.write(b"2222")

        assert message(await soon(read_answer(reader))).body == b"ok"
        assert received(gateway).body == b"11112222"
        assert received(gateway).values(b"content-length") == [b"8"]


async def test_a_download_arrives_as_it_is_sent(tmp_path: Path) -> None:
    """And the client has the first bytes of an answer before the gateway has sent the last."""
    go_on = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n1111")
        await go_on.wait()
        await connection.send(b"2222")

    async with (
        between(tmp_path, script) as (holdfast, _),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(b"GET /v1/files/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await soon(reader.readuntil(b"1111"))).startswith(b"HTTP/1.1 200 OK\r\n")
        go_on.set()

        assert await soon(reader.readexactly(4)) == b"2222"


async def test_an_early_answer_to_an_upload(tmp_path: Path) -> None:
    """A gateway that refuses an upload early is heard early, and the connection ends with it."""

    async def script(connection: RawConnection) -> None:
        while b"1111" not in connection.received:
            connection.received += await connection.reader.read(65536)
        await connection.send(
            b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
        )
        await swallow(connection)

    async with (
        between(tmp_path, script) as (holdfast, _),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(b"PUT /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n1111")
        answer = message(await soon(read_answer(reader)))

        assert (answer.start, answer.body) == (b"HTTP/1.1 413 Too Large", b"no")
        assert answer.values(b"connection") == [b"close"]


BREAKING: dict[str, tuple[bytes, End]] = {
    "by length": (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n1111", End.FIN),
    "by length, reset": (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n1111", End.RESET),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1111\r\n", End.FIN),
    "in a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n1111", End.FIN),
    "to the end, reset": (b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n1111", End.RESET),
}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize(("given", "end"), BREAKING.values(), ids=BREAKING)
async def test_an_answer_that_breaks_off_breaks_off(
    tmp_path: Path, given: bytes, end: End, version: bytes
) -> None:
    """Half an answer never looks whole: no last chunk, and the connection ends with a reset."""
    broken = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(given)
        await broken.wait()
        connection.reset() if end is End.RESET else connection.close()

    async with (
        between(tmp_path, script) as (holdfast, _),
        connected(holdfast.port) as (reader, writer),
    ):
        writer.write(b"GET /v1/files/1 HTTP/" + version + b"\r\nHost: a\r\n\r\n")
        head = await soon(reader.readuntil(b"1111"))
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        broken.set()

        with pytest.raises(ConnectionResetError):
            await soon(reader.read())


async def test_an_endless_answer_stays_chunked(tmp_path: Path) -> None:
    """An answer that lasts as long as its connection gets chunks: an end that can be seen."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello")
        connection.close()

    async with (
        between(tmp_path, script) as (holdfast, _),
        connected(holdfast.port) as (reader, writer),
    ):
        for _ in range(2):  # and our own connection goes on
            writer.write(b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = message(await soon(read_answer(reader)))

            assert as_given(answer) == [b"X-A: 1", b"Transfer-Encoding: chunked"]
            assert unchunked(answer.body) == b"hello"


async def test_a_client_that_leaves_a_download_ends_it_at_the_gateway(tmp_path: Path) -> None:
    """Nobody reads on: the gateway's connection is closed rather than read to its end."""
    ended = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                await connection.send(b"x" * 65536)
        finally:
            ended.set()

    async with between(tmp_path, script) as (holdfast, _):
        async with connected(holdfast.port) as (reader, writer):
            writer.write(b"GET /v1/files/1 HTTP/1.1\r\nHost: a\r\n\r\n")
            await soon(reader.readuntil(b"xxxx"))
        await soon(ended.wait())


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 0\r\n"], ids=["bare", "length 0"])
async def test_a_failing_read_is_repeated_and_its_first_answer_let_go(
    tmp_path: Path, framing: bytes
) -> None:
    """A GET that met a 503 is asked again; the refused answer's connection does not linger."""
    ended = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        if len(gateway.connections) > 1:
            await connection.send(OK)
            return
        await connection.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\nnot all of it")
        await swallow(connection)
        ended.set()

    async with between(tmp_path, script) as (holdfast, gateway):
        request = b"GET /v1/x HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n"
        answer = message(await soon(exchange(holdfast.port, request)))

        assert answer.body == b"ok"
        assert answer.values(b"x-payment-attempts") == [b"2"]
        await soon(ended.wait())


# --- memory ---------------------------------------------------------------------------------------

HUNDRED_MB = 100 * 1024 * 1024
BLOCK = b"x" * 65536


def peak_memory_mb(process: HoldfastProcess) -> float:
    """The most memory a process ever had."""
    assert process.process is not None
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found.group(1)) / 1024


async def _sink_and_source(connection: RawConnection) -> None:
    """Take a body and throw it away; answer with how much it was, or with a large body."""
    reader = connection.reader
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        taken = 0
        while length is not None and taken < int(length.group(1)):
            taken += len(await reader.read(65536))
        if head.startswith(b"GET /v1/large "):
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HUNDRED_MB)
            for _ in range(HUNDRED_MB // len(BLOCK)):
                await connection.send(BLOCK)
        else:
            number = b"%d" % taken
            await connection.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(number) + number
            )


async def upload(port: int, method: bytes, size: int) -> bytes:
    """Send a body of so many bytes; the body of the answer."""
    async with connected(port) as (reader, writer):
        writer.write(method + b" /v1/files HTTP/1.1\r\nHost: a\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(BLOCK)):
            writer.write(BLOCK)
            await writer.drain()
        return message(await read_answer(reader)).body


async def download(port: int) -> int:
    """How many bytes of a large answer arrive."""
    async with connected(port) as (reader, writer):
        writer.write(b"GET /v1/large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        size = 0
        while data := await reader.read(65536):
            size += len(data)
        return size


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/<pid>/status")
async def test_large_bodies_pass_in_flat_memory(tmp_path: Path) -> None:
    """100 MB up and 100 MB down: the process never grows by the size of what passes."""
    async with raw_server(_sink_and_source) as gateway:
        process = HoldfastProcess(
            tmp_path, gateway.origin, "defaults: {max_body: 128MiB}\n", profile="generic"
        )
        await process.start()
        try:
            assert await upload(process.port, b"PUT", len(BLOCK)) == b"65536"
            before = peak_memory_mb(process)
            assert await upload(process.port, b"PUT", HUNDRED_MB) == b"104857600"
            after_upload = peak_memory_mb(process)
            assert await download(process.port) == HUNDRED_MB
            after_download = peak_memory_mb(process)
            # Control: a payment is read whole, and this measure sees it.
            assert await upload(process.port, b"POST", HUNDRED_MB) == b"104857600"
            after_payment = peak_memory_mb(process)
        finally:
            assert await process.stop() == 0

    assert after_upload - before < 40
    assert after_download - after_upload < 40
    assert after_payment - after_download > 60
