"""The simulated PayPal, asked by PayPal's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import requests
from paypalserversdk.exceptions.error_exception import ErrorException
from paypalserversdk.paypal_serversdk_client import PaypalServersdkClient

from proxy.demo.dialects.paypal import DECLINED_HOLDER, SimulatedPayPal
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.sdks_of_gateways import paypal_python
from tests.support.stage import ScriptedFaults

WHOLE = "return=representation"


@contextlib.asynccontextmanager
async def shop(
    fault: Fault = Fault.NONE,
) -> AsyncIterator[tuple[SimulatedPayPal, PaypalServersdkClient]]:
    """A gateway that does this to the first request of order o-1, and the SDK."""
    gateway = SimulatedPayPal(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, paypal_python(origin) as paypal:
        yield gateway, paypal


async def create(paypal: PaypalServersdkClient, *, holder: str | None = None, **more: str) -> Any:
    """An order for o-1, paid by card at once if there is a card holder."""
    body: dict[str, Any] = {
        "intent": "CAPTURE",
        "purchase_units": [
            {"custom_id": "o-1", "amount": {"currency_code": "EUR", "value": "19.99"}}
        ],
    }
    if holder is not None:
        body["payment_source"] = {"card": {"name": holder, "number": "4111111111111111"}}
    asks = {"body": body, "paypal_request_id": "k-1", "prefer": WHOLE, **more}
    return await asyncio.to_thread(paypal.orders.create_order, asks)


def capture_of(answer: Any) -> Any:
    """The capture in an order that came whole."""
    return answer.body.purchase_units[0].payments.captures[0]


async def test_a_repeat_gets_the_state_of_now_with_200() -> None:
    """201 when fresh; the same id says 200, and what has become of the order since."""
    async with shop() as (gateway, paypal):
        created = await create(paypal)
        taken = await asyncio.to_thread(
            paypal.orders.capture_order,
            {"id": created.body.id, "paypal_request_id": "k-1", "prefer": WHOLE},
        )
        again = await create(paypal)

    assert (created.status_code, created.body.status) == (201, "CREATED")
    assert (taken.status_code, capture_of(taken).status) == (201, "COMPLETED")
    assert (again.status_code, again.body.id, again.body.status) == (
        200,
        created.body.id,
        "COMPLETED",
    )
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_second_capture_is_refused_by_the_state() -> None:
    """Also without the id: ORDER_ALREADY_CAPTURED."""
    async with shop() as (gateway, paypal):
        created = await create(paypal)
        asks = {"id": created.body.id}
        await asyncio.to_thread(paypal.orders.capture_order, asks)
        with pytest.raises(ErrorException) as refused:
            await asyncio.to_thread(paypal.orders.capture_order, asks)

    assert refused.value.response_code == 422
    assert refused.value.details[0].issue == "ORDER_ALREADY_CAPTURED"
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_declined_card_is_a_completed_order_with_a_declined_capture() -> None:
    """201 COMPLETED, and nothing in the ledger."""
    async with shop() as (gateway, paypal):
        answer = await create(paypal, holder=DECLINED_HOLDER)

    assert (answer.status_code, answer.body.status) == (201, "COMPLETED")
    assert capture_of(answer).status == "DECLINED"
    assert gateway.ledger.charges == []


async def test_a_mocked_issue_is_a_422() -> None:
    """INSTRUMENT_DECLINED, as the sandbox is told to say it."""
    mock = '{"mock_application_codes": "INSTRUMENT_DECLINED"}'
    async with shop() as (gateway, paypal):
        with pytest.raises(ErrorException) as declined:
            await create(paypal, holder="A. Shopper", paypal_mock_response=mock)

    assert declined.value.details[0].issue == "INSTRUMENT_DECLINED"
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER])
async def test_a_lost_answer_is_had_again_by_the_id(fault: Fault) -> None:
    """Charged and not told: the same id gets the order, which can be read."""
    async with shop(fault) as (gateway, paypal):
        with pytest.raises((requests.RequestException, ErrorException)):
            await create(paypal, holder="A. Shopper")
        again = await create(paypal, holder="A. Shopper")
        read = await asyncio.to_thread(paypal.orders.get_order, {"id": again.body.id})

    assert (again.status_code, capture_of(read).status) == (200, "COMPLETED")
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_minimal_answer_does_not_tell_of_captures() -> None:
    """Nor does one that was asked for nothing: id, status, links."""
    async with shop() as (_, paypal):
        answer = await create(paypal, holder="A. Shopper", prefer="return=minimal")

    assert answer.body.status == "COMPLETED"
    assert not hasattr(answer.body, "purchase_units")


async def authorize(paypal: PaypalServersdkClient) -> Any:
    """The authorization of a new order o-1."""
    body = {
        "intent": "AUTHORIZE",
        "purchase_units": [
            {"custom_id": "o-1", "amount": {"currency_code": "EUR", "value": "5.00"}}
        ],
    }
    created = await asyncio.to_thread(paypal.orders.create_order, {"body": body})
    held = await asyncio.to_thread(
        paypal.orders.authorize_order, {"id": created.body.id, "prefer": WHOLE}
    )
    return held.body.purchase_units[0].payments.authorizations[0]


async def test_an_authorisation_is_voided_once() -> None:
    """Charged when authorised; a void takes it back, a second one is refused."""
    async with shop() as (gateway, paypal):
        held = await authorize(paypal)
        asks = {"authorization_id": held.id}
        voided = await asyncio.to_thread(paypal.payments.void_payment, asks)
        with pytest.raises(ErrorException) as refused:
            await asyncio.to_thread(paypal.payments.void_payment, asks)

    assert (held.status, voided.status_code) == ("CREATED", 200)
    assert refused.value.details[0].issue == "PREVIOUSLY_VOIDED"
    assert (gateway.ledger.charges, len(gateway.ledger.voided)) == ([], 1)


async def test_an_authorisation_is_captured_once_and_refunded() -> None:
    """The capture is no second charge; its refund is in the ledger."""
    async with shop() as (gateway, paypal):
        held = await authorize(paypal)
        asks = {"authorization_id": held.id, "prefer": WHOLE}
        taken = await asyncio.to_thread(paypal.payments.capture_authorized_payment, asks)
        with pytest.raises(ErrorException) as refused:
            await asyncio.to_thread(paypal.payments.capture_authorized_payment, asks)
        refund = await asyncio.to_thread(
            paypal.payments.refund_captured_payment, {"capture_id": taken.body.id}
        )

    assert (taken.body.status, refund.status_code) == ("COMPLETED", 201)
    assert refused.value.details[0].issue == "AUTHORIZATION_ALREADY_CAPTURED"
    assert gateway.ledger.per_order() == {"o-1": 1}
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 500)]


async def test_it_complains_in_its_own_form() -> None:
    """A 429 has a name and details, and charges nothing."""
    async with shop(Fault.THROTTLED) as (gateway, paypal):
        with pytest.raises(ErrorException) as refused:
            await create(paypal)

    assert (refused.value.response_code, refused.value.name) == (429, "RATE_LIMIT_REACHED")
    assert gateway.ledger.charges == []
