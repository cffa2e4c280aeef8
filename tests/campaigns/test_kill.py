"""A slice of the kill campaign; `./dev campaign kill` is the whole of it."""

from __future__ import annotations

from pathlib import Path

from tests.campaigns.kill import kill_campaign


async def test_fifty_kills(tmp_path: Path) -> None:
    """Fifty kill -9 under load: nothing charged twice, nothing lost, everything told or listed."""
    findings = await kill_campaign(tmp_path, kills=50, seed=7)
    print(findings.table())
    assert findings.clean, findings
    assert findings.kills == 50
    # Without payments in flight at the kills this would prove nothing.
    assert findings.left_in_flight > 0
