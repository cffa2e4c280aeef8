"""A rolling update under load: every replica is stopped and replaced by one of another version.

Replicas on one PostgreSQL server, with the shops going on at whichever takes the connection. Each
is told to stop as an orchestrator does (SIGTERM), finishes what it has in flight, and its successor
starts on its address once it is gone; the next one follows when that is ready.
Of the order that was refused for longest it says what each try was told, how long others took that
nobody refused, and for how long at a time this process stood still meanwhile: a machine that has no
time for it has none for them either.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaigns.market import PATIENT, Scene, market
from tests.campaigns.shop import Findings, Refused

# No order may be refused for longer.
LEASE = 1.0
_POLICY = PATIENT.replace("lease: 500ms", f"lease: {LEASE * 1000:.0f}ms")
# A busy machine is not what is tried here: nothing is unknown but what a stop makes so.
_POLICY = _POLICY.replace("attempt: 400ms", "attempt: 3s")
_REPLICAS = 4
_AT_ONCE = 8  # at each gateway
_TICK = 0.02  # seconds
_VERSIONS = ("2.0.0", "2.1.0")


@dataclass(slots=True)
class Updates(Findings):
    """What updating came to."""

    replaced: int = 0
    longest_refused: Refused = field(default_factory=Refused)
    longest_at_once: float = 0.0  # seconds
    stood_still: float = 0.0  # seconds at most, and while that order was refused
    stood_still_then: float = 0.0
    seconds: float = 0.0

    def rows(self) -> list[tuple[str, object]]:
        """Names and figures."""
        return [
            ("replicas replaced", self.replaced),
            ("orders per second", f"{self.orders / self.seconds:.1f}"),
            (f"longest refused, seconds (lease {LEASE})", f"{self.longest_refused.seconds:.3f}"),
            ("longest at the first try, seconds", f"{self.longest_at_once:.3f}"),
            ("the campaign stood still, seconds at most", f"{self.stood_still:.3f}"),
            ("  while that order was refused", f"{self.stood_still_then:.3f}"),
            *Findings.rows(self),
        ]


async def _watch(stalls: list[tuple[float, float]]) -> None:
    """Note how long this process did not come to its turn, and when."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + _TICK
        await asyncio.sleep(_TICK)
        stalls.append((due, clock() - due))


async def rolling_campaign(
    folder: Path, *, updates: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> Updates:
    """So many updates of all replicas, and report."""
    findings = Updates()
    scene = Scene("postgresql", _REPLICAS, seed, policy=_POLICY, interruptions=0.0)
    async with market(folder, scene) as there:
        await there.start("version", _VERSIONS[0])
        stalls: list[tuple[float, float]] = []
        watching = asyncio.ensure_future(_watch(stalls))
        begun = time.monotonic()
        async with there.open(_AT_ONCE):
            for update in range(1, updates + 1):
                for replica in there.replicas:
                    replica.signal(signal.SIGTERM)
                    await replica.gone()
                    await replica.start(there.server, "version", _VERSIONS[update % 2])
                    await replica.ready(there.http)
                    findings.replaced += 1
                say(f"{update} updates, {there.orders} orders")
            findings.seconds = time.monotonic() - begun
        watching.cancel()
        shops = there.shops.values()
        refused = max((shop.longest_refused for shop in shops), key=lambda one: one.seconds)
        then = [late for due, late in stalls if refused.since <= due + late and due < refused.until]
        findings.longest_refused = refused
        findings.longest_at_once = max(shop.longest_at_once for shop in shops)
        findings.stood_still = max(late for _, late in stalls)
        findings.stood_still_then = max(then, default=0.0)
        await there.judge(findings)
    return findings
