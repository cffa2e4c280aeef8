"""A backend that hangs up changes nothing about its payment, and makes no noise.

On real runners: aiohttp's test server cancels handlers when the client goes, production does not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.raw import OK, RawConnection, always, exchange, raw_server
from tests.support.running import HoldfastProcess, policy, running
from tests.support.wire import PATIENCE, End, message, settle, soon, swallow, until

BODY = b"amount=1999&currency=eur"
HEAD = (
    b"POST /v1/payment_intents HTTP/1.1\r\n"
    b"Host: a\r\n"
    b"Authorization: Bearer sk_test_hangup\r\n"
    b"Idempotency-Key: k-1\r\n"
    b"X-Payment-Order-Id: order-1\r\n"
)
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
SUCCEEDED = b'{"id":"pi_1","object":"payment_intent","status":"succeeded"}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: application/json\r\n"
    b"Request-Id: req_1\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(SUCCEEDED), SUCCEEDED)
)


async def hang_up(writer: asyncio.StreamWriter, end: End) -> None:
    """Go away, and let it be seen."""
    if end is End.RESET:
        RawConnection(asyncio.StreamReader(), writer).reset()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    await settle()


async def sessions_of(api: str, order: str) -> list[dict[str, Any]]:
    """The sessions of an order, as the session API shows them."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{api}/sessions", params={"orderId": order}) as answer,
    ):
        found: list[dict[str, Any]] = (await answer.json())["sessions"]
        return found


async def ended_session(api: str, order: str) -> dict[str, Any]:
    """The one session of an order, once it has come to its end."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await sessions_of(api, order)
            if found and found[0]["status"] not in {"INITIATED", "RESUMED", "INTERRUPTED"}:
                assert len(found) == 1
                return found[0]
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("store", ["memory://", "sqlite:///holdfast.db"], ids=["memory", "sqlite"])
@pytest.mark.parametrize("end", End)
async def test_a_payment_outlives_its_client(tmp_path: Path, end: End, store: str) -> None:
    """The client goes while the gateway charges: the charge is recorded, and the repeat gets it."""
    may_answer = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await may_answer.wait()
        await connection.send(ANSWER)
        await swallow(connection)

    async with (
        raw_server(script) as gateway,
        running(tmp_path, policy(gateway.origin, store=store)) as holdfast,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", holdfast.port)
        writer.write(REQUEST)
        await until(lambda: gateway.requests)
        await hang_up(writer, end)
        assert not gateway.connections[0].reader.at_eof()  # the gateway's client is still there

        may_answer.set()
        session = await ended_session(holdfast.api, "order-1")
        repeat = message(await soon(exchange(holdfast.port, REQUEST)))

        assert (session["status"], session["outcome"]) == ("COMPLETED", "charged")
        assert session["attempts"] == 1
        assert session["metadata"]["interruptions"] == []
        assert repeat.start == b"HTTP/1.1 200 OK"
        assert repeat.body == SUCCEEDED
        assert repeat.values(b"idempotent-replayed") == [b"true"]
        assert repeat.values(b"request-id") == [b"req_1"]
        assert repeat.values(b"x-payment-session-id") == [session["sessionId"].encode()]
        assert gateway.requests == 1


@pytest.mark.parametrize("end", End)
async def test_the_repeat_is_the_answer_the_client_missed(tmp_path: Path, end: End) -> None:
    """Two repeats of a payment whose client left, and the answer one that stayed got: the same."""
    may_answer = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            await may_answer.wait()
            await connection.send(ANSWER)

    async with (
        raw_server(script) as gateway,
        running(tmp_path, policy(gateway.origin)) as holdfast,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", holdfast.port)
        writer.write(REQUEST)
        await until(lambda: gateway.requests)
        # A second click, joined to the first while it is still at the gateway.
        joined = asyncio.ensure_future(exchange(holdfast.port, REQUEST))
        await settle()
        await hang_up(writer, end)
        may_answer.set()

        answers = [message(await soon(joined))]
        answers += [message(await soon(exchange(holdfast.port, REQUEST))) for _ in range(2)]

        assert {answer.body for answer in answers} == {SUCCEEDED}
        assert {answer.start for answer in answers} == {b"HTTP/1.1 200 OK"}
        assert [answer.values(b"idempotent-replayed") for answer in answers] == [[b"true"]] * 3
        assert answers[1] == answers[2]
        assert gateway.requests == 1


async def test_a_client_that_left_before_its_answer_was_lost(tmp_path: Path) -> None:
    """The client goes and the gateway's first answer is lost: the repeat under the key goes on."""
    may_answer = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await may_answer.wait()
        if len(gateway.connections) == 1:
            connection.reset()
            return
        await connection.send(ANSWER)
        await swallow(connection)

    async with (
        raw_server(script) as gateway,
        running(tmp_path, policy(gateway.origin)) as holdfast,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", holdfast.port)
        writer.write(REQUEST)
        await until(lambda: gateway.requests)
        await hang_up(writer, End.RESET)
        may_answer.set()
        session = await ended_session(holdfast.api, "order-1")

        assert (session["status"], session["outcome"]) == ("COMPLETED", "charged")
        assert session["attempts"] == 2
        first, second = (message(bytes(c.received)) for c in gateway.connections)
        assert (first.lines, first.body) == (second.lines, second.body)


# --- what is logged -------------------------------------------------------------------------------

SECRET = b"sk_live_51SecretOfTheShop"


@contextlib.asynccontextmanager
async def in_front_of(origin: str, folder: Path) -> AsyncIterator[HoldfastProcess]:
    """A Holdfast in a process of its own, whose whole output is its log."""
    more = "defaults: {max_body: 64KiB}\nshutdown: {drain: 100ms}\n"
    process = HoldfastProcess(folder, origin, more)
    await process.start()
    try:
        yield process
    finally:
        assert await process.stop() == 0


async def _endless(connection: RawConnection) -> None:
    """Answers one path with an endless body, holds another back, and answers the rest."""
    while True:
        head = await connection.reader.readuntil(b"\r\n\r\n")
        if b"/v1/endless" in head:
            await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await connection.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        elif b"/v1/silent" in head or b"/v1/files" in head:
            await swallow(connection)
            return
        else:
            await connection.send(OK)


LEFT: dict[str, tuple[bytes, bytes]] = {
    # what the client sends, and what it waits for before it goes
    "in its head": (b"POST /v1/charges HTTP/1.1\r\nHost: a\r\nX-Key: " + SECRET, b""),
    "in a payment's body": (HEAD + b"Content-Length: 500\r\n\r\namount=", b""),
    "in a payment's chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\namount=", b""),
    "before 100 is used": (
        HEAD + b"Expect: 100-continue\r\nContent-Length: 500\r\n\r\n",
        b"100 Continue",
    ),
    "in an upload": (
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\npart",
        b"",
    ),
    "in a chunked upload": (
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        b"",
    ),
    "before an answer": (b"GET /v1/silent HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "in a download": (b"GET /v1/endless HTTP/1.1\r\nHost: a\r\n\r\n", b"xxxx"),
    "after its answer": (b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n", b"ok"),
    "behind a refusal": (HEAD + b"Content-Length: 90000\r\n\r\n" + b"x" * 9000, b"413"),
    "in the second of two": (
        b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/silent HTTP/1.1\r\nHost: a\r\n\r\n",
        b"ok",
    ),
}


async def test_clients_that_leave_are_not_news(tmp_path: Path) -> None:
    """Whenever and however a client goes: no traceback, no error, and Holdfast serves on."""
    async with raw_server(_endless) as gateway:
        async with in_front_of(gateway.origin, tmp_path) as process:
            for sent, awaited in LEFT.values():
                for end in End:
                    reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
                    writer.write(sent)
                    await writer.drain()
                    if awaited:
                        await soon(reader.readuntil(awaited))
                    await hang_up(writer, end)
            last = b"GET /v1/last HTTP/1.1\r\nHost: a\r\n\r\n"
            assert message(await soon(exchange(process.port, last))).body == b"ok"
        lines = process.log_lines()
        text = process.log_path.read_text()

    assert "Traceback" not in text
    assert [line for line in lines if line["level"] in {"error", "critical"}] == []
    assert [line for line in lines if line["event"] in {"library", "internal error"}] == []


async def test_an_answer_that_breaks_off_for_nobody_is_not_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client has gone, then the gateway's answer breaks off: there is nobody left to tell."""
    may_break = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npiece")
        await may_break.wait()
        connection.reset()

    async with (
        raw_server(script) as gateway,
        running(tmp_path, policy(gateway.origin)) as holdfast,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", holdfast.port)
        writer.write(b"GET /v1/files HTTP/1.1\r\nHost: a\r\n\r\n")
        await soon(reader.readuntil(b"piece"))
        await hang_up(writer, End.RESET)
        may_break.set()
        await settle()
    assert [record.getMessage() for record in caplog.records] == []


MALFORMED: dict[str, bytes] = {
    "a control character": HEAD + b"X-Key: " + SECRET + b"\x01\r\n\r\n",
    "a folded header": HEAD + b"X-Key: a\r\n " + SECRET + b"\r\n\r\n",
    "no colon": HEAD + SECRET + b"\r\n\r\n",
    "a space in a name": HEAD + b"X Key: " + SECRET + b"\r\n\r\n",
    "too long": HEAD + b"X-Key: " + SECRET * 1000 + b"\r\n\r\n",
    "too long a name": HEAD + SECRET * 1000 + b": 1\r\n\r\n",
    "too long a target": b"GET /" + SECRET * 1000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a broken target": b"GET /" + SECRET + b"\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target without a slash": b"GET " + SECRET + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a broken method": SECRET + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a broken version": b"GET /" + SECRET + b" HTTP/9.1\r\nHost: a\r\n\r\n",
    "a broken length": HEAD + b"Content-Length: " + SECRET + b"\r\n\r\n",
    "a broken coding": HEAD + b"Transfer-Encoding: " + SECRET + b"\r\n\r\n",
    "two hosts": HEAD + b"Host: " + SECRET + b"\r\n\r\n",
    "a broken chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + SECRET + b"\r\n",
    "a broken chunk later": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nlots\r\n" + SECRET + b"\r\n"
    ),
    "a refused target": b"GET /" + SECRET + b"? HTTP/1.1\r\nHost: a\r\n\r\n",
    "a refused key": HEAD + b"idempotency-key: " + SECRET + b"\r\nContent-Length: 0\r\n\r\n",
    "a refused order": HEAD + b"X-Payment-User-Id: " + SECRET + b" x\r\nContent-Length: 0\r\n\r\n",
    "bytes that are not UTF-8": HEAD + b"X-Key: " + SECRET + b"\xff\r\nContent-Length: 0\r\n\r\n",
}


async def test_malformed_requests_leave_no_bytes_in_the_log(tmp_path: Path) -> None:
    """Whatever is wrong with a request, nothing of it is written down, and it has its 4xx."""
    async with raw_server(always()) as gateway:
        async with in_front_of(gateway.origin, tmp_path) as process:
            for name, request in MALFORMED.items():
                answer = await soon(exchange(process.port, request, until_closed=True))
                assert answer.split(b" ")[1][:1] == b"4", name
        log = process.log_path.read_bytes()

        assert gateway.connections == []
    assert b"Secret" not in log
    assert b"sk_live" not in log
    assert b"order-1" not in log
    assert b"Traceback" not in log
    # It does write, but not for every stranger: whoever can connect could fill the log.
    assert [line["event"] for line in process.log_lines()] == ["ready", "stopping", "stopped"]
