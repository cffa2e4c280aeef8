"""The retry budget: retries may only be a share of the traffic, so that they never become a storm.

A count of tries per request does not bound anything: when everything fails, three tries mean three
times the load on a gateway that is already down. Only what the gateway answers earns retries, so
that they dry up where nothing is answered; and little is saved up, so that a good hour does not pay
for a minute of storm.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.policy import BudgetPolicy


@dataclass(slots=True)
class RetryBudget:
    """A token bucket: each answered payment adds `ratio`, each retry takes 1.

    `min_per_second` refills with time, so that a quiet merchant can still retry. It starts full,
    with a window's worth of that. Times are monotonic seconds.
    """

    policy: BudgetPolicy
    tokens: float
    _refilled_at: float

    @classmethod
    def full(cls, policy: BudgetPolicy, now: float) -> RetryBudget:
        """A budget nobody has drawn on yet."""
        return cls(policy, policy.min_per_second * policy.window, now)

    def use(self, policy: BudgetPolicy) -> None:
        """Go on by another policy, with what is left."""
        self.policy = policy
        self.tokens = min(self.tokens, self._most)

    @property
    def _most(self) -> float:
        # Without a free trickle something has to be saved all the same, or nothing is ever whole.
        return max(self.policy.min_per_second, 1.0) * self.policy.window

    def deposit(self) -> None:
        """Account for a payment that was answered."""
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
        free = self.policy.min_per_second * self.policy.window
        if self.tokens < free:
            gained = (now - self._refilled_at) * self.policy.min_per_second
            self.tokens = min(free, self.tokens + gained)
        self._refilled_at = now
