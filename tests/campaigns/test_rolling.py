"""A slice of the rolling updates; `./dev campaign rolling` is the whole of it."""

from __future__ import annotations

from pathlib import Path

from tests.campaigns.rolling import rolling_campaign


async def test_a_rolling_update(tmp_path: Path) -> None:
    """Four replicas give way to another version under load: every order is charged once."""
    findings = await rolling_campaign(tmp_path, updates=1, seed=3)
    print(findings.table())
    assert findings.clean, findings
    assert findings.replaced == 4
    # Nobody's process was taken for gone: each finished what it had.
    assert findings.left_in_flight == 0
