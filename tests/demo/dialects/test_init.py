"""What holds for every dialect, Stripe's too."""

from __future__ import annotations

import re

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.demo.dialects import DIALECTS
from proxy.demo.dialects.square import SimulatedSquare
from proxy.demo.faults import Fault
from tests.support.plain_http import plain_http
from tests.support.running import simulated
from tests.support.stage import ScriptedFaults


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_has_a_word_for_every_trouble(dialect: str) -> None:
    """What it does not know, and the three of a gateway in distress."""
    gateway = DIALECTS[dialect]()
    for status in (404, 429, 500, 503):
        answer = gateway.trouble(status)
        assert (answer.status, bool(gateway.written(answer.body))) == (status, True)


@pytest.mark.parametrize(
    ("dialect", "path", "longest", "shortest"),
    [
        ("adyen", "/v72/payments", "k" * 64, "k"),
        ("amazon-pay", "/sandbox/v2/charges", "k" * 32, "k"),
        ("paypal", "/v2/checkout/orders", "k" * 108, "k"),
        ("paystack", "/transfer", "k" * 99, "k" * 16),
        ("razorpay", "/v1/payouts", "k" * 36, "k" * 4),
        ("razorpay", "/v1/payments/pay_1/refund", "k" * 99, "k" * 10),
        ("square", "/v2/payments", "k" * 45, "k"),
    ],
)
def test_a_key_has_its_limits(dialect: str, path: str, longest: str, shortest: str) -> None:
    """Thirty-two hexadecimal digits fit everywhere; what is too long or too short does not."""
    wanted = DIALECTS[dialect]().key_format(make_mocked_request("POST", path))
    for good in (longest, shortest, "0123456789abcdef" * 2):
        assert re.fullmatch(wanted, good)
    assert not re.fullmatch(wanted, shortest[1:])
    if len(longest) < 99:  # else it has no end
        assert not re.fullmatch(wanted, longest + "k")


async def test_a_key_that_is_too_long_pays_nothing() -> None:
    """400 in the gateway's form."""
    payment = {
        "source_id": "cnon:card-nonce-ok",
        "idempotency_key": "k" * 46,
        "amount_money": {"amount": 1999, "currency": "EUR"},
    }
    gateway = SimulatedSquare()
    async with simulated(gateway) as origin, plain_http(origin) as say:
        refused = await say("POST", "/v2/payments", payment)

    assert (refused.status, refused.body["errors"][0]["code"]) == (400, "VALUE_TOO_LONG")
    assert gateway.ledger.charges == []


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_shows_its_ledger(dialect: str) -> None:
    """At the same place, and empty at first; a new one after a reset."""
    gateway = DIALECTS[dialect](ScriptedFaults({("o-1", 1): Fault.NONE}))
    async with simulated(gateway) as origin, aiohttp.ClientSession() as http:
        async with http.delete(f"{origin}/_ledger") as reset:
            assert reset.status == 204
        async with http.get(f"{origin}/_ledger") as answer:
            shown = await answer.json()
    assert shown == {"charges": [], "voided": [], "refunds": [], "arrivals": {}}
