"""A slice of the partition campaign; `./dev campaign partition` is the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.apart import store_apart, why_not
from tests.campaigns.partition import partition_campaign


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
async def test_replicas_are_cut_off_from_their_store(tmp_path: Path) -> None:
    """Whoever is cut off sends nothing once its lease is over, and nothing is charged twice."""
    with store_apart(2) as apart:
        findings = await partition_campaign(tmp_path, apart, cuts=4, seed=1)
    print(findings.table())
    assert findings.clean, findings
    assert findings.sent_without_lease == 0
    assert findings.sent_by_others > 0
