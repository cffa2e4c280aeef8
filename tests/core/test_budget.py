"""The retry budget: a share of what is answered, a trickle that is always free, and a ceiling."""

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


def test_each_answer_adds_its_share() -> None:
    """At a quarter, four answered payments pay for one retry."""
    budget = drained()
    for _ in range(3):
        budget.deposit()
        assert not budget.withdraw(0.0)
    budget.deposit()
    assert budget.withdraw(0.0)
    assert not budget.withdraw(0.0)


def test_a_quiet_merchant_can_still_retry() -> None:
    """Time alone refills the trickle, up to a window of it."""
    budget = drained()
    assert not budget.withdraw(0.4)
    assert budget.withdraw(0.5)
    assert budget.left(5.5) == pytest.approx(10.0)
    assert budget.left(1000.0) == pytest.approx(20.0)


def test_little_is_saved_up() -> None:
    """A day of good traffic does not pay for an hour of storm: a window of the trickle is all."""
    budget = RetryBudget.full(POLICY, 0.0)
    for _ in range(10_000):
        budget.deposit()
    assert budget.left(0.0) == 20.0
    assert budget.left(500.0) == 20.0


def test_without_a_free_trickle() -> None:
    """Then only answers pay, up to a ceiling of its own."""
    budget = drained(BudgetPolicy(ratio=0.5, min_per_second=0.0, window=10.0))
    assert not budget.withdraw(1000.0)
    for _ in range(1000):
        budget.deposit()
    assert budget.left(1000.0) == 10.0
    assert budget.left(2000.0) == 10.0  # time takes nothing away


def test_where_nothing_is_answered_only_the_trickle_is_left() -> None:
    """A minute in which all of it fails: what was saved, and two a second."""
    budget = RetryBudget.full(POLICY, 0.0)
    granted = [sum(budget.withdraw(float(second)) for _ in range(400)) for second in range(60)]
    assert granted == [20, *[2] * 59]


def test_some_failures_are_all_repeated() -> None:
    """Every sixth payment fails once: at a quarter there is a retry for each, for ever."""
    budget = drained()
    for _ in range(1000):
        for _ in range(5):
            budget.deposit()
        assert budget.withdraw(0.0)


def test_another_policy_goes_on_with_what_is_left() -> None:
    """A lower ceiling takes what is above it; a higher one gives nothing away."""
    budget = RetryBudget.full(POLICY, 0.0)
    budget.use(BudgetPolicy(ratio=0.25, min_per_second=1.0, window=10.0))
    assert budget.left(0.0) == 10.0
    budget.use(POLICY)
    assert budget.left(0.0) == 10.0
