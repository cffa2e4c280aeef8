"""kill -9 at random moments under load, again and again; the gateway's ledger is the judge.

A shop pays orders through Holdfast without pause; every order is paid until it is told how it
ended, always with its own key, as a careful backend does. Meanwhile Holdfast is killed at random
moments and started again on the same store. The gateway interrupts a share of requests as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from proxy.demo.faults import FaultPlan
from proxy.demo.gateway import SimulatedGateway
from tests.support.running import ROOT, HoldfastProcess, simulated

_POLICY = """\
defaults:
  timeouts: {connect: 500ms, attempt: 400ms, total: 5s}
  retry: {max_attempts: 20, automatic_attempts: 4, backoff: {initial: 20ms, max: 200ms}}
  breaker: {min_calls: 100000}
  budget: {min_per_second: 100000}
"""
CREDENTIAL = "Bearer sk_test_campaign"
_CLIENT_SECONDS = 8.0
_TRIES = 200


@dataclass(slots=True)
class Findings:
    """What a campaign came to."""

    kills: int = 0
    orders: int = 0
    paid: int = 0
    charged_twice: list[str] = field(default_factory=list)
    paid_but_not_charged: list[str] = field(default_factory=list)
    acknowledged_but_lost: list[str] = field(default_factory=list)
    charged_but_unseen: list[str] = field(default_factory=list)
    never_told: list[str] = field(default_factory=list)
    unknown_after_kills: int = 0

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not (
            self.charged_twice
            or self.paid_but_not_charged
            or self.acknowledged_but_lost
            or self.charged_but_unseen
            or self.never_told
        )

    def table(self) -> str:
        """For people."""
        rows = (
            ("kill -9", self.kills),
            ("orders paid through them", self.orders),
            ("told paid", self.paid),
            ("sessions found unknown after a kill", self.unknown_after_kills),
            ("charged twice", len(self.charged_twice)),
            ("told paid, but not charged", len(self.paid_but_not_charged)),
            ("acknowledged sessions lost", len(self.acknowledged_but_lost)),
            ("charged, but neither told nor listed", len(self.charged_but_unseen)),
            ("never told anything", len(self.never_told)),
        )
        return "\n".join(f"{name:<40}{value:>8}" for name, value in rows)


class ForkedHoldfast(HoldfastProcess):
    """A Holdfast whose starts are forks."""

    def __init__(self, folder: Path, upstream: str, server: asyncio.subprocess.Process) -> None:
        super().__init__(folder, upstream, _POLICY)
        self._server = server
        self._pid = 0

    async def fork(self) -> None:
        """Start it."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"start {self.config} {self.log_path}\n".encode())
        self._pid = int(await self._server.stdout.readline())

    def kill_now(self) -> None:
        """Kill -9, without waiting."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def end(self) -> None:
        """SIGTERM."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)


@dataclass(slots=True)
class _Shop:
    """Pays orders until it is told how each one ended."""

    http: aiohttp.ClientSession
    url: str
    told: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    given_up: list[str] = field(default_factory=list)

    async def pay(self, order: str) -> None:
        for _ in range(_TRIES):
            outcome = await self._try(order)
            if outcome is not None:
                self.told[order] = outcome
                return
            await asyncio.sleep(0.05)
        self.given_up.append(order)

    async def _try(self, order: str) -> str | None:
        data = {
            "amount": "1999",
            "currency": "eur",
            "confirm": "true",
            "payment_method": "pm_card_visa",
            "metadata[order_id]": order,
        }
        headers = {
            "Authorization": CREDENTIAL,
            "Idempotency-Key": f"key-{order}",
            "X-Payment-Order-Id": order,
        }
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self.http.post(self.url, data=data, headers=headers) as answer:
                body = await answer.json(content_type=None)
                if answer.status == 200 and body.get("status") == "succeeded":
                    self.sessions[order] = answer.headers["X-Payment-Session-Id"]
                    return "paid"
        return None


async def kill_campaign(
    folder: Path,
    *,
    kills: int,
    seed: int,
    at_once: int = 12,
    say: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Kill so often, at moments drawn from the seed, and report."""
    dice = random.Random(seed)
    findings = Findings()
    gateway = SimulatedGateway(FaultPlan(seed=seed, interruptions=0.05), latency=0.02)
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "forkserver.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CAMPAIGN_CREDENTIAL": CREDENTIAL,
            "HOLDFAST__GATEWAYS__GATEWAY__LOOKUP_CREDENTIAL__ENV": "CAMPAIGN_CREDENTIAL",
        },
    )
    async with simulated(gateway) as origin, _patient_client() as http:
        holdfast = ForkedHoldfast(folder, origin, server)
        shop = _Shop(http, f"{holdfast.url}/v1/payment_intents")
        await holdfast.fork()
        await _ready(holdfast, http)
        stop = asyncio.Event()
        payers = [asyncio.ensure_future(_payer(shop, n, stop)) for n in range(at_once)]
        for number in range(kills):
            await asyncio.sleep(dice.uniform(0.01, 0.4))
            holdfast.kill_now()
            await holdfast.fork()
            await _ready(holdfast, http)
            findings.kills += 1
            findings.unknown_after_kills += await _unknown(holdfast, http)
            if (number + 1) % 50 == 0:
                say(f"{number + 1} kills, {len(shop.told)} orders")
        stop.set()
        await asyncio.gather(*payers)
        await _judge(findings, shop, gateway, holdfast, http)
        holdfast.end()
    assert server.stdin is not None
    server.stdin.close()
    await server.wait()
    return findings


def _patient_client() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=_CLIENT_SECONDS, ceil_threshold=60)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


async def _payer(shop: _Shop, number: int, stop: asyncio.Event) -> None:
    serial = 0
    while not stop.is_set():
        serial += 1
        await shop.pay(f"o-{number}-{serial}")


async def _ready(holdfast: HoldfastProcess, http: aiohttp.ClientSession) -> None:
    for _ in range(4000):
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(f"{holdfast.admin}/readyz") as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.005)
    raise AssertionError(holdfast.log_path.read_text()[-4000:])


async def _unknown(holdfast: HoldfastProcess, http: aiohttp.ClientSession) -> int:
    url = f"{holdfast.api}/sessions/active?outcome=unknown&limit=500"
    async with http.get(url) as answer:
        return int((await answer.json())["total"])


async def _judge(
    findings: Findings,
    shop: _Shop,
    gateway: SimulatedGateway,
    holdfast: HoldfastProcess,
    http: aiohttp.ClientSession,
) -> None:
    """Hold what the shop was told, what the store says and what was charged against each other."""
    charges = gateway.ledger.per_order()
    findings.orders = len(shop.told) + len(shop.given_up)
    findings.paid = sum(1 for told in shop.told.values() if told == "paid")
    findings.never_told = shop.given_up
    findings.charged_twice = [order for order, count in charges.items() if count > 1]
    findings.paid_but_not_charged = [order for order in shop.told if not charges[order]]
    listed = await _listed_orders(holdfast, http)
    findings.charged_but_unseen = [
        order for order in charges if order not in shop.told and order not in listed
    ]
    for order, session in shop.sessions.items():
        async with http.get(f"{holdfast.api}/session/{session}") as answer:
            found: dict[str, Any] = await answer.json() if answer.status == 200 else {}
        if found.get("outcome") != "charged" or found.get("orderId") != order:
            findings.acknowledged_but_lost.append(order)


async def _listed_orders(holdfast: HoldfastProcess, http: aiohttp.ClientSession) -> set[str]:
    orders: set[str] = set()
    cursor = ""
    while True:
        url = f"{holdfast.api}/sessions/active?limit=500{cursor}"
        async with http.get(url) as answer:
            page = await answer.json()
        orders |= {session["orderId"] for session in page["sessions"]}
        if page["next"] is None:
            return orders
        cursor = f"&cursor={page['next']}"
