"""The simulated Adyen, asked by Adyen's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import Adyen
import pytest
import requests
from Adyen.exceptions import AdyenAPIResponseError

from proxy.demo.dialects.adyen import SimulatedAdyen
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.sdks_of_gateways import adyen_python
from tests.support.stage import ScriptedFaults
from tests.support.waiting import until

PAYMENT: dict[str, Any] = {
    "amount": {"value": 1999, "currency": "EUR"},
    "reference": "o-1",
    "paymentMethod": {"type": "scheme", "holderName": "A. Shopper"},
    "merchantAccount": "Shop",
    "returnUrl": "https://shop.example/",
}


@contextlib.asynccontextmanager
async def shop(fault: Fault = Fault.NONE) -> AsyncIterator[tuple[SimulatedAdyen, Adyen.Adyen]]:
    """A gateway that does this to the first request of order o-1, and the SDK."""
    gateway = SimulatedAdyen(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, adyen_python(origin) as adyen:
        yield gateway, adyen


async def pay(adyen: Adyen.Adyen, key: str | None = "k-1", holder: str = "A. Shopper") -> Any:
    """Pay order o-1."""
    payment = {**PAYMENT, "paymentMethod": {"type": "scheme", "holderName": holder}}
    return await asyncio.to_thread(adyen.checkout.payments_api.payments, payment, key)


async def test_a_repeated_key_gets_the_first_answer() -> None:
    """Paid once, whatever the second request says."""
    async with shop() as (gateway, adyen):
        paid = await pay(adyen)
        again = await pay(adyen)

    assert (paid.message["resultCode"], paid.psp) == ("Authorised", again.psp)
    assert gateway.ledger.per_order() == {"o-1": 1}


@pytest.mark.parametrize(
    ("holder", "result"),
    [("DECLINED", "Refused"), ("UNKNOWN", "Error"), ("PENDING", "Received")],
)
async def test_the_result_is_in_the_body_of_a_200(holder: str, result: str) -> None:
    """Nothing but an authorisation is in the ledger."""
    async with shop() as (gateway, adyen):
        answer = await pay(adyen, holder=holder)

    assert (answer.status_code, answer.message["resultCode"]) == (200, result)
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED])
async def test_a_lost_answer_is_had_again_by_the_key(fault: Fault) -> None:
    """Charged and not told: the same key gets the payment."""
    async with shop(fault) as (gateway, adyen):
        with pytest.raises(requests.RequestException):
            await pay(adyen)
        again = await pay(adyen)

    assert again.message["merchantReference"] == "o-1"
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_an_error_is_kept_for_its_key() -> None:
    """A 500 that charged stays a 500; another key charges again."""
    async with shop(Fault.FAILED_AFTER) as (gateway, adyen):
        for _ in range(2):
            with pytest.raises(AdyenAPIResponseError) as failed:
                await pay(adyen)
            assert failed.value.headers["idempotency-key"] == "k-1"
            assert "transient-error" not in failed.value.headers
        await pay(adyen, "k-2")

    assert gateway.ledger.per_order() == {"o-1": 2}


async def test_what_is_transient_is_not_kept() -> None:
    """A 503 is marked and did nothing: the same key pays."""
    async with shop(Fault.UNAVAILABLE) as (gateway, adyen):
        with pytest.raises(AdyenAPIResponseError) as busy:
            await pay(adyen)
        await pay(adyen)

    assert (busy.value.error_code, busy.value.headers["transient-error"]) == ("703", "true")
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_key_is_busy_while_its_request_runs() -> None:
    """422 with code 704, marked as transient."""
    async with shop(Fault.SLOW) as (gateway, adyen):
        first = asyncio.ensure_future(pay(adyen))
        await until(lambda: bool(gateway.ledger.charges))
        with pytest.raises(AdyenAPIResponseError) as busy:
            await pay(adyen)
        await first

    assert (busy.value.status_code, busy.value.error_code) == (422, "704")
    assert busy.value.headers["transient-error"] == "true"


async def test_a_payment_is_voided_by_its_reference() -> None:
    """Without its pspReference; the answer never says more than received."""
    cancel = {"paymentReference": "o-1", "merchantAccount": "Shop"}
    async with shop(Fault.RESET_AFTER) as (gateway, adyen):
        with pytest.raises(requests.RequestException):
            await pay(adyen)
        modifications = adyen.checkout.modifications_api
        told = await asyncio.to_thread(modifications.cancel_authorised_payment, cancel, "k-2")

    assert (told.status_code, told.message["status"]) == (201, "received")
    assert (gateway.ledger.charges, len(gateway.ledger.voided)) == ([], 1)


async def test_a_refund_is_received() -> None:
    """And in the ledger."""
    refund = {"amount": {"value": 5, "currency": "EUR"}, "merchantAccount": "Shop"}
    async with shop() as (gateway, adyen):
        paid = await pay(adyen)
        give_back = adyen.checkout.modifications_api.refund_captured_payment
        told = await asyncio.to_thread(give_back, refund, paid.psp, "k-2")

    assert told.message["paymentPspReference"] == paid.psp
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]
