"""The retry storm: a gateway fails altogether for half a minute at 200 payments a second."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.core.reasons import Reason
from proxy.core.wire import Phase, WireFacts
from proxy.ports import Send
from tests.support.lab import POLICY, SUCCEEDED, Lab, pay, settings_from

pytestmark = pytest.mark.looptime

RATE = 200
DOWN, UP, END = 10.0, 40.0, 60.0
OPEN_FOR = 15.0
# Retries that were saved up go out in a burst; over less than this the ratio says little.
WINDOW = 5.0
WITHOUT = """\
  budget: {ratio: 1, min_per_second: 100000}
  breaker: {min_calls: 1000000}
"""


class Outage:
    """A gateway that loses everything it is sent between `DOWN` and `UP`, reads included."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []

    async def send(self, send: Send) -> WireFacts:
        """Count it, and answer or not."""
        now = asyncio.get_running_loop().time()
        await send.before_bytes()
        send.sent = True
        # What the outage left unknown is looked up after it, one at a time: that is no storm.
        if send.method == "POST" or now < UP:
            self.arrivals.append(now)
        await asyncio.sleep(0.02)
        if DOWN <= now < UP:
            return WireFacts(True, Phase.AWAITING_RESPONSE, Reason.CONNECTION_LOST)
        return WireFacts(True, Phase.ANSWERED, None, 200, "", (), SUCCEEDED)

    async def close(self) -> None:
        """Nothing to close."""


class Storm(NamedTuple):
    """What one came to."""

    worst: float  # the highest ratio of what was sent to what was offered, over any `WINDOW`
    peak: float  # the same over any second
    recovered: float  # seconds from the end of the outage until every payment succeeds again
    down: int  # what the gateway was sent while it was down


async def storm(tmp_path: Path, more: str = "") -> Storm:
    """A minute of payments around the outage."""
    lab, gateway = Lab(settings_from(POLICY + more, tmp_path)), Outage()
    for name, lane in lab.lanes.items():
        lab.lanes[name] = replace(lane, upstream=gateway)
    for work in (lab.prober, lab.reconciler):
        _ = lab.tasks.start(work.run(), "background")
    failed: list[float] = []

    async def one(number: int) -> None:
        begun = asyncio.get_running_loop().time()
        if (await lab.merchant_sends(pay(key=f"k-{number}"))).status != 200:
            failed.append(begun)

    async with asyncio.TaskGroup() as payments:
        for number in range(int(END * RATE)):
            _ = payments.create_task(one(number))
            await asyncio.sleep(1 / RATE)
    await lab.close()
    down = sum(DOWN <= at < UP for at in gateway.arrivals)
    return Storm(
        most_in(gateway.arrivals, WINDOW), most_in(gateway.arrivals, 1.0), max(failed) - UP, down
    )


def most_in(arrivals: list[float], window: float) -> float:
    """The most that was sent within any window, as a ratio to what is offered in one."""
    most, first = 0, 0
    for last, at in enumerate(arrivals):
        while arrivals[first] <= at - window:
            first += 1
        most = max(most, last + 1 - first)
    return most / (RATE * window)


async def test_a_gateway_that_fails_gets_no_storm(tmp_path: Path) -> None:
    """As shipped: never more than 1.25 times what is offered, and all is well a rest later."""
    found = await storm(tmp_path)
    print(found)
    assert found.worst <= 1.25
    assert found.recovered <= OPEN_FOR + 2.0


async def test_negative_control_without_budget_and_breaker(tmp_path: Path) -> None:
    """The same with both switched off: the storm that they keep away."""
    found = await storm(tmp_path, WITHOUT)
    print(found)
    assert found.worst > 1.25
