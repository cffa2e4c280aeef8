"""A slice of the kill campaign; `./dev campaign kill` is the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.kill import kill_campaign, named_points
from tests.campaigns.places import PLACES


@pytest.mark.parametrize("store", PLACES)
async def test_a_kill_at_every_point(store: str, tmp_path: Path) -> None:
    """Killed at every point and at random, under load: nothing charged twice, nothing lost."""
    points = named_points(store)
    kills = 2 * len(points)
    findings = await kill_campaign(tmp_path, kills=kills, seed=7, store=store, points=True)
    print(findings.table())
    assert findings.clean, findings
    assert findings.kills.total() == kills
    # Nobody may come by at some in time: nothing to take over, no payment that waits. How many
    # these are is the machine's affair; `test_crash_points.py` is at those on the way of a payment.
    assert len({*points} & {*findings.kills}) > len(points) / 2
    # Without payments in flight at the kills this would prove nothing.
    assert findings.left_in_flight > 0
