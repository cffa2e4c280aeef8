"""Razorpay's own SDK through Holdfast, before the simulated Razorpay."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from razorpay.errors import BadRequestError, ServerError

from proxy.demo.dialects.razorpay import DECLINED_CARD, SimulatedRazorpay
from proxy.demo.faults import Fault
from tests.e2e.gateways.stall import FRAIL, LOST, Kind, Shop, shop
from tests.support.sdks_of_gateways import razorpay_python

RAZORPAY = Kind("razorpay", SimulatedRazorpay, razorpay_python)
CARD = "4111111111111111"
CREATE = 'name: create-payment, match: {methods: [POST], path: "/v1/payments/create/{how}"}'
UNPROTECTED = f"[{{{CREATE}, session: ephemeral}}]"
NAMED_ONLY = f"[{{{CREATE}, order_lock: named}}]"
CREATED = Fault.NONE  # the order's first request makes the order


async def order(at: Shop, **more: Any) -> str:
    """Create order o-1; its id."""
    asks = {"amount": 1999, "currency": "INR", "receipt": "o-1", "unique_receipt": True, **more}
    return str((await asyncio.to_thread(at.sdk.order.create, asks))["id"])


def payment(name: str, card: str = CARD) -> dict[str, Any]:
    """A payment of an order."""
    return {
        "amount": 1999,
        "currency": "INR",
        "method": "card",
        "order_id": name,
        "card": {"number": card},
    }


async def pay(at: Shop, name: str, card: str = CARD, **headers: str) -> Any:
    """Pay an order by its id."""
    asks = payment(name, card)
    return await asyncio.to_thread(at.sdk.payment.createPaymentJson, asks, headers=headers)


async def refused(at: Shop, name: str, card: str = CARD, **headers: str) -> Any:
    """What paying an order raises, after one request."""
    asks = payment(name, card)
    return await at.refused(lambda: at.sdk.payment.createPaymentJson(asks, headers=headers))


async def test_an_order_is_paid_once(tmp_path: Path) -> None:
    """There is no key: the order tells the second payment, and the gateway is not asked."""
    async with shop(RAZORPAY, tmp_path) as at:
        name = await order(at)
        paid = await pay(at, name)
        told = await refused(at, name)
        money = await at.money()

    assert (paid["status"], at.keys) == ("captured", [None])
    assert isinstance(told, BadRequestError)
    assert str(told).startswith("This order is already charged.")
    assert money == ("COMPLETED", "charged")
    assert at.gateway.arrivals["o-1"] == 2


async def test_who_names_the_order_gets_the_answer_again(tmp_path: Path) -> None:
    """In a header, which this SDK can send."""
    named = {"X-Payment-Order-Id": "o-1"}
    async with shop(RAZORPAY, tmp_path) as at:
        name = await order(at)
        first = await pay(at, name, **named)
        again = await pay(at, name, **named)

    assert again == first
    assert (at.charged, at.gateway.arrivals["o-1"]) == (1, 2)


async def test_after_a_decline_the_order_is_free(tmp_path: Path) -> None:
    """The exception is the one it is directly; another card pays."""
    async with shop(RAZORPAY, tmp_path) as at:
        name = await order(at)
        declined = await refused(at, name, DECLINED_CARD)
        money = await at.money()
        assert at.gateway.ledger.charges == []
        await pay(at, name)

    assert isinstance(declined, BadRequestError)
    assert "declined by the bank" in str(declined)
    assert (money, at.charged) == (("DECLINED", "not_charged"), 1)


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_is_looked_up(fault: Fault, tmp_path: Path) -> None:
    """Charged and not told: never told as failed, never sent again, and found by its order."""
    async with shop(RAZORPAY, tmp_path, CREATED, fault) as at:
        name = await order(at)
        lost = await refused(at, name)
        unknown = await at.money()
        told = await refused(at, name)
        await at.looked_up()
        money = await at.money()
        paid = await refused(at, name)

    assert isinstance(lost, ServerError)
    assert unknown == ("INTERRUPTED", "unknown")
    assert str(told).startswith("Another payment of this order is open or its outcome is unknown.")
    assert str(paid).startswith("This order is already charged.")
    assert money == ("COMPLETED", "charged")
    assert (at.charged, at.gateway.arrivals["o-1"]) == (1, 2)


async def test_who_names_the_order_hears_what_became_of_it(tmp_path: Path) -> None:
    """By its name at Razorpay; the repeat is answered with the payment that the look-up found."""
    async with shop(RAZORPAY, tmp_path, CREATED, Fault.RESET_AFTER) as at:
        name = await order(at)
        named = {"X-Payment-Order-Id": name}
        lost = await refused(at, name, **named)
        paid = await pay(at, name, **named)

    assert str(lost).startswith("It is not known whether the customer was charged.")
    assert (paid["status"], paid["order_id"]) == ("captured", name)
    assert (at.charged, at.gateway.arrivals["o-1"]) == (1, 2)


async def test_what_cannot_be_found_stays_unknown(tmp_path: Path) -> None:
    """It never arrived, and an earlier payment that failed says nothing of it."""
    async with shop(RAZORPAY, tmp_path, CREATED, Fault.NONE, Fault.RESET_BEFORE) as at:
        name = await order(at)
        await refused(at, name, DECLINED_CARD)
        await refused(at, name)
        at.clock.leap(300)
        await refused(at, name)
        money = await at.money()

    assert money == ("INTERRUPTED", "unknown")
    assert (at.charged, at.gateway.arrivals["o-1"]) == (0, 3)


@pytest.mark.parametrize("routes", [UNPROTECTED, NAMED_ONLY])
async def test_without_the_lock_a_charge_is_told_as_failed(routes: str, tmp_path: Path) -> None:
    """The negative control: the repeat is refused by the gateway, while the customer has paid."""
    async with shop(RAZORPAY, tmp_path, CREATED, Fault.RESET_AFTER, routes=routes) as at:
        name = await order(at)
        await refused(at, name)
        told = await refused(at, name)

    assert str(told) == "Order has already been paid."
    assert (at.charged, at.gateway.arrivals["o-1"]) == (1, 3)


async def test_an_order_for_each_try_pays_twice_directly(tmp_path: Path) -> None:
    """The negative control of the ledger: only one order is one payment."""
    async with shop(RAZORPAY, tmp_path, CREATED, Fault.RESET_AFTER, routes=UNPROTECTED) as at:
        await refused(at, await order(at))
        await pay(at, await order(at, unique_receipt=False))

    assert at.charged == 2


@pytest.mark.parametrize("headers", [{}, {"X-Refund-Idempotency": "refund-key-1"}])
async def test_a_refund_whose_answer_is_lost_is_made_once(
    headers: dict[str, str], tmp_path: Path
) -> None:
    """It has a key of its own, the caller's or Holdfast's: sent again with it."""
    async with shop(RAZORPAY, tmp_path, CREATED, Fault.NONE, Fault.RESET_AFTER) as at:
        paid = await pay(at, await order(at))
        refund = await asyncio.to_thread(
            at.sdk.payment.refund, paid["id"], {"amount": 5}, headers=dict(headers)
        )
        money = await at.money()

    (made,) = at.gateway.ledger.refunds
    wanted = headers.get("X-Refund-Idempotency", "[0-9a-f]{32}")
    assert re.fullmatch(wanted, str(made.key))
    assert (refund["status"], money) == ("processed", ("COMPLETED", "charged"))
    assert at.gateway.arrivals["o-1"] == 4


async def test_a_refunds_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    """Before anything is sent: the gateway would not take it."""
    headers = {"X-Refund-Idempotency": "short"}
    async with shop(RAZORPAY, tmp_path) as at:
        paid = await pay(at, await order(at))
        told = await at.refused(
            lambda: at.sdk.payment.refund(paid["id"], {"amount": 5}, headers=headers)
        )

    assert isinstance(told, BadRequestError)
    assert str(told).startswith("The idempotency key cannot be used.")
    assert at.gateway.ledger.refunds == []


async def test_a_payout_needs_a_key_and_gets_one(tmp_path: Path) -> None:
    """The SDK sends none; also after a lost answer it is paid out once."""
    payout = {"amount": 700, "currency": "INR", "reference_id": "o-1"}
    async with shop(RAZORPAY, tmp_path, Fault.RESET_AFTER) as at:
        sent = await asyncio.to_thread(at.sdk.post, "/v1/payouts", payout)

    assert sent["status"] == "processed"
    assert [len(str(key)) for key in at.keys] == [32]


async def test_a_second_capture_is_good_news(tmp_path: Path) -> None:
    """The SDK's exception is the gateway's own; the session says that it is charged."""
    async with shop(RAZORPAY, tmp_path) as at:
        paid = await pay(at, await order(at))
        told = await at.refused(lambda: at.sdk.payment.capture(paid["id"], 1999))
        money = await at.money()

    assert str(told) == "This payment has already been captured"
    assert money == ("COMPLETED", "charged")


async def test_a_held_payment_is_refused(tmp_path: Path) -> None:
    """With a sentence in the SDK's own exception, after one request."""
    named = {"X-Payment-Order-Id": "o-1"}
    async with shop(RAZORPAY, tmp_path, CREATED, Fault.RESET_BEFORE) as at:
        name = await order(at)
        await refused(at, name, **named)
        await at.hold()
        told = await refused(at, name, **named)

    assert isinstance(told, BadRequestError)
    assert "interrupted it on purpose" in str(told)


async def test_a_gateway_that_is_given_a_rest(tmp_path: Path) -> None:
    """Refused without a send; its own repeats, switched on, are for connections only."""
    async with shop(RAZORPAY, tmp_path, CREATED, Fault.FAILED_AFTER, more=FRAIL) as at:
        name = await order(at)
        await refused(at, name)
        at.sdk.enable_retry(True)
        told = await refused(at, "order_2")

    assert isinstance(told, ServerError)
    assert "Nothing was sent." in str(told)
    assert at.gateway.arrivals["o-1"] == 2
