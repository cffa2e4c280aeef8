"""The simulated Paystack, which has no official SDK for Python."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from proxy.demo.dialects.paystack import DECLINED, SimulatedPaystack
from proxy.demo.faults import Fault
from tests.support.plain_http import Say, plain_http
from tests.support.running import simulated
from tests.support.stage import ScriptedFaults


@contextlib.asynccontextmanager
async def shop(fault: Fault = Fault.NONE) -> AsyncIterator[tuple[SimulatedPaystack, Say]]:
    """A gateway that does this to the first request of order o-1, and a client."""
    gateway = SimulatedPaystack(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, plain_http(origin) as say:
        yield gateway, say


async def pay(say: Say, reference: str = "ref-1", card: str = "AUTH_1") -> Any:
    """Pay order o-1."""
    charge = {
        "email": "shopper@shop.example",
        "amount": 1999,
        "reference": reference,
        "authorization_code": card,
        "metadata": {"order_id": "o-1"},
    }
    return await say("POST", "/transaction/charge_authorization", charge)


async def test_a_reference_is_taken_once() -> None:
    """The second time it says so, and the look-up says what became of it."""
    async with shop() as (gateway, say):
        paid = await pay(say)
        again = await pay(say)
        read = await say("GET", "/transaction/verify/ref-1")

    assert (paid.status, paid.body["data"]["status"]) == (200, "success")
    assert (again.status, again.body["code"]) == (400, "duplicate_reference")
    assert read.body["data"] == paid.body["data"]
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_decline_is_a_200_that_failed() -> None:
    """The outer status is only that of the call."""
    async with shop() as (gateway, say):
        declined = await pay(say, card=DECLINED)

    assert (declined.status, declined.body["status"]) == (200, True)
    assert declined.body["data"]["status"] == "failed"
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED])
async def test_a_lost_answer_is_found_by_the_reference(fault: Fault) -> None:
    """Charged and not told; a repeat does not charge either."""
    async with shop(fault) as (gateway, say):
        with pytest.raises(aiohttp.ClientError):
            await pay(say)
        assert (await pay(say)).body["code"] == "duplicate_reference"
        read = await say("GET", "/transaction/verify/ref-1")

    assert read.body["data"]["status"] == "success"
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_another_reference_is_another_charge() -> None:
    """The order in the metadata protects nothing."""
    async with shop() as (gateway, say):
        await pay(say)
        await pay(say, "ref-2")

    assert gateway.ledger.per_order() == {"o-1": 2}


async def test_what_is_not_there_is_not_found() -> None:
    """404 from the look-up; what is there can be refunded."""
    async with shop() as (gateway, say):
        missing = await say("GET", "/transaction/verify/ref-1")
        await pay(say)
        refund = await say("POST", "/refund", {"transaction": "ref-1", "amount": 5})

    assert (missing.status, missing.body["code"]) == (404, "transaction_not_found")
    assert refund.body["data"]["status"] == "pending"
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]


async def test_a_transfer_has_a_reference_too() -> None:
    """Sent once, and found by it."""
    transfer = {"amount": 700, "reference": "transfer-1-aaaaaaa", "recipient": "RCP_1"}
    async with shop() as (gateway, say):
        await say("POST", "/transfer", transfer)
        again = await say("POST", "/transfer", transfer)
        read = await say("GET", f"/transfer/verify/{transfer['reference']}")

    assert (again.status, read.body["data"]["status"]) == (400, "success")
    assert len(gateway.ledger.charges) == 1


async def test_it_complains_in_its_own_form() -> None:
    """A 503 has status false and a code, and charges nothing."""
    async with shop(Fault.UNAVAILABLE) as (gateway, say):
        refused = await pay(say)

    assert (refused.status, refused.body["status"]) == (503, False)
    assert gateway.ledger.charges == []
