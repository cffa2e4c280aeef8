"""A shop with a gateway's official SDK, a Holdfast before it, and that gateway's simulator.

The judge of money is the simulator's ledger; what Holdfast thinks of it is asked of its session
API, since the SDKs hide the answers' headers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from proxy.demo.faults import Fault
from proxy.demo.simulator import Simulator
from tests.support.running import Running, simulated
from tests.support.stage import LeapingClock, ScriptedFaults, eventually, running_on
from tests.support.tcp_faults import TcpFaults, tcp_faults

ORDER = "o-1"
# Whatever becomes of an answer after the gateway has charged.
LOST = [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER]
# Its first failure opens the breaker.
FRAIL = "breaker: {failure_ratio: 0.01, min_calls: 1}"


@dataclass(frozen=True, slots=True)
class Kind:
    """Which gateway: its profile, its simulator, and how its SDK is opened on an address."""

    profile: str
    simulator: Callable[[ScriptedFaults], Simulator]
    sdk: Callable[[str], AbstractAsyncContextManager[Any]]
    parameters: str = ""


@dataclass(frozen=True, slots=True)
class Shop:
    """`counter` stands between the SDK and Holdfast; `origin` is the gateway without Holdfast."""

    sdk: Any
    gateway: Simulator
    origin: str
    counter: TcpFaults
    proxy: Running
    clock: LeapingClock
    http: aiohttp.ClientSession

    @property
    def charged(self) -> int:
        """How many lines of the ledger are the order's."""
        return self.gateway.ledger.per_order()[ORDER]

    @property
    def keys(self) -> list[str | None]:
        """The keys that the gateway charged under."""
        return [charge.key for charge in self.gateway.ledger.charges]

    async def session(self, name: str = "") -> dict[str, Any]:
        """A session by its name, else the youngest one; from a list, for which nobody asks the
        gateway.
        """
        shown: list[dict[str, Any]] = []
        for path in ("sessions/active", "sessions"):
            async with self.http.get(f"{self.proxy.api}/{path}") as answer:
                shown += (await answer.json())["sessions"]
        wanted = [one for one in shown if name in {"", one["sessionId"]}]
        return max(wanted, key=lambda one: one["startedAt"])

    async def money(self, name: str = "") -> tuple[str, str]:
        """State and outcome of a session, else of the youngest."""
        session = await self.session(name)
        return session["status"], session["outcome"]

    async def looked_up(self, name: str = "") -> tuple[str, str]:
        """Let time pass until a look-up has settled a session; state and outcome of it."""
        name = name or (await self.session())["sessionId"]

        async def look() -> tuple[str, str]:
            self.clock.leap(1.0)
            return await self.money(name)

        return await eventually(look, lambda money: money[1] != "unknown")

    async def hold(self) -> None:
        """Let nobody bring the youngest session forward."""
        url = f"{self.proxy.api}/session/{(await self.session())['sessionId']}/interrupt"
        async with self.http.post(url, json={"reason": "test"}) as answer:
            assert answer.status == 200, await answer.text()

    async def posts(self, path: str, document: object, **headers: str) -> int:
        """Ask the gateway through Holdfast without the SDK; the answer's status."""
        headers = {"Authorization": "Bearer secret", **headers}
        url = f"{self.proxy.url}{path}"
        async with self.http.post(url, json=document, headers=headers) as answer:
            await answer.read()
            return answer.status

    async def refused(self, call: Callable[[], Any]) -> Exception:
        """What the SDK raises after one request of its own; anything else fails the test."""
        before = self.counter.requests
        raised = await self.fails(call)
        assert self.counter.requests - before == 1
        return raised

    async def fails(self, call: Callable[[], Any]) -> Exception:
        """What the SDK raises."""
        try:
            heard = await asyncio.to_thread(call)
        except Exception as error:  # noqa: BLE001 -- the test says what it must be
            return error
        message = f"it raised nothing and returned {heard!r}"
        raise AssertionError(message)


@contextlib.asynccontextmanager
async def shop(
    kind: Kind, folder: Path, *faults: Fault, routes: str = "[]", more: str = ""
) -> AsyncIterator[Shop]:
    """The order's first requests meet these faults, one each. `routes` are the policy's own, `more`
    is added to its gateway.
    """
    plan = ScriptedFaults({(ORDER, n): fault for n, fault in enumerate(faults, start=1)})
    gateway, clock = kind.simulator(plan), LeapingClock()
    async with (
        simulated(gateway) as origin,
        running_on(clock, folder, _policy(kind, origin, routes, more)) as proxy,
        tcp_faults(proxy.port) as counter,
        kind.sdk(counter.url) as sdk,
        aiohttp.ClientSession() as http,
    ):
        yield Shop(sdk, gateway, origin, counter, proxy, clock, http)


def _policy(kind: Kind, origin: str, routes: str, more: str) -> str:
    return f"""
listen: {{sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}}
store: sqlite:///holdfast.db
gateways:
  it:
    profile: {kind.profile}
    listen: "127.0.0.1:0"
    upstream: "{origin}"
    {kind.parameters}
    timeouts: {{connect: 2s, attempt: 0.5s, total: 5s}}
    routes: {routes}
    {more}
defaults: {{retry: {{backoff: {{initial: 1ms, max: 5ms}}}}}}
shutdown: {{drain: 0.1s}}
"""
