"""Answers with links, between a raw client and a raw gateway: what leads back to us, and what is
left as it came.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.raw import RawConnection, RawServer, Script, always, exchange, raw_server
from tests.support.running import Running, policy, running
from tests.support.wire import message, unchunked

PUBLIC = "https://api.gw.example"
PROFILE = """\
title: A gateway that answers with links
idempotency: {class: A_strong, window: 24h}
results:
  - {when: {status: [2xx]}, result: succeeded}
  - {when: {status: [4xx]}, result: rejected}
routes:
  - {name: pay, match: {methods: [POST], path: /pay}, session: durable}
links: {origins: [https://api.gw.example], headers: [Location]}
"""
UNLINKED = PROFILE[: PROFILE.index("links:")]
BODY = (
    b'{ "resource":"payment",\n  "amount": {"value": "10.00"}, "n": 1e2,\n'
    b'  "links": [{"rel": "self", "href": "https://api.gw.example/v2/payments/tr_1"}],\n'
    b'  "_links": {"checkout": {"href": "https://www.gw.example/checkout/1"},\n'
    b'             "self": {"href": "https:\\/\\/api.gw.example\\/v2\\/payments\\/tr_1"}} }\n'
)


def answer(body: bytes, *headers: str, status: str = "201 Created") -> bytes:
    """A gateway's answer."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


HAL = "Content-Type: application/hal+json; charset=utf-8"
LINKED = answer(BODY, HAL, "Location: https://api.gw.example/v2/payments/tr_1")


@contextlib.asynccontextmanager
async def between(
    folder: Path, script: Script | bytes, profile: str = PROFILE
) -> AsyncIterator[tuple[Running, RawServer]]:
    """A Holdfast in front of a raw gateway whose profile is this one."""
    (folder / "gateways").mkdir(exist_ok=True)
    (folder / "gateways/hal.yaml").write_text(profile)
    play = always(script) if isinstance(script, bytes) else script
    async with raw_server(play) as gateway:
        text = policy(gateway.origin, profile="hal", store="memory://")
        async with running(folder, text) as holdfast:
            yield holdfast, gateway


def asked(method: str, host: str, *headers: str, key: str = "k-1") -> bytes:
    """A request for the payment."""
    own = [f"Idempotency-Key: {key}", "Content-Length: 0"] if method == "POST" else []
    head = [
        f"{method} /pay HTTP/1.1",
        f"Host: {host}",
        "Accept-Encoding: gzip, deflate",
        *own,
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n"


def body_of(raw: bytes) -> bytes:
    """An answer's body, without its framing."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return unchunked(body) if b"transfer-encoding: chunked" in head.lower() else body


def here(host: str) -> bytes:
    """The body with links that lead to this host: the checkout page is elsewhere, and stays."""
    plain = BODY.replace(b"https://api.gw.example", b"http://" + host.encode())
    escaped = rb"http:\/\/" + host.encode()
    return plain.replace(rb"https:\/\/api.gw.example", escaped)


@pytest.mark.parametrize("method", ["POST", "GET"], ids=["durable", "streamed"])
async def test_links_lead_back(tmp_path: Path, method: str) -> None:
    """In the body and in the listed header; its length is right, every other byte is the same."""
    async with between(tmp_path, LINKED) as (holdfast, gateway):
        raw = await exchange(holdfast.port, asked(method, "shop.internal:8080"))
        assert message(raw).values(b"location") == [b"http://shop.internal:8080/v2/payments/tr_1"]
        assert body_of(raw) == here("shop.internal:8080")
        # What is coded could not be read, so nothing is asked to be.
        request = message(bytes(gateway.connections[0].received))
        assert request.values(b"accept-encoding") == [b"identity"]


@pytest.mark.parametrize("method", ["POST", "GET"], ids=["durable", "streamed"])
async def test_without_the_setting_nothing_is_touched(tmp_path: Path, method: str) -> None:
    """The control: the same answer leads around us, and the request is as it was sent."""
    async with between(tmp_path, LINKED, UNLINKED) as (holdfast, gateway):
        raw = await exchange(holdfast.port, asked(method, "shop.internal:8080"))
        assert message(raw).values(b"location") == [b"https://api.gw.example/v2/payments/tr_1"]
        assert body_of(raw) == BODY
        request = message(bytes(gateway.connections[0].received))
        assert request.values(b"accept-encoding") == [b"gzip, deflate"]


async def test_the_configured_origin_is_the_gateways_too(tmp_path: Path) -> None:
    """A gateway that names itself by the address that we reach it at (a sandbox, a stand-in)."""

    async def script(connection: RawConnection) -> None:
        head = await connection.request()
        host = message(head).values(b"host")[0].decode()
        body = f'{{"href": "http://{host}/a"}}'.encode()
        await connection.send(answer(body, "Content-Type: application/json"))

    async with between(tmp_path, script) as (holdfast, _):
        raw = await exchange(holdfast.port, asked("GET", "shop.internal"))
        assert body_of(raw) == b'{"href": "http://shop.internal/a"}'


async def test_a_replay_is_the_same_for_the_same_host(tmp_path: Path) -> None:
    """What is kept is the gateway's answer: asked again by another name, the links follow."""
    async with between(tmp_path, LINKED) as (holdfast, gateway):
        first = await exchange(holdfast.port, asked("POST", "shop.internal:8080"))
        again = await exchange(holdfast.port, asked("POST", "shop.internal:8080"))
        other = await exchange(holdfast.port, asked("POST", "127.0.0.1:8080"))
        assert gateway.requests == 1
        assert message(again).values(b"idempotent-replayed") == [b"true"]
        assert body_of(again) == body_of(first) == here("shop.internal:8080")
        assert body_of(other) == here("127.0.0.1:8080")
        assert message(other).values(b"location") == [b"http://127.0.0.1:8080/v2/payments/tr_1"]


LEFT = {
    "coded": (answer(gzip.compress(BODY, mtime=0), HAL, "Content-Encoding: gzip"), "shop"),
    "no JSON": (answer(BODY, "Content-Type: text/html"), "shop"),
    "no type": (answer(BODY), "shop"),
    "no host": (answer(BODY, HAL), "a'b"),
    "nothing to turn": (answer(b'{"href": "https://else.example/"}', HAL), "shop"),
}


@pytest.mark.parametrize("method", ["POST", "GET"], ids=["durable", "streamed"])
@pytest.mark.parametrize(("given", "host"), LEFT.values(), ids=LEFT)
async def test_what_is_left_as_it_came(
    tmp_path: Path, given: bytes, host: str, method: str
) -> None:
    """Coded against our wish, no JSON, no such link; and for a name that is no host."""
    async with between(tmp_path, given) as (holdfast, _):
        raw = await exchange(holdfast.port, asked(method, host))
        assert body_of(raw) == given.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("method", ["POST", "GET"], ids=["durable", "streamed"])
@pytest.mark.parametrize("sized", [True, False], ids=["by length", "chunked"])
async def test_a_body_over_the_bound_is_passed_on(tmp_path: Path, sized: bool, method: str) -> None:
    """It is not held in memory for its links: as it came, and whole."""
    filler = b'{"href": "https://api.gw.example/a", "x": "' + b"x" * 3 * 1024 * 1024 + b'"}'
    given = answer(filler, HAL)
    if not sized:
        head = f"HTTP/1.1 200 OK\r\n{HAL}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        given = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(filler), filler)
    async with between(tmp_path, given) as (holdfast, _):
        request = asked(method, "shop.internal", "Connection: close")
        raw = await exchange(holdfast.port, request, until_closed=True)
        assert body_of(raw) == filler


async def test_our_own_answers_are_ours(tmp_path: Path) -> None:
    """A refusal is not searched for links."""
    async with between(tmp_path, LINKED) as (holdfast, gateway):
        request = asked("POST", "shop.internal", "X-Payment-Session-Id: ps_unknown")
        raw = await exchange(holdfast.port, request)
        assert message(raw).start.startswith(b"HTTP/1.1 4")
        assert gateway.requests == 0


async def test_head_and_no_content(tmp_path: Path) -> None:
    """Where there is no body, none is made."""
    head_only = b"HTTP/1.1 200 OK\r\n" + HAL.encode() + b"\r\nContent-Length: 900\r\n\r\n"
    async with between(tmp_path, head_only) as (holdfast, _):
        request = asked("HEAD", "shop.internal", "Connection: close")
        raw = await exchange(holdfast.port, request, until_closed=True)
        assert raw.endswith(b"\r\n\r\n")
    async with between(tmp_path, b"HTTP/1.1 204 No Content\r\n\r\n") as (holdfast, _):
        request = asked("GET", "shop.internal", "Connection: close")
        raw = await exchange(holdfast.port, request, until_closed=True)
        assert raw.startswith(b"HTTP/1.1 204 No Content\r\n")
        assert raw.endswith(b"\r\n\r\n")


async def test_an_answer_that_breaks_off_breaks_off(tmp_path: Path) -> None:
    """Half an answer never looks whole, with links or without."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(LINKED[:-30])
        connection.reset()

    async with between(tmp_path, script) as (holdfast, _):
        request = asked("GET", "shop.internal")
        with contextlib.suppress(ConnectionResetError):
            raw = await exchange(holdfast.port, request, until_closed=True)
            assert not raw.endswith(b"0\r\n\r\n")
