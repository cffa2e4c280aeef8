"""Replicas are cut off from the store they share, for longer than their leases, under load.

Replicas speak to nobody but their store and the gateways, so whoever cannot reach the store is cut
off from the other replicas as well. What is charged meanwhile, and by whom, the gateway knows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.apart import Apart
from tests.campaigns.market import PATIENT, Market, Scene, market
from tests.campaigns.shop import Findings

_AT_ONCE = 6  # at each gateway
_LEASE_SECONDS = 0.3
_POLICY = PATIENT.replace("lease: 500ms", f"lease: {_LEASE_SECONDS * 1000:.0f}ms")
_CUT_OFF = ((0,), (1,), (0, 1))


@dataclass(slots=True)
class Partitions(Findings):
    """What cutting came to. `longest_last`: seconds after a cut, of a send that still came."""

    cuts: int = 0
    sent_by_others: int = 0
    longest_last: float = 0.0
    sent_without_lease: int = 0

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return Findings.clean.fget(self) and not self.sent_without_lease  # type: ignore[attr-defined]

    def rows(self) -> list[tuple[str, object]]:
        """Names and figures."""
        return [
            ("cuts", self.cuts),
            ("sent meanwhile by whoever was not cut", self.sent_by_others),
            ("the last send came so long after a cut", f"{self.longest_last:.2f}"),
            ("sent when the lease had run out", self.sent_without_lease),
            *Findings.rows(self),
        ]


async def partition_campaign(
    folder: Path,
    apart: Apart,
    *,
    cuts: int,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> Partitions:
    """Cut so often, at moments drawn from the seed, and report."""
    dice = random.Random(seed)
    findings = Partitions()
    async with market(folder, Scene(apart.urls, 2, seed, policy=_POLICY)) as there:
        await there.start()
        async with there.open(_AT_ONCE):
            for number in range(1, cuts + 1):
                await asyncio.sleep(dice.uniform(0.1, 0.4))
                await _cut(apart, there, findings, dice)
                if number % 20 == 0:
                    say(f"{number} cuts, {there.orders} orders")
        await there.judge(findings)
    return findings


async def _cut(apart: Apart, there: Market, findings: Partitions, dice: random.Random) -> None:
    """Cut off one replica, or both, for one to four leases."""
    clock = asyncio.get_running_loop().time
    whom = dice.choice(_CUT_OFF)
    for number in whom:
        await asyncio.to_thread(apart.cut, number)
    at = clock()
    await asyncio.sleep(dice.uniform(1.1, 4.0) * _LEASE_SECONDS)
    healed = clock()
    for number in whom:
        await asyncio.to_thread(apart.heal, number)
    ports = {port for number in whom for port in there.replicas[number].upstream_ports.values()}
    for gateway in there.gateways.values():
        since = [(port, when - at) for port, when in gateway.sends if at < when <= healed]
        alone = [late for port, late in since if port in ports]
        findings.sent_by_others += len(since) - len(alone)
        findings.longest_last = max(findings.longest_last, *alone, 0.0)
        findings.sent_without_lease += sum(late > _LEASE_SECONDS for late in alone)
        gateway.sends.clear()
    findings.cuts += 1
    await asyncio.gather(*(replica.ready(there.http) for replica in there.replicas))
