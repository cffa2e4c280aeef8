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


_CLOSED, _HALF_OPEN, _OPEN = BreakerState


@dataclass(slots=True)
class Breaker:
    """One gateway's breaker. Times are monotonic seconds; not shared between processes."""

    policy: BreakerPolicy
    state: BreakerState = _CLOSED
    generation: int = 0
    _opened_at: float = 0.0
    _probe_out_since: float | None = None
    # When they were reported, oldest first. Failures are few, so only they are kept twice.
    _calls: deque[float] = field(default_factory=deque)
    _failures: deque[float] = field(default_factory=deque)

    def allows(self, now: float) -> bool:
        """Whether a send may start now. In half-open one probe at a time may.

        A probe of which nothing is heard for as long as a rest takes counts as lost, else one lost
        report would refuse the gateway for ever.
        """
        if self.state is _CLOSED:
            return True
        if self.state is _OPEN:
            if now - self._opened_at < self.policy.open_for:
                return False
            self._enter(_HALF_OPEN)
        since = self._probe_out_since
        if since is not None and now - since < self.policy.open_for:
            return False
        self._probe_out_since = now
        return True

    def retry_after(self, now: float) -> float:
        """Seconds until a refused caller may find it closed again; 0 when it is not open."""
        if self.state is not _OPEN:
            return 0.0
        return max(0.0, self.policy.open_for - (now - self._opened_at))

    def record(self, generation: int, now: float, *, failed: bool | None) -> None:
        """Count a result. `failed` None means it says nothing about the gateway's health."""
        if generation != self.generation:
            return
        if self.state is _HALF_OPEN:
            self._probe_out_since = None
            if failed is not None:
                self._enter(_OPEN if failed else _CLOSED, now)
            return
        if failed is None:
            return
        window = self.policy.window
        calls = self._calls
        calls.append(now)
        while now - calls[0] > window:  # ends at the latest with the one just added
            calls.popleft()
        if failed:
            self._judge(now)

    def _judge(self, now: float) -> None:
        """Open if too many of the last calls failed. Asked after a failure."""
        failures = self._failures
        failures.append(now)
        while now - failures[0] > self.policy.window:
            failures.popleft()
        calls = len(self._calls)
        tripped = len(failures) >= calls * self.policy.failure_ratio
        if calls >= self.policy.min_calls and tripped:
            self._enter(_OPEN, now)

    def _enter(self, state: BreakerState, now: float = 0.0) -> None:
        self.state = state
        self.generation += 1
        self._opened_at = now
        self._probe_out_since = None
        self._calls.clear()
        self._failures.clear()
