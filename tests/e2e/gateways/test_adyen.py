"""Adyen through its SDK: errors that are kept for a key, results that leave it open, and the marks
of what is transient.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import Adyen
import pytest

from proxy.demo.dialects.adyen import SimulatedAdyen
from proxy.demo.faults import Fault
from tests.e2e.gateways.shops import ADYEN
from tests.e2e.gateways.trial import shipped, trial
from tests.support.running import simulated
from tests.support.stage import ScriptedFaults


async def test_an_error_that_is_kept_stays_unknown(tmp_path: Path) -> None:
    """Charged, and 500 for good: a repeat is told the 500, or that nobody knows, for ever."""
    async with trial(ADYEN, tmp_path, Fault.FAILED_AFTER, route="order_lock: body") as it:
        told = [await it.pay() for _ in range(5)]
        refused = await it.pay(key="k-2")
        outcome = await it.outcome()

    assert {(heard.status, heard.code) for heard in told} == {
        (500, "905"),
        (504, "outcome_unknown"),
    }
    assert refused.code == "order_already_open"
    assert outcome[1] == "unknown"
    assert it.ledger.per_order() == {"o-1": 1}


async def test_directly_a_new_key_after_the_error_charges_twice() -> None:
    """The control: what a shop does that takes the 500 for a failure."""
    gateway = SimulatedAdyen(ScriptedFaults({("o-1", 1): Fault.FAILED_AFTER}))
    async with simulated(gateway) as origin, ADYEN.sdk(origin) as sdk:
        for key in ("k-1", "k-2"):
            await asyncio.to_thread(ADYEN.call, sdk, key=key)

    assert gateway.ledger.per_order() == {"o-1": 2}


@pytest.mark.parametrize(
    ("holder", "state", "outcome"),
    [
        # It may hide a time-out of the issuer.
        ("UNKNOWN", "Error", ("INTERRUPTED", "unknown")),
        # On its way: a second payment would double it.
        ("PENDING", "Received", ("COMPLETED", "charged")),
    ],
)
async def test_a_result_that_leaves_it_open(
    tmp_path: Path, holder: str, state: str, outcome: tuple[str, str]
) -> None:
    """The shop is told it as it is, and Holdfast keeps the order."""
    async with trial(ADYEN, tmp_path, route="order_lock: body") as it:
        heard = await it.pay(holder=holder)
        known = await it.outcome()
        refused = await it.pay(key="k-2")

    assert (heard.state, known) == (state, outcome)
    assert refused.code in {"order_already_open", "order_already_paid"}
    assert it.gateway.arrivals == {"o-1": 1}


async def test_what_is_marked_as_transient_is_repeated(tmp_path: Path) -> None:
    """A 503 with `transient-error: true` did nothing: the shop hears of none of it."""
    async with trial(ADYEN, tmp_path, Fault.UNAVAILABLE, gateway="") as it:
        heard = await it.pay()

    assert (heard.state, [heard.payment]) == ("Authorised", it.lines)


async def test_a_lost_refund_is_made_once(tmp_path: Path) -> None:
    """Holdfast asks again with the same key: received, and one refund."""
    refund = {"amount": {"value": 5, "currency": "EUR"}, "merchantAccount": "Shop"}
    async with trial(ADYEN, tmp_path, Fault.NONE, Fault.RESET_AFTER, gateway="") as it:
        paid = await it.pay()
        give_back = it.sdk.checkout.modifications_api.refund_captured_payment
        heard = await it.calls(give_back, refund, paid.payment, "k-2")

    assert heard.raised == ""
    assert [(one.order, one.amount, one.key) for one in it.ledger.refunds] == [("o-1", 5, "k-2")]
    assert it.gateway.arrivals == {"o-1": 3}


async def test_the_sdk_can_name_the_order(tmp_path: Path) -> None:
    """By `header_parameters`, and without a key: the same again is a replay, more is refused."""
    named: dict[str, Any] = {"header_parameters": {"X-Payment-Order-Id": "o-1"}}
    async with trial(ADYEN, tmp_path) as it:
        paid = await it.pay(key=None, **named)
        again = await it.pay(key=None, **named)
        other = await it.pay(key=None, amount=2999, **named)

    assert (again, [paid.payment]) == (paid, it.lines)
    assert (other.status, other.code) == (409, "order_already_paid")


def test_holdfast_answers_before_the_sdk_gives_up(tmp_path: Path) -> None:
    """Its 30 s are more than Holdfast takes, repeats and all."""
    pay = shipped(ADYEN, tmp_path).routes.match("POST", "/v72/payments")
    assert pay.timeouts.total < Adyen.Adyen().client.http_timeout
