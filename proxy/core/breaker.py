"""The circuit breaker, as a value with `now`: closed → open (refusing) → half-open → closed.

"Open" is meant electrically: an open breaker refuses. Declines and rejections are the gateway
working as it should and say nothing here (gobreaker's `IsExcluded`); a result that belongs to an
earlier state is dropped by its generation. Whether the gateway is back is found out with reads of
Holdfast's own (`background/prober.py`): no customer's charge is the one that tries.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from proxy.core.policy import BreakerPolicy
from proxy.core.wire import WireFacts

_SERVER_ERROR, _TOO_MANY_REQUESTS = 500, 429


class BreakerState(IntEnum):
    """The values of `holdfast_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Switch(StrEnum):
    """What a person may do with it."""

    OPEN = "open"  # and it stays so until a person says otherwise
    CLOSED = "closed"  # at once; from then on it is judged as ever
    AUTO = "auto"  # what was opened by hand is probed, and closes if the gateway is there


_CLOSED, _HALF_OPEN, _OPEN = BreakerState


@dataclass(slots=True)
class Breaker:
    """One breaker of a gateway. Times are monotonic seconds; not shared between processes."""

    policy: BreakerPolicy
    state: BreakerState = _CLOSED
    generation: int = 0
    by_hand: bool = False  # opened by a person, so only a person closes it
    why: str = ""  # it came to this state, for the log
    _opened_at: float = 0.0
    _in_a_row: int = 0  # failures while it is closed, successful probes while it is half-open
    # When they were reported, oldest first. Few are failures or slow: those are kept twice.
    _calls: deque[float] = field(default_factory=deque)
    _failures: deque[float] = field(default_factory=deque)
    _slow: deque[float] = field(default_factory=deque)

    def allows(self) -> bool:
        """Whether a payment may be sent now."""
        return self.state is _CLOSED

    def retry_after(self, now: float) -> float:
        """Seconds until a refused caller may find it closed again; 0 when it is not open."""
        if self.state is not _OPEN:
            return 0.0
        if self.by_hand:  # nobody knows
            return self.policy.open_for
        return max(0.0, self.policy.open_for - (now - self._opened_at))

    def record(
        self, generation: int, now: float, *, failed: bool | None, seconds: float = 0.0
    ) -> None:
        """Count a payment's send. `failed` None: it says nothing about the gateway's health."""
        if failed is None or generation != self.generation or self.state is not _CLOSED:
            return
        policy = self.policy
        slow = policy.slow_call is not None and seconds >= policy.slow_call
        self._in_a_row = self._in_a_row + 1 if failed else 0
        self._count(self._calls, now)
        if failed:
            self._count(self._failures, now)
        if slow:
            self._count(self._slow, now)
        # Asked of what has just gone wrong only: a success is good news.
        why = (self._failing() if failed else None) or (self._crawling() if slow else None)
        if why is not None:
            self._enter(_OPEN, now, why)

    def _count(self, times: deque[float], now: float) -> None:
        times.append(now)
        while now - times[0] > self.policy.window:  # ends at the latest with the one just added
            times.popleft()

    def _failing(self) -> str | None:
        policy, calls = self.policy, len(self._calls)
        if policy.consecutive is not None and self._in_a_row >= policy.consecutive:
            return "consecutive"
        enough = calls >= policy.min_calls
        tripped = len(self._failures) >= calls * policy.failure_ratio
        return "failure_ratio" if enough and tripped else None

    def _crawling(self) -> str | None:
        policy, calls = self.policy, len(self._calls)
        enough = calls >= policy.min_calls
        return "slow_ratio" if enough and len(self._slow) >= calls * policy.slow_ratio else None

    # --- probes -------------------------------------------------------------------------------

    def wants_probe(self, now: float) -> bool:
        """Whether the gateway should be asked now if it is there. Ends a rest that is over."""
        rested = now - self._opened_at >= self.policy.open_for
        if self.state is _OPEN and not self.by_hand and rested:
            self._enter(_HALF_OPEN, now, "open_for is over")
        return self.state is _HALF_OPEN

    def probed(self, generation: int, now: float, *, alive: bool) -> None:
        """Count a probe: enough good ones in a row close it, a bad one begins another rest."""
        if generation != self.generation or self.state is not _HALF_OPEN:
            return
        if not alive:
            self._enter(_OPEN, now, "a probe failed")
            return
        self._in_a_row += 1
        if self._in_a_row >= self.policy.probes:
            self._enter(_CLOSED, now, "probes succeeded")

    # --- people -------------------------------------------------------------------------------

    def switch(self, to: Switch, now: float, why: str) -> None:
        """Do what a person wants, where that changes anything."""
        if to is Switch.OPEN and not self.by_hand:
            self._enter(_OPEN, now, why)
            self.by_hand = True
        elif to is Switch.CLOSED and self.state is not _CLOSED:
            self._enter(_CLOSED, now, why)
        elif to is Switch.AUTO and self.by_hand:
            self._enter(_HALF_OPEN, now, why)

    def _enter(self, state: BreakerState, now: float, why: str) -> None:
        self.state, self.why = state, why
        self.generation += 1
        self.by_hand = False
        self._opened_at = now
        self._in_a_row = 0
        for times in (self._calls, self._failures, self._slow):
            times.clear()


def proves_alive(facts: WireFacts) -> bool:
    """Whether the gateway's answer to a probe says that it works: any complete one but an error of
    its own or a throttle. To be told that a credential is missing is to be answered.
    """
    status = facts.status
    if facts.reason is not None or status is None:
        return False
    return status < _SERVER_ERROR and status != _TOO_MANY_REQUESTS
