"""kill -9 under load, again and again; the gateway's ledger is the judge.

A shop pays orders through Holdfast without pause, and sends each try to any of its replicas.
Meanwhile these are killed, at random moments or at named points of a payment, and started again on
the same store. The gateway interrupts a share of requests as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaigns.market import Market, Scene, market
from tests.campaigns.places import SHARED
from tests.campaigns.replicas import Replica
from tests.campaigns.shop import Findings
from tests.support.crashing import ARRANGE
from tests.support.killing_gateway import AT_THE_GATEWAY

AT_RANDOM, STARTING = "at random", "while starting"
_REPLICAS = 3
_AT_ONCE = 8  # at each gateway
# Seconds: a replica lives so long at most before it is killed at random.
_LIFE = 0.1
# A point that is not passed in time is not waited for any longer.
_IN_VAIN = 5.0


@dataclass(slots=True)
class Killings(Findings):
    """What killing came to."""

    kills: Counter[str] = field(default_factory=Counter)  # by point
    seconds: float = 0.0

    def rows(self) -> list[tuple[str, object]]:
        """Names and figures."""
        return [
            ("kill -9", self.kills.total()),
            *((f"  {point}", count) for point, count in sorted(self.kills.items())),
            ("kills per second", f"{self.kills.total() / self.seconds:.1f}"),
            *Findings.rows(self),
        ]


@dataclass(slots=True)
class _Killer:
    """Kills replicas in turn until so many kills are done."""

    market: Market
    dice: random.Random
    points: Iterator[str]  # where to kill, kill by kill
    findings: Killings
    say: Callable[[str], None]

    async def run(self, replica: Replica) -> None:
        """Start, kill, again; it is running at the end."""
        for point in self.points:
            done = await self._once(replica, point)
            kills = self.findings.kills
            kills[done] += 1
            if kills.total() % 100 == 0:
                self.say(f"{kills.total()} kills, {self.market.orders} orders")
        await replica.start(self.market.server)
        await replica.ready(self.market.http)

    async def _once(self, replica: Replica, point: str) -> str:
        """One life; where it ended."""
        inside = point in ARRANGE
        arrangement = ("crash", point, str(self.dice.randint(1, 8))) if inside else ()
        await replica.start(self.market.server, *arrangement)
        if inside:
            return await self._gone_at(replica, point)
        if point != STARTING:
            await replica.ready(self.market.http)
        if point in AT_THE_GATEWAY:
            return await self._gone_at_the_gateway(replica, point)
        await asyncio.sleep(self.dice.uniform(0, _LIFE))
        await replica.kill()
        return point

    async def _gone_at_the_gateway(self, replica: Replica, point: str) -> str:
        name = self.dice.choice(list(self.market.gateways))
        armed, port = self.market.gateways[name].armed, replica.upstream_ports[name]
        armed[port] = (point, replica.kill)
        shop = self.market.shops[name]
        shop.long += point == "C5"
        try:
            return await self._gone_at(replica, point)
        finally:
            shop.long -= point == "C5"
            armed.pop(port, None)

    async def _gone_at(self, replica: Replica, point: str) -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IN_VAIN):
                await replica.gone()
                return point
        await replica.kill()
        return AT_RANDOM


async def kill_campaign(
    folder: Path,
    *,
    kills: int,
    seed: int,
    store: str = "sqlite",
    points: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Killings:
    """Kill so often, at moments drawn from the seed, and report. `points`: every second kill is at
    a named point, one after the other.
    """
    findings = Killings()
    wanted = itertools.islice(_points(named=points), kills)
    count = _REPLICAS if store in SHARED else 1
    async with market(folder, Scene(store, count, seed)) as there:
        killer = _Killer(there, random.Random(seed), wanted, findings, say)
        begun = time.monotonic()
        async with there.open(_AT_ONCE):
            await asyncio.gather(*(killer.run(replica) for replica in there.replicas))
            findings.seconds = time.monotonic() - begun
        await there.judge(findings)
    return findings


def _points(*, named: bool) -> Iterator[str]:
    """Where the kills are to be."""
    at_points = itertools.cycle([*ARRANGE, *AT_THE_GATEWAY, STARTING])
    while True:
        if named:
            yield next(at_points)
        yield AT_RANDOM
