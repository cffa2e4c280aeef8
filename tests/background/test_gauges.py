"""What a scrape reads off: states, whatever the store does. Replicas are in tests/test_app.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.background.gauges import Gauges
from proxy.core.session import Session
from proxy.ports import StoreUnavailable
from proxy.telemetry.metrics import Metrics
from tests.support.lab import POLICY, Lab, pay, settings_from

pytestmark = pytest.mark.looptime


def shown(metrics: Metrics) -> dict[str, float]:
    """The gauges by name, each summed over its labels."""
    found: dict[str, float] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def gauges_of(lab: Lab, metrics: Metrics) -> Gauges:
    """Those of a flow."""
    return Gauges(
        metrics=metrics,
        store=lab.store,
        walks=lab.walks,
        lanes=lab.lanes,
        spool=lab.spool,
        tasks=lab.tasks,
        clock=lab.clock,
        unready=lambda: lab.store.trouble,
    )


@pytest.mark.parametrize("away", ["says so", "hangs"])
async def test_a_scrape_answers_without_the_store(
    away: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was counted last stays, the rest is as it is; a second at most is waited."""
    lab, metrics = Lab(settings_from(POLICY, tmp_path)), Metrics()
    gauges = gauges_of(lab, metrics)
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1", target="/pay"), "plain")
    await gauges.refresh()
    assert shown(metrics)["holdfast_unknown_outcomes"] == 1
    assert shown(metrics)["holdfast_ready"] == 1

    async def listed() -> list[Session]:
        if away == "hangs":
            await asyncio.sleep(60)
        raise StoreUnavailable

    monkeypatch.setattr(lab.store, "listed", listed)
    monkeypatch.setattr(lab.store, "trouble", "away")
    begun = lab.clock.monotonic()
    await gauges.refresh()
    assert lab.clock.monotonic() - begun == (1.0 if away == "hangs" else 0.0)
    assert shown(metrics)["holdfast_unknown_outcomes"] == 1
    assert shown(metrics)["holdfast_ready"] == 0
    await lab.close()
