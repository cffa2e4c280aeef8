"""May it go now? Places, queue, breaker and budget."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.core import events as ev
from proxy.core.breaker import BreakerState, Switch
from proxy.core.budget import RetryBudget
from proxy.core.policy import BreakerPolicy, BudgetPolicy, ConcurrencyPolicy, Limits
from proxy.core.reasons import Reason, Suppressed
from proxy.core.results import AttemptResult, Repeat
from proxy.core.states import AttemptStatus
from proxy.flow.admission import Admission, Admissions
from tests.support.clocks import LoopClock
from tests.support.lab import POLICY, SUCCEEDED, Lab, Notes, header_of, pay, settings_from

pytestmark = pytest.mark.looptime

LOST = AttemptResult(AttemptStatus.UNKNOWN, Reason.CONNECTION_LOST, Repeat.BY_CLASS)
FINE = AttemptResult(AttemptStatus.SUCCEEDED)


def admission(
    places: int = 1, queue: int = 1, *, floor: float = 0.1, ratio: float = 0.0
) -> Admission:
    """A small one."""
    clock = LoopClock()
    budget = RetryBudget.full(BudgetPolicy(ratio, floor, 10.0), clock.monotonic())
    return Admission(limits(places, queue), budget, clock)


def limits(places: int, queue: int, *, open_for: float = 15.0) -> Limits:
    """Small ones."""
    return Limits(ConcurrencyPolicy(places, queue, 1.0), BreakerPolicy(0.5, 2, 30.0, open_for))


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
    """One retry in ten seconds is granted, the second is not."""
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
    assert doors.breaker.allows()
    doors.record(LOST, doors.breaker.generation)
    doors.record(LOST, doors.breaker.generation)
    assert doors.breaker.state is BreakerState.OPEN
    assert not doors.may_send_first()
    assert doors.may_retry() is Suppressed.BREAKER_OPEN
    assert doors.retry_after_ms() == 15_000


async def test_no_payment_is_let_in_to_try() -> None:
    """After its rest the breaker waits for probes; until they were answered all are refused."""
    doors = admission()
    doors.record(LOST, 0)
    doors.record(LOST, 0)
    await asyncio.sleep(15)
    assert not doors.may_send_first()
    assert doors.wants_probe()
    assert not doors.may_send_first()
    assert doors.may_retry() is Suppressed.BREAKER_OPEN
    for _ in range(3):
        doors.probed(doors.breaker.generation, alive=True)
    assert doors.may_send_first()


async def test_what_is_answered_earns_retries() -> None:
    """A payment and a decline do; a failure, a throttle and a lost answer do not."""
    doors = admission(floor=0.0, ratio=1.0)
    throttled = AttemptResult(AttemptStatus.REJECTED, Reason.RATE_LIMITED, Repeat.YES)
    for result in (LOST, throttled):
        doors.record(result, doors.breaker.generation)
        assert doors.may_retry() is Suppressed.BUDGET_SPENT
    for result in (FINE, AttemptResult(AttemptStatus.DECLINED)):
        doors.record(result, doors.breaker.generation)
        assert doors.may_retry() is None


async def test_what_answers_slowly_is_given_a_rest() -> None:
    """How long a send took is told to the breaker."""
    doors = admission()
    slow = BreakerPolicy(0.5, 2, 30.0, 15.0, slow_call=5.0)
    doors.use(Limits(ConcurrencyPolicy(1, 1, 1.0), slow))
    for seconds in (4.9, 4.9, 5.0, 5.0):
        assert doors.may_send_first()
        doors.record(FINE, doors.breaker.generation, seconds)
    assert not doors.may_send_first()


async def test_an_open_breaker_is_a_refusal_that_says_nothing_was_sent(tmp_path: Path) -> None:
    """The backend hears 503 with Retry-After; the same key goes through when it closes."""
    lab = Lab(settings_from(POLICY + "  breaker: {min_calls: 1}\n", tmp_path))
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-0"))
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 503 gateway-unavailable"
    assert header_of(answer, "Retry-After") == "15"
    assert b'"anythingSent":false' in answer.body
    _ = lab.tasks.start(lab.prober.run(), "prober")
    lab.gateway.will(*[lab.gateway.answers(401)] * 3, lab.gateway.answers(200, SUCCEEDED))
    await asyncio.sleep(15)
    assert (await lab.merchant_sends(pay(key="k-1"))).status == 503
    await asyncio.sleep(1)
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
    doors.use(limits(2, 2))
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
    doors.use(limits(1, 1))
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
    doors.use(limits(1, 1, open_for=60.0))
    doors.budget.use(BudgetPolicy(0.5, 0.0, 10.0))
    assert doors.breaker.state is BreakerState.OPEN
    await asyncio.sleep(20)
    assert not doors.wants_probe()
    assert not doors.budget.withdraw(doors.budget._refilled_at)
    await asyncio.sleep(40)
    assert doors.wants_probe()


# --- operations ----------------------------------------------------------------------------------


def admissions(notes: Notes, *operations: str) -> Admissions:
    """One place for all, and one for each of these operations."""
    small = {name: limits(1, 0) for name in (None, *operations)}
    return Admissions("stripe", small, BudgetPolicy(0.2, 1.0, 10.0), LoopClock(), notes)


async def test_an_operation_can_have_limits_of_its_own() -> None:
    """Refunds that fill their places and fail leave the charges alone, and the other way round."""
    gateway = admissions(Notes(), "refund")
    refunds, charges = gateway.of("refund"), gateway.of("charge")
    assert charges is gateway.of("capture")
    assert refunds.take()
    assert not refunds.take()
    assert charges.take()
    for _ in range(2):
        refunds.record(LOST, refunds.breaker.generation)
    assert (refunds.may_send_first(), charges.may_send_first()) == (False, True)


async def test_operations_share_the_retry_budget() -> None:
    """It is the gateway's load that it bounds."""
    gateway = admissions(Notes(), "refund")
    granted = [gateway.of("refund").may_retry() for _ in range(10)]
    assert granted == [None] * 10
    assert gateway.of("charge").may_retry() is Suppressed.BUDGET_SPENT


async def test_without_limits_of_their_own_operations_share_them() -> None:
    """Negative control: there, refunds that fail turn charges away."""
    gateway = admissions(Notes())
    for _ in range(2):
        gateway.of("refund").record(LOST, gateway.of("refund").breaker.generation)
    assert not gateway.of("charge").may_send_first()


async def test_every_move_of_a_breaker_is_told() -> None:
    """Whose, to what, and why."""
    notes = Notes()
    gateway = admissions(notes, "refund")
    refunds = gateway.of("refund")
    for _ in range(2):
        refunds.record(LOST, refunds.breaker.generation)
    refunds.record(LOST, refunds.breaker.generation)  # nothing new
    await asyncio.sleep(15)
    assert refunds.wants_probe()
    refunds.probed(refunds.breaker.generation, alive=False)
    gateway.of("charge").switch(Switch.OPEN, "their maintenance")
    assert notes.facts == [
        ev.BreakerMoved("stripe", "refund", "open", False, "failure_ratio"),
        ev.BreakerMoved("stripe", "refund", "half_open", False, "open_for is over"),
        ev.BreakerMoved("stripe", "refund", "open", False, "a probe failed"),
        ev.BreakerMoved("stripe", None, "open", True, "their maintenance"),
    ]


async def test_a_new_policy_keeps_what_each_operation_has_counted() -> None:
    """One that gets limits of its own meanwhile begins closed, unless a person has it all open."""
    gateway = admissions(Notes(), "refund")
    refunds = gateway.of("refund")
    for _ in range(2):
        refunds.record(LOST, refunds.breaker.generation)
    more = {name: limits(1, 0) for name in (None, "refund", "payout")}
    gateway.use(more, BudgetPolicy(0.2, 1.0, 10.0))
    assert gateway.of("refund") is refunds
    assert [a.may_send_first() for a in gateway] == [True, False, True]
    gateway.of("charge").switch(Switch.OPEN, "their maintenance")
    gateway.use({**more, "void": limits(1, 0)}, BudgetPolicy(0.2, 1.0, 10.0))
    assert not gateway.of("void").may_send_first()
    gateway.use({None: limits(1, 0)}, BudgetPolicy(0.2, 1.0, 10.0))
    assert len([*gateway]) == 1


# --- look-ups ------------------------------------------------------------------------------------


async def test_after_a_look_up_in_vain_the_next_one_waits(tmp_path: Path) -> None:
    """Two payments are unknown and the gateway is down: a round asks for one; back, for both."""
    lab = Lab(
        settings_from(POLICY.replace("retry: {", "retry: {automatic_attempts: 1, "), tmp_path)
    )
    lost, away = lab.gateway.loses_answer(), lab.gateway.refuses_connection()
    lab.gateway.will(lost, lost, away, *[lab.gateway.answers(404)] * 2)
    for key in ("k-1", "k-2"):
        await lab.merchant_sends(pay(key=key))
    await asyncio.sleep(1)
    await lab.reconciler.run_once()
    assert len(lab.gateway.sends) == 3
    await asyncio.sleep(10)
    await lab.reconciler.run_once()
    assert len(lab.gateway.sends) == 5
    await lab.close()
