"""kill -9 under load, again and again; the gateway's ledger is the judge.

A shop pays orders through Holdfast without pause, and sends each try to any of its replicas.
Meanwhile these are killed, at random moments or at named points of a payment, and started again on
the same store. The gateway interrupts a share of requests as well. What nobody can find out stays
listed, and every start reads it: after some hundred kills it is judged, and begun anew elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.campaigns.market import Market, Scene, market
from tests.campaigns.places import SHARED
from tests.campaigns.replicas import Replica
from tests.campaigns.shop import Findings
from tests.support.crashing import ARRANGE, CONTROL, GOES_ON, OF_A_DISK, RARE, WANT_CANCELS
from tests.support.killing_gateway import AT_THE_GATEWAY

AT_RANDOM, STARTING = "at random", "while starting"
DRAINING = "C17"
_REPLICAS = 3
_AT_ONCE = 8  # at each gateway
_ROUND = 500  # kills
# Seconds: a replica lives so long at most before it is killed at random. Of several, one should be
# alive while the others start, or nothing is ever in flight.
_LIFE, _LIFE_OF_SEVERAL = 0.1, 0.2
_STARTED = 0.2  # by then it has mostly begun to serve
_DRAIN = 0.03  # a drain takes about so long
_DRAINS = 10  # tries to stop it with something in flight
_CANCELS, _STEP_SECONDS = 4, 0.01
# A point that is not passed in time is not waited for any longer.
_IN_VAIN = 2.0


@dataclass(slots=True)
class Killings(Findings):
    """What killing came to."""

    kills: Counter[str] = field(default_factory=Counter)  # by point
    ended_otherwise: int = 0  # a kill of nothing proves nothing
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether every promise was kept, and each one killed."""
        return Findings.clean.fget(self) and not self.ended_otherwise  # type: ignore[attr-defined]

    def rows(self) -> list[tuple[str, object]]:
        """Names and figures."""
        return [
            ("kill -9", self.kills.total()),
            *((f"  {point}", count) for point, count in sorted(self.kills.items())),
            ("ended otherwise", self.ended_otherwise),
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
    life: float

    async def run(self, replica: Replica) -> None:
        """Start, kill, again; it is running at the end."""
        for point in self.points:
            done = await self._once(replica, point)
            kills = self.findings.kills
            kills[done] += 1
            if kills.total() % 100 == 0:
                orders = self.findings.orders + self.market.orders
                self.say(f"{kills.total()} kills, {orders} orders")
        await replica.start(self.market.server)
        await replica.ready(self.market.http)

    async def _once(self, replica: Replica, point: str) -> str:
        """One life; where it ended."""
        inside = point in ARRANGE
        passings = 1 if point in RARE else self.dice.randint(1, 8)
        arrangement = ("crash", point, str(passings)) if inside else ()
        await replica.start(self.market.server, *arrangement)
        if point == GOES_ON:  # on a full disk nothing is ever ready
            await asyncio.sleep(_STARTED)
        elif point in WANT_CANCELS:
            return await self._gone_at_a_cancel(replica, point)
        elif inside:
            return await self._gone_at(replica, point)
        elif point != STARTING:
            await replica.ready(self.market.http)
        if point in AT_THE_GATEWAY:
            return await self._gone_at_the_gateway(replica, point)
        if point == DRAINING:
            return await self._gone_while_draining(replica)
        await asyncio.sleep(self.dice.uniform(0, self.life))
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

    async def _gone_while_draining(self, replica: Replica) -> str:
        for _ in range(_DRAINS):
            await asyncio.sleep(self.dice.uniform(0, self.life))
            replica.signal(signal.SIGTERM)
            await asyncio.sleep(self.dice.uniform(0, _DRAIN))
            if replica.there():
                await replica.kill()
                return DRAINING
            await replica.start(self.market.server)  # it had nothing to wait for
            await replica.ready(self.market.http)
        await replica.kill()
        return AT_RANDOM

    async def _gone_at_a_cancel(self, replica: Replica, point: str) -> str:
        await replica.ready(self.market.http)
        cancelling = asyncio.ensure_future(self._cancel(replica))
        try:
            return await self._gone_at(replica, point)
        finally:
            cancelling.cancel()

    async def _cancel(self, replica: Replica) -> None:
        """A person cancels payments through this replica, one after the other."""
        http = self.market.http
        while replica.there():
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(f"{replica.api}/sessions/active?limit=100") as answer:
                    sessions = (await answer.json())["sessions"]
                for session in self.dice.sample(sessions, min(_CANCELS, len(sessions))):
                    shop, order = self.market.shops[session["gateway"]], session["orderId"]
                    if order not in shop.told:
                        shop.by_hand.add(order)
                    where = f"{replica.api}/session/{session['sessionId']}/cancel"
                    async with http.post(where, json={"reason": "the shopper has left"}) as answer:
                        await answer.read()
            await asyncio.sleep(_STEP_SECONDS)

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
    wanted = _points(store, named=points)
    for begun in range(0, kills, _ROUND):
        some = itertools.islice(wanted, min(_ROUND, kills - begun))
        scene = Scene(store, _REPLICAS if store in SHARED else 1, seed + begun)
        place = folder / str(begun)
        place.mkdir()
        await _round(place, scene, some, findings, say)
    return findings


async def _round(
    folder: Path,
    scene: Scene,
    points: Iterator[str],
    findings: Killings,
    say: Callable[[str], None],
) -> None:
    """Kill at each of the points, and judge."""
    life = _LIFE if scene.replicas == 1 else _LIFE_OF_SEVERAL
    async with market(folder, scene) as there:
        killer = _Killer(there, random.Random(scene.seed), points, findings, say, life)
        begun = time.monotonic()
        async with there.open(_AT_ONCE):
            await asyncio.gather(*(killer.run(replica) for replica in there.replicas))
            findings.seconds += time.monotonic() - begun
        await there.judge(findings)
        findings.ended_otherwise += sum(replica.failures() for replica in there.replicas)
        say("judged: " + ("nothing broken" if findings.clean else findings.table()))


def named_points(store: str) -> list[str]:
    """Where there are to kill a process that has its sessions there."""
    left_out = {CONTROL, *(OF_A_DISK if store in SHARED else ())}
    inside = (point for point in ARRANGE if point not in left_out)
    return [*inside, *AT_THE_GATEWAY, DRAINING, STARTING]


def _points(store: str, *, named: bool) -> Iterator[str]:
    """Where the kills are to be."""
    at_points = itertools.cycle(named_points(store))
    while True:
        if named:
            yield next(at_points)
        yield AT_RANDOM
