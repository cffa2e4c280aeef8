"""Razorpay's SDK and its gateway, where a payment has no key and its order is told instead; the
other products have a key each.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.faults import Fault
from tests.e2e.gateways.shops import RAZORPAY
from tests.e2e.gateways.trial import Trial, trial

LOST = [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER]
CREATED = Fault.NONE  # the first request of an order creates it
UNPROTECTED = ["session: ephemeral", "order_lock: named"]


async def order(it: Trial, **more: Any) -> str:
    """Create order o-1; its id at Razorpay."""
    asks = {"amount": 1999, "currency": "INR", "receipt": "o-1", "unique_receipt": True, **more}
    return str((await asyncio.to_thread(it.sdk.order.create, asks))["id"])


async def test_an_order_is_paid_once(tmp_path: Path) -> None:
    """The same again gets the answer again, another card is refused; nothing more is sent."""
    async with trial(RAZORPAY, tmp_path) as it:
        name = await order(it)
        paid = await it.pay(name)
        again = await it.pay(name)
        other = await it.pay(name, declined=True)
        outcome = await it.outcome()

    assert (paid.state, [paid.payment], it.keys) == ("captured", it.lines, [None])
    assert again == paid
    assert (other.raised, other.code) == ("BadRequestError", "order_already_paid")
    assert outcome == ("COMPLETED", "charged")
    assert (it.payments_asked, it.gateway.arrivals) == (4, {"o-1": 2})


async def test_after_a_decline_the_order_is_free(tmp_path: Path) -> None:
    """The exception is the one it is directly; the same card is another try, and another pays."""
    async with trial(RAZORPAY, tmp_path) as it:
        name = await order(it)
        declined = [await it.pay(name, declined=True) for _ in range(2)]
        outcome = await it.latest()
        paid = await it.pay(name)

    assert {one.raised for one in declined} == {"BadRequestError"}
    assert "declined by the bank" in declined[1].message
    assert outcome == ("DECLINED", "not_charged")
    assert [paid.payment] == it.lines
    assert it.gateway.arrivals == {"o-1": 4}


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_and_the_shops_repeat(fault: Fault, tmp_path: Path) -> None:
    """Not told as failed, not sent again: the repeat hears what the order's payments tell."""
    async with trial(RAZORPAY, tmp_path, CREATED, fault, gateway="") as it:
        name = await order(it)
        lost = await it.pay(name)
        listed = await it.outcome()
        again = await it.pay(name)
        outcome = await it.outcome()

    assert lost.raised == "ServerError"
    assert lost.code == ("" if fault is Fault.FAILED_AFTER else "outcome_unknown")
    assert listed == ("INTERRUPTED", "unknown")
    assert (again.state, [again.payment]) == ("captured", it.lines)
    assert outcome == ("COMPLETED", "charged")
    assert it.gateway.arrivals == {"o-1": 2}


async def test_a_lost_answer_is_found_without_the_shop(tmp_path: Path) -> None:
    """With the credential of the request: the policy has none. Until then the order is open."""
    async with trial(RAZORPAY, tmp_path, CREATED, Fault.RESET_AFTER) as it:
        name = await order(it)
        await it.pay(name)
        other = await it.pay(name, declined=True)
        await it.looked_up()
        outcome = await it.outcome()

    assert (other.code, outcome) == ("order_already_open", ("COMPLETED", "charged"))
    assert it.gateway.arrivals == {"o-1": 2}


async def test_what_never_arrived_stays_unknown(tmp_path: Path) -> None:
    """Nothing proves that it did not; an earlier payment that failed says nothing of it."""
    async with trial(RAZORPAY, tmp_path, CREATED, Fault.NONE, Fault.RESET_BEFORE) as it:
        name = await order(it)
        await it.pay(name, declined=True)
        await it.pay(name)
        it.clock.leap(300)
        again = await it.pay(name)
        outcome = await it.latest()

    assert again.code == "outcome_unknown"
    assert outcome == ("INTERRUPTED", "unknown")
    assert (it.lines, it.gateway.arrivals) == ([], {"o-1": 3})


@pytest.mark.parametrize("route", UNPROTECTED)
async def test_unprotected_a_charge_is_told_as_failed(route: str, tmp_path: Path) -> None:
    """The control: the gateway refuses the repeat, while the customer has paid."""
    async with trial(RAZORPAY, tmp_path, CREATED, Fault.RESET_AFTER, route=route) as it:
        name = await order(it)
        await it.pay(name)
        again = await it.pay(name)

    assert again.message == "Order has already been paid."
    assert len(it.lines) == 1


async def test_an_order_for_each_try_pays_twice(tmp_path: Path) -> None:
    """The control: another order is another payment, to Razorpay and to Holdfast."""
    async with trial(RAZORPAY, tmp_path, CREATED, Fault.RESET_AFTER) as it:
        await it.pay(await order(it))
        await it.pay(await order(it, unique_receipt=False))

    assert it.ledger.per_order() == {"o-1": 2}


@pytest.mark.parametrize("headers", [{}, {"X-Refund-Idempotency": "refund-key-1"}])
async def test_a_lost_refund_is_made_once(headers: dict[str, str], tmp_path: Path) -> None:
    """Under a key of its own, the caller's or Holdfast's, with which it is sent again."""
    lost = [CREATED, Fault.NONE, Fault.RESET_AFTER]
    async with trial(RAZORPAY, tmp_path, *lost, gateway="") as it:
        paid = await it.pay(await order(it))
        refund = await asyncio.to_thread(
            it.sdk.payment.refund, paid.payment, {"amount": 5}, headers=dict(headers)
        )
        outcome = await it.latest()

    (made,) = it.ledger.refunds
    assert re.fullmatch(headers.get("X-Refund-Idempotency", "[0-9a-f]{32}"), made.key or "")
    assert (refund["status"], outcome) == ("processed", ("COMPLETED", "charged"))
    assert it.gateway.arrivals == {"o-1": 4}


async def test_a_refunds_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    """Before anything is sent: the gateway would not take it."""
    short = {"X-Refund-Idempotency": "short"}
    async with trial(RAZORPAY, tmp_path) as it:
        paid = await it.pay(await order(it))
        told = await it.calls(it.sdk.payment.refund, paid.payment, {"amount": 5}, headers=short)

    assert (told.raised, told.code) == ("BadRequestError", "idempotency_key_invalid")
    assert it.ledger.refunds == []


async def test_a_payout_needs_a_key_and_gets_one(tmp_path: Path) -> None:
    """The SDK sends none; also after a lost answer it is paid out once."""
    payout = {"amount": 700, "currency": "INR", "reference_id": "o-1"}
    async with trial(RAZORPAY, tmp_path, Fault.RESET_AFTER, gateway="") as it:
        sent = await asyncio.to_thread(it.sdk.post, "/v1/payouts", payout)

    assert sent["status"] == "processed"
    assert [len(key or "") for key in it.keys] == [32]


async def test_a_second_capture_is_good_news(tmp_path: Path) -> None:
    """The SDK's exception is the gateway's own; the session says that it is charged."""
    async with trial(RAZORPAY, tmp_path) as it:
        paid = await it.pay(await order(it))
        told = await it.calls(it.sdk.payment.capture, paid.payment, 1999)
        outcome = await it.latest()

    assert told.message == "This payment has already been captured"
    assert outcome == ("COMPLETED", "charged")


async def test_a_held_payment_is_refused(tmp_path: Path) -> None:
    """With a sentence, after one request."""
    async with trial(RAZORPAY, tmp_path, CREATED, Fault.RESET_BEFORE) as it:
        name = await order(it)
        await it.pay(name)
        await it.asked("interrupt", reason="test")
        told = await it.pay(name)

    assert (told.raised, told.code) == ("BadRequestError", "session_held")
    assert it.payments_asked == 3


async def test_a_gateway_that_is_gone(tmp_path: Path) -> None:
    """Not sent, then given a rest; the SDK's repeats, switched on, are for connections only."""
    frail = "defaults: {breaker: {min_calls: 2}}"
    async with trial(RAZORPAY, tmp_path, more=frail) as it:
        name = await order(it)
        await it.gateway_goes()
        it.sdk.enable_retry(True)
        told = [await it.pay(name) for _ in range(3)]

    assert {one.raised for one in told} == {"ServerError"}
    assert [one.code for one in told] == ["not_sent", "not_sent", "gateway_unavailable"]
    assert it.payments_asked == 4
