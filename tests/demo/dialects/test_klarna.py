"""The simulated Klarna, which has no official SDK for Python."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from proxy.demo.dialects.klarna import DECLINED, SimulatedKlarna
from proxy.demo.faults import Fault
from tests.support.plain_http import Say, plain_http
from tests.support.running import simulated
from tests.support.stage import ScriptedFaults

# The first request of an order makes it, the second captures.
CAPTURING = 2


@contextlib.asynccontextmanager
async def shop(fault: Fault = Fault.NONE) -> AsyncIterator[tuple[SimulatedKlarna, Say]]:
    """A gateway that does this to the capture of order o-1, and a client."""
    gateway = SimulatedKlarna(ScriptedFaults({("o-1", CAPTURING): fault}))
    async with simulated(gateway) as origin, plain_http(origin) as say:
        yield gateway, say


async def order(say: Say, token: str = "t-1") -> Any:  # noqa: S107 -- no secret
    """Make order o-1."""
    asks = {"order_amount": 1999, "purchase_currency": "EUR", "merchant_reference1": "o-1"}
    return await say("POST", f"/payments/v1/authorizations/{token}/order", asks)


async def capture(say: Say, name: str, key: str | None, amount: int = 999) -> Any:
    """Capture about half of it."""
    headers = {} if key is None else {"Klarna-Idempotency-Key": key}
    path = f"/ordermanagement/v1/orders/{name}/captures"
    return await say("POST", path, {"captured_amount": amount}, headers)


async def test_a_capture_is_executed_once_for_its_key() -> None:
    """201 with a place and no body, twice; without a key it is another."""
    async with shop() as (gateway, say):
        name = (await order(say)).body["order_id"]
        first = await capture(say, name, "k-1")
        again = await capture(say, name, "k-1")
        assert gateway.ledger.per_order() == {"o-1": 1}
        await capture(say, name, None)
        read = await say("GET", f"/ordermanagement/v1/orders/{name}")

    assert (first.status, first.body) == (201, None)
    assert again.headers["Location"] == first.headers["Location"]
    assert (len(read.body["captures"]), read.body["remaining_authorized_amount"]) == (2, 1)
    assert gateway.ledger.per_order() == {"o-1": 2}


async def test_no_more_is_captured_than_was_authorised() -> None:
    """403 with a code."""
    async with shop() as (_, say):
        name = (await order(say)).body["order_id"]
        refused = await capture(say, name, "k-1", 2000)

    assert (refused.status, refused.body["error_code"]) == (403, "CAPTURE_NOT_ALLOWED")


async def test_a_decline_is_a_403() -> None:
    """No order is made."""
    async with shop() as (gateway, say):
        declined = await order(say, DECLINED)

    assert (declined.status, declined.body["error_code"]) == (403, "NOT_ALLOWED")
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.FAILED_AFTER])
async def test_a_lost_answer_is_found_in_the_order(fault: Fault) -> None:
    """Captured and not told: the order has it, and its key does not do it again."""
    async with shop(fault) as (gateway, say):
        name = (await order(say)).body["order_id"]
        with contextlib.suppress(aiohttp.ClientError):
            assert (await capture(say, name, "k-1")).status == 500
        read = await say("GET", f"/ordermanagement/v1/orders/{name}")
        again = await capture(say, name, "k-1")

    assert [one["captured_amount"] for one in read.body["captures"]] == [999]
    assert again.status == 201
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_an_order_is_refunded_or_cancelled() -> None:
    """Refunded after a capture, cancelled only before one."""
    async with shop() as (gateway, say):
        name = (await order(say)).body["order_id"]
        one = f"/ordermanagement/v1/orders/{name}"
        await capture(say, name, "k-1")
        refund = await say("POST", f"{one}/refunds", {"refunded_amount": 5})
        late = await say("POST", f"{one}/cancel")
        other = (await order(say, "t-2")).body["order_id"]
        early = await say("POST", f"/ordermanagement/v1/orders/{other}/cancel")

    assert (refund.status, late.status, early.status) == (201, 403, 204)
    assert late.body["error_code"] == "CANCEL_NOT_ALLOWED"
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]


async def test_it_complains_in_its_own_form() -> None:
    """A 503 has an error code, and captures nothing."""
    async with shop(Fault.UNAVAILABLE) as (gateway, say):
        name = (await order(say)).body["order_id"]
        refused = await capture(say, name, "k-1")

    assert (refused.status, refused.body["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert gateway.ledger.charges == []
