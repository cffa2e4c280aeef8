"""The retry budget: retries may only be a share of the traffic, so that they never become a storm.

A count of tries per request does not bound anything: when everything fails, three tries mean three
times the load on a gateway that is already down. A share of recent requests does.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.policy import BudgetPolicy


@dataclass(slots=True)
class RetryBudget:
    """A token bucket over `window` seconds: each request adds `ratio`, each retry takes 1.

    `min_per_second` refills with time, so that a quiet merchant can still retry. It starts full.
    Times are monotonic seconds.
    """

    policy: BudgetPolicy
    tokens: float
    _refilled_at: float
    _free: float  # up to here it refills with time
    _most: float

    @classmethod
    def full(cls, policy: BudgetPolicy, now: float) -> RetryBudget:
        """A budget nobody has drawn on yet."""
        free = policy.min_per_second * policy.window
        # Enough for a window of a busy gateway, so that a burst of failures can be answered; a
        # ratio alone would let the bucket grow for ever in quiet hours.
        most = max(policy.min_per_second, 1.0) * policy.window * 10
        return cls(policy, free, now, free, most)

    def under(self, policy: BudgetPolicy) -> RetryBudget:
        """A budget by another policy, with what is left of this one."""
        fresh = RetryBudget.full(policy, self._refilled_at)
        fresh.tokens = min(self.tokens, fresh._most)  # noqa: SLF001 -- its own kind
        return fresh

    def deposit(self, now: float) -> None:
        """Account for a first attempt."""
        self._refill(now)
        self.tokens = min(self._most, self.tokens + self.policy.ratio)

    def withdraw(self, now: float) -> bool:
        """Take one retry, or say that there is none left."""
        self._refill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def left(self, now: float) -> float:
        """How many retries would be granted now."""
        self._refill(now)
        return self.tokens

    def _refill(self, now: float) -> None:
        if self.tokens < self._free:
            gained = (now - self._refilled_at) * self.policy.min_per_second
            self.tokens = min(self._free, self.tokens + gained)
        self._refilled_at = now
