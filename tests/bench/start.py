"""From the spawn of a process to its first proxied answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.bench.load import closed, open_lines
from tests.bench.report import Report, Spread, Table, verdict
from tests.bench.sizes import Sizes
from tests.bench.targets import Target, Targets

GOAL_SECONDS = 0.4
_PATIENCE_SECONDS = 10.0


async def start(targets: Targets, sizes: Sizes) -> Report:
    """Taken in turns."""
    stub = targets.stub()
    starters: dict[str, Callable[[], Target]] = {
        "bare": lambda: targets.bare(stub.port),
        "holdfast": lambda: targets.holdfast(stub.port),
    }
    seconds: dict[str, list[float]] = {name: [] for name in starters}
    for _ in range(sizes.starts):
        for name, starter in starters.items():
            begun = time.perf_counter()
            target = starter()
            lines = await open_lines(target.port, 1)
            tally = await closed(lines, _PATIENCE_SECONDS, most=1)
            seconds[name].append(time.perf_counter() - begun)
            tally.checked(name)
            lines[0].close()
            targets.end(target)
    figures = {name: Spread.of(taken) for name, taken in seconds.items()}
    rows: list[tuple[str, ...]] = [(name, str(spread)) for name, spread in figures.items()]
    reached = figures["holdfast"].median
    return Report(
        f"start: from the spawn to the first answer, {sizes.starts} starts each",
        figures,
        [Table(("seconds", "median (min-max)"), rows)],
        [verdict(met=reached <= GOAL_SECONDS, goal=f"goal: holdfast at most {GOAL_SECONDS} s")],
    )
