"""A gateway's SDK through Holdfast: the shop that uses it, and the stage on which it is tried.

The gateway is its simulator, and the simulator's ledger is the judge. What a shop hears is told in
the same words for every SDK (`Heard`), so that one table of tests holds for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp

from proxy.demo.faults import Fault
from proxy.demo.ledger import Ledger
from proxy.demo.simulator import Simulator
from proxy.settings.values import Gateway
from tests.support.lab import settings_from
from tests.support.running import Running, simulated
from tests.support.stage import (
    JsonObject,
    LeapingClock,
    Reply,
    ScriptedFaults,
    eventually,
    fetch,
    running_on,
)
from tests.support.tcp_faults import TcpFaults, tcp_faults

# One send by itself; what was lost is brought again by the shop.
ONE_SEND = "retry: {automatic_attempts: 1}"
AMOUNT = 1999


@dataclass(frozen=True, slots=True)
class Heard:
    """What a call came to: the payment and its state, or the exception and what it says."""

    payment: str = ""
    state: str = ""
    raised: str = ""
    status: int | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Shop:
    """A gateway, its SDK, and how a merchant's code pays with it.

    `pay` is given the SDK, the order, the key (None: the SDK is told none), and what else is of
    interest: `declined`, `amount`. It and `tell` are the only places that know the SDK.
    """

    profile: str
    simulator: Callable[[ScriptedFaults], Simulator]
    sdk: Callable[[str], AbstractAsyncContextManager[Any]]
    pay: Callable[..., Heard]
    tell: Callable[[Exception], Heard]  # raises what is none of the SDK's own exceptions
    route: str  # the profile's route for paying, as a policy names it
    declined: Heard | None  # what a decline looks like, if it is heard at all when paying
    paid: str  # the state of what is paid
    strong: bool  # whether a lost answer may be asked for again
    errors: set[str]  # the SDK's exceptions for what is refused
    messages: bool = True  # whether they say more than the code
    made_up: str = "[0-9a-f]{32}"  # what the gateway's key looks like where the caller has none
    policy: str = ""  # what its gateway needs in the policy besides
    linked: bool = False  # whether links in its answers are turned to Holdfast

    def call(self, sdk: Any, order: str = "o-1", key: str | None = "k-1", **more: Any) -> Heard:
        """Pay, and take an exception of the SDK's for an answer."""
        try:
            return self.pay(sdk, order, key, **more)
        except Exception as error:  # noqa: BLE001 -- `tell` knows which are the SDK's
            return self.tell(error)


@dataclass(slots=True)
class Trial:
    """The shop at work: its SDK before a Holdfast before the simulated gateway."""

    shop: Shop
    gateway: Simulator
    holdfast: Running
    door: TcpFaults  # counts what the SDK sends
    sdk: Any
    clock: LeapingClock
    http: aiohttp.ClientSession
    gateway_goes: Callable[[], Awaitable[None]]  # from then on nobody listens there

    @property
    def ledger(self) -> Ledger:
        """The judge."""
        return self.gateway.ledger

    @property
    def lines(self) -> list[str]:
        """The payments in the ledger."""
        return [charge.payment for charge in self.ledger.charges]

    @property
    def payments_asked(self) -> int:
        """How many requests the SDK made: of PayPal's, those for a token are none."""
        sent = [bytes(connection.sent) for connection in self.door.connections]
        return sum(s.count(b" HTTP/1.1\r\n") - s.count(b" /v1/oauth2/token ") for s in sent)

    @property
    def keys(self) -> list[str | None]:
        """What the gateway charged under."""
        return [charge.key for charge in self.ledger.charges]

    async def pay(self, order: str = "o-1", key: str | None = "k-1", **more: Any) -> Heard:
        """Pay with the SDK."""
        pay = self.shop.call
        return await asyncio.to_thread(pay, self.sdk, order, key, **more)

    async def calls(self, function: Callable[..., Any], *args: Any, **named: Any) -> Heard:
        """Another call of the SDK; its exception, if it raises one."""
        try:
            await asyncio.to_thread(function, *args, **named)
        except Exception as error:  # noqa: BLE001 -- `tell` knows which are the SDK's
            return self.shop.tell(error)
        return Heard()

    async def sessions(self) -> list[JsonObject]:
        """Every session, as they are listed: nobody asks the gateway about them for that."""
        page = await fetch(self.http, "GET", f"{self.holdfast.api}/sessions")
        sessions: list[JsonObject] = page.json["sessions"]
        return sessions

    async def outcome(self) -> tuple[str, str]:
        """State and outcome of the only session."""
        (shown,) = await self.sessions()
        return shown["status"], shown["outcome"]

    async def latest(self) -> tuple[str, str]:
        """State and outcome of the youngest session."""
        shown = max(await self.sessions(), key=lambda one: (one["startedAt"], one["sessionId"]))
        return shown["status"], shown["outcome"]

    async def looked_up(self) -> None:
        """Let time pass until look-ups have settled every session."""

        async def unknown() -> int:
            self.clock.leap(1.0)
            return sum(one["outcome"] == "unknown" for one in await self.sessions())

        await eventually(unknown, lambda number: number == 0)

    async def posts(self, path: str, document: object) -> int:
        """Ask without the SDK, and without a key; the answer's status."""
        credential = {"Authorization": "Bearer secret"}
        url = f"{self.holdfast.url}{path}"
        return (await fetch(self.http, "POST", url, json=document, headers=credential)).status

    async def asked(self, verb: str = "", **said: str) -> Reply:
        """Ask the session API for the only session, or to do this to it."""
        (shown,) = await self.sessions()
        url = f"{self.holdfast.api}/session/{shown['sessionId']}"
        if not verb:
            return await fetch(self.http, "GET", url)
        return await fetch(self.http, "POST", f"{url}/{verb}", json=said)

    async def comes_to(self, status: str, outcome: str) -> None:
        """Return once the only session is so."""
        await eventually(self.outcome, lambda now: now == (status, outcome))


def shipped(shop: Shop, folder: Path) -> Gateway:
    """The shop's gateway with its profile, and nothing else said about it."""
    gateway = f"{{profile: {shop.profile}, listen: 127.0.0.1:0, upstream: http://127.0.0.1:1}}"
    return settings_from(f"store: memory://\ngateways: {{it: {gateway}}}\n", folder).gateways["it"]


def script(orders: Mapping[str, Sequence[Fault]]) -> ScriptedFaults:
    """What happens to the requests of each order in turn."""
    return ScriptedFaults(
        {
            (order, number): fault
            for order, faults in orders.items()
            for number, fault in enumerate(faults, start=1)
        }
    )


@contextlib.asynccontextmanager
async def trial(
    shop: Shop,
    folder: Path,
    *faults: Fault,
    gateway: str = ONE_SEND,
    route: str = "",
    more: str = "",
    others: Mapping[str, Sequence[Fault]] = MappingProxyType({}),
) -> AsyncIterator[Trial]:
    """The gateway does these to the requests of order o-1 in turn, and what is in `others` to those
    of other orders. `gateway` and `route` are added to the settings of the gateway and its paying
    route, `more` to the policy.
    """
    simulator, clock = shop.simulator(script({"o-1": faults, **others})), LeapingClock()
    async with contextlib.AsyncExitStack() as there:
        origin = await there.enter_async_context(simulated(simulator))
        text = f"""
listen: {{sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}}
store: memory://
gateways:
  gateway:
    profile: {shop.profile}
    listen: "127.0.0.1:0"
    upstream: "{origin}"
    timeouts: {{connect: 2s, attempt: 1s, total: 10s}}
    routes: [{f"{{{shop.route}, {route}}}" if route else ""}]
    {gateway}
    {shop.policy}
{more}
shutdown: {{drain: 100ms}}
"""
        async with (
            running_on(clock, folder, text) as holdfast,
            tcp_faults(holdfast.port) as door,
            shop.sdk(door.url) as sdk,
            aiohttp.ClientSession() as http,
        ):
            yield Trial(shop, simulator, holdfast, door, sdk, clock, http, there.aclose)
