"""A slice of the kill campaign; `./dev campaign kill` is the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.kill import kill_campaign
from tests.campaigns.places import PLACES


@pytest.mark.parametrize("store", PLACES)
async def test_forty_kills(store: str, tmp_path: Path) -> None:
    """Killed at every point and at random, under load: nothing charged twice, nothing lost."""
    findings = await kill_campaign(tmp_path, kills=40, seed=7, store=store, points=True)
    print(findings.table())
    assert findings.clean, findings
    assert findings.kills.total() == 40
    # Without payments in flight at the kills this would prove nothing.
    assert findings.left_in_flight > 0
