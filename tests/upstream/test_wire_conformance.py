"""What any way to a gateway must do on the wire, whatever library it is made of.

The suite works through the port only (`proxy/ports.py`: `Upstream`, `Send`; `core/wire.py`:
`WireFacts`). A new client is one more line in `CLIENTS`, and nothing else changes here. The servers
are raw sockets that record bytes; nothing is believed that a library says about itself. Every test
runs on asyncio's loop and on uvloop (see `conftest.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from proxy.core.reasons import Reason
from proxy.core.wire import Headers, Phase, WireFacts, close_stream
from proxy.ports import Send, SendForbidden, StoreUnavailable, Upstream
from proxy.upstream.client import AiohttpUpstream
from proxy.upstream.lean import LeanUpstream
from tests.support.certificates import Authority, authority
from tests.support.raw import OK, RawConnection, RawServer, Script, always, answering, raw_server
from tests.support.running import free_port
from tests.support.wire import (
    NO_CONTENT,
    End,
    LoopTime,
    Message,
    Swallowing,
    a_send,
    ending_server,
    full_backlog,
    loop_time,
    meanwhile,
    message,
    settle,
    soon,
    swallow,
    unchunked,
    until,
)

__all__ = ["loop_time"]  # a fixture, used by its name

Factory = Callable[[str, Path | None], Upstream]


def _aiohttp(origin: str, ca_file: Path | None) -> Upstream:
    return AiohttpUpstream(origin, ca_file=ca_file)


def _lean(origin: str, ca_file: Path | None) -> Upstream:
    return LeanUpstream(origin, ca_file=ca_file)


CLIENTS: dict[str, Factory] = {"aiohttp": _aiohttp, "lean": _lean}

METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"]
GZIPPED = gzip.compress(b'{"status":"succeeded"}' * 50, mtime=0)
EVERY_BYTE = bytes(range(256)) * 3

Seen = tuple[bool, Phase, Reason | None]


@pytest.fixture(params=list(CLIENTS.values()), ids=list(CLIENTS))
def factory(request: pytest.FixtureRequest) -> Factory:
    """The clients that must pass."""
    made: Factory = request.param
    return made


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority for the whole file: making keys costs time."""
    return authority(tmp_path_factory.mktemp("trusted"))


@contextlib.asynccontextmanager
async def client(
    factory: Factory, origin: str, ca_file: Path | None = None
) -> AsyncIterator[Upstream]:
    """A client that is closed at the end."""
    upstream = factory(origin, ca_file)
    try:
        yield upstream
    finally:
        await upstream.close()


def seen(facts: WireFacts) -> Seen:
    """What the money rules read off a send."""
    return facts.sent, facts.phase, facts.reason


ANSWERED: Seen = (True, Phase.ANSWERED, None)


async def body_of(facts: WireFacts) -> bytes:
    """The answer's body, read to its end if it streams."""
    if facts.stream is None:
        return facts.body
    return b"".join([chunk async for chunk in facts.stream])


async def request_of(factory: Factory, send: Send) -> Message:
    """What one send looks like on the wire."""
    async with raw_server(always(NO_CONTENT)) as server, client(factory, server.origin) as upstream:
        facts = await soon(upstream.send(send))
        assert await body_of(facts) == b""
        assert seen(facts) == ANSWERED
        assert server.requests == 1
        return message(bytes(server.connections[0].received))


async def answer_to(
    factory: Factory, script: Script | bytes, send: Send
) -> tuple[WireFacts, RawServer]:
    """What a client makes of a server's doing, and the server."""
    play = answering(script) if isinstance(script, bytes) else script
    async with raw_server(play) as server, client(factory, server.origin) as upstream:
        return await soon(upstream.send(send)), server


# --- the request's bytes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/%7Euser/%41/%2F/%2f",
        "/a%zz%",
        "//v1//charges/",
        "/v1/../v1/./charges",
        "/a;b=c;d",
        "/a+b?c+d=e+f",
        "/a?empty=&&none&=x",
        "/a?b=c?d=/e",
        "/a??",
        "/a:b@c!$&'()*,=",
        '/a|b{c}"<>^`[]\\',
        "/a%00b%0D%0Ac",
        "/café?q=é",
        "/снег",
        f"/long/{'x' * 4000}?{'y' * 4000}",
    ],
)
async def test_the_target_is_sent_as_it_came(factory: Factory, target: str) -> None:
    """Path and query are not decoded, encoded, joined, sorted or tidied."""
    raw = target.encode()
    sent = await request_of(factory, a_send("GET", raw.decode("latin-1")))

    assert sent.start == b"GET " + raw + b" HTTP/1.1"


@pytest.mark.parametrize("method", METHODS)
async def test_the_method_is_sent_as_it_came(factory: Factory, method: str) -> None:
    """Every method goes out under its own name."""
    sent = await request_of(factory, a_send(method))

    assert sent.start == method.encode() + b" /v1/charges HTTP/1.1"


async def test_headers_keep_spelling_order_and_duplicates(factory: Factory) -> None:
    """Header lines leave as they came: no name respelled, no value joined, no line moved."""
    headers: Headers = (
        ("x-LOWER-and-UPPER", "1"),
        ("Accept", "text/plain"),
        ("X-Twice", "a"),
        ("COOKIE", 'a="1"; b=2'),
        ("X-Twice", "b"),
        ("x_under.score!", "~"),
        ("X-Empty", ""),
        ("X-Tab", "a\tb  c"),
        ("Authorization", "Bearer sk_test_wire"),
        ("X-Utf8", "Zürich ✓".encode().decode("latin-1")),
        ("user-agent", "shop/1"),
        ("Via", "1.1 holdfast"),
    )
    sent = await request_of(factory, a_send(headers=headers, body=b"amount=1"))

    assert sent.but(b"host", b"content-length", b"connection") == [
        b"x-LOWER-and-UPPER: 1",
        b"Accept: text/plain",
        b"X-Twice: a",
        b'COOKIE: a="1"; b=2',
        b"X-Twice: b",
        b"x_under.score!: ~",
        b"X-Empty: ",
        b"X-Tab: a\tb  c",
        b"Authorization: Bearer sk_test_wire",
        b"X-Utf8: Z\xc3\xbcrich \xe2\x9c\x93",
        b"user-agent: shop/1",
        b"Via: 1.1 holdfast",
    ]


async def test_duplicates_that_are_spelled_differently_all_leave(factory: Factory) -> None:
    """Names compare without case, so three spellings are three lines of one field; none is lost."""
    headers: Headers = (("X-Tag", "1"), ("x-tag", "2"), ("Other", "3"), ("X-TAG", "4"))
    sent = await request_of(factory, a_send(headers=headers))

    assert sent.values(b"x-tag") == [b"1", b"2", b"4"]
    assert sent.values(b"other") == [b"3"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fresh", [False, True], ids=["reusing", "fresh"])
async def test_nothing_is_added_but_framing(factory: Factory, method: str, fresh: bool) -> None:
    """A bare request gets Host, its length and (a fresh connection) `Connection`; nothing else."""
    sent = await request_of(factory, a_send(method, fresh=fresh))

    assert sent.but(b"host", b"content-length", b"connection") == []
    assert sent.values(b"connection") in ([], [b"close"])
    assert sent.values(b"content-length") in ([], [b"0"])
    assert sent.body == b""


async def test_host_is_the_gateway(factory: Factory) -> None:
    """One Host, and it names the authority that the client was made for."""
    async with raw_server(always()) as server, client(factory, server.origin) as upstream:
        await soon(upstream.send(a_send(target="//evil.example/x")))
        sent = message(bytes(server.connections[0].received))

        assert sent.values(b"host") == [f"127.0.0.1:{server.port}".encode()]


@pytest.mark.parametrize(
    "body",
    [b"x", b"amount=1999&currency=eur", EVERY_BYTE, GZIPPED, b"\0" * 10, b"\r\n0\r\n\r\n"],
    ids=["one byte", "a form", "every byte", "gzip", "NULs", "looks like an end"],
)
async def test_the_body_is_sent_as_it_came(factory: Factory, body: bytes) -> None:
    """Body bytes are not decoded, encoded or re-framed."""
    headers = (("Content-Encoding", "gzip"),) if body is GZIPPED else ()
    sent = await request_of(factory, a_send(headers=headers, body=body))

    assert sent.body == body
    assert sent.values(b"content-length") == [str(len(body)).encode()]
    assert sent.values(b"transfer-encoding") == []


async def test_a_large_body_is_sent_as_it_came(factory: Factory) -> None:
    """A body of several megabytes leaves whole, and nothing is said about its size."""
    body = EVERY_BYTE * 5000
    sent = await request_of(factory, a_send(body=body))

    assert zlib.crc32(sent.body) == zlib.crc32(body)
    assert len(sent.body) == 3_840_000
    assert sent.values(b"content-length") == [b"3840000"]


@pytest.mark.parametrize(
    ("given", "body", "wanted"),
    [
        ((), b"12345", [b"5"]),
        ((("content-length", "5"),), b"12345", [b"5"]),
        ((("Content-Length", "3"),), b"12345", [b"5"]),
        ((("Content-Length", "0"),), b"", [b"0"]),
    ],
)
async def test_content_length_is_that_of_the_body(
    factory: Factory, given: Headers, body: bytes, wanted: list[bytes]
) -> None:
    """The length is counted anew, so it can neither be missing nor wrong."""
    sent = await request_of(factory, a_send("POST", headers=given, body=body))

    assert sent.values(b"content-length") == wanted
    assert sent.body == body


async def test_an_empty_body_is_no_body(factory: Factory) -> None:
    """A GET without a body has no length, and is not sent in chunks either."""
    sent = await request_of(factory, a_send("GET"))

    assert sent.but(b"host", b"connection") == []


# --- the answer's bytes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "status", "text"),
    [
        (b"HTTP/1.1 200 OK", 200, "OK"),
        (b"HTTP/1.1 201 Made it so", 201, "Made it so"),
        (b"HTTP/1.1 402 ", 402, ""),
        (b"HTTP/1.1 402", 402, ""),
        (b"HTTP/1.1 499 Client Closed", 499, "Client Closed"),
        (b"HTTP/1.1 500 Stra\xc3\x9fe", 500, "Stra\u00c3\u009fe"),
        (b"HTTP/1.1 503 Stra\xdfe", 503, "Stra\u00dfe"),
        (b"HTTP/1.0 200 Old", 200, "Old"),
        (b"HTTP/1.1 599 Last", 599, "Last"),
    ],
)
async def test_status_and_reason_phrase(
    factory: Factory, start: bytes, status: int, text: str
) -> None:
    """The status line comes back as it was: one character per byte, empty phrases empty."""
    facts, _ = await answer_to(factory, start + b"\r\nContent-Length: 2\r\n\r\nok", a_send())

    assert (facts.status, facts.status_text) == (status, text)
    assert facts.body == b"ok"
    assert seen(facts) == ANSWERED


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])
async def test_answer_headers_come_back_as_bytes(factory: Factory, whole: bool) -> None:
    """Names keep their case, duplicates their lines, values their bytes whatever their encoding."""
    answer = (
        b"HTTP/1.1 200 OK\r\n"
        b"set-COOKIE: a=1; Path=/\r\n"
        b"X-Latin: Z\xfcrich\r\n"
        b"X-Utf8: Z\xc3\xbcrich\r\n"
        b"Content-Length: 2\r\n"
        b"Set-Cookie: b=2\r\n"
        b"X-Empty:\r\n"
        b"X-Spaced:   a  b\t c \r\n"
        b"Server: one\r\n"
        b"Server: two\r\n"
        b"Content-Type: text/plain\r\n"
        b"\r\nok"
    )
    facts, _ = await answer_to(factory, answer, a_send(whole=whole))

    assert facts.headers == (
        ("set-COOKIE", "a=1; Path=/"),
        ("X-Latin", "Z\u00fcrich"),
        ("X-Utf8", "Z\u00c3\u00bcrich"),
        ("Content-Length", "2"),
        ("Set-Cookie", "b=2"),
        ("X-Empty", ""),
        ("X-Spaced", "a  b\t c"),
        ("Server", "one"),
        ("Server", "two"),
        ("Content-Type", "text/plain"),
    )


async def test_long_answer_headers_are_read(factory: Factory) -> None:
    """A charge is not lost because its answer has a header of 16 KB or a hundred of them."""
    long = b"X-Long: " + b"x" * 16_000 + b"\r\n"
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(100))
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + long + many + b"\r\nok"
    facts, _ = await answer_to(factory, answer, a_send())

    assert seen(facts) == ANSWERED
    assert len(facts.headers) == 102


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A chunked answer."""
    parts = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + end


INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
)
BODIES: dict[str, tuple[bytes, bytes]] = {
    "by length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "length 0": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "gzip": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(GZIPPED), GZIPPED),
        GZIPPED,
    ),
    "every byte": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 768\r\n\r\n" + EVERY_BYTE,
        EVERY_BYTE,
    ),
    "not gzip at all": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    "chunked": (chunked(b"hel", b"lo", EVERY_BYTE), b"hello" + EVERY_BYTE),
    "chunked gzip": (
        chunked(GZIPPED[:7], GZIPPED[7:]).replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1),
        GZIPPED,
    ),
    "chunked and empty": (chunked(), b""),
    "chunked with trailers": (chunked(b"hello", end=b"0\r\nX-Sum: 1\r\n\r\n"), b"hello"),
    "after interim answers": (
        INTERIM + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
}


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])
@pytest.mark.parametrize(("answer", "body"), BODIES.values(), ids=BODIES)
async def test_answer_bodies(factory: Factory, answer: bytes, body: bytes, whole: bool) -> None:
    """Bodies come back byte for byte, compressed ones compressed, whichever way they are framed."""
    play = answering(answer, answer)
    async with raw_server(play) as server, client(factory, server.origin) as upstream:
        for _ in range(2):  # and the connection is left where the next answer begins
            facts = await soon(upstream.send(a_send(whole=whole)))

            assert await body_of(facts) == body
            assert seen(facts) == ANSWERED
            assert facts.status == 200
        assert len(server.connections) == 1


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_an_answer_that_ends_with_its_connection(
    factory: Factory, version: bytes, whole: bool
) -> None:
    """An answer without a length ends where its connection does."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(version + b" 200 OK\r\nContent-Type: a/b\r\n\r\nhello")
        connection.close()

    facts, _ = await answer_to(factory, script, a_send(whole=whole))

    assert await body_of(facts) == b"hello"
    assert seen(facts) == ANSWERED
    assert facts.headers == (("Content-Type", "a/b"),)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("POST", b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_answers_without_a_body(
    factory: Factory, method: str, answer: bytes, whole: bool
) -> None:
    """204, 304 and answers to HEAD are complete with their head, whatever length it tells."""
    play = answering(answer, answer)
    async with raw_server(play) as server, client(factory, server.origin) as upstream:
        for _ in range(2):
            facts = await soon(upstream.send(a_send(method, whole=whole)))

            assert await body_of(facts) == b""
            assert seen(facts) == ANSWERED
            assert len(facts.headers) == answer.count(b": ")
        assert len(server.connections) == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_redirects_are_answers(factory: Factory, status: int) -> None:
    """A redirect is handed back; following it would send a payment somewhere else."""
    answer = b"HTTP/1.1 %d Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    facts, server = await answer_to(factory, always(answer), a_send(body=b"amount=1"))

    assert facts.status == status
    assert ("Location", "/elsewhere") in facts.headers
    assert server.requests == 1


async def test_cookies_are_not_kept(factory: Factory) -> None:
    """What a gateway sets for one request is not sent with the next one, which is another's."""
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1; Path=/\r\nContent-Length: 0\r\n\r\n"
    play = always(answer)
    async with raw_server(play) as server, client(factory, server.origin) as upstream:
        for _ in range(2):
            await soon(upstream.send(a_send()))

        assert server.requests == 2
        assert b"cookie" not in bytes(server.connections[0].received).lower()


# --- the barrier ----------------------------------------------------------------------------------


class Barrier:
    """`before_bytes` in a test's hands."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_leave = asyncio.Event()
        self.times = 0

    async def __call__(self) -> None:
        """Wait to be let go."""
        self.times += 1
        self.asked.set()
        await self.may_leave.wait()


@pytest.mark.parametrize("fresh", [False, True], ids=["reusing", "fresh"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_no_byte_leaves_before_the_intent_stands(
    factory: Factory, trusted: Authority, fresh: bool, secure: bool
) -> None:
    """The connection stands, the intent is awaited, and only then the first byte arrives."""
    barrier, swallowing = Barrier(), Swallowing()
    context = trusted.server() if secure else None
    async with raw_server(swallowing, context) as server:
        origin = server.origin.replace("http:", "https:") if secure else server.origin
        send = a_send(body=b"amount=1", fresh=fresh, before_bytes=barrier, attempt_timeout=60)
        async with (
            client(factory, origin, trusted.ca_file) as upstream,
            meanwhile(upstream.send(send)) as sending,
        ):
            await soon(barrier.asked.wait())
            await soon(swallowing.accepted.wait())
            await settle()
            assert bytes(server.connections[0].received) == b""
            assert not send.sent
            assert not sending.done()

            barrier.may_leave.set()
            await until(lambda: server.requests)
            assert send.sent
            assert barrier.times == 1


async def test_the_barrier_holds_on_a_kept_alive_connection(factory: Factory) -> None:
    """A connection that is there already makes no difference to the intent."""
    barrier = Barrier()
    async with raw_server(always()) as server, client(factory, server.origin) as upstream:
        await soon(upstream.send(a_send("GET")))
        first = bytes(server.connections[0].received)
        async with meanwhile(upstream.send(a_send(before_bytes=barrier))) as sending:
            await soon(barrier.asked.wait())
            await settle()
            assert bytes(server.connections[0].received) == first

            barrier.may_leave.set()
            assert seen(await soon(sending)) == ANSWERED
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SendForbidden("cancelled"), Reason.NOT_ALLOWED),
        (StoreUnavailable("disk full"), Reason.STORE_UNAVAILABLE),
        (RuntimeError("a bug"), Reason.INTERNAL_ERROR),
    ],
    ids=["forbidden", "store", "bug"],
)
async def test_without_the_intent_nothing_is_sent(
    factory: Factory, error: Exception, reason: Reason
) -> None:
    """Whatever stops the intent stops the send: zero bytes, and the facts say so."""
    swallowing = Swallowing()

    async def refuse() -> None:
        raise error

    async with raw_server(swallowing) as server:
        async with client(factory, server.origin) as upstream:
            send = a_send(body=b"amount=1", before_bytes=refuse)
            facts = await soon(upstream.send(send))
        await soon(swallowing.ended.wait())

        assert seen(facts) == (False, Phase.CONNECTING, reason)
        assert not send.sent
        assert bytes(server.connections[0].received) == b""


async def test_cancelled_before_the_intent_stands(factory: Factory) -> None:
    """A send that is cancelled while its intent is being recorded has sent nothing."""
    barrier, swallowing = Barrier(), Swallowing()
    async with raw_server(swallowing) as server:
        async with client(factory, server.origin) as upstream:
            send = a_send(body=b"amount=1", before_bytes=barrier)
            async with meanwhile(upstream.send(send)) as sending:
                await soon(barrier.asked.wait())
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await soon(sending)
            barrier.may_leave.set()
            await soon(swallowing.ended.wait())  # its connection is closed, too

        assert not send.sent
        assert bytes(server.connections[0].received) == b""


async def test_cancelled_after_the_intent_stood(factory: Factory) -> None:
    """A send that is cancelled later says that bytes may have left, and its connection ends."""
    swallowing = Swallowing()
    async with raw_server(swallowing) as server, client(factory, server.origin) as upstream:
        send = a_send(body=b"amount=1")
        async with meanwhile(upstream.send(send)) as sending:
            await until(lambda: server.requests)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await soon(sending)
        await soon(swallowing.ended.wait())

        assert send.sent


async def test_time_up_before_the_intent_stands(factory: Factory, loop_time: LoopTime) -> None:
    """An intent that takes too long to record is a send that did not happen."""
    barrier, swallowing = Barrier(), Swallowing()
    async with raw_server(swallowing) as server:
        async with client(factory, server.origin) as upstream:
            send = a_send(before_bytes=barrier, attempt_timeout=30)
            async with meanwhile(upstream.send(send)) as sending:
                await soon(barrier.asked.wait())
                await loop_time.forward(31)
                facts = await soon(sending)
        await soon(swallowing.ended.wait())

        assert not facts.sent
        assert facts.phase is Phase.CONNECTING
        assert bytes(server.connections[0].received) == b""


# --- faults before a byte left --------------------------------------------------------------------


async def test_refused(factory: Factory) -> None:
    """Nobody listens: not sent."""
    async with client(factory, f"http://127.0.0.1:{free_port()}") as upstream:
        facts = await soon(upstream.send(a_send()))

    assert seen(facts) == (False, Phase.CONNECTING, Reason.CONNECTION_REFUSED)


async def test_name_not_found(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's name is not known: not sent."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    async with client(factory, "http://gateway.invalid") as upstream:
        facts = await soon(upstream.send(a_send()))

    assert seen(facts) == (False, Phase.CONNECTING, Reason.DNS_ERROR)


@pytest.mark.parametrize(
    ("connect_timeout", "attempt_timeout"), [(0.05, 30.0), (30.0, 0.05)], ids=["connect", "attempt"]
)
async def test_a_connection_that_never_stands(
    factory: Factory, connect_timeout: float, attempt_timeout: float
) -> None:
    """Whichever time is up first: not sent."""
    with full_backlog() as port:
        async with client(factory, f"http://127.0.0.1:{port}") as upstream:
            send = a_send(connect_timeout=connect_timeout, attempt_timeout=attempt_timeout)
            facts = await soon(upstream.send(send))

    assert seen(facts) == (False, Phase.CONNECTING, Reason.CONNECT_TIMEOUT)


async def test_a_tls_handshake_that_never_ends(factory: Factory, trusted: Authority) -> None:
    """The handshake is part of connecting: not sent."""
    async with raw_server(Swallowing()) as server:
        origin = server.origin.replace("http:", "https:")
        async with client(factory, origin, trusted.ca_file) as upstream:
            facts = await soon(upstream.send(a_send(connect_timeout=0.05)))

        assert seen(facts) == (False, Phase.CONNECTING, Reason.CONNECT_TIMEOUT)
        assert server.requests == 0


async def _not_tls(connection: RawConnection) -> None:
    await connection.reader.read(1)
    await connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def test_a_server_without_tls(factory: Factory, trusted: Authority) -> None:
    """An https origin whose server speaks plain HTTP: not sent."""
    async with raw_server(_not_tls) as server:
        origin = server.origin.replace("http:", "https:")
        async with client(factory, origin, trusted.ca_file) as upstream:
            facts = await soon(upstream.send(a_send()))

    assert seen(facts) == (False, Phase.CONNECTING, Reason.TLS_ERROR)


@pytest.mark.parametrize("end", End)
async def test_a_connection_that_ends_in_the_handshake(
    factory: Factory, trusted: Authority, end: End
) -> None:
    """The handshake begins and the other side goes away: not sent."""

    async def script(connection: RawConnection) -> None:
        await connection.reader.read(1)
        connection.reset() if end is End.RESET else connection.close()

    async with raw_server(script) as server:
        origin = server.origin.replace("http:", "https:")
        async with client(factory, origin, trusted.ca_file) as upstream:
            facts = await soon(upstream.send(a_send()))

    assert (facts.sent, facts.phase) == (False, Phase.CONNECTING)
    assert facts.reason in {Reason.TLS_ERROR, Reason.CONNECT_FAILED}


# --- TLS ------------------------------------------------------------------------------------------


async def test_tls_by_a_given_authority(factory: Factory, trusted: Authority) -> None:
    """A certificate of the authority in `ca_file` is trusted; requests go through as ever."""
    async with raw_server(always(), trusted.server()) as server:
        origin = server.origin.replace("http:", "https:")
        async with client(factory, origin, trusted.ca_file) as upstream:
            for _ in range(2):
                facts = await soon(upstream.send(a_send(body=b"amount=1")))

                assert (facts.body, seen(facts)) == (b"ok", ANSWERED)
        assert (server.requests, len(server.connections)) == (2, 1)


BAD_CERTIFICATES: dict[str, Callable[[Authority, Authority], ssl.SSLContext]] = {
    "unknown authority": lambda _trusted, other: other.server(),
    "another name": lambda trusted, _other: trusted.server("gateway.example"),
    "expired": lambda trusted, _other: trusted.server(expired=True),
}


@pytest.mark.parametrize("context_of", BAD_CERTIFICATES.values(), ids=BAD_CERTIFICATES)
async def test_a_certificate_that_does_not_fit(
    factory: Factory,
    trusted: Authority,
    tmp_path: Path,
    context_of: Callable[[Authority, Authority], ssl.SSLContext],
) -> None:
    """The certificate is always checked, in full: not sent."""
    other = authority(tmp_path / "other", "Another authority")
    async with raw_server(always(), context_of(trusted, other)) as server:
        origin = server.origin.replace("http:", "https:")
        async with client(factory, origin, trusted.ca_file) as upstream:
            facts = await soon(upstream.send(a_send()))

        assert seen(facts) == (False, Phase.CONNECTING, Reason.TLS_ERROR)
        assert server.requests == 0


async def test_an_authority_of_its_own_is_not_trusted_by_default(
    factory: Factory, trusted: Authority
) -> None:
    """Without `ca_file` the system's authorities count, and ours is none of them."""
    async with raw_server(always(), trusted.server()) as server:
        origin = server.origin.replace("http:", "https:")
        async with client(factory, origin) as upstream:
            facts = await soon(upstream.send(a_send()))

    assert seen(facts) == (False, Phase.CONNECTING, Reason.TLS_ERROR)


# --- faults after a byte may have left ------------------------------------------------------------

LOST: Seen = (True, Phase.AWAITING_RESPONSE, Reason.CONNECTION_LOST)
MALFORMED: Seen = (True, Phase.AWAITING_RESPONSE, Reason.ANSWER_MALFORMED)
TRUNCATED: Seen = (True, Phase.READING_RESPONSE, Reason.ANSWER_TRUNCATED)
LATE: Seen = (True, Phase.AWAITING_RESPONSE, Reason.ATTEMPT_TIMEOUT)
LATE_BODY: Seen = (True, Phase.READING_RESPONSE, Reason.ATTEMPT_TIMEOUT)
TOO_LARGE: Seen = (True, Phase.READING_RESPONSE, Reason.ANSWER_TOO_LARGE)

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\n"


@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("reads", [True, False], ids=["after reading", "before reading"])
async def test_the_connection_ends_without_an_answer(
    factory: Factory, end: End, reads: bool
) -> None:
    """RST or FIN, with the request read or not: nobody can say what the gateway did."""
    async with ending_server(end, reads=reads, answered_before=0) as server:
        async with client(factory, server.origin) as upstream:
            facts = await soon(upstream.send(a_send(body=b"amount=1")))

        assert seen(facts) == LOST
        assert server.heads == 1


def then(data: bytes, end: End | None) -> Script:
    """A script: take a request, send these bytes, end the connection (or keep it)."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(data)
        if end is End.RESET:
            await settle()  # what was sent arrives before the reset
            connection.reset()
        elif end is End.FIN:
            connection.close()
        else:
            await swallow(connection)

    return script


class Stepwise:
    """A script: take a request, and send each piece when the test says so."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self._turn = asyncio.Semaphore(0)
        self._sent = asyncio.Semaphore(0)

    async def __call__(self, connection: RawConnection) -> None:
        """Run for a connection."""
        await connection.request()
        for piece in self._pieces:
            await self._turn.acquire()
            await connection.send(piece)
            self._sent.release()
        await swallow(connection)

    async def step(self) -> None:
        """Send the next piece, and let it arrive."""
        self._turn.release()
        await soon(self._sent.acquire())
        await settle()


BROKEN: dict[str, tuple[bytes, End | None, Seen, int]] = {
    # what comes back, how the connection ends, what is known, the status if one was seen
    "half a status line": (b"HTTP/1.1 20", End.FIN, LOST, 0),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Le", End.FIN, LOST, 0),
    "half a head, reset": (b"HTTP/1.1 200 OK\r\nContent-Le", End.RESET, LOST, 0),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", None, MALFORMED, 0),
    "HTTP/2": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", None, MALFORMED, 0),
    "a broken header": (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", None, MALFORMED, 0),
    "no number for a status": (b"HTTP/1.1 2x0 OK\r\n\r\n", None, MALFORMED, 0),
    "a length that is none": (
        b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
        None,
        MALFORMED,
        0,
    ),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        None,
        MALFORMED,
        0,
    ),
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        None,
        MALFORMED,
        0,
    ),
    "a coding nobody asked for": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        None,
        MALFORMED,
        200,
    ),
    "a change of protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        None,
        MALFORMED,
        101,
    ),
    "a NUL in a header": (b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n", None, MALFORMED, 0),
    "a bare CR in a header": (
        b"HTTP/1.1 200 OK\r\nX-A: a\rX-B: b\r\nContent-Length: 2\r\n\r\nok",
        None,
        MALFORMED,
        0,
    ),
    "cut by length": (SIZED + b"hello", End.FIN, TRUNCATED, 200),
    "cut by length, reset": (SIZED + b"hello", End.RESET, TRUNCATED, 200),
    "cut before its body": (SIZED, End.FIN, TRUNCATED, 200),
    "cut in a chunk": (chunked(b"hello", end=b"a\r\nhe"), End.FIN, TRUNCATED, 200),
    "cut in a chunk, reset": (chunked(b"hello", end=b"a\r\nhe"), End.RESET, TRUNCATED, 200),
    "cut between chunks": (chunked(b"hello", end=b""), End.FIN, TRUNCATED, 200),
    "cut before the last line": (chunked(b"hello", end=b"0\r\n"), End.FIN, TRUNCATED, 200),
    "without a length, reset": (ENDLESS + b"hello", End.RESET, TRUNCATED, 200),
}


@pytest.mark.parametrize(("data", "end", "known", "status"), BROKEN.values(), ids=BROKEN)
async def test_broken_answers(
    factory: Factory, data: bytes, end: End | None, known: Seen, status: int
) -> None:
    """Every way an answer can break is an unknown outcome with its own reason and phase."""
    facts, server = await answer_to(factory, then(data, end), a_send(body=b"amount=1"))

    assert seen(facts) == known
    assert facts.status in {status, 0}
    assert facts.body == b""
    assert server.requests == 1


BROKEN_STREAMS = {
    name: (data, end)
    for name, (data, end, known, _) in BROKEN.items()
    if known == TRUNCATED and end is not None
}


@pytest.mark.parametrize(("data", "end"), BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
async def test_a_streamed_answer_that_breaks_off_says_so(
    factory: Factory, data: bytes, end: End
) -> None:
    """A stream that ends before the answer does raises: it never looks complete."""
    async with raw_server(then(data, end)) as server, client(factory, server.origin) as upstream:
        facts = await soon(upstream.send(a_send("GET", whole=False)))
        assert seen(facts) == ANSWERED

        with pytest.raises(Exception):  # noqa: B017, PT011 -- which one is the client's own affair
            await soon(body_of(facts))


async def test_a_chunk_size_that_is_no_number(factory: Factory) -> None:
    """Chunks that cannot be read are an answer that is not there."""
    data = chunked(b"hello", end=b"zz\r\nhello\r\n0\r\n\r\n")
    facts, _ = await answer_to(factory, then(data, None), a_send())

    assert facts.sent
    assert facts.reason in {Reason.ANSWER_TRUNCATED, Reason.ANSWER_MALFORMED}
    assert facts.body == b""


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (b"", LATE),
        (b"HTTP/1.1 200 OK\r\nContent-Le", LATE),
        (b"HTTP/1.1 100 Continue\r\n\r\n", LATE),
        (SIZED + b"hello", LATE_BODY),
        (chunked(b"hello", end=b""), LATE_BODY),
        (ENDLESS + b"hello", LATE_BODY),
    ],
    ids=["silence", "half a head", "interim", "half a body", "chunks stop", "no end"],
)
async def test_no_answer_in_time(
    factory: Factory, loop_time: LoopTime, data: bytes, known: Seen
) -> None:
    """The attempt's time is up wherever the answer stands; the phase says where."""
    script = Stepwise(data)
    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        send = a_send(body=b"amount=1", attempt_timeout=30)
        async with meanwhile(upstream.send(send)) as sending:
            await script.step()
            await loop_time.forward(31)
            facts = await soon(sending)

        assert seen(facts) == known
        assert server.requests == 1


async def test_an_answer_that_drips_does_not_stretch_the_attempt(
    factory: Factory, loop_time: LoopTime
) -> None:
    """The attempt's time is for the whole answer, not from byte to byte."""
    script = Stepwise(SIZED, b"1", b"2", b"3")
    async with (
        raw_server(script) as server,
        client(factory, server.origin) as upstream,
        meanwhile(upstream.send(a_send(attempt_timeout=30))) as sending,
    ):
        for _ in range(3):
            await script.step()
            await loop_time.forward(9)
            assert not sending.done()
        await script.step()
        await loop_time.forward(9)
        facts = await soon(sending)

    assert seen(facts) == LATE_BODY


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 9_000_000,
        chunked(b"x" * 600_000, b"x" * 9_000_000),
        ENDLESS + b"x" * 9_000_000,
    ],
    ids=["by length", "chunked", "no end"],
)
async def test_an_answer_over_the_limit(factory: Factory, answer: bytes) -> None:
    """What is larger than may be kept is not kept, and what is left of it meets nobody."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(answer if len(server.connections) == 1 else OK)
        await swallow(connection)

    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        lost = await soon(upstream.send(a_send(limit=1_000_000)))
        facts = await soon(upstream.send(a_send(limit=1_000_000)))

        assert seen(lost) == TOO_LARGE
        assert (lost.status, lost.body) == (200, b"")
        assert (facts.body, len(server.connections)) == (b"ok", 2)


@pytest.mark.parametrize(("size", "known"), [(1000, ANSWERED), (1001, TOO_LARGE)])
@pytest.mark.parametrize("sized", [True, False], ids=["by length", "chunked"])
async def test_the_limit_is_exact(factory: Factory, size: int, known: Seen, sized: bool) -> None:
    """The limit itself is allowed, one byte more is not."""
    body = b"x" * size
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
    facts, _ = await answer_to(factory, answer if sized else chunked(body), a_send(limit=1000))

    assert seen(facts) == known
    assert facts.body == (body if known == ANSWERED else b"")


# --- never twice ----------------------------------------------------------------------------------

DYING = [(end, reads) for end in End for reads in (True, False)]
DYING_IDS = [f"{end.value} {'after' if reads else 'before'} reading" for end, reads in DYING]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("end", "reads"), DYING, ids=DYING_IDS)
async def test_a_kept_alive_connection_that_dies_is_not_made_good(
    factory: Factory, method: str, end: End, reads: bool
) -> None:
    """The second request meets a dying connection: it arrives once, and its loss is told."""
    async with ending_server(end, reads=reads, answered_before=1) as server:
        async with client(factory, server.origin) as upstream:
            first = await soon(upstream.send(a_send("GET")))
            second = await soon(upstream.send(a_send(method, body=body_for(method))))

        assert seen(first) == ANSWERED
        assert seen(second) == LOST
        assert server.heads == 2
        assert server.connections == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("end", "reads"), DYING, ids=DYING_IDS)
async def test_a_new_connection_that_dies_is_not_made_good(
    factory: Factory, method: str, end: End, reads: bool
) -> None:
    """The same on the first request of a connection: exactly one head arrives per send."""
    async with ending_server(end, reads=reads, answered_before=0) as server:
        async with client(factory, server.origin) as upstream:
            facts = await soon(upstream.send(a_send(method, body=body_for(method))))

        assert seen(facts) == LOST
        assert server.heads == 1
        assert server.connections == 1


def body_for(method: str) -> bytes:
    """A body where the method has one."""
    return b"amount=1" if method in {"POST", "PUT", "PATCH"} else b""


async def test_an_idle_connection_that_was_closed_is_replaced(factory: Factory) -> None:
    """The peer closed a pooled connection while it was idle: the next send loses nothing."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(OK)
        connection.close()

    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        assert seen(await soon(upstream.send(a_send()))) == ANSWERED
        await settle()
        assert seen(await soon(upstream.send(a_send()))) == ANSWERED

        assert (server.requests, len(server.connections)) == (2, 2)


# --- keep-alive -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fresh", "connections"),
    [([False, False, False], 1), ([True, True], 2), ([False, True, False], 2)],
    ids=["reusing", "fresh", "mixed"],
)
async def test_connections_per_send(factory: Factory, fresh: list[bool], connections: int) -> None:
    """A connection is used again unless the send wants one of its own."""
    async with raw_server(always()) as server, client(factory, server.origin) as upstream:
        for wanted in fresh:
            assert seen(await soon(upstream.send(a_send(fresh=wanted)))) == ANSWERED

        assert server.requests == len(fresh)
        assert len(server.connections) == connections


async def test_a_connection_the_server_wants_closed_is_not_used_again(factory: Factory) -> None:
    """`Connection: close` is obeyed."""
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with raw_server(always(answer)) as server, client(factory, server.origin) as upstream:
        for _ in range(2):
            assert seen(await soon(upstream.send(a_send()))) == ANSWERED

        assert len(server.connections) == 2


async def test_a_connection_with_an_open_answer_is_not_used_again(
    factory: Factory, loop_time: LoopTime
) -> None:
    """After a time-out the late answer meets nobody: the next send has its own connection."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        if len(server.connections) > 1:
            await connection.send(OK)
        await swallow(connection)

    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        async with meanwhile(upstream.send(a_send(attempt_timeout=30))) as sending:
            await until(lambda: server.requests)
            await loop_time.forward(31)
            assert seen(await soon(sending)) == LATE
        facts = await soon(upstream.send(a_send()))

        assert (facts.body, seen(facts)) == (b"ok", ANSWERED)
        assert len(server.connections) == 2


async def test_a_connection_of_a_cancelled_send_is_not_used_again(factory: Factory) -> None:
    """Nor does the answer to a cancelled send meet the next one."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        if len(server.connections) > 1:
            await connection.send(OK)
        await swallow(connection)

    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        async with meanwhile(upstream.send(a_send())) as sending:
            await until(lambda: server.requests)
        assert sending.cancelled()
        facts = await soon(upstream.send(a_send()))

        assert (facts.body, seen(facts)) == (b"ok", ANSWERED)
        assert len(server.connections) == 2


async def test_bytes_behind_an_answer_are_nobodys(factory: Factory) -> None:
    """A second answer that nobody asked for is not taken for the next send's."""
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            await connection.send(OK + evil)

    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        for _ in range(3):
            facts = await soon(upstream.send(a_send()))
            if facts.reason is None:
                assert facts.body == b"ok"
        assert server.requests == 3


# --- time -----------------------------------------------------------------------------------------


def near(timers: list[float], wanted: float) -> list[float]:
    """Those of the timers that stand for a time-out of `wanted` seconds: right, or rounded up."""
    return [seconds for seconds in timers if wanted - 0.05 <= seconds <= wanted + 1.1]


@pytest.mark.parametrize("seconds", [0.75, 5.2, 17.3, 42.1])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])
async def test_the_attempt_timeout_is_exact(
    factory: Factory, loop_time: LoopTime, seconds: float, whole: bool
) -> None:
    """Every timer set for the attempt is due within 50 ms of what was asked; none is rounded up."""
    async with raw_server(always()) as server, client(factory, server.origin) as upstream:
        await loop_time.to_fraction(0.1)  # from where rounding to whole seconds would show
        send = a_send("GET", whole=whole, attempt_timeout=seconds, connect_timeout=90)
        facts = await upstream.send(send)
        timers = near(loop_time.timers, seconds)

        assert await body_of(facts) == b"ok"
        assert timers
        assert [timer for timer in timers if abs(timer - seconds) > 0.05] == []


@pytest.mark.parametrize("seconds", [0.75, 5.2, 17.3, 42.1])
async def test_the_connect_timeout_is_exact(
    factory: Factory, loop_time: LoopTime, seconds: float
) -> None:
    """The same for the time to connect."""
    async with raw_server(always()) as server, client(factory, server.origin) as upstream:
        await loop_time.to_fraction(0.1)
        send = a_send("GET", connect_timeout=seconds, attempt_timeout=90)
        facts = await upstream.send(send)
        timers = near(loop_time.timers, seconds)

        assert seen(facts) == ANSWERED
        assert timers
        assert [timer for timer in timers if abs(timer - seconds) > 0.05] == []


async def test_the_attempt_timeout_fires(factory: Factory) -> None:
    """On the real clock, with a small value."""
    async with raw_server(Swallowing()) as server, client(factory, server.origin) as upstream:
        facts = await soon(upstream.send(a_send(attempt_timeout=0.2)))

    assert facts.reason in {Reason.ATTEMPT_TIMEOUT, Reason.CONNECT_TIMEOUT}


async def test_a_streamed_answer_that_stops_ends(factory: Factory, loop_time: LoopTime) -> None:
    """A streamed answer may take long, but not stand still longer than the attempt's time."""
    async with (
        raw_server(then(SIZED + b"hello", None)) as server,
        client(factory, server.origin) as upstream,
    ):
        facts = await soon(upstream.send(a_send("GET", whole=False, attempt_timeout=30)))
        assert seen(facts) == ANSWERED

        await loop_time.forward(31)
        with pytest.raises(Exception):  # noqa: B017, PT011 -- which one is the client's own affair
            await soon(body_of(facts))


async def test_a_streamed_answer_may_take_longer_than_an_attempt(
    factory: Factory, loop_time: LoopTime
) -> None:
    """Only standing still is timed: a download is not cut off for being long."""
    pieces = [b"1", b"2", b"3", b"4"]
    script = Stepwise(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", *pieces)
    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        send = a_send("GET", whole=False, attempt_timeout=30)
        async with meanwhile(upstream.send(send)) as sending:
            await script.step()
            facts = await soon(sending)
        assert facts.stream is not None
        for piece in pieces:
            await loop_time.forward(20)
            await script.step()
            assert await soon(anext(facts.stream)) == piece
        assert [chunk async for chunk in facts.stream] == []


# --- streaming ------------------------------------------------------------------------------------


def arrived(server: RawServer, data: bytes) -> bool:
    """Whether a server's first connection has been sent these bytes."""
    return bool(server.connections) and data in server.connections[0].received


class Source:
    """A body that comes as a test wants it."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks
        self.turn = asyncio.Semaphore(0)  # released once per chunk that may come
        self.fails = False

    async def __call__(self) -> AsyncIterator[bytes]:
        """The body."""
        for chunk in self._chunks:
            await self.turn.acquire()
            if self.fails:
                message = "the backend hung up"
                raise ConnectionResetError(message)
            yield chunk


@pytest.mark.parametrize(
    ("headers", "framing"),
    [
        ((), (b"transfer-encoding", [b"chunked"])),
        ((("Content-Length", "8"),), (b"content-length", [b"8"])),
    ],
    ids=["chunked", "by length"],
)
async def test_a_streamed_body_is_passed_on_as_it_comes(
    factory: Factory, headers: Headers, framing: tuple[bytes, list[bytes]]
) -> None:
    """The gateway has the first chunk before the second exists, in the caller's own framing."""
    source = Source(b"1111", b"2222")
    async with raw_server(always()) as server, client(factory, server.origin) as upstream:
        send = a_send("POST", headers=headers, stream=source(), whole=False)
        async with meanwhile(upstream.send(send)) as sending:
            source.turn.release()
            await until(lambda: arrived(server, b"1111"))
            await settle()
            assert b"2222" not in server.connections[0].received
            assert not sending.done()

            source.turn.release()
            facts = await soon(sending)
        assert await body_of(facts) == b"ok"
        sent = message(bytes(server.connections[0].received))

        assert sent.values(framing[0]) == framing[1]
        assert (unchunked(sent.body) if not headers else sent.body) == b"11112222"
        assert sent.but(b"host", b"content-length", b"transfer-encoding") == []


async def test_a_streamed_body_waits_for_the_barrier(factory: Factory) -> None:
    """A body is not even asked for before the intent stands."""
    barrier, source = Barrier(), Source(b"1111")
    source.turn.release()
    async with raw_server(always()) as server, client(factory, server.origin) as upstream:
        send = a_send(stream=source(), whole=False, before_bytes=barrier)
        async with meanwhile(upstream.send(send)) as sending:
            await soon(barrier.asked.wait())
            await settle()
            assert not source.turn.locked()
            assert b"".join(bytes(c.received) for c in server.connections) == b""

            barrier.may_leave.set()
            assert seen(await soon(sending)) == ANSWERED


@pytest.mark.parametrize("headers", [(), (("Content-Length", "8"),)], ids=["chunked", "by length"])
async def test_a_streamed_body_that_breaks_off_breaks_off(
    factory: Factory, headers: Headers
) -> None:
    """The caller goes away in the middle: the gateway sees no clean end, and who left is told."""
    source, swallowing = Source(b"1111", b"2222"), Swallowing()
    async with raw_server(swallowing) as server, client(factory, server.origin) as upstream:
        send = a_send(headers=headers, stream=source(), whole=False)
        async with meanwhile(upstream.send(send)) as sending:
            source.turn.release()
            await until(lambda: arrived(server, b"1111"))
            source.fails = True
            source.turn.release()
            facts = await soon(sending)
        await soon(swallowing.ended.wait())

        assert (facts.sent, facts.reason) == (True, Reason.CLIENT_ABORTED)
        sent = message(bytes(server.connections[0].received))
        assert sent.body in (b"1111", b"4\r\n1111\r\n")


async def test_an_answer_before_the_end_of_a_streamed_body(factory: Factory) -> None:
    """A gateway that refuses early is heard, though the body has not ended."""
    source = Source(b"1111", b"2222")
    answer = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"

    async def script(connection: RawConnection) -> None:
        while b"1111" not in connection.received:
            connection.received += await connection.reader.read(65536)
        await connection.send(answer)
        connection.close()

    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        source.turn.release()
        send = a_send(headers=(("Content-Length", "8"),), stream=source(), whole=False)
        facts = await soon(upstream.send(send))

        assert (facts.status, await body_of(facts)) == (413, b"no")
        assert server.requests == 1


@pytest.mark.parametrize("whole", [True, False], ids=["whole answer", "streamed answer"])
async def test_a_gateway_that_stops_taking_a_streamed_body(factory: Factory, whole: bool) -> None:
    """A body that nobody takes is not pushed for ever: standing still is timed."""

    async def deaf(connection: RawConnection) -> None:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.get_running_loop().create_future()

    async def flood() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    async with raw_server(deaf) as server, client(factory, server.origin) as upstream:
        send = a_send(stream=flood(), whole=whole, attempt_timeout=0.2)
        facts = await soon(upstream.send(send))

    assert (facts.sent, facts.reason) == (True, Reason.ATTEMPT_TIMEOUT)


@pytest.mark.parametrize("whole", [True, False], ids=["whole answer", "streamed answer"])
async def test_a_streamed_body_may_take_longer_than_an_attempt(
    factory: Factory, loop_time: LoopTime, whole: bool
) -> None:
    """The sender's own slowness is not the gateway's: it is not timed."""
    source = Source(b"1", b"2", b"3", b"4")
    async with raw_server(always()) as server, client(factory, server.origin) as upstream:
        send = a_send(stream=source(), whole=whole, attempt_timeout=30)
        async with meanwhile(upstream.send(send)) as sending:
            for piece in (b"1\r\n1", b"1\r\n2", b"1\r\n3", b"1\r\n4"):
                await loop_time.forward(40)
                source.turn.release()
                await until(partial(arrived, server, piece))
            facts = await soon(sending)

        assert (await body_of(facts), seen(facts)) == (b"ok", ANSWERED)


@pytest.mark.parametrize("whole", [True, False], ids=["whole answer", "streamed answer"])
async def test_no_answer_to_a_streamed_body(
    factory: Factory, loop_time: LoopTime, whole: bool
) -> None:
    """Once the body is out, the answer has the attempt's time to come."""
    source = Source(b"11112222")
    async with raw_server(Swallowing()) as server, client(factory, server.origin) as upstream:
        send = a_send(stream=source(), whole=whole, attempt_timeout=30)
        async with meanwhile(upstream.send(send)) as sending:
            source.turn.release()
            await until(lambda: server.requests)
            await loop_time.forward(29)
            assert not sending.done()
            await loop_time.forward(2)
            facts = await soon(sending)

        assert seen(facts) == LATE
        assert server.requests == 1


async def test_a_streamed_answer_is_there_as_it_comes(factory: Factory) -> None:
    """The first chunk can be read before the gateway has made the second."""
    go_on = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1111\r\n")
        await go_on.wait()
        await connection.send(b"4\r\n2222\r\n0\r\n\r\n")
        await swallow(connection)

    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        facts = await soon(upstream.send(a_send("GET", whole=False)))
        assert facts.stream is not None
        assert facts.body == b""
        assert await soon(anext(facts.stream)) == b"1111"

        go_on.set()
        assert [chunk async for chunk in facts.stream] == [b"2222"]


@pytest.mark.parametrize("read_first", [True, False], ids=["in the middle", "before the first"])
async def test_closing_a_stream_closes_its_connection(factory: Factory, read_first: bool) -> None:
    """Whoever lets go of an answer lets go of its connection, at once and not some day."""
    ended = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n1111")
        await swallow(connection)
        ended.set()

    async with raw_server(script) as server, client(factory, server.origin) as upstream:
        facts = await soon(upstream.send(a_send("GET", whole=False)))
        assert facts.stream is not None
        if read_first:
            assert await soon(anext(facts.stream)) == b"1111"
        await close_stream(facts.stream)
        await soon(ended.wait())
        assert len(server.connections) == 1

        again = await soon(upstream.send(a_send("GET", whole=False)))  # `facts` is still held
        assert len(server.connections) == 2
        await close_stream(again.stream)


async def test_a_stream_read_to_its_end_keeps_its_connection(factory: Factory) -> None:
    """A streamed answer that was read whole leaves a connection for the next send."""
    async with raw_server(always()) as server, client(factory, server.origin) as upstream:
        for _ in range(2):
            facts = await soon(upstream.send(a_send("GET", whole=False)))
            assert await body_of(facts) == b"ok"

        assert (server.requests, len(server.connections)) == (2, 1)
