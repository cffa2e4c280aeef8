"""kill -9 under load, again and again; the gateway's ledger is the judge.

A shop pays orders through Holdfast without pause. Meanwhile Holdfast is killed at random moments
and started again on the same store. The gateway interrupts a share of requests as well.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proxy.demo.faults import FaultPlan
from proxy.demo.gateway import SimulatedGateway
from tests.campaigns.replicas import Replica, forks
from tests.campaigns.shop import Findings, Shop, judge, patient_client
from tests.support.running import simulated

# A client may try as often as it must: what is tried here is not the patience.
PATIENT = """\
defaults:
  timeouts: {connect: 500ms, attempt: 400ms, total: 5s}
  retry: {max_attempts: 20, automatic_attempts: 4, backoff: {initial: 20ms, max: 200ms}}
  breaker: {min_calls: 100000}
  budget: {min_per_second: 100000}
"""
_AT_ONCE = 12


@dataclass(slots=True)
class Killings(Findings):
    """What killing came to."""

    kills: int = 0

    def rows(self) -> list[tuple[str, object]]:
        """Names and figures."""
        return [("kill -9", self.kills), *Findings.rows(self)]


async def kill_campaign(
    folder: Path, *, kills: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> Killings:
    """Kill so often, at moments drawn from the seed, and report."""
    dice = random.Random(seed)
    findings = Killings()
    gateway = SimulatedGateway(FaultPlan(seed=seed, interruptions=0.05), latency=0.02)
    async with simulated(gateway) as origin, forks() as server, patient_client() as http:
        upstream = {"gateway": ("stripe", origin)}
        holdfast = Replica(folder, "sqlite:///holdfast.db", upstream, PATIENT)
        await holdfast.start(server)
        await holdfast.ready(http)
        shop = Shop(http, list(holdfast.doors.values()), dice)
        async with shop.open(_AT_ONCE):
            for number in range(1, kills + 1):
                await asyncio.sleep(dice.uniform(0.01, 0.4))
                await holdfast.kill()
                await holdfast.start(server)
                await holdfast.ready(http)
                findings.kills += 1
                if number % 50 == 0:
                    say(f"{number} kills, {len(shop.told)} orders")
        await judge(findings, shop, gateway.ledger.per_order(), holdfast.api, http)
        await holdfast.kill()
    return findings
