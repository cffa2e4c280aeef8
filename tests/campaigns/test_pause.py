"""A slice of the pause campaign; `./dev campaign pause` is the whole of it."""

from __future__ import annotations

from pathlib import Path

from tests.campaigns.pause import CONTROL, pause_campaign


async def test_sixteen_pauses(tmp_path: Path) -> None:
    """Paused past the lease: others take over, nothing is charged twice, what is known is told."""
    findings = await pause_campaign(tmp_path, pauses=16, seed=5)
    print(findings.table())
    assert findings.clean, findings
    assert findings.pauses == 16
    # Without payments that were taken over this would prove nothing.
    assert findings.left_in_flight > 0


async def test_negative_control_a_take_over_that_sends_again(tmp_path: Path) -> None:
    """The same pauses, and what is unknown is sent again: charged twice, and it is noticed."""
    findings = await pause_campaign(tmp_path, pauses=16, seed=5, control=CONTROL)
    print(findings.table())
    assert findings.charged_twice
    assert not findings.clean
