"""The store's primary is gone and its standby takes over, again and again, under load.

Two Holdfasts share a store of two servers. The primary is killed, or stands still until the other
has taken over and then goes on beside it for a while; after that it comes back as the standby. The
controls leave the standby behind before the kill, so that what was acknowledged is gone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.campaigns.market import Market, Scene, market
from tests.campaigns.pairs import Pair
from tests.campaigns.shop import Findings, Shop

_AT_ONCE = 6  # at each gateway
_STALLED = 0.25  # of the primaries
_CLICKS = 5  # after each failover: so many of the orders that were told last before it
_BEHIND_SECONDS = 0.4
_STEP_SECONDS = 0.02
_NOTICED_STEPS = 200
_HEARD_SECONDS = 1.0  # a few heartbeats of every replica


class Control(StrEnum):
    """What is taken away."""

    BEHIND = "a standby that is behind"
    UNGUARDED = "and nobody asks for what is missing"


_ARRANGED = {
    None: (),
    Control.BEHIND: ("trusting",),
    Control.UNGUARDED: ("trusting", "unguarded"),
}


@dataclass(slots=True)
class Failovers(Findings):
    """What failing over came to. `noticed`: how often the store said that it had lost something."""

    failovers: int = 0
    stalled: int = 0
    noticed: int = 0
    # Paid with the gateway that honours keys while the store was known to have lost something.
    paid_meanwhile: int = 0
    away: list[float] = field(default_factory=list)  # seconds until somebody was told again

    def rows(self) -> list[tuple[str, object]]:
        """Names and figures."""
        return [
            ("failovers", self.failovers),
            ("of these with two primaries at a time", self.stalled),
            (
                "seconds until the next was told, median",
                f"{sorted(self.away)[len(self.away) // 2]:.2f}",
            ),
            ("seconds until the next was told, most", f"{max(self.away):.2f}"),
            ("failovers at which losses were noticed", self.noticed),
            ("paid meanwhile, keys honoured", self.paid_meanwhile),
            *Findings.rows(self),
        ]


async def failover_campaign(
    folder: Path,
    pair: Pair,
    *,
    failovers: int,
    seed: int,
    control: Control | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Failovers:
    """Fail over so often, at moments drawn from the seed, and report."""
    dice = random.Random(seed)
    async with market(folder, Scene([pair.url] * 2, 2, seed)) as there:
        campaign = _Campaign(pair, there)
        await there.start(*_ARRANGED[control])
        async with there.open(_AT_ONCE):
            for number in range(1, failovers + 1):
                await asyncio.sleep(dice.uniform(0.2, 0.6))
                await (campaign.lose(control) if control else campaign.fail_over(dice))
                if number % 20 == 0:
                    say(f"{number} failovers, {there.orders} orders")
        await there.judge(campaign.findings)
    return campaign.findings


class _Campaign:
    def __init__(self, pair: Pair, there: Market) -> None:
        self._pair = pair
        self._market = there
        self.findings = Failovers()

    async def fail_over(self, dice: random.Random) -> None:
        """Once, with a standby that has everything."""
        stalls = dice.random() < _STALLED
        lately = self._told_lately()
        begun = self._now()
        await asyncio.to_thread(self._pair.stall_primary if stalls else self._pair.kill_primary)
        await asyncio.to_thread(self._pair.promote)
        if stalls:
            await asyncio.to_thread(self._pair.wake_primary)
            await asyncio.sleep(dice.uniform(0.05, 0.5))
            self.findings.stalled += 1
        await self._restore(begun)
        await self._ask_again(lately)

    async def lose(self, control: Control) -> None:
        """Once, with a standby that has not everything."""
        await asyncio.to_thread(self._pair.leave_behind)
        await asyncio.sleep(_BEHIND_SECONDS)
        lately = self._told_lately()
        begun = self._now()
        await asyncio.to_thread(self._pair.kill_primary)
        await asyncio.to_thread(self._pair.promote)
        await self._restore(begun)
        if control is Control.UNGUARDED:
            await self._ask_again(lately)
            return
        for _ in range(_NOTICED_STEPS):
            if await asyncio.to_thread(self._pair.missing):
                self.findings.noticed += 1
                break
            await asyncio.sleep(_STEP_SECONDS)
        strong, keyless = self._market.shops["strong"], self._market.shops["keyless"]
        told = len(strong.told)
        await asyncio.sleep(_HEARD_SECONDS)
        await self._ask_again(lately)
        self.findings.paid_meanwhile += len(strong.told) - told
        # A person looks up at the gateway what was paid, and tells the shop.
        charged = self._market.gateways["keyless"].ledger.per_order()
        keyless.by_hand |= set(charged) - set(keyless.told)
        await asyncio.to_thread(self._pair.accept_loss)

    async def _restore(self, begun: float) -> None:
        """Come back with a standby, and wait until payments go on."""
        goes_on = asyncio.ensure_future(self._goes_on(begun))
        await asyncio.to_thread(self._pair.bury)
        await asyncio.to_thread(self._pair.rejoin)
        await goes_on
        self.findings.failovers += 1

    async def _goes_on(self, begun: float) -> None:
        # What is out at the gateway is told as soon as it is back, store or no store.
        told = self._market.orders + len(self._market.shops) * _AT_ONCE
        while self._market.orders <= told:  # noqa: ASYNC110 -- the shops do not know of us
            await asyncio.sleep(_STEP_SECONDS)
        self.findings.away.append(self._now() - begun)

    def _told_lately(self) -> list[tuple[Shop, str]]:
        shops = self._market.shops.values()
        paid = [[o for o, outcome in shop.told.items() if outcome == "paid"] for shop in shops]
        return [(s, o) for s, orders in zip(shops, paid, strict=True) for o in orders[-_CLICKS:]]

    async def _ask_again(self, lately: list[tuple[Shop, str]]) -> None:
        """Customers who click once more, although they were told that it is paid."""
        await asyncio.gather(*(shop.ask_again(order) for shop, order in lately))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
