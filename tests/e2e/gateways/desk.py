"""A merchant's desk for a gateway that is asked over plain HTTP or by Stripe's SDK: a Holdfast with
the shipped profile, and behind it that gateway's simulator, whose ledger is the judge.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import aiohttp

from proxy.demo.faults import Fault
from proxy.demo.simulator import Simulator
from tests.support.running import Running, simulated
from tests.support.stage import JsonObject, LeapingClock, ScriptedFaults, fetch, running_on
from tests.support.tcp_faults import TcpFaults, tcp_faults

ORDER = "o-1"
# What follows a lost answer waits for the merchant's repeat.
ONE_SEND = "retry: {automatic_attempts: 1}"

Client = TypeVar("Client")


@dataclass(frozen=True, slots=True)
class Desk(Generic[Client]):
    """`client` asks through Holdfast. `door` counts what it sends; `origin` is the gateway's own
    address.
    """

    client: Client
    gateway: Simulator
    origin: str
    door: TcpFaults
    proxy: Running
    clock: LeapingClock
    http: aiohttp.ClientSession

    @property
    def charges(self) -> int:
        """How many lines of the ledger are the order's."""
        return self.gateway.ledger.per_order()[ORDER]

    @property
    def keys(self) -> list[str | None]:
        """Under which keys the gateway charged."""
        return [charge.key for charge in self.gateway.ledger.charges]

    async def sessions(self) -> list[JsonObject]:
        """Every session, the youngest first."""
        shown: dict[str, JsonObject] = {}
        for path in ("/sessions", "/sessions/active"):
            page = (await fetch(self.http, "GET", self.proxy.api + path)).json["sessions"]
            shown |= {session["sessionId"]: session for session in page}
        return sorted(shown.values(), key=lambda session: str(session["startedAt"]), reverse=True)

    async def money(self) -> tuple[str, str]:
        """State and outcome of the youngest session."""
        session = (await self.sessions())[0]
        return session["status"], session["outcome"]

    async def listed(self) -> int:
        """How many sessions somebody should look at."""
        page = await fetch(self.http, "GET", f"{self.proxy.api}/sessions/active")
        return len(page.json["sessions"])

    async def do(self, verb: str) -> None:
        """Do this to the youngest session."""
        name = (await self.sessions())[0]["sessionId"]
        url = f"{self.proxy.api}/session/{name}/{verb}"
        done = await fetch(self.http, "POST", url, json={"reason": "test"})
        assert done.status in {200, 202}, done.body


@contextlib.asynccontextmanager
async def desk(
    folder: Path,
    profile: str,
    simulator: type[Simulator] | Callable[[ScriptedFaults], Simulator],
    client: Callable[[str], AbstractAsyncContextManager[Client]],
    *faults: Fault,
    gateway: str = "",
    more: str = "",
) -> AsyncIterator[Desk[Client]]:
    """The order's first requests meet these faults, one each. `gateway` is added to the gateway's
    settings, `more` to the policy.
    """
    plan = ScriptedFaults({(ORDER, n): fault for n, fault in enumerate(faults, start=1)})
    simulated_gateway, clock = simulator(plan), LeapingClock()
    async with simulated(simulated_gateway) as origin:
        text = f"""
listen: {{sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}}
store: sqlite:///holdfast.db
gateways:
  it:
    profile: {profile}
    listen: "127.0.0.1:0"
    upstream: "{origin}"
    timeouts: {{connect: 2s, attempt: 500ms, total: 5s}}
    {gateway or "retry: {backoff: {initial: 1ms, max: 5ms}}"}
{more}
shutdown: {{drain: 100ms}}
"""
        async with (
            running_on(clock, folder, text) as proxy,
            tcp_faults(proxy.port) as door,
            client(door.url) as asks,
            aiohttp.ClientSession() as http,
        ):
            yield Desk(asks, simulated_gateway, origin, door, proxy, clock, http)
