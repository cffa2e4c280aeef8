"""The real flow on virtual time, seeded: crashes at any await, every fault of section 6.2 that one
process can meet, clients and operators who do as they like; the checker is the judge.

A run is a function of its seed. `./dev campaign simulate --seed N` plays one and prints what
happened; with `--shrink` it first leaves out what the violation does not need.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tests.campaigns.checker import (
    ACCEPTED,
    GONE,
    KNOWN_CHARGED,
    OVERTAKEN,
    SLOW_INTENT,
    Violation,
    judge,
)
from tests.campaigns.sim.loop import Stuck
from tests.campaigns.sim.plan import Plan, plan_of
from tests.campaigns.sim.world import World

# Violations that are known, by a part of their text, and the test that fails until they are gone.
KNOWN = {
    OVERTAKEN: "test_findings.py::test_a_look_up_proves_nothing_about_a_later_send",
    ACCEPTED: "test_findings.py::test_an_acceptance_found_meanwhile_is_told",
    KNOWN_CHARGED: "test_findings.py::test_a_charge_that_is_known_is_told",
    GONE: "test_findings.py::test_nobody_hears_what_is_not_written_yet",
    SLOW_INTENT: "test_findings.py::test_an_intent_that_took_too_long_is_not_used",
}


def play(plan: Plan, say: Callable[[str], None] | None = None) -> list[Violation]:
    """Play a plan; what was violated."""
    world = World(plan, say)
    try:
        history = world.run()
    except Stuck as stuck:
        return [Violation("I12", f"the run does not end: {stuck}")]
    return judge(history)


def unexpected(violations: Iterable[Violation]) -> list[Violation]:
    """The violations of a run; none if a known one is among them, for others may come of it."""
    found = list(violations)
    known = any(text in violation.what for violation in found for text in KNOWN)
    return [] if known else found


def simulate(
    seeds: Iterable[int], say: Callable[[str], None] = lambda _: None
) -> dict[int, list[Violation]]:
    """Play seeds; those in which something was violated, known or not."""
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
