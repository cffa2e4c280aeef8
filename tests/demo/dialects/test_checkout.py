"""The simulated Checkout.com, asked by its own SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import requests
from checkout_sdk.checkout_api import CheckoutApi
from checkout_sdk.exception import CheckoutApiException, CheckoutException
from checkout_sdk.payments.payments import (
    PaymentRequest,
    PaymentRequestTokenSource,
    PaymentsQueryFilter,
    RefundRequest,
)

from proxy.demo.dialects.checkout import DECLINED, SimulatedCheckout
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.sdks_of_gateways import checkout_python
from tests.support.stage import ScriptedFaults
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def shop(fault: Fault = Fault.NONE) -> AsyncIterator[tuple[SimulatedCheckout, CheckoutApi]]:
    """A gateway that does this to the first request of order o-1, and the SDK."""
    gateway = SimulatedCheckout(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, checkout_python(origin) as checkout:
        yield gateway, checkout


async def pay(checkout: CheckoutApi, token: str = "tok_visa") -> Any:  # noqa: S107 -- no secret
    """Pay order o-1 with key k-1."""
    request = PaymentRequest()
    request.source = PaymentRequestTokenSource()
    request.source.token = token
    request.amount, request.currency, request.reference = 1999, "EUR", "o-1"
    return await asyncio.to_thread(checkout.payments.request_payment, request, "k-1")


async def found(checkout: CheckoutApi) -> Any:
    """The payments of order o-1."""
    query = PaymentsQueryFilter()
    query.reference = "o-1"
    return (await asyncio.to_thread(checkout.payments.get_payments_list, query)).data


async def test_a_repeated_key_gets_the_first_answer() -> None:
    """Paid once, and 201 both times."""
    async with shop() as (gateway, checkout):
        paid = await pay(checkout)
        again = await pay(checkout)

    assert (paid.approved, paid.status, again.id) == (True, "Authorized", paid.id)
    assert (paid.http_metadata.status_code, again.http_metadata.status_code) == (201, 201)
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_decline_is_a_201_that_is_not_approved() -> None:
    """And nothing in the ledger."""
    async with shop() as (gateway, checkout):
        declined = await pay(checkout, DECLINED)

    assert (declined.approved, declined.status) == (False, "Declined")
    assert declined.response_code == "20005"
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED])
async def test_a_lost_answer_is_found_by_reference_and_by_key(fault: Fault) -> None:
    """Charged and not told: the list knows the reference, and the key gets the payment."""
    async with shop(fault) as (gateway, checkout):
        with pytest.raises((CheckoutException, requests.RequestException)):
            await pay(checkout)
        listed = await found(checkout)
        again = await pay(checkout)

    assert [payment.id for payment in listed] == [again.id]
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_an_error_after_charging_and_a_repeat_are_two_charges() -> None:
    """The key keeps no error; one look at the list would have shown the first."""
    async with shop(Fault.FAILED_AFTER) as (gateway, checkout):
        with pytest.raises(CheckoutApiException) as failed:
            await pay(checkout)
        listed = await found(checkout)
        await pay(checkout)

    assert failed.value.http_metadata.status_code == 500
    assert [payment.reference for payment in listed] == ["o-1"]
    assert gateway.ledger.per_order() == {"o-1": 2}


async def test_a_key_is_busy_while_its_request_runs() -> None:
    """409 for the second of two at once."""
    async with shop(Fault.SLOW) as (gateway, checkout):
        first = asyncio.ensure_future(pay(checkout))
        await until(lambda: bool(gateway.ledger.charges))
        with pytest.raises(CheckoutApiException) as busy:
            await pay(checkout)
        await first

    assert busy.value.http_metadata.status_code == 409


async def test_a_payment_is_captured_refunded_and_voided() -> None:
    """202 each time; the payment says what it has become."""
    refund = RefundRequest()
    refund.amount = 5
    async with shop() as (gateway, checkout):
        payments = checkout.payments
        paid = await pay(checkout)
        captured = await asyncio.to_thread(payments.capture_payment, paid.id)
        await asyncio.to_thread(payments.refund_payment, paid.id, refund)
        refunded = await asyncio.to_thread(payments.get_payment_details, paid.id)
        await asyncio.to_thread(payments.void_payment, paid.id)

    assert (captured.http_metadata.status_code, captured.reference) == (202, "o-1")
    assert refunded.status == "Refunded"
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]
    assert len(gateway.ledger.voided) == 1


async def test_it_complains_in_its_own_form() -> None:
    """A 503 has an `error_type` and codes, and charges nothing."""
    async with shop(Fault.UNAVAILABLE) as (gateway, checkout):
        with pytest.raises(CheckoutApiException) as refused:
            await pay(checkout)

    assert refused.value.error_details == ["service_unavailable"]
    assert gateway.ledger.charges == []
