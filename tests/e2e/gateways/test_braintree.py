"""Braintree's SDK and its gateway, where nothing has a key: the order in the XML tells a repeat."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import braintree
import pytest

from proxy.demo.dialects.braintree import SimulatedBraintree
from proxy.demo.faults import Fault
from tests.e2e.gateways.shops import BRAINTREE
from tests.e2e.gateways.test_every_sdk import AT_ONCE, ORDERS, RESTLESS
from tests.e2e.gateways.trial import AMOUNT, Heard, trial
from tests.support.stage import fetch

LOST = [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER]
UNPROTECTED = ["session: ephemeral", "order_lock: named"]
# It reads no more of an error than its status.
CONFLICT = Heard(raised="UnexpectedError", message="Unexpected HTTP_RESPONSE 409")


class Forgetful(SimulatedBraintree):
    """Braintree after the 30 seconds for which it knows a duplicate."""

    def __init__(self, *plan: Any) -> None:
        super().__init__(*plan)
        self.duplicate_seconds = 0


LATER = dataclasses.replace(BRAINTREE, simulator=Forgetful)


async def test_an_order_is_paid_once(tmp_path: Path) -> None:
    """The same again gets the answer again, another card is refused; nothing more is sent."""
    async with trial(BRAINTREE, tmp_path) as it:
        paid = await it.pay()
        again = await it.pay()
        other = await it.pay(declined=True)
        outcome = await it.outcome()

    assert (paid.state, [paid.payment]) == ("submitted_for_settlement", it.lines)
    assert (again, other, outcome) == (paid, CONFLICT, ("COMPLETED", "charged"))
    assert (it.payments_asked, it.gateway.arrivals) == (3, {"o-1": 1})


async def test_after_a_decline_the_order_is_free(tmp_path: Path) -> None:
    """It is the result that it is directly; the same is another try, and another card pays."""
    async with trial(LATER, tmp_path) as it:
        declined = [await it.pay(declined=True) for _ in range(2)]
        outcome = await it.latest()
        paid = await it.pay()

    assert [dataclasses.replace(one, payment="") for one in declined] == [BRAINTREE.declined] * 2
    assert outcome == ("DECLINED", "not_charged")
    assert [paid.payment] == it.lines
    assert it.gateway.arrivals == {"o-1": 3}


async def test_what_is_wrong_with_a_sale_is_told_as_it_is_directly(tmp_path: Path) -> None:
    """422 without a transaction: not executed."""
    async with trial(BRAINTREE, tmp_path) as it:
        invalid = await asyncio.to_thread(it.sdk.transaction.sale, {"order_id": "o-1"})
        outcome = await it.outcome()

    assert (invalid.is_success, invalid.message) == (False, "Amount is required.")
    assert (invalid.transaction, outcome) == (None, ("DECLINED", "not_charged"))


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_and_the_shops_repeat(fault: Fault, tmp_path: Path) -> None:
    """Not told as failed, not sent again: the repeat hears what a search for the order finds."""
    async with trial(BRAINTREE, tmp_path, fault, gateway="") as it:
        lost = await it.pay()
        listed = await it.outcome()
        again = await it.pay()
        outcome = await it.outcome()

    assert lost.raised == ("ServerError" if fault is Fault.FAILED_AFTER else "GatewayTimeoutError")
    assert listed == ("INTERRUPTED", "unknown")
    assert (again.state, [again.payment]) == ("submitted_for_settlement", it.lines)
    assert outcome == ("COMPLETED", "charged")
    assert it.gateway.arrivals == {"o-1": 1}


async def test_a_lost_answer_is_found_without_the_shop(tmp_path: Path) -> None:
    """With the credential of the request: the policy has none. Until then the order is open."""
    async with trial(BRAINTREE, tmp_path, Fault.RESET_AFTER) as it:
        await it.pay()
        other = await it.pay(declined=True)
        await it.looked_up()
        outcome = await it.outcome()

    assert (other, outcome) == (CONFLICT, ("COMPLETED", "charged"))
    assert it.gateway.arrivals == {"o-1": 1}


async def test_the_charge_is_found_among_an_orders_tries(tmp_path: Path) -> None:
    """One was declined, and the newest was refused as the duplicate of the charge."""
    lost, route = [Fault.NONE, Fault.RESET_AFTER], "order_lock: named"
    async with trial(BRAINTREE, tmp_path, *lost, route=route) as it:
        await it.pay(declined=True)
        await it.pay()
        duplicate = await it.pay()
        await it.looked_up()
        outcomes = sorted(one["outcome"] for one in await it.sessions())

    assert duplicate.state == "gateway_rejected"
    assert outcomes == ["charged", "not_charged", "not_charged"]
    assert len(it.lines) == 1


@pytest.mark.parametrize(
    ("part", "lost"), [(500, "unknown"), (AMOUNT, "charged")], ids=["another", "the same"]
)
async def test_another_part_of_an_order_is_not_taken_for_it(
    part: int, lost: str, tmp_path: Path
) -> None:
    """What never arrived stays unknown; only a part of the same amount cannot be told from it."""
    never, route = [Fault.NONE, Fault.RESET_BEFORE], "order_lock: named"
    async with trial(BRAINTREE, tmp_path, *never, route=route) as it:
        await it.pay(amount=part)
        await it.pay()
        it.clock.leap(300)
        for one in await it.sessions():
            await fetch(it.http, "GET", f"{it.holdfast.api}/session/{one['sessionId']}")
        outcomes = sorted(one["outcome"] for one in await it.sessions())

    assert outcomes == ["charged", lost]
    assert len(it.lines) == 1


async def test_what_never_arrived_stays_unknown(tmp_path: Path) -> None:
    """Nothing proves that it did not; an earlier try that was declined says nothing of it."""
    async with trial(BRAINTREE, tmp_path, Fault.NONE, Fault.RESET_BEFORE) as it:
        await it.pay(declined=True)
        await it.pay()
        it.clock.leap(300)
        again = await it.pay()
        outcome = await it.latest()

    assert (again.raised, outcome) == ("GatewayTimeoutError", ("INTERRUPTED", "unknown"))
    assert (it.lines, it.gateway.arrivals) == ([], {"o-1": 2})


async def test_every_two_faults_and_a_patient_shop(tmp_path: Path) -> None:
    """As with a key: no order is charged twice, and what anybody is told of it is so."""
    told = {}
    async with trial(LATER, tmp_path, gateway=AT_ONCE, more=RESTLESS, others=ORDERS) as it:
        for order in ORDERS:
            for _ in range(3):
                told[order] = await it.pay(order)
        sessions = {one["orderId"]: one["outcome"] for one in await it.sessions()}

    charged = it.ledger.per_order()
    assert set(charged.values()) == {1}
    for order, heard in told.items():
        if heard.state == BRAINTREE.paid:
            assert (charged[order], sessions[order]) == (1, "charged")
        else:  # nobody was told that it failed
            assert (heard.raised != "", sessions[order]) == (True, "unknown")


@pytest.mark.parametrize("route", UNPROTECTED)
async def test_unprotected_a_charge_is_told_as_failed(route: str, tmp_path: Path) -> None:
    """The control: the gateway refuses the repeat as a duplicate of what was charged."""
    async with trial(BRAINTREE, tmp_path, Fault.RESET_AFTER, route=route) as it:
        await it.pay()
        again = await it.pay()

    assert again.state == "gateway_rejected"
    assert len(it.lines) == 1


@pytest.mark.parametrize("route", UNPROTECTED)
async def test_unprotected_it_pays_twice_after_half_a_minute(route: str, tmp_path: Path) -> None:
    """The control: past the gateway's own check nothing tells the repeat."""
    async with trial(LATER, tmp_path, Fault.RESET_AFTER, route=route) as it:
        await it.pay()
        await it.pay()

    assert it.ledger.per_order() == {"o-1": 2}


async def test_the_lock_holds_after_half_a_minute(tmp_path: Path) -> None:
    """The same with the profile as it ships."""
    async with trial(LATER, tmp_path, Fault.RESET_AFTER) as it:
        await it.pay()
        again = await it.pay()

    assert ([again.payment], it.ledger.per_order()) == (it.lines, {"o-1": 1})


async def test_a_throttled_sale_is_not_known_to_be_harmless(tmp_path: Path) -> None:
    """Braintree says nowhere that a 429 executed nothing."""
    async with trial(BRAINTREE, tmp_path, Fault.THROTTLED, gateway="") as it:
        told = await it.pay()
        outcome = await it.outcome()

    assert (told.raised, outcome) == ("TooManyRequestsError", ("INTERRUPTED", "unknown"))


async def test_a_held_payment_is_refused(tmp_path: Path) -> None:
    """After one request."""
    async with trial(BRAINTREE, tmp_path, Fault.RESET_BEFORE) as it:
        await it.pay()
        await it.asked("interrupt", reason="test")
        told = await it.pay()

    assert (told, it.payments_asked) == (CONFLICT, 2)


async def test_a_gateway_that_is_gone(tmp_path: Path) -> None:
    """Not sent, then given a rest: each is one request and an exception of the SDK's own."""
    async with trial(BRAINTREE, tmp_path, more="defaults: {breaker: {min_calls: 2}}") as it:
        await it.gateway_goes()
        told = [await it.pay() for _ in range(3)]

    assert [one.raised for one in told] == [
        "UnexpectedError",
        "UnexpectedError",
        "ServiceUnavailableError",
    ]
    assert it.payments_asked == 3


async def test_a_transaction_is_settled_refunded_voided_and_searched(tmp_path: Path) -> None:
    """The life of a transaction, through Holdfast."""
    async with trial(BRAINTREE, tmp_path) as it:
        name = (await it.pay()).payment
        settled = await asyncio.to_thread(it.sdk.transaction.submit_for_settlement, name)
        refund = await asyncio.to_thread(it.sdk.transaction.refund, name, "0.05")
        await asyncio.to_thread(it.sdk.transaction.void, name)
        read = await asyncio.to_thread(it.sdk.transaction.find, name)
        wanted = braintree.TransactionSearch.order_id == "o-1"
        found = await asyncio.to_thread(
            lambda: [sale.id for sale in it.sdk.transaction.search(wanted).items]
        )

    assert (settled.transaction.status, read.status) == ("submitted_for_settlement", "voided")
    assert found == [refund.transaction.id, name]
    assert (it.lines, len(it.ledger.refunds)) == ([], 1)


async def test_a_lost_refund_is_not_repeated(tmp_path: Path) -> None:
    """Nothing tells the same refund from another one: the same again is refused."""
    async with trial(BRAINTREE, tmp_path, Fault.NONE, Fault.RESET_AFTER) as it:
        name = (await it.pay()).payment
        lost = await it.calls(it.sdk.transaction.refund, name, "0.05")
        again = await it.calls(it.sdk.transaction.refund, name, "0.05")

    assert lost.raised == "GatewayTimeoutError"
    assert (again, len(it.ledger.refunds)) == (CONFLICT, 1)
