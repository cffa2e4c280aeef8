"""A rolling update under load: every replica is stopped and replaced by one of another version.

Replicas on one PostgreSQL server, with the shops going on at whichever takes the connection. Each
is told to stop as an orchestrator does (SIGTERM), finishes what it has in flight, and its successor
starts on its address once it is gone; the next one follows when that is ready.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.market import PATIENT, Scene, market
from tests.campaigns.shop import Findings

# No order may be refused for longer.
LEASE = 1.0
_POLICY = PATIENT.replace("lease: 500ms", f"lease: {LEASE * 1000:.0f}ms")
# A busy machine is not what is tried here: nothing is unknown but what a stop makes so.
_POLICY = _POLICY.replace("attempt: 400ms", "attempt: 3s")
_REPLICAS = 4
_AT_ONCE = 8  # at each gateway
_VERSIONS = ("2.0.0", "2.1.0")


@dataclass(slots=True)
class Updates(Findings):
    """What updating came to."""

    replaced: int = 0
    longest_refused: float = 0.0  # seconds
    seconds: float = 0.0

    def rows(self) -> list[tuple[str, object]]:
        """Names and figures."""
        return [
            ("replicas replaced", self.replaced),
            ("orders per second", f"{self.orders / self.seconds:.1f}"),
            (f"longest refused, seconds (lease {LEASE})", f"{self.longest_refused:.3f}"),
            *Findings.rows(self),
        ]


async def rolling_campaign(
    folder: Path, *, updates: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> Updates:
    """So many updates of all replicas, and report."""
    findings = Updates()
    scene = Scene("postgresql", _REPLICAS, seed, policy=_POLICY, interruptions=0.0)
    async with market(folder, scene) as there:
        await there.start("version", _VERSIONS[0])
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
        findings.longest_refused = max(shop.longest_refused for shop in there.shops.values())
        await there.judge(findings)
    return findings
