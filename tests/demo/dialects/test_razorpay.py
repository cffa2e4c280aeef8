"""The simulated Razorpay, asked by Razorpay's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import razorpay
import requests
from razorpay.errors import BadRequestError, ServerError

from proxy.demo.dialects.razorpay import DECLINED_CARD, SimulatedRazorpay
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.sdks_of_gateways import razorpay_python
from tests.support.stage import ScriptedFaults

ORDER = {"amount": 1999, "currency": "INR", "receipt": "o-1", "unique_receipt": True}
PAYMENT: dict[str, Any] = {"amount": 1999, "currency": "INR", "method": "card"}
# The first request of an order creates it, the second pays.
PAYING, REFUNDING = 2, 3


@contextlib.asynccontextmanager
async def shop(
    fault: Fault = Fault.NONE, arrival: int = PAYING
) -> AsyncIterator[tuple[SimulatedRazorpay, razorpay.Client]]:
    """A gateway that does this to one request of order o-1, and the SDK."""
    gateway = SimulatedRazorpay(ScriptedFaults({("o-1", arrival): fault}))
    async with simulated(gateway) as origin, razorpay_python(origin) as sdk:
        yield gateway, sdk


async def order(sdk: razorpay.Client) -> Any:
    """Create order o-1."""
    return await asyncio.to_thread(sdk.order.create, dict(ORDER))


async def pay(sdk: razorpay.Client, name: str, card: str = "4111111111111111") -> Any:
    """Pay an order by its id."""
    payment = {**PAYMENT, "order_id": name, "card": {"number": card}}
    return await asyncio.to_thread(sdk.payment.createPaymentJson, payment)


async def test_a_receipt_is_one_order_and_it_is_paid_once() -> None:
    """There is no key: the order itself refuses a second payment."""
    async with shop() as (gateway, sdk):
        created = await order(sdk)
        same = await order(sdk)
        paid = await pay(sdk, created["id"])
        with pytest.raises(BadRequestError):
            await pay(sdk, created["id"])

    assert (same["id"], paid["status"]) == (created["id"], "captured")
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_decline_is_a_400_with_a_reason() -> None:
    """The failed payment stays with the order, which can still be paid."""
    async with shop() as (gateway, sdk):
        created = await order(sdk)
        with pytest.raises(BadRequestError, match="declined by the bank"):
            await pay(sdk, created["id"], DECLINED_CARD)
        payments = await asyncio.to_thread(sdk.order.payments, created["id"])
        assert gateway.ledger.charges == []
        await pay(sdk, created["id"])

    assert [payment["status"] for payment in payments["items"]] == ["failed"]


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER])
async def test_a_lost_answer_is_found_by_the_order(fault: Fault) -> None:
    """Charged and not told: the receipt leads to the order, and the order to its payment."""
    async with shop(fault) as (gateway, sdk):
        created = await order(sdk)
        with pytest.raises((requests.RequestException, ServerError)):
            await pay(sdk, created["id"])
        orders = await asyncio.to_thread(sdk.order.all, {"receipt": "o-1"})
        payments = await asyncio.to_thread(sdk.order.payments, orders["items"][0]["id"])

    assert [payment["status"] for payment in payments["items"]] == ["captured"]
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_second_capture_is_refused() -> None:
    """Good news in a 400: it has been captured already."""
    async with shop() as (_, sdk):
        created = await order(sdk)
        paid = await pay(sdk, created["id"])
        with pytest.raises(BadRequestError, match="already been captured"):
            await asyncio.to_thread(sdk.payment.capture, paid["id"], 1999)


async def test_a_refund_has_a_key() -> None:
    """Given back once for a key, also after a lost answer; other parameters are refused."""
    async with shop(Fault.RESET_AFTER, REFUNDING) as (gateway, sdk):
        created = await order(sdk)
        paid = await pay(sdk, created["id"])
        headers = {"X-Refund-Idempotency": "refund-key-1"}

        async def refund(amount: int) -> Any:
            asks = {"amount": amount}
            return await asyncio.to_thread(
                sdk.payment.refund, paid["id"], asks, headers=dict(headers)
            )

        with pytest.raises(requests.RequestException):
            await refund(5)
        again = await refund(5)
        with pytest.raises(BadRequestError, match="Different request"):
            await refund(6)
        listed = await asyncio.to_thread(sdk.payment.fetch_multiple_refund, paid["id"])

    assert [refund["id"] for refund in listed["items"]] == [again["id"]]
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]


async def test_a_payout_needs_a_key() -> None:
    """Sent once for a key in its own header; without one it is refused."""
    payout = {"amount": 700, "currency": "INR", "reference_id": "p-1"}
    headers = {"X-Payout-Idempotency": "payout-1"}
    async with shop() as (gateway, sdk):
        with pytest.raises(BadRequestError):
            await asyncio.to_thread(sdk.post, "/v1/payouts", payout)
        for _ in range(2):
            await asyncio.to_thread(sdk.post, "/v1/payouts", payout, headers=dict(headers))

    assert gateway.ledger.per_order() == {"p-1": 1}


async def test_a_transfer_is_sent_once_for_its_key() -> None:
    """With a header of its own again; without it, it is sent each time."""
    transfer = {"amount": 300, "currency": "INR", "account": "acc_1", "reference_id": "t-1"}
    headers = {"X-Transfer-Idempotency": "transfer-1"}
    async with shop() as (gateway, sdk):
        for _ in range(2):
            await asyncio.to_thread(sdk.transfer.create, dict(transfer), headers=dict(headers))
        assert gateway.ledger.per_order() == {"t-1": 1}
        await asyncio.to_thread(sdk.transfer.create, dict(transfer))

    assert gateway.ledger.per_order() == {"t-1": 2}


async def test_it_complains_in_its_own_form() -> None:
    """A 503 is an `error` object with a code, and charges nothing."""
    async with shop(Fault.UNAVAILABLE) as (gateway, sdk):
        created = await order(sdk)
        with pytest.raises(ServerError, match="The service is unavailable"):
            await pay(sdk, created["id"])

    assert gateway.ledger.charges == []
