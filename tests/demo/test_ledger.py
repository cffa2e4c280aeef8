"""The simulated gateways' ledger: one line per charge, and a voided charge is none."""

from __future__ import annotations

from proxy.demo.ledger import Charge, Ledger


def test_each_charge_counts_for_its_order() -> None:
    """Two charges of one order are seen as two."""
    ledger = Ledger([Charge("o-1", "p-1", 5, "k"), Charge("o-1", "p-2", 5, None)])
    assert ledger.per_order() == {"o-1": 2}


def test_a_voided_charge_is_none() -> None:
    """It moves to the voided ones; the others stay."""
    ledger = Ledger([Charge("o-1", "p-1", 5, "k"), Charge("o-1", "p-2", 5, None)])
    ledger.void("p-1")
    assert [charge.payment for charge in ledger.charges] == ["p-2"]
    assert [charge.payment for charge in ledger.voided] == ["p-1"]
