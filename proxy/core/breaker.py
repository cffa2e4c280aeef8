"""The circuit breaker, as a value with `now`: closed → open (refusing) → half-open → closed.

"Open" is meant electrically: an open breaker refuses. Declines and rejections are the gateway
working as it should and never reach here (gobreaker's `IsExcluded`); a result that belongs to an
earlier state is dropped by its generation.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from proxy.core.policy import BreakerPolicy


class BreakerState(IntEnum):
    """The values of `holdfast_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(slots=True)
class Breaker:
    """One gateway's breaker. Times are monotonic seconds; not shared between processes."""

    policy: BreakerPolicy
    state: BreakerState = BreakerState.CLOSED
    generation: int = 0
    _opened_at: float = 0.0
    _probe_out_since: float | None = None
    _calls: deque[tuple[float, bool]] = field(default_factory=deque)  # (when, failed)
    _failures: int = 0

    def allows(self, now: float) -> bool:
        """Whether a send may start now. In half-open one probe at a time may.

        A probe of which nothing is heard for as long as a rest takes counts as lost, else one lost
        report would refuse the gateway for ever.
        """
        if self.state is BreakerState.OPEN:
            if now - self._opened_at < self.policy.open_for:
                return False
            self._enter(BreakerState.HALF_OPEN)
        if self.state is BreakerState.HALF_OPEN:
            since = self._probe_out_since
            if since is not None and now - since < self.policy.open_for:
                return False
            self._probe_out_since = now
        return True

    def retry_after(self, now: float) -> float:
        """Seconds until a refused caller may find it closed again; 0 when it is not open."""
        if self.state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self.policy.open_for - (now - self._opened_at))

    def record(self, generation: int, now: float, *, failed: bool | None) -> None:
        """Count a result. `failed` None means it says nothing about the gateway's health."""
        if generation != self.generation:
            return
        if self.state is BreakerState.HALF_OPEN:
            self._probe_out_since = None
            if failed is not None:
                self._enter(BreakerState.OPEN if failed else BreakerState.CLOSED, now)
            return
        if failed is None:
            return
        self._calls.append((now, failed))
        self._failures += failed
        self._forget(now)
        calls = len(self._calls)
        tripped = self._failures >= calls * self.policy.failure_ratio
        if failed and calls >= self.policy.min_calls and tripped:
            self._enter(BreakerState.OPEN, now)

    def _forget(self, now: float) -> None:
        while self._calls and now - self._calls[0][0] > self.policy.window:
            _, failed = self._calls.popleft()
            self._failures -= failed

    def _enter(self, state: BreakerState, now: float = 0.0) -> None:
        self.state = state
        self.generation += 1
        self._opened_at = now
        self._probe_out_since = None
        self._calls.clear()
        self._failures = 0
