"""Slices of the failover campaign and of its controls; `./dev campaign failover` is the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.failover import Control, failover_campaign
from tests.campaigns.pairs import PAIRS


@pytest.mark.parametrize("store", PAIRS)
async def test_a_standby_that_has_everything_takes_over(tmp_path: Path, store: str) -> None:
    """Three failovers under load: nothing charged twice, nothing lost, nobody left untold."""
    with PAIRS[store](synchronous=True) as pair:
        findings = await failover_campaign(tmp_path, pair, failovers=3, seed=1)
    print(findings.table())
    assert findings.clean, findings
    assert findings.failovers == 3


@pytest.mark.parametrize("store", PAIRS)
async def test_negative_control_a_standby_that_is_behind_loses(tmp_path: Path, store: str) -> None:
    """What was acknowledged is lost, that is noticed, and gateways that honour keys go on."""
    with PAIRS[store](synchronous=False) as pair:
        findings = await failover_campaign(
            tmp_path, pair, failovers=2, seed=1, control=Control.BEHIND
        )
    print(findings.table())
    assert findings.acknowledged_but_lost
    assert findings.noticed == findings.failovers
    assert findings.paid_meanwhile > 0
    assert not findings.charged_twice


async def test_negative_control_nobody_asks_what_is_missing(tmp_path: Path) -> None:
    """Then a second click at a gateway that recognises nothing is a second charge."""
    with PAIRS["postgresql"](synchronous=False) as pair:
        findings = await failover_campaign(
            tmp_path, pair, failovers=3, seed=1, control=Control.UNGUARDED
        )
    print(findings.table())
    assert findings.charged_twice
