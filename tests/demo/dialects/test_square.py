"""The simulated Square, asked by Square's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from square import Square
from square.core.api_error import ApiError

from proxy.demo.dialects.square import DECLINED, SimulatedSquare
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.sdks_of_gateways import square_python
from tests.support.stage import ScriptedFaults

ONCE: Any = {"max_retries": 0}
PAYMENT: dict[str, Any] = {
    "source_id": "cnon:card-nonce-ok",
    "idempotency_key": "k-1",
    "amount_money": {"amount": 1999, "currency": "EUR"},
    "reference_id": "o-1",
    "request_options": ONCE,
}


@contextlib.asynccontextmanager
async def shop(fault: Fault = Fault.NONE) -> AsyncIterator[tuple[SimulatedSquare, Square]]:
    """A gateway that does this to the first request of order o-1, and the SDK."""
    gateway = SimulatedSquare(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, square_python(origin) as square:
        yield gateway, square


async def test_a_repeated_key_gets_the_first_answer() -> None:
    """Paid once; the same key says the same payment, and other parameters are refused."""
    async with shop() as (gateway, square):
        paid = await asyncio.to_thread(square.payments.create, **PAYMENT)
        again = await asyncio.to_thread(square.payments.create, **PAYMENT)
        with pytest.raises(ApiError) as used:
            await asyncio.to_thread(square.payments.create, **PAYMENT | {"reference_id": "o-2"})

    assert paid.payment is not None
    assert again.payment is not None
    assert (paid.payment.status, again.payment.id) == ("COMPLETED", paid.payment.id)
    assert used.value.errors[0].code == "IDEMPOTENCY_KEY_REUSED"
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_decline_is_an_error_of_its_own_category() -> None:
    """PAYMENT_METHOD_ERROR, and the ledger is empty."""
    async with shop() as (gateway, square):
        with pytest.raises(ApiError) as declined:
            await asyncio.to_thread(square.payments.create, **PAYMENT | {"source_id": DECLINED})

    assert declined.value.errors[0].category == "PAYMENT_METHOD_ERROR"
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER])
async def test_a_lost_answer_is_found_by_key_and_by_list(fault: Fault) -> None:
    """Charged and not told: the list knows the reference, and the key gets the payment."""
    async with shop(fault) as (gateway, square):
        with pytest.raises((ApiError, httpx.TransportError)):
            await asyncio.to_thread(square.payments.create, **PAYMENT)
        listed = await asyncio.to_thread(lambda: list(square.payments.list()))
        again = await asyncio.to_thread(square.payments.create, **PAYMENT)

    assert [payment.reference_id for payment in listed] == ["o-1"]
    assert again.payment is not None
    assert again.payment.id == listed[0].id
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_list_that_lags_proves_nothing() -> None:
    """Charged and not told, and not listed either; by its key it is there."""
    async with shop(Fault.RESET_AFTER) as (gateway, square):
        gateway.lag = 60
        with pytest.raises(httpx.TransportError):
            await asyncio.to_thread(square.payments.create, **PAYMENT)
        assert await asyncio.to_thread(lambda: list(square.payments.list())) == []
        again = await asyncio.to_thread(square.payments.create, **PAYMENT)
        gateway.lag = 0
        listed = await asyncio.to_thread(lambda: list(square.payments.list()))

    assert again.payment is not None
    assert [payment.id for payment in listed] == [again.payment.id]


async def test_a_payment_is_voided_by_its_key() -> None:
    """Without its id; a key that paid nothing is no error."""
    async with shop(Fault.RESET_AFTER) as (gateway, square):
        with pytest.raises(httpx.TransportError):
            await asyncio.to_thread(square.payments.create, **PAYMENT)
        cancel = square.payments.cancel_by_idempotency_key
        for key in ("k-1", "k-2"):
            await asyncio.to_thread(cancel, idempotency_key=key)

    assert gateway.ledger.charges == []
    assert [charge.order for charge in gateway.ledger.voided] == ["o-1"]


async def test_what_is_authorised_is_completed_cancelled_and_refunded() -> None:
    """The life of a payment by its id."""
    async with shop() as (gateway, square):
        held = await asyncio.to_thread(square.payments.create, **PAYMENT, autocomplete=False)
        assert held.payment is not None
        name = held.payment.id
        assert name is not None
        done = await asyncio.to_thread(square.payments.complete, name)
        refunded = await asyncio.to_thread(
            square.refunds.refund_payment,
            idempotency_key="k-2",
            amount_money={"amount": 5, "currency": "EUR"},
            payment_id=name,
        )
        got = await asyncio.to_thread(square.refunds.get, refunded.refund.id)
        cancelled = await asyncio.to_thread(square.payments.cancel, name)

    assert held.payment.status == "APPROVED"
    assert done.payment is not None
    assert done.payment.status == "COMPLETED"
    assert got.refund is not None
    assert got.refund.payment_id == name
    assert cancelled.payment is not None
    assert cancelled.payment.status == "CANCELED"
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault.THROTTLED, 429, "RATE_LIMITED"),
        (Fault.UNAVAILABLE, 503, "SERVICE_UNAVAILABLE"),
    ],
)
async def test_it_complains_in_its_own_form(fault: Fault, status: int, code: str) -> None:
    """What is refused at the edge is an `errors` list and charges nothing."""
    async with shop(fault) as (gateway, square):
        with pytest.raises(ApiError) as refused:
            await asyncio.to_thread(square.payments.create, **PAYMENT)

    assert (refused.value.status_code, refused.value.errors[0].code) == (status, code)
    assert gateway.ledger.charges == []
