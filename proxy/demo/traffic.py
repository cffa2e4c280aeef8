"""The shop: pays orders at an address and notes what it was told. It never sees the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import aiohttp


class Told(StrEnum):
    """What the shop knows about an order."""

    PAID = "paid"
    DECLINED = "declined"
    FAILED = "failed"
    UNKNOWN = "unknown"  # told honestly that nobody knows yet


@dataclass(slots=True)
class Shop:
    """How a shop pays."""

    origin: str
    patience: float  # seconds for one request
    tries: int = 1  # by itself, without a key: what many shops do
    send_order: bool = False  # name the order to Holdfast
    order_prefix: str = "order"


@dataclass(slots=True)
class Takings:
    """What came of the orders."""

    told: dict[str, Told] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    sessions: dict[str, str] = field(default_factory=dict)  # order → Holdfast's session

    def count(self, told: Told) -> int:
        """How many orders were told this."""
        return sum(1 for value in self.told.values() if value is told)

    def percentile(self, share: float) -> float:
        """Seconds that `share` of the payments stayed below."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def pay_all(
    shop: Shop,
    orders: int,
    at_once: int,
    takings: Takings,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Pay so many orders, so many at once; `takings` fills up on the way."""
    places = asyncio.Semaphore(at_once)
    timeout = aiohttp.ClientTimeout(total=shop.patience, ceil_threshold=60)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
    ) as http:

        async def one(number: int) -> None:
            order = f"{shop.order_prefix}-{number}"
            async with places:
                begun = time.perf_counter()  # the shop's own watch, not Holdfast's
                takings.told[order] = await _pay(http, shop, order, takings)
                takings.seconds.append(time.perf_counter() - begun)
            progress()

        await asyncio.gather(*(one(number) for number in range(orders)))


async def _pay(http: aiohttp.ClientSession, shop: Shop, order: str, takings: Takings) -> Told:
    told = Told.FAILED
    for _ in range(shop.tries):
        told = await _try(http, shop, order, takings)
        if told is not Told.FAILED:
            break
    return told


async def _try(http: aiohttp.ClientSession, shop: Shop, order: str, takings: Takings) -> Told:
    data = {
        "amount": "1999",
        "currency": "eur",
        "confirm": "true",
        "payment_method": "pm_card_visa",
        "metadata[order_id]": order,
    }
    headers = {"Authorization": "Bearer sk_test_demo"}
    if shop.send_order:
        headers["X-Payment-Order-Id"] = order
    try:
        async with http.post(f"{shop.origin}/v1/payment_intents", data=data, headers=headers) as a:
            session = a.headers.get("X-Payment-Session-Id")
            if session is not None:
                takings.sessions[order] = session
            body = await a.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return Told.FAILED
    if a.status == 200 and body.get("status") == "succeeded":  # noqa: PLR2004 -- HTTP's own number
        return Told.PAID
    if a.status == 402:  # noqa: PLR2004 -- likewise
        return Told.DECLINED
    unknown = body.get("outcome") == "unknown" or "charge=unknown" in a.headers.get(
        "Proxy-Status", ""
    )
    return Told.UNKNOWN if unknown else Told.FAILED
