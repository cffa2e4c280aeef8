"""What is kept long enough goes; what is unknown never does."""

from __future__ import annotations

import asyncio

import pytest

from proxy.background.janitor import Janitor
from proxy.ports import StoreUnavailable
from tests.support.lab import SUCCEEDED, Lab, pay

pytestmark = pytest.mark.looptime

DAY = 24 * 3600.0


def janitor(lab: Lab) -> Janitor:
    """With the default policy: answers for a day, keys for 35."""
    return Janitor(lab.store, lab.settings.session, lab.clock)


async def test_answers_go_after_a_day_and_keys_after_thirty_five(lab: Lab) -> None:
    """A key outlives every gateway's own window; an answer does not have to."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    await asyncio.sleep(DAY - 1)
    assert await janitor(lab).run_once() == (0, 0)
    await asyncio.sleep(2)
    assert await janitor(lab).run_once() == (1, 0)
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 409 answer-not-kept"
    await asyncio.sleep(35 * DAY)
    assert await janitor(lab).run_once() == (0, 1)


async def test_unknown_is_never_cleaned_up(lab: Lab) -> None:
    """Long after every key is forgotten it is still there for a person."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    await asyncio.sleep(40 * DAY)
    assert await janitor(lab).run_once() == (0, 0)
    assert (await lab.only_session()).listed


async def test_it_runs_every_five_minutes_whatever_happens(lab: Lab) -> None:
    """A store that fails once is tried again at the next round."""
    calls: list[float] = []

    async def purge(**_: int) -> tuple[int, int]:
        calls.append(lab.clock.monotonic())
        if len(calls) == 1:
            message = "not now"
            raise StoreUnavailable(message)
        return 0, 0

    lab.store.purge = purge  # type: ignore[method-assign]
    running = asyncio.ensure_future(janitor(lab).run())
    begun = lab.clock.monotonic()
    await asyncio.sleep(16 * 60)
    running.cancel()
    assert [round(at - begun) for at in calls] == [300, 600, 900]
