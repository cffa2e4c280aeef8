"""The SDK's own retries, with the same key, when it is Holdfast that cannot be heard.

The judge is the simulated gateway's ledger. It keeps keys as Stripe does; `arrivals` counts what
reached it, so that a repeat that Holdfast answered from its record shows.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from proxy.demo.gateway import SimulatedGateway
from tests.e2e.policies import holdfast
from tests.e2e.sdks import PAID, Heard, Opener, Sdk, class_name, stripe_node
from tests.support.running import HoldfastProcess, Running, free_port, simulated
from tests.support.tcp_faults import ANSWER_LOST, PASSES, REFUSED, Fault, tcp_faults
from tests.support.waiting import until

ORDER = {**PAID, "metadata": {"order_id": "o-1"}}


async def pay(shop: Sdk) -> Heard:
    """Pay the order with a key that the SDK makes by itself."""
    return await shop.call("payment_intents.create", params=ORDER)


def told(heard: Heard) -> tuple[str | None, str]:
    """The exception's class and the payment's state."""
    return heard.raised, heard.body["status"]


async def test_holdfast_cannot_be_reached_once(sdk: Opener, tmp_path: Path) -> None:
    """The first connection is reset before a byte is read: the retry pays, once."""
    gateway = SimulatedGateway()
    async with (
        simulated(gateway) as origin,
        holdfast(tmp_path, origin) as proxy,
        tcp_faults(proxy.port, REFUSED) as door,
        sdk(door.url, 2, tmp_path) as shop,
    ):
        heard = await pay(shop)

    assert told(heard) == (None, "succeeded")
    assert len(door.connections) == 2
    assert gateway.ledger.per_order() == {"o-1": 1}
    assert gateway.arrivals == {"o-1": 1}


async def test_holdfasts_answer_is_lost(sdk: Opener, tmp_path: Path) -> None:
    """Paid, but the SDK never heard: its retry gets the answer, the gateway is not asked."""
    gateway = SimulatedGateway()
    async with (
        simulated(gateway) as origin,
        holdfast(tmp_path, origin) as proxy,
        tcp_faults(proxy.port, ANSWER_LOST) as door,
        sdk(door.url, 2, tmp_path) as shop,
    ):
        heard = await pay(shop)
        duplicates = await _duplicates(proxy)

    assert told(heard) == (None, "succeeded")
    assert heard.headers["idempotent-replayed"] == "true"
    assert gateway.ledger.per_order() == {"o-1": 1}
    assert gateway.arrivals == {"o-1": 1}
    assert duplicates == {"replayed": 1}


async def test_the_connection_drops_while_the_payment_is_out(sdk: Opener, tmp_path: Path) -> None:
    """The gateway is still at work when the SDK tries again: the retry joins the same payment."""
    gateway, answer, drop = SimulatedGateway(), asyncio.Event(), asyncio.Event()
    async with (
        simulated(gateway) as origin,
        tcp_faults(int(origin.rsplit(":", 1)[1]), Fault(hold_answer_until=answer)) as behind,
        holdfast(tmp_path, behind.url) as proxy,
        tcp_faults(proxy.port, Fault(drop_at=drop)) as door,
        sdk(door.url, 2, tmp_path) as shop,
    ):
        paying = asyncio.ensure_future(pay(shop))
        await (await behind.connection(1)).answered.wait()
        drop.set()
        first, second = await door.connection(1), await door.connection(2)
        await until(lambda: len(second.sent) == len(first.sent))
        await _duplicates(proxy)  # a round trip: what arrived before it has been read
        answer.set()
        heard = await paying
        duplicates = await _duplicates(proxy)

    assert told(heard) == (None, "succeeded")
    assert gateway.ledger.per_order() == {"o-1": 1}
    assert gateway.arrivals == {"o-1": 1}
    assert duplicates == {"joined": 1}


async def test_holdfast_is_killed_while_the_payment_is_out(sdk: Opener, tmp_path: Path) -> None:
    """After a kill -9 the SDK's retry meets the new process, which asks with the same key."""
    gateway, never, back = SimulatedGateway(), asyncio.Event(), asyncio.Event()
    async with (
        simulated(gateway) as origin,
        tcp_faults(int(origin.rsplit(":", 1)[1]), Fault(hold_answer_until=never)) as behind,
    ):
        process = HoldfastProcess(tmp_path, behind.url)
        await process.start()
        try:
            async with (
                tcp_faults(process.port, PASSES, Fault(wait_for=back)) as door,
                sdk(door.url, 2, tmp_path) as shop,
            ):
                paying = asyncio.ensure_future(pay(shop))
                await (await behind.connection(1)).answered.wait()
                await process.kill()
                await process.start()
                back.set()
                heard = await paying
        finally:
            await process.kill()

    assert told(heard) == (None, "succeeded")
    assert heard.headers["x-payment-attempts"] == "2"
    assert gateway.ledger.per_order() == {"o-1": 1}
    assert gateway.arrivals == {"o-1": 2}
    assert {charge.key for charge in gateway.ledger.charges} == _keys(door.connections[0].sent)
    assert _keys(door.connections[1].sent) == _keys(door.connections[0].sent)


async def test_nobody_ever_answers(sdk: Opener, tmp_path: Path) -> None:
    """Holdfast is away for good: a connection error after three tries, and nothing is charged."""
    async with (
        tcp_faults(free_port()) as door,
        sdk(door.url, 2, tmp_path) as shop,
    ):
        heard = await pay(shop)

    assert heard.raised == class_name(sdk, "APIConnectionError")
    assert len(door.connections) == 3


async def test_stripe_nodes_one_retry_that_cannot_be_switched_off(
    sdk: Opener, tmp_path: Path
) -> None:
    """With no retries allowed, stripe-node still repeats after a reset, stripe-python does not."""
    gateway = SimulatedGateway()
    async with (
        simulated(gateway) as origin,
        holdfast(tmp_path, origin) as proxy,
        tcp_faults(proxy.port, ANSWER_LOST) as door,
        sdk(door.url, 0, tmp_path) as shop,
    ):
        heard = await pay(shop)

    expected = (2, None) if sdk is stripe_node else (1, "APIConnectionError")
    assert (door.requests, heard.raised) == expected
    assert gateway.ledger.per_order() == {"o-1": 1}
    assert gateway.arrivals == {"o-1": 1}


def _keys(sent: bytearray) -> set[str]:
    """The idempotency keys of the requests on a connection."""
    lines = bytes(sent).decode().split("\r\n")
    return {line.split(": ")[1] for line in lines if line.lower().startswith("idempotency-key:")}


async def _duplicates(proxy: Running) -> dict[str, int]:
    """holdfast_duplicates_total by verdict."""
    async with aiohttp.ClientSession() as http, http.get(f"{proxy.admin}/metrics") as answer:
        text = await answer.text()
    found = {}
    for line in text.splitlines():
        if line.startswith("holdfast_duplicates_total{") and not line.endswith(" 0.0"):
            verdict = line.split('verdict="')[1].split('"')[0]
            found[verdict] = int(float(line.rsplit(" ", 1)[1]))
    return found
