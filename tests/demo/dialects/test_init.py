"""What holds for every dialect, Stripe's too."""

from __future__ import annotations

import aiohttp
import pytest

from proxy.demo.dialects import DIALECTS
from proxy.demo.faults import Fault
from tests.support.running import simulated
from tests.support.stage import ScriptedFaults


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_has_a_word_for_every_trouble(dialect: str) -> None:
    """What it does not know, and the three of a gateway in distress."""
    gateway = DIALECTS[dialect]()
    for status in (404, 429, 500, 503):
        answer = gateway.trouble(status)
        assert (answer.status, bool(gateway.written(answer.body))) == (status, True)


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
