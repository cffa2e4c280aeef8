"""SIGSTOP for longer than the lease, under load: the others take over, and then it wakes.

Replicas on one PostgreSQL server are stopped at random moments, some of them at the same time.
Their leases run out, what they have with the gateways counts as unknown, and the shops ask the
others. When a replica goes on it may begin no send on what it knew before, and what the gateway
answered meanwhile is merged. At a gateway that recognises nothing, nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.market import PATIENT, Market, Scene, market
from tests.campaigns.replicas import Replica
from tests.campaigns.shop import Findings

LEASE = 0.4
# A protection taken out: a campaign that does not notice proves nothing.
CONTROL = "take-over-sends-again"
_POLICY = PATIENT.replace("lease: 500ms", f"lease: {LEASE * 1000:.0f}ms")
# Longer than the lease; long enough that mostly one of the others has swept, which they do once a
# second.
_PAUSE = (LEASE * 1.25, LEASE * 4)
_AWAKE = (0.05, 0.4)
_REPLICAS, _ASLEEP_AT_ONCE = 6, 4
_AT_ONCE = 16  # at each gateway, each of which takes so many seconds for a payment
_LATENCY = 0.1
# A shop does not wait until the replica wakes: it asks another.
_PATIENCE = 0.3
# After the last pause: what was asleep has had its answers, and the sweepers have been round.
_REST = 3.0


@dataclass(slots=True)
class Pauses(Findings):
    """What pausing came to."""

    pauses: int = 0
    sent_again: int = 0
    seconds: float = 0.0

    def rows(self) -> list[tuple[str, object]]:
        """Names and figures."""
        return [
            (f"pauses of more than a lease of {LEASE} s", self.pauses),
            ("pauses per second", f"{self.pauses / self.seconds:.1f}"),
            ("sent again, with its key", self.sent_again),
            *Findings.rows(self),
        ]


@dataclass(slots=True)
class _Pauser:
    """Stops replicas and lets them go on."""

    market: Market
    dice: random.Random
    asleep: asyncio.Semaphore
    turns: Iterator[int]
    findings: Pauses
    say: Callable[[str], None]

    async def run(self, replica: Replica) -> None:
        """Until so many pauses are done; it is awake at the end."""
        for _ in self.turns:
            await asyncio.sleep(self.dice.uniform(*_AWAKE))
            async with self.asleep:
                replica.signal(signal.SIGSTOP)
                await asyncio.sleep(self.dice.uniform(*_PAUSE))
                replica.signal(signal.SIGCONT)
            self.findings.pauses += 1
            if self.findings.pauses % 100 == 0:
                self.say(f"{self.findings.pauses} pauses, {self.market.orders} orders")


async def pause_campaign(
    folder: Path,
    *,
    pauses: int,
    seed: int,
    control: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Pauses:
    """Pause so often, at moments drawn from the seed, and report; with a protection out, if one is
    named.
    """
    findings = Pauses()
    turns = iter(range(pauses))
    scene = Scene("postgresql", _REPLICAS, seed, 0.0, _PATIENCE, _LATENCY, _POLICY)
    async with market(folder, scene) as there:
        await there.start(*filter(None, [control]))
        asleep = asyncio.Semaphore(_ASLEEP_AT_ONCE)
        pauser = _Pauser(there, random.Random(seed), asleep, turns, findings, say)
        begun = time.monotonic()
        async with there.open(_AT_ONCE):
            await asyncio.gather(*(pauser.run(replica) for replica in there.replicas))
            findings.seconds = time.monotonic() - begun
        await asyncio.sleep(_REST)
        arrivals = there.gateways["strong"].arrivals
        findings.sent_again = arrivals.total() - len(arrivals)
        await there.judge(findings)
    return findings
