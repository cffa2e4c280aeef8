"""`holdfast demo`: the same orders, the same faults, paid directly, with retries, and through
Holdfast.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from proxy.app import Doors, Holdfast
from proxy.demo.faults import FaultPlan
from proxy.demo.gateway import SimulatedGateway
from proxy.demo.show import Row, Table
from proxy.demo.traffic import Shop, Takings, Told, pay_all
from proxy.settings.load import load

# The shop's patience with one request: less than a gateway's hang, more than a slow answer.
_PATIENCE = 2.0
_PATIENCE_WITH_HOLDFAST = 10.0
_SETTLE_SECONDS = 10.0
_CREDENTIAL = "Bearer sk_test_demo"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says."""

    orders: int
    seed: int
    interruptions: float
    stay: bool


async def run_demo(options: DemoOptions) -> int:
    """Run it; 0 if Holdfast kept its promise (nothing charged twice, nothing lost unseen)."""
    plan = FaultPlan(seed=options.seed, interruptions=options.interruptions)
    gateway = SimulatedGateway(plan, latency=0.02)
    runner = web.AppRunner(gateway.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    gateway_port = runner.addresses[0][1]
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as folder:
        holdfast = _holdfast(Path(folder), gateway_port)
        doors = await holdfast.start()
        try:
            return await _compare(options, gateway, gateway_port, doors)
        finally:
            await holdfast.stop()
            await runner.cleanup()


def _holdfast(folder: Path, gateway_port: int) -> Holdfast:
    policy = folder / "demo.yaml"
    policy.write_text((Path(__file__).parent / "demo.yaml").read_text(encoding="utf-8"))
    overrides = {
        "HOLDFAST__GATEWAYS__STRIPE__UPSTREAM": f"http://127.0.0.1:{gateway_port}",
        "HOLDFAST_DEMO_CREDENTIAL": _CREDENTIAL,
    }
    for port, name in (
        (8080, "GATEWAYS__STRIPE__LISTEN"),
        (8081, "LISTEN__SESSIONS"),
        (8082, "LISTEN__ADMIN"),
    ):
        if not _is_free(port):  # something else runs there: any other port will do
            overrides[f"HOLDFAST__{name}"] = "127.0.0.1:0"
    # Its log lines would run through the table.
    return Holdfast(load(policy, {**os.environ, **overrides}), io.BytesIO())


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _compare(
    options: DemoOptions,
    gateway: SimulatedGateway,
    gateway_port: int,
    doors: Doors,
) -> int:
    print(
        f"A simulated gateway interrupts {options.interruptions:.0%} of all requests (hangs, "
        "resets and cut\nanswers, before and after charging; 503, 429). "
        f"{options.orders} orders are paid at it three\ntimes, under the same faults:\n"
    )
    direct = f"http://127.0.0.1:{gateway_port}"
    through = f"http://{doors.gateways['stripe']}"
    _links(doors)
    if options.stay:
        print(f"pay at     {through}\nledger     {direct}/_ledger")
    print()
    ways = [
        ("directly, one try", Shop(direct, _PATIENCE)),
        ("directly, retrying 3x", Shop(direct, _PATIENCE, tries=4)),
        ("through Holdfast", Shop(through, _PATIENCE_WITH_HOLDFAST, send_order=True)),
    ]
    rows = [Row(name, Takings(), Counter()) for name, _ in ways]
    table = Table(rows)
    for row, (_, shop) in zip(rows, ways, strict=True):
        gateway.arrivals.clear()
        gateway.ledger.charges.clear()
        # Filled as the gateway charges, so the live table can show it.
        at_once = 10

        def progress(row: Row = row) -> None:
            row.charges = gateway.ledger.per_order()
            table.update()

        await pay_all(shop, options.orders, at_once, row.takings, progress)
        progress()
    await settle(rows[-1], gateway, f"http://{doors.sessions}")
    table.finish()
    if options.stay:
        print("\nThe links above work until Ctrl-C.")
        await asyncio.Event().wait()
    else:
        print("\nTo look around afterwards, run it with --stay.")
    return 0 if rows[-1].twice == rows[-1].lost == 0 else 1


async def settle(row: Row, gateway: SimulatedGateway, sessions: str) -> None:
    """Wait for Holdfast to find out what became of the orders whose outcome it did not know."""
    unknown = [order for order, told in row.takings.told.items() if told is Told.UNKNOWN]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SETTLE_SECONDS
    async with aiohttp.ClientSession() as http:
        while unknown and loop.time() < deadline:
            await asyncio.sleep(0.5)
            for order in list(unknown):
                url = f"{sessions}/api/payments/session/{row.takings.sessions[order]}"
                async with http.get(url) as answer:
                    if (await answer.json())["outcome"] != "unknown":
                        unknown.remove(order)
                        row.settled += 1
    row.charges = gateway.ledger.per_order()


def _links(doors: Doors) -> None:
    print(
        f"sessions   http://{doors.sessions}/api/payments/sessions\n"
        f"still open http://{doors.sessions}/api/payments/sessions/active\n"
        f"metrics    http://{doors.admin}/metrics"
    )
