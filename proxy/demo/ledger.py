"""What a simulated gateway really charged and gave back. The judge in every test of money."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Charge:
    """One line of the ledger."""

    order: str
    payment: str
    amount: int
    key: str | None

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "order": self.order,
            "payment": self.payment,
            "amount": self.amount,
            "key": self.key,
        }


@dataclass(slots=True)
class Ledger:
    """Everything that moved money."""

    charges: list[Charge] = field(default_factory=list)
    voided: list[Charge] = field(default_factory=list)
    refunds: list[Charge] = field(default_factory=list)

    def per_order(self) -> Counter[str]:
        """How often each order was charged."""
        return Counter(charge.order for charge in self.charges)

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "charges": [charge.shown() for charge in self.charges],
            "voided": [charge.shown() for charge in self.voided],
            "refunds": [refund.shown() for refund in self.refunds],
        }

    def void(self, payment: str) -> None:
        """What was charged for a payment is no charge any more."""
        self.voided += [charge for charge in self.charges if charge.payment == payment]
        self.charges = [charge for charge in self.charges if charge.payment != payment]
