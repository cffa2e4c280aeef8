"""May it go now? Places, queue, breaker and budget."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.core.breaker import BreakerState
from proxy.core.policy import BreakerPolicy, BudgetPolicy, ConcurrencyPolicy
from proxy.core.reasons import Reason, Suppressed
from proxy.core.results import AttemptResult, Repeat
from proxy.core.states import AttemptStatus
from proxy.flow.admission import Admission
from tests.support.clocks import LoopClock
from tests.support.lab import POLICY, SUCCEEDED, Lab, header_of, pay, settings_from

pytestmark = pytest.mark.looptime

LOST = AttemptResult(AttemptStatus.UNKNOWN, Reason.CONNECTION_LOST, Repeat.BY_CLASS)
FINE = AttemptResult(AttemptStatus.SUCCEEDED)


def admission(
    places: int = 1, queue: int = 1, *, floor: float = 0.1, ratio: float = 0.0
) -> Admission:
    """A small one."""
    return Admission(
        ConcurrencyPolicy(places, queue, 1.0),
        BreakerPolicy(0.5, 2, 30.0, 15.0),
        BudgetPolicy(ratio, floor, 10.0),
        LoopClock(),
    )


async def test_a_place_is_handed_on() -> None:
    """The next in the queue gets the place of the one who leaves."""
    doors = admission()
    assert await doors.enter() is None
    waiting = asyncio.ensure_future(doors.enter())
    await asyncio.sleep(0.5)
    assert not waiting.done()
    doors.leave()
    assert await waiting is None


async def test_a_full_queue_refuses_at_once() -> None:
    """One place, one waiting: the third is told immediately."""
    doors = admission()
    await doors.enter()
    waiting = asyncio.ensure_future(doors.enter())
    await asyncio.sleep(0)
    begun = asyncio.get_running_loop().time()
    assert await doors.enter() is Reason.QUEUE_FULL
    assert asyncio.get_running_loop().time() == begun
    assert await waiting is Reason.QUEUE_TIMEOUT


async def test_a_place_given_to_one_who_left_is_not_lost() -> None:
    """Whoever gave up waiting does not take a place with him."""
    doors = admission(queue=2)
    assert await doors.enter() is None
    assert await doors.enter() is Reason.QUEUE_TIMEOUT
    doors.leave()
    assert await doors.enter() is None


async def test_the_budget_runs_out() -> None:
    """One retry in ten seconds is granted, the second is not, and the probe is given back."""
    doors = admission()
    assert doors.may_retry() is None
    assert doors.may_retry() is Suppressed.BUDGET_SPENT
    assert doors.may_retry_read() is Suppressed.BUDGET_SPENT
    await asyncio.sleep(10)
    assert doors.may_retry_read() is None


async def test_the_breaker_opens_on_the_gateways_faults_only() -> None:
    """Declines, throttles and our own stops say nothing against the gateway."""
    doors = admission()
    for result in (
        AttemptResult(AttemptStatus.DECLINED),
        AttemptResult(AttemptStatus.REJECTED, Reason.RATE_LIMITED, Repeat.YES),
        AttemptResult(AttemptStatus.UNKNOWN, Reason.IN_PROGRESS, Repeat.BY_CLASS),
        AttemptResult(AttemptStatus.UNKNOWN, Reason.SHUTDOWN, Repeat.BY_CLASS),
        AttemptResult(AttemptStatus.NOT_SENT, Reason.STORE_UNAVAILABLE, Repeat.YES),
    ):
        doors.record(result, doors.breaker.generation)
        doors.record(result, doors.breaker.generation)
    assert doors.breaker.allows(0.0)
    doors.record(LOST, doors.breaker.generation)
    doors.record(LOST, doors.breaker.generation)
    assert doors.breaker.state is BreakerState.OPEN
    assert not doors.may_send_first()
    assert doors.may_retry() is Suppressed.BREAKER_OPEN
    assert doors.retry_after_ms() == 15_000


async def test_a_probe_closes_the_breaker() -> None:
    """After its rest one payment may try; its success lets the others in."""
    doors = admission()
    doors.record(LOST, 0)
    doors.record(LOST, 0)
    await asyncio.sleep(15)
    assert doors.may_send_first()
    assert not doors.may_send_first()
    doors.record(FINE, doors.breaker.generation)
    assert doors.may_send_first()


async def test_an_open_breaker_is_a_refusal_that_says_nothing_was_sent(tmp_path: Path) -> None:
    """The backend hears 503 with Retry-After; the same key goes through when it closes."""
    lab = Lab(settings_from(POLICY + "  breaker: {min_calls: 1}\n", tmp_path))
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-0"))
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 503 gateway-unavailable"
    assert header_of(answer, "Retry-After") == "15"
    assert b'"anythingSent":false' in answer.body
    await asyncio.sleep(15)
    assert (await lab.merchant_sends(pay(key="k-1"))).status == 200
    await lab.close()


async def test_too_many_at_once_are_told_so(tmp_path: Path) -> None:
    """Beyond places and queue: 503 overloaded, recorded, nothing sent, safe to repeat."""
    text = POLICY + "  concurrency: {max_in_flight: 1, max_queue: 0}\n"
    lab = Lab(settings_from(text, tmp_path))
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    first = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    answer = await lab.merchant_sends(pay(key="k-2"))
    assert lab.transcript[-1] == "answer 503 overloaded"
    assert b'"safeToRepeat":true' in answer.body
    session = await lab.session(answer)
    assert [stop.reason for stop in session.interruptions] == [Reason.QUEUE_FULL]
    assert (await first).status == 200
    await lab.close()


async def test_a_place_that_comes_as_the_time_is_up_is_taken() -> None:
    """Given in the very turn in which the wait ends: else it would be lost for ever."""
    doors = admission()
    await doors.enter()
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(doors.enter())
    await asyncio.sleep(0)
    loop.call_at(loop.time() + 1.0, doors.leave)  # before the timer of the one who waits
    await asyncio.sleep(2)
    if waiting.result() is None:
        doors.leave()
    assert await doors.enter() is None


# --- another policy ------------------------------------------------------------------------------


async def test_more_places_are_given_at_once() -> None:
    """Who waits in the queue goes as soon as there is room for more."""
    doors = admission(places=1, queue=2)
    await doors.enter()
    waiting = [asyncio.ensure_future(doors.enter()) for _ in range(2)]
    await asyncio.sleep(0.1)
    doors.use(ConcurrencyPolicy(2, 2, 1.0), doors.breaker.policy, doors.budget.policy)
    await asyncio.sleep(0)
    assert [place.done() for place in waiting] == [True, False]
    doors.leave()
    assert await asyncio.gather(*waiting) == [None, None]


async def test_fewer_places_are_reached_by_and_by() -> None:
    """Nobody is sent away; nobody follows until there are as few as there may be."""
    doors = admission(places=2, queue=1)
    for _ in range(2):
        await doors.enter()
    waiting = asyncio.ensure_future(doors.enter())
    await asyncio.sleep(0.1)
    doors.use(ConcurrencyPolicy(1, 1, 1.0), doors.breaker.policy, doors.budget.policy)
    doors.leave()
    await asyncio.sleep(0.1)
    assert not waiting.done()
    doors.leave()
    assert await waiting is None
    assert not doors.take()


async def test_what_was_counted_goes_on_under_another_policy() -> None:
    """An open breaker stays open, for as long as the new policy says, and a spent budget spent."""
    doors = admission()
    generation = doors.breaker.generation
    for _ in range(2):
        doors.record(LOST, generation)
    while doors.budget.withdraw(doors.budget._refilled_at):
        pass
    doors.use(
        ConcurrencyPolicy(1, 1, 1.0),
        BreakerPolicy(0.5, 2, 30.0, 60.0),
        BudgetPolicy(0.5, 0.0, 10.0),
    )
    assert doors.breaker.state is BreakerState.OPEN
    await asyncio.sleep(20)
    assert not doors.may_send_first()
    assert not doors.budget.withdraw(doors.budget._refilled_at)
