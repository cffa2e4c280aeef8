"""Checkout.com through its SDK: a key that keeps no error, so that nothing is sent again, and
payments that are looked up by their reference.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.demo.dialects.checkout import SimulatedCheckout
from proxy.demo.faults import Fault
from proxy.demo.simulator import Execute
from tests.e2e.gateways.shops import CHECKOUT
from tests.e2e.gateways.trial import trial
from tests.support.running import simulated
from tests.support.stage import ScriptedFaults


@pytest.mark.parametrize("gateway", ["", "retry: {automatic_attempts: 1}"])
async def test_an_error_after_charging_is_looked_up(tmp_path: Path, gateway: str) -> None:
    """The shop hears the 500, and its repeat of the key the truth: it is not executed again."""
    async with trial(CHECKOUT, tmp_path, Fault.FAILED_AFTER, gateway=gateway) as it:
        failed = await it.pay()
        listed = await it.outcome()
        again = await it.pay()

    assert (failed.status, failed.code, listed[1]) == (500, "internal_error", "unknown")
    assert (again.state, [again.payment]) == ("Authorized", it.lines)
    assert it.gateway.arrivals == {"o-1": 1}


async def test_directly_the_same_key_charges_twice() -> None:
    """The control: the same error, and the shop repeats the key at Checkout.com itself."""
    gateway = SimulatedCheckout(ScriptedFaults({("o-1", 1): Fault.FAILED_AFTER}))
    async with simulated(gateway) as origin, CHECKOUT.sdk(origin) as sdk:
        for _ in range(2):
            await asyncio.to_thread(CHECKOUT.call, sdk)

    assert gateway.ledger.per_order() == {"o-1": 2}


async def test_believed_strong_the_same_key_charges_twice(tmp_path: Path) -> None:
    """The control: an operator who claims more than Checkout.com promises."""
    strong = "idempotency: {class: A_strong}"
    async with trial(CHECKOUT, tmp_path, Fault.FAILED_AFTER, gateway=strong) as it:
        await it.pay()

    assert it.ledger.per_order() == {"o-1": 2}


class Watched(SimulatedCheckout):
    """Notes what it is asked, and by whom."""

    def __init__(self, faults: ScriptedFaults) -> None:
        super().__init__(faults)
        self.asked: list[tuple[str, str]] = []

    def reading(self, execute: Execute) -> Any:
        """As ever."""
        handle = super().reading(execute)

        async def noted(request: web.Request) -> web.StreamResponse:
            self.asked.append((request.path_qs, request.headers.get("Authorization", "")))
            answer: web.StreamResponse = await handle(request)
            return answer

        return noted


async def test_it_is_looked_up_with_the_shops_own_credential(tmp_path: Path) -> None:
    """By its reference, when somebody asks for the session."""
    gateways: list[Watched] = []

    def watched(faults: ScriptedFaults) -> Watched:
        gateways.append(Watched(faults))
        return gateways[0]

    shop = replace(CHECKOUT, simulator=watched)
    async with trial(shop, tmp_path, Fault.RESET_AFTER) as it:
        await it.pay()
        shown = (await it.asked()).json

    assert (shown["status"], shown["outcome"]) == ("COMPLETED", "charged")
    (found, by), (read, _) = gateways[0].asked
    assert found == "/payments?reference=o-1&limit=100"
    assert read == f"/payments/{it.lines[0]}"
    assert by.endswith("sk_sbox_" + "a" * 27)


async def test_what_is_not_found_stays_unknown(tmp_path: Path) -> None:
    """Its list may be behind, so that proves nothing: a person decides, then a new key pays."""
    async with trial(CHECKOUT, tmp_path, Fault.RESET_BEFORE) as it:
        first = await it.pay()
        again = await it.pay()
        assert (first.code, again.code) == ("outcome_unknown", "outcome_unknown")
        assert it.gateway.arrivals == {"o-1": 1}
        it.clock.leap(10 * 60)
        assert (await it.asked("not-charged", reference="nothing there")).status == 200
        paid = await it.pay()

    assert (paid.state, [paid.payment]) == ("Authorized", it.lines)
    assert it.ledger.charges[0].key != "k-1"


async def test_a_lost_refund_is_told_as_unknown(tmp_path: Path) -> None:
    """It cannot be looked up, and is not sent again."""
    async with trial(CHECKOUT, tmp_path, Fault.NONE, Fault.RESET_AFTER, gateway="") as it:
        paid = await it.pay()
        refund = it.sdk.payments.refund_payment
        for _ in range(2):
            heard = await it.calls(refund, paid.payment, None, "k-2")
            assert (heard.status, heard.code) == (504, "outcome_unknown")

    assert len(it.ledger.refunds) == 1
