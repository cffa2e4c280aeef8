"""What stands in a campaign with real processes: two gateways, replicas before them, two shops.

One gateway recognises keys (class A_strong), and what is unknown there is sent again. The other
recognises nothing (class D_none) and charges whatever it is sent: there nothing may be sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from proxy.demo.faults import FaultPlan
from tests.campaigns.places import PLACES
from tests.campaigns.replicas import Forks, Replica, forks
from tests.campaigns.shop import Findings, Shop, judge, patient_client
from tests.support.killing_gateway import KillingGateway
from tests.support.running import simulated

PROFILES = {"strong": "stripe", "keyless": "generic"}
# What is tried here is nobody's patience, so a payment may be tried as often as it must.
PATIENT = """\
defaults:
  timeouts: {connect: 500ms, attempt: 400ms, total: 5s}
  retry: {max_attempts: 50, automatic_attempts: 4, backoff: {initial: 20ms, max: 200ms}}
  breaker: {min_calls: 100000}
  budget: {min_per_second: 100000}
session: {lease: 500ms, duplicate_wait: 500ms}
"""


class Keyless(KillingGateway):
    """Every request is another payment to it."""

    def key(self, request: web.Request, parameters: dict[str, Any]) -> None:
        """It takes none."""


@dataclass(slots=True)
class Market:
    """All of it. `gateways` and `shops` by what Holdfast calls the gateway."""

    server: Forks
    http: aiohttp.ClientSession
    gateways: dict[str, KillingGateway]
    replicas: list[Replica]
    shops: dict[str, Shop]

    @property
    def orders(self) -> int:
        """How many have been told so far."""
        return sum(len(shop.told) for shop in self.shops.values())

    async def start(self, *arrangement: str) -> None:
        """Start every replica."""
        for replica in self.replicas:
            await replica.start(self.server, *arrangement)
        await asyncio.gather(*(replica.ready(self.http) for replica in self.replicas))

    @contextlib.asynccontextmanager
    async def open(self, at_once: int) -> AsyncIterator[None]:
        """So many orders are being paid at each gateway; at the end each of them is told."""
        async with contextlib.AsyncExitStack() as open_:
            for shop in self.shops.values():
                await open_.enter_async_context(shop.open(at_once))
            yield

    async def judge(self, findings: Findings) -> None:
        """Add what there is to find, once the store has what waited for it on the spools."""
        alive = [replica for replica in self.replicas if replica.there()]
        await asyncio.gather(*(replica.settled(self.http) for replica in alive))
        api = self.replicas[0].api
        for name, shop in self.shops.items():
            charges = self.gateways[name].ledger.per_order()
            try:
                await judge(findings, shop, charges, api, self.http)
            except AssertionError as error:
                error.add_note(self.replicas[0].log_path.read_text()[-4000:])
                raise


class Scene(NamedTuple):
    """What a market is like. `store`: one of `PLACES`, or the address each replica has for it."""

    store: str | list[str]
    replicas: int
    seed: int
    interruptions: float = 0.05  # the share of requests that the gateways interrupt
    patience: float = 8.0  # how many seconds a shop waits for an answer
    latency: float = 0.02  # seconds a gateway takes
    policy: str = PATIENT


@contextlib.asynccontextmanager
async def market(folder: Path, scene: Scene) -> AsyncIterator[Market]:
    """A market ; no replica is started yet."""
    dice = random.Random(scene.seed)
    faults = FaultPlan(seed=scene.seed, interruptions=scene.interruptions)
    gateways = {
        "strong": KillingGateway(faults, latency=scene.latency),
        "keyless": Keyless(faults, latency=scene.latency),
    }
    async with contextlib.AsyncExitStack() as open_:
        places = scene.store
        if isinstance(places, str):
            places = [open_.enter_context(PLACES[places]())] * scene.replicas
        server = await open_.enter_async_context(forks())
        http = await open_.enter_async_context(patient_client())
        theirs = await open_.enter_async_context(patient_client(scene.patience))
        replicas = []
        for number, place in enumerate(places):
            # A port of its own at each gateway, so that these know who asks.
            origins = {
                name: (PROFILES[name], await open_.enter_async_context(simulated(gateway)))
                for name, gateway in gateways.items()
            }
            replica = Replica(folder / str(number), place, origins, scene.policy)
            open_.push_async_callback(replica.kill)
            replicas.append(replica)
        shops = {
            name: Shop(theirs, [replica.doors[name] for replica in replicas], dice, name)
            for name in gateways
        }
        shops["keyless"].final_unknown = True
        yield Market(server, http, gateways, replicas, shops)
