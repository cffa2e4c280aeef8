"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """The whole of a run: about three minutes."""

    proof_payments: int = 500
    connections: int = 64
    trials: int = 4
    rounds: int = 14
    warm_up_seconds: float = 0.1
    slice_seconds: float = 0.3
    rate: float = 1000.0
    runs: int = 3
    run_seconds: float = 5.0
    step_rounds: int = 15
    step_calls: int = 400
    writes: int = 2048
    warm_up_payments: int = 100
    open_payments: int = 2000
    settle_seconds: float = 0.5
    starts: int = 5
    store_slices: int = 3
    store_seconds: float = 2.0
    few: int = 10_000
    many: int = 1_000_000
    large_rounds: int = 10
    large_asks: int = 300
    large_alone_seconds: float = 4.0


# Only shows that everything runs; the figures mean nothing.
QUICK = Sizes(
    proof_payments=20,
    connections=4,
    trials=1,
    rounds=1,
    warm_up_seconds=0.05,
    slice_seconds=0.1,
    rate=100.0,
    runs=1,
    run_seconds=0.2,
    step_rounds=1,
    step_calls=2,
    writes=1,
    warm_up_payments=4,
    open_payments=20,
    settle_seconds=0.0,
    starts=1,
    store_slices=1,
    store_seconds=0.2,
    few=1000,
    many=10_000,
    large_rounds=1,
    large_asks=2,
    large_alone_seconds=0.2,
)
