"""The simulated Amazon Pay, which has no official SDK for Python."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from proxy.demo.dialects.amazon import SIMULATION, SimulatedAmazonPay
from proxy.demo.faults import Fault
from tests.support.plain_http import Say, plain_http
from tests.support.running import simulated
from tests.support.stage import ScriptedFaults

SIGNED = {
    "Authorization": "AMZN-PAY-RSASSA-PSS-V2 PublicKeyId=key, SignedHeaders=accept, Signature=s",
    "x-amz-pay-date": "20260101T000000Z",
}


@contextlib.asynccontextmanager
async def shop(fault: Fault = Fault.NONE) -> AsyncIterator[tuple[SimulatedAmazonPay, Say]]:
    """A gateway that does this to the first request of order o-1, and a client."""
    gateway = SimulatedAmazonPay(ScriptedFaults({("o-1", 1): fault}))
    async with simulated(gateway) as origin, plain_http(origin) as say:
        yield gateway, say


async def pay(say: Say, amount: str = "19.99", **headers: str) -> Any:
    """Pay order o-1 with key k-1."""
    charge = {
        "chargePermissionId": "S01-0000000-0000000",
        "chargeAmount": {"amount": amount, "currencyCode": "EUR"},
        "captureNow": True,
        "merchantMetadata": {"merchantReferenceId": "o-1"},
    }
    sent = {**SIGNED, "x-amz-pay-idempotency-key": "k-1", **headers}
    return await say("POST", "/sandbox/v2/charges", charge, sent)


async def test_a_repeated_key_gets_the_first_answer() -> None:
    """However it is signed; other values under the key are refused."""
    async with shop() as (gateway, say):
        paid = await pay(say)
        again = await pay(say, Authorization=SIGNED["Authorization"].replace("=s", "=t"))
        used = await pay(say, "1.00")

    assert (paid.status, paid.body["statusDetails"]["state"]) == (201, "Captured")
    assert (again.status, again.body) == (201, paid.body)
    assert (used.status, used.body["reasonCode"]) == (400, "DuplicateIdempotencyKey")
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_decline_is_a_422_with_a_reason() -> None:
    """As the sandbox is told to simulate it."""
    async with shop() as (gateway, say):
        declined = await pay(say, **{SIMULATION: "HardDeclined"})

    assert (declined.status, declined.body["reasonCode"]) == (422, "HardDeclined")
    assert gateway.ledger.charges == []


async def test_an_unsigned_request_is_refused() -> None:
    """And charges nothing."""
    async with shop() as (gateway, say):
        refused = await pay(say, Authorization="Bearer key")

    assert (refused.status, refused.body["reasonCode"]) == (401, "UnauthorizedAccess")
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATED])
async def test_a_lost_answer_is_had_again_by_the_key(fault: Fault) -> None:
    """Charged and not told: the same request gets the charge, which can be read by its id."""
    async with shop(fault) as (gateway, say):
        with pytest.raises(aiohttp.ClientError):
            await pay(say)
        again = await pay(say)
        read = await say("GET", f"/sandbox/v2/charges/{again.body['chargeId']}", None, SIGNED)

    assert read.body["statusDetails"]["state"] == "Captured"
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_charge_is_captured_refunded_and_cancelled() -> None:
    """The life of a charge by its id."""
    async with shop() as (gateway, say):
        name = (await pay(say)).body["chargeId"]
        one = f"/sandbox/v2/charges/{name}"
        captured = await say("POST", f"{one}/capture", {}, SIGNED)
        amount = {"amount": "0.05", "currencyCode": "EUR"}
        refund = await say(
            "POST", "/sandbox/v2/refunds", {"chargeId": name, "refundAmount": amount}, SIGNED
        )
        cancelled = await say("DELETE", f"{one}/cancel", None, SIGNED)

    assert (captured.status, refund.status) == (200, 201)
    assert cancelled.body["statusDetails"]["state"] == "Canceled"
    assert [(refund.order, refund.amount) for refund in gateway.ledger.refunds] == [("o-1", 5)]
    assert (gateway.ledger.charges, len(gateway.ledger.voided)) == ([], 1)


async def test_it_complains_in_its_own_form() -> None:
    """A 429 has a reason, and charges nothing."""
    async with shop(Fault.THROTTLED) as (gateway, say):
        refused = await pay(say)

    assert (refused.status, refused.body["reasonCode"]) == (429, "TooManyRequests")
    assert gateway.ledger.charges == []
