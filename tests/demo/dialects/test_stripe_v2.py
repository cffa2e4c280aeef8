"""Stripe's simulated second API, asked by Stripe's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import stripe

from proxy.demo.dialects.stripe_v2 import DECLINED, SimulatedStripeV2
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.sdks_of_gateways import stripe_v2_python
from tests.support.stage import ScriptedFaults
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def shop(
    fault: Fault = Fault.NONE,
) -> AsyncIterator[tuple[SimulatedStripeV2, stripe.StripeClient]]:
    """A gateway that does this to the first request of order o-1, and the SDK."""
    gateway = SimulatedStripeV2(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, stripe_v2_python(origin) as sdk:
        yield gateway, sdk


async def pay(sdk: stripe.StripeClient, to: str = "pm_bank", value: int = 1999) -> Any:
    """Pay out for order o-1 with key k-1."""
    params: Any = {
        "amount": {"value": value, "currency": "eur"},
        "from": {"financial_account": "fa_1", "currency": "eur"},
        "to": {"recipient": "acct_1", "payout_method": to},
        "metadata": {"order_id": "o-1"},
    }
    create = sdk.v2.money_management.outbound_payments.create
    return await asyncio.to_thread(create, params, {"idempotency_key": "k-1"})


async def test_a_repeated_key_gets_the_first_answer() -> None:
    """Paid once, later posted; other parameters are refused."""
    async with shop() as (gateway, sdk):
        paid = await pay(sdk)
        again = await pay(sdk)
        with pytest.raises(stripe.IdempotencyError):
            await pay(sdk, value=1)
        read = await asyncio.to_thread(sdk.v2.money_management.outbound_payments.retrieve, paid.id)

    assert (paid.status, again.id, read.status) == ("processing", paid.id, "posted")
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_what_failed_is_tried_again_under_its_key() -> None:
    """No money, twice; nothing is kept of it."""
    async with shop() as (gateway, sdk):
        for _ in range(2):
            with pytest.raises(stripe.InsufficientFundsError):
                await pay(sdk, DECLINED)
        assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER])
async def test_a_lost_answer_is_had_again_by_the_key(fault: Fault) -> None:
    """Paid and not told, or told of an error: the same key finds it done."""
    async with shop(fault) as (gateway, sdk):
        with pytest.raises(stripe.StripeError):
            await pay(sdk)
        again = await pay(sdk)
        listed = await asyncio.to_thread(sdk.v2.money_management.outbound_payments.list)

    assert [payment.id for payment in listed.data] == [again.id]
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_key_is_busy_while_its_request_runs() -> None:
    """409 for the second of two at once."""
    async with shop(Fault.SLOW) as (gateway, sdk):
        first = asyncio.ensure_future(pay(sdk))
        await until(lambda: bool(gateway.ledger.charges))
        with pytest.raises(stripe.IdempotencyError) as busy:
            await pay(sdk)
        await first

    assert busy.value.http_status == 409


async def test_a_payment_is_cancelled() -> None:
    """And is a charge no more."""
    async with shop() as (gateway, sdk):
        paid = await pay(sdk)
        cancel = sdk.v2.money_management.outbound_payments.cancel
        cancelled = await asyncio.to_thread(cancel, paid.id)

    assert cancelled.status == "canceled"
    assert (gateway.ledger.charges, len(gateway.ledger.voided)) == ([], 1)


async def test_it_complains_in_its_own_form() -> None:
    """A 429 is an `error` with a type, and pays nothing."""
    async with shop(Fault.THROTTLED) as (gateway, sdk):
        with pytest.raises(stripe.StripeError) as refused:
            await pay(sdk)

    assert refused.value.http_status == 429
    assert gateway.ledger.charges == []
