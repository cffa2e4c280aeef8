"""`./dev compare`: the same orders under the same faults, paid directly, through other proxies
with their retries on, and through Holdfast.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from proxy.demo.faults import FaultPlan  # after the path is set
from proxy.demo.gateway import SimulatedGateway
from proxy.demo.run import settle
from proxy.demo.show import Row
from proxy.demo.traffic import Shop, Takings, Told, pay_all
from tests.compare.proxies import HOLDFAST, PROXIES, Proxy, started
from tests.support.running import simulated

ORDERS, SEED = 2000, 1
# A time is the median of so many rounds, in each of which every way has its turn.
ROUNDS = 5
_AT_ONCE = 20
# One try, as with the proxies; behind a proxy the shop waits for all of its tries.
_TRY_SECONDS = 0.5
_PATIENCE = 10.0
DIRECTLY = {"directly, one try": 1, "directly, retrying 3x without a key": 4}
_HEAD = (
    "paid",
    "charged twice",
    "told failed, but charged",
    "told failed, not charged",
    "unknown, settled",
    "p50 ms",
    "p99 ms",
)


@dataclass(slots=True)
class Way:
    """One way of paying, and what it came to in each round."""

    shop: Shop
    sessions: str | None = None  # where to ask what became of the unknown; only Holdfast says so
    rounds: list[Row] = field(default_factory=list)

    @property
    def twice(self) -> int:
        """Orders that were charged more than once."""
        return sum(row.twice for row in self.rounds)

    @property
    def lost(self) -> int:
        """Orders that were charged while the shop was told they failed."""
        return sum(row.lost for row in self.rounds)

    def told(self, told: Told) -> int:
        """How many orders were told this."""
        return sum(row.takings.count(told) for row in self.rounds)

    def cells(self) -> tuple[str, ...]:
        """As cells of the table."""
        orders = sum(len(row.takings.told) for row in self.rounds)
        times = [
            statistics.median(row.takings.percentile(share) for row in self.rounds)
            for share in (0.5, 0.99)
        ]
        return (
            f"{100 * self.told(Told.PAID) / orders:.2f}%",
            str(self.twice),
            str(self.lost),
            str(self.told(Told.FAILED) - self.lost),
            f"{self.told(Told.UNKNOWN)}, {sum(row.settled for row in self.rounds)}",
            *(f"{seconds * 1000:.0f}" for seconds in times),
        )


def main() -> int:
    """Make the table; 0 if Holdfast charged nobody twice and nobody unseen."""
    parser = argparse.ArgumentParser(prog="./dev compare", description=__doc__)
    parser.add_argument("--orders", type=int, default=ORDERS, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    options = parser.parse_args()
    if options.orders < ROUNDS:
        parser.error(f"--orders must be {ROUNDS} or more: there are {ROUNDS} rounds")
    # As Ctrl-C: what was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    each = options.orders // ROUNDS
    plan = FaultPlan(seed=options.seed)
    print(
        f"{each * ROUNDS} orders, {_AT_ONCE} at once, at a gateway that interrupts "
        f"{plan.interruptions:.0%} of all requests; seed {plan.seed}.\n"
        f"p50 and p99 are medians of {ROUNDS} rounds.\n",
        flush=True,
    )
    with contextlib.suppress(KeyboardInterrupt):
        ways = asyncio.run(compare(plan, each, ROUNDS))
        print(table(ways))
        holdfast = ways[HOLDFAST.name]
        return 0 if holdfast.twice == holdfast.lost == 0 else 1
    return 130


async def compare(
    plan: FaultPlan, orders: int, rounds: int, proxies: tuple[Proxy, ...] = PROXIES
) -> dict[str, Way]:
    """Pay so many orders in each round, every way; a proxy that is not here is left out."""
    gateway = SimulatedGateway(plan, latency=0.02)
    # Not below /tmp, which may be memory: a payment written there would be written for nothing.
    temporary = tempfile.TemporaryDirectory(prefix="holdfast-compare-", dir="/var/tmp")
    async with contextlib.AsyncExitStack() as stack:
        top = Path(stack.enter_context(temporary))
        origin = await stack.enter_async_context(simulated(gateway))
        ways = {name: Way(Shop(origin, _TRY_SECONDS, tries)) for name, tries in DIRECTLY.items()}
        for proxy in proxies:
            if reason := proxy.why_not():
                print(f"{reason}: left out", file=sys.stderr)
                continue
            (folder := top / proxy.name).mkdir()
            port = int(origin.rpartition(":")[2])
            running = stack.enter_context(started(proxy, folder, port))
            sessions = running.sessions if proxy is HOLDFAST else None
            for name, there in running.origins.items():
                ways[name] = Way(Shop(there, _PATIENCE), sessions)
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr)
            for name, way in ways.items():
                way.shop.order_prefix = f"order-{number}"
                way.rounds.append(await pay(name, way, gateway, orders))
    return ways


async def pay(name: str, way: Way, gateway: SimulatedGateway, orders: int) -> Row:
    """One round: the same orders for every way, so that they meet the same faults."""
    gateway.arrivals.clear()
    gateway.ledger.charges.clear()
    row = Row(name, Takings(), Counter())
    await pay_all(way.shop, orders, _AT_ONCE, row.takings)
    row.charges = gateway.ledger.per_order()
    if way.sessions is not None:
        await settle(row, gateway, way.sessions)
    return row


def table(ways: Mapping[str, Way]) -> str:
    """In Markdown, and readable as it is."""
    rows = [("", *_HEAD), *((name, *way.cells()) for name, way in ways.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {row[0]:{widths[0]}} | "
        + " | ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        + " |"
        for row in rows
    ]
    ruled = [f"|{'-' * (widths[0] + 2)}|", *(f"{'-' * (width + 1)}:|" for width in widths[1:])]
    return "\n".join([lines[0], "".join(ruled), *lines[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
