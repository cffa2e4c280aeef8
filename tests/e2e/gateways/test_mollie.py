"""What is special of Mollie's SDK and its gateway; the rest is in test_every_sdk.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.demo.faults import Fault
from tests.e2e.gateways.shops import MOLLIE
from tests.e2e.gateways.trial import shipped, trial


async def test_a_first_payment_is_a_link_that_nobody_has_followed(tmp_path: Path) -> None:
    """Done, and nothing is charged."""
    async with trial(MOLLIE, tmp_path) as it:
        opened = await it.pay(sequenceType="first")
        outcome = await it.outcome()

    assert (opened.state, it.lines) == ("open", [])
    assert outcome == ("COMPLETED", "not_charged")


async def test_who_sends_no_key_gets_one(tmp_path: Path) -> None:
    """The SDK always sends one; others need not."""
    payment = {
        "amount": {"currency": "EUR", "value": "19.99"},
        "description": "Order o-1",
        "sequenceType": "recurring",
    }
    async with trial(MOLLIE, tmp_path) as it:
        assert await it.posts("/v2/payments", payment) == 201

    assert [len(key or "") for key in it.keys] == [32]


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.FAILED_AFTER])
async def test_a_lost_answer_is_found_without_the_shop(tmp_path: Path, fault: Fault) -> None:
    """In the list, with the credential of the request: the policy has none."""
    async with trial(MOLLIE, tmp_path, fault) as it:
        await it.pay()
        await it.looked_up()
        outcome = await it.outcome()
        paid = await it.pay()

    assert outcome == ("COMPLETED", "charged")
    assert (paid.state, [paid.payment]) == ("paid", it.lines)
    assert it.gateway.arrivals == {"o-1": 1}


async def test_what_never_arrived_stays_unknown(tmp_path: Path) -> None:
    """An earlier try that failed, all that the list has of the order, says nothing of this one."""
    async with trial(MOLLIE, tmp_path, Fault.NONE, Fault.RESET_BEFORE) as it:
        await it.pay(declined=True)
        await it.pay(key="k-2")
        it.clock.leap(300)  # whatever the gateway was at is over
        again = await it.pay(key="k-2")
        outcome = await it.latest()

    assert (again.raised, again.code) == ("ResponseError", "outcome_unknown")
    assert outcome == ("INTERRUPTED", "unknown")
    assert it.gateway.arrivals == {"o-1": 2}


async def test_the_sdks_own_habit_pays_twice(tmp_path: Path) -> None:
    """It makes up a key for each call: to the profile alone, two keys are two payments."""
    async with trial(MOLLIE, tmp_path, Fault.RESET_AFTER) as it:
        await it.pay(key=None)
        await it.pay(key=None)

    assert it.ledger.per_order() == {"o-1": 2}


async def test_a_refund_is_made_once(tmp_path: Path) -> None:
    """On its way back is done; the same key again is the same refund."""
    amount = {"amount": {"currency": "EUR", "value": "0.05"}}
    async with trial(MOLLIE, tmp_path) as it:
        paid = await asyncio.to_thread(it.sdk.payments.get, (await it.pay()).payment)
        for _ in range(2):
            refund = await asyncio.to_thread(paid.refunds.create, amount, "refund-1")
            assert refund.status == "pending"
        outcome = await it.latest()

    assert (len(it.ledger.refunds), outcome) == (1, ("COMPLETED", "charged"))


async def test_holdfast_gives_up_before_the_sdk_does(tmp_path: Path) -> None:
    """So that the shop hears what is known, and not that nobody answered."""
    async with trial(MOLLIE, tmp_path) as it:
        _, patience = it.sdk.timeout

    totals = {route.timeouts.total for _, route in shipped(MOLLIE, tmp_path).routes.routes}
    assert max(totals) < patience
