"""May it go now? Concurrency, breaker and retry budget of one gateway.

Two doors: once per payment (a place among those in flight) and before every send (breaker; from the
second on also the budget). Each verdict is made without an await in the middle; only waiting for a
place waits.
"""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.core.breaker import Breaker
from proxy.core.budget import RetryBudget
from proxy.core.policy import BreakerPolicy, BudgetPolicy, ConcurrencyPolicy
from proxy.core.reasons import Reason, Suppressed
from proxy.core.results import AttemptResult
from proxy.core.states import AttemptStatus
from proxy.ports import Clock

# What says that the gateway is in trouble; a decline, a rejection or a throttle says it works.
_FAILURES = frozenset({AttemptStatus.UNKNOWN, AttemptStatus.NOT_SENT})
# Nothing of the gateway's doing: we stopped ourselves, or it is still at work.
_NOT_THE_GATEWAYS = frozenset(
    {Reason.IN_PROGRESS, Reason.NOT_ALLOWED, Reason.STORE_UNAVAILABLE, Reason.SHUTDOWN}
)
_SUCCESSES = frozenset({AttemptStatus.SUCCEEDED, AttemptStatus.ACCEPTED})


class Admission:
    """One gateway's doors. Per process; not shared between replicas."""

    def __init__(
        self,
        concurrency: ConcurrencyPolicy,
        breaker: BreakerPolicy,
        budget: BudgetPolicy,
        clock: Clock,
    ) -> None:
        self._concurrency = concurrency
        self._clock = clock
        self.breaker = Breaker(breaker)
        self.budget = RetryBudget.full(budget, clock.monotonic())
        self._in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def use(
        self, concurrency: ConcurrencyPolicy, breaker: BreakerPolicy, budget: BudgetPolicy
    ) -> None:
        """Go on by another policy, with what was counted so far and who waits."""
        self._concurrency, self.breaker.policy = concurrency, breaker
        self.budget = self.budget.under(budget)
        while self._queue and self._in_flight < concurrency.max_in_flight:
            self._in_flight += 1
            self.leave()

    def take(self) -> bool:
        """Whether a place was free, which is then taken."""
        if self._in_flight >= self._concurrency.max_in_flight:
            return False
        self._in_flight += 1
        return True

    async def enter(self) -> Reason | None:
        """Wait for a place; why there is none, or None for one that `leave` gives back."""
        if self.take():
            return None
        if len(self._queue) >= self._concurrency.max_queue:
            return Reason.QUEUE_FULL
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(self._concurrency.queue_timeout):
                await place
        except TimeoutError:
            if place.done() and not place.cancelled():  # given in the very turn the time was up
                return None
            return Reason.QUEUE_TIMEOUT
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise
        finally:
            if place in self._queue:
                self._queue.remove(place)
        return None

    def leave(self) -> None:
        """Hand the place to the next in the queue, or free it."""
        while self._queue and self._in_flight <= self._concurrency.max_in_flight:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._in_flight -= 1

    def may_send_first(self) -> bool:
        """The breaker's word on a first attempt, which also feeds the retry budget."""
        now = self._clock.monotonic()
        if not self.breaker.allows(now):
            return False
        self.budget.deposit(now)
        return True

    def may_retry(self) -> Suppressed | None:
        """Why a repeat may not be made, or None. Asked before the backoff, not after it."""
        now = self._clock.monotonic()
        if not self.breaker.allows(now):
            return Suppressed.BREAKER_OPEN
        if not self.budget.withdraw(now):
            self.breaker.record(self.breaker.generation, now, failed=None)  # give the probe back
            return Suppressed.BUDGET_SPENT
        return None

    def may_retry_read(self) -> Suppressed | None:
        """The same for requests that move no money: they share the budget, not the breaker."""
        enough = self.budget.withdraw(self._clock.monotonic())
        return None if enough else Suppressed.BUDGET_SPENT

    def record(self, result: AttemptResult, generation: int) -> None:
        """Tell the breaker how a send ended. `generation` is the breaker's when it was allowed."""
        failed: bool | None = None
        if result.status in _SUCCESSES:
            failed = False
        elif result.status in _FAILURES and result.reason not in _NOT_THE_GATEWAYS:
            failed = True
        self.breaker.record(generation, self._clock.monotonic(), failed=failed)

    def retry_after_ms(self) -> int:
        """When a refused caller may try again."""
        rest = self.breaker.retry_after(self._clock.monotonic())
        return int(max(rest, self._concurrency.queue_timeout) * 1000)
