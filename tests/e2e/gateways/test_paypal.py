"""PayPal through its SDK: an order that is created, then captured; orders that are completed and
not paid; access tokens that change.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.dialects.paypal import DECLINED_HOLDER
from proxy.demo.faults import Fault
from tests.e2e.gateways.shops import PAYPAL
from tests.e2e.gateways.trial import trial
from tests.support.stage import fetch

UNIT = {"invoice_id": "o-1", "amount": {"currency_code": "EUR", "value": "19.99"}}
TO_APPROVE = {"intent": "CAPTURE", "purchase_units": [UNIT]}
BY_CARD = {**TO_APPROVE, "payment_source": {"card": {"number": "4111111111111111"}}}
REFUSED = {**TO_APPROVE, "payment_source": {"card": {"name": DECLINED_HOLDER}}}


async def test_an_order_is_created_then_captured(tmp_path: Path) -> None:
    """Two calls under one id, and the second one's answer is lost: charged once, and told so."""
    async with trial(PAYPAL, tmp_path, Fault.NONE, Fault.RESET_AFTER, gateway="") as it:
        asks: dict[str, Any] = {"paypal_request_id": "k-1", "prefer": "return=representation"}
        made = await asyncio.to_thread(it.sdk.orders.create_order, {"body": TO_APPROVE, **asks})
        asks["id"] = made.body.id
        taken = await asyncio.to_thread(it.sdk.orders.capture_order, asks)
        sessions = await it.sessions()

    assert (made.status_code, made.body.status) == (201, "CREATED")
    # PayPal says 200 for what it has said before.
    assert (taken.status_code, taken.body.status) == (200, "COMPLETED")
    assert len(it.lines) == 1
    assert sorted((one["status"], one["outcome"]) for one in sessions) == [
        ("COMPLETED", "charged"),
        ("COMPLETED", "not_charged"),
    ]


@pytest.mark.parametrize(
    ("named", "heard"),
    [
        ({"X-Payment-Order-Id": "o-1"}, [201, 409]),
        ({}, [201, 201]),
    ],
    ids=["named", "not named"],
)
async def test_two_orders_of_paypals_for_one_of_the_shops(
    named: dict[str, str], heard: list[int], tmp_path: Path
) -> None:
    """The second capture is refused where the shop names its own order, else it charges again."""
    async with trial(PAYPAL, tmp_path) as it:
        url = f"{it.holdfast.url}/v2/checkout/orders"
        tabs = [{**named, "PayPal-Request-Id": key} for key in ("tab-1", "tab-2")]
        made = [await fetch(it.http, "POST", url, json=TO_APPROVE, headers=tab) for tab in tabs]
        taken = []
        for tab, order in zip(tabs, made, strict=True):
            capture = f"{url}/{json.loads(order.body)['id']}/capture"
            taken.append(await fetch(it.http, "POST", capture, json={}, headers=tab))

    assert [order.status for order in made] == [201, 201]
    assert [one.status for one in taken] == heard
    assert len(it.lines) == heard.count(201)


async def test_captured_before_is_refused_by_the_state(tmp_path: Path) -> None:
    """Under another id: ORDER_ALREADY_CAPTURED, as directly."""
    async with trial(PAYPAL, tmp_path) as it:
        made = await asyncio.to_thread(it.sdk.orders.create_order, {"body": TO_APPROVE})
        await asyncio.to_thread(it.sdk.orders.capture_order, {"id": made.body.id})
        asks = {"id": made.body.id, "paypal_request_id": "k-2"}
        heard = await it.calls(it.sdk.orders.capture_order, asks)

    assert (heard.status, heard.code) == (422, "ORDER_ALREADY_CAPTURED")
    assert len(it.lines) == 1


async def test_an_instrument_that_is_declined(tmp_path: Path) -> None:
    """A 422 whose issue says so, as the sandbox is told to say it."""
    mock = '{"mock_application_codes": "INSTRUMENT_DECLINED"}'
    asks = {"body": BY_CARD, "paypal_request_id": "k-1", "paypal_mock_response": mock}
    async with trial(PAYPAL, tmp_path) as it:
        heard = await it.calls(it.sdk.orders.create_order, asks)
        outcome = await it.outcome()

    assert (heard.status, heard.code) == (422, "INSTRUMENT_DECLINED")
    assert (outcome, it.lines) == (("DECLINED", "not_charged"), [])


async def test_a_minimal_answer_counts_as_paid(tmp_path: Path) -> None:
    """COMPLETED says no more than that it is over, and a second payment might double it."""
    async with trial(PAYPAL, tmp_path, route="order_lock: body") as it:
        asks = {"body": REFUSED, "paypal_request_id": "k-1"}
        told = await asyncio.to_thread(it.sdk.orders.create_order, asks)
        outcome = await it.outcome()
        refused = await it.pay(key="k-2")

    assert told.body.status == "COMPLETED"
    assert outcome == ("COMPLETED", "charged")
    assert (refused.code, it.lines) == ("order_already_paid", [])


async def test_another_access_token_is_the_same_payment(tmp_path: Path) -> None:
    """It runs out every few hours: a repeat under the next one is a replay, not a charge."""
    async with trial(PAYPAL, tmp_path) as it:
        told = []
        for token in ("A21first", "A21second"):
            headers = {"Authorization": f"Bearer {token}", "PayPal-Request-Id": "k-1"}
            url = f"{it.holdfast.url}/v2/checkout/orders"
            told.append(await fetch(it.http, "POST", url, json=BY_CARD, headers=headers))

    assert (told[1].status, told[1].body) == (told[0].status, told[0].body)
    assert len(it.lines) == 1


async def test_a_lost_refund_is_made_once(tmp_path: Path) -> None:
    """Holdfast asks again with the same id."""
    async with trial(PAYPAL, tmp_path, Fault.NONE, Fault.RESET_AFTER, gateway="") as it:
        paid = await it.pay()
        asks = {"capture_id": paid.payment, "paypal_request_id": "k-2"}
        heard = await it.calls(it.sdk.payments.refund_captured_payment, asks)

    assert heard.raised == ""
    assert [refund.key for refund in it.ledger.refunds] == ["k-2"]
    assert it.gateway.arrivals == {"o-1": 3}
