"""The real flow on virtual time, seeded: crashes at any await, every fault of section 6.2, clients
and operators who do as they like; the checker is the judge. There is one Holdfast, or (every third
seed) there are two that share the PostgreSQL store, are stopped for longer than their lease, cut
off from the store, and hear nothing of what they wrote.

A run is a function of its seed. `./dev campaign simulate --seed N` plays one and prints what
happened; with `--shrink` it first leaves out what the violation does not need.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tests.campaigns.checker import Violation, judge
from tests.campaigns.sim.loop import Stuck
from tests.campaigns.sim.plan import Plan, plan_of
from tests.campaigns.sim.world import World


def play(plan: Plan, say: Callable[[str], None] | None = None) -> list[Violation]:
    """Play a plan; what was violated."""
    world = World(plan, say)
    try:
        history = world.run()
    except Stuck as stuck:
        return [Violation("I12", f"the run does not end: {stuck}")]
    return judge(history)


def simulate(
    seeds: Iterable[int], say: Callable[[str], None] = lambda _: None
) -> dict[int, list[Violation]]:
    """Play seeds; those in which something was violated."""
    found: dict[int, list[Violation]] = {}
    begun = time.process_time()
    for count, seed in enumerate(seeds, start=1):
        violations = play(plan_of(seed))
        if violations:
            found[seed] = violations
        if count % 1000 == 0:
            pace = count / (time.process_time() - begun)
            say(f"{count} seeds, {len(found)} with violations, {pace:.0f} per second")
    return found
