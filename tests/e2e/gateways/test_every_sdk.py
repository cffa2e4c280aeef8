"""What holds for the SDK of every gateway: paid once, told the truth, and a refusal of Holdfast's
is an exception of the SDK's own. The judge is the ledger of the simulated gateway.

What is special of a gateway is in its own file.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.core.problems import problem
from proxy.core.refusals import Refusal
from proxy.demo.faults import Fault
from proxy.demo.simulator import Simulator
from tests.e2e.gateways.plain_shops import PLAIN_SHOPS
from tests.e2e.gateways.shops import SHOPS
from tests.e2e.gateways.trial import ONE_SEND, Heard, Shop, Trial, script, shipped, trial
from tests.support.raw import RawConnection, raw_server
from tests.support.running import simulated
from tests.support.stage import ScriptedFaults, http_answer

LOST = [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.TRUNCATED]


EVERY_SHOP = {**SHOPS, **PLAIN_SHOPS}


@pytest.fixture(params=EVERY_SHOP)
def shop(request: pytest.FixtureRequest) -> Shop:
    """Each shop in turn."""
    return EVERY_SHOP[request.param]


@pytest.fixture(params=[name for name, shop in EVERY_SHOP.items() if shop.declined is not None])
def told_at_once(request: pytest.FixtureRequest) -> Shop:
    """Each shop that hears of a decline when it pays."""
    return EVERY_SHOP[request.param]


def unknown(shop: Shop, heard: Heard) -> bool:
    """Whether a shop was told, by an exception, that nobody knows."""
    return heard.raised in shop.errors and (heard.status, heard.code) == (504, "outcome_unknown")


# --- a payment, and no fault ----------------------------------------------------------------------


async def test_a_payment_and_its_repeat(shop: Shop, tmp_path: Path) -> None:
    """Charged under the caller's own key; the repeat is told the same, and does not arrive."""
    async with trial(shop, tmp_path) as it:
        paid = await it.pay()
        again = await it.pay()
        outcome = await it.outcome()

    assert (paid.state, [paid.payment]) == (shop.paid, it.lines)
    assert again == paid
    assert it.gateway.arrivals == {"o-1": 1}
    assert it.ledger.charges[0].key == "k-1"
    assert outcome == ("COMPLETED", "charged")


async def test_a_decline_is_what_it_is_without_holdfast(told_at_once: Shop, tmp_path: Path) -> None:
    """The same exception or state as directly, and nothing was charged."""
    shop = told_at_once
    async with trial(shop, tmp_path) as it:
        declined = await it.pay(declined=True)
        outcome = await it.outcome()
    gateway = shop.simulator(ScriptedFaults({}))
    async with simulated(gateway) as origin, shop.sdk(origin) as sdk:
        directly = await asyncio.to_thread(shop.call, sdk, declined=True)

    assert declined == directly
    assert replace(declined, payment="", message="") == shop.declined
    assert outcome == ("DECLINED", "not_charged")
    assert it.lines == []


async def test_another_try_after_a_decline(told_at_once: Shop, tmp_path: Path) -> None:
    """Another card under a new key: the order is free again, and paid once."""
    shop = told_at_once
    async with trial(shop, tmp_path, route="order_lock: body") as it:
        await it.pay(declined=True)
        paid = await it.pay(key="k-2")

    assert (paid.state, [paid.payment]) == (shop.paid, it.lines)


# --- keys on the wire -----------------------------------------------------------------------------

Seen = tuple[list[tuple[str, str]], bytes]
# Of each connection for itself (RFC 9110), and Holdfast's own.
_PER_HOP = {"host", "connection", "via"}


def noting(shop: Shop, seen: list[Seen]) -> Shop:
    """The shop, before a gateway that notes the requests for payments as they arrive."""

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "oauth2" not in request.path:
            pairs = sorted((name.lower(), value) for name, value in request.headers.items())
            seen.append(([p for p in pairs if p[0] not in _PER_HOP], await request.read()))
        return await handler(request)

    def simulator(faults: ScriptedFaults) -> Simulator:
        gateway = shop.simulator(faults)
        app = gateway.app()
        app.middlewares.append(note)
        gateway.app = lambda: app  # type: ignore[method-assign]
        return gateway

    return replace(shop, simulator=simulator)


async def seen_for(shop: Shop, folder: Path, key: str | None) -> tuple[Seen, Seen]:
    """A payment as it arrives directly, and through Holdfast."""
    seen: list[Seen] = []
    shop = noting(shop, seen)
    async with simulated(shop.simulator(script({}))) as origin, shop.sdk(origin) as sdk:
        await asyncio.to_thread(shop.call, sdk, key=key)
    async with trial(shop, folder) as it:
        await it.pay(key=key)
    directly, through = seen
    if shop.linked:  # in what is compressed no link is turned: so it asks for what is not
        directly, through = plainly(directly), plainly(through)
    return directly, through


def plainly(seen: Seen) -> Seen:
    """Without a word on codings."""
    headers, body = seen
    return [pair for pair in headers if pair[0] != "accept-encoding"], body


# What is signed is another request each time: tests/e2e/gateways/test_amazon_pay.py.
@pytest.fixture(params=[name for name, shop in EVERY_SHOP.items() if shop.made_up])
def unsigned(request: pytest.FixtureRequest) -> Shop:
    """Each shop that makes the same request again."""
    return EVERY_SHOP[request.param]


async def test_with_its_own_key_it_arrives_as_the_sdk_made_it(
    unsigned: Shop, tmp_path: Path
) -> None:
    """Headers and body, the key among them, byte for byte."""
    directly, through = await seen_for(unsigned, tmp_path, "k-1")
    assert through == directly
    assert b"k-1" in through[1] or "k-1" in dict(through[0]).values()


async def test_without_a_key_nothing_but_the_key_is_added(unsigned: Shop, tmp_path: Path) -> None:
    """At the gateway's own place for it; all else is as the SDK made it."""
    (bare, body), (headers, bearing) = await seen_for(unsigned, tmp_path, None)
    other = [pair for pair in headers if pair not in bare]
    if bearing == body:
        ((name, key),) = other
        # One that the SDK makes up is another each time.
        assert [p for p in headers if p[0] != name] == [p for p in bare if p[0] != name]
    else:
        read = json.loads(bearing)
        (name,) = read.keys() - json.loads(body).keys()
        key = read[name]
        assert bearing == f'{{"{name}":"{key}",'.encode() + body[1:]
        assert other == [("content-length", str(len(bearing)))]
    assert re.fullmatch(unsigned.made_up, key)


# --- the answer is lost after the charge ----------------------------------------------------------


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_and_the_shops_repeat(shop: Shop, tmp_path: Path, fault: Fault) -> None:
    """First nobody knows, and it is listed so; the repeat of the key is told the truth."""
    async with trial(shop, tmp_path, fault) as it:
        first = await it.pay()
        listed = await it.outcome()
        again = await it.pay()
        outcome = await it.outcome()

    assert unknown(shop, first)
    assert listed == ("INTERRUPTED", "unknown")
    assert (again.state, [again.payment]) == (shop.paid, it.lines)
    assert outcome == ("COMPLETED", "charged")
    assert it.gateway.arrivals == {"o-1": 2 if shop.strong else 1}


async def test_a_lost_answer_and_holdfasts_repeat(shop: Shop, tmp_path: Path) -> None:
    """Where a key is honoured Holdfast asks again by itself; elsewhere it is not sent twice."""
    async with trial(shop, tmp_path, Fault.RESET_AFTER, gateway="") as it:
        heard = await it.pay()

    assert len(it.lines) == 1
    if shop.strong:
        assert (heard.state, [heard.payment]) == (shop.paid, it.lines)
    else:
        assert unknown(shop, heard)
    assert it.gateway.arrivals == {"o-1": 2 if shop.strong else 1}


async def test_without_a_key_of_its_own_holdfasts_goes_in(shop: Shop, tmp_path: Path) -> None:
    """The SDK sent none: the gateway sees Holdfast's, or the one that the SDK makes up."""
    async with trial(shop, tmp_path, Fault.RESET_AFTER, gateway="") as it:
        await it.pay(key=None)

    assert len(it.lines) == 1
    assert re.fullmatch(shop.made_up, it.ledger.charges[0].key or "")


async def test_a_new_key_for_the_same_order_is_refused(shop: Shop, tmp_path: Path) -> None:
    """The answer is lost, and the shop makes up another key: the order is open, then paid."""
    async with trial(shop, tmp_path, Fault.RESET_AFTER, route="order_lock: body") as it:
        first = await it.pay()
        second = await it.pay(key="k-2")
        again = await it.pay()
        third = await it.pay(key="k-3")

    assert unknown(shop, first)
    assert second.code == "order_already_open"
    assert (again.state, [again.payment]) == (shop.paid, it.lines)
    assert third.code == "order_already_paid"


async def test_unprotected_a_new_key_charges_twice(shop: Shop, tmp_path: Path) -> None:
    """The control: the same faults and keys, with a route that journals nothing."""
    async with trial(shop, tmp_path, Fault.RESET_AFTER, route="session: ephemeral") as it:
        await it.pay()
        again = await it.pay(key="k-2")

    assert again.state == shop.paid
    assert it.ledger.per_order() == {"o-1": 2}


async def test_two_clicks_at_once_pay_once(shop: Shop, tmp_path: Path) -> None:
    """The same key twice while the gateway is at it: both hear the one payment."""
    async with trial(shop, tmp_path, Fault.SLOW) as it:
        one, other = await asyncio.gather(it.pay(), it.pay())

    assert one == other
    assert (one.state, [one.payment]) == (shop.paid, it.lines)
    assert it.gateway.arrivals == {"o-1": 1}


# Everything that happens to a request but a hang, and to the one that repeats it.
FAULTS = [
    Fault.NONE,
    Fault.RESET_BEFORE,
    Fault.RESET_AFTER,
    Fault.TRUNCATED,
    Fault.FAILED_AFTER,
    Fault.UNAVAILABLE,
    Fault.THROTTLED,
]
ORDERS = {f"o-{n}": pair for n, pair in enumerate(itertools.product(FAULTS, FAULTS), start=100)}
# Whatever it meets, this gateway is not given a rest.
RESTLESS = "defaults: {breaker: {min_calls: 9999}, budget: {min_per_second: 999}}"
AT_ONCE = "retry: {backoff: {initial: 1ms, max: 1ms}}"


async def test_every_two_faults_and_a_patient_shop(shop: Shop, tmp_path: Path) -> None:
    """It repeats the key: no order is charged twice, and what anybody is told of it is so."""
    told = {}
    async with trial(shop, tmp_path, gateway=AT_ONCE, more=RESTLESS, others=ORDERS) as it:
        for order in ORDERS:
            for _ in range(3):
                told[order] = await it.pay(order, f"k-{order}")
        sessions = {one["orderId"]: one["outcome"] for one in await it.sessions()}

    charged = it.ledger.per_order()
    assert set(charged.values()) == {1}
    for order, heard in told.items():
        if heard.state == shop.paid:
            assert (charged[order], sessions[order]) == (1, "charged")
        else:  # nobody was told that it failed
            assert sessions[order] == "unknown"
            assert heard.status in {500, 503, 504}
    if shop.strong:
        unsolved = [pair for order, pair in ORDERS.items() if sessions[order] == "unknown"]
        assert all(Fault.FAILED_AFTER in pair for pair in unsolved)


async def test_every_two_faults_and_a_shop_that_starts_over(shop: Shop) -> None:
    """The control: directly, and each time with a new key. Many orders are charged twice."""
    gateway = shop.simulator(script(ORDERS))
    async with simulated(gateway) as origin, shop.sdk(origin) as sdk:
        for order in ORDERS:
            for number in range(3):
                heard = await asyncio.to_thread(_pays, shop, sdk, order, f"{order}-{number}")
                if heard.state == shop.paid:
                    break

    assert max(gateway.ledger.per_order().values()) == 3


def _pays(shop: Shop, sdk: Any, order: str, key: str) -> Heard:
    """A shop that takes whatever is raised for a failure."""
    try:
        return shop.pay(sdk, order, key)
    except Exception:  # noqa: BLE001
        return Heard()


# --- what Holdfast itself refuses -----------------------------------------------------------------


async def _once(it: Trial) -> Heard:
    return await it.pay()


async def _another_key(it: Trial) -> Heard:
    await it.pay()
    return await it.pay(key="k-2")


async def _other_amount(it: Trial) -> Heard:
    await it.pay()
    return await it.pay(amount=2999)


async def _held(it: Trial) -> Heard:
    await it.pay()
    await it.asked("interrupt", reason="test")
    return await it.pay()


async def _gone(it: Trial) -> Heard:
    await it.pay("o-2", "k-2")  # PayPal's SDK gets its token by the way
    await it.gateway_goes()
    return await it.pay()


async def _gone_for_long(it: Trial) -> Heard:
    await _gone(it)
    return await it.pay()


@dataclass(frozen=True, slots=True)
class Row:
    """How a shop comes to a refusal."""

    scene: Callable[[Trial], Awaitable[Heard]]
    requests: int  # that the SDK made for it
    fault: Fault = Fault.NONE
    more: str = ""


TABLE = {
    Refusal.OUTCOME_UNKNOWN: Row(_once, 1, Fault.RESET_BEFORE),
    Refusal.NOT_SENT: Row(_gone, 2),
    Refusal.BREAKER_OPEN: Row(_gone_for_long, 3, more="defaults: {breaker: {min_calls: 2}}"),
    Refusal.KEY_REUSED: Row(_other_amount, 2),
    Refusal.ORDER_OPEN: Row(_another_key, 2, Fault.RESET_BEFORE),
    Refusal.ORDER_PAID: Row(_another_key, 2),
    Refusal.SESSION_HELD: Row(_held, 2, Fault.RESET_BEFORE),
}


@pytest.mark.parametrize("refusal", TABLE, ids=lambda refusal: refusal.code)
async def test_a_refusal_is_an_exception_of_the_sdks(
    shop: Shop, tmp_path: Path, refusal: Refusal
) -> None:
    """Its class, the code and what there is to say, after one request of the SDK's."""
    row = TABLE[refusal]
    async with trial(
        shop,
        tmp_path,
        row.fault,
        gateway=ONE_SEND,
        route="order_lock: body",
        more=row.more,
    ) as it:
        heard = await row.scene(it)

    assert heard.raised in shop.errors
    assert heard.code == refusal.code.replace("-", "_")
    if shop.messages:
        assert heard.message == f"{refusal.value.title}. {refusal.value.detail}"
    assert it.payments_asked == row.requests
    assert len(it.lines) <= 1


async def test_no_refusal_is_beyond_the_sdk(shop: Shop, tmp_path: Path) -> None:
    """Each, in the gateway's form, is an exception of the SDK's own, with the code."""
    profile, said = shipped(shop, tmp_path).profile, Refusal.INTERNAL

    async def refuse(connection: RawConnection) -> None:
        while True:
            token = b"/v1/oauth2/token" in await connection.request()
            if token:
                await connection.send(http_answer(200, _TOKEN))
                continue
            answer = problem(said, profile=profile)
            lines = [f"HTTP/1.1 {answer.status} {answer.status_text}"]
            lines += [f"{name}: {value}" for name, value in answer.headers]
            lines += [f"Content-Length: {len(answer.body)}", "", ""]
            await connection.send("\r\n".join(lines).encode() + answer.body)

    async with raw_server(refuse) as server, shop.sdk(server.origin) as sdk:
        for refusal in Refusal:
            said = refusal
            heard = await asyncio.to_thread(shop.call, sdk)
            assert heard.raised in shop.errors, refusal
            assert heard.code == refusal.code.replace("-", "_")
            assert heard.status == problem(refusal, profile=profile).status


_TOKEN = {"access_token": "A21", "token_type": "Bearer", "expires_in": 32400}
