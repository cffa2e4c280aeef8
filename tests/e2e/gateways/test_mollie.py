"""Mollie's own SDK through Holdfast, before the simulated Mollie."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from mollie.api.error import ConflictError, ResponseError, UnprocessableEntityError

from proxy.demo.dialects.mollie import DECLINED, SimulatedMollie
from proxy.demo.faults import Fault
from tests.e2e.gateways.stall import FRAIL, LOST, Kind, Shop, shop
from tests.support.sdks_of_gateways import mollie_python

MOLLIE = Kind("mollie", SimulatedMollie, mollie_python)
PAYMENT: dict[str, Any] = {
    "amount": {"currency": "EUR", "value": "19.99"},
    "description": "Order o-1",
    "metadata": {"order_id": "o-1"},
    "sequenceType": "recurring",
    "customerId": "cst_1",
}
CREATE = "name: create-payment, match: {methods: [POST], path: /v2/payments}"
LOCKED = f"[{{{CREATE}, order_lock: body}}]"
UNPROTECTED = f"[{{{CREATE}, session: ephemeral}}]"


async def pay(at: Shop, key: str = "k-1", **more: Any) -> Any:
    """Pay order o-1; without a key the SDK makes one up."""
    return await asyncio.to_thread(at.sdk.payments.create, {**PAYMENT, **more}, key)


async def refused(at: Shop, key: str = "k-1", **more: Any) -> Any:
    """What paying order o-1 raises, after one request."""
    return await at.refused(lambda: at.sdk.payments.create({**PAYMENT, **more}, key))


async def test_a_payment_is_made_once_and_repeated_from_the_record(tmp_path: Path) -> None:
    """The caller's key goes on as it is; the repeat never reaches the gateway."""
    async with shop(MOLLIE, tmp_path) as at:
        paid = await pay(at)
        again = await pay(at)
        money = await at.money()

    assert (paid.status, again.id) == ("paid", paid.id)
    assert (at.keys, at.gateway.arrivals["o-1"]) == (["k-1"], 1)
    assert money == ("COMPLETED", "charged")


async def test_a_request_without_a_key_gets_one(tmp_path: Path) -> None:
    """The SDK makes one up, which stays as it is; whoever sends none gets Holdfast's."""
    async with shop(MOLLIE, tmp_path) as at:
        await pay(at, key="")
        assert await at.posts("/v2/payments", PAYMENT) == 201

    made_up, put_in = (str(key) for key in at.keys)
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made_up)
    assert re.fullmatch("[0-9a-f]{32}", put_in)


async def test_a_decline_is_the_payment_it_is_directly(tmp_path: Path) -> None:
    """201 with status failed; also for the repeat."""
    async with shop(MOLLIE, tmp_path) as at:
        failed = [await pay(at, mandateId=DECLINED) for _ in range(2)]
        money = await at.money()

    assert [one.status for one in failed] == ["failed", "failed"]
    assert money == ("DECLINED", "not_charged")
    assert at.gateway.ledger.charges == []


async def test_a_first_payment_is_a_link_that_nobody_has_followed(tmp_path: Path) -> None:
    """Done, and nothing is charged."""
    async with shop(MOLLIE, tmp_path) as at:
        opened = await pay(at, sequenceType="first")
        money = await at.money()

    assert opened.checkout_url.startswith("https://www.mollie.com/")
    assert money == ("COMPLETED", "not_charged")


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_is_found_when_the_shop_asks_again(
    fault: Fault, tmp_path: Path
) -> None:
    """Charged and not told; the same key again is answered by the look-up, nothing is sent."""
    async with shop(MOLLIE, tmp_path, fault) as at:
        lost = await refused(at)
        unknown = await at.money()
        paid = await pay(at)
        again = await pay(at)

    assert isinstance(lost, ResponseError)
    assert lost.status == (500 if fault is Fault.FAILED_AFTER else 504)
    assert unknown == ("INTERRUPTED", "unknown")
    assert (paid.status, again.id) == ("paid", paid.id)
    assert (at.charged, at.gateway.arrivals["o-1"]) == (1, 1)


async def test_a_lost_answer_is_found_without_the_shop(tmp_path: Path) -> None:
    """With the credential of the request: the policy has none."""
    async with shop(MOLLIE, tmp_path, Fault.RESET_AFTER) as at:
        await refused(at)
        await at.looked_up()
        assert await at.money() == ("COMPLETED", "charged")
        assert (await pay(at)).status == "paid"

    assert at.gateway.arrivals["o-1"] == 1


async def test_what_cannot_be_found_stays_unknown(tmp_path: Path) -> None:
    """It never arrived, but nothing proves it: not sent again, and never told as failed."""
    async with shop(MOLLIE, tmp_path, Fault.RESET_BEFORE) as at:
        told = [await refused(at) for _ in range(2)]
        money = await at.money()

    assert [error.status for error in told] == [504, 504]
    assert str(told[1]).startswith("The request was sent and its answer was lost.")
    assert money == ("INTERRUPTED", "unknown")
    assert (at.charged, at.gateway.arrivals["o-1"]) == (0, 1)


async def test_an_earlier_try_that_failed_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """It is the only payment of the order that the list has, and says nothing of the second."""
    async with shop(MOLLIE, tmp_path, Fault.NONE, Fault.RESET_BEFORE) as at:
        await pay(at, "k-1", mandateId=DECLINED)
        await refused(at, "k-2")
        at.clock.leap(300)  # whatever the gateway was at is over
        told = await refused(at, "k-2")
        money = await at.money()

    assert (told.status, money) == (504, ("INTERRUPTED", "unknown"))


async def test_throttled_is_tried_again(tmp_path: Path) -> None:
    """The SDK hears nothing of it."""
    async with shop(MOLLIE, tmp_path, Fault.THROTTLED) as at:
        paid = await pay(at)

    assert (paid.status, at.charged, at.gateway.arrivals["o-1"]) == ("paid", 1, 2)


async def test_a_key_used_for_another_request_is_refused(tmp_path: Path) -> None:
    """In the SDK's own exception, with a sentence."""
    async with shop(MOLLIE, tmp_path) as at:
        await pay(at)
        told = await refused(at, description="another")

    assert isinstance(told, UnprocessableEntityError)
    assert str(told) == "A key names one payment. Use a new key for a changed request."
    assert at.charged == 1


async def test_a_held_payment_is_refused(tmp_path: Path) -> None:
    """Somebody looks into it."""
    async with shop(MOLLIE, tmp_path, Fault.RESET_BEFORE) as at:
        await refused(at)
        await at.hold()
        told = await refused(at)

    assert isinstance(told, ConflictError)
    assert "interrupted it on purpose" in str(told)


async def test_a_gateway_that_is_given_a_rest(tmp_path: Path) -> None:
    """Refused without a send, and not retried by the SDK."""
    async with shop(MOLLIE, tmp_path, Fault.FAILED_AFTER, more=FRAIL) as at:
        await refused(at)
        told = await refused(at, "k-2")

    assert isinstance(told, ResponseError)
    assert (told.status, at.gateway.arrivals["o-1"]) == (503, 1)
    assert "Nothing was sent." in str(told)


async def test_a_shop_that_makes_up_a_key_for_each_try(tmp_path: Path) -> None:
    """The SDK's own habit: only the order tells that it is the same payment, if the policy says."""
    async with shop(MOLLIE, tmp_path, Fault.RESET_AFTER, routes=LOCKED) as at:
        await refused(at, "")
        told = await refused(at, "")
        await at.looked_up()
        paid = await refused(at, "")

    assert isinstance(told, ConflictError)
    assert "could charge the customer twice" in str(told)
    assert str(paid).startswith("Another payment of this order succeeded")
    assert at.charged == 1


@pytest.mark.parametrize("routes", ["[]", UNPROTECTED])
async def test_without_the_lock_it_pays_twice(routes: str, tmp_path: Path) -> None:
    """The negative control: two keys are two payments, journaled or not."""
    async with shop(MOLLIE, tmp_path, Fault.RESET_AFTER, routes=routes) as at:
        await refused(at, "")
        await pay(at, "")

    assert at.charged == 2


async def test_a_refund_is_made_once(tmp_path: Path) -> None:
    """On its way back is done; the same key again is the same refund."""
    amount = {"amount": {"currency": "EUR", "value": "0.05"}}
    async with shop(MOLLIE, tmp_path) as at:
        paid = await pay(at)
        refunds = [
            await asyncio.to_thread(paid.refunds.create, amount, "refund-1") for _ in range(2)
        ]
        money = await at.money()

    assert [refund.status for refund in refunds] == ["pending", "pending"]
    assert (len(at.gateway.ledger.refunds), money) == (1, ("COMPLETED", "charged"))
