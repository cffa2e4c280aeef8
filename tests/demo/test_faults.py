"""The faults of the simulated gateway: seeded, and as many as asked for."""

from __future__ import annotations

from collections import Counter

from proxy.demo.faults import Fault, FaultPlan


def drawn(plan: FaultPlan, orders: int = 20_000) -> Counter[Fault]:
    """What the first request of so many orders meets."""
    return Counter(plan.fault(f"order-{number}", 1) for number in range(orders))


def test_the_same_seed_draws_the_same_faults() -> None:
    """Two runs can be compared order by order."""
    assert drawn(FaultPlan(seed=3), 500) == drawn(FaultPlan(seed=3), 500)
    assert drawn(FaultPlan(seed=3), 500) != drawn(FaultPlan(seed=4), 500)


def test_fifteen_percent_are_interrupted() -> None:
    """The share of interruptions is what it says, and every kind of the mix is drawn."""
    seen = drawn(FaultPlan(seed=1, interruptions=0.15, slow=0.0))
    interrupted = sum(count for fault, count in seen.items() if fault is not Fault.NONE)
    assert abs(interrupted / 20_000 - 0.15) < 0.01
    assert set(seen) == set(Fault) - {Fault.SLOW, Fault.FAILED_AFTER}


def test_a_repeat_draws_anew() -> None:
    """The second request of an order is not doomed by the first."""
    plan = FaultPlan(seed=1, interruptions=0.5)
    assert any(plan.fault("o", 1) is not plan.fault("o", n) for n in range(2, 20))


def test_nothing_goes_wrong_if_nothing_may() -> None:
    """At a share of zero every request is served."""
    assert drawn(FaultPlan(interruptions=0.0, slow=0.0), 1000) == {Fault.NONE: 1000}
