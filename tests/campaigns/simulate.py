"""The real flow on virtual time, seeded: crashes at any await, every fault of section 6.2, clients
and operators who do as they like; the checker is the judge. There is one Holdfast, or (every third
seed) there are two that share the PostgreSQL store, are stopped for longer than their lease, cut
off from the store, and hear nothing of what they wrote.

A run is a function of its seed. `./dev campaign simulate --seed N` plays one and prints what
happened; with `--shrink` it first leaves out what the violation does not need.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from tests.campaigns.checker import Violation, judge
from tests.campaigns.sim.loop import Stuck
from tests.campaigns.sim.plan import Plan, plan_of
from tests.campaigns.sim.world import World

# Seeds that a process plays before it says what they came to; and before it is told how it goes.
_AT_ONCE, _TELL_EVERY = 100, 5000


def play(plan: Plan, say: Callable[[str], None] | None = None) -> list[Violation]:
    """Play a plan; what was violated."""
    world = World(plan, say)
    try:
        history = world.run()
    except Stuck as stuck:
        return [Violation("I12", f"the run does not end: {stuck}")]
    return judge(history)


def simulate(
    seeds: range, say: Callable[[str], None] = lambda _: None
) -> dict[int, list[Violation]]:
    """Play seeds on all cores there are; those in which something was violated."""
    found: dict[int, list[Violation]] = {}
    begun, told = time.monotonic(), 0
    parts = [seeds[at : at + _AT_ONCE] for at in range(0, len(seeds), _AT_ONCE)]
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, multiprocessing.get_context("fork")) as pool:
        for count, part in enumerate(pool.map(_played, parts), start=1):
            found |= part
            for seed, violations in part.items():
                say(f"seed {seed}: {violations[0].name} {violations[0].what}")
            if count * _AT_ONCE >= told + _TELL_EVERY:
                told = count * _AT_ONCE
                pace = told / (time.monotonic() - begun)
                say(f"{told} seeds, {len(found)} with violations, {pace:.0f} per second")
    return found


def _played(seeds: range) -> dict[int, list[Violation]]:
    """A part of them, in a process of its own."""
    played = {seed: play(plan_of(seed)) for seed in seeds}
    return {seed: violations for seed, violations in played.items() if violations}
