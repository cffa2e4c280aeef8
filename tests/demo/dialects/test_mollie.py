"""The simulated Mollie, asked by Mollie's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mollie.api.client import Client
from mollie.api.error import BadRequestError, ConflictError, Error, ResponseError

from proxy.demo.dialects.mollie import DECLINED, SimulatedMollie
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.sdks_of_gateways import mollie_python
from tests.support.stage import ScriptedFaults
from tests.support.waiting import until

PAYMENT: dict[str, Any] = {
    "amount": {"currency": "EUR", "value": "19.99"},
    "description": "Order o-1",
    "metadata": {"order_id": "o-1"},
    "sequenceType": "recurring",
    "customerId": "cst_1",
}


@contextlib.asynccontextmanager
async def shop(fault: Fault = Fault.NONE) -> AsyncIterator[tuple[SimulatedMollie, Client]]:
    """A gateway that does this to the first request of order o-1, and the SDK."""
    gateway = SimulatedMollie(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, mollie_python(origin) as mollie:
        yield gateway, mollie


async def pay(mollie: Client, key: str = "k-1", **more: Any) -> Any:
    """Pay order o-1."""
    return await asyncio.to_thread(mollie.payments.create, {**PAYMENT, **more}, key)


async def test_a_repeated_key_gets_the_first_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Paid once; the replay is marked, and other parameters are a 400."""
    async with shop() as (gateway, mollie):
        paid = await pay(mollie)
        with caplog.at_level(logging.WARNING):
            again = await pay(mollie)
        with pytest.raises(BadRequestError):
            await pay(mollie, description="another")

    assert (paid.status, again.id) == ("paid", paid.id)
    assert "'Idempotent-Replayed' header was set" in caplog.text
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_first_payment_is_only_a_link() -> None:
    """Open, with a page to pay at, and nothing in the ledger."""
    async with shop() as (gateway, mollie):
        opened = await pay(mollie, sequenceType="first")
        cancelled: Any = await asyncio.to_thread(mollie.payments.delete, opened.id)

    assert (opened.status, cancelled.status) == ("open", "canceled")
    assert opened.checkout_url.startswith("https://www.mollie.com/")
    assert gateway.ledger.charges == []


async def test_a_declined_mandate_is_a_failed_payment() -> None:
    """201 with status failed."""
    async with shop() as (gateway, mollie):
        failed = await pay(mollie, mandateId=DECLINED)

    assert failed.status == "failed"
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER])
async def test_a_lost_answer_is_found_by_list_and_by_key(fault: Fault) -> None:
    """Charged and not told: the list has the metadata, and the key gets the payment."""
    async with shop(fault) as (gateway, mollie):
        with pytest.raises(Error):
            await pay(mollie)
        listed = await asyncio.to_thread(mollie.payments.list, limit=250)
        again = await pay(mollie)

    assert [(one.id, one.metadata) for one in listed] == [(again.id, {"order_id": "o-1"})]
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_the_links_lead_to_mollie() -> None:
    """A page names the next one absolutely, past whoever stands between."""
    async with shop() as (_, mollie):
        await pay(mollie, "k-1")
        await pay(mollie, "k-2")
        page: Any = await asyncio.to_thread(mollie.payments.list, limit=1)

    assert (len(page), page.has_next()) == (1, True)
    assert page["_links"]["next"]["href"].startswith("https://api.mollie.com/v2/payments?from=tr_")


async def test_a_key_is_busy_while_its_request_runs() -> None:
    """409 for the second of two at once."""
    async with shop(Fault.SLOW) as (gateway, mollie):
        first = asyncio.ensure_future(pay(mollie))
        await until(lambda: bool(gateway.ledger.charges))
        with pytest.raises(ConflictError):
            await pay(mollie)
        await first


async def test_a_refund_is_pending() -> None:
    """And in the ledger."""
    amount = {"amount": {"currency": "EUR", "value": "0.05"}}
    async with shop() as (gateway, mollie):
        paid = await pay(mollie)
        refund = await asyncio.to_thread(paid.refunds.create, amount)
        read = await asyncio.to_thread(paid.refunds.get, refund.id)

    assert (refund.status, read.id) == ("pending", refund.id)
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]


async def test_it_complains_in_its_own_form() -> None:
    """A 429 has status, title and detail, and charges nothing."""
    async with shop(Fault.THROTTLED) as (gateway, mollie):
        with pytest.raises(ResponseError) as refused:
            await pay(mollie)

    assert refused.value.status == 429
    assert gateway.ledger.charges == []
