"""The simulated Braintree, asked by Braintree's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import braintree
import pytest
import requests
from braintree.exceptions.server_error import ServerError
from braintree.exceptions.service_unavailable_error import ServiceUnavailableError

from proxy.demo.dialects.braintree import DECLINED, SimulatedBraintree
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.sdks_of_gateways import braintree_python
from tests.support.stage import ScriptedFaults

SALE: dict[str, Any] = {
    "amount": "19.99",
    "order_id": "o-1",
    "payment_method_nonce": "fake-valid-nonce",
    "options": {"submit_for_settlement": True},
}


@contextlib.asynccontextmanager
async def shop(
    fault: Fault = Fault.NONE,
) -> AsyncIterator[tuple[SimulatedBraintree, braintree.BraintreeGateway]]:
    """A gateway that does this to the first request of order o-1, and the SDK."""
    gateway = SimulatedBraintree(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, braintree_python(origin) as sdk:
        yield gateway, sdk


async def pay(sdk: braintree.BraintreeGateway, **more: Any) -> Any:
    """Pay order o-1."""
    return await asyncio.to_thread(sdk.transaction.sale, {**SALE, **more})


async def found(sdk: braintree.BraintreeGateway) -> list[str]:
    """The statuses of what a search for order o-1 finds, newest first."""
    wanted = braintree.TransactionSearch.order_id == "o-1"
    return await asyncio.to_thread(
        lambda: [sale.status for sale in sdk.transaction.search(wanted).items]
    )


async def test_a_repeat_within_half_a_minute_is_a_duplicate() -> None:
    """Rejected with its reason; both are found by the order id."""
    async with shop() as (gateway, sdk):
        paid = await pay(sdk)
        again = await pay(sdk)
        assert await found(sdk) == ["gateway_rejected", "submitted_for_settlement"]

    assert (paid.is_success, paid.transaction.status) == (True, "submitted_for_settlement")
    assert (again.is_success, again.transaction.gateway_rejection_reason) == (False, "duplicate")
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_repeat_after_that_is_another_charge() -> None:
    """What the check does not see."""
    async with shop() as (gateway, sdk):
        gateway.duplicate_seconds = 0
        await pay(sdk)
        await pay(sdk)

    assert gateway.ledger.per_order() == {"o-1": 2}


async def test_a_decline_is_an_error_with_its_transaction() -> None:
    """422, which to the SDK is a result; a validation error has no transaction."""
    async with shop() as (gateway, sdk):
        declined = await pay(sdk, payment_method_nonce=DECLINED)
        invalid = await asyncio.to_thread(sdk.transaction.sale, {"order_id": "o-1"})

    assert (declined.is_success, declined.transaction.status) == (False, "processor_declined")
    assert (invalid.is_success, invalid.transaction) == (False, None)
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER])
async def test_a_lost_answer_is_found_by_the_order_id(fault: Fault) -> None:
    """Charged and not told: the search knows it."""
    async with shop(fault) as (gateway, sdk):
        with pytest.raises((requests.RequestException, ServerError)):
            await pay(sdk)
        assert await found(sdk) == ["submitted_for_settlement"]

    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_transaction_is_settled_refunded_and_voided() -> None:
    """The life of a transaction by its id."""
    async with shop() as (gateway, sdk):
        paid = await pay(sdk, options={"submit_for_settlement": False})
        name = paid.transaction.id
        settled = await asyncio.to_thread(sdk.transaction.submit_for_settlement, name)
        refund = await asyncio.to_thread(sdk.transaction.refund, name, "0.05")
        await asyncio.to_thread(sdk.transaction.void, name)
        read = await asyncio.to_thread(sdk.transaction.find, name)

    assert (paid.transaction.status, read.status) == ("authorized", "voided")
    assert settled.transaction.status == "submitted_for_settlement"
    assert refund.transaction.refunded_transaction_id == name
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]
    assert (gateway.ledger.charges, len(gateway.ledger.voided)) == ([], 1)


async def test_it_complains_in_its_own_form() -> None:
    """A 503 is an exception of the SDK, and charges nothing."""
    async with shop(Fault.UNAVAILABLE) as (gateway, sdk):
        with pytest.raises(ServiceUnavailableError):
            await pay(sdk)

    assert gateway.ledger.charges == []
