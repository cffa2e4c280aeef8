"""The retry budget: a share of the traffic, a trickle that is always free, and a ceiling."""

from __future__ import annotations

import pytest

from proxy.core.budget import RetryBudget
from proxy.core.policy import BudgetPolicy

POLICY = BudgetPolicy(ratio=0.25, min_per_second=2.0, window=10.0)


def drained(policy: BudgetPolicy = POLICY, now: float = 0.0) -> RetryBudget:
    """A budget that was just spent to the last retry."""
    budget = RetryBudget.full(policy, now)
    while budget.withdraw(now):
        pass
    return budget


def test_it_starts_full() -> None:
    """A window's worth of the free trickle, and not one more."""
    budget = RetryBudget.full(POLICY, 100.0)
    assert budget.left(100.0) == 20.0
    assert [budget.withdraw(100.0) for _ in range(21)] == [True] * 20 + [False]


def test_each_request_adds_its_share() -> None:
    """At a quarter, four requests pay for one retry."""
    budget = drained()
    for _ in range(3):
        budget.deposit(0.0)
        assert not budget.withdraw(0.0)
    budget.deposit(0.0)
    assert budget.withdraw(0.0)
    assert not budget.withdraw(0.0)


def test_a_quiet_merchant_can_still_retry() -> None:
    """Time alone refills the trickle, up to a window of it."""
    budget = drained()
    assert not budget.withdraw(0.4)
    assert budget.withdraw(0.5)
    assert budget.left(5.5) == pytest.approx(10.0)
    assert budget.left(1000.0) == pytest.approx(20.0)


def test_time_adds_nothing_to_what_requests_have_saved() -> None:
    """Above the trickle's own ceiling only requests fill it."""
    budget = RetryBudget.full(POLICY, 0.0)
    for _ in range(40):
        budget.deposit(0.0)
    assert budget.left(0.0) == 30.0
    assert budget.left(500.0) == 30.0


def test_it_does_not_grow_for_ever() -> None:
    """A day of good traffic does not pay for an hour of storm."""
    budget = RetryBudget.full(POLICY, 0.0)
    for _ in range(10_000):
        budget.deposit(0.0)
    assert budget.left(0.0) == 200.0


def test_without_a_free_trickle() -> None:
    """Then only requests pay, up to a ceiling of its own."""
    budget = drained(BudgetPolicy(ratio=0.5, min_per_second=0.0, window=10.0))
    assert not budget.withdraw(1000.0)
    for _ in range(1000):
        budget.deposit(1000.0)
    assert budget.left(1000.0) == 100.0


def test_a_storm_is_bounded() -> None:
    """A thousand failing requests, each wanting two repeats: a share of them gets one."""
    budget = RetryBudget.full(POLICY, 0.0)
    granted = 0
    for _ in range(1000):
        budget.deposit(0.0)
        granted += budget.withdraw(0.0) + budget.withdraw(0.0)
    assert granted == 270  # 1000 x 0.25, and the 20 it began with
