"""Resident memory at rest, and what each open payment adds: its client waits, the gateway hangs."""

from __future__ import annotations

import asyncio
import time

from tests.bench.load import Line, WrongAnswers, counted, open_lines
from tests.bench.report import Report, Table, verdict
from tests.bench.sizes import Sizes
from tests.bench.targets import Target, Targets

GOAL_AT_REST_MB, GOAL_OPEN_MB = 70.0, 280.0
_PATIENCE_SECONDS = 30.0
_MANY = """\
defaults:
  concurrency: {max_in_flight: 100000}
  timeouts: {attempt: 120s, total: 120s}
"""


async def memory(targets: Targets, sizes: Sizes) -> Report:
    """One after the other, so that both have the machine to themselves."""
    stub = targets.stub(hang=True)
    figures = {}
    table = Table(("MB", "at rest", "per 10,000 open payments"))
    for name in ("bare", "holdfast"):
        holdfast = name == "holdfast"
        target = targets.holdfast(stub.port, _MANY) if holdfast else targets.bare(stub.port)
        rest, each = await _measure(target, stub, sizes)
        targets.end(target)
        figures[name] = {"at_rest_mb": rest, "per_10000_open_mb": each}
        table.rows.append((name, f"{rest:.0f}", f"{each:.0f}"))
    rest, each = figures["holdfast"].values()
    return Report(
        f"memory: resident, with {sizes.open_payments} payments open at once, scaled",
        figures,
        [table],
        [
            verdict(
                met=rest <= GOAL_AT_REST_MB, goal=f"goal: at most {GOAL_AT_REST_MB:g} MB at rest"
            ),
            verdict(
                met=each <= GOAL_OPEN_MB, goal=f"goal: at most {GOAL_OPEN_MB:g} MB per 10,000 open"
            ),
        ],
    )


async def _measure(target: Target, stub: Target, sizes: Sizes) -> tuple[float, float]:
    await asyncio.sleep(sizes.settle_seconds)
    rest = target.resident_mb()
    # What the first payments load stays, and is not theirs.
    lines = await _open(target, stub, sizes.warm_up_payments)
    await asyncio.sleep(sizes.settle_seconds)
    before = target.resident_mb()
    lines += await _open(target, stub, sizes.open_payments)
    await asyncio.sleep(sizes.settle_seconds)
    grown = target.resident_mb() - before
    if any(line.transport is None for line in lines):
        raise WrongAnswers(f"{target.name} closed payments that should be open")
    for line in lines:
        line.close()
    return rest, grown / sizes.open_payments * 10_000


async def _open(target: Target, stub: Target, payments: int) -> list[Line]:
    """Send so many payments, and wait until all of them hang at the stub."""
    await counted(stub.port)
    lines = await open_lines(target.port, payments)
    for line in lines:
        line.pay(time.perf_counter())
    seen = 0
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while seen < payments:
            await asyncio.sleep(0.02)
            seen += (await counted(stub.port))[1]
    return lines
