"""A caller that says how long it waits, on real sockets: it gives up and asks again, and the
gateway's ledger says that it was charged once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.demo.gateway import SimulatedGateway
from tests.e2e.policies import holdfast
from tests.e2e.sdks import PAID, Opener, Params, class_name
from tests.support.raw import RawConnection, exchange, raw_server
from tests.support.running import Running, free_port, simulated
from tests.support.tcp_faults import Fault, TcpFaults, tcp_faults
from tests.support.wire import Message, message, soon

ORDER: Params = {**PAID, "metadata": {"order_id": "o-1"}}
BODY = b"amount=1999&currency=eur&payment_method=pm_card_visa&confirm=true&metadata[order_id]=o-1"
DEADLINES = [b"x-envoy-expected-rq-timeout-ms: 300", b"grpc-timeout: 300m", b"Prefer: a, wait=1"]


@dataclass(frozen=True, slots=True)
class Shop:
    """A Holdfast before a gateway that charges at once and whose answer is held back."""

    proxy: Running
    gateway: SimulatedGateway
    way: TcpFaults
    answer: asyncio.Event

    async def pays(self, key: bytes, *more: bytes, port: int | None = None) -> Message:
        """One request on a connection of its own, and its answer."""
        lines = [
            b"POST /v1/payment_intents HTTP/1.1",
            b"Host: a",
            b"Authorization: Bearer sk_test_deadlines",
            b"Content-Type: application/x-www-form-urlencoded",
            b"Idempotency-Key: " + key,
            b"Content-Length: %d" % len(BODY),
            *more,
        ]
        request = b"\r\n".join(lines) + b"\r\n\r\n" + BODY
        return message(await soon(exchange(port or self.proxy.port, request)))

    def forwarded(self) -> bytes:
        """What the gateway was sent."""
        return b"".join(bytes(connection.sent) for connection in self.way.connections)


@contextlib.asynccontextmanager
async def shop(folder: Path) -> AsyncIterator[Shop]:
    """Everything on real sockets."""
    gateway, answer = SimulatedGateway(), asyncio.Event()
    async with (
        simulated(gateway) as origin,
        tcp_faults(int(origin.rsplit(":", 1)[1]), Fault(hold_answer_until=answer)) as way,
        holdfast(folder, way.url) as proxy,
    ):
        yield Shop(proxy, gateway, way, answer)


ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: holdfast
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: holdfast, timeout: 1s}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: holdfast
    load_assignment:
      cluster_name: holdfast
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"""  # noqa: E501 -- a type's name


@contextlib.asynccontextmanager
async def envoy(folder: Path, upstream: int) -> AsyncIterator[int]:
    """An Envoy that waits for one second; its port."""
    port, config = free_port(), folder / "envoy.yaml"
    config.write_text(ENVOY.format(port=port, upstream=upstream))
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("envoy"),
        *("-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"),
        *("--drain-time-s", "0", "--parent-shutdown-time-s", "1"),
    )
    try:
        await soon(_opened(port))
        yield port
    finally:
        process.kill()
        await process.wait()


async def _opened(port: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)


async def test_behind_an_envoy(tmp_path: Path) -> None:
    """It says by itself how long it waits, and hands on what is known before its own time-out."""
    async with shop(tmp_path) as stage, envoy(tmp_path, stage.proxy.port) as front:
        early = await stage.pays(b"k-1", port=front)
        stage.answer.set()
        true = await stage.pays(b"k-1", port=front)

    assert json.loads(early.body)["type"] == "/problems/wait-over"
    assert true.start == b"HTTP/1.1 200 OK"
    assert stage.gateway.ledger.per_order() == {"o-1": 1}


@pytest.mark.parametrize("says", DEADLINES, ids=["envoy", "grpc", "prefer"])
async def test_it_gives_up_asks_again_and_is_charged_once(tmp_path: Path, says: bytes) -> None:
    """The first answer says what is known, the repeat has the gateway's, the ledger one line."""
    async with shop(tmp_path) as stage:
        early = await stage.pays(b"k-1", says)
        stage.answer.set()
        true = await stage.pays(b"k-1", says)
        forwarded = stage.forwarded()

    assert early.start == b"HTTP/1.1 504 Gateway Timeout"
    known = json.loads(early.body)
    assert (known["type"], known["outcome"]) == ("/problems/wait-over", "unknown")
    assert (known["anythingSent"], known["safeToRepeat"]) == (True, True)
    assert early.values(b"connection") == []  # and the connection serves on
    assert true.start == b"HTTP/1.1 200 OK"
    assert json.loads(true.body)["status"] == "succeeded"
    assert true.values(b"x-payment-session-id") == [known["sessionId"].encode()]
    assert true.values(b"x-payment-attempts") == [b"1"]
    assert stage.gateway.ledger.per_order() == {"o-1": 1}
    assert (says in forwarded) is says.startswith(b"Prefer")


async def test_who_takes_the_early_answer_for_the_end_pays_twice(tmp_path: Path) -> None:
    """The negative control: a new key after the deadline is a second charge."""
    async with shop(tmp_path) as stage:
        await stage.pays(b"k-1", DEADLINES[0])
        stage.answer.set()
        await stage.pays(b"k-2")
        await stage.pays(b"k-1")

    assert stage.gateway.ledger.per_order() == {"o-1": 2}


async def test_an_sdk_repeats_by_itself_and_gets_the_answer(sdk: Opener, tmp_path: Path) -> None:
    """An Envoy between them says a deadline: the SDK's own retry joins the payment."""
    headers = {"x-envoy-expected-rq-timeout-ms": "300"}
    async with (
        shop(tmp_path) as stage,
        tcp_faults(stage.proxy.port) as counter,
        sdk(counter.url, 2, tmp_path) as client,
    ):
        call = asyncio.ensure_future(
            client.call("payment_intents.create", params=ORDER, headers=headers)
        )
        await soon((await counter.connection(1)).answered.wait())
        stage.answer.set()
        paid = await call

    assert (paid.raised, paid.body["status"]) == (None, "succeeded")
    assert paid.headers["idempotent-replayed"] == "true"
    assert counter.requests == 2
    assert stage.gateway.ledger.per_order() == {"o-1": 1}


async def test_an_sdk_that_does_not_repeat_hears_what_is_known(sdk: Opener, tmp_path: Path) -> None:
    """Without retries of its own the caller gets an exception with code and session."""
    headers = {"x-envoy-expected-rq-timeout-ms": "300"}
    async with shop(tmp_path) as stage, sdk(stage.proxy.url, 0, tmp_path) as client:
        heard = await client.call("payment_intents.create", params=ORDER, headers=headers)
        stage.answer.set()

    assert (heard.raised, heard.status) == (class_name(sdk, "APIError"), 504)
    assert heard.error_code == "wait_over"
    assert heard.headers["x-payment-session-id"].startswith("ps_")


READ = b"GET /v1/payment_intents/pi_1 HTTP/1.1\r\nHost: a\r\nprefer: wait=1\r\n\r\n"


async def test_a_read_in_time_streams_as_ever(tmp_path: Path) -> None:
    """Its head was waited for in another task than the one that passes its body on."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await connection.send(b"4\r\nhalf\r\n0\r\n\r\n")

    async with raw_server(script) as gateway, holdfast(tmp_path, gateway.origin) as proxy:
        answer = message(await soon(exchange(proxy.port, READ)))
    assert answer.start == b"HTTP/1.1 200 OK"
    assert answer.body.count(b"half") == 2


async def test_an_answer_to_a_read_that_nobody_waits_for_is_let_go(tmp_path: Path) -> None:
    """What comes after the deadline is not read, and its connection is closed."""
    late, gone = asyncio.Event(), asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await late.wait()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\npiece")
        await connection.reader.read()
        gone.set()

    async with raw_server(script) as gateway, holdfast(tmp_path, gateway.origin) as proxy:
        answer = message(await soon(exchange(proxy.port, READ)))
        late.set()
        await soon(gone.wait())
    assert answer.start == b"HTTP/1.1 504 Gateway Timeout"
    assert json.loads(answer.body)["safeToRepeat"] is True
