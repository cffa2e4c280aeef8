"""What goes wrong at the simulated gateway, decided by a seed: the same orders meet the same
faults.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """One thing that can go wrong with one request."""

    NONE = "none"
    SLOW = "slow"
    HANG_BEFORE = "hang before charging"
    HANG_AFTER = "hang after charging"
    RESET_BEFORE = "reset before charging"
    RESET_AFTER = "reset after charging"
    TRUNCATED = "answer cut after charging"
    FAILED_AFTER = "500 after charging"
    UNAVAILABLE = "503"
    UNAVAILABLE_LATER = "503 with Retry-After"
    THROTTLED = "429"


# Shares of all interruptions, in the mix that the comparison with other proxies was made with. A
# 500 after charging is not in it.
_MIX = (
    (Fault.HANG_BEFORE, 25),
    (Fault.HANG_AFTER, 25),
    (Fault.RESET_BEFORE, 25),
    (Fault.RESET_AFTER, 15),
    (Fault.TRUNCATED, 10),
    (Fault.UNAVAILABLE, 20),
    (Fault.UNAVAILABLE_LATER, 15),
    (Fault.THROTTLED, 15),
)
_TOTAL = sum(weight for _, weight in _MIX)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """`interruptions` is the share of requests that are interrupted, `slow` that
    of slow answers.
    """

    seed: int = 1
    interruptions: float = 0.15
    slow: float = 0.02

    def fault(self, order: str, arrival: int) -> Fault:
        """What happens to the `arrival`-th request (from 1) of an order."""
        text = f"{self.seed}/{order}/{arrival}".encode()
        digest = hashlib.sha256(text).digest()
        # Two independent uniform numbers from one hash.
        chance = int.from_bytes(digest[:8], "big") / 2**64
        which = int.from_bytes(digest[8:16], "big") / 2**64 * _TOTAL
        if chance >= self.interruptions:
            return Fault.SLOW if chance < self.interruptions + self.slow else Fault.NONE
        for fault, weight in _MIX:
            if which < weight:
                return fault
            which -= weight
        return Fault.NONE
