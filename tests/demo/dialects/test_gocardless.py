"""The simulated GoCardless, asked by GoCardless's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import gocardless_pro
import pytest
import requests
from gocardless_pro.errors import (
    GoCardlessInternalError,
    IdempotentCreationConflictError,
    RateLimitError,
)

from proxy.demo.dialects.gocardless import DECLINED, SimulatedGoCardless
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.sdks_of_gateways import gocardless_python
from tests.support.stage import ScriptedFaults

PAYMENT: dict[str, Any] = {
    "amount": 1999,
    "currency": "EUR",
    "metadata": {"order_id": "o-1"},
    "links": {"mandate": "MD1"},
}


@contextlib.asynccontextmanager
async def shop(
    fault: Fault = Fault.NONE,
) -> AsyncIterator[tuple[SimulatedGoCardless, gocardless_pro.Client]]:
    """A gateway that does this to the first request of order o-1, and the SDK."""
    gateway = SimulatedGoCardless(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, gocardless_python(origin) as sdk:
        yield gateway, sdk


async def pay(sdk: gocardless_pro.Client, *, find: bool = True, **more: Any) -> Any:
    """Pay order o-1 with key k-1; `find` what a conflict names, as the SDK does by itself."""
    payments = sdk.payments
    payments.retry_delay_in_seconds = 0
    payments.raise_on_idempotency_conflict = not find
    headers = {"Idempotency-Key": "k-1"}
    return await asyncio.to_thread(payments.create, {**PAYMENT, **more}, headers)


async def test_a_repeated_key_is_a_conflict_that_names_the_payment() -> None:
    """409, from which the SDK gets the payment."""
    async with shop() as (gateway, sdk):
        paid = await pay(sdk)
        with pytest.raises(IdempotentCreationConflictError) as conflict:
            await pay(sdk, find=False)
        again = await pay(sdk)

    assert (paid.status, again.id) == ("pending_submission", paid.id)
    assert conflict.value.conflicting_resource_id == paid.id
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_failure_is_seen_later() -> None:
    """Created as any other; the payment says failed when it is asked."""
    async with shop() as (gateway, sdk):
        paid = await pay(sdk, links={"mandate": DECLINED})
        later = await asyncio.to_thread(sdk.payments.get, paid.id)

    assert (paid.status, later.status) == ("pending_submission", "failed")
    assert gateway.ledger.charges == []


async def test_a_lost_answer_is_found_by_the_sdk_itself() -> None:
    """It repeats with its key, hears of the conflict, and gets the payment."""
    async with shop(Fault.RESET_AFTER) as (gateway, sdk):
        paid = await pay(sdk)
        listed = await asyncio.to_thread(sdk.payments.list, {"mandate": "MD1"})

    assert [(one.id, one.metadata) for one in listed.records] == [(paid.id, {"order_id": "o-1"})]
    assert (gateway.arrivals["o-1"], gateway.ledger.per_order()) == (2, {"o-1": 1})


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.FAILED_AFTER])
async def test_what_went_wrong_after_charging_is_a_conflict_the_next_time(fault: Fault) -> None:
    """Neither a cut answer nor a 500 is repeated by the SDK; the key knows what was done."""
    async with shop(fault) as (gateway, sdk):
        with pytest.raises((requests.RequestException, GoCardlessInternalError)):
            await pay(sdk)
        again = await pay(sdk)

    assert again.metadata == {"order_id": "o-1"}
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_payment_is_refunded_and_cancelled() -> None:
    """The life of a payment by its id."""
    async with shop() as (gateway, sdk):
        paid = await pay(sdk)
        refund = await asyncio.to_thread(
            sdk.refunds.create, {"amount": 5, "links": {"payment": paid.id}}
        )
        read = await asyncio.to_thread(sdk.refunds.get, refund.id)
        cancelled = await asyncio.to_thread(sdk.payments.cancel, paid.id)

    assert (read.amount, cancelled.status) == (5, "cancelled")
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]
    assert (gateway.ledger.charges, len(gateway.ledger.voided)) == ([], 1)


async def test_it_complains_in_its_own_form() -> None:
    """A 429 has a type, and charges nothing; answers tell the rate that is left."""
    async with shop(Fault.THROTTLED) as (gateway, sdk):
        with pytest.raises(RateLimitError):
            await pay(sdk)
        assert gateway.ledger.charges == []
        paid = await pay(sdk)

    assert paid.api_response.headers["ratelimit-remaining"] == "999"
