"""A slice of `./dev campaign model`, and proof that it has teeth."""

from __future__ import annotations

import pytest

from proxy.core import session
from proxy.core.profile import GatewayClass
from proxy.core.states import AttemptStatus
from tests.campaigns.model import ALL, ALONE, TWO, Scope, search

CLASSES = [
    GatewayClass.A_STRONG,
    GatewayClass.B_LOOKUP,
    GatewayClass.C_CANCEL_BY_KEY,
    GatewayClass.D_NONE,
]


def test_one_client_and_a_gateway_that_knows_no_keys() -> None:
    """Every sequence of events there is: no law is broken."""
    findings = search(GatewayClass.D_NONE, ALONE)
    assert findings.violations == []
    assert findings.complete
    assert findings.states > 20_000


@pytest.mark.parametrize("scope", [ALONE, TWO, ALL], ids=str)
@pytest.mark.parametrize("gateway_class", CLASSES)
def test_no_short_sequence_breaks_a_law(gateway_class: GatewayClass, scope: Scope) -> None:
    """Every sequence up to so many events, with one client and with two."""
    findings = search(gateway_class, scope, 15_000)
    assert findings.violations == []
    assert findings.depth >= 6


def test_a_broken_law_comes_with_the_way_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: what is learned later replaces what was known."""

    def overwrite(_known: AttemptStatus, learned: AttemptStatus) -> AttemptStatus:
        return learned

    monkeypatch.setattr(session, "join", overwrite)
    findings = search(GatewayClass.A_STRONG, ALONE)
    assert findings.trace == [
        "first client: begins",
        "first client: sent",
        "first client: executed: succeeded",
        "first client: looked up: succeeded",
        "first client: answer lost",
    ]
    assert [violation.name for violation in findings.violations] == ["I4"]
