"""Payments per second at saturation, as ratios to the bare pass-through in slices side by side.

Absolutes of a shared machine differ twofold between minutes; two short slices one after the other
do not. Two more things would lie. Whoever has just run is faster for a moment, so every slice has a
warm-up of its own that does not count, and the order is another in each round. And two processes of
the same program can differ by a tenth, so all are started anew several times; how far a second bare
pass-through is from the first tells how much of a ratio is chance.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from operator import attrgetter

from tests.bench.load import Line, closed, compare, open_lines, percentile, prove
from tests.bench.report import Report, Spread, Table, verdict
from tests.bench.sizes import Sizes
from tests.bench.targets import Target, Targets

GOAL = 0.85
_MEASURES = ("rate", "cpu_us", "p50_ms", "p99_ms")
_PAIRS = (
    ("holdfast", "bare"),
    ("bare again", "bare"),
    ("bare+uvloop", "bare"),
    ("holdfast", "bare+uvloop"),
)


@dataclass(frozen=True, slots=True)
class Slice:
    """One target under full load for a moment."""

    rate: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    generator: float  # the CPU that load and stub used of the one they share


@dataclass(frozen=True, slots=True)
class _Bench:
    sizes: Sizes
    stub: Target
    lines: dict[str, list[Line]]

    async def slice(self, target: Target) -> Slice:
        """Load a target; every payment must be answered, and reach the stub once."""
        warm_up = await closed(self.lines[target.name], self.sizes.warm_up_seconds)
        own, stub, proxy = time.process_time(), self.stub.cpu_seconds(), target.cpu_seconds()
        begun = time.perf_counter()
        tally = await closed(self.lines[target.name], self.sizes.slice_seconds)
        elapsed = time.perf_counter() - begun
        proxy = target.cpu_seconds() - proxy
        own, stub = time.process_time() - own, self.stub.cpu_seconds() - stub
        sent = warm_up.checked(target.name).sent + tally.checked(target.name).sent
        await compare(target.name, sent, self.stub.port)
        return Slice(
            rate=tally.rate,
            cpu_us=proxy / tally.sent * 1e6,
            p50_ms=percentile(tally.latencies, 0.5) * 1000,
            p99_ms=percentile(tally.latencies, 0.99) * 1000,
            generator=(own + stub) / elapsed,
        )


async def throughput(targets: Targets, sizes: Sizes) -> Report:
    """All targets up at once; in each round every one has a slice, one after the other."""
    rounds: list[dict[str, Slice]] = []
    proofs: list[str] = []
    for _ in range(sizes.trials):
        stub = targets.stub()
        every = [
            targets.bare(stub.port),
            targets.bare(stub.port, name="bare again"),
            targets.bare(stub.port, name="bare+uvloop", uvloop=True),
            targets.holdfast(stub.port),
        ]
        proofs = [await prove(t.name, t.port, stub.port, sizes.proof_payments) for t in every]
        lines = {t.name: await open_lines(t.port, sizes.connections) for t in every}
        bench = _Bench(sizes, stub, lines)
        for number in range(sizes.rounds):
            first = number % len(every)
            order = every[first:] + every[:first]
            if number // len(every) % 2:
                order.reverse()
            rounds.append({target.name: await bench.slice(target) for target in order})
        for line in itertools.chain(*lines.values()):
            line.close()
        for target in (*every, stub):
            targets.end(target)
    return _report(sizes, rounds, proofs)


def _report(sizes: Sizes, rounds: list[dict[str, Slice]], proofs: list[str]) -> Report:
    table = Table(("ratio, median (min-max)", "requests/s", "CPU/request", "p50", "p99"))
    ratios = {}
    for name, base in _PAIRS:
        found = {m: Spread.of([_ratio(r[name], r[base], m) for r in rounds]) for m in _MEASURES}
        ratios[f"{name} / {base}"] = found
        table.rows.append((f"{name} / {base}", *map(str, found.values())))
    absolute = Table(
        ("absolute, median", "requests/s", "CPU us (best)", "p50 ms", "p99 ms", "gen %")
    )
    absolutes = {}
    for name in rounds[0]:
        taken = [each[name] for each in rounds]
        found = {m: Spread.of([attrgetter(m)(s) for s in taken]) for m in (*_MEASURES, "generator")}
        absolutes[name] = found
        rate, cpu, p50, p99, generator = found.values()
        absolute.rows.append(
            (
                name,
                f"{rate.median:.0f}",
                f"{cpu.median:.0f} ({cpu.least:.0f})",
                f"{p50.median:.1f}",
                f"{p99.median:.1f}",
                f"{generator.median * 100:.0f}",
            )
        )
    reached = ratios["holdfast / bare"]["rate"].median
    return Report(
        f"throughput: {sizes.connections} connections, {sizes.trials} times all started anew, "
        f"{sizes.rounds} rounds each of slices of {sizes.slice_seconds:g} s",
        {"ratios": ratios, "absolutes": absolutes, "proofs": proofs},
        [table, absolute],
        [
            verdict(
                met=reached >= GOAL, goal=f"goal: requests/s of holdfast / bare at least {GOAL}"
            ),
            "bare again / bare: the same program twice, so this is how far off the method is",
            "gen %: of the CPU that load and stub share; near 100, only CPU/request tells",
            "held to account before, and in every slice:",
            *(f"  {proof}" for proof in proofs),
        ],
    )


def _ratio(one: Slice, other: Slice, measure: str) -> float:
    read = attrgetter(measure)
    return float(read(one) / read(other))
