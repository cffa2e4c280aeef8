"""A retry storm that does not come: a gateway fails altogether while payments go on.

A real Holdfast on real sockets, as shipped, and the same with budget and breaker switched off. The
gateway counts all that reaches it, look-ups and probes as well, and hangs up on it while it is
down. The judge of money is its ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.support.raw import RawConnection, raw_server
from tests.support.running import HoldfastProcess

BEFORE, AFTER = 10.0, 20.0
# Retries that were saved up go out in a burst; over less than this the ratio says little.
WINDOW = 5.0
OPEN_FOR = 15.0
LIMIT = 1.25
WITHOUT = """\
defaults:
  budget: {ratio: 1, min_per_second: 100000}
  breaker: {min_calls: 1000000}
"""
_PAID = 200
_SUCCEEDED = b'{"id":"pi_1","object":"payment_intent","status":"succeeded"}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


@dataclass(slots=True)
class Storm:
    """What one came to. Times are seconds of this process's clock."""

    rate: int
    went_down: float = 0.0
    came_up: float = 0.0
    offered: list[float] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)  # at the gateway, until it came up
    failed: list[float] = field(default_factory=list)  # when those began that did not succeed
    ledger: Counter[bytes] = field(default_factory=Counter)

    @property
    def worst(self) -> float:
        """The most that was sent within any `WINDOW`, as a ratio to what is offered in one."""
        return _most_in(self.arrivals, WINDOW) / (self.rate * WINDOW)

    @property
    def recovery(self) -> float:
        """From when the gateway was back until every payment succeeded again."""
        return max(0.0, max(self.failed, default=0.0) - self.came_up)

    def rows(self) -> list[tuple[str, str]]:
        """Names and figures."""
        down = [at for at in self.arrivals if at >= self.went_down]
        meanwhile = sum(self.went_down <= at < self.came_up for at in self.offered)
        return [
            ("offered", f"{len(self.offered)}"),
            ("offered while it was down", f"{meanwhile}"),
            ("sent upstream while it was down", f"{len(down)}"),
            ("ratio", f"{len(down) / meanwhile:.2f}"),
            (f"ratio in the worst {WINDOW:g} s", f"{self.worst:.2f}"),
            ("succeeded", f"{len(self.offered) - len(self.failed)}"),
            ("recovered after, seconds", f"{self.recovery:.1f}"),
            ("charged twice", f"{sum(count > 1 for count in self.ledger.values())}"),
        ]


def _most_in(arrivals: list[float], window: float) -> int:
    most, first = 0, 0
    for last, at in enumerate(arrivals):
        while arrivals[first] <= at - window:
            first += 1
        most = max(most, last + 1 - first)
    return most


async def storm(folder: Path, *, rate: int, down: float, more: str = "") -> Storm:
    """Payments at a fixed rate before, while and after the gateway is down."""
    found = Storm(rate)

    async def gateway(connection: RawConnection) -> None:
        while True:
            request = await connection.request()
            connection.received.clear()
            now = time.monotonic()
            if not found.came_up or now < found.came_up:
                found.arrivals.append(now)
                if now >= found.went_down:
                    connection.reset()
                    return
            if request.startswith(b"POST"):
                found.ledger[request.rpartition(b"order=")[2]] += 1
            await connection.send(_ANSWER % (len(_SUCCEEDED), _SUCCEEDED))

    async with raw_server(gateway) as upstream:
        process = HoldfastProcess(folder, upstream.origin, more)
        await process.start()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            begun = time.monotonic()
            found.went_down = begun + BEFORE
            found.came_up = found.went_down + down
            async with asyncio.TaskGroup() as payments:
                for number in range(int((BEFORE + down + AFTER) * rate)):
                    due = begun + number / rate
                    await asyncio.sleep(due - time.monotonic())
                    _ = payments.create_task(_pay(found, http, process.url, number))
        await process.stop()
    return found


async def _pay(found: Storm, http: aiohttp.ClientSession, url: str, number: int) -> None:
    begun = time.monotonic()
    found.offered.append(begun)
    headers = {"Authorization": "Bearer sk_test_storm", "Idempotency-Key": f"storm-{number}"}
    data = f"amount=1999&currency=eur&order={number}"
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    paid = False
    try:
        async with http.post(f"{url}/v1/payment_intents", data=data, headers=headers) as answer:
            paid = answer.status == _PAID
    finally:
        if not paid:
            found.failed.append(begun)


async def storm_campaign(
    folder: Path, *, rate: int, down: float, say: Callable[[str], None]
) -> tuple[Storm, Storm]:
    """With budget and breaker as shipped, and without them; a table of both."""
    say(f"twice {BEFORE + down + AFTER:g} s of payments: as shipped, then without them")
    both = []
    for name, more in (("with", ""), ("without", WITHOUT)):
        inner = folder / name
        inner.mkdir()
        both.append(await storm(inner, rate=rate, down=down, more=more))
    shipped, bare = both
    say(f"{'':<40}{'as shipped':>12}{'without':>12}")
    for (what, figure), (_, other) in zip(shipped.rows(), bare.rows(), strict=True):
        say(f"{what:<40}{figure:>12}{other:>12}")
    return shipped, bare
