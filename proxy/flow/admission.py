"""May it go now? Concurrency and breaker of one gateway (or of one operation of it), and its retry
budget.

Two doors: once per payment (a place among those in flight) and before every send (breaker; from the
second on also the budget). Each verdict is made without an await in the middle; only waiting for a
place waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from proxy.core import events as ev
from proxy.core.breaker import Breaker, Switch, proves_alive
from proxy.core.budget import RetryBudget
from proxy.core.policy import BudgetPolicy, Limits
from proxy.core.reasons import Reason, Suppressed
from proxy.core.results import AttemptResult
from proxy.core.states import AttemptStatus
from proxy.core.wire import WireFacts
from proxy.ports import Clock, Recorder

# What says that the gateway is in trouble; a decline, a rejection or a throttle says it works.
_FAILURES = frozenset({AttemptStatus.UNKNOWN, AttemptStatus.NOT_SENT})
# Nothing of the gateway's doing: we stopped ourselves, or it is still at work.
_NOT_THE_GATEWAYS = frozenset(
    {Reason.IN_PROGRESS, Reason.NOT_ALLOWED, Reason.STORE_UNAVAILABLE, Reason.SHUTDOWN}
)
_SUCCESSES = frozenset({AttemptStatus.SUCCEEDED, AttemptStatus.ACCEPTED})
_AFTER_A_FAILED_LOOK_UP = 1.0


class Admission:
    """The doors of a gateway, or of one operation there. Per process; not shared between replicas.

    `moved` hears of every new state of the breaker.
    """

    def __init__(
        self,
        limits: Limits,
        budget: RetryBudget,
        clock: Clock,
        moved: Callable[[Breaker], None] = lambda _: None,
    ) -> None:
        self._concurrency = limits.concurrency
        self._clock = clock
        self._moved = moved
        self.breaker = Breaker(limits.breaker)
        self.budget = budget
        self._in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def use(self, limits: Limits) -> None:
        """Go on by another policy, with what was counted so far and who waits."""
        self._concurrency, self.breaker.policy = limits.concurrency, limits.breaker
        while self._queue and self._in_flight < limits.concurrency.max_in_flight:
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
        """The breaker's word on a first attempt."""
        return self.breaker.allows()

    def may_retry(self) -> Suppressed | None:
        """Why a repeat may not be made, or None. Asked before the backoff, not after it."""
        return self.may_retry_read() if self.breaker.allows() else Suppressed.BREAKER_OPEN

    def may_retry_read(self) -> Suppressed | None:
        """The same for requests that move no money: they share the budget, not the breaker."""
        enough = self.budget.withdraw(self._clock.monotonic())
        return None if enough else Suppressed.BUDGET_SPENT

    def record(self, result: AttemptResult, generation: int, seconds: float = 0.0) -> None:
        """Tell breaker and budget how a send ended, and how long it took. `generation` is the
        breaker's when it was allowed.
        """
        failed: bool | None = None
        if result.status in _SUCCESSES:
            failed = False
        elif result.status in _FAILURES and result.reason not in _NOT_THE_GATEWAYS:
            failed = True
        if result.reason is None:
            self.budget.deposit()
        breaker, before = self.breaker, self.breaker.generation
        breaker.record(generation, self._clock.monotonic(), failed=failed, seconds=seconds)
        self._tell(before)

    def retry_after_ms(self) -> int:
        """When a refused caller may try again."""
        rest = self.breaker.retry_after(self._clock.monotonic())
        return int(max(rest, self._concurrency.queue_timeout) * 1000)

    # --- the breaker, by probes and by hand ---------------------------------------------------

    def wants_probe(self) -> bool:
        """Whether the gateway should be asked now if it is there."""
        before = self.breaker.generation
        wanted = self.breaker.wants_probe(self._clock.monotonic())
        self._tell(before)
        return wanted

    def probed(self, generation: int, *, alive: bool) -> None:
        """Tell the breaker what came of a probe that was begun in that generation of it."""
        before = self.breaker.generation
        self.breaker.probed(generation, self._clock.monotonic(), alive=alive)
        self._tell(before)

    def switch(self, to: Switch, why: str) -> None:
        """Open or close the breaker by hand."""
        before = self.breaker.generation
        self.breaker.switch(to, self._clock.monotonic(), why)
        self._tell(before)

    def _tell(self, before: int) -> None:
        if self.breaker.generation != before:
            self._moved(self.breaker)


class Admissions:
    """One gateway's: one for everything, and one for each operation that has limits of its own.
    They share the retry budget.

    Look-ups go past them, for what they settle is money. But after one that the gateway failed the
    background waits a while with the next, whoever's that is: thousands may be due.
    """

    def __init__(
        self,
        gateway: str,
        limits: Mapping[str | None, Limits],
        budget: BudgetPolicy,
        clock: Clock,
        recorder: Recorder,
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._recorder = recorder
        self.budget = RetryBudget.full(budget, clock.monotonic())
        self._by_operation = {name: self._new(name, limits[name]) for name in limits}
        self._look_up_at = 0.0

    def __iter__(self) -> Iterator[Admission]:
        return iter(self._by_operation.values())

    def items(self) -> Iterable[tuple[str | None, Admission]]:
        """Each with the operation it is for; None: all that have none of their own."""
        return self._by_operation.items()

    def of(self, operation: str) -> Admission:
        """The doors an operation goes through."""
        found = self._by_operation.get(operation)
        return self._by_operation[None] if found is None else found

    def use(self, limits: Mapping[str | None, Limits], budget: BudgetPolicy) -> None:
        """Go on by another policy, with what was counted so far and who waits."""
        self.budget.use(budget)
        before, self._by_operation = self._by_operation, {}
        for name in limits:
            if (admission := before.get(name)) is not None:
                admission.use(limits[name])
            else:
                admission = self._new(name, limits[name])
                whole = before[None].breaker
                if whole.by_hand:
                    admission.switch(Switch.OPEN, whole.why)
            self._by_operation[name] = admission

    def may_look_up(self) -> bool:
        """Whether the background may ask what became of a payment."""
        return self._clock.monotonic() >= self._look_up_at

    def looked_up(self, facts: WireFacts) -> None:
        """Take notice of how a look-up was answered."""
        if not proves_alive(facts):
            self._look_up_at = self._clock.monotonic() + _AFTER_A_FAILED_LOOK_UP

    def _new(self, operation: str | None, limits: Limits) -> Admission:
        def moved(breaker: Breaker) -> None:
            state = breaker.state.name.lower()
            told = ev.BreakerMoved(self._gateway, operation, state, breaker.by_hand, breaker.why)
            self._recorder.note(told)

        return Admission(limits, self.budget, self._clock, moved)
