"""The simulated gateway keeps Stripe's promises about keys, and its ledger tells the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from proxy.demo.faults import Fault, FaultPlan
from proxy.demo.gateway import SimulatedGateway
from tests.support.running import simulated
from tests.support.waiting import until


class Always(FaultPlan):
    """Every first request of an order meets the same fault; repeats are served."""

    kind = Fault.NONE

    def fault(self, order: str, arrival: int) -> Fault:
        """The chosen one, once."""
        del order
        return self.kind if arrival == 1 else Fault.NONE


class Shop:
    """Talks to the gateway."""

    def __init__(self, gateway: SimulatedGateway, origin: str, http: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self._origin = origin
        self.http = http

    async def post(
        self, path: str, key: str | None = None, **data: str
    ) -> tuple[int, dict[str, Any], bool]:
        """Status, body, and whether it was a replay."""
        headers = {} if key is None else {"Idempotency-Key": key}
        async with self.http.post(self._origin + path, data=data, headers=headers) as answer:
            replayed = answer.headers.get("Idempotent-Replayed") == "true"
            return answer.status, await answer.json(), replayed

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        async with self.http.get(self._origin + path) as answer:
            return answer.status, await answer.json()

    async def pay(self, key: str | None = None, **more: str) -> tuple[int, dict[str, Any], bool]:
        """Pay order o-1."""
        data = {
            "amount": "1999",
            "confirm": "true",
            "payment_method": "pm_card_visa",
            "metadata[order_id]": "o-1",
            **more,
        }
        return await self.post("/v1/payment_intents", key, **data)


@pytest_asyncio.fixture
async def shop() -> AsyncIterator[Shop]:
    """A shop at a gateway where nothing goes wrong."""
    gateway = SimulatedGateway()
    timeout = aiohttp.ClientTimeout(total=1)
    async with simulated(gateway) as origin, aiohttp.ClientSession(timeout=timeout) as http:
        yield Shop(gateway, origin, http)


async def test_one_key_one_charge(shop: Shop) -> None:
    """The same key again gives the first answer, marked, and charges nothing."""
    first = await shop.pay("k-1")
    second = await shop.pay("k-1")
    assert (first[0], first[2]) == (200, False)
    assert second == (200, first[1], True)
    assert shop.gateway.ledger.per_order() == {"o-1": 1}


async def test_without_a_key_every_request_charges(shop: Shop) -> None:
    """What a plain retry does."""
    await shop.pay()
    await shop.pay()
    assert shop.gateway.ledger.per_order() == {"o-1": 2}


async def test_other_parameters_under_a_key_are_refused(shop: Shop) -> None:
    """400 idempotency_error, as Stripe has it."""
    await shop.pay("k-1")
    status, body, _ = await shop.pay("k-1", amount="1")
    assert (status, body["error"]["type"]) == (400, "idempotency_error")


async def test_a_decline_is_kept_for_its_key(shop: Shop) -> None:
    """402 now, and 402 again for the same key."""
    status, body, _ = await shop.pay("k-1", payment_method="pm_card_chargeDeclined")
    assert (status, body["error"]["code"]) == (402, "card_declined")
    assert (await shop.pay("k-1", payment_method="pm_card_chargeDeclined"))[2]
    assert shop.gateway.ledger.charges == []


async def test_a_validation_error_is_not_kept(shop: Shop) -> None:
    """A request that executed nothing leaves the key free."""
    assert (await shop.post("/v1/payment_intents", "k-1"))[0] == 400
    assert (await shop.pay("k-1"))[0] == 200


async def test_the_life_of_an_intent(shop: Shop) -> None:
    """Create, confirm, capture, refund; each is an event with its key."""
    _, intent, _ = await shop.post(
        "/v1/payment_intents", "k-1", amount="5", capture_method="manual", payment_method="pm_x"
    )
    assert intent["status"] == "requires_confirmation"
    one = f"/v1/payment_intents/{intent['id']}"
    assert (await shop.post(f"{one}/confirm", "k-2"))[1]["status"] == "requires_capture"
    assert (await shop.post(f"{one}/capture", "k-3"))[1]["status"] == "succeeded"
    _, refund, _ = await shop.post("/v1/refunds", "k-4", payment_intent=intent["id"])
    assert (await shop.get(f"/v1/refunds/{refund['id']}"))[1]["status"] == "succeeded"
    _, events = await shop.get("/v1/events?limit=100")
    keys = [event["request"]["idempotency_key"] for event in events["data"]]
    assert keys == ["k-4", "k-3", "k-2", "k-1"]


async def test_events_come_in_pages(shop: Shop) -> None:
    """A page says whether there is another, and the next begins after its last."""
    for number in range(3):
        await shop.post("/v1/payment_intents", f"k-{number}", amount="5")
    _, first = await shop.get("/v1/events?limit=2")
    assert (len(first["data"]), first["has_more"]) == (2, True)
    last = first["data"][-1]["id"]
    _, second = await shop.get(f"/v1/events?limit=2&starting_after={last}")
    assert (len(second["data"]), second["has_more"]) == (1, False)


async def test_what_does_not_exist_is_not_found(shop: Shop) -> None:
    """404 in Stripe's form."""
    for path in ("/v1/payment_intents/pi_x", "/v1/refunds/re_x"):
        status, body = await shop.get(path)
        assert (status, body["error"]["code"]) == (404, "resource_missing")


@pytest.mark.parametrize(
    ("fault", "charged", "seen"),
    [
        (Fault.HANG_BEFORE, 0, TimeoutError),
        (Fault.HANG_AFTER, 1, TimeoutError),
        (Fault.RESET_BEFORE, 0, aiohttp.ClientError),
        (Fault.RESET_AFTER, 1, aiohttp.ClientError),
        (Fault.TRUNCATED, 1, aiohttp.ClientError),
        (Fault.UNAVAILABLE, 0, 503),
        (Fault.UNAVAILABLE_LATER, 0, 503),
        (Fault.THROTTLED, 0, 429),
        (Fault.SLOW, 1, 200),
    ],
)
async def test_faults_do_what_they_say(
    shop: Shop, fault: Fault, charged: int, seen: type[Exception] | int
) -> None:
    """Each fault charges or not as its name says, and the client sees what it should."""
    shop.gateway.plan = type("Once", (Always,), {"kind": fault})()
    if isinstance(seen, int):
        assert (await shop.pay("k-1"))[0] == seen
    else:
        with pytest.raises(seen):
            await shop.pay("k-1")
        await asyncio.sleep(0)
    assert sum(shop.gateway.ledger.per_order().values()) == charged
    # Whatever it was, the same key settles it with one charge.
    assert (await shop.pay("k-1"))[0] == 200
    assert shop.gateway.ledger.per_order() == {"o-1": 1}


async def test_a_500_is_kept_for_its_key_although_it_charged(shop: Shop) -> None:
    """The same key says 500 again, for good, and charges nothing more."""
    shop.gateway.plan = type("Once", (Always,), {"kind": Fault.FAILED_AFTER})()
    first = await shop.pay("k-1")
    assert (first[0], first[1]["error"]["type"]) == (500, "api_error")
    assert await shop.pay("k-1") == (500, first[1], True)
    assert shop.gateway.ledger.per_order() == {"o-1": 1}


async def test_a_key_is_busy_while_its_request_runs(shop: Shop) -> None:
    """409 for the second of two at once; then the first one's answer."""
    shop.gateway.plan = type("Once", (Always,), {"kind": Fault.SLOW})()
    first = asyncio.ensure_future(shop.pay("k-1"))
    await until(lambda: bool(shop.gateway.ledger.charges))
    status, body, _ = await shop.pay("k-1")
    assert (status, body["error"]["code"]) == (409, "idempotency_key_in_use")
    assert (await first)[0] == 200
    assert (await shop.pay("k-1"))[2]


async def test_the_ledger_can_be_read_and_reset(shop: Shop) -> None:
    """For those who watch from outside."""
    await shop.pay("k-1")
    _, ledger = await shop.get("/_ledger")
    assert [charge["order"] for charge in ledger["charges"]] == ["o-1"]
    async with shop.http.delete(f"{shop._origin}/_ledger") as answer:
        assert answer.status == 204
    assert (await shop.get("/_ledger"))[1]["charges"] == []
